# SPDX-License-Identifier: Apache-2.0
"""A daemon with a real OpenBao (TLS, client certificate): no secret is in any page of it that can be read from outside.

The same scan, at the same stages, finds every category when secret memory is switched off.
"""

import base64
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
from memory import Scanner, ask, files_of, forms, key_patterns, text_canary, traced
from peers.openbao import OpenBao

DEADLINE = 30
READS = 1000
BIG = 50_000
LOOKS = 30
BOUNCE_SIZE = 132 * 1024  # fs/device.c: one a serving thread, and one of the thread that starts them
READER = "import sys\nwhile True:\n with open(sys.argv[1], 'rb', buffering=0) as f: f.read(1 << 17)"


@pytest.fixture(scope="module")
def bao():
    """One that demands a client certificate, so that there is a client's private key to find."""
    with OpenBao(mtls=True) as server:
        yield server


class Canaries:
    """What a secret holds, and the patterns to look for; `generation` tells the versions apart in messages."""

    def __init__(self, generation):
        self.generation = generation
        self.password = text_canary()
        self.binary = os.urandom(64)
        self.big = text_canary(BIG)

    def fields(self):
        return {
            "password": self.password.decode(),
            "blob": base64.b64encode(self.binary).decode(),
            "big": self.big.decode(),
            "username": "app",
        }

    def patterns(self):
        return {
            **forms(f"value {self.generation}: password", self.password),
            **forms(f"value {self.generation}: binary", self.binary),
            f"value {self.generation}: big": self.big,
        }


@dataclasses.dataclass
class Scene:
    bao: OpenBao
    path: str
    old: Canaries
    new: Canaries
    token: str
    mount: pathlib.Path
    config: dict
    scanner: Scanner

    @property
    def secret(self):
        return self.mount / self.path

    def read_all(self):
        """Every file of the secret, once; what password holds."""
        seen = (self.secret / "password").read_bytes()
        whole = json.loads((self.secret / ".json").read_bytes())
        assert whole["password"].encode() == seen
        assert (self.secret / ".version").read_text().strip().isdigit()
        assert len((self.secret / "big").read_bytes()) == BIG
        assert len((self.secret / "blob").read_bytes()) == 64
        return seen


@pytest.fixture
def scene(bao, scanner, tmp_path):
    path = f"mem/{os.urandom(4).hex()}"
    old, new = Canaries("old"), Canaries("new")
    bao.put(path, old.fields())
    token = bao.reader({f"secret/data/{path}": ["read"], "secret/metadata/*": ["list", "read"]})
    mount = tmp_path / "mount"
    mount.mkdir()
    config = {
        "log": {"level": "debug", "format": "text"},
        "vaults": {
            "eu": {
                "address": bao.address,
                "ca_file": bao.ca_file,
                "cert_file": bao.client_cert,
                "key_file": bao.client_key,
                "token_file": bao.write_token(token),
                "refresh": "1s",
                "max_stale": "1h",
            }
        },
        "mounts": [{"path": str(mount), "vault": "eu", "secrets": [{"path": path, "binary": ["blob"]}]}],
    }
    patterns = {
        **old.patterns(),
        **new.patterns(),
        **forms("token", token.encode()),
        **key_patterns("private key", bao.client_key),
    }
    yield Scene(bao, path, old, new, token, mount, config, scanner(patterns))


def until(check, what):
    end = time.monotonic() + DEADLINE
    while not check():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.02)


