# SPDX-License-Identifier: Apache-2.0
"""What box.py is made of: the namespaces, a name server, a way to the vault, and the observers."""

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import pathlib
import select
import socket
import struct
import subprocess
import threading
import time

from peers.process import die_with_parent, wait_until

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
_SYS_PIDFD_GETFD = 438  # the same on every architecture

NAMED_ADDRESS, VAULT_NAME = "192.0.2.11", "vault.example.test"
RESOLVER = "192.0.2.53"
MARKER = "192.0.2.254"

# What runs in the box's first process: names, addresses and services of the box's own. $1: a folder for /etc.
_PREPARE = """
set -e
mount -t tmpfs -o mode=755 box "$1"
cp -a /etc/. "$1"
rm -f "$1/resolv.conf" "$1/nsswitch.conf" "$1/hosts"
printf 'nameserver %s\\noptions timeout:1 attempts:2\\n' "$2" >"$1/resolv.conf"
printf 'passwd: files\\ngroup: files\\nshadow: files\\nhosts: files dns\\nnetworks: files\\n' >"$1/nsswitch.conf"
printf '127.0.0.1 localhost\\n::1 localhost\\n' >"$1/hosts"
mount --bind "$1" /etc
mount -t tmpfs -o mode=755 box /run
ip link set lo up
ip route add local default dev lo
ip -6 route add local default dev lo 2>/dev/null || true
echo ready
exec cat
"""


def _setns(fd):
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _address(raw):
    """A sockaddr as (family, what): (host, port) of internet addresses, the path of Unix ones."""
    family = int.from_bytes(raw[:2], "little") if len(raw) >= 2 else None
    if family == socket.AF_INET and len(raw) >= 8:
        return family, (str(ipaddress.ip_address(raw[4:8])), int.from_bytes(raw[2:4], "big"))
    if family == socket.AF_INET6 and len(raw) >= 24:
        return family, (str(ipaddress.ip_address(raw[8:24])), int.from_bytes(raw[2:4], "big"))
    if family == socket.AF_UNIX:
        path = raw[2:]
        path = b"@" + path[1:] if path[:1] == b"\0" else path.split(b"\0")[0]
        return family, os.fsdecode(path)
    return family, None


class Namespace:
    """The box's first process, which keeps its namespaces."""

    def __init__(self, folder):
        etc = folder / "etc"
        etc.mkdir()
        self.process = subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--propagation", "slave"),
                *("sh", "-c", _PREPARE, "box", etc, RESOLVER),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        if self.process.stdout.readline() != b"ready\n":
            _, said = self.process.communicate()
            raise AssertionError(f"no box: {said.decode()}")
        self.pid = self.process.pid
        self.net, self.mnt = f"/proc/{self.pid}/ns/net", f"/proc/{self.pid}/ns/mnt"
        self._net = os.open(self.net, os.O_RDONLY | os.O_CLOEXEC)
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def inside(self):
        """For this thread, and the threads that it starts: sockets made meanwhile are the box's."""
        _setns(self._net)
        try:
            yield
        finally:
            _setns(self._home)

    def close(self):
        self.process.communicate()
        os.close(self._net)
        os.close(self._home)


