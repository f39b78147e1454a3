# SPDX-License-Identifier: Apache-2.0
"""Who waits for a vault that says nothing: not for ever, not alone, and not when somebody kills them."""

import errno
import os
import signal
import threading
import time

import pytest
from faults import (
    NEVER,
    error_of,
    fails_to_refresh,
    goes_at_once,
    logged,
    mount_status,
    problem_of,
    read,
    reads,
    start_reader,
    waits_in_a_call,
)
from peers.faulty import Faulty
from peers.process import wait_until


def test_the_wait_ends(front, bao, site):
    """Not before it has to, and for all who wait; the reason names the wait."""
    s = site(bao, address=front.address, wait="2s", timeout="20s")
    path = s.never
    front.mode = Faulty.silent
    said = []
    readers = [threading.Thread(target=lambda: said.append(error_of(read, path))) for _ in range(8)]
    for r in readers:
        r.start()
    for r in readers:
        r.join()
    assert [number for number, _ in said] == [errno.EIO] * 8
    # A tenth of a second early is within what the cache may do.
    assert all(1.8 < took < 2.5 for _, took in said), said
    reason = f"vault bao has not answered about {NEVER} within 2000 ms"
    assert reason in problem_of(s.daemon, s.mount, NEVER)
    logged(s.daemon, f"mount {s.mount}: {NEVER}: {reason}", 1)
    front.mode = Faulty.passing
    front.cut()
    reads(path, "at last")


def test_nobody_else_waits_meanwhile(front, bao, site):
    """Many who wait for what is not known do not hold up those who read what is."""
    s = site(bao, address=front.address, wait="20s", timeout="25s")
    path = s.never
    with s.watched() as watch:
        front.mode = Faulty.silent
        waiting = [start_reader("cat", path) for _ in range(20)]
        wait_until(lambda: front.asked_for(NEVER), 10, "the question to reach the vault")
        watch.more()
        assert all(process.poll() is None for process in waiting)
        # The kernel lets one of them ask for a name; the others wait for that one, in a way that no signal ends.
        for process in waiting:
            process.kill()
        for process in waiting:
            goes_at_once(process)
        front.mode = Faulty.passing
        front.cut()
        watch.more(looks=1)


def test_nobody_waits_for_another_name(front, bao, site):
    """In one folder: a name that is known is answered while another one is waited for."""
    s = site(bao, address=front.address, wait="20s", timeout="25s")
    front.mode = Faulty.silent
    process = start_reader("cat", s.never)
    wait_until(lambda: front.asked_for(NEVER), 10, "the question to reach the vault")
    others = [start_reader("cat", s.mount / NEVER / f"other{i}") for i in range(5)]
    for other in others:
        wait_until(lambda o=other: waits_in_a_call(o), 10, "another reader to wait")
    # Each waits for itself, so each can be killed; the first one last.
    for reader in [*others, process]:
        goes_at_once(reader)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_waiting_reader_is_killed(how, front, bao, site):
    s = site(bao, address=front.address, wait="20s", timeout="25s")
    path = s.never
    front.mode = Faulty.silent
    process = start_reader("cat", path)
    wait_until(lambda: front.asked_for(NEVER), 10, "the question to reach the vault")
    assert process.poll() is None
    goes_at_once(process, how)
    # Whoever comes next is served as soon as the vault answers.
    front.mode = Faulty.passing
    front.cut()
    reads(path, "at last")


def test_a_waiting_ls_is_killed(front, bao, site):
    s = site(bao, address=front.address, wait="20s", timeout="25s")
    folder = s.never.parent
    front.mode = Faulty.silent
    process = start_reader("ls", folder)
    wait_until(lambda: front.asked_for(NEVER), 10, "the question to reach the vault")
    assert process.poll() is None
    goes_at_once(process)


def test_a_waiting_open_is_killed(front, bao, site):
    """The name is known, the value may not be served any more: it is the open itself that waits."""
    s = site(bao, address=front.address, wait="20s", timeout="3s", max_stale="0")
    path = s.mount / "one/only"
    front.mode = Faulty.status(503)

    def too_old():
        try:
            read(path)
        except OSError as e:
            return e.errno == errno.EIO
        return False

    wait_until(too_old, 10, "the value to become too old")
    waits = mount_status(s.daemon, s.mount)["waits"]
    front.mode = Faulty.silent
    # Errors are remembered for a second at most, then a reader waits.
    deadline = time.monotonic() + 10
    while True:
        process = start_reader("cat", path)
        wait_until(
            lambda p=process: p.poll() is not None or mount_status(s.daemon, s.mount)["waits"] > waits,
            10,
            "the reader to wait or to end",
        )
        if process.poll() is None:
            break
        process.communicate()
        assert time.monotonic() < deadline, "no reader ever waits"
    assert path.stat().st_size > 0  # its name and size are answered
    goes_at_once(process)


def test_an_error_is_remembered_for_a_moment(front, bao, site):
    """A storm of readers of what cannot be had asks the vault about once a second."""
    s = site(bao, address=front.address)
    path = s.never
    front.mode = Faulty.status(500)
    fails_to_refresh(s.daemon)
    before = sum(r.path.endswith(f"/data/{NEVER}") for r in front.requests)
    began = time.monotonic()
    tries = 0
    while time.monotonic() - began < 2.5:  # the time is what is measured here
        assert error_of(read, path)[0] == errno.EIO
        tries += 1
    asked = sum(r.path.endswith(f"/data/{NEVER}") for r in front.requests) - before
    assert tries > 50
    assert 1 <= asked <= 4, f"{tries} readers, {asked} questions"


def test_absent_is_the_vaults_word(front, bao, site):
    """ENOENT when the vault says so, EIO when it says nothing: of the same names."""
    s = site(bao, address=front.address, secrets=["app/", {"path": "single", "as": "one"}, "late/", "nothere/"])
    missing = [s.mount / "late/missing/value", s.mount / "app/db/missing", s.mount / "nothere/at/all"]
    for path in missing:
        assert error_of(os.stat, path)[0] == errno.ENOENT
    assert error_of(os.stat, s.mount / NEVER / "missing")[0] == errno.ENOENT
    front.mode = Faulty.status(503)
    fails_to_refresh(s.daemon)
    assert error_of(os.stat, s.mount / "late/second/missing")[0] == errno.EIO
    assert error_of(os.stat, s.mount / "late/second/value")[0] == errno.EIO
