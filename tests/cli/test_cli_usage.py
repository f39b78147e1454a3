# SPDX-License-Identifier: Apache-2.0
"""The command line itself: help, exit codes, completion, man page, validate."""

import json
import pathlib
import re
import subprocess

import pytest
from cli_people import says

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = ["vault init", "put", "get", "ls", "rm", "mount", "umount", "shell", "run", "status", "validate config"]
JUDGES = ["validate config"]
GOOD = "vaults: {mine: {file: /v, passphrase_file: /p}}\nmounts: [{path: /secrets, vault: mine}]\n"


def words(cloudtaser, *before):
    return cloudtaser("complete", *before).stdout.decode().split()


def test_the_table_is_what_is_tested(cloudtaser):
    listed = re.search(r"Commands:\n((?:  .*\n)+)", cloudtaser("--help").stdout.decode())[1]
    assert [line[2:].split("  ")[0].strip() for line in listed.splitlines()] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help(cloudtaser, command):
    done = cloudtaser(*command.split(), "--help")
    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert text.startswith(f"Usage: cloudtaser {command} ")
    exits = text.partition("Exit codes:\n")[2]
    assert "64" in exits
    for code in ("1", "2") if command in JUDGES else ("66", "69", "75", "77", "78"):
        assert re.search(rf"\b{code}\b", exits), (code, exits)
    assert max(map(len, text.splitlines())) <= 120
    assert not re.search(r" +$", text, re.MULTILINE)
    assert cloudtaser("help", *command.split()).stdout == done.stdout


def test_help_of_run_calls_env_the_weaker_way(cloudtaser):
    assert "weaker" in cloudtaser("run", "--help").stdout.decode()


def test_version(cloudtaser):
    version = (ROOT / "VERSION").read_text().strip()
    assert cloudtaser("--version").stdout.decode() == f"cloudtaser {version}\n"
    assert cloudtaser("get", "--version").stdout.decode() == f"cloudtaser {version}\n"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["bogus"], "there is no command bogus"),
        (["vault"], "`cloudtaser vault init`"),
        (["validate"], "`cloudtaser validate config`"),
        (["--bogus"], "no option --bogus"),
        (["get", "--bogus", "a/b"], "no option --bogus"),
        (["get", "-q", "a/b"], "no option -q"),
        (["ls", "--vault"], "--vault needs an argument"),
        (["ls", "--help=me"], "takes no argument"),
        (["ls", "--token-fd", "x"], "not a number"),
        (["ls", "--token-fd", "-1"], "not a number"),
        (["ls", "--token-fd", "99999999999999999999"], "not a number"),
        (["ls", "--token-fd", "0", "--token-file", "x", "--vault", "https://localhost:1"], "give one of them"),
        (["ls", "a", "b"], "one folder at a time"),
        (["ls", "--log-level", "loud"], "error, warn, info or debug"),
        (["ls", "--log-format", "xml"], "text or json"),
        (["rm"], "say which"),
        (["mount"], "say where"),
        (["mount", "a", "b"], "one mount point"),
        (["mount", "--log-file", "x", "a"], "goes with -d"),
        (["umount"], "say which"),
        (["status", "x"], "no operand"),
        (["run"], "say what to run"),
        (["shell", "ls"], "cloudtaser run"),
        (["vault", "init", "x"], "--file"),
        (["validate", "config"], "say which FILE"),
        (["ls", "--vault", "file:"], "needs a path"),
    ],
)
def test_usage(cloudtaser, arguments, sentence):
    done = cloudtaser(*arguments)
    says(done, 64, "cloudtaser", sentence)


def test_no_command_shows_help(cloudtaser):
    done = cloudtaser()
    assert done.returncode == 64
    assert b"Commands:" in done.stdout


def test_errors_as_json_lines(cloudtaser):
    done = cloudtaser("ls", "--log-format", "json", "--vault", "file:/nonexistent/vault")
    assert done.returncode == 66
    assert "no sealed vault" in json.loads(done.stderr)["message"]


