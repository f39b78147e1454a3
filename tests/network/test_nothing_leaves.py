# SPDX-License-Identifier: Apache-2.0
"""The programs speak to the vaults that they were told of, and to nobody else: box.py says how that is known.

A test that uses `box` is judged when it ends: a part of the project joins by being started with box.run or box.daemon.
"""

import json
import os
import subprocess

import pytest
from box import NAMED_ADDRESS, VAULT_ADDRESS, VAULT_PORT
from faults import ask
from harness.programs import environment
from peers.faulty import Faulty
from peers.process import die_with_parent, wait_until

PYTHON = "/usr/bin/python3"
ELSEWHERE = "198.51.100.7"
# Whatever may be set where people work: none of it is ours to follow.
ENVIRONMENT = {
    **dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"),
        f"http://{ELSEWHERE}:3128",
    ),
    "VAULT_PROXY_ADDR": f"http://{ELSEWHERE}:3128",
    "VAULT_AGENT_ADDR": f"http://{ELSEWHERE}:8100",
    "BAO_AGENT_ADDR": f"http://{ELSEWHERE}:8100",
    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{ELSEWHERE}:4317",
    "SSLKEYLOGFILE": "/dev/null",
    "RES_OPTIONS": "",
}


@pytest.fixture(scope="module")
def filled(openbao):
    openbao.put("box/db", {"password": "p", "username": "u"})
    openbao.put("box/deep/er", {"value": "v"})
    return openbao


def mounted(box, vault, name="m", **more):
    """(path in the box, path from here, configuration) of a mount of box/."""
    path = box.home / name
    path.mkdir()
    config = {
        "vaults": {"bao": {**vault, "refresh": "1s", "timeout": "2s", "connect_timeout": "2s"}},
        "mounts": [{"path": str(path), "vault": "bao", "secrets": ["box/"]}],
        "log": {"level": "debug"},
        **more,
    }
    return path, box.path(path), config


def load(box, bao, daemon, config, seen):
    """Reads, listings, three refreshes, a reload, every verb."""
    wait_until(lambda: (seen / "box/db").is_dir(), 10, "the mount to be listed")
    before = bao.reads_of("box/db")

    def refreshed():
        assert (seen / "box/db/password").read_text() == "p"
        assert (seen / "box/deep/er/value").read_text() == "v"
        for folder, _, files in os.walk(seen):
            for name in files:
                os.stat(os.path.join(folder, name))
        with pytest.raises(FileNotFoundError):
            os.stat(seen / "box/db/none")
        return bao.reads_of("box/db") >= before + 4

    wait_until(refreshed, 20, "three refreshes")
    assert box.ok("cat", str(seen).removeprefix(f"/proc/{box.ns.pid}/root") + "/box/db/username") == b"u"
    daemon.reload({**config, "log": {"level": "info"}})
    assert ask(daemon, "status")["ok"]
    assert not ask(daemon, "umount", path="/nowhere")["ok"]


def test_a_daemon_whose_vault_has_an_address(box, filled):
    path, seen, config = mounted(box, box.by_address())
    daemon = box.daemon(config, env=ENVIRONMENT)
    load(box, filled, daemon, config, seen)
    assert daemon.stop() == 0
    assert not os.path.ismount(box.path(path))


def test_a_daemon_whose_vault_has_a_name(box, filled):
    """Exactly that name is looked up."""
    _, seen, config = mounted(box, box.by_name())
    load(box, filled, box.daemon(config, env=ENVIRONMENT), config, seen)


def test_a_daemon_with_several_vaults(box, filled, person_in):
    person = person_in(box)
    path = box.home / "sealed"
    path.mkdir()
    _, seen, config = mounted(box, box.by_address())
    config["vaults"]["named"] = {**box.by_name(), "refresh": "1s"}
    config["vaults"]["local"] = {"file": str(person.vault), "passphrase_file": str(person.passphrase)}
    (box.home / "n").mkdir()
    config["mounts"] += [
        {"path": str(path), "vault": "local"},
        {"path": str(box.home / "n"), "vault": "named", "secrets": ["box/"]},
    ]
    daemon = box.daemon(config)
    assert (box.path(path) / "app/db/password").read_bytes() == b"of the sealed vault"
    wait_until(lambda: (box.path(box.home / "n") / "box/db").is_dir(), 10, "the mount to be listed")
    assert (box.path(box.home / "n") / "box/db/password").read_text() == "p"
    load(box, filled, daemon, config, seen)


