# SPDX-License-Identifier: Apache-2.0
"""What a configuration arranges: trees, renames, modes and owners, optional secrets; and who may read."""

import base64
import os
import stat
import subprocess

import pytest
from fs_mounts import mounted, until, vault

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs to become other users")


def read_as(uid, path, gid=None, groups=()):
    """The bytes, or the errno's name, of somebody else's read."""
    who = [
        f"--reuid={uid}",
        f"--regid={gid or uid}",
        f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups",
    ]
    done = subprocess.run(["setpriv", *who, "--", "cat", str(path)], capture_output=True)
    return done.stdout if done.returncode == 0 else done.stderr.decode().strip().rsplit(": ", 1)[1]


@pytest.fixture
def open_folder(tmp_path):
    """Where another user gets to: pytest's own folders are closed to others."""
    import shutil
    import tempfile
    from pathlib import Path

    folder = Path(tempfile.mkdtemp(prefix="ct-shown-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_what_the_configuration_arranges(cloudtaserd, openbao, open_folder):
    openbao.put("shown/db", {"password": "p", "username": "u", "rest": "r"})
    openbao.put("shown/tls", {"certificate": base64.b64encode(b"\0\1\2").decode(), "key": "k"})
    where = mounted(
        cloudtaserd,
        openbao,
        open_folder,
        [
            {"path": "shown/db", "as": "database", "fields": {"password": "pw", "username": "user"}, "mode": "0440"},
            {"path": "shown/tls", "as": "deep/er/tls", "binary": ["certificate"], "owner": 4321, "group": 4322},
            {"path": "shown/none", "as": "none", "optional": True},
            {"path": "shown/", "as": "all"},
        ],
    )
    assert sorted(os.listdir(where)) == ["all", "database", "deep"]
    assert sorted(os.listdir(where / "database")) == [".json", ".version", "pw", "user"]
    assert (where / "database/pw").read_text() == "p"
    assert stat.S_IMODE((where / "database/pw").stat().st_mode) == 0o440
    assert stat.S_IMODE((where / "database").stat().st_mode) == 0o550
    assert (where / "deep/er/tls/certificate").read_bytes() == b"\0\1\2"
    assert (where / "deep/er/tls/certificate").stat().st_size == 3
    assert (where / "deep/er/tls/key").stat().st_uid == 4321
    assert (where / "deep/er/tls/key").stat().st_gid == 4322
    assert sorted(os.listdir(where / "all")) == ["db", "tls"]
    assert (where / "all/db/rest").read_text() == "r"
    assert not (where / "none").exists()
    openbao.put("shown/none", {"x": "now"})
    until(lambda: (where / "none").exists(), what="the optional secret")
    assert (where / "none/x").read_text() == "now"


def test_only_who_is_allowed_reads(cloudtaserd, openbao, open_folder):
    openbao.put("shown/who", {"x": "secret"})
    mount = {"mode": "0444", "owner": 1001, "group": 2001, "allow": {"users": [1001, 1002], "groups": [3001]}}
    file = mounted(cloudtaserd, openbao, open_folder, ["shown/who"], mount) / "shown/who/x"
    assert read_as(1001, file) == b"secret"
    assert read_as(1002, file) == b"secret"
    assert read_as(1003, file) == "Permission denied"
    assert read_as(1003, file, gid=3001) == b"secret"
    assert read_as(1003, file, groups=[3001]) == b"secret"
    assert read_as(1003, file, groups=[2001]) == "Permission denied"
    with pytest.raises(PermissionError):  # root is not on the list
        file.read_bytes()
    with pytest.raises(PermissionError):
        os.listdir(file.parent)
    assert file.stat().st_size == 6  # looking shows no value


def test_modes_count_among_those_allowed(cloudtaserd, openbao, open_folder):
    openbao.put("shown/mode", {"x": "secret"})
    mount = {"mode": "0400", "owner": 1001, "group": 1001, "allow": {"users": [1001, 1002]}}
    file = mounted(cloudtaserd, openbao, open_folder, ["shown/mode"], mount) / "shown/mode/x"
    assert read_as(1001, file) == b"secret"
    assert read_as(1002, file) == "Permission denied"


def test_nobody_but_the_owner_by_default(cloudtaserd, openbao, open_folder):
    openbao.put("shown/own", {"x": "secret"})
    file = mounted(cloudtaserd, openbao, open_folder, ["shown/own"], {"mode": "0444"}) / "shown/own/x"
    assert file.read_bytes() == b"secret"
    assert read_as(1001, file) == "Permission denied"


def test_what_is_not_there_is_not_an_empty_file(cloudtaserd, openbao, open_folder):
    where = mounted(cloudtaserd, openbao, open_folder, ["shown/never", "shown/neither/"])
    with pytest.raises(FileNotFoundError):
        (where / "shown/never/x").read_bytes()
    with pytest.raises(FileNotFoundError):
        os.listdir(where / "shown/never")
    assert os.listdir(where / "shown/neither") == []


def test_many_mounts_in_one_daemon(cloudtaserd, openbao, open_folder):
    openbao.put("shown/many", {"x": "1"})
    mounts = []
    for i in range(100):
        path = open_folder / f"m{i}"
        path.mkdir()
        mounts.append({"path": str(path), "vault": "bao", "secrets": [{"path": "shown/many", "as": f"s{i}"}]})
    daemon = cloudtaserd({"vaults": {"bao": vault(openbao)}, "mounts": mounts})
    for i in range(100):
        assert os.listdir(open_folder / f"m{i}") == [f"s{i}"]
        assert (open_folder / f"m{i}/s{i}/x").read_text() == "1"
    daemon.stop()
    assert not any(os.path.ismount(open_folder / f"m{i}") for i in range(100))
