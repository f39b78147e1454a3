# SPDX-License-Identifier: Apache-2.0
"""Mounts that go while files are open, and come back."""

import os
import random
import subprocess
import threading
import time

import pytest
from faults import ask, status
from fs_mounts import until, vault


def test_a_place_can_be_mounted_anew_while_an_old_file_is_open(cloudtaserd, openbao, tmp_path):
    openbao.put("mounts/one", {"x": "1"})
    where = tmp_path / "m"
    where.mkdir()
    entry = {"path": str(where), "vault": "bao", "secrets": ["mounts/one"]}
    daemon = cloudtaserd({"vaults": {"bao": vault(openbao)}, "mounts": [entry]})
    file = where / "mounts/one/x"
    held = os.open(file, os.O_RDONLY)
    assert ask(daemon, "umount", path=str(where))["ok"]
    assert not os.path.ismount(where)
    assert not ask(daemon, "umount", path=str(where))["ok"]  # there is nothing to take away any more
    daemon.reload()
    assert os.path.ismount(where) and file.read_text() == "1"
    assert os.pread(held, 10, 0) == b"1"
    assert len(status(daemon)["mounts"]) == 2
    os.close(held)
    until(lambda: len(status(daemon)["mounts"]) == 1, what="the end of the old one")
    assert file.read_text() == "1"
    assert daemon.stop() == 0
    assert not os.path.ismount(where)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
def test_what_somebody_else_mounts_there_later_stays(cloudtaserd, openbao, tmp_path):
    openbao.put("mounts/one", {"x": "1"})
    where = tmp_path / "m"
    where.mkdir()
    entry = {"path": str(where), "vault": "bao", "secrets": ["mounts/one"]}
    config = {"vaults": {"bao": vault(openbao)}, "mounts": [entry]}
    first = cloudtaserd(config)
    held = os.open(where / "mounts/one/x", os.O_RDONLY)
    assert ask(first, "umount", path=str(where))["ok"]
    second = cloudtaserd(config)
    assert first.stop() == 0
    assert os.path.ismount(where) and (where / "mounts/one/x").read_text() == "1"
    os.close(held)
    assert second.stop() == 0


def test_a_mount_may_go_while_others_come(cloudtaserd, openbao, tmp_path):
    """What the kernel asks of a new mount is answered by the thread that is being told of the other one's end."""
    openbao.put("mounts/one", {"x": "1"})
    paths = [tmp_path / f"m{i}" for i in range(4)]
    for path in paths:
        path.mkdir()

    def config(n):
        entries = [{"path": str(path), "vault": "bao", "secrets": ["mounts/one"]} for path in paths[:n]]
        return {"vaults": {"bao": vault(openbao)}, "mounts": entries}

    def takes_away(after):
        time.sleep(after)
        subprocess.run(["fusermount3", "-uz", str(paths[0])], capture_output=True)

    daemon = cloudtaserd(config(1))
    end = time.monotonic() + 3
    while time.monotonic() < end:
        daemon.reload(config(1))
        other = threading.Thread(target=takes_away, args=[random.random() * 0.004])
        other.start()
        began = time.monotonic()
        daemon.reload(config(4))
        took = time.monotonic() - began
        other.join()
        assert took < 5, daemon.tail()
        assert all((path / "mounts/one/x").read_text() == "1" for path in paths[1:])
