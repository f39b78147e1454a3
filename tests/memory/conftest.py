# SPDX-License-Identifier: Apache-2.0
"""What the memory tests need: root, and the scan."""

import os

import pytest


def pytest_collection_modifyitems(items):
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.no_asan)


@pytest.fixture(scope="session")
def memory_programs(build_folder):
    return build_folder / "tests" / "memory"


@pytest.fixture
def root():
    if os.geteuid() != 0:
        pytest.skip("looking into other processes' memory takes root")


@pytest.fixture
def scanner(memory_programs, root):
    """scanner({"name": bytes, ...}) makes a memory.Scanner."""
    from memory import Scanner

    return lambda patterns: Scanner(memory_programs / "scan", patterns)
