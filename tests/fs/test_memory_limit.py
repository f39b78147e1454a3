# SPDX-License-Identifier: Apache-2.0
"""A user's few MiB of locked memory: a daemon that has too little says so at once, one that runs out goes on."""

import os
import subprocess
import time

import pytest
from faults import status
from fs_mounts import until
from harness.programs import Daemon

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the limit does not bind root, so another user is needed"),
    pytest.mark.no_asan,
]
SIZE = 400_000
READER = """
import errno, os, sys
held, said = [], []
for path in sys.argv[2:]:
    try:
        f = open(path, "rb", buffering=0)
        data = f.read(1 << 20)
        said.append("ok" if data == os.path.basename(os.path.dirname(path)).encode() * (len(data) // 2) else "wrong")
        held.append(f)
        if sys.argv[1] == "one":
            held.clear()
    except OSError as e:
        said.append(errno.errorcode[e.errno])
print(*said)
"""


@pytest.fixture
def place(cloudtaser, user):
    """A user's vault of 20 secrets, larger than a cache of theirs can be, and its configuration."""
    passphrase, vault, mount = user.home / "pw", user.home / "vault", user.home / "m"
    passphrase.write_text("x\n")
    passphrase.chmod(0o600)
    user.own(passphrase)
    mount.mkdir()
    user.own(mount)
    by = ("--passphrase-file", str(passphrase))
    done = cloudtaser("vault", "init", "--file", str(vault), "--kdf-memory", "8", "--kdf-ops", "1", *by, user=user)
    assert done.returncode == 0, done.stderr
    for i in range(10, 30):
        value = str(i).encode() * (SIZE // 2)
        done = cloudtaser("put", "--vault", f"file:{vault}", *by, str(i), "x=-", user=user, input=value)
        assert done.returncode == 0, done.stderr
    vaults = {"mine": {"file": str(vault), "passphrase_file": str(passphrase)}}
    return mount, {"vaults": vaults, "mounts": [{"path": str(mount), "vault": "mine"}], "wait": "3s"}


def limited(kib):
    return ("prlimit", f"--memlock={kib << 10}")


def test_too_little_is_told_at_start(place, build, user):
    mount, config = place
    started = refused = 0
    for kib in range(1000, 3700, 150):
        began = time.monotonic()
        try:
            daemon = Daemon(build / "cloudtaserd", config, user.home / str(kib), user=user, prefix=limited(kib))
        except AssertionError as e:
            assert time.monotonic() - began < 5
            assert "memory" in str(e)
            refused += 1
            continue
        started += 1
        with daemon:
            done = subprocess.run(user.argv("ls", str(mount)), capture_output=True, timeout=20)
            assert done.returncode == 0 and len(done.stdout.split()) == 20
            # One that is too large for what is left says so; nobody is left waiting.
            subprocess.run(user.argv("cat", str(mount / "10/x")), capture_output=True, timeout=20)
    assert started and refused


def test_running_out_ends(place, cloudtaserd, user):
    mount, config = place
    daemon = cloudtaserd(config, user=user, prefix=limited(8192))
    files = [str(mount / str(i) / "x") for i in range(10, 30)]

    def read(how):
        argv = user.argv("/usr/bin/python3", "-c", READER, how, *files)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert set(read("one")) == {"ok"}  # 8 MB, through a cache of 4: it makes room
    assert status(daemon)["cache"]["evicted"] > 0
    said = read("all")  # what is open stays in memory
    assert set(said) == {"ok", "ENOMEM"}, said
    problem = status(daemon)["mounts"][0]["problems"][0]["message"]
    assert "secret memory" in problem
    until(lambda: set(read("one")) == {"ok"}, 10, "reads as before")
    assert daemon.stop() == 0