def stages(scene, cloudtaserd, look, env=None):
    """The life of a secret; look(daemon, name of the stage) at each point of it."""
    daemon = cloudtaserd(scene.config, env=env)
    look(daemon, "after start")
    assert scene.read_all() == scene.old.password
    look(daemon, "after the first read")
    for _ in range(READS):
        with open(scene.secret / "password", "rb") as f:
            assert f.read() == scene.old.password
    look(daemon, f"after {READS} reads")
    for _ in range(20):
        scene.read_all()
    assert (scene.secret / "blob").read_bytes() == scene.old.binary
    look(daemon, "after reads of .json, of a binary field and of a large one")

    held = open(scene.secret / "password", "rb")
    with held:
        scene.bao.put(scene.path, scene.new.fields())
        until(lambda: (scene.secret / "password").read_bytes() == scene.new.password, "the new value")
        assert held.read() == scene.old.password, "an open file keeps its version"
        look(daemon, "after rotation, with the old version open")
    assert scene.read_all() == scene.new.password
    look(daemon, "after rotation")

    scene.bao.stop()
    try:
        until(lambda: stale(ask(daemon, "status")[0]), "that the daemon misses its vault")
        assert scene.read_all() == scene.new.password
        look(daemon, "while the vault is gone")
    finally:
        scene.bao.start()

    ask(daemon, "umount", path=str(scene.mount))
    assert not os.path.ismount(scene.mount)
    look(daemon, "after umount")
    return daemon


def stale(status):
    return status["cache"]["stale_served"] > 0 or not status["vaults"][0]["reachable"]


@pytest.mark.deadline(240)
def test_no_secret_in_readable_memory_at_any_stage(scene, cloudtaserd):
    """Value (old, new, binary, large), token and client key: nowhere, from the start to the end."""
    seen = []

    def look(daemon, stage):
        seen.append(stage)
        scene.scanner.clean(daemon.pid, stage)
        answer, raw = ask(daemon, "status")
        assert answer["secret_memory"]["kind"] == "memfd_secret"
        scene.scanner.in_bytes(raw, f"{stage}: status")
        shown = files_of(daemon.pid)
        for name, data in shown.items():
            scene.scanner.in_bytes(data, f"{stage}: /proc/PID/{name}")
        # An open descriptor of secret memory could be taken (pidfd_getfd) and mapped.
        assert b"secretmem" not in shown["fd"]

    daemon = stages(scene, cloudtaserd, look)
    assert len(seen) == 8
    assert daemon.stop() == 0
    log = daemon.log.read_bytes()
    assert b"debug" in log
    scene.scanner.in_bytes(log, "the log")


@pytest.mark.deadline(240)
def test_the_same_scan_finds_every_category_without_secret_memory(scene, cloudtaserd):
    """CLOUDTASER_SECRET_MEMORY=off: the scan above can fail, in each category and at each stage."""
    found = {}

    def look(daemon, stage):
        found[stage] = scene.scanner.scan(daemon.pid)
        assert ask(daemon, "status")[0]["secret_memory"]["kind"] == "none"

    stages(scene, cloudtaserd, look, env={"CLOUDTASER_SECRET_MEMORY": "off"})
    for stage, result in found.items():
        assert result.found("token"), f"{stage}: the token is not found"
        assert result.found("private key"), f"{stage}: the client's private key is not found"
        assert not result.secret, stage
        if "umount" not in stage:
            generation = "new" if "rotation" in stage or "gone" in stage else "old"
            for kind in ("password", "binary", "big"):
                assert result.found(f"value {generation}: {kind}"), f"{stage}: {generation} {kind} is not found"
    assert found["after rotation, with the old version open"].found("value old: password")


