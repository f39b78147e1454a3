# SPDX-License-Identifier: Apache-2.0
"""The scan itself: it finds what is there, wherever it is, and says so when it could not look."""

import base64
import contextlib
import os
import signal
import subprocess
import time

import pytest
from memory import Scanner, encode, forms, key_patterns, text_canary

PLACES = ["data", "heap", "stack", "boundary", "hidden", "reserved", "shared", "memfd", "untouched"]


@contextlib.contextmanager
def holding(programs, place, canary):
    with subprocess.Popen([programs / "holder", place], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if place != "nothing":
            process.stdin.write(canary)
            process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.stdin.close()


@pytest.mark.parametrize("place", PLACES)
def test_finds_it_wherever_it_is(place, memory_programs, scanner):
    canary = text_canary()
    look = scanner({"canary": canary, "other": text_canary()})
    with holding(memory_programs, place, canary) as pid:
        hits = look.scan(pid).hits
        assert {hit.pattern for hit in hits} == {"canary"}
        # One place; what lies across two reads of the scan is told in two parts.
        assert hits[0].offset == 0 and max(hit.offset + hit.length for hit in hits) == len(canary)
        assert len({hit.address - hit.offset for hit in hits}) == 1
    with holding(memory_programs, place, text_canary()) as pid:
        assert not look.scan(pid).hits


def test_finds_a_part(memory_programs, scanner):
    canary = text_canary()
    with holding(memory_programs, "half", canary) as pid:
        hits = scanner({"canary": canary}).scan(pid).hits
        assert [(hit.offset, hit.length) for hit in hits] == [(40, 24)]


def test_nothing_where_nothing_is(memory_programs, scanner):
    with holding(memory_programs, "nothing", b"") as pid:
        assert not scanner({"canary": text_canary()}).scan(pid).hits
        with pytest.raises(AssertionError, match="no secret memory"):
            scanner({"canary": text_canary()}).clean(pid, "a program without secret memory")


def test_secret_memory_is_closed_to_root(memory_programs, scanner):
    """memfd_secret: /proc/PID/mem does not have it, process_vm_readv neither."""
    canary = text_canary()
    with holding(memory_programs, "secret", canary) as pid:
        result = scanner({"canary": canary}).clean(pid, "in memfd_secret")
        assert len(result.secret) == 1
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as f, pytest.raises(OSError):
            f.seek(result.secret[0].start)
            f.read(64)
        assert process_vm_readv(pid, result.secret[0].start, 64) is None
    with holding(memory_programs, "shared", canary) as pid:
        hit = scanner({"canary": canary}).scan(pid).hits[0]
        assert process_vm_readv(pid, hit.address, 64) == canary


def process_vm_readv(pid, address, size):
    import ctypes

    class iovec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]

    libc = ctypes.CDLL(None, use_errno=True)
    here = ctypes.create_string_buffer(size)
    local, remote = iovec(ctypes.addressof(here), size), iovec(address, size)
    n = libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return here.raw[:n] if n >= 0 else None


def test_a_mapping_that_cannot_be_read_is_an_error(memory_programs, scanner, tmp_path):
    """A file mapping beyond the file's end gives errors when it is read, and may not pass for empty."""
    look = scanner({"canary": text_canary()})
    fake = tmp_path / "scan"
    fake.write_text(
        f'#!/bin/sh\n"{look.program}" "$@"; printf "unreadable\\t1000-2000\\trw-p\\trd wr\\tsomething\\n"\n'
    )
    fake.chmod(0o755)
    with holding(memory_programs, "nothing", b"") as pid:
        look.scan(pid)
        look.program = fake
        with pytest.raises(AssertionError, match=r"could not be read.*something"):
            look.scan(pid)


def test_no_process_is_an_error(scanner):
    look = scanner({"canary": text_canary()})
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(Exception, match="is gone"):
        look.scan(child.pid)


def test_goes_on_after_the_scan(memory_programs, scanner):
    with holding(memory_programs, "nothing", b"") as pid:
        scanner({"canary": text_canary()}).scan(pid)
        deadline = time.monotonic() + 10
        while state_of(pid) == "T":
            assert time.monotonic() < deadline
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        scanner({"canary": text_canary()}).scan(pid)
        assert state_of(pid) == "T", "who was stopped before stays so"
        os.kill(pid, signal.SIGCONT)


def state_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def test_forms():
    value = text_canary(40)
    made = forms("v", value)
    for prefix in (b"", b"x", b"xy", b"X-Vault-Token: "):
        text = base64.b64encode(prefix + value + b"tail")
        assert any(data in text for name, data in made.items() if "base64" in name), prefix
    assert made["v (utf-16le)"] == value.decode().encode("utf-16le")
    assert all(len(data) >= 16 for data in made.values())
    assert encode(made)


def test_key_forms(tmp_path):
    """What is looked for of a key is in its file, and not in its certificate."""
    from peers.certs import Authority

    cert, key = Authority(tmp_path).client()
    patterns = key_patterns("key", key)
    text, der = (
        key.read_text(),
        subprocess.run(["openssl", "pkey", "-in", key, "-outform", "DER"], capture_output=True, check=True).stdout,
    )
    assert sum(data in text.encode() for data in patterns.values()) >= 2
    assert patterns["key scalar (raw)"] in der
    public = (
        cert.read_bytes()
        + subprocess.run(["openssl", "x509", "-in", cert, "-outform", "DER"], capture_output=True, check=True).stdout
    )
    Scanner(tmp_path, patterns).in_bytes(public, "the certificate")
