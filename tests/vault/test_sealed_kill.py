# SPDX-License-Identifier: Apache-2.0
"""A sealed vault whose writer is killed at random moments, as an outside observer sees it.

The writer is build/unit/test_vault_sealed, which says each round only after the vault said that it is written.
"""

import os
import random
import select
import subprocess
import time

import pytest

SEED = int(os.environ.get("CT_SEED", "20240607"))
KILLS = 60


@pytest.fixture
def writer(build_folder):
    program = build_folder / "unit" / "test_vault_sealed"
    assert program.exists(), f"{program} is not built: make test-programs"
    return program


def show(writer, vault, path):
    """(version, value) of a secret, through a process of its own that opens the vault anew."""
    done = subprocess.run([writer, "show", vault, path], capture_output=True, check=True, timeout=60)
    version, _, value = done.stdout.decode().rstrip("\n").partition(" ")
    return int(version), value


def read_rounds(process, seconds):
    """The last whole number that the writer has written, when `seconds` have passed (at least one is waited for)."""
    told, until = b"", time.monotonic() + seconds
    while b"\n" not in told or time.monotonic() < until:
        left = max(0, until - time.monotonic()) if b"\n" in told else 60
        ready, _, _ = select.select([process.stdout], [], [], left)
        if not ready:
            assert b"\n" in told, "the writer wrote nothing in a minute"
            break
        piece = os.read(process.stdout.fileno(), 65536)
        assert piece, "the writer ended by itself"
        told += piece
    return told


def kill(process, told):
    """SIGKILL, and what was still in the pipe. Returns the last round that was told."""
    process.kill()
    process.wait()
    while piece := os.read(process.stdout.fileno(), 65536):
        told += piece
    return int(told.rpartition(b"\n")[0].split(b"\n")[-1])


def test_killed_while_writing(writer, tmp_path):
    """What was acknowledged is there; what was not is there whole or not at all; the next writer just goes on."""
    vault = tmp_path / "vault"
    subprocess.run([writer, "init", vault], check=True, timeout=60)
    rng = random.Random(SEED)
    print(f"seed {SEED} (CT_SEED)")
    count = rounds = leftovers = 0
    for n in range(KILLS):
        path = f"w/{n}"
        with subprocess.Popen([writer, "loop", vault, path, "0"], stdout=subprocess.PIPE) as process:
            told = read_rounds(process, rng.random() * 0.08)
            last = kill(process, told)
        rounds += last
        leftovers += (tmp_path / "vault.new").exists()

        # A round is three writes: path, "both", "count"; then it is told. One more of each may have been done.
        version, value = show(writer, vault, path)
        assert value == str(version)
        assert version in (last, last + 1)
        version, value = show(writer, vault, "count")
        assert value == str(version), "the counter was set without looking"
        assert version in (count + last, count + last + 1)
        count = version
    assert rounds >= KILLS
    print(f"{rounds} rounds, {leftovers} unfinished files left behind by {KILLS} kills")
    assert {p.name for p in tmp_path.iterdir()} <= {"vault", "vault.lock", "vault.new"}


def test_killed_while_others_write(writer, tmp_path):
    """A killed writer gives the lock back and takes nothing from the one beside it."""
    vault = tmp_path / "vault"
    subprocess.run([writer, "init", vault], check=True, timeout=60)
    rng = random.Random(SEED)
    with subprocess.Popen([writer, "loop", vault, "steady", "0"], stdout=subprocess.PIPE) as steady:
        told = read_rounds(steady, 0)
        killed = 0
        for n in range(10):
            with subprocess.Popen([writer, "loop", vault, f"w/{n}", "0"], stdout=subprocess.PIPE) as process:
                last = kill(process, read_rounds(process, rng.random() * 0.08))
            killed += last
            version, _ = show(writer, vault, f"w/{n}")
            assert version in (last, last + 1)
            told += read_rounds(steady, 0)  # it goes on
        last = kill(steady, told)
    version, value = show(writer, vault, "steady")
    assert version in (last, last + 1) and value == str(version)
    version, value = show(writer, vault, "count")
    assert version == int(value)
    assert last + killed <= version <= last + killed + 11
