# SPDX-License-Identifier: Apache-2.0
"""Fixtures that any test may use, and the rules every test is under (tests/harness)."""

import os
import pathlib
import pwd
import shutil
import stat
import tempfile

import pytest
from harness import programs

pytest_plugins = ["harness.leftovers", "harness.deadline", "harness.skips"]

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Exists on every Debian, owns no files, runs nothing.
UNPRIVILEGED = "games"


@pytest.fixture(scope="session")
def build_folder():
    """The build folder: build, or what CLOUDTASER_BUILD names (the sanitizers' one, say)."""
    return ROOT / os.environ.get("CLOUDTASER_BUILD", "build")


@pytest.fixture(scope="session")
def build(build_folder):
    """The folder of the programs, as everybody can reach it: below a home that is closed to others they are copied."""
    folder = build_folder / "bin"
    if not (folder / "cloudtaserd").exists():
        pytest.fail(f"{folder} holds no programs: run `make` first", pytrace=False)
    if all(p.stat().st_mode & stat.S_IXOTH for p in [folder, *folder.parents]):
        yield folder
        return
    copy = pathlib.Path(tempfile.mkdtemp(prefix="ct-build-"))
    copy.chmod(0o755)
    shutil.copytree(folder, copy / "bin")
    yield copy / "bin"
    shutil.rmtree(copy)


@pytest.fixture(scope="session")
def openbao():
    """One real OpenBao for the whole run (TLS, raft). Keep to paths of your own; start your own to break it."""
    from peers.openbao import OpenBao

    with OpenBao() as bao:
        yield bao


@pytest.fixture(scope="session")
def fuse_device():
    """/dev/fuse as Debian has it, open to everybody; some containers have it for root alone."""
    device = pathlib.Path("/dev/fuse")
    if not device.exists():
        pytest.skip("there is no /dev/fuse here")
    mode = stat.S_IMODE(device.stat().st_mode)
    if mode & 0o006 == 0o006 or os.geteuid() != 0:
        yield device
        return
    device.chmod(0o666)
    yield device
    device.chmod(mode)


@pytest.fixture
def user(fuse_device):
    """An unprivileged user to run programs as (harness.programs.User); ourselves when we are not root."""
    who = pwd.getpwuid(os.geteuid()) if os.geteuid() != 0 else pwd.getpwnam(UNPRIVILEGED)
    home = pathlib.Path(tempfile.mkdtemp(prefix="ct-home-"))
    user = programs.User(who.pw_name, who.pw_uid, who.pw_gid, home)
    user.own(home)
    yield user
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def cloudtaser(build, tmp_path):
    """cloudtaser("put", "app/db", ...) runs the command to its end; CompletedProcess with bytes. user=, env=, input="""

    def run(*arguments, **kwargs):
        return programs.run([build / "cloudtaser", *arguments], tmp_path, **kwargs)

    return run


@pytest.fixture
def cloudtaserd(build):
    """cloudtaserd(config, user=, env=, ...) starts the daemon, ready (harness.programs.Daemon); stopped at the end."""
    started = []
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ct-d-"))  # short: socket paths end at 107 bytes
    folder.chmod(0o755)

    def start(config, **kwargs):
        daemon = programs.Daemon(build / "cloudtaserd", config, folder / str(len(started)), **kwargs)
        started.append(daemon)
        return daemon

    yield start
    try:
        for daemon in reversed(started):
            daemon.stop()
    finally:
        for daemon in started:
            daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)
