# SPDX-License-Identifier: Apache-2.0
"""What the fault tests share: a mount whose secrets are known, and who watches it while something is wrong.

site = Site(cloudtaserd, bao, folder)       # puts secrets, mounts them, has read them all once
with site.watched() as watch:               # a process reads them over and over, `ls -l` looks at them
    ...                                     # the fault
    watch.more()                            # until many more reads and looks were made
# judged here: no read failed, none was wrong, no `ls -l` took a second
"""

import contextlib
import errno
import json
import os
import pathlib
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

from peers.faulty import Faulty
from peers.process import die_with_parent, wait_until

LIVENESS = 1.0  # seconds that an `ls -l` of a known mount, or a read of a known secret, may take
HERE = pathlib.Path(__file__).parent

# What every site has: a tree of two secrets, and one that the configuration names by itself.
SECRETS = {"app/db": ("password", "username"), "app/web": ("key",), "single": ("only",)}
SHOWN = ("app/db/password", "app/db/username", "app/web/key", "one/only")
# In the vault and listed, but fetched by nobody until a test does.
NEVER = "late/never"


def value(number, name):
    return f"{number} {name} {'x' * (20 + number % 7)}"


def fill(bao, number, prefix=""):
    """A new version of every known secret."""
    for path, fields in SECRETS.items():
        bao.put(prefix + path, {field: value(number, f"{path}/{field}") for field in fields})


class Front(Faulty):
    """A Faulty that can also lose its connections, and change its certificate."""

    def cut(self):
        with self._lock:
            for sock in list(self._open):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def show(self, cert, key):
        """As a server started anew with another certificate: everybody has to connect again, and in full."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self._tls = context
        self.cut()

    def asked_for(self, path):
        """Has a request for this secret come in?"""
        return any(request.path.endswith(f"/data/{path}") for request in list(self.requests))


# --- the daemon, asked


def ask(daemon, verb, **more):
    """A verb of the control socket; the whole answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(70)
        s.connect(str(daemon.control))
        s.send(json.dumps({"v": 1, "verb": verb, **more}).encode())
        return json.loads(s.recv(65536))


def reload(daemon):
    """The verb; its answer, which comes when all is done."""
    answer = ask(daemon, "reload")
    daemon._wait_for(b"RELOADING=1", 1)
    daemon._wait_for(b"READY=1", 1)
    return answer


def status(daemon):
    answer = ask(daemon, "status")
    assert answer["ok"], answer
    return answer["result"]


def mount_status(daemon, path):
    return next(m for m in status(daemon)["mounts"] if m["path"] == str(path))


def problem_of(daemon, mount, path):
    """What `status` says of a path of the vault, or None."""
    for problem in mount_status(daemon, mount)["problems"]:
        if problem["path"] == path:
            return problem["message"]
    return None


def fails_to_refresh(daemon, more=2, seconds=20):
    """Waits until that many more questions to the vault have failed."""
    before = status(daemon)["cache"]["fetch_errors"]
    wait_until(lambda: status(daemon)["cache"]["fetch_errors"] >= before + more, seconds, "the daemon to notice")


def logged(daemon, text, seconds=20):
    """Waits for a line of the log that holds the text."""
    wait_until(lambda: text in daemon.log.read_text(errors="replace"), seconds, f"{text!r} in the log")


def count_logged(daemon, text):
    return daemon.log.read_text(errors="replace").count(text)


# --- reading


def error_of(call, *arguments):
    """(errno, seconds) of a call that has to fail."""
    began = time.monotonic()
    try:
        said = call(*arguments)
    except OSError as e:
        return e.errno, time.monotonic() - began
    raise AssertionError(f"{call.__name__}{arguments} should have failed, and said {said!r}")


