# SPDX-License-Identifier: Apache-2.0
"""What the Makefile and the README promise."""

import pathlib
import re
import shutil
import subprocess

import pytest
from harness.programs import environment, run

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def make(*arguments):
    done = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_help_lists_what_readers_are_told_to_type():
    listed = set(re.findall(r"^  make ([a-z-]+) ", make("help"), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", "docs/architecture.md"):
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
        assert named
        assert named <= listed, page


def test_pages_named_in_pages_exist():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} names {target}"


@pytest.mark.no_asan
def test_install(build_folder, tmp_path):
    make(f"BUILD={build_folder}", f"DESTDIR={tmp_path}", "install")
    installed = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert installed == {
        "usr/bin/cloudtaser",
        "usr/sbin/cloudtaserd",
        "usr/share/bash-completion/completions/cloudtaser",
        "usr/share/doc/cloudtaser/CHANGELOG.md",
        "usr/share/doc/cloudtaser/LICENSE",
        "usr/share/doc/cloudtaser/README.md",
        "usr/share/man/man1/cloudtaser.1",
        "usr/share/man/man8/cloudtaserd.8",
    }
    version = (ROOT / "VERSION").read_text().strip()
    for program in ("bin/cloudtaser", "sbin/cloudtaserd"):
        said = run([tmp_path / "usr" / program, "--version"], tmp_path)
        assert said.returncode == 0
        assert said.stdout.decode().split()[-1] == version


@pytest.mark.no_asan
@pytest.mark.parametrize("program", ["cloudtaser", "cloudtaserd"])
def test_hardening(build, program):
    def elf(option):
        return subprocess.run(
            ["readelf", "-W", option, build / program], check=True, capture_output=True, text=True
        ).stdout

    assert re.search(r"Type: +DYN \(Position-Independent Executable", elf("-h"))
    headers = elf("-l")
    assert "GNU_RELRO" in headers
    assert re.search(r"GNU_STACK .* RW +0x", headers)
    assert "BIND_NOW" in elf("-d")
    symbols = elf("--dyn-syms")
    assert "__stack_chk_fail" in symbols
    assert re.search(r"\w+_chk@GLIBC", symbols.replace("__stack_chk", ""))


def demo(folder, user, bin_folder):
    """tools/demo.sh as somebody who may not be able to see the source tree."""
    script = folder / "demo.sh"
    shutil.copy(ROOT / "tools" / "demo.sh", script)
    user.own(script)
    env = {"BUILD": str(bin_folder.parent), "TMPDIR": str(folder)}
    return subprocess.run(
        user.argv("bash", script),
        cwd=folder,
        env=environment(user.home, env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_the_demonstration_works_for_a_user(build, user):
    done = demo(user.home, user, build)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "What was read from the mount is what was put into the vault." in done.stdout
    assert sorted(p.name for p in user.home.iterdir()) == ["demo.sh"]


def test_the_demonstration_notices_when_the_value_does_not_come_back(user):
    folder = user.home / "bin"
    folder.mkdir()
    program = folder / "cloudtaser"
    program.write_text("#!/bin/sh\ncase $1 in mount) mkdir -p secrets/app/db; echo x >secrets/app/db/password;; esac\n")
    program.chmod(0o755)
    for path in (folder, program):
        user.own(path)
    done = demo(user.home, user, folder)
    assert done.returncode == 1
    assert "is NOT what was put into the vault" in done.stdout