class Packets:
    """Everything on the box's loopback device, that is: everything."""

    _OUTGOING = 4

    def __init__(self, ns):
        self.flows = []  # (protocol, source, destination, a TCP connection's first packet?)
        self._marks = set()
        with ns.inside():
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # ETH_P_ALL
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
            self._mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while True:
            try:
                data, (_, ethertype, kind, *_) = self._sock.recvfrom(65536)
            except OSError:
                return
            if kind == self._OUTGOING:  # each packet passes twice
                self._packet(data, ethertype)

    def _packet(self, data, ethertype):
        if ethertype == 0x0800:
            protocol, start = data[9], (data[0] & 15) * 4
            source, destination = data[12:16], data[16:20]
        elif ethertype == 0x86DD:
            protocol, start = data[6], 40
            source, destination = data[8:24], data[24:40]
        else:
            self.flows.append((f"ethertype {ethertype:#x}", None, None, False))
            return
        source, destination = str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination))
        if protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
            source_port, port = struct.unpack("!HH", data[start : start + 4])
            if destination == MARKER:
                self._marks.add(data[start + 8 :])
                return
            first = protocol == socket.IPPROTO_TCP and data[start + 13] & 0x12 == 0x02
            name = "TCP" if protocol == socket.IPPROTO_TCP else "UDP"
            self.flows.append((name, (source, source_port), (destination, port), first))
        elif protocol == socket.IPPROTO_ICMP and data[start] == 3:
            pass  # the kernel's answer to a packet that nobody took, which has been seen itself
        elif protocol == socket.IPPROTO_ICMPV6 and data[start] in (1, 131, 132, 143):
            pass  # the same; and what the kernel says of its own multicast groups
        else:
            self.flows.append((f"protocol {protocol}", (source, 0), (destination, 0), False))

    def settle(self):
        """Waits until all that was sent so far has been seen. Fails when some of it was lost."""
        mark = os.urandom(16)
        self._mark.sendto(mark, (MARKER, 9))
        wait_until(lambda: mark in self._marks, 10, "the packet observer")
        _, dropped = struct.unpack("II", self._sock.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
        assert dropped == 0, f"{dropped} packets were not looked at"

    def close(self):
        self._mark.close()
        self._sock.close()


class Resolver:
    """The box's name server: knows VAULT_NAME, and writes down what it is asked."""

    def __init__(self, ns):
        self.asked = []
        with ns.inside():
            self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._sock.bind((RESOLVER, 53))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                query, who = self._sock.recvfrom(4096)
            except OSError:
                return
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
                at += 1 + query[at]
            name, question = ".".join(labels), query[12 : at + 5]
            kind = int.from_bytes(query[at + 1 : at + 3], "big")
            self.asked.append(name)
            known = name.lower() == VAULT_NAME
            answers = b""
            if known and kind == 1:
                answers = (
                    b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04" + ipaddress.ip_address(NAMED_ADDRESS).packed
                )
            flags = 0x8180 if known else 0x8183
            self._sock.sendto(
                query[:2] + struct.pack("!HHHHH", flags, 1, 1 if answers else 0, 0, 0) + question + answers, who
            )

    def close(self):
        self._sock.close()


class Relay:
    """An address in the box behind which a server outside of it stands: bytes go back and forth."""

    def __init__(self, ns, address, port, target):
        self.peer = (address, port)
        self.target = target
        self.connections = 0
        with ns.inside():
            self._sock = socket.create_server((address, port), backlog=128)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                here, _ = self._sock.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(here,), daemon=True).start()

    def _serve(self, here):
        with here, socket.create_connection(("127.0.0.1", self.target)) as there:
            other = {here: there, there: here}
            while True:
                for s in select.select([here, there], [], [])[0]:
                    try:
                        data = s.recv(65536)
                        if not data:
                            return
                        other[s].sendall(data)
                    except OSError:
                        return

    def close(self):
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class Call:
    """A system call that was seen."""

    def __init__(self, program, name, family=None, type=None, protocol=None, address=None, flags=None):
        self.program, self.name = program, name
        self.family, self.type, self.protocol = family, type, protocol
        self.address = address  # None: none, or in memory that cannot be read
        self.flags = flags

    def __str__(self):
        def text(value, prefix):
            names = [n for n in dir(socket) if n.startswith(prefix) and getattr(socket, n) == value]
            return names[0] if names else str(value)

        words = [self.program, self.name]
        if self.family is not None:
            words.append(text(self.family, "AF_"))
        if self.type is not None:
            words.append(text(self.type, "SOCK_"))
        if self.protocol:
            words.append(f"protocol {self.protocol}")
        if self.address is not None:
            words.append(str(self.address))
        if self.flags is not None:
            words.append(hex(self.flags))
        return " ".join(words)


