# SPDX-License-Identifier: Apache-2.0
"""Child processes that die with their parent, and waiting with a deadline."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    """For preexec_fn. The signal is bound to the thread that forks: start servers from the main thread."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def spawn(argv, log, env=None, cwd=None, **kwargs):
    """Starts argv with output appended to the file `log` and an environment that holds nothing of ours but `env`."""
    clean = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(cwd or "/"), "LC_ALL": "C.UTF-8"}
    clean.update(env or {})
    with open(log, "ab") as out:
        return subprocess.Popen(
            [str(a) for a in argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=clean,
            cwd=cwd,
            preexec_fn=die_with_parent,
            **kwargs,
        )


def end(process, timeout=10):
    """Asks a child to go, insists after `timeout` seconds, and reaps it."""
    if process is None or process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(check, timeout=30, what="condition", alive=None, every=0.02):
    """Returns the first true answer of check(); AssertionError after `timeout` seconds, or when `alive` has died."""
    deadline = time.monotonic() + timeout
    while True:
        answer = check()
        if answer:
            return answer
        if alive is not None and alive.poll() is not None:
            raise AssertionError(f"{what}: the process ended with status {alive.returncode}")
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(every)


def free_port(host="127.0.0.1"):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((host, 0))
        return s.getsockname()[1]
