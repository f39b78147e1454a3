# SPDX-License-Identifier: Apache-2.0
"""A sealed vault: its passphrase, its keys and its values, in the daemon and in the commands that open it."""

import os
import pty
import select
import signal
import subprocess
import time

import pytest
from command import Command
from harness import programs
from memory import Gone, files_of, forms, text_canary
from sealed import BLOCK, Slot, keys, of_last_block

DEADLINE = 30
KDF_MIB, KDF_OPS = 32, 24  # long enough to be looked at in the midst of it


class Watched(programs.Daemon):
    """A daemon that is looked at from its start until it is ready."""

    look = None

    def _wait_for(self, word, seconds):
        end = time.monotonic() + seconds
        while not select.select([self._said], [], [], 0)[0] and self.process.poll() is None:
            assert time.monotonic() < end
            type(self).look(self.pid)
            time.sleep(0.005)
        super()._wait_for(word, seconds)


class Vault:
    """A sealed vault with one secret, and what to look for."""

    def __init__(self, cloudtaser, folder, mib=KDF_MIB, ops=KDF_OPS, user=None):
        self.file = folder / "vault"
        self.passphrase = text_canary()
        self.password = text_canary()
        self.binary = os.urandom(64)
        self.passphrase_file = self.private(folder / "passphrase", self.passphrase + b"\n", user)
        how = ("--vault", f"file:{self.file}", "--passphrase-file", self.passphrase_file)
        made = cloudtaser("vault", "init", *how, "--kdf-memory", mib, "--kdf-ops", ops, user=user)
        assert made.returncode == 0, made.stderr
        blob = self.private(folder / "blob", self.binary, user)
        put = cloudtaser("put", "app/db", "password=-", f"blob=@{blob}", *how, user=user, input=self.password)
        assert put.returncode == 0, put.stderr
        blob.unlink()

    @staticmethod
    def private(path, data, user):
        path.touch(mode=0o600)
        path.write_bytes(data)
        if user:
            user.own(path)
        return path

    def patterns(self):
        return {
            **forms("passphrase", self.passphrase),
            **forms("value: password", self.password),
            **forms("value: binary", self.binary),
            **keys(self.file, self.passphrase),
        }

    def config(self, mount):
        return {
            "log": {"level": "debug"},
            "vaults": {"local": {"file": str(self.file), "passphrase_file": str(self.passphrase_file)}},
            "mounts": [{"path": str(mount), "vault": "local"}],
        }


@pytest.fixture
def vault(cloudtaser, tmp_path):
    return Vault(cloudtaser, tmp_path)


@pytest.fixture
def mount(tmp_path):
    folder = tmp_path / "mount"
    folder.mkdir()
    return folder


@pytest.fixture
def watched(build, tmp_path_factory):
    """watched(config, look, env) starts a daemon that look(pid) sees until it is ready."""
    started = []

    def start(config, look, env=None):
        class Daemon(Watched):
            pass

        Daemon.look = staticmethod(look)
        daemon = Daemon(build / "cloudtaserd", config, tmp_path_factory.mktemp("d"), env=env)
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        daemon.stop()


class Midst:
    """Looks at a process while it derives its key: a few times, and before that as often as it is asked."""

    ENOUGH = 3

    def __init__(self, look):
        self.look = look
        self.times = 0
        self.hits = []

    def __call__(self, pid):
        if self.times == self.ENOUGH:
            return
        result = self.look.scan(pid)
        self.hits += result.hits
        # Its working memory is there.
        self.times += any(m.size >= KDF_MIB << 20 and m.perms[:2] == "rw" and not m.secret for m in result.mappings)

    def clean(self):
        assert self.times, "it was not looked at while the key was derived"
        assert not self.hits, "before it was ready:\n" + "\n".join(map(str, self.hits))

    def names(self):
        assert self.times, "it was not looked at while the key was derived"
        return {hit.pattern for hit in self.hits}


