# SPDX-License-Identifier: Apache-2.0
"""Tokens that end, come late, are replaced, or may not do everything."""

import errno
import os
import pathlib

import pytest
from faults import (
    NEVER,
    error_of,
    fails_to_refresh,
    fill,
    logged,
    pread,
    problem_of,
    read,
    reads,
    reads_error,
    value,
)

# What a mount of everything needs.
ALL = {"secret/data/*": ["read"], "secret/metadata/*": ["read", "list"]}


@pytest.mark.parametrize("end", ["expires", "is revoked"])
def test_a_token_ends_and_is_replaced(end, bao, site):
    token = bao.reader(ALL, ttl="4s" if end == "expires" else "1h")
    token_file = bao.write_token(token)
    s = site(bao, token_file=token_file)
    never = s.never
    with s.watched() as watch:
        if end == "is revoked":
            bao.revoke(token)
        logged(s.daemon, f"the token in {token_file} has expired or was revoked: write a new one there")
        fails_to_refresh(s.daemon)
        watch.more()
        assert error_of(read, never)[0] == errno.EIO
        assert "has expired or was revoked" in problem_of(s.daemon, s.mount, NEVER)
        fill(bao, 2)
        # The old file, in place and by another file's taking its place: both are how people do it.
        if end == "expires":
            pathlib.Path(token_file).write_text(bao.reader(ALL) + "\n")
        else:
            assert bao.write_token(bao.reader(ALL), pathlib.Path(token_file).name) == token_file
        s.has(2)
        reads(never, "at last")
        watch.more(looks=1)
        assert problem_of(s.daemon, s.mount, NEVER) is None


@pytest.mark.parametrize("how", ["missing", "empty", "wrong"])
def test_a_token_file_that_is_no_use_at_the_start(how, bao, site):
    fill(bao, 1)
    token_file = pathlib.Path(bao.folder) / f"late-{how}.token"
    if how != "missing":
        token_file.touch(mode=0o600)
        token_file.write_text("" if how == "empty" else "hvs.thiswasnevertokenofthisvault\n")
    s = site(bao, known=False, token_file=str(token_file))
    assert os.path.ismount(s.mount)
    assert error_of(read, s.mount / "one/only")[0] == errno.EIO
    assert error_of(os.listdir, s.mount / "app")[0] == errno.EIO
    assert str(token_file) in problem_of(s.daemon, s.mount, "single")
    logged(s.daemon, str(token_file), 1)
    assert "thiswasnever" not in s.daemon.log.read_text()
    new = token_file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(bao.root_token)
    new.replace(token_file)
    s.has(1)
    assert os.listdir(s.mount / "app") == ["db", "web"]
    assert problem_of(s.daemon, s.mount, "single") is None


def test_one_path_is_forbidden(bao, site):
    """403 there, everything elsewhere; the token is not taken for a dead one."""
    bao.put("app/locked", {"value": "nobody's"})
    try:
        token = bao.reader({**ALL, "secret/data/app/locked": ["deny"]})
        s = site(bao, token_file=bao.write_token(token))
        with s.watched() as watch:
            for _ in range(3):
                assert error_of(read, s.mount / "app/locked/value")[0] == errno.EACCES
                watch.more(looks=1)
            assert 'do not allow to read "app/locked"' in problem_of(s.daemon, s.mount, "app/locked")
            assert error_of(os.listdir, s.mount / "app/locked")[0] == errno.EACCES
            assert "locked" in os.listdir(s.mount / "app")
            fill(bao, 2)
            s.has(2)
    finally:
        bao.destroy("app/locked")


def test_a_right_is_taken_away_and_given_back(bao, site):
    """Once the vault says no, what is cached is not served either; what is open stays as it was opened."""
    name = "taken-away"
    token = bao.reader(ALL, name=name)
    s = site(bao, token_file=bao.write_token(token))
    gone = {p: n for p, n in s.files.items() if "/db/" in str(p)}
    s.files = {p: n for p, n in s.files.items() if p not in gone}
    path, secret = next(iter(gone.items()))
    with s.watched() as watch, open(path) as f:
        bao.policy(name, {**ALL, "secret/data/app/db": ["deny"]})
        for p in gone:
            reads_error(p, errno.EACCES)
        watch.more()
        for p in gone:
            assert error_of(read, p)[0] == errno.EACCES
        assert pread(f.fileno()) == value(1, secret)
        logged(s.daemon, "vault bao: app/db: taken away", 1)
        bao.policy(name, ALL)
        for p, n in gone.items():
            reads(p, value(1, n))
        fill(bao, 2)
        s.has(2)
        for p, n in gone.items():
            reads(p, value(2, n))
        assert pread(f.fileno()) == value(1, secret)
        watch.more(looks=1)


def test_a_secret_is_deleted_and_written_again(bao, site):
    """ENOENT, because that is what the vault says; and only that one."""
    s = site(bao)
    one = s.mount / "one/only"
    del s.files[one]
    with s.watched() as watch:
        bao.delete("single")
        reads_error(one, errno.ENOENT)
        watch.more()
        logged(s.daemon, "vault bao: single: taken away", 1)
        fill(bao, 2)
        reads(one, value(2, "single/only"))
        s.has(2)
