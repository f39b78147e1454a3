# SPDX-License-Identifier: Apache-2.0
"""Commands in the midst of their work: a put whose server does not answer, a get that nobody takes, a session."""

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest
from command import DEADLINE, Command
from memory import files_of, forms, key_patterns, text_canary, traced
from peers.faulty import Faulty
from peers.openbao import OpenBao

OFF = {"CLOUDTASER_SECRET_MEMORY": "off"}
ESTABLISHED = "01"


@pytest.fixture(scope="module")
def bao():
    with OpenBao(mtls=True) as server:
        yield server


@pytest.fixture
def token(bao):
    return bao.reader({"secret/*": ["create", "read", "update", "list", "delete"]})


def vault_env(bao, address=None):
    return {
        "VAULT_ADDR": address or bao.address,
        "VAULT_CACERT": bao.ca_file,
        "VAULT_CLIENT_CERT": bao.client_cert,
        "VAULT_CLIENT_KEY": bao.client_key,
    }


def connected(pid, port):
    """Whether it has a connection to that port of this machine."""
    sockets = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            sockets.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    for line in pathlib.Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == ESTABLISHED and fields[2].endswith(f":{port:04X}") and f"socket:[{fields[9]}]" in sockets:
            return True
    return False


class Put:
    """`cloudtaser put` of two values, one of them bytes; and what it holds."""

    def __init__(self, bao, token, way, tmp_path):
        self.password, self.blob = text_canary(), os.urandom(64)
        self.argv = ["put", "mem/put", "--token-file", bao.write_token(token), "--log-level", "debug"]
        self.input = self.password
        if way == "json":
            self.argv += ["--json"]
            self.input = json.dumps({"password": self.password.decode()}).encode()
        else:
            file = tmp_path / "blob"
            file.touch(mode=0o600)
            file.write_bytes(self.blob)
            self.argv += ["password=-", f"blob=@{file}"]
        if way == "patch":
            bao.put("mem/put", {"old": "x"})
            self.argv += ["--patch"]
        self.patterns = {
            **forms("body: password", self.password),
            **forms("token", token.encode()),
            **key_patterns("private key", bao.client_key),
        }
        if way != "json":
            self.patterns.update(forms("body: binary", self.blob))
        self.kinds = ["body: password", "token", "private key"] + (["body: binary"] if way != "json" else [])

    def start(self, build, tmp_path, env):
        command = Command([build / "cloudtaser", *self.argv], tmp_path, env, stdin=subprocess.PIPE)
        command.process.stdin.write(self.input)
        command.process.stdin.close()
        return command


def judge(look, result, kinds, env, stage):
    """Nothing; or, with secret memory off, something of each kind."""
    if env is OFF:
        missing = [kind for kind in kinds if not result.found(kind)]
        assert not missing, f"{stage}: {missing} not found without secret memory"
        return
    assert not result.hits, f"{stage}:\n" + "\n".join(map(str, result.hits))
    assert result.secret, f"{stage}: it has no secret memory"
    for name, data in files_of(result.pid).items():
        look.in_bytes(data, f"{stage}: /proc/PID/{name}")


MODES = pytest.mark.parametrize("env", [None, OFF], ids=["secret memory", "off"])


@MODES
@pytest.mark.parametrize("way", ["fields", "json"])
def test_put_waits_for_a_frozen_server(way, env, bao, token, build, scanner, tmp_path):
    """Before the handshake: the body is made, and waits."""
    put = Put(bao, token, way, tmp_path)
    look = scanner(put.patterns)
    bao.freeze()
    try:
        with put.start(build, tmp_path, {**vault_env(bao), **(env or {})}) as command:
            command.until(lambda: connected(command.pid, bao.port), "a connection")
            judge(look, look.scan(command.pid), put.kinds, env, "frozen server")
            bao.thaw()
            assert command.process.wait(DEADLINE) == 0
            look.in_bytes(command.process.stdout.read() + command.process.stderr.read(), "what it said")
    finally:
        bao.thaw()
    assert bao.get("mem/put")["password"].encode() == put.password


@MODES
@pytest.mark.parametrize("way", ["fields", "json", "patch"])
def test_put_waits_for_an_answer(way, env, bao, token, build, scanner, tmp_path):
    """After the handshake: the request was encrypted and sent, and no answer comes."""
    put = Put(bao, token, way, tmp_path)
    look = scanner(put.patterns)
    came, go_on = threading.Event(), threading.Event()

    def hold(front, connection, request):
        if request.method in ("PUT", "POST"):
            came.set()
            go_on.wait(2 * DEADLINE)
        return Faulty.passing(front, connection, request)

    with Faulty(bao) as front:
        front.mode = hold
        try:
            with put.start(build, tmp_path, {**vault_env(bao, front.address), **(env or {})}) as command:
                command.until(came.is_set, "the request")
                judge(look, look.scan(command.pid), put.kinds, env, "no answer")
                go_on.set()
                assert command.process.wait(DEADLINE) == 0
                look.in_bytes(command.process.stdout.read() + command.process.stderr.read(), "what it said")
        finally:
            go_on.set()
    assert bao.get("mem/put")["password"].encode() == put.password


