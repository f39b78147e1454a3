# SPDX-License-Identifier: Apache-2.0
"""A network namespace out of which nothing leaves unseen.

    vault = box.by_address()             # the openbao of this run, at an address in the box: a peer from now on
    daemon = box.daemon({"vaults": {"bao": {**vault, ...}}, ...})
    box.run("cloudtaser", "get", ...)    # any program, ours or another
    box.path(mount)                      # a file of the box, as seen from here

When the test ends everything is judged (Box.findings): who was contacted that is no peer, which names were looked up
that no peer has, which kinds of sockets were made. A peer that nobody spoke to fails the test too, and one that the
observers did not see spoken to.

Three observers look at different things, because none of them sees all:

  packets     in the box every address of the world is a local one (a route of type `local`), so that whatever is sent
              to wherever passes the loopback device, where a packet socket takes it all
  resolver    the only name server of the box's resolv.conf: says what it was asked for
  calls       of every program that box.run and box.daemon start, and of its children (boxed.c): also what makes no
              packet (Unix sockets, netlink, raw sockets), and what fails
"""

import contextlib
import pathlib
import shutil
import socket
import tempfile

from harness import programs
from observers import CLONE_NEWNET, NAMED_ADDRESS, RESOLVER, VAULT_NAME, Calls, Namespace, Packets, Relay, Resolver
from peers.process import wait_until

VAULT_ADDRESS, VAULT_PORT = "192.0.2.10", 8200

# The C library asks for a cache daemon before it reads /etc/hosts or /etc/passwd. In the box nobody listens there.
NSCD = "/var/run/nscd/socket"


