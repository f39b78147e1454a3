# SPDX-License-Identifier: Apache-2.0
"""The box, judged after every test that uses it."""

import os

import pytest
from box import Box


@pytest.fixture(scope="module")
def whole_box(build_folder, build, openbao, fuse_device):
    if os.geteuid() != 0:
        pytest.skip("a network namespace of one's own takes root")
    boxed = build_folder / "tests" / "network" / "boxed"
    assert boxed.exists(), f"{boxed} is not built: make test-programs"
    made = Box(boxed, build, openbao)
    yield made
    made.close()


@pytest.fixture
def unjudged(whole_box):
    """For tests of the box itself: they ask for its findings themselves."""
    whole_box.begin()
    yield whole_box
    for daemon in whole_box.daemons:
        daemon.kill()


@pytest.fixture
def box(unjudged):
    """Whatever is started in it may only speak to its peers: see box.Box."""
    yield unjudged
    assert unjudged.findings() == []