class Calls:
    """Takes the listeners of boxed programs and lets every call pass, written down."""

    _RECV, _SEND = 0xC0502100, 0xC0182101
    _NOTE, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
    _CONTINUE = 1

    def __init__(self, folder):
        self.seen = []
        self.programs = 0
        self.path = folder / "observer"
        self._threads = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.bind(str(self.path))
        self._sock.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                s, _ = self._sock.accept()
            except OSError:
                return
            with s:
                pid, _, _ = struct.unpack("iII", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                fd, *numbers = s.recv(4096).decode().split()
                names = {int(nr): name for name, _, nr in (n.partition("=") for n in numbers)}
                listener = self._fetch(pid, int(fd))
                thread = threading.Thread(target=self._watch, args=(listener, names), daemon=True)
                self._threads.append(thread)
                thread.start()
                self.programs += 1
                s.send(b".")

    @staticmethod
    def _fetch(pid, fd):
        """Another process's descriptor."""
        pidfd = os.pidfd_open(pid)
        try:
            mine = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
        finally:
            os.close(pidfd)
        if mine < 0:
            raise OSError(ctypes.get_errno(), f"pidfd_getfd({pid}, {fd})")
        return mine

    def _watch(self, listener, names):
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            if any(events & select.POLLHUP for _, events in poll.poll()):
                os.close(listener)  # nobody is left who could call
                return
            note = bytearray(self._NOTE.size)
            try:
                fcntl.ioctl(listener, self._RECV, note)
            except OSError:
                continue  # gone meanwhile
            number, tid, _, nr, _, _, *arguments = self._NOTE.unpack(note)
            later = None
            try:
                later = self._look(tid, names.get(nr, f"system call {nr}"), arguments)
            finally:
                with contextlib.suppress(OSError):
                    fcntl.ioctl(listener, self._SEND, bytearray(self._ANSWER.pack(number, 0, 0, self._CONTINUE)))
            if later:
                later()

    def _look(self, tid, name, arguments):
        try:
            status = pathlib.Path(f"/proc/{tid}/status").read_text()
        except OSError:
            return None  # killed while it waited for us
        program = status.split("\n")[0].partition("\t")[2]
        tgid = int(status.split("Tgid:")[1].split()[0])
        if name == "socket":
            self.seen.append(Call(program, name, arguments[0], arguments[1] & 0xF, arguments[2]))
            return None
        if name in ("setns", "unshare", "io_uring_setup"):
            flags = arguments[1] if name == "setns" else arguments[0]
            self.seen.append(Call(program, name, flags=flags if name != "io_uring_setup" else None))
            return None
        try:
            sock = socket.socket(fileno=self._fetch(tgid, arguments[0] & 0xFFFFFFFF))
        except OSError as e:
            self.seen.append(Call(program, f"{name} of a descriptor that could not be looked at ({e})"))
            return None
        with sock:
            call = Call(program, name, sock.family, sock.type, sock.proto)
            at, size = {"connect": (1, 2), "bind": (1, 2), "sendto": (4, 5)}.get(name, (None, None))
            if at is not None:
                raw = self._memory(tid, arguments[at], arguments[size] & 0xFFFF)
                if raw:
                    call.address = _address(raw)[1]
                    if _address(raw)[0] == socket.AF_UNSPEC:
                        call.name = f"{name} to nobody"
            self.seen.append(call)
            if name == "connect" and call.family == socket.AF_UNIX and call.address is None:
                again = sock.dup()
                return lambda: self._peer(call, again)
        return None

    @staticmethod
    def _memory(tid, address, size):
        """None where it cannot be read: secret memory."""
        try:
            fd = os.open(f"/proc/{tid}/mem", os.O_RDONLY)
        except OSError:
            return None
        try:
            return os.pread(fd, min(size, 128), address)
        except OSError:
            return None
        finally:
            os.close(fd)

    @staticmethod
    def _peer(call, sock):
        """Where the call went, asked afterwards; a connection to nobody goes nowhere."""
        with sock:
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline:
                try:
                    call.address = os.fsdecode(sock.getpeername())
                    return
                except OSError:
                    time.sleep(0.001)
            call.name = "failed connect"

    def settle(self):
        """Waits until every program that was started has ended, with its children."""
        deadline = time.monotonic() + 20
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a program of the box still runs"
        self._threads.clear()

    def close(self):
        self._sock.close()