class Box:
    """See the head of this file. One for a module; begin() and judge() around each test."""

    def __init__(self, boxed, build, openbao):
        self.boxed, self.build, self.openbao = boxed, build, openbao
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ct-b-"))
        self.folder.chmod(0o755)
        self._open = contextlib.ExitStack()
        self._open.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self.ns = self._opened(Namespace(self.folder))
            self.packets = self._opened(Packets(self.ns))
            self.resolver = self._opened(Resolver(self.ns))
            self.calls = self._opened(Calls(self.folder))
            self.relay = self._opened(Relay(self.ns, VAULT_ADDRESS, VAULT_PORT, openbao.port))
            self.named = self._opened(Relay(self.ns, NAMED_ADDRESS, VAULT_PORT, openbao.port))
        except BaseException:
            self._open.close()
            raise
        self.begin()

    def _opened(self, thing):
        self._open.callback(thing.close)
        return thing

    def close(self):
        self._open.close()

    # --- what a test does

    def begin(self):
        self.peers = {}  # (address, port): how often it was connected to
        self.names = set()
        self.sockets = []  # Unix sockets that may be used: paths, or folders
        self.daemons = []
        self._from = len(self.packets.flows), len(self.resolver.asked), len(self.calls.seen)
        self._before = {relay: relay.connections for relay in (self.relay, self.named)}
        self.home = pathlib.Path(tempfile.mkdtemp(dir=self.folder, prefix="h-"))
        self.sockets += [f"{self.home}/", "/run/cloudtaser/"]

    def peer(self, address, port, connections=None):
        """May, and must, be connected to. connections() counts at the peer's end."""
        self.peers[(address, port)] = connections

    def _vault(self, relay, host):
        self.peer(*relay.peer, lambda: relay.connections - self._before[relay])
        return {
            "address": f"https://{host}:{VAULT_PORT}",
            "token_file": self.openbao.token_file,
            "ca_file": self.openbao.ca_file,
            "server_name": "localhost",
        }

    def by_address(self):
        """A vault's configuration: the openbao of the run, by its address in the box."""
        return self._vault(self.relay, VAULT_ADDRESS)

    def by_name(self):
        """The same by a name, which then has to be looked up."""
        self.names.add(VAULT_NAME)
        return self._vault(self.named, VAULT_NAME)

    @property
    def prefix(self):
        return [self.boxed, self.ns.net, self.ns.mnt, self.calls.path]

    def _program(self, name):
        return self.build / name if (self.build / name).exists() else name

    def run(self, program, *arguments, env=None, **kwargs):
        """A program to its end, in the box: cloudtaser, or any other."""
        argv = [*self.prefix, self._program(program), *arguments]
        return programs.run(argv, self.home, env=env, cwd=self.home, **kwargs)

    def ok(self, *argv, **kwargs):
        done = self.run(*argv, **kwargs)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def daemon(self, config, **kwargs):
        """cloudtaserd in the box, ready; stopped when the test ends, or by the test."""
        prefix = [str(p) for p in self.prefix]
        folder = self.home / f"d{len(self.daemons)}"
        daemon = programs.Daemon(self.build / "cloudtaserd", config, folder, prefix=prefix, **kwargs)
        self.daemons.append(daemon)
        return daemon

    def path(self, path):
        """A path of the box, from outside of it."""
        return pathlib.Path(f"/proc/{self.ns.pid}/root{path}")

    # --- what is judged

    def settle(self):
        for daemon in self.daemons:
            daemon.stop()
        self.calls.settle()
        self.packets.settle()

    def findings(self):
        """Sentences about what should not have been, or should have been and was not."""
        self.settle()
        packets, asked, calls = self._from
        flows, names, seen = self.packets.flows[packets:], self.resolver.asked[asked:], self.calls.seen[calls:]
        found = [*self._of_packets(flows), *self._of_names(names)]
        for call in seen:
            why = self._of_call(call)
            if why:
                found.append(f"{why}: {call}")
        found += self._of_peers(flows, seen)
        return list(dict.fromkeys(found))

    def _of_packets(self, flows):
        servers = {("TCP", *peer) for peer in self.peers}
        if self.names:
            servers.add(("UDP", RESOLVER, 53))
        begun = set()
        for protocol, source, destination, _ in flows:
            ends = {(protocol, *end) for end in (source, destination) if end}
            if ends & servers or (protocol, destination, source) in begun:
                continue  # a peer's; or what comes back, which is no finding of its own
            begun.add((protocol, source, destination))
            yield f"a packet to {destination}, {protocol}"

    def _of_names(self, names):
        for name in names:
            if name.lower() not in self.names:
                yield f"a name was looked up: {name}"
        for name in self.names - {n.lower() for n in names}:
            yield f"nobody looked up {name}"

    def _of_call(self, call):
        internet = call.family in (socket.AF_INET, socket.AF_INET6)
        if call.name == "io_uring_setup":
            return "calls that nobody sees"
        if call.name in ("setns", "unshare"):
            # Flag 0 of setns is any kind.
            if call.flags & CLONE_NEWNET or (call.name == "setns" and call.flags == 0):
                return "another network namespace"
            return None
        if call.name.startswith("system call") or "could not be looked at" in call.name:
            return "not understood"
        if internet and not self.peers:
            return "an internet socket, and there is nobody to speak to"
        if internet and call.type not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            return "a raw socket"
        if internet and call.name in ("bind", "listen"):
            return "a socket that others can speak to"
        if internet:
            return self._of_destination(call)
        if call.family == socket.AF_UNIX:
            return self._of_unix(call)
        if call.family == socket.AF_NETLINK:
            # The C library orders the addresses that it has found by the interfaces that there are.
            return None if self.names and call.protocol == socket.NETLINK_ROUTE else "a netlink socket"
        return "a socket of a kind that nobody needs"

    def _of_destination(self, call):
        if call.address is None:
            return None  # no address, or one that only its packets show
        allowed = set(self.peers)
        if self.names:
            # The C library also connects datagram sockets to what it has found, to see from which address.
            allowed |= {(RESOLVER, 53), *((address, port) for address, _ in self.peers for port in (0, VAULT_PORT))}
        if tuple(call.address) in allowed:
            return None
        return "somebody else's address"

    def _of_unix(self, call):
        if call.address is None or call.name not in ("connect", "bind", "sendto"):
            return None
        if call.address == NSCD and call.name == "connect":
            return None
        path = str(call.address)
        if any(path == s or (s.endswith("/") and path.startswith(s)) for s in self.sockets):
            return None
        return "somebody else's Unix socket"

    def _of_peers(self, flows, seen):
        for peer, connections in self.peers.items():
            where = f"{peer[0]}:{peer[1]}"
            sent = any(first and destination == peer for _, _, destination, first in flows)
            if sent and connections:
                # Whoever connected may be gone before the other end has taken the connection.
                with contextlib.suppress(AssertionError):
                    wait_until(connections, 5, "the peer")
            if connections and not connections():
                yield f"nobody connected to {where}"
            if not sent:
                yield f"no packet to {where} was seen"
        stream = [c for c in seen if c.name == "connect" and c.type == socket.SOCK_STREAM]
        if self.peers and not any(c.family in (socket.AF_INET, socket.AF_INET6) for c in stream):
            yield "no connect to a peer was seen"
        if not self.calls.programs:
            yield "no program was watched"
