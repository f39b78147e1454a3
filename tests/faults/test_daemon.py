# SPDX-License-Identifier: Apache-2.0
"""The daemon ends, dies, unmounts and reads its configuration again, while files are open."""

import copy
import errno
import os
import signal
import subprocess
import time

import pytest
from faults import (
    LIVENESS,
    NEVER,
    Watch,
    ask,
    error_of,
    fill,
    goes_at_once,
    logged,
    pread,
    read,
    reads,
    reload,
    start_reader,
    status,
    value,
    vault,
    waits_in_a_call,
)
from harness import leftovers
from peers.faulty import Faulty
from peers.process import wait_until

ONE = "single/only"


def mounted_at(path):
    return leftovers.mounts().count(str(path))


# --- it ends


def test_sigterm_with_open_files(bao, site):
    """It goes, the mount goes, and who reads on gets an error and no wait."""
    s = site(bao)
    fd = os.open(s.mount / "one/only", os.O_RDONLY)
    folder = os.open(s.mount / "app", os.O_RDONLY)
    try:
        assert pread(fd) == value(1, ONE)
        began = time.monotonic()
        assert s.daemon.stop() == 0
        assert time.monotonic() - began < 5
        assert mounted_at(s.mount) == 0
        assert os.listdir(s.mount) == []
        for call in (lambda: pread(fd), lambda: os.listdir(folder)):
            number, took = error_of(call)
            assert number in (errno.ENOTCONN, errno.ECONNABORTED)
            assert took < LIVENESS
    finally:
        os.close(fd)
        os.close(folder)


def test_sigterm_while_somebody_waits(front, bao, site):
    s = site(bao, address=front.address, wait="20s", timeout="25s")
    path = s.never
    front.mode = Faulty.silent
    process = start_reader("cat", path)
    wait_until(lambda: front.asked_for(NEVER), 10, "the question to reach the vault")
    began = time.monotonic()
    assert s.daemon.stop() == 0
    assert time.monotonic() - began < 5
    _, said = process.communicate(timeout=LIVENESS)
    assert process.returncode == 1
    assert b"value: " in said
    assert mounted_at(s.mount) == 0


def test_sigterm_under_load(bao, site):
    """Readers see values or errors, nothing else, and nobody hangs."""
    s = site(bao)
    with s.watched(judge=False) as watch:
        watch.more(looks=1)
        assert s.daemon.stop() == 0
        watch.hammer.more()
    seen = watch.seen
    assert not seen["wrong"]
    assert seen["worst"] < LIVENESS
    # Not there any more, or not served any more.
    assert {f["errno"] for f in seen["failures"]} <= {errno.ENOENT, errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}


def test_a_dead_mount_is_replaced(bao, site, cloudtaserd):
    """The server was killed; another one with the same configuration takes its place."""
    s = site(bao)
    fd = os.open(s.mount / "one/only", os.O_RDONLY)
    try:
        s.daemon.kill()
        number, took = error_of(os.stat, s.mount)
        assert (number, took < LIVENESS) == (errno.ENOTCONN, True)
        number, took = error_of(pread, fd)
        assert (number, took < LIVENESS) == (errno.ENOTCONN, True)
        assert mounted_at(s.mount) == 1
        s.daemon = cloudtaserd(s.config)
        assert mounted_at(s.mount) == 1
        s.has(1)
        with s.watched() as watch:
            watch.more()
            fill(bao, 2)
            s.has(2)
        assert error_of(pread, fd)[0] == errno.ENOTCONN
    finally:
        os.close(fd)
    assert s.daemon.stop() == 0
    assert mounted_at(s.mount) == 0


def test_killed_while_somebody_waits(front, bao, site):
    """SIGKILL of the server frees its readers."""
    s = site(bao, address=front.address, wait="20s", timeout="25s")
    path = s.never
    front.mode = Faulty.silent
    process = start_reader("cat", path)
    wait_until(lambda: front.asked_for(NEVER), 10, "the question to reach the vault")
    s.daemon.kill()
    process.communicate(timeout=LIVENESS)
    assert process.returncode == 1
    leftovers.unmount(str(s.mount))


def test_a_frozen_server_can_be_killed_and_its_readers_too(bao, site):
    """Nobody answers, so readers wait; but they can be killed, and so can it."""
    s = site(bao)
    s.daemon.process.send_signal(signal.SIGSTOP)
    process = start_reader("cat", s.mount / "one/only")
    wait_until(lambda: waits_in_a_call(process), 10, "the reader to wait")
    # Nobody has taken the question yet, so nobody has to be asked to drop it.
    goes_at_once(process)
    s.daemon.process.send_signal(signal.SIGCONT)
    s.has(1)


# --- it unmounts