@pytest.mark.parametrize("form", ["text", "json"])
def test_debug_log_argv_environ_and_status_hold_nothing(form, scene, cloudtaserd):
    """Also when things go wrong, which is when most is logged: another token, no vault."""
    scene.config["log"]["format"] = form
    daemon = cloudtaserd(scene.config, arguments=["--log-level", "debug", "--log-format", form])
    assert scene.read_all() == scene.old.password
    token_file = scene.config["vaults"]["eu"]["token_file"]
    scene.bao.revoke(scene.token)
    until(lambda: b"token" in ask(daemon, "status")[1].split(b"last_error")[-1], "word of the dead token")
    assert (scene.secret / "password").read_bytes() == scene.old.password, "served from memory"
    other = scene.bao.reader({f"secret/data/{scene.path}": ["read"]})
    pathlib.Path(token_file).write_text(other + "\n")
    scene.bao.put(scene.path, scene.new.fields())
    until(lambda: (scene.secret / "password").read_bytes() == scene.new.password, "the new value, by the new token")
    look = Scanner(scene.scanner.program, {**scene.scanner.patterns, **forms("second token", other.encode())})
    look.clean(daemon.pid, "with a second token")
    scene.bao.stop()
    try:
        until(lambda: not ask(daemon, "status")[0]["vaults"][0]["reachable"], "that the daemon misses its vault")
        look.clean(daemon.pid, "without a vault")
        look.in_bytes(ask(daemon, "status")[1], "status")
        for name, data in files_of(daemon.pid).items():
            look.in_bytes(data, f"/proc/PID/{name}")
    finally:
        scene.bao.start()
    assert daemon.stop() == 0
    log = daemon.log.read_bytes()
    assert log.count(b"debug") >= 3, log
    assert (log.splitlines()[-1][:1] == b"{") == (form == "json")
    look.in_bytes(log, "the log")


def in_bounce_alone(result):
    """Whether there are hits; all of them in reply buffers, which are no larger than they are said to be."""
    bounce = [m for m in result.mappings if m.bounce]
    threads = len(os.listdir(f"/proc/{result.pid}/task"))
    assert bounce and sum(m.size for m in bounce) <= threads * BOUNCE_SIZE
    elsewhere = [str(hit) for hit in result.hits if not hit.mapping.bounce]
    assert not elsewhere, "\n".join(elsewhere)
    return bool(result.hits)


def test_readers_at_work_leave_plaintext_in_the_bounce_buffers_alone(scene, cloudtaserd):
    """
    What the threat model excepts: a reply passes through one locked buffer a serving thread and is wiped right after
    the write. Looked at in the midst of two readers' work, again and again, it is nowhere else; and gone afterwards.
    """
    daemon = cloudtaserd(scene.config)
    readers = [subprocess.Popen([sys.executable, "-c", READER, scene.secret / name]) for name in ("password", "big")]
    raw = {"password": scene.old.password, "big": scene.old.big, "token": scene.token.encode()}
    look = Scanner(scene.scanner.program, raw)  # a small one is a fast one
    try:
        found = 0
        for _ in range(LOOKS):
            assert all(reader.poll() is None for reader in readers)
            found += in_bounce_alone(look.scan(daemon.pid))
        print(f"{found} of {LOOKS} looks saw plaintext in a bounce buffer")
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    scene.scanner.clean(daemon.pid, "at rest")


def test_a_reply_is_in_the_bounce_buffer_until_it_is_wiped_right_after_the_write(scene, cloudtaserd):
    """The exception itself, held still: the serving thread is kept where its write has returned."""
    daemon = cloudtaserd(scene.config)
    with open(scene.secret / "password", "rb", buffering=0) as file:
        scene.scanner.clean(daemon.pid, "opened")
        hold = ["strace", "-f", "-qq", "-e", "trace=write", "-e", "inject=write:delay_exit=20000000"]
        with subprocess.Popen([*hold, "-p", str(daemon.pid)], stderr=subprocess.DEVNULL) as strace:
            try:
                until(lambda: traced(daemon.pid), "strace")
                assert file.read(4095) == scene.old.password
                result = scene.scanner.scan(daemon.pid, running=True)
            finally:
                strace.terminate()
        assert in_bounce_alone(result), "it was not in the bounce buffer, or wiped before the write returned"
        assert not result.found("token") and not result.found("private key")
        until(lambda: not scene.scanner.scan(daemon.pid).hits, "that it is wiped")
    scene.scanner.clean(daemon.pid, "at rest")
