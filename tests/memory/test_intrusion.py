# SPDX-License-Identifier: Apache-2.0
"""
What root can still do: cores (in vain), and running code in the daemon's own context (with success).

Secret memory stops who looks from outside. Who runs code inside reads what the daemon reads; that is for the kernel
guard to stop, a later part. These tests say so by succeeding: when one fails, docs/threat-model.md says too little.
"""

import contextlib
import os
import pathlib
import re
import resource
import signal
import subprocess
import time

import pytest
from command import Command
from memory import forms, text_canary
from peers.process import end

DEADLINE = 60
CORE_PATTERN = pathlib.Path("/proc/sys/kernel/core_pattern")
# libthread_db wants to read the threads' stacks, which lie in secret memory, and gives up the whole attach.
GDB = ("gdb", "-nx", "-batch", "-iex", "set libthread-db-search-path /nowhere", "-ex", "set confirm off")


class Target:
    """A daemon that has read a secret of a sealed vault, and what to look for."""

    def __init__(self, daemon, mount, passphrase, password, scanner):
        self.daemon = daemon
        self.pid = daemon.pid
        self.mount = mount
        self.password = password
        self.scanner = scanner({**forms("value", password), **forms("passphrase", passphrase)})

    def read(self):
        return (self.mount / "app/db/password").read_bytes()


@pytest.fixture
def target(cloudtaser, cloudtaserd, scanner, root, tmp_path):
    """target(env) starts one."""
    passphrase, password = text_canary(), text_canary(4000)
    file = tmp_path / "passphrase"
    file.touch(mode=0o600)
    file.write_bytes(passphrase + b"\n")
    vault = tmp_path / "vault"
    how = ("--vault", f"file:{vault}", "--passphrase-file", file)
    made = cloudtaser("vault", "init", *how, "--kdf-memory", 8, "--kdf-ops", 1)
    assert made.returncode == 0, made.stderr
    put = cloudtaser("put", "app/db", "password=-", *how, input=password)
    assert put.returncode == 0, put.stderr
    mount = tmp_path / "mount"
    mount.mkdir()

    def start(env=None):
        daemon = cloudtaserd(
            {
                "vaults": {"local": {"file": str(vault), "passphrase_file": str(file), "refresh": "1h"}},
                "mounts": [{"path": str(mount), "vault": "local"}],
            },
            env=env,
        )
        found = Target(daemon, mount, passphrase, password, scanner)
        assert found.read() == password
        return found

    yield start
    # A daemon that was killed leaves its mount.
    if f" {mount} " in pathlib.Path("/proc/self/mountinfo").read_text():
        subprocess.run(["umount", "-l", mount], check=False)


def gdb(pid, *commands, timeout=DEADLINE):
    argv = [*GDB, "-ex", f"attach {pid}"]
    for command in commands:
        argv += ["-ex", command]
    done = subprocess.run(
        argv, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, text=True, errors="replace"
    )
    return done.stdout + done.stderr


# --- cores


def gcore(pid, file):
    """A core of everything that is mapped, what is marked as not to be dumped included."""
    said = gdb(pid, "set use-coredump-filter off", "set dump-excluded-mappings on", f"gcore {file}", "detach")
    assert file.exists(), said
    assert file.stat().st_size > 1_000_000, said


def test_a_core_that_root_takes_with_gcore_holds_nothing(target, tmp_path):
    running = target()
    core = tmp_path / "core"
    gcore(running.pid, core)
    hits = running.scanner.scan_file(core).hits
    core.unlink()
    assert not hits, "\n".join(map(str, hits))
    assert running.read() == running.password, "it goes on"


def test_gcore_finds_the_secret_without_secret_memory(target, tmp_path):
    """The search of a core can fail."""
    running = target({"CLOUDTASER_SECRET_MEMORY": "off"})
    core = tmp_path / "core"
    gcore(running.pid, core)
    assert running.scanner.scan_file(core).found("value")
    core.unlink()


@contextlib.contextmanager
def core_pattern(text):
    before = CORE_PATTERN.read_text()
    CORE_PATTERN.write_text(text)
    try:
        yield
    finally:
        CORE_PATTERN.write_text(before)


@pytest.mark.parametrize("to", ["file", "pipe"])
def test_a_crash_writes_no_core(to, target, tmp_path):
    """
    RLIMIT_CORE is 0, which is enough for a core_pattern that names a file; it does not keep the kernel from a pipe, and
    there being undumpable does. That cores are written here at all is seen by another process's.
    """
    cores = tmp_path / "cores"
    cores.mkdir()
    pattern = f"{cores}/core.%p"
    if to == "pipe":
        taker = tmp_path / "taker"
        taker.write_text(f'#!/bin/sh\ncat >"{cores}/core.$1"\n')
        taker.chmod(0o755)
        pattern = f"|{taker} %p"
    assert len(pattern) < 128, "the kernel cuts it off"
    running = target()
    assert resource.prlimit(running.pid, resource.RLIMIT_CORE) == (0, 0)
    with core_pattern(pattern):
        os.kill(running.pid, signal.SIGABRT)
        assert running.daemon.process.wait(DEADLINE) == -signal.SIGABRT
        other = crash_of_another("unlimited" if to == "file" else "0", cores)
    # Cores are written one after the other, and a process is not gone before its own is.
    assert [core.name for core in cores.iterdir()] == [f"core.{other}"]


