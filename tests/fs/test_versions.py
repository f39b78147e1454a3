# SPDX-License-Identifier: Apache-2.0
"""A value changes while files are open: who has it open keeps it, who opens it sees the new one."""

import os
import time

from fs_mounts import mounted, until

REFRESH = 1.0


def test_an_open_file_keeps_its_version(cloudtaserd, openbao, tmp_path):
    openbao.put("versions/one", {"x": "the first, a longer value", "gone": "1"})
    where = mounted(cloudtaserd, openbao, tmp_path, ["versions/one"]) / "versions/one"
    old, gone = os.open(where / "x", os.O_RDONLY), os.open(where / "gone", os.O_RDONLY)
    openbao.put("versions/one", {"x": "second", "new": "2"})
    until(lambda: (where / "x").read_text() == "second", what="the new version")
    assert os.pread(old, 100, 0) == b"the first, a longer value"
    assert os.pread(old, 100, 4) == b"first, a longer value"
    assert os.fstat(old).st_size == 25  # the largest of the open versions
    assert (where / "new").read_text() == "2"
    until(lambda: not (where / "gone").exists(), 5, "the end of a name, which the kernel keeps for a second")
    assert os.pread(gone, 10, 0) == b"1"
    assert (where / ".version").read_text() == "2\n"
    os.close(old)
    until(lambda: (where / "x").stat().st_size == 6, what="the size, once nobody has the longer one open")
    os.close(gone)


def test_growing_is_seen_by_size_and_bytes(cloudtaserd, openbao, tmp_path):
    openbao.put("versions/grow", {"x": "short"})
    file = mounted(cloudtaserd, openbao, tmp_path, ["versions/grow"]) / "versions/grow/x"
    old = os.open(file, os.O_RDONLY)
    openbao.put("versions/grow", {"x": "a much longer value than before"})
    until(lambda: file.read_text().startswith("a much"), what="the new version")
    assert file.stat().st_size == 31
    assert os.pread(old, 100, 0) == b"short"  # reads end at the handle's own length
    os.close(old)


def test_new_within_one_refresh_interval(cloudtaserd, openbao, tmp_path):
    openbao.put("versions/soon", {"x": "0"})
    file = mounted(cloudtaserd, openbao, tmp_path, ["versions/soon"]) / "versions/soon/x"
    assert file.read_text() == "0"
    for i in range(1, 6):
        openbao.put("versions/soon", {"x": str(i)})
        written = time.monotonic()
        until(lambda i=i: file.read_text() == str(i), what=f"version {i}")
        # The interval is a promise of the configuration; the rest is this machine's.
        assert time.monotonic() - written < REFRESH + 1


def test_deleted_and_back(cloudtaserd, openbao, tmp_path):
    openbao.put("versions/del", {"x": "1"})
    where = mounted(cloudtaserd, openbao, tmp_path, ["versions/"])
    file = where / "versions/del/x"
    assert file.read_text() == "1"
    held = os.open(file, os.O_RDONLY)
    openbao.destroy("versions/del")
    until(lambda: not file.exists(), what="its end")
    assert os.pread(held, 10, 0) == b"1"
    openbao.put("versions/del", {"x": "again"})
    until(lambda: file.exists() and file.read_text() == "again", what="its return")
    os.close(held)


def test_a_new_secret_appears_in_a_tree(cloudtaserd, openbao, tmp_path):
    openbao.put("versions/tree/a", {"x": "1"})
    where = mounted(cloudtaserd, openbao, tmp_path, ["versions/tree/"]) / "versions/tree"
    assert os.listdir(where) == ["a"]
    openbao.put("versions/tree/b", {"x": "2"})
    until(lambda: sorted(os.listdir(where)) == ["a", "b"], what="the new name")
    assert (where / "b/x").read_text() == "2"
