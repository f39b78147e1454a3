# SPDX-License-Identifier: Apache-2.0
"""In CI (environment variable CI) a skipped test is a failed test, unless tests/allowed-skips.txt lists it.

A line of that file: a test's id as pytest prints it (* and ? match), white space, the reason. Elsewhere a skip stays a
skip: not every machine lets an unprivileged user mount.
"""

import fnmatch
import os
import pathlib

import pytest

FILE = pathlib.Path(__file__).parent.parent / "allowed-skips.txt"


def _allowed():
    patterns = []
    for number, line in enumerate(FILE.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = line.strip().partition(" ")
        if not reason.strip():
            raise pytest.UsageError(f"{FILE.name}:{number}: a skip needs a reason behind the test's id")
        patterns.append(pattern.replace("[", "[[]"))
    return patterns


def pytest_configure(config):
    config.stash[_KEY] = _allowed() if os.environ.get("CI", "") not in ("", "0", "false") else None


_KEY = pytest.StashKey()


def _judge(config, report):
    patterns = config.stash[_KEY]
    if patterns is None or not report.skipped or hasattr(report, "wasxfail"):
        return
    if any(fnmatch.fnmatchcase(report.nodeid, pattern) for pattern in patterns):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: in CI nothing may be skipped that tests/{FILE.name} does not list: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item):
    report = yield
    _judge(item.config, report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    report = yield
    _judge(collector.config, report)
    return report