def test_messages_cannot_move_the_cursor(cloudtaser):
    done = cloudtaser("ls", "--vault", "file:/nonexistent/\x1b[2J")
    says(done, 66, "?[2J")
    assert b"\x1b" not in done.stderr


# --- completion and man page: one table


def test_completion(cloudtaser):
    assert words(cloudtaser, "") == [c.split()[0] for c in COMMANDS]
    assert words(cloudtaser, "vault", "") == ["init"]
    assert words(cloudtaser, "validate", "c") == ["config"]
    assert "--patch" in words(cloudtaser, "put", "--")
    assert "--vault" in words(cloudtaser, "put", "app/db", "-")
    assert "--vault" not in words(cloudtaser, "validate", "config", "-")
    assert words(cloudtaser, "put", "app") == []
    assert words(cloudtaser, "bogus", "") == []


def test_completion_in_bash(build):
    script = f"""PATH={build}:$PATH; source {ROOT}/cli/cloudtaser.bash
    COMP_WORDS=(cloudtaser validate co) COMP_CWORD=2; _cloudtaser; echo "${{COMPREPLY[*]}}"
    COMP_WORDS=(cloudtaser sh) COMP_CWORD=1; _cloudtaser; echo "${{COMPREPLY[*]}}" """
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=30)
    assert (done.stdout, done.stderr) == (b"config\nshell\n", b"")


def test_man_page_names_everything(cloudtaser):
    page = (ROOT / "cli/cloudtaser.1").read_text().replace("\\-", "-")
    for command in COMMANDS:
        assert re.search(rf"\\fB{command}\\fR", page), command
        for option in words(cloudtaser, *command.split(), "-"):
            assert option in page, (command, option)
    for code in ("64", "65", "66", "69", "71", "73", "74", "75", "76", "77", "78", "126", "127"):
        assert re.search(rf"\b{code}\b", page), code


@pytest.mark.parametrize("page", ["cli/cloudtaser.1", "cli/cloudtaserd.8"])
def test_man_pages_are_well_formed(page):
    done = subprocess.run(["groff", "-t", "-man", "-Tutf8", "-ww", "-z", ROOT / page], capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


# --- validate


def test_validate_good(cloudtaser, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(GOOD)
    done = cloudtaser("validate", "config", file)
    assert (done.returncode, done.stdout.decode()) == (0, f"{file}: no findings\n")
    done = cloudtaser("validate", "config", file, "-o", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"file": str(file), "findings": []})


def test_validate_findings(cloudtaser, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(GOOD + "bogus: 1\nwait: never\n")
    done = cloudtaser("validate", "config", file)
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 2
    assert any(f"{file}:3: bogus" in line for line in lines), lines
    done = cloudtaser("validate", "config", file, "-o", "json")
    assert (done.returncode, json.loads(done.stdout)["findings"]) == (1, lines)


def test_validate_could_not_look(cloudtaser, tmp_path):
    done = cloudtaser("validate", "config", tmp_path / "none.yaml")
    says(done, 2, "none.yaml")


def test_configuration_errors_end_commands(cloudtaser, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("bogus: 1\n")
    says(cloudtaser("-c", file, "ls"), 78, f"{file}:1: bogus")
    says(cloudtaser("ls", "-c", tmp_path / "none.yaml"), 66, "none.yaml")


def test_several_vaults_need_a_choice(cloudtaser, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("vaults: {one: {file: /a}, two: {file: /b}}\n")
    says(cloudtaser("-c", file, "ls"), 64, "2 vaults (one, two)", "--vault NAME")
    says(cloudtaser("-c", file, "ls", "--vault", "three"), 66, "one, two")
    says(cloudtaser("-c", file, "ls", "--vault", "two"), 66, "no sealed vault at /b")