def test_a_vault_that_is_not_there(box, filled):
    """Its address is asked again and again, and no other."""
    box.peer(VAULT_ADDRESS, 8300)
    vault = {**box.by_address(), "address": f"https://{VAULT_ADDRESS}:8300"}
    del box.peers[(VAULT_ADDRESS, VAULT_PORT)]
    path, _, config = mounted(box, vault, wait="500ms")
    daemon = box.daemon(config, env=ENVIRONMENT)
    with pytest.raises(OSError):
        os.listdir(box.path(path) / "box")
    wait_until(lambda: "refused the connection" in daemon.log.read_text(), 10, "a reason")


@pytest.mark.parametrize("how", ["redirect", "redirect to a name", "hints", "certificate"])
def test_a_vault_that_points_elsewhere(how, box, openbao, tmp_path):
    """Nothing that an answer or a certificate names is followed."""
    files = {}
    if how == "certificate":
        files["cert"], files["key"] = openbao.authority._sign(
            "points-elsewhere",
            [
                "basicConstraints = CA:FALSE",
                "extendedKeyUsage = serverAuth",
                "subjectAltName = IP:127.0.0.1",
                f"authorityInfoAccess = OCSP;URI:http://{ELSEWHERE}/,caIssuers;URI:http://{ELSEWHERE}/ca",
                f"crlDistributionPoints = URI:http://{ELSEWHERE}/crl,URI:http://elsewhere.example.test/crl",
            ],
            -1,
            30,
        )
    elsewhere = f"https://{ELSEWHERE}:8200/v1/secret/data/box/db"
    modes = {
        "redirect": Faulty.status(307, Location=elsewhere),
        "redirect to a name": Faulty.status(302, Location="https://elsewhere.example.test/"),
        "hints": Faulty.status(
            200,
            b'{"data":{"keys":["x"]}}',
            Alt_Svc=f'h2="{ELSEWHERE}:443"; persist=1',
            Link=f"<https://{ELSEWHERE}/>; rel=preconnect",
            Refresh=f"0; url={elsewhere}",
            Strict_Transport_Security="max-age=1",
            X_Vault_Index="x",
        ),
        "certificate": Faulty.status(200, b'{"data":{"keys":["x"]}}'),
    }
    with box.ns.inside():
        front = Faulty(authority=openbao.authority, **files)
    with front:
        front.mode = modes[how]
        box.peer("127.0.0.1", front.port, lambda: front.connections)
        vault = {"address": front.address, "ca_file": front.ca_file, "token_file": openbao.token_file}
        path, _, config = mounted(box, vault, wait="500ms")
        box.daemon(config)

        def asked():
            with pytest.raises(OSError):
                (box.path(path) / "box/x/field").read_bytes()
            return len(front.requests) >= 3

        wait_until(asked, 10, "three questions")
        box.settle()


# --- the command line


def vault_options(box, vault):
    config = box.home / "config.yaml"
    config.write_text(json.dumps({"vaults": {"bao": vault}}))
    return ["--vault", "bao", "-c", str(config)]


def use(box, where, options, input=b"of the box"):
    """Every command that a vault is used with; `where`: where its secrets are."""

    def ours(*argv, **kwargs):
        words = 1 + (argv[0] == "vault")
        return box.ok("cloudtaser", *argv[:words], *options, *argv[words:], env=ENVIRONMENT, **kwargs)

    field = f"{where}/password"
    ours("put", where, "password=-", input=input)
    assert ours("get", field) == input
    assert json.loads(ours("get", where, "-o", "json"))
    assert ours("ls", where).split() == [b"password"]
    assert ours("run", "--", "cat", f"/secrets/{field}") == input
    assert ours("run", "--env", f"SECRET={field}", "--", "sh", "-c", 'printf %s "$SECRET"') == input
    mount = box.home / "by-command"
    mount.mkdir()
    ours("mount", "-d", str(mount))
    assert box.ok("cat", f"{mount}/{field}") == input
    assert str(mount).encode() in box.ok("cloudtaser", "status")
    assert json.loads(box.ok("cloudtaser", "status", "-o", "json"))
    box.ok("cloudtaser", "umount", str(mount))
    ours("rm", where)


def test_commands_with_an_address(box, filled):
    use(box, "box-commands/one", vault_options(box, box.by_address()))


def test_commands_with_a_name(box, filled):
    use(box, "box-commands/two", vault_options(box, box.by_name()))


@pytest.fixture
def person_in():
    """person_in(box): somebody with a sealed vault, made in the box."""
    from cli_people import Person

    def make(box):
        person = Person(box.build, box.home)
        box.ok("cloudtaser", "vault", "init", "--kdf-memory", "8", "--kdf-ops", "1", *sealed_options(person))
        box.ok("cloudtaser", "put", *sealed_options(person), "app/db", "password=-", input=b"of the sealed vault")
        return person

    return make


