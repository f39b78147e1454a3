# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to the vault: what is known is served, what is not fails with a reason, and all comes back."""

import contextlib
import errno
import os
import time

import pytest
from faults import (
    LIVENESS,
    NEVER,
    error_of,
    fails_to_refresh,
    fill,
    logged,
    problem_of,
    read,
    reads,
    status,
    value,
    vault,
)
from peers.faulty import Faulty
from peers.openbao import OpenBao
from peers.process import wait_until

WAIT = 1.5  # as faults.Site configures it


@contextlib.contextmanager
def killed(bao, front):
    bao.kill()
    yield
    bao.start()


@contextlib.contextmanager
def sealed(bao, front):
    bao.seal()
    yield
    bao.unseal()


@contextlib.contextmanager
def frozen(bao, front):
    bao.freeze()
    yield
    bao.thaw()


@contextlib.contextmanager
def expired_certificate(bao, front):
    front.show(*bao.authority.server(name=f"old-{time.monotonic_ns()}", days_from=-20, days_to=-10))
    yield
    front.show(*bao.authority.server(name=f"new-{time.monotonic_ns()}"))


def front_is(mode):
    @contextlib.contextmanager
    def fault(bao, front):
        front.mode = mode
        yield
        front.mode = Faulty.passing

    return fault


