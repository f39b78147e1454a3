# SPDX-License-Identifier: Apache-2.0
"""Where the rule has exceptions: the fallback without memfd_secret, and the page cache (docs/threat-model.md)."""

import ctypes
import json
import mmap
import os

import pytest
from harness import programs
from memory import forms, text_canary
from peers.process import wait_until

# As on a kernel that has no memfd_secret. -D: the daemon stays our child, strace its grandchild.
NO_MEMFD_SECRET = ("-e", "trace=memfd_secret", "-e", "inject=memfd_secret:error=ENOSYS")


@pytest.fixture
def vault(cloudtaser, tmp_path):
    """(configuration, mount, value, patterns)"""
    passphrase, value = text_canary(), text_canary()
    file = tmp_path / "passphrase"
    file.touch(mode=0o600)
    file.write_bytes(passphrase + b"\n")
    how = ("--vault", f"file:{tmp_path / 'vault'}", "--passphrase-file", file)
    made = cloudtaser("vault", "init", *how, "--kdf-memory", 8, "--kdf-ops", 1)
    assert made.returncode == 0, made.stderr
    put = cloudtaser("put", "app/db", "password=-", *how, input=value)
    assert put.returncode == 0, put.stderr
    mount = tmp_path / "mount"
    mount.mkdir()
    config = {
        "vaults": {"local": {"file": str(tmp_path / "vault"), "passphrase_file": str(file)}},
        "mounts": [{"path": str(mount), "vault": "local"}],
    }
    return config, mount, value, {**forms("value", value), **forms("passphrase", passphrase)}


def test_preferred_falls_back_to_locked_memory_that_root_reads_and_says_so(
    vault, cloudtaser, cloudtaserd, scanner, root, tmp_path
):
    config, mount, value, patterns = vault
    config["secret_memory"] = "preferred"
    strace = ("strace", "-D", "-f", "-qq", "-o", tmp_path / "strace", *NO_MEMFD_SECRET)
    daemon = cloudtaserd(config, prefix=strace)
    assert (mount / "app/db/password").read_bytes() == value
    result = scanner(patterns).scan(daemon.pid)
    assert result.found("value (raw)"), "root reads it"
    # No better than locked memory, and no worse: not swapped, not in cores, not inherited.
    elsewhere = [str(hit) for hit in result.hits if not {"lo", "dd", "dc"} <= set(hit.mapping.flags)]
    assert not elsewhere, "\n".join(elsewhere)
    assert not result.secret
    done = cloudtaser("status", "-o", "json", "-c", daemon.config_file)
    said = next(d for d in json.loads(done.stdout)["daemons"] if d["pid"] == daemon.pid)
    assert said["secret_memory"]["kind"] == "locked"
    assert {c["name"]: c["state"] for c in said["checks"]}["secret memory"] == "no"
    assert b"memfd_secret is not available" in daemon.log.read_bytes()
    assert daemon.stop() == 0


def test_required_refuses_to_start_without_memfd_secret(vault, build, root, tmp_path):
    config, mount, *_ = vault
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"control_socket": str(tmp_path / "c.sock"), **config}))
    argv = ["strace", "-D", "-f", "-qq", "-o", tmp_path / "strace", *NO_MEMFD_SECRET]
    done = programs.run([*argv, build / "cloudtaserd", "-c", file], tmp_path)
    assert done.returncode == 69
    assert b"secretmem.enable=1" in done.stderr
    assert not os.path.ismount(mount)


# --- the page cache


def resident(file):
    """How many pages of a file are in the page cache (cachestat(2))."""
    SYS_cachestat = 451

    class Range(ctypes.Structure):
        _fields_ = [("off", ctypes.c_uint64), ("len", ctypes.c_uint64)]

    class Stat(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted")]

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    whole, stat = Range(0, 0), Stat()
    done = libc.syscall(SYS_cachestat, file.fileno(), ctypes.byref(whole), ctypes.byref(stat), 0)
    if done < 0:
        pytest.skip(f"cachestat: {os.strerror(ctypes.get_errno())} (Linux 6.5 has it)")
    return stat.cache


def test_reads_leave_nothing_in_the_page_cache(vault, cloudtaserd, tmp_path):
    config, mount, value, _ = vault
    cloudtaserd(config)
    for name in ("password", ".json"):
        with open(mount / "app/db" / name, "rb") as file:
            assert value in file.read()
            assert resident(file) == 0
    other = tmp_path / "ordinary"
    other.write_bytes(value)
    with open(other, "rb") as file:
        assert resident(file) == 1, "the count is one"
    with open(mount / "app/db/password", "rb") as file, pytest.raises(OSError):
        mmap.mmap(file.fileno(), len(value), mmap.MAP_SHARED, mmap.PROT_READ)


def test_a_private_mapping_by_a_reader_is_in_the_page_cache_until_it_is_let_go(vault, cloudtaserd):
    """The exception, shown: a shared mapping is refused, a private one is the kernel's own doing."""
    config, mount, value, _ = vault
    cloudtaserd(config)
    path = mount / "app/db/password"
    with open(path, "rb") as watcher:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), len(value), mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
            assert mapped[:] == value
            assert resident(watcher) == 1
        wait_until(lambda: resident(watcher) == 0, 10, "that the page is dropped")