def sealed_options(person):
    return ["--passphrase-file", str(person.passphrase)]


def test_commands_with_a_sealed_vault(box, person_in):
    """Nobody to speak to: not one internet socket, not one look-up."""
    person = person_in(box)
    use(box, "mine/one", sealed_options(person))
    config = box.home / "valid.yaml"
    config.write_text(json.dumps({"vaults": {"x": {"address": "https://elsewhere.example.test"}}}))
    box.ok("cloudtaser", "validate", "config", str(config))
    box.ok("cloudtaserd", "--check", "-c", str(config))
    box.ok("cloudtaser", "--version")
    box.ok("cloudtaserd", "--help")
    assert box.run("cloudtaser", "get", *sealed_options(person), "no/such").returncode == 66


def test_a_shell(box, person_in):
    person = person_in(box)
    argv = [*box.prefix, box.build / "cloudtaser", "shell", *sealed_options(person)]
    process = subprocess.Popen(
        [str(a) for a in argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=box.home,
        env=environment(box.home, {"SHELL": "/bin/sh"}),
        preexec_fn=die_with_parent,
    )
    said, errors = process.communicate(b"cat /secrets/app/db/password\n", timeout=30)
    assert said == b"of the sealed vault", errors


# --- the box itself


def python(box, script, **kwargs):
    return box.run(PYTHON, "-c", f"import os, socket, sys, time\n{script}", **kwargs)


VIOLATIONS = {
    "TCP": (
        f"socket.socket().connect_ex(('{ELSEWHERE}', 443))",
        [f"a packet to ('{ELSEWHERE}', 443), TCP", "somebody else's address: python3 connect AF_INET SOCK_STREAM"],
    ),
    "another port of the vault": (
        f"socket.socket().connect_ex(('{VAULT_ADDRESS}', 8201))",
        [f"a packet to ('{VAULT_ADDRESS}', 8201), TCP", "somebody else's address"],
    ),
    "the other vault": (
        f"socket.socket().connect_ex(('{NAMED_ADDRESS}', {VAULT_PORT}))",
        [f"a packet to ('{NAMED_ADDRESS}', {VAULT_PORT}), TCP", "somebody else's address"],
    ),
    "loopback": (
        "socket.socket().connect_ex(('127.0.0.1', 80))",
        ["a packet to ('127.0.0.1', 80), TCP", "somebody else's address"],
    ),
    "TCP, in a child, by IPv6": (
        "os.fork() or os._exit(socket.socket(socket.AF_INET6).connect_ex(('2001:db8::1', 443)) & 0)\nos.wait()",
        ["somebody else's address: python3 connect AF_INET6 SOCK_STREAM"],
    ),
    "UDP": (
        f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'secret', ('{ELSEWHERE}', 514))",
        [f"a packet to ('{ELSEWHERE}', 514), UDP", "somebody else's address: python3 sendto AF_INET SOCK_DGRAM"],
    ),
    "another name server": (
        f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'secret', ('{ELSEWHERE}', 53))",
        [f"a packet to ('{ELSEWHERE}', 53), UDP"],
    ),
    "multicast": (
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'secret', ('224.0.0.251', 5353))",
        ["somebody else's address: python3 sendto"],
    ),
    "a name": (
        "try: socket.getaddrinfo('elsewhere.example.test', 443)\nexcept OSError: pass",
        ["a name was looked up: elsewhere.example.test", "somebody else's address: python3 connect AF_INET SOCK_DGRAM"],
    ),
    "a part of the vault's name": (
        "try: socket.getaddrinfo('secret.vault.example.test', 443)\nexcept OSError: pass",
        ["a name was looked up: secret.vault.example.test"],
    ),
    "a raw socket": (
        f"socket.socket(socket.AF_INET, socket.SOCK_RAW, 253).sendto(b'secret', ('{ELSEWHERE}', 0))",
        [f"a packet to ('{ELSEWHERE}', 0), protocol 253", "a raw socket"],
    ),
    "a packet socket": (
        "socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)",
        ["a socket of a kind that nobody needs: python3 socket AF_PACKET"],
    ),
    "netlink": (
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)",
        ["a netlink socket: python3 socket AF_NETLINK"],
    ),
    "vsock": (
        "try: socket.socket(40, socket.SOCK_STREAM).connect_ex((2, 80))\nexcept OSError: pass",
        ["a socket of a kind that nobody needs: python3 socket AF_VSOCK"],
    ),
    "a server": (
        "s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()",
        ["a socket that others can speak to: python3 bind", "a socket that others can speak to: python3 listen"],
    ),
    "a Unix socket": (
        "socket.socket(socket.AF_UNIX).connect_ex('/run/systemd/resolve/io.systemd.Resolve')",
        ["somebody else's Unix socket: python3 connect AF_UNIX SOCK_STREAM /run/systemd/resolve/io.systemd.Resolve"],
    ),
    "an abstract Unix socket": (
        "socket.socket(socket.AF_UNIX).connect_ex('\\0elsewhere')",
        ["somebody else's Unix socket: python3 connect AF_UNIX SOCK_STREAM @elsewhere"],
    ),
    "io_uring": (
        "import ctypes\nctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))",
        ["calls that nobody sees: python3 io_uring_setup"],
    ),
    "another namespace": (
        "import ctypes\nctypes.CDLL(None).unshare(0x40000000)",
        ["another network namespace: python3 unshare 0x40000000"],
    ),
}


