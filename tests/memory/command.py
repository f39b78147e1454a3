# SPDX-License-Identifier: Apache-2.0
"""A command of ours that is looked at while it runs."""

import signal
import subprocess
import time

from harness import programs

DEADLINE = 30


class Command:
    """A command of ours that is still running."""

    def __init__(self, argv, home, env=None, user=None, **kwargs):
        argv = user.argv(*argv) if user else [str(a) for a in argv]
        kwargs = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        self.process = subprocess.Popen(argv, env=programs.environment(home, env), **kwargs)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def until(self, check, what):
        end = time.monotonic() + DEADLINE
        while not check():
            assert self.process.poll() is None, f"{what}: it ended: {self.process.stderr.read().decode()}"
            assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
            time.sleep(0.01)
