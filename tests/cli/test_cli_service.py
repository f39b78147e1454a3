# SPDX-License-Identifier: Apache-2.0
"""cloudtaserd: command line, exit codes, readiness, reload, and the commands that speak to it."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest
from cli_people import says
from harness import leftovers
from harness.programs import environment

pytestmark = pytest.mark.usefixtures("fuse_device")


@pytest.fixture
def config(person):
    """One sealed vault, one mount."""
    person.put("app/db", password=b"served")
    mp = person.folder("m")
    return {
        "vaults": {"mine": {"file": str(person.vault), "passphrase_file": str(person.passphrase)}},
        "mounts": [{"path": str(mp), "vault": "mine"}],
        "secret_memory": "preferred",
    }


@pytest.fixture
def program(build, tmp_path):
    """cloudtaserd to its end."""

    def run(*arguments, env=None):
        return subprocess.run(
            [build / "cloudtaserd", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            env=environment(tmp_path, env),
        )

    return run


def write(path, config):
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def mounts_of(config):
    return [m["path"] for m in config["mounts"]]


def until(check, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


# --- command line


def test_help_and_version(program):
    done = program("--help")
    assert (done.returncode, done.stderr) == (0, b"")
    for word in (b"--check", b"NOTIFY_SOCKET", b"64", b"66", b"69", b"71", b"75", b"77", b"78"):
        assert word in done.stdout
    assert program("--version").stdout.startswith(b"cloudtaserd ")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--bogus"], "--bogus"),
        (["-c"], "-c"),
        (["x"], "no operand"),
        (["--log-level", "loud"], "loud"),
        (["--log-format", "xml"], "xml"),
    ],
)
def test_usage(program, arguments, sentence):
    says(program(*arguments), 64, sentence, "--help")


def test_check(program, config, tmp_path):
    file = write(tmp_path / "c.yaml", config)
    done = program("-c", file, "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    config["bogus"] = config["mounts"][0]["bogus"] = 1
    done = program("-c", write(file, config), "--check")
    assert done.returncode == 78
    assert done.stderr.count(b"bogus") == 2
    says(program("--check", "-c", tmp_path / "none"), 66, "none")


@pytest.mark.parametrize(
    "change, code, sentence",
    [
        (lambda c: c.update(bogus=1), 78, "bogus"),
        (lambda c: c["vaults"]["mine"].update(file="/nonexistent/vault"), 66, "/nonexistent/vault"),
        (lambda c: c["vaults"]["mine"].update(passphrase_file="/nonexistent/pw"), 66, "/nonexistent/pw"),
        (lambda c: c["vaults"]["mine"].pop("passphrase_file"), 78, "passphrase"),
        (lambda c: c["mounts"][0].update(path="/nonexistent/m"), 66, "/nonexistent/m"),
        (lambda c: c["mounts"][0].update(vault="other"), 78, "other"),
    ],
)
def test_a_configuration_that_cannot_be_met(program, config, tmp_path, change, code, sentence):
    where = mounts_of(config)[0]
    change(config)
    config["control_socket"] = str(tmp_path / "s")
    says(program("-c", write(tmp_path / "c.yaml", config)), code, sentence)
    assert where not in leftovers.mounts()


def test_wrong_passphrase(program, config, person, tmp_path):
    person.write(person.passphrase, b"wrong\n", 0o600)
    config["control_socket"] = str(tmp_path / "s")
    says(program("-c", write(tmp_path / "c.yaml", config)), 77, "wrong passphrase")


# --- a life


def test_serves_until_sigterm(cloudtaserd, config):
    (mp,) = mounts_of(config)
    daemon = cloudtaserd(config)
    # Ready means just that: the mount answers.
    assert pathlib.Path(mp, "app/db/password").read_bytes() == b"served"
    assert daemon.stop() == 0
    assert mp not in leftovers.mounts()
    assert not daemon.control.exists()


def test_notify_by_abstract_socket(build, config, tmp_path):
    name = f"cloudtaser-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as said:
        said.bind("\0" + name)
        said.settimeout(30)
        config["control_socket"] = str(tmp_path / "s")
        file = write(tmp_path / "c.yaml", config)
        env = environment(tmp_path, {"NOTIFY_SOCKET": "@" + name})
        with subprocess.Popen([build / "cloudtaserd", "-c", file], env=env, stderr=subprocess.DEVNULL) as process:
            assert said.recv(100) == b"READY=1"
            process.send_signal(signal.SIGHUP)
            assert said.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert said.recv(100) == b"READY=1"
            process.terminate()
            assert said.recv(100) == b"STOPPING=1"
            assert process.wait(30) == 0


def test_reload(cloudtaserd, config, person):
    (mp,) = mounts_of(config)
    daemon = cloudtaserd(config)
    with open(f"{mp}/app/db/password", "rb") as held:
        other = person.folder("other")
        config["mounts"].append({"path": str(other), "vault": "mine", "secrets": ["app/"]})
        daemon.write_config(config)
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: str(other) in leftovers.mounts(), "the new mount came")
        until(lambda: "reload: done" in daemon.tail(), "the reload ended")
        # The one that did not change was not touched.
        assert held.read() == b"served"
    # What cannot be met changes nothing.
    config["mounts"].append({"path": "/nonexistent/m", "vault": "mine"})
    daemon.write_config(config)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "nothing changed" in daemon.tail(), "the reload was refused")
    assert {mp, str(other)} <= set(leftovers.mounts())
    del config["mounts"][1:]
    daemon.write_config(config)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: str(other) not in leftovers.mounts(), "the old mount went")
    assert pathlib.Path(mp, "app/db/password").read_bytes() == b"served"
    assert daemon.stop() == 0


def test_status_and_umount_through_the_configuration(cloudtaserd, config, person):
    """The commands find the service by the configuration's control socket."""
    (mp,) = mounts_of(config)
    daemon = cloudtaserd(config)
    (found,) = json.loads(person.ok("status", "-o", "json", "-c", daemon.config_file, open_vault=False))["daemons"]
    assert (found["program"], found["pid"], found["socket"]) == ("cloudtaserd", daemon.pid, str(daemon.control))
    text = person.ok("status", "-c", daemon.config_file, open_vault=False).decode()
    assert mp in text
    assert f"pid {daemon.pid}" in text
    assert person.ok("umount", mp, "-c", daemon.config_file, open_vault=False) == b""
    assert mp not in leftovers.mounts()
    # A service without mounts goes on: a reload may bring some.
    until(lambda: "the last mount is gone" in daemon.tail(), "it noticed")
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: mp in leftovers.mounts(), "the mount came back")
    assert daemon.stop() == 0


def test_second_service_on_the_same_socket(cloudtaserd, config, program, tmp_path):
    daemon = cloudtaserd(config)
    config["mounts"] = []
    config["control_socket"] = str(daemon.control)
    done = program("-c", write(tmp_path / "c.yaml", config))
    assert done.returncode == 71, done.stderr
    assert str(daemon.control).encode() in done.stderr
    assert daemon.stop() == 0