def read(path):
    """open, read, close: no look at the attributes first."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20).decode()
    finally:
        os.close(fd)


def pread(fd):
    return os.pread(fd, 1 << 20, 0).decode()


def reads(path, expected, seconds=15):
    """Waits until a read says so; whatever it says until then."""

    def there():
        try:
            return read(path) == expected
        except OSError:
            return False

    wait_until(there, seconds, f"{path} to hold {expected!r}")


def reads_error(path, number, seconds=15):
    """Waits until a read fails so; it may succeed until then."""

    def fails():
        try:
            read(path)
        except OSError as e:
            return e.errno == number
        return False

    wait_until(fails, seconds, f"{path}: {errno.errorcode[number]}")


class Hammer:
    """A process of its own that reads files over and over: {path: name of the value}."""

    BOARD = struct.Struct("=QQ")

    def __init__(self, files):
        handle, self.board = tempfile.mkstemp()
        os.write(handle, bytes(self.BOARD.size))
        os.close(handle)
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
        self.process = subprocess.Popen(
            [sys.executable, HERE / "hammer.py", self.board, json.dumps({str(p): n for p, n in files.items()})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
            env=paths,
        )

    def _counts(self):
        with open(self.board, "rb") as f:
            return self.BOARD.unpack(f.read(self.BOARD.size))

    @property
    def reads(self):
        return self._counts()[0]

    @property
    def failed(self):
        return self._counts()[1]

    def more(self, n=200, seconds=30):
        """Until that many more reads were made."""
        until = self.reads + n
        wait_until(lambda: self.reads >= until, seconds, f"{n} more reads", self.process)

    def end(self):
        """Ends it; what it saw."""
        out, _ = self.process.communicate(timeout=30)
        os.unlink(self.board)
        assert self.process.returncode == 0
        return json.loads(out)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Looks:
    """A thread that runs `ls -l` over and over, and takes the time."""

    def __init__(self, *folders):
        self.argv = ["ls", "-l", *map(str, folders)]
        self.expected = self._names(self._ls())
        self.times, self.bad = [], []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _ls(self):
        return subprocess.run(self.argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)

    @staticmethod
    def _names(done):
        assert done.returncode == 0 and not done.stderr, done.stderr
        lines = [line.split() for line in done.stdout.splitlines() if line and not line.startswith("total")]
        assert not any("?" in word for words in lines for word in words[:-1]), done.stdout
        return [words[-1] for words in lines]

    def _run(self):
        while not self._end.is_set():
            began = time.monotonic()
            try:
                names = self._names(self._ls())
                if names != self.expected:
                    self.bad.append(f"{names} instead of {self.expected}")
            except (AssertionError, subprocess.TimeoutExpired) as e:
                self.bad.append(str(e))
            self.times.append(time.monotonic() - began)
            self._end.wait(0.1)

    def more(self, n=3, seconds=30):
        until = len(self.times) + n
        wait_until(lambda: len(self.times) >= until, seconds, f"{n} more ls -l")

    def end(self):
        self._end.set()
        self._thread.join()
        return self


class Watch:
    """Both of them; judged at the end, or by the test when `judge` is False (self.seen, self.looks)."""

    def __init__(self, files, folders, judge=True):
        self.judge = judge
        self.hammer = Hammer(files)
        self.looks = self.seen = None
        try:
            self.hammer.more(len(files))
            self.looks = Looks(*folders)
        except BaseException:
            self.hammer.kill()
            raise

    def more(self, reads=200, looks=3):
        self.looks.more(looks)
        self.hammer.more(reads)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.looks.end()
        try:
            self.seen = self.hammer.end()
        finally:
            self.hammer.kill()
        if kind is None and self.judge:
            self.judged()

    def judged(self):
        seen = self.seen
        assert seen["failed"] == 0, seen
        assert seen["reads"] > 200, "next to nothing was read"
        assert seen["worst"] < LIVENESS, f"a read of a known secret took {seen['worst']:.2f} s"
        assert not self.looks.bad, self.looks.bad
        assert len(self.looks.times) >= 3
        assert max(self.looks.times) < LIVENESS, f"ls -l took {max(self.looks.times):.2f} s"


# --- a daemon with a mount


def vault(bao, address=None, **more):
    """A vault's entry: everything short, so that tests are."""
    conf = {
        "address": address or bao.address,
        "token_file": bao.token_file,
        "refresh": "1s",
        "connect_timeout": "1s",
        "timeout": "1s",
        **more,
    }
    if bao.ca_file:
        conf.setdefault("ca_file", bao.ca_file)
    return conf


class Site:
    """A daemon with one mount of the secrets above, all of them known (known=False: not yet, and none put)."""

    def __init__(self, start, bao, folder, address=None, known=True, wait="1500ms", secrets=None, **more):
        self.bao = bao
        self.mount = pathlib.Path(folder) / "m"
        self.mount.mkdir()
        self.files = {self.mount / path: name for path, name in zip(SHOWN, self._names(), strict=True)}
        self.folders = [self.mount, self.mount / "app", self.mount / "app/db"]
        self.entry = {
            "path": str(self.mount),
            "vault": "bao",
            "secrets": secrets or ["app/", {"path": "single", "as": "one"}, "late/"],
        }
        self.config = {"wait": wait, "vaults": {"bao": vault(bao, address, **more)}, "mounts": [self.entry]}
        if known:
            fill(bao, 1)
            bao.put(NEVER, {"value": "at last"})
            bao.put("late/second", {"value": "at last"})
        self.daemon = start(self.config)
        if known:
            for path, name in self.files.items():
                reads(path, value(1, name))
            # Listed to the bottom, so that the names below late/ are known as well.
            wait_until(lambda: os.listdir(self.mount / "late") == ["never", "second"], 10, "the tree to be listed")
        self._never_read = bao.reads_of(NEVER)

    @staticmethod
    def _names():
        return [f"{path}/{field}" for path, fields in SECRETS.items() for field in fields]

    @property
    def never(self):
        """The file that nobody has read yet, if that is so: who walks through all of a machine's files spoils it."""
        assert self.bao.reads_of(NEVER) == self._never_read, "somebody else has read it"
        return self.mount / NEVER / "value"

    def watched(self, **kwargs):
        return Watch(self.files, self.folders, **kwargs)

    def has(self, number, seconds=15):
        """Waits until every known secret has this version."""
        for path, name in self.files.items():
            reads(path, value(number, name), seconds)


def start_reader(*argv):
    """A program that is going to wait for a secret."""
    return subprocess.Popen(
        [str(a) for a in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=die_with_parent,
    )


def waits_in_a_call(process):
    """Is it asleep in a system call (and past its exec)?"""
    with open(f"/proc/{process.pid}/syscall") as f:
        asleep = f.read().split()[0] not in ("running", "-1")
    return asleep and os.path.basename(os.readlink(f"/proc/{process.pid}/exe")) == os.path.basename(process.args[0])


def goes_at_once(process, how=signal.SIGKILL):
    """It is killed, and must be gone within a second."""
    began = time.monotonic()
    process.send_signal(how)
    try:
        process.wait(LIVENESS)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"killed, and still there after {time.monotonic() - began:.1f} s") from None
    finally:
        process.stdout.close()
        process.stderr.close()
    assert process.returncode == -how
