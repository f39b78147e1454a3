# SPDX-License-Identifier: Apache-2.0
"""However many readers there are, the vault is asked once: counted in its own audit log."""

import datetime
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time

import pytest
from faults import HERE, error_of, mount_status, reads, status, vault
from peers.faulty import Faulty
from peers.process import die_with_parent, wait_until

READERS = 200
# The cache asks again after three quarters of the interval, at the earliest; the rest is the machine's.
AGAIN = 0.70


def together(paths, seconds=0):
    """Reads of as many processes as there are paths, released together: [[errno, hash of what was read, reads], ...]"""
    done = subprocess.run(
        [sys.executable, HERE / "readers.py"],
        input=json.dumps([[str(path), seconds] for path in paths]) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=die_with_parent,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def all_read(said, expected):
    right = hashlib.sha256(expected.encode()).hexdigest()
    assert len(said) == READERS
    assert all((error, what) == (0, right) for error, what, _ in said), said


@pytest.fixture
def mounts(cloudtaserd, fuse_device, folder):
    """mounts(bao, n, ...) : n mounts of one vault in one daemon, each showing once/."""

    def make(bao, n=1, address=None, **more):
        paths = [folder / f"m{i}" for i in range(n)]
        for path in paths:
            path.mkdir()
        entries = [{"path": str(path), "vault": "bao", "secrets": ["once/"]} for path in paths]
        daemon = cloudtaserd({"vaults": {"bao": vault(bao, address, timeout="10s", **more)}, "mounts": entries})
        for path in paths:
            wait_until(lambda p=path: listed(p / "once"), 10, "the tree to be listed")
        return daemon, paths

    return make


def listed(folder):
    try:
        return os.listdir(folder)
    except OSError:
        return None


@pytest.mark.parametrize("n", [1, 3])
def test_first_readers(n, bao, mounts):
    name = f"once/first{n}"
    bao.put(name, {"value": "v" * 100})
    _, paths = mounts(bao, n, refresh="60s")
    said = together([paths[i % n] / name / "value" for i in range(READERS)])
    all_read(said, "v" * 100)
    assert bao.reads_of(name) == 1


def test_first_readers_who_all_wait(bao, front, mounts):
    """Each asks for a field of its own, so that the kernel lets all of them through; the answer takes its time."""
    name = "once/wide"
    bao.put(name, {f"f{i:03}": "v" * 100 for i in range(READERS)})
    daemon, paths = mounts(bao, 3, front.address, refresh="60s")
    front.mode = Faulty.slow(1.5)
    said = together([paths[i % 3] / name / f"f{i:03}" for i in range(READERS)])
    all_read(said, "v" * 100)
    assert bao.reads_of(name) == 1
    waited = sum(mount_status(daemon, path)["waits"] for path in paths)
    assert waited >= READERS, f"only {waited} waited: this proves little"


def test_first_readers_of_what_is_not_there(bao, mounts):
    """The same for the vault's no. (A second later it may be asked again.)"""
    bao.put("once/other", {"value": "v"})
    _, paths = mounts(bao, 3, refresh="60s")
    # A name that a listing does not have is not asked for at all; this one was deleted after it was listed.
    bao.put("once/gone", {"value": "v"})
    bao.delete("once/gone")
    for path in paths:
        assert "other" in os.listdir(path / "once")
    began = time.monotonic()
    said = together([paths[i % 3] / "once/gone/value" for i in range(READERS)])
    took = time.monotonic() - began
    assert {error for error, _, _ in said} == {2}
    assert bao.reads_of("once/gone") <= 1 + int(took)


def test_one_question_an_interval(bao, mounts):
    """200 readers over three mounts who go on: a refresh is one question, whoever reads."""
    name = "once/often"
    bao.put(name, {"value": "v1"})
    daemon, paths = mounts(bao, 3, refresh="1s")
    files = [paths[i % 3] / name / "value" for i in range(READERS)]
    began = time.monotonic()
    said = together(files, seconds=4)
    took = time.monotonic() - began
    all_read(said, "v1")
    assert sum(reads for _, _, reads in said) > READERS * 10
    times = [
        datetime.datetime.fromisoformat(entry["time"].replace("Z", "+00:00")).timestamp()
        for entry in bao.requests_of(f"secret/data/{name}", "read")
    ]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(gaps) >= 3, times
    assert min(gaps) > AGAIN, gaps
    assert len(times) <= 2 + took / AGAIN
    hits = status(daemon)["cache"]["hits"]
    assert hits > READERS * 10
    # And it goes on as long as the daemon lives, without readers as well.
    bao.put(name, {"value": "v2"})
    for path in paths:
        reads(path / name / "value", "v2", 5)


def test_two_vaults_are_two(bao, cloudtaserd, fuse_device, folder):
    """What one identity fetched is not given to another: each asks for itself, once."""
    name = "once/two"
    bao.put(name, {"value": "v"})
    allowed = bao.write_token(bao.reader({"secret/data/once/*": ["read"], "secret/metadata/*": ["list"]}))
    denied = bao.write_token(bao.reader({"secret/metadata/*": ["list"]}))
    config = {"vaults": {}, "mounts": []}
    for who, token in {"one": allowed, "two": allowed, "no": denied}.items():
        (folder / who).mkdir()
        config["vaults"][who] = vault(bao, refresh="60s", token_file=token)
        config["mounts"].append({"path": str(folder / who), "vault": who, "secrets": ["once/"]})
    cloudtaserd(config)
    for who in config["vaults"]:
        wait_until(lambda w=who: listed(folder / w / "once"), 10, "the tree to be listed")
    before = bao.reads_of(name)
    said = together([folder / ("one", "two")[i % 2] / name / "value" for i in range(READERS)])
    all_read(said, "v")
    assert bao.reads_of(name) == before + 2
    assert error_of(os.stat, folder / "no" / name / "value")[0] == 13