@pytest.mark.parametrize("what", VIOLATIONS)
def test_a_violation_is_found(what, unjudged):
    """Beside a peer that is spoken to as it should be."""
    script, expected = VIOLATIONS[what]
    unjudged.by_address()
    greet = f"socket.create_connection(('{VAULT_ADDRESS}', {VAULT_PORT})).close()\n"
    done = python(unjudged, greet + script)
    assert done.returncode == 0, done.stderr.decode()
    found = unjudged.findings()
    for sentence in expected:
        assert any(f.startswith(sentence) for f in found), (sentence, found)
    assert not any("peer" in f or "nobody connected" in f for f in found), found


def test_speaking_to_a_peer_is_no_violation(unjudged):
    unjudged.by_address()
    assert python(unjudged, f"socket.create_connection(('{VAULT_ADDRESS}', {VAULT_PORT})).close()").returncode == 0
    assert unjudged.findings() == []


def test_a_peer_by_its_name(unjudged):
    unjudged.by_name()
    script = f"socket.create_connection(('vault.example.test', {VAULT_PORT})).close()"
    assert python(unjudged, script).returncode == 0
    assert unjudged.findings() == []


def test_a_peer_that_nobody_speaks_to(unjudged):
    unjudged.by_address()
    unjudged.by_name()
    assert python(unjudged, "pass").returncode == 0
    assert unjudged.findings() == [
        "nobody looked up vault.example.test",
        f"nobody connected to {VAULT_ADDRESS}:{VAULT_PORT}",
        f"no packet to {VAULT_ADDRESS}:{VAULT_PORT} was seen",
        f"nobody connected to {NAMED_ADDRESS}:{VAULT_PORT}",
        f"no packet to {NAMED_ADDRESS}:{VAULT_PORT} was seen",
        "no connect to a peer was seen",
    ]


def test_an_address_in_memory_that_nobody_can_read(unjudged):
    """Ours are: then the packets tell, and a Unix socket's other end is asked."""
    script = f"""
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(447, 0)  # memfd_secret
assert fd >= 0
os.ftruncate(fd, 4096)
secret = mmap.mmap(fd, 4096)
at = ctypes.addressof(ctypes.c_char.from_buffer(secret))
def connect(s, address):
    secret[:len(address)] = address
    return libc.connect(s.fileno(), ctypes.c_void_p(at), len(address))
port = (443).to_bytes(2, "big")
connect(socket.socket(), (2).to_bytes(2, "little") + port + socket.inet_aton("{ELSEWHERE}") + bytes(8))
server = socket.socket(socket.AF_UNIX)
server.bind("/etc/other")
server.listen()
assert connect(socket.socket(socket.AF_UNIX), (1).to_bytes(2, "little") + b"/etc/other\\0") == 0
"""
    done = python(unjudged, script)
    if b"assert fd >= 0" in done.stderr:
        pytest.skip("there is no memfd_secret here")
    assert done.returncode == 0, done.stderr.decode()
    found = unjudged.findings()
    assert f"a packet to ('{ELSEWHERE}', 443), TCP" in found
    assert "somebody else's Unix socket: python3 connect AF_UNIX SOCK_STREAM /etc/other" in found


def test_a_daemon_that_would_speak_to_somebody_else(unjudged, filled):
    """The daemon's own calls are seen, not only those of scripts: it is given a vault that is no peer."""
    vault = unjudged.by_address()
    unjudged.peers.clear()
    _, seen, config = mounted(unjudged, vault)
    unjudged.daemon(config)
    wait_until(lambda: (seen / "box/db").is_dir(), 10, "the mount to be listed")
    found = unjudged.findings()
    assert f"a packet to ('{VAULT_ADDRESS}', {VAULT_PORT}), TCP" in found
    assert any(f.startswith("an internet socket, and there is nobody to speak to: ct-io connect") for f in found), found
