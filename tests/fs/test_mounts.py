# SPDX-License-Identifier: Apache-2.0
"""Mounts that go while files are open, and come back."""

import os

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
