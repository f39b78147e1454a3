# SPDX-License-Identifier: Apache-2.0
"""mount, umount, status."""

import contextlib
import json
import os
import select
import signal
import stat
import subprocess

import pytest
from cli_people import read_line, says
from harness import leftovers

SECRET = b"the value that is mounted"


@pytest.fixture
def filled(anybody, fuse_device):
    anybody.put("app/db", username=b"joe", password=SECRET)
    anybody.put("zoo", lion=b"roar")
    return anybody


def status(person):
    """The daemons with a mount in this person's home: root sees those of everybody else who is root."""
    daemons = json.loads(person.ok("status", "-o", "json", open_vault=False))["daemons"]
    return [d for d in daemons if any(m["path"].startswith(str(person.home)) for m in d["mounts"])]


def mounted(path):
    return str(path) in leftovers.mounts()


def as_person(person, *argv):
    """Output of another program that this person runs."""
    done = subprocess.run(person.user.argv(*argv) if person.user else argv, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tree(person, path):
    """All files below, as the person sees them."""
    script = f"cd {path} && find . -type f ! -name '.*' | sort"
    return as_person(person, "sh", "-c", script).decode().split()


def read(person, path):
    """A file as the person sees it."""
    return as_person(person, "cat", str(path))


def detached(person, *arguments, **kwargs):
    """`mount -d`; the pid of what stays."""
    before = {d["pid"] for d in status(person)}
    person.ok("mount", "-d", *arguments, **kwargs)
    (pid,) = {d["pid"] for d in status(person)} - before
    return pid


def gone(pid, seconds=30):
    """Waits for a process that is not our child; a zombie of ours is reaped (the tests are a subreaper)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ended = bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return ended


def test_foreground_until_sigterm(filled):
    mp = filled.folder("m")
    process = filled.start("mount", mp)
    while b"serving" not in read_line(process.stderr):
        pass
    assert tree(filled, mp) == ["./app/db/password", "./app/db/username", "./zoo/lion"]
    assert read(filled, mp / "app/db/password") == SECRET
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not mounted(mp)


def test_detached(filled):
    """It answers when the command returns, has left the terminal and the folder, and umount ends it."""
    mp = filled.folder("m")
    pid = detached(filled, mp)
    assert mounted(mp)
    assert read(filled, mp / "app/db/password") == SECRET
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    for fd in (0, 1, 2):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
    assert filled.ok("umount", mp, open_vault=False) == b""
    assert not mounted(mp)
    assert gone(pid)


def test_detached_logs_to_a_file(filled):
    mp, log = filled.folder("m"), filled.home / "log"
    pid = detached(filled, mp, "--log-file", log, "--log-format", "json")
    filled.ok("umount", mp, open_vault=False)
    assert gone(pid)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert any("is gone" in line["message"] for line in lines), lines
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert SECRET.decode() not in log.read_text()


def test_only_a_folder_of_the_vault(filled):
    mp = filled.folder("m")
    detached(filled, mp, "--path", "app/")
    assert tree(filled, mp) == ["./db/password", "./db/username"]
    filled.ok("umount", mp, open_vault=False)


def test_relative_mount_point(filled):
    mp = filled.folder("m")
    detached(filled, "m")
    assert read(filled, mp / "zoo/lion") == b"roar"
    filled.ok("umount", "m/", open_vault=False)
    assert not mounted(mp)


def test_as_the_configuration_says(filled):
    mp = filled.folder("m")
    config = {
        "vaults": {"mine": {"file": str(filled.vault), "passphrase_file": str(filled.passphrase)}},
        "mounts": [{"path": str(mp), "vault": "mine", "secrets": [{"path": "app/db", "as": "database"}]}],
    }
    file = filled.write(filled.home / "c.yaml", json.dumps(config))
    detached(filled, mp, "-c", file, open_vault=False)
    assert tree(filled, mp) == ["./database/password", "./database/username"]
    assert status(filled)[0]["mounts"][0]["vault"] == "mine"
    filled.ok("umount", mp, open_vault=False)


@pytest.mark.parametrize("detach", [[], ["-d"]])
def test_wrong_passphrase(filled, detach):
    mp = filled.folder("m")
    filled.write(filled.passphrase, b"wrong\n", 0o600)
    says(filled.run("mount", *detach, mp), 77, "wrong passphrase")
    assert not mounted(mp)


@pytest.mark.parametrize("detach", [[], ["-d"]])
def test_no_mount_point(filled, detach):
    done = filled.run("mount", *detach, filled.home / "none")
    says(done, 66, "mkdir -p")


def test_no_such_parent(filled):
    says(filled.run("mount", filled.home / "none/none"), 66, "none/none")


def test_vault_that_does_not_answer(filled):
    mp = filled.folder("m")
    token = filled.write(filled.home / "token", b"t" * 20, 0o600)
    done = filled.run("mount", mp, "--vault", "http://127.0.0.1:1", "--token-file", token, open_vault=False)
    assert done.returncode in (69, 75), done.stderr
    assert b"127.0.0.1" in done.stderr
    assert not mounted(mp)


def test_umount_of_nothing(filled):
    says(filled.run("umount", filled.home / "none", open_vault=False), 66, "no cloudtaser filesystem")


def test_umount_without_its_daemon(filled):
    """The daemon was killed: the mount is dead, and goes away all the same."""
    mp = filled.folder("m")
    pid = detached(filled, mp)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert mounted(mp)
    assert filled.ok("umount", mp, open_vault=False) == b""
    assert not mounted(mp)
    assert status(filled) == []


def test_status(filled):
    mp, other = filled.folder("m"), filled.folder("other")
    if filled.user:
        assert filled.ok("status", open_vault=False).startswith(b"no cloudtaser daemon runs here")
    assert status(filled) == []
    pids = [detached(filled, mp), detached(filled, other)]
    read(filled, mp / "app/db/password")
    found = {d["pid"]: d for d in status(filled)}
    assert sorted(found) == sorted(pids)
    one = found[pids[0]]
    assert [m["path"] for m in one["mounts"]] == [str(mp)]
    assert one["vaults"][0]["kind"] == "sealed"
    assert {c["state"] for c in one["checks"]} <= {"ok", "no", "not yet"}
    assert one["secret_memory"]["kind"] in ("memfd_secret", "locked")
    text = filled.ok("status", open_vault=False).decode()
    for piece in (str(mp), str(other), f"pid {pids[0]}", "cache", "not yet", "kernel guard"):
        assert piece in text, (piece, text)
    assert SECRET.decode() not in text + json.dumps(found)
    for path in (mp, other):
        filled.ok("umount", path, open_vault=False)
    assert all(map(gone, pids))


def test_nothing_of_ours_shows_a_secret(filled):
    """Passphrase and values are in no argument list and no environment of the daemon."""
    mp = filled.folder("m")
    pid = detached(filled, mp)
    assert read(filled, mp / "app/db/password") == SECRET
    with open(f"/proc/{pid}/cmdline", "rb") as f:
        shown = f.read()
    if os.geteuid() == 0:
        with open(f"/proc/{pid}/environ", "rb") as f:
            shown += f.read()
    assert b"mount" in shown
    assert SECRET not in shown
    assert b"correct horse" not in shown
    filled.ok("umount", mp, open_vault=False)
