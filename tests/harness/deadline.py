# SPDX-License-Identifier: Apache-2.0
"""No test hangs for ever.

Setup, call and teardown of a test have a deadline each (120 s, or @pytest.mark.deadline(seconds)). When it passes, the
test fails where it stands: SIGALRM raises there. A test that waits in the kernel for a filesystem server cannot be
reached by a signal handler; then, GRACE seconds later, a thread kills our programs, which ends the wait. If even that
does not help (one long call into C lets no Python run at all), every thread's stack is printed and the run ended.
"""

import faulthandler
import os
import signal
import threading

import pytest

from . import leftovers

DEFAULT = 120
GRACE = 10
LAST = 30


_stderr = 2


def pytest_configure():
    # pytest captures 2 while a test runs; here it is still the real one.
    global _stderr
    _stderr = os.dup(2)


def _say(text):
    os.write(_stderr, f"\n{text}\n".encode())


class _Watch:
    """Counts down one phase of one test."""

    def __init__(self, item, phase):
        marker = item.get_closest_marker("deadline")
        self.seconds = marker.args[0] if marker else DEFAULT
        self.what = f"{item.nodeid} ({phase})"
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.done = threading.Event()

    def __enter__(self):
        self.old = signal.signal(signal.SIGALRM, self._alarm)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        self.thread.start()
        faulthandler.dump_traceback_later(self.seconds + GRACE + LAST, exit=True, file=_stderr)

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.old)
        faulthandler.cancel_dump_traceback_later()
        self.done.set()
        self.thread.join()

    def _alarm(self, *_):
        pytest.fail(f"not done within its deadline of {self.seconds} s")

    def _watch(self):
        if self.done.wait(self.seconds + GRACE):
            return
        for process in leftovers.processes():
            _say(f"{self.what}: hangs; killing {process}")
            process.kill()
        for mount in leftovers.mounts():
            leftovers.unmount(mount)


# tryfirst makes these the outermost wrappers, so that fixtures count too.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    with _Watch(item, "setup"):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item):
    with _Watch(item, "call"):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
    with _Watch(item, "teardown"):
        return (yield)
