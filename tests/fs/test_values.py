# SPDX-License-Identifier: Apache-2.0
"""Names and values as a vault may hold them, through a real mount."""

import base64
import errno
import json
import os

import pytest
from fs_mounts import mounted, vault
from peers.openbao import OpenBao

AWKWARD = {
    "plain": "value",
    "empty": "",
    "newline": "a\n",
    "spaces and\ttabs": " x ",
    "unicode-é-漢": "ü€𝄞",
    "..": "two dots",
    ".": "one dot",
    "a/b": "slash",
    "n\0l": "a\0b",
    "100%": "percent",
    "%2F": "looks escaped",
    ".json": "no view",
    ".version": "no view either",
    "-rf": "dash",
}
SHOWN = {
    "..": "%2E%2E",
    ".": "%2E",
    "a/b": "a%2Fb",
    "n\0l": "n%00l",
    "100%": "100%25",
    "%2F": "%252F",
    ".json": "%2Ejson",
    ".version": "%2Eversion",
}


def test_awkward_names_and_values(cloudtaserd, openbao, tmp_path):
    openbao.put("awkward/one", AWKWARD)
    where = mounted(cloudtaserd, openbao, tmp_path, ["awkward/one"]) / "awkward/one"
    for name, value in AWKWARD.items():
        file = where / SHOWN.get(name, name)
        assert file.read_bytes() == value.encode(), name
        assert file.stat().st_size == len(value.encode()), name
    assert sorted(os.listdir(where)) == sorted([SHOWN.get(n, n) for n in AWKWARD] + [".json", ".version"])
    assert json.loads((where / ".json").read_bytes()) == AWKWARD
    assert (where / ".json").stat().st_size == len((where / ".json").read_bytes())
    assert (where / ".version").read_bytes() == b"1\n"


def test_names_that_do_not_fit_are_left_out_and_said(cloudtaserd, openbao, tmp_path):
    fits, too_long, escaped_too_long = "n" * 255, "n" * 256, "%" * 86
    openbao.put("long/one", {fits: "1", too_long: "2", escaped_too_long: "3", "%" * 85: "4"})
    where = tmp_path / "mount"
    where.mkdir()
    config = {
        "vaults": {"bao": vault(openbao)},
        "mounts": [{"path": str(where), "vault": "bao", "secrets": ["long/one"]}],
    }
    daemon = cloudtaserd(config)
    one = where / "long/one"
    assert sorted(os.listdir(one)) == sorted([fits, "%25" * 85, ".json", ".version"])
    assert (one / ("%25" * 85)).read_text() == "4"
    assert json.loads((one / ".json").read_text())[too_long] == "2"
    assert "2 field(s) are not shown" in daemon.log.read_text()


def test_values_that_are_no_strings(cloudtaserd, openbao, tmp_path):
    openbao.put("types/one", {"number": 42, "true": True, "null": None, "list": [1, "a"], "map": {"k": "v"}})
    where = mounted(cloudtaserd, openbao, tmp_path, ["types/one"]) / "types/one"
    assert (where / "number").read_text() == "42"
    assert (where / "true").read_text() == "true"
    assert (where / "null").read_text() == "null"
    assert json.loads((where / "list").read_text()) == [1, "a"]
    assert json.loads((where / "map").read_text()) == {"k": "v"}


def test_one_mebibyte(cloudtaserd, tmp_path):
    value = base64.b64encode(os.urandom(786432)).decode()  # raft's entries end below that: dev mode
    with OpenBao(dev=True) as bao:
        bao.put("big", {"value": value})
        where = tmp_path / "mount"
        where.mkdir()
        cloudtaserd(
            {
                "vaults": {"bao": {"address": bao.address, "token_file": bao.token_file}},
                "mounts": [
                    {
                        "path": str(where),
                        "vault": "bao",
                        "secrets": ["big", {"path": "big", "as": "decoded", "binary": ["value"]}],
                    }
                ],
            }
        )
        assert (where / "big/value").read_text() == value
        assert (where / "big/value").stat().st_size == 1 << 20
        assert (where / "decoded/value").read_bytes() == base64.b64decode(value)
        with open(where / "big/value", "rb", buffering=0) as f:
            for offset in (0, 1, 4095, 4096, 131071, 131072, 1 << 19, (1 << 20) - 1, 1 << 20, 1 << 30):
                f.seek(offset)
                assert f.read(5000) == value.encode()[offset : offset + 5000], offset


def test_ten_thousand_fields(cloudtaserd, openbao, tmp_path):
    fields = {f"field-{i:05}": f"value {i}" for i in range(10000)}
    openbao.put("many/one", fields)
    where = mounted(cloudtaserd, openbao, tmp_path, ["many/one"]) / "many/one"
    names = os.listdir(where)
    assert len(names) == 10002 and len(set(names)) == 10002
    assert (where / "field-00000").read_text() == "value 0"
    assert (where / "field-09999").read_text() == "value 9999"
    assert sum(entry.stat().st_size for entry in os.scandir(where) if entry.name.startswith("field")) == sum(
        map(len, fields.values())
    )


def test_secret_and_folder_at_once(cloudtaserd, openbao, tmp_path):
    openbao.put("both/x", {"field": "1", "child": "a field"})
    openbao.put("both/x/child", {"y": "a secret"})
    openbao.put("both/x/other", {"y": "another"})
    where = mounted(cloudtaserd, openbao, tmp_path, ["both/"]) / "both/x"
    assert (where / "field").read_text() == "1"
    assert (where / "child").read_text() == "a field"
    assert (where / "child%/y").read_text() == "a secret"
    assert (where / "other/y").read_text() == "another"
    assert sorted(os.listdir(where)) == [".json", ".version", "child", "child%", "field", "other"]


def test_nothing_can_be_written(cloudtaserd, openbao, tmp_path):
    openbao.put("ro/one", {"x": "1"})
    where = mounted(cloudtaserd, openbao, tmp_path, ["ro/one"]) / "ro/one"
    for attempt in (
        lambda: open(where / "x", "r+b"),
        lambda: open(where / "new", "wb"),
        lambda: os.truncate(where / "x", 0),
        lambda: os.unlink(where / "x"),
        lambda: os.rename(where / "x", where / "y"),
        lambda: os.mkdir(where / "d"),
        lambda: os.chmod(where / "x", 0o777),
        lambda: os.utime(where / "x"),
    ):
        with pytest.raises(OSError) as refused:
            attempt()
        assert refused.value.errno == errno.EROFS
    assert (where / "x").read_text() == "1"
    options = next(line for line in open("/proc/self/mounts") if f" {tmp_path}/mount " in line).split()[3].split(",")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(options)