@MODES
@pytest.mark.parametrize("output", ["text", "json"])
def test_get_that_nobody_takes(output, env, bao, token, build, scanner, tmp_path):
    """Its pipe is full, and the rest of the value waits in its memory."""
    value = text_canary(200_000)
    bao.put("mem/get", {"password": value.decode()})
    look = scanner({"value": value, **forms("token", token.encode()), **key_patterns("private key", bao.client_key)})
    argv = ["get", "mem/get" if output == "json" else "mem/get/password", "-o", output]
    argv += ["--token-file", bao.write_token(token)]
    with Command([build / "cloudtaser", *argv], tmp_path, {**vault_env(bao), **(env or {})}) as command:
        command.until(lambda: waiting_in(command.process.stdout) >= 1 << 16, "a full pipe")
        result = look.scan(command.pid)
        judge(look, result, ["value", "token"], env, "full pipe")
        assert value in command.process.stdout.read().replace(b"\\", b"")
        assert command.process.wait(DEADLINE) == 0


def waiting_in(pipe):
    """How many bytes stand in it."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


@pytest.mark.parametrize("what", ["put", "put --json", "get", "get -o json"])
def test_nothing_is_left_at_the_end_of_a_command(what, bao, token, build, root, scanner, tmp_path):
    """On stacks and heaps that were not wiped, say: kept from ending, when everything is done."""
    value = text_canary(300)
    patterns = {
        **forms("value", value),
        **forms("token", token.encode()),
        **key_patterns("private key", bao.client_key),
    }
    argv = [build / "cloudtaser", *what.split(), "mem/end", "--token-file", bao.write_token(token)]
    if what == "put":
        argv += ["password=-"]
    elif what == "get":
        argv[2] += "/password"
    if what.startswith("get"):
        bao.put("mem/end", {"password": value.decode()})
    given = json.dumps({"password": value.decode()}).encode() if "json" in what else value
    file = tmp_path / "given"
    file.write_bytes(given)
    with open(file, "rb") as stdin, Command.held_at_its_end(argv, tmp_path, vault_env(bao), stdin=stdin) as command:
        scanner(patterns).clean(command.pid, f"{what}, at its end")
        assert command.let_go() == 0
    assert bao.get("mem/end")["password"].encode() == value


# --- run: the server of the mount, the session, the command

SHOW = """
import os, sys
secret = open(os.environ["CLOUDTASER_MOUNT"] + "/mem/run/password", "rb").read()
print(os.getpid(), flush=True)
sys.stdin.read(1)
"""


@contextlib.contextmanager
def running(build, bao, token, tmp_path, arguments=(), env=None):
    """`run` of a command that has read a secret and waits: (command, pid of the server, of the session, of it)."""
    mount_point = pathlib.Path("/ct-" + os.urandom(4).hex())
    argv = [build / "cloudtaser", "run", "--mount-point", mount_point, "--token-file", bao.write_token(token)]
    argv += [*arguments, "--", sys.executable, "-c", SHOW]
    with Command(argv, tmp_path, {**vault_env(bao), **(env or {})}, stdin=subprocess.PIPE) as command:
        line = command.process.stdout.readline()
        assert line, command.process.stderr.read().decode()
        inner = int(line)
        yield command, command.pid, parent(inner), inner
        command.process.stdin.close()
        command.process.stdin = None
        assert command.process.wait(DEADLINE) == 0


def parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@MODES
@pytest.mark.parametrize("way", ["file", "env", "fd"])
def test_run(way, env, bao, token, build, scanner, tmp_path):
    """The server and the session hold nothing; the command has what it read, and its environment with --env."""
    value = text_canary()
    bao.put("mem/run", {"password": value.decode()})
    look = scanner(
        {**forms("value", value), **forms("token", token.encode()), **key_patterns("private key", bao.client_key)}
    )
    arguments = {"file": [], "env": ["--env", "PW=mem/run/password"], "fd": ["--fd", "PW=mem/run/password"]}[way]
    with running(build, bao, token, tmp_path, arguments, env) as (_, server, session, command):
        judge(look, look.scan(server), ["value", "token", "private key"], env, "the server")
        result = look.scan(session)
        assert not result.hits, "the session:\n" + "\n".join(map(str, result.hits))
        for name, data in files_of(session).items():
            look.in_bytes(data, f"the session: /proc/PID/{name}")
        # The reader's own memory is its own: what it read is there, and with --env in its environment too.
        result = look.scan(command)
        assert {hit.pattern for hit in result.hits} >= {"value (raw)"}
        assert not result.found("token") and not result.found("private key")
        environ = pathlib.Path(f"/proc/{command}/environ").read_bytes()
        assert (value in environ) == (way == "env")


# --- fusermount3

STRACE = ("strace", "-f", "-qq", "-e", "trace=umount2", "-e", "inject=umount2:delay_enter=2000000")


def test_fusermount_holds_nothing(build, bao, token, user, root, scanner, tmp_path):
    """
    An unprivileged mount starts fusermount3. Held in the midst of its work, at the end of the mount, when everything
    was fetched and read: neither its memory nor what it was given (argv, environment, descriptors) holds anything.
    """
    value = text_canary()
    bao.put("mem/user", {"password": value.decode()})
    look = scanner(
        {**forms("value", value), **forms("token", token.encode()), **key_patterns("private key", bao.client_key)}
    )
    env = {}
    for name, file in vault_env(bao).items():
        if name != "VAULT_ADDR":
            copy = user.home / name
            copy.touch(mode=0o600)
            copy.write_bytes(pathlib.Path(file).read_bytes())
            file = user.own(copy)
        env[name] = str(file)
    token_file = user.home / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    user.own(token_file)
    mount = user.home / "mount"
    mount.mkdir()
    user.own(mount)
    argv = [build / "cloudtaser", "mount", mount, "--token-file", token_file]
    with Command(argv, user.home, env, user=user) as command:
        # Not os.path.ismount: a user's mount lets not even root in.
        command.until(lambda: is_mounted(mount), "the mount")
        read = subprocess.run(user.argv("cat", mount / "mem/user/password"), capture_output=True)
        assert read.stdout == value, read.stderr
        with subprocess.Popen([*STRACE, "-p", str(command.pid)], stderr=subprocess.PIPE) as strace:
            command.until(lambda: traced(command.pid), "strace")
            command.process.send_signal(signal.SIGTERM)
            end = time.monotonic() + DEADLINE
            while not (helper := helper_of(command.pid)):
                assert time.monotonic() < end and command.process.poll() is None, "no fusermount3 was seen"
            shown = files_of(helper)
            result = look.scan(helper)
            assert comm(helper) == "fusermount3", "it was gone before the scan was at its end"
            assert not result.hits, "\n".join(map(str, result.hits))
            assert not result.secret and not any(m.secret for m in result.mappings)
            for name, data in shown.items():
                look.in_bytes(data, f"fusermount3: /proc/PID/{name}")
            assert b"secretmem" not in shown["fd"]
            assert command.process.wait(DEADLINE) == 0
            strace.wait(DEADLINE)
    assert not is_mounted(mount)


def is_mounted(path):
    return f" {path} " in pathlib.Path("/proc/self/mountinfo").read_text()


def comm(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def helper_of(pid):
    for entry in os.listdir("/proc"):
        if entry.isdigit() and comm(entry) == "fusermount3":
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if parent(entry) == pid:
                    return int(entry)
    return None


# --- TLS


@MODES
def test_secrets_of_a_tls_session(env, bao, token, build, cloudtaserd, scanner, tmp_path):
    """What opens recorded traffic: the secrets of the session, as the other end writes them down."""
    bao.put("mem/tls", {"password": text_canary().decode()})
    mount = tmp_path / "mount"
    mount.mkdir()
    log = tmp_path / "keys"
    with Faulty(bao) as front:
        front._tls.keylog_filename = str(log)
        vault = {"address": front.address, "ca_file": front.ca_file, "token_file": bao.write_token(token)}
        daemon = cloudtaserd(
            {
                "vaults": {"eu": {**vault, "refresh": "1s"}},
                "mounts": [{"path": str(mount), "vault": "eu", "secrets": [{"path": "mem/tls"}]}],
            },
            env=env,
        )
        assert (mount / "mem/tls/password").read_bytes()
        secrets = {}
        for line in log.read_text().splitlines()[1:]:  # the first is a comment
            name, _, secret = line.split()
            secrets[f"{name} {len(secrets)}"] = bytes.fromhex(secret)
        assert {name.split()[0] for name in secrets} >= {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"}
        judge(scanner(secrets), scanner(secrets).scan(daemon.pid), ["CLIENT_TRAFFIC_SECRET_0"], env, "connected")
