# SPDX-License-Identifier: Apache-2.0
"""A command of ours that is looked at while it runs."""

import os
import pathlib
import signal
import subprocess
import time

from harness import programs

DEADLINE = 30
EXIT_GROUP = 231  # x86-64
HOLD = ("strace", "-D", "-f", "-qq", "-I", "1", "-o", "/dev/null", "-e", "trace=exit_group")
HOLD += ("-e", "inject=exit_group:delay_enter=60000000")


class Command:
    """A command of ours that is still running."""

    def __init__(self, argv, home, env=None, user=None, **kwargs):
        argv = user.argv(*argv) if user else [str(a) for a in argv]
        kwargs = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        self.process = subprocess.Popen(argv, env=programs.environment(home, env), **kwargs)
        self.pid = self.process.pid
        self.held = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGKILL if self.held else signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    @classmethod
    def held_at_its_end(cls, argv, *args, **kwargs):
        """One that has done everything and is kept from ending (by strace, which is not its parent)."""
        command = cls([*HOLD, *argv], *args, **kwargs)
        command.held = True
        file = pathlib.Path(f"/proc/{command.pid}/syscall")
        command.until(lambda: file.read_text().split()[0] == str(EXIT_GROUP), "its end")
        return command

    def let_go(self):
        """Ends strace, and with it the hold."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        os.kill(int(status.split("TracerPid:")[1].split()[0]), signal.SIGTERM)
        return self.process.wait(DEADLINE)

    def until(self, check, what):
        end = time.monotonic() + DEADLINE
        while not check():
            assert self.process.poll() is None, f"{what}: it ended: {self.process.stderr.read().decode()}"
            assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
            time.sleep(0.01)
