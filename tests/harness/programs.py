# SPDX-License-Identifier: Apache-2.0
"""Our programs as tests run them: whom they run as, with an environment of their own, ready when told so."""

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import time

from peers.process import die_with_parent

READY_TIMEOUT = 30


@dataclasses.dataclass(frozen=True)
class User:
    """Somebody to run as, with a home of their own (mode 0700)."""

    name: str
    uid: int
    gid: int
    home: pathlib.Path

    def argv(self, *argv):
        """The same command as this user; unchanged when that is who we are."""
        argv = [str(a) for a in argv]
        if os.geteuid() == self.uid:
            return argv
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--", *argv]

    def own(self, path):
        """Gives a file or folder to this user."""
        os.chown(path, self.uid, self.gid)
        return path


def environment(home, env=None):
    """The system's PATH and the sanitizers' settings of ours, nothing else; every XDG folder is below `home`."""
    clean = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",  # ours may lead through closed folders
        "LC_ALL": "C.UTF-8",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
    }
    clean.update((k, v) for k, v in os.environ.items() if k.endswith("SAN_OPTIONS"))
    clean.update(env or {})
    return clean


def run(argv, home, user=None, env=None, input=None, timeout=60, **kwargs):
    """Runs a command to its end; bytes in and out."""
    argv = user.argv(*argv) if user else [str(a) for a in argv]
    stdin = {} if input is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        argv,
        **stdin,
        input=input,
        capture_output=True,
        timeout=timeout,
        env=environment(user.home if user else home, env),
        **kwargs,
    )


class Daemon:
    """
    cloudtaserd with a configuration (a dict, or text), ready when the constructor returns: it says READY=1 to
    NOTIFY_SOCKET, as it does to systemd. Its log is the file self.log; its control socket self.control.
    """

    def __init__(self, program, config, folder, user=None, env=None, prefix=(), arguments=(), ready=READY_TIMEOUT):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.user = user
        self.config_file = self.folder / "config.yaml"
        self.log = self.folder / "daemon.log"
        self.control = self.folder / "control.sock"
        self.write_config(config)
        if user:
            user.own(self.folder)
        notify = self.folder / "notify.sock"
        argv = [*prefix, str(program), "-c", str(self.config_file), *map(str, arguments)]
        self._said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._said.bind(str(notify))
        os.chmod(notify, 0o666)
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                user.argv(*argv) if user else argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment(user.home if user else self.folder, {"NOTIFY_SOCKET": str(notify), **(env or {})}),
                preexec_fn=die_with_parent,
            )
        self.pid = self.process.pid
        try:
            self._wait_for(b"READY=1", ready)
        except BaseException:
            self.kill()
            raise

    def write_config(self, config):
        """A JSON document is a YAML one too."""
        if not isinstance(config, str):
            config = json.dumps({"control_socket": str(self.control), **config}, indent=1, default=str)
        new = self.config_file.with_suffix(".new")
        new.write_text(config)
        if self.user:
            self.user.own(new)
        new.replace(self.config_file)

    def _wait_for(self, word, seconds):
        deadline = time.monotonic() + seconds
        ended = os.pidfd_open(self.process.pid)
        try:
            while True:
                ready = select.select([self._said, ended], [], [], max(0, deadline - time.monotonic()))[0]
                if self._said in ready:
                    if word in self._said.recv(4096).split(b"\n"):
                        return
                elif ended in ready:
                    raise AssertionError(f"cloudtaserd ended with status {self.process.wait()}:\n{self.tail()}")
                else:
                    raise AssertionError(f"cloudtaserd: no {word.decode()} within {seconds} s:\n{self.tail()}")
        finally:
            os.close(ended)

    def reload(self, config=None, timeout=READY_TIMEOUT):
        """SIGHUP, with another configuration if one is given; returns when the daemon says that it is done."""
        if config is not None:
            self.write_config(config)
        self.process.send_signal(signal.SIGHUP)
        self._wait_for(b"RELOADING=1", timeout)
        self._wait_for(b"READY=1", timeout)

    def tail(self, size=4000):
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")[-size:]
        return ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, timeout=20):
        """SIGTERM; it has to go by itself. Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"cloudtaserd did not go within {timeout} s:\n{self.tail()}") from None
        self._said.close()
        return self.process.returncode

    def kill(self):
        """SIGKILL, and waits until it is gone."""
        self.process.kill()
        self.process.wait()
        self._said.close()