@pytest.mark.parametrize("how", ["control socket", "command", "by others"])
def test_umount_with_open_files(how, bao, site, build):
    s = site(bao)
    fd = os.open(s.mount / "one/only", os.O_RDONLY)
    try:
        if how == "control socket":
            answer = ask(s.daemon, "umount", path=str(s.mount))
            assert answer["ok"], answer
        elif how == "command":
            subprocess.run([build / "cloudtaser", "umount", s.mount], check=True, timeout=20)
        else:
            leftovers.unmount(str(s.mount))
        wait_until(lambda: mounted_at(s.mount) == 0, 10, "the mount to go")
        assert os.listdir(s.mount) == []
        # Who has a file open keeps it, for as long as they like; also when the vault has something new.
        fill(bao, 2)
        reads_until = time.monotonic() + 1.5
        while time.monotonic() < reads_until:
            assert pread(fd) == value(1, ONE)
    finally:
        os.close(fd)
    logged(s.daemon, f"mount {s.mount}: is gone", 5)
    assert status(s.daemon)["mounts"] == []
    # It goes on: the same configuration brings the mount back.
    assert reload(s.daemon)["ok"]
    s.has(2)


# --- it reads its configuration again


class Two:
    """A daemon with mounts a and b of one vault, each showing everything; more of them by change()."""

    def __init__(self, start, bao, folder):
        self.bao = bao
        self.folder = folder
        fill(bao, 1)
        bao.put(NEVER, {"value": "at last"})
        self.config = {"wait": "2s", "vaults": {"bao": vault(bao)}, "mounts": [self.entry("a"), self.entry("b")]}
        self.daemon = start(self.config)
        for name in ("a", "b"):
            reads(self.path(name) / ONE, value(1, ONE))

    def path(self, name):
        return self.folder / name

    def entry(self, name, **more):
        self.path(name).mkdir(exist_ok=True)
        return {"path": str(self.path(name)), "vault": "bao", **more}

    def changed(self, **more):
        return {**copy.deepcopy(self.config), **more}

    def watched(self, name):
        path = self.path(name)
        files = {path / "app/db/password": "app/db/password", path / ONE: ONE}
        for p, n in files.items():
            reads(p, value(1, n))
        return Watch(files, [path, path / "app"])

    def mounts(self):
        return sorted(os.path.basename(m["path"]) for m in status(self.daemon)["mounts"])


@pytest.fixture
def two(cloudtaserd, fuse_device, bao, folder):
    return Two(cloudtaserd, bao, folder)


class Held:
    """A file of a mount that is held open, to see that the mount stays the same one."""

    def __init__(self, path, expected):
        self.path, self.expected = path, expected
        self.fd = os.open(path, os.O_RDONLY)
        self.before = self.what()

    def what(self):
        s = os.stat(self.path)
        return s.st_dev, s.st_ino

    def same(self):
        assert pread(self.fd) == self.expected
        assert self.what() == self.before
        now = os.fstat(self.fd)
        assert (now.st_dev, now.st_ino) == self.before

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)


def bad_configurations(two):
    """{what: (text or configuration, part of the sentence)}"""
    nowhere = two.folder / "nowhere"
    good = two.config["vaults"]["bao"]
    return {
        "no YAML": ("mounts: [", ""),
        "unknown key": (two.changed(mount=[]), "mount"),
        "unknown vault": (two.changed(mounts=[two.entry("a"), {"path": str(two.path("b")), "vault": "no"}]), "no"),
        # A new mount before it and one after: neither may stay.
        "no such folder": (
            two.changed(mounts=[two.entry("c"), {"path": str(nowhere), "vault": "bao"}, two.entry("d")]),
            str(nowhere),
        ),
        "no such authority": (
            two.changed(vaults={"bao": good, "other": {**good, "ca_file": str(nowhere)}}),
            str(nowhere),
        ),
        "changed vault that cannot be opened": (
            two.changed(vaults={"bao": {**good, "ca_file": str(nowhere)}}),
            str(nowhere),
        ),
        "no such passphrase": (
            two.changed(
                vaults={
                    "bao": good,
                    "sealed": {"file": str(two.folder / "none"), "passphrase_file": str(nowhere)},
                }
            ),
            str(nowhere),
        ),
    }


def test_reload_with_a_bad_configuration(two):
    with two.watched("a") as watch, Held(two.path("b") / ONE, value(1, ONE)) as held:
        for n, (what, (config, sentence)) in enumerate(bad_configurations(two).items()):
            two.daemon.write_config(config)
            answer = reload(two.daemon)
            assert not answer["ok"], what
            assert sentence in answer["error"]["message"], (what, answer)
            watch.more(reads=50, looks=1)
            held.same()
            assert two.mounts() == ["a", "b"], what
            assert len([m for m in leftovers.mounts() if m.startswith(str(two.folder))]) == 2, what
            assert two.daemon.log.read_text().count("reload: nothing changed: ") == n + 1
        two.daemon.reload("nothing: good")
        fill(two.bao, 2)
        reads(two.path("a") / ONE, value(2, ONE))
        held.expected = value(1, ONE)
        held.same()
        watch.more(looks=1)