def read_secret(mount, vault):
    assert (mount / "app/db/password").read_bytes() == vault.password
    assert (mount / "app/db/blob").read_bytes() == vault.binary
    assert (mount / "app/db/.json").read_bytes()


def test_daemon_with_a_sealed_vault(vault, mount, scanner, watched):
    """Passphrase, keys, values: nowhere, also in the midst of unlocking."""
    look = scanner(vault.patterns())
    midst = Midst(look)
    daemon = watched(vault.config(mount), midst)
    midst.clean()
    look.clean(daemon.pid, "after start")
    read_secret(mount, vault)
    look.clean(daemon.pid, "after reads")
    for name, data in files_of(daemon.pid).items():
        look.in_bytes(data, f"/proc/PID/{name}")
    assert daemon.stop() == 0
    look.in_bytes(daemon.log.read_bytes(), "the log")


def test_daemon_without_secret_memory_shows_passphrase_keys_and_values(vault, mount, scanner, watched):
    """The scan above can fail."""
    look = scanner(vault.patterns())
    midst = Midst(look)
    daemon = watched(vault.config(mount), midst, env={"CLOUDTASER_SECRET_MEMORY": "off"})
    assert "passphrase (raw)" in midst.names()
    read_secret(mount, vault)
    found = look.scan(daemon.pid).names()
    assert {"value key", "value: password (raw)", "value: binary (raw)"} <= found


# --- commands


GIVEN = ["file", "descriptor", "terminal"]


