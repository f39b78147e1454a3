# SPDX-License-Identifier: Apache-2.0
"""People with a sealed vault, and terminals for them."""

import os
import pathlib
import tempfile

import pytest
from cli_people import Person, Terminal


@pytest.fixture
def person(build, tmp_path):
    """Whoever runs the tests, with an empty vault."""
    # Short: a control socket's path ends at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ct-") as home:
        one = Person(build, pathlib.Path(home)).init()
        yield one
        one.close()


@pytest.fixture
def nobody_yet(build):
    """The same without a vault."""
    with tempfile.TemporaryDirectory(prefix="ct-") as home:
        one = Person(build, pathlib.Path(home))
        yield one
        one.close()


@pytest.fixture(params=["root", "user"])
def anybody(request, build):
    """Root and an unprivileged user in turn, each with an empty vault."""
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("the tests do not run as root")
        yield request.getfixturevalue("person")
        return
    one = Person(build, None, request.getfixturevalue("user")).init()
    yield one
    one.close()


@pytest.fixture
def terminal():
    """terminal(person, "get", ...) starts a command on a terminal."""
    made = []

    def start(*arguments, **kwargs):
        made.append(Terminal(*arguments, **kwargs))
        return made[-1]

    yield start
    for one in made:
        one.close()
