# SPDX-License-Identifier: Apache-2.0
"""People with a sealed vault, and terminals for them: what tests/cli/conftest.py makes fixtures of."""

import fcntl
import os
import pathlib
import pty
import select
import signal
import subprocess
import termios
import time

from harness.programs import environment
from peers.process import die_with_parent

PASSPHRASE = b"correct horse battery staple"
SECONDS = 30


class Person:
    """Somebody with a home, a passphrase file and (after init) a sealed vault in its usual place."""

    def __init__(self, build, home, user=None):
        self.build = build
        self.user = user
        self.home = user.home if user else home
        self.uid = user.uid if user else os.geteuid()
        self.vault = self.home / ".local/share/cloudtaser/vault"
        self.passphrase = self.home / "passphrase"
        self.write(self.passphrase, PASSPHRASE + b"\n", 0o600)
        self.started = []

    def write(self, path, data, mode=0o644):
        path = pathlib.Path(path)
        path.touch(mode=mode)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        if self.user:
            self.user.own(path)
        return path

    def folder(self, name):
        path = self.home / name
        path.mkdir()
        if self.user:
            self.user.own(path)
        return path

    def argv(self, *arguments, program="cloudtaser"):
        argv = [str(self.build / program), *map(str, arguments)]
        return self.user.argv(*argv) if self.user else argv

    def with_passphrase(self, arguments):
        """The vault's options stand behind the command's name, before any `--`."""
        words = 2 if arguments[0] == "vault" else 1
        return [*arguments[:words], "--passphrase-file", self.passphrase, *arguments[words:]]

    def run(self, *arguments, env=None, open_vault=True, input=None, **kwargs):
        """A command to its end, the passphrase given (open_vault=False: not)."""
        arguments = self.with_passphrase(arguments) if open_vault else arguments
        stdin = {} if input is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(
            self.argv(*arguments),
            **stdin,
            input=input,
            capture_output=True,
            timeout=60,
            cwd=kwargs.pop("cwd", self.home),
            env=environment(self.home, env),
            **kwargs,
        )

    def ok(self, *arguments, **kwargs):
        """The same, and it must succeed; its output."""
        done = self.run(*arguments, **kwargs)
        assert done.returncode == 0, (done.returncode, done.stderr)
        return done.stdout

    def start(self, *arguments, env=None, open_vault=True, **kwargs):
        """A command that goes on: stdin, stdout and stderr are pipes."""
        arguments = self.with_passphrase(arguments) if open_vault else arguments
        process = subprocess.Popen(
            self.argv(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=kwargs.pop("stderr", subprocess.PIPE),
            cwd=self.home,
            env=environment(self.home, env),
            preexec_fn=die_with_parent,
            **kwargs,
        )
        self.started.append(process)
        return process

    def init(self):
        self.ok("vault", "init", "--kdf-memory", "8", "--kdf-ops", "1")
        return self

    def put(self, path, **fields):
        """Each value goes by a file."""
        names = []
        for i, (name, value) in enumerate(fields.items()):
            file = self.write(self.home / f"value{i}", value, 0o600)
            names.append(f"{name}=@{file}")
        self.ok("put", path, *names)
        for name in names:
            os.unlink(name.partition("@")[2])

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()


def read_line(stream, seconds=SECONDS):
    """One line of a pipe, without its newline; fails at the end of it, and when none comes in time."""
    line = b""
    deadline = time.monotonic() + seconds
    while not line.endswith(b"\n"):
        ready = select.select([stream], [], [], max(0, deadline - time.monotonic()))[0]
        assert ready, f"no line within {seconds} s, only {line!r}"
        byte = os.read(stream.fileno(), 1)
        assert byte, f"the stream ended behind {line!r}"
        line += byte
    return line[:-1]


class Terminal:
    """A command on a terminal of its own, whose foreground it is."""

    def __init__(self, person, *arguments, argv=None, env=None):
        self.master, slave = pty.openpty()
        self.slave = os.open(os.ttyname(slave), os.O_RDWR | os.O_NOCTTY)
        self.seen = b""
        self.process = subprocess.Popen(
            list(map(str, argv)) if argv else person.argv(*arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=person.home,
            env=environment(person.home, {"TERM": "dumb", **(env or {})}),
            start_new_session=True,
            preexec_fn=lambda: (fcntl.ioctl(0, termios.TIOCSCTTY, 0), die_with_parent()),
        )
        os.close(slave)

    def wait_for(self, text, seconds=SECONDS):
        """Reads until `text` has come; what came before and with it."""
        text = text.encode() if isinstance(text, str) else text
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready = select.select([self.master], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, f"no {text!r} within {seconds} s: {self.seen!r}"
            self.seen += os.read(self.master, 4096)
        until = self.seen.index(text) + len(text)
        got, self.seen = self.seen[:until], self.seen[until:]
        return got

    def rest(self):
        """What else came; only once the program has ended."""
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 4096)
        return self.seen

    def type(self, text):
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def echoes(self):
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def wait(self):
        return self.process.wait(SECONDS)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        os.close(self.master)


def says(done, code, *sentences):
    """The exit code, and every piece of a sentence on standard error; nothing on standard output."""
    text = done.stderr.decode()
    assert done.returncode == code, (done.returncode, text)
    assert done.stdout == b""
    for sentence in sentences:
        assert sentence in text, text
