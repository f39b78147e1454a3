# SPDX-License-Identifier: Apache-2.0
"""The rules of tests/harness, seen to bite: each case is a pytest run of its own over a file made here."""

import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import pytest

TESTS = pathlib.Path(__file__).resolve().parent.parent

FUSE = """
    import ctypes, os, pathlib, shutil, subprocess

    def mount(folder):
        '''A cloudtaser filesystem that never answers; the descriptor that serves it.'''
        fd = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        data = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
        if libc.mount(b"cloudtaser", bytes(folder), b"fuse.cloudtaser", 0, data.encode()):
            raise OSError(ctypes.get_errno(), "mount")
        return fd

    def daemon(folder, **kwargs):
        program = folder / "cloudtaserd"
        shutil.copy("/bin/sleep", program)
        return subprocess.Popen([program, "1000"], **kwargs)
"""


@pytest.fixture
def inner(tmp_path):
    """inner(text, CI=...) runs a test file under our conftest.py; (status, output)."""
    tests = tmp_path / "tests"
    tests.mkdir()
    for name in ("conftest.py", "harness", "peers", "allowed-skips.txt"):
        source = TESTS / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tests / name)
    shutil.copy(TESTS.parent / "pyproject.toml", tmp_path)

    def run(text, ci="", allowed="", grace=10, last=30):
        (tests / "allowed-skips.txt").write_text(allowed)
        source = textwrap.dedent(FUSE) + "\nimport pytest, harness.deadline\n"
        source += f"harness.deadline.GRACE, harness.deadline.LAST = {grace}, {last}\n"
        (tests / "test_inner.py").write_text(source + textwrap.dedent(text))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp", tmp_path / "t"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "CI": ci},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    return run


def test_what_waits_too_long_fails_and_the_next_test_runs(inner):
    status, said = inner("""
        import threading
        @pytest.mark.deadline(1)
        def test_waits(): threading.Event().wait()
        def test_next(): pass
    """)
    assert status == 1
    assert "1 failed, 1 passed" in said
    assert "not done within its deadline of 1 s" in said


def test_a_fixture_that_waits_too_long_fails(inner):
    status, said = inner("""
        import threading
        @pytest.fixture
        def slow(): threading.Event().wait()
        @pytest.mark.deadline(1)
        def test_waits(slow): pass
    """)
    assert status == 1
    assert "1 error" in said
    assert "not done within its deadline of 1 s" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts by mount(2)")
def test_a_wait_that_no_signal_reaches_is_ended(inner):
    status, said = inner(
        """
        @pytest.mark.deadline(1)
        def test_hangs(tmp_path):
            where = tmp_path / "m"
            where.mkdir()
            fd = mount(where)
            daemon(tmp_path, pass_fds=[fd])
            os.close(fd)
            os.listdir(where)
        def test_next(): pass
        """,
        grace=1,
    )
    assert status == 1
    assert "test_hangs (call): hangs; killing process" in said
    assert "1 failed, 1 passed" in said


def test_a_call_that_lets_no_python_run_ends_the_run(inner):
    status, said = inner(
        """
        import collections, itertools
        @pytest.mark.deadline(1)
        def test_thinks():
            collections.deque(itertools.repeat(0, 10**12), maxlen=0)
        """,
        grace=1,
        last=1,
    )
    assert status == 1
    assert "Timeout (0:00:03)!" in said
    assert "in test_thinks" in said


def test_a_process_left_behind_is_an_error(inner):
    status, said = inner("""
        def test_leaves(tmp_path): daemon(tmp_path)
        def test_next(): pass
    """)
    assert status == 1
    assert "2 passed, 1 error" in said
    assert "cloudtaserd 1000, state S), first seen after tests/test_inner.py::test_leaves" in said


def test_an_orphan_left_behind_is_an_error(inner):
    status, said = inner("""
        def test_leaves(tmp_path):
            shutil.copy("/bin/sleep", tmp_path / "cloudtaser")
            subprocess.run(["/bin/sh", "-c", f"{tmp_path}/cloudtaser 1000 &"], check=True)
    """)
    assert status == 1
    assert "cloudtaser 1000, state S), first seen after tests/test_inner.py::test_leaves" in said
    assert "1 passed, 1 error" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts by mount(2)")
def test_a_mount_left_behind_is_an_error_and_taken_away(inner, tmp_path):
    status, said = inner("""
        def test_leaves(tmp_path):
            where = tmp_path / "a b"
            where.mkdir()
            os.close(mount(where))
    """)
    assert status == 1
    assert "1 passed, 1 error" in said
    assert "a b, first seen after tests/test_inner.py::test_leaves" in said
    assert str(tmp_path) not in pathlib.Path("/proc/self/mountinfo").read_text()


def test_what_was_ended_is_no_error(inner):
    status, said = inner("""
        def test_tidy(tmp_path):
            with daemon(tmp_path) as process:
                process.kill()
    """)
    assert status == 0
    assert "1 passed" in said


SKIPS = """
    def test_skips(): pytest.skip("no such machine")
    @pytest.mark.skipif(True, reason="nor such")
    def test_marked(): pass
"""


def test_a_skip_is_a_failure_in_ci_only(inner):
    assert inner(SKIPS)[0] == 0
    status, said = inner(SKIPS, ci="true")
    assert status == 1
    assert "in CI nothing may be skipped that tests/allowed-skips.txt does not list: Skipped: no such machine" in said
    assert "1 failed, 1 error" in said


def test_a_skipped_file_is_a_failure_in_ci(inner):
    text = "pytest.skip('all of it', allow_module_level=True)"
    assert "1 skipped" in inner(text)[1]
    status, said = inner(text, ci="true")
    assert status != 0
    assert "1 error" in said


def test_a_listed_skip_is_none(inner):
    status, said = inner(SKIPS, ci="true", allowed="tests/test_inner.py::test_* seen everywhere but here\n")
    assert status == 0
    assert "2 skipped" in said


def test_a_listed_skip_needs_a_reason(inner):
    status, said = inner(SKIPS, ci="true", allowed="tests/test_inner.py::test_*\n")
    assert status == 4
    assert "a skip needs a reason" in said