def mount_command(how, build, vault, mount, tmp_path, env=None):
    argv = [build / "cloudtaser", "mount", mount, "--vault", f"file:{vault.file}", "--log-level", "debug"]
    if how == "file":
        return Command([*argv, "--passphrase-file", vault.passphrase_file], tmp_path, env)
    if how == "descriptor":
        read_end, write_end = os.pipe()
        with open(read_end, "rb"), open(write_end, "wb") as pipe:
            pipe.write(vault.passphrase + b"\n")
            pipe.close()
            return Command([*argv, "--passphrase-fd", read_end], tmp_path, env, pass_fds=[read_end])
    master, slave = pty.openpty()
    command = Command(["setsid", "--ctty", *argv], tmp_path, env, stdin=slave, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    command.terminal = master
    seen = b""
    while not seen.endswith(b": "):
        assert select.select([master], [], [], DEADLINE)[0], seen
        seen += os.read(master, 1024)
    os.write(master, vault.passphrase + b"\n")
    return command


@pytest.mark.parametrize("how", GIVEN)
def test_cli_mount(how, build, vault, mount, scanner, tmp_path):
    """However the passphrase is given: from the moment it is, until the end."""
    look = scanner(vault.patterns())
    midst = Midst(look)
    with mount_command(how, build, vault, mount, tmp_path) as command:
        command.until(lambda: midst(command.pid) or os.path.ismount(mount), "the mount")
        midst.clean()
        look.clean(command.pid, "mounted")
        read_secret(mount, vault)
        look.clean(command.pid, "after reads")
        for name, data in files_of(command.pid).items():
            look.in_bytes(data, f"/proc/PID/{name}")
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(20) == 0
        look.in_bytes(command.process.stderr.read(), "the log")


@pytest.mark.parametrize("how", GIVEN)
def test_cli_mount_without_secret_memory_shows_the_passphrase(how, build, vault, mount, scanner, tmp_path):
    look = scanner(vault.patterns())
    midst = Midst(look)
    with mount_command(how, build, vault, mount, tmp_path, env={"CLOUDTASER_SECRET_MEMORY": "off"}) as command:
        command.until(lambda: midst(command.pid) or os.path.ismount(mount), "the mount")
        assert "passphrase (raw)" in midst.names()
        read_secret(mount, vault)
        found = look.scan(command.pid).names()
    assert {"value key", "value: password (raw)", "value: binary (raw)"} <= found


def test_vault_init(build, scanner, tmp_path):
    """A new vault: its passphrase, while its key is derived."""
    for mode in ("required", "off"):
        passphrase = text_canary()
        file = Vault.private(tmp_path / f"passphrase-{mode}", passphrase + b"\n", None)
        argv = ["vault", "init", "--file", tmp_path / mode, "--passphrase-file", file]
        argv += ["--kdf-memory", KDF_MIB, "--kdf-ops", KDF_OPS]
        midst = Midst(scanner(forms("passphrase", passphrase)))
        env = {"CLOUDTASER_SECRET_MEMORY": mode}
        with Command([build / "cloudtaser", *argv], tmp_path, env) as command:
            while command.process.poll() is None:
                try:
                    midst(command.pid)
                except Gone:
                    break
            assert command.process.wait(20) == 0
        if mode == "off":
            assert "passphrase (raw)" in midst.names()
        else:
            midst.clean()


@pytest.mark.parametrize("what", ["init", "put", "get", "get -o json", "wrong passphrase"])
def test_nothing_is_left_at_the_end_of_a_command(what, build, vault, root, scanner, tmp_path):
    """On stacks and heaps that were not wiped, say: kept from ending, when everything is done."""
    patterns = vault.patterns()
    how = ["--vault", f"file:{vault.file}", "--passphrase-file", vault.passphrase_file]
    argv = [*what.split(), "app/db/password" if what == "get" else "app/db", *how]
    if what == "init":
        argv = ["vault", "init", "--file", tmp_path / "new", "--passphrase-file", vault.passphrase_file]
        argv += ["--kdf-memory", 8, "--kdf-ops", 1]
    elif what == "put":
        given = tmp_path / "given"
        given.write_bytes(vault.password)
        argv += ["--patch", f"again=@{given}"]
    elif what == "wrong passphrase":
        wrong = text_canary()
        patterns = forms("wrong passphrase", wrong)
        file = Vault.private(tmp_path / "wrong", wrong, None)
        argv = ["get", "app/db/password", "--vault", f"file:{vault.file}", "--passphrase-file", file]
    argv = [build / "cloudtaser", *argv]
    with Command.held_at_its_end(argv, tmp_path, stdout=subprocess.DEVNULL) as command:
        if what == "init":
            patterns.update(keys(tmp_path / "new", vault.passphrase))
        scanner(patterns).clean(command.pid, f"{what}, at its end")
        assert command.let_go() == (77 if what == "wrong passphrase" else 0)


GDB_MUNMAP = """
set pagination off
set confirm off
set libthread-db-search-path /nowhere
handle SIGSTOP nostop noprint
catch syscall munmap
commands
silent
if $rsi >= {size} && $rsi < {size} + 65536
  dump binary memory {out} $rdi+{tail} $rdi+$rsi
  printf "given back: %lu bytes\\n", $rsi
end
continue
end
run
"""


def test_argon2_working_memory_is_given_back_unwiped_and_leads_to_the_key(build, vault, root, tmp_path):
    """
    The documented exception, measured: libsodium returns Argon2's working memory to the kernel without wiping it.
    Whoever reads its last block just then has, with the vault's file, the vault's keys. It holds no passphrase.
    """
    script, out = tmp_path / "script", tmp_path / "block"
    size = KDF_MIB << 20
    script.write_text(GDB_MUNMAP.format(size=size, out=out, tail=size - BLOCK))
    command = [build / "cloudtaser", "get", "app/db/password", "--vault", f"file:{vault.file}"]
    command += ["--passphrase-file", vault.passphrase_file]
    done = programs.run(["gdb", "-nx", "-batch", "-x", script, "--args", *command], tmp_path)
    assert b"given back" in done.stdout, (done.stdout + done.stderr).decode()
    data = out.read_bytes()
    assert len(data) <= BLOCK + 65536
    blocks = [data[at : at + BLOCK] for at in range(0, len(data) - BLOCK + 1, 8)]
    slot = Slot(vault.file)
    opened = [key for key in map(of_last_block, blocks) if slot.unwrap(key)]
    assert opened, "wiped now? Then docs/threat-model.md says too little good of it"
    assert vault.passphrase not in data