def test_reload_leaves_other_mounts_alone(two):
    with two.watched("a") as watch, Held(two.path("a") / ONE, value(1, ONE)) as held:
        steps = [
            ("adds", [two.entry("a"), two.entry("b"), two.entry("c")], ["a", "b", "c"]),
            ("changes", [two.entry("a"), two.entry("b", mode="0440"), two.entry("c")], ["a", "b", "c"]),
            ("changes order", [two.entry("c"), two.entry("b", mode="0440"), two.entry("a")], ["a", "b", "c"]),
            ("removes", [two.entry("a"), two.entry("c", secrets=["single"])], ["a", "c"]),
            ("nothing", [two.entry("a"), two.entry("c", secrets=["single"])], ["a", "c"]),
        ]
        for what, mounts, there in steps:
            two.daemon.reload(two.changed(mounts=mounts))
            assert two.mounts() == there, what
            for name in there:
                assert os.path.ismount(two.path(name)), what
                reads(two.path(name) / ONE, value(1, ONE))
            for name in {"a", "b", "c"} - set(there):
                assert not os.path.ismount(two.path(name)), what
            held.same()
            watch.more(reads=50, looks=1)
        # What was to change has changed.
        assert os.listdir(two.path("c")) == ["single"]
        # Another vault comes and goes: nothing of the first one moves, not even the questions to it.
        other = {**two.config["vaults"], "other": vault(two.bao)}
        mounts = [two.entry("a"), {**two.entry("d"), "vault": "other"}]
        two.daemon.reload(two.changed(vaults=other, mounts=mounts))
        reads(two.path("d") / ONE, value(1, ONE))
        held.same()
        two.daemon.reload(two.changed(mounts=[two.entry("a")]))
        assert two.mounts() == ["a"]
        held.same()
        watch.more()
        fill(two.bao, 2)
        reads(two.path("a") / ONE, value(2, ONE))


def test_a_supervisor_that_does_not_listen(two):
    """Whoever is told READY=1 and does not read it cannot stop the daemon."""
    for _ in range(16):  # more than such a socket's queue holds
        began = time.monotonic()
        if not ask(two.daemon, "reload")["ok"]:
            raise AssertionError("no reload")
        if time.monotonic() - began > 0.9:
            break
    else:
        raise AssertionError("the queue was never full: this proves nothing")
    assert time.monotonic() - began < 4
    assert read(two.path("a") / ONE) == value(1, ONE)


def test_the_mode_of_a_changed_mount(two):
    two.daemon.reload(two.changed(mounts=[two.entry("a"), two.entry("b", mode="0440")]))
    reads(two.path("b") / ONE, value(1, ONE))
    assert (two.path("b") / ONE).stat().st_mode & 0o777 == 0o440
    assert (two.path("a") / ONE).stat().st_mode & 0o777 == 0o400


def test_reload_of_a_changed_vault(two):
    """Its mounts are exchanged for new ones; who has a file of the old one open has to open it again."""
    with Held(two.path("a") / ONE, value(1, ONE)) as held:
        conf = {**two.config["vaults"]["bao"], "refresh": "2s"}
        two.daemon.reload(two.changed(vaults={"bao": conf}))
        assert two.mounts() == ["a", "b"]
        for name in ("a", "b"):
            reads(two.path(name) / ONE, value(1, ONE))
        number, took = error_of(pread, held.fd)
        assert number in (errno.ENOTCONN, errno.ECONNABORTED)
        assert took < LIVENESS
        assert held.what()[0] != held.before[0]


def test_a_removed_mount_of_a_frozen_vault_goes(front, cloudtaserd, fuse_device, bao, folder):
    """A reload does not wait for a vault that does not answer."""
    mount = folder / "m"
    mount.mkdir()
    bao.put(NEVER, {"value": "v"})
    config = {
        "wait": "20s",
        "vaults": {"bao": vault(bao, front.address, timeout="25s")},
        "mounts": [{"path": str(mount), "vault": "bao"}],
    }
    daemon = cloudtaserd(config)
    wait_until(lambda: "never" in os.listdir(mount / "late"), 10, "the tree")
    front.mode = Faulty.silent
    process = start_reader("cat", mount / NEVER / "value")
    wait_until(lambda: front.asked_for(NEVER), 10, "the question to reach the vault")
    began = time.monotonic()
    daemon.reload({**config, "mounts": [], "vaults": {}})
    assert time.monotonic() - began < 5
    process.communicate(timeout=LIVENESS)
    assert process.returncode == 1
    assert not os.path.ismount(mount)
    assert error_of(read, mount / NEVER / "value")[0] == errno.ENOENT
