# SPDX-License-Identifier: Apache-2.0
"""A vault that may be broken, a server in front of it that misbehaves, and places to mount at."""

import pathlib
import shutil
import tempfile

import pytest
from faults import Front, Site
from peers.openbao import OpenBao


@pytest.fixture(scope="module")
def bao():
    """A vault of this module's own: whoever breaks it mends it."""
    with OpenBao() as server:
        yield server


@pytest.fixture
def front(bao):
    with Front(bao) as server:
        yield server


@pytest.fixture
def folder():
    """Short: mount points and sockets are below it."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="ct-f-"))
    path.chmod(0o755)
    yield path
    for log in sorted(path.parent.glob("ct-d-*/*/daemon.log")):
        print(f"--- {log}:\n{log.read_text(errors='replace')[-6000:]}")  # shown when the test failed
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def cloudtaserd(folder, cloudtaserd):
    """Ended before the folder goes that its mounts are in."""
    return cloudtaserd


@pytest.fixture
def site(cloudtaserd, fuse_device, folder):
    """site(bao, ...) makes a faults.Site."""
    made = []

    def make(bao, **kwargs):
        below = folder / str(len(made))
        below.mkdir()
        made.append(Site(cloudtaserd, bao, below, **kwargs))
        return made[-1]

    return make
