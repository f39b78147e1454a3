# SPDX-License-Identifier: Apache-2.0
"""Whatever a test module starts or mounts is gone when it ends.

Looked at after each test, judged after the last one of a module (fixtures may live that long): a cloudtaser process
below us, or a cloudtaser mount in the run's temporary folders, fails that last test, names the test after which it was
first seen, and is cleaned away. For that a run has a temporary folder of its own (TMPDIR, and what tempfile uses).
"""

import ctypes
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

PROGRAMS = ("cloudtaser", "cloudtaserd")
SETTLE = 5  # seconds: who was told to go may still be going

_PR_SET_CHILD_SUBREAPER = 36
_first_seen = {}
_folders = []


class Process:
    def __init__(self, pid):
        self.pid = pid
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        self.name = stat[stat.index("(") + 1 : stat.rindex(")")]
        self.state, parent, *rest = stat[stat.rindex(")") + 2 :].split()
        self.parent = int(parent)
        self.start = rest[17]  # with the pid: who it is
        argv = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        self.argv = [os.fsdecode(a) for a in argv]

    @property
    def ours(self):
        return self.name in PROGRAMS or (self.argv and os.path.basename(self.argv[0]) in PROGRAMS)

    @property
    def key(self):
        return ("process", self.pid, self.start)

    def __str__(self):
        return f"process {self.pid} ({' '.join(self.argv) or self.name}, state {self.state})"

    def kill(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        _reap(self.pid)

    def wait(self, deadline):
        """Until it ends; False when it does not."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            left = max(0, deadline - time.monotonic())
            return bool(select.select([fd], [], [], left)[0])
        finally:
            os.close(fd)


def _reap(pid):
    # Orphans are ours to reap (see pytest_configure); another process's children are not.
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def processes():
    """Our programs among our descendants, zombies left out."""
    everybody = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                everybody[int(entry)] = Process(int(entry))
            except OSError:
                continue  # gone meanwhile
    found = []
    for process in everybody.values():
        above = process
        while above and above.pid != os.getpid():
            above = everybody.get(above.parent)
        if above and process.ours and process.state != "Z":
            found.append(process)
    return found


def mounts():
    """Where cloudtaser filesystems are mounted in this run's folders, as far as this mount namespace shows."""
    found = []
    with open("/proc/self/mountinfo", "rb") as f:
        for line in f:
            before, after = line.rstrip(b"\n").split(b" - ", 1)
            kind, source = after.split(b" ")[:2]
            if kind == b"fuse.cloudtaser" or (kind.startswith(b"fuse") and source == b"cloudtaser"):
                where = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), before.split(b" ")[4])
                found.append(os.fsdecode(where))
    return [where for where in found if any(where.startswith(f"{folder}/") for folder in _folders)]


def unmount(where):
    command = ["umount", "-l", where] if os.geteuid() == 0 else ["fusermount3", "-u", "-z", where]
    subprocess.run(command, capture_output=True)


def _look(nodeid):
    """What is there now, as {key: (thing, description)}."""
    things = {process.key: (process, str(process)) for process in processes()}
    things.update({("mount", where): (where, f"mount {where}") for where in mounts()})
    for key in things:
        _first_seen.setdefault(key, nodeid)
    return things


def _clean(things):
    """Takes things away that do not go by themselves; their descriptions."""
    deadline = time.monotonic() + SETTLE
    bad = []
    for key, (thing, text) in things.items():
        if isinstance(thing, Process):
            if not thing.wait(deadline):
                thing.kill()
                bad.append(f"{text}, first seen after {_first_seen[key]}")
    for key, (thing, text) in things.items():
        if not isinstance(thing, Process) and thing in mounts():
            unmount(thing)
            bad.append(f"{text}, first seen after {_first_seen[key]}")
    return bad


def pytest_configure(config):
    # What daemonises comes back to us as a child, so that it is found here and nowhere else.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    # pytest's own folders (tmp_path) stay where they are: it keeps the last three runs' for whoever looks at a failure.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # Everybody may write there, as in /tmp: programs run as other users too.
    folder = tempfile.mkdtemp(prefix="ct-")
    os.chmod(folder, 0o1777)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    _folders.append(folder)


def pytest_unconfigure():
    for where in mounts():
        unmount(where)
    for folder in _folders[:1]:  # the second one is pytest's
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _pytest_folder(tmp_path_factory):
    _folders.append(str(tmp_path_factory.getbasetemp()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    result = yield
    things = _look(item.nodeid)
    if things and (nextitem is None or nextitem.path != item.path):
        bad = _clean(things)
        if bad:
            pytest.fail("left behind by this module: " + "; ".join(bad), pytrace=False)
    return result
