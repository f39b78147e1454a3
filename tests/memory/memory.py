# SPDX-License-Identifier: Apache-2.0
"""Looking for secrets in processes: patterns, the scan (scan.c), and what a test may conclude from it."""

import base64
import binascii
import dataclasses
import functools
import json
import os
import pathlib
import secrets
import socket
import struct
import subprocess

WINDOW = 16  # bytes: any part of that size is found (scan.c)
GONE = 3  # the scan's exit status when the process went away

# Mappings that nobody can read: secret memory as it should be, and pages that the kernel shows to every process.
_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def text_canary(size=64):
    """Random letters and digits; no window of it is anywhere by chance."""
    return "".join(secrets.choice(_NAMES) for _ in range(size)).encode()


def forms(name, value):
    """{name of the form: bytes}: how a value might be kept by somebody who took it apart."""
    found = {
        "raw": value,
        "reversed": value[::-1],  # as a little-endian number
        "hex": binascii.hexlify(value),
        "HEX": binascii.hexlify(value).upper(),
        "utf-16le": b"".join(bytes([b, 0]) for b in value),  # separated by NUL bytes, that is
        "utf-16be": b"".join(bytes([0, b]) for b in value),
        "percent": b"".join(b"%%%02X" % b for b in value),
        "percent, lower": b"".join(b"%%%02x" % b for b in value),
    }
    for shift in range(3):  # wherever in a longer text it begins
        coded = base64.b64encode(b"\0" * shift + value + b"\0" * (3 - (shift + len(value)) % 3))
        inner = coded[(8 * shift + 5) // 6 : (8 * (shift + len(value))) // 6]
        found[f"base64+{shift}"] = inner
        if b"+" in inner or b"/" in inner:
            found[f"base64url+{shift}"] = inner.replace(b"+", b"-").replace(b"/", b"_")
    return {f"{name} ({form})": data for form, data in found.items()}


def key_patterns(name, pem_file):
    """
    The secret of a P-256 key's file in PEM: its scalar in every form, and the lines of the file as far as they hold
    nothing else. (What stands around the scalar is the same in every certificate.)
    """
    lines = pathlib.Path(pem_file).read_text().split("\n")
    body = "".join(line for line in lines if line and not line.startswith("-"))
    der = base64.b64decode(body)
    # ECPrivateKey: version 1, then an OCTET STRING of 32 bytes.
    at = der.index(b"\x02\x01\x01\x04\x20") + 5
    scalar = der[at : at + 32]
    found = forms(f"{name} scalar", scalar)
    first, last = (at * 8 + 5) // 6, (at + 32) * 8 // 6  # of the base64 text
    for line in range(0, len(body), 64):
        part = body[max(first, line) : min(last, line + 64)]
        if len(part) >= WINDOW:
            found[f"{name} PEM line {line // 64 + 1}"] = part.encode()
    assert len([n for n in found if "PEM" in n]) >= 2
    return found


@dataclasses.dataclass(frozen=True)
class Mapping:
    start: int
    end: int
    perms: str
    flags: tuple
    name: str

    @classmethod
    def parse(cls, span, perms, flags, name):
        start, end = span.split("-")
        return cls(int(start, 16), int(end, 16), perms, tuple(flags.split()), name)

    @property
    def size(self):
        return self.end - self.start

    @property
    def secret(self):
        return self.name.startswith("/secretmem")

    @property
    def bounce(self):
        """Locked, not dumped, not inherited, and not secret: as fs/device.c makes its reply buffers."""
        return not self.secret and self.name == "" and {"lo", "dd", "dc"} <= set(self.flags)

    def __str__(self):
        return f"{self.start:x}-{self.end:x} {self.perms} {self.name or 'anonymous'} [{' '.join(self.flags)}]"


@dataclasses.dataclass(frozen=True)
class Hit:
    pattern: str
    offset: int
    length: int
    address: int
    mapping: Mapping

    def __str__(self):
        return (
            f"{self.pattern}: {self.length} bytes (from its byte {self.offset}) at {self.address:x} in {self.mapping}"
        )


@dataclasses.dataclass
class Result:
    pid: int
    mappings: list
    hits: list
    secret: list  # secret memory, closed to us as it should be
    unreadable: list
    bytes: int = 0

    def names(self):
        return {hit.pattern for hit in self.hits}

    def found(self, what):
        """Hits of patterns whose name begins so."""
        return [hit for hit in self.hits if hit.pattern.startswith(what)]


class Gone(Exception):
    """The process ended before it could be looked at."""


def encode(patterns):
    assert patterns
    out = []
    for name, data in patterns.items():
        assert len(data) >= WINDOW, name
        name = name.encode()
        out.append(struct.pack("=II", len(name), len(data)) + name + data)
    return b"".join(out)


class Scanner:
    """Patterns to look for; each call looks at a process."""

    def __init__(self, program, patterns):
        assert program.exists(), f"{program} is not built: make test-programs"
        self.program = program
        self.patterns = dict(patterns)
        self._input = encode(self.patterns)

    def scan(self, pid, running=False):
        """What is there. Fails when a mapping that ought to be readable is not: such a scan proves nothing."""
        result = self._run(pid, *(["--running"] if running else []), str(pid))
        assert not result.unreadable, f"could not be read: {[str(m) for m in result.unreadable]}"
        # A stack, a heap, a program and its libraries: less than that was no look at a process of ours.
        assert len(result.mappings) > 10 and result.bytes > 500_000, "next to nothing was looked at"
        return result

    def scan_file(self, file):
        """The same in a large file."""
        result = self._run(0, "--file", str(file))
        assert result.bytes == os.path.getsize(file)
        return result

    def _run(self, pid, *argv):
        done = subprocess.run([self.program, *argv], input=self._input, capture_output=True)
        if done.returncode == GONE:
            raise Gone(f"process {pid} is gone")
        assert done.returncode == 0, done.stderr.decode()
        result = Result(pid, [], [], [], [])
        complete = False
        for line in done.stdout.decode().splitlines():
            kind, *fields = line.split("\t")
            if kind == "mapping":
                result.mappings.append(Mapping.parse(*fields))
            elif kind == "hit":
                name, offset, length, address, *rest = fields
                result.hits.append(Hit(name, int(offset), int(length), int(address, 16), Mapping.parse(*rest)))
            elif kind in ("secret", "unreadable"):
                getattr(result, kind).append(Mapping.parse(*fields))
            elif kind == "scanned":
                result.bytes = int(fields[1])
                complete = True
        assert complete, "the scan did not come to its end"
        return result

    def clean(self, pid, stage, secret=True):
        """No hit at all; and secret memory is there, and closed."""
        result = self.scan(pid)
        assert not result.hits, f"{stage}:\n" + "\n".join(map(str, result.hits))
        if secret:
            assert result.secret, f"{stage}: process {pid} has no secret memory that is closed to root"
        return result

    def in_bytes(self, data, what):
        """The same search in bytes that are at hand: a log, a file."""
        for at in range(len(data) - WINDOW + 1):
            name = self.windows.get(data[at : at + WINDOW])
            assert name is None, f"{what}: {name}, at byte {at}"

    @functools.cached_property
    def windows(self):
        return {p[at : at + WINDOW]: name for name, p in self.patterns.items() for at in range(len(p) - WINDOW + 1)}


def files_of(pid):
    """What every process shows of itself besides its memory: argv, environ, names, links, by /proc."""
    shown = {}
    for name in ("cmdline", "environ", "comm", "status", "stat", "wchan", "mountinfo", "maps", "limits", "auxv"):
        try:
            shown[name] = pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
        except OSError as e:
            if not os.path.exists(f"/proc/{pid}"):
                raise Gone(f"process {pid} is gone") from e
            raise
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.fsencode(os.readlink(f"/proc/{pid}/fd/{fd}")))
        except FileNotFoundError:
            continue
    shown["fd"] = b"\0".join(links)
    return shown


def traced(pid):
    """Whether every thread has a tracer."""
    return all(
        "TracerPid:\t0\n" not in pathlib.Path(f"/proc/{pid}/task/{tid}/status").read_text()
        for tid in os.listdir(f"/proc/{pid}/task")
    )


def ask(daemon, verb, **more):
    """Asks a daemon over its control socket (docs/formats/control.md): (result, the bytes of the answer)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.settimeout(30)
        control.connect(str(daemon.control))
        control.send(json.dumps({"v": 1, "verb": verb, **more}).encode())
        raw = control.recv(1 << 16)
    answer = json.loads(raw)
    assert answer["ok"], answer
    return answer["result"], raw