def crash_of_another(limit, cores):
    argv = ["sh", "-c", f"ulimit -c {limit}; kill -ABRT $$"]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as other:
        assert other.wait() == -signal.SIGABRT
    deadline = time.monotonic() + DEADLINE
    core = cores / f"core.{other.pid}"
    while not core.exists() or not core.stat().st_size:
        assert time.monotonic() < deadline, "this machine writes no cores: the test proves nothing"
        time.sleep(0.02)
    return other.pid


# --- other processes of the same user

TRY = """
import ctypes, os, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def listing(): return os.listdir(f"/proc/{pid}/fd")
def file(name): return lambda: open(f"/proc/{pid}/{name}", "rb").read(1)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0: raise OSError(ctypes.get_errno(), "")
PIDFD_GETFD, PTRACE, PTRACE_ATTACH = 438, 101, 16
ways = {
    "fd": listing, "environ": file("environ"), "maps": file("maps"),
    "mem": lambda: os.close(os.open(f"/proc/{pid}/mem", 0)),
    "pidfd_getfd": lambda: call(PIDFD_GETFD, os.pidfd_open(pid), 0, 0),
    "ptrace": lambda: call(PTRACE, PTRACE_ATTACH, pid, 0, 0),
}
for name, way in ways.items():
    try:
        way()
        print(name)
    except PermissionError:
        pass
"""


def test_another_process_of_the_same_user_does_not_get_in(user, build, cloudtaser, root, tmp_path):
    """Undumpable: what a user's own programs may do to each other, they may not do to ours."""
    passphrase = user.home / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_bytes(text_canary())
    user.own(passphrase)
    mount = user.home / "mount"
    mount.mkdir()
    user.own(mount)
    how = ("--vault", f"file:{user.home / 'vault'}", "--passphrase-file", passphrase)
    made = cloudtaser("vault", "init", *how, "--kdf-memory", 8, "--kdf-ops", 1, user=user)
    assert made.returncode == 0, made.stderr

    def ways_into(pid):
        argv = user.argv("/usr/bin/python3", "-c", TRY, pid)
        return set(subprocess.run(argv, capture_output=True, check=True, text=True).stdout.split())

    with Command([build / "cloudtaser", "mount", mount, *how], user.home, user=user) as command:
        command.until(lambda: f" {mount} " in pathlib.Path("/proc/self/mountinfo").read_text(), "the mount")
        assert ways_into(command.pid) == set()
    with Command(["sleep", "1000"], user.home, user=user) as other:
        other.until(lambda: pathlib.Path(f"/proc/{other.pid}/comm").read_text() == "sleep\n", "sleep")
        # ptrace and its like may be closed to everybody but parents (Yama).
        assert ways_into(other.pid) >= {"fd", "environ", "maps"}


def test_a_descriptor_that_is_handed_on_reads_nothing(target, user):
    """Access is asked of who reads, at each read."""
    running = target()
    for who, text in (("root", running.password), ("somebody else", b"")):
        argv = ["cat"] if who == "root" else user.argv("cat")
        with open(running.mount / "app/db/password", "rb") as file:
            done = subprocess.run(argv, stdin=file, capture_output=True)
        assert done.stdout == text, who
        assert (b"Permission denied" in done.stderr) == (not text)


# --- code in the daemon's context


def secret_mappings(pid):
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw\S* .*/secretmem", line)
        if found:
            yield int(found[1], 16), int(found[2], 16)


def injected_dump(running, file):
    """Has the daemon itself write its secret memory into a file; [(address, bytes)]."""
    mappings = list(secret_mappings(running.pid))
    assert mappings
    commands = [f'set $fd = ((int (*)(const char *, int, int))open)("{file}", {os.O_WRONLY | os.O_CREAT}, 0600)']
    for start, stop in mappings:
        commands.append(f"print ((long (*)(int, void *, long))write)($fd, (void *){start:#x}, {stop - start})")
    commands += ["print ((int (*)(int))close)($fd)", "detach"]
    said = gdb(running.pid, *commands)
    sizes = [stop - start for start, stop in mappings]
    data = file.read_bytes() if file.exists() else b""
    assert len(data) == sum(sizes), said
    found, at = [], 0
    for (start, _), size in zip(mappings, sizes, strict=True):
        found.append((start, data[at : at + size]))
        at += size
    return found


def address_of(running, file):
    for start, data in injected_dump(running, file):
        if running.password in data:
            return start + data.index(running.password)
    return None


def test_ptrace_injection_by_root_gets_the_secret_only_the_guard_closes_this(target, tmp_path):
    running = target()
    address = address_of(running, tmp_path / "dump")
    assert address, "the daemon, made to write(2) its own secret memory, did not show the secret: only the guard was to"
    assert running.read() == running.password, "and nobody notices"
    # The same debugger, looking from outside:
    outside = tmp_path / "outside"
    said = gdb(running.pid, f"dump binary memory {outside} {address:#x} {address + 64:#x}", "detach")
    assert "Cannot access memory" in said
    assert not outside.exists() or running.password[:16] not in outside.read_bytes()


def test_bpf_probe_read_user_by_root_gets_the_secret_only_the_guard_closes_this(target, memory_programs, tmp_path):
    running = target()
    address = address_of(running, tmp_path / "dump")
    assert address
    argv = [memory_programs / "bpfread", str(running.pid), hex(address), "2048"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        try:
            said = reader.stderr.readline()
            assert said == b"attached\n", said + reader.stderr.read()
            assert running.read() == running.password  # system calls of the daemon's
            data, said = reader.communicate(timeout=DEADLINE)
        finally:
            end(reader)
    assert reader.returncode == 0, said
    assert data == running.password[:2048], "bpf_probe_read_user did not show the secret: only the guard was to stop it"
    assert running.read() == running.password, "and nobody notices"