# name: (what happens, the vault's reason for a secret that was never fetched, does the front stand before the vault?)
FAULTS = {
    "killed": (killed, "refused the connection", False),
    "sealed": (sealed, "is sealed", False),
    "frozen": (frozen, "did not answer", False),
    "expired certificate": (expired_certificate, "expired on", True),
    "too slow": (front_is(Faulty.slow(4)), "did not answer within 1000 ms", True),
    "silent": (front_is(Faulty.silent), "did not answer within 1000 ms", True),
    "garbage": (front_is(Faulty.garbage), "is not HTTP as it should be", True),
    "no JSON": (front_is(Faulty.garbage_body), "the answer is no JSON", True),
    "half a body": (front_is(Faulty.half), "broke off in the middle of its answer", True),
    "10 MB": (front_is(Faulty.huge(10_000_000)), "the answer is no JSON", True),
    "internal error": (front_is(Faulty.status(500)), "answers 500", True),
    "reset": (front_is(Faulty.reset), "closed the connection without an answer", True),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_known_mount_lives_through(name, bao, front, site):
    fault, reason, behind_front = FAULTS[name]
    s = site(bao, address=front.address if behind_front else None)
    never = s.never
    with s.watched() as watch:
        watch.more(looks=1)
        with fault(bao, front):
            fails_to_refresh(s.daemon)
            watch.more()
            # What was never fetched: EIO, in time, and the reason is told in both places.
            number, took = error_of(read, never)
            assert number == errno.EIO
            assert took < WAIT + 0.5
            assert reason in problem_of(s.daemon, s.mount, NEVER)
            logged(s.daemon, f"mount {s.mount}: {NEVER}: vault bao: ", 1)
            assert status(s.daemon)["vaults"][0]["last_error"]
            # What it is known not to have, and what is known, is the same as before.
            assert error_of(read, s.mount / "app/none/value")[0] == errno.ENOENT
            assert read(s.mount / "one/only") == value(1, "single/only")
            fails_to_refresh(s.daemon)
            watch.more()
        fill(bao, 2)
        s.has(2)
        watch.more(looks=1)
        reads(never, "at last")
        assert problem_of(s.daemon, s.mount, NEVER) is None
    assert set(watch.seen["newest"].values()) == {2}
    assert status(s.daemon)["vaults"][0]["reachable"] is True
    logged(s.daemon, "vault bao: answers again", 1)


def test_a_restart_is_not_noticed(bao, site):
    s = site(bao)
    with s.watched() as watch:
        watch.more(looks=1)
        bao.restart()
        fill(bao, 2)
        s.has(2)
        watch.more()


def test_slow_answers_are_waited_for(bao, front, site):
    """Half a second each, and in time: nobody who reads what is known has to know."""
    s = site(bao, address=front.address)
    front.mode = Faulty.slow(0.5)
    with s.watched() as watch:
        began = time.monotonic()
        assert read(s.never) == "at last"
        assert time.monotonic() - began > 0.4
        fill(bao, 2)
        s.has(2)
        watch.more()
    assert problem_of(s.daemon, s.mount, NEVER) is None


# --- how old a value may become


@pytest.mark.parametrize("seconds", [0, 3])
def test_max_stale_is_kept(seconds, bao, front, site):
    """No read fails before the value is that old, and none succeeds afterwards."""
    s = site(bao, address=front.address, max_stale=f"{seconds}s")
    allowed = max(seconds, 1)  # below the refresh interval it is the interval
    with s.watched(judge=False) as watch:
        asked = []

        def note_and_pass(server, connection, request):
            began = time.monotonic()
            Faulty.passing(server, connection, request)
            asked.append(began)
            return True

        front.mode = note_and_pass
        wait_until(lambda: len(asked) > 12, 20, "every secret to be asked for again")
        front.mode = Faulty.status(503)
        gone_from = time.monotonic()
        for path in s.files:
            wait_until(lambda p=path: errno_of(p) == errno.EIO, seconds + 10, f"{path} to become too old")
        all_gone = time.monotonic()
        # Nothing comes back while the vault says nothing.
        fails_to_refresh(s.daemon)
        for path in s.files:
            number, took = error_of(read, path)
            assert number == errno.EIO
            assert took < LIVENESS
        # Its names stay, and they are answered at once.
        watch.looks.more(2)
        front.mode = Faulty.passing
        fill(bao, 2)
        s.has(2)
    seen = watch.seen
    assert seen["failures"] and not seen["wrong"], seen
    assert {f["errno"] for f in seen["failures"]} == {errno.EIO}
    first = seen["failures"][0]["at"]
    # Answers count from when they were asked for; the oldest answer in use is a refresh interval old at most.
    assert first > gone_from - 1.0 + allowed - 0.1
    assert all_gone < gone_from + allowed + 1.0
    assert not watch.looks.bad
    assert max(watch.looks.times) < LIVENESS


def errno_of(path):
    try:
        read(path)
    except OSError as e:
        return e.errno
    return None


# --- from the start


def test_a_vault_that_is_not_there_yet(site):
    with OpenBao() as bao:
        bao.put("app/db", {"password": "p"})
        bao.put("single", {"only": "o"})
        bao.kill()
        s = site(bao, known=False)
        assert os.path.ismount(s.mount)
        for path in (s.mount / "app", s.mount / "one", s.mount / "late"):
            number, took = error_of(os.listdir, path)
            assert number == errno.EIO
            assert took < WAIT + 0.5
        assert error_of(read, s.mount / "app/db/password")[0] == errno.EIO
        assert error_of(read, s.mount / "one/only")[0] == errno.EIO
        assert "refused the connection" in problem_of(s.daemon, s.mount, "single")
        logged(s.daemon, f"mount {s.mount}: single: vault bao: ", 1)
        bao.start()
        reads(s.mount / "app/db/password", "p")
        reads(s.mount / "one/only", "o")
        assert os.listdir(s.mount / "app") == ["db"]
        assert problem_of(s.daemon, s.mount, "single") is None


def test_the_whole_of_a_vault_that_is_not_there_yet(cloudtaserd, folder, fuse_device):
    """Without names in the configuration there is nothing to list."""
    with OpenBao() as bao:
        bao.put("top", {"field": "f"})
        bao.kill()
        mount = folder / "m"
        mount.mkdir()
        config = {"wait": "1s", "vaults": {"bao": vault(bao)}, "mounts": [{"path": str(mount), "vault": "bao"}]}
        cloudtaserd(config)
        assert os.path.ismount(mount)
        assert error_of(os.listdir, mount)[0] == errno.EIO
        assert error_of(read, mount / "top/field")[0] == errno.EIO
        bao.start()
        reads(mount / "top/field", "f")
        assert os.listdir(mount) == ["top"]


def test_an_address_whose_name_is_not_known(bao, site):
    s = site(bao, known=False, address="https://no-such-host.invalid:8200", wait="3s")
    number, took = error_of(read, s.mount / "one/only")
    assert number == errno.EIO
    assert took < 3.5
    # Some name servers take long to say that they know nothing.
    wait_until(lambda: problem_of(s.daemon, s.mount, "single"), 10, "a reason")
    problem = problem_of(s.daemon, s.mount, "single")
    assert "no-such-host.invalid" in problem
    logged(s.daemon, "no-such-host.invalid", 1)
    names = sorted(os.listdir(s.mount))
    assert names == ["app", "late", "one"]
