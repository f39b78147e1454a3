# SPDX-License-Identifier: Apache-2.0
"""The commands against a real OpenBao: addresses, tokens, and what is said when it says no."""

import json
import os
import pathlib
import tempfile
import uuid

import pytest
from cli_people import Person, says


@pytest.fixture
def place(openbao):
    """A folder of our own in the vault."""
    return "cli-" + uuid.uuid4().hex[:12]


@pytest.fixture
def person(build, openbao):
    """Knows where OpenBao is from the environment, as people have it, and has a token file."""
    with tempfile.TemporaryDirectory(prefix="ct-") as home:
        one = Person(build, pathlib.Path(home))
        one.env = {"VAULT_ADDR": openbao.address, "VAULT_CACERT": openbao.ca_file}
        one.token_file = one.write(one.home / ".vault-token", openbao.root_token + "\n", 0o600)
        yield one
        one.close()


def run(person, *arguments, env=None, **kwargs):
    return person.run(*arguments, env={**person.env, **(env or {})}, open_vault=False, **kwargs)


def ok(person, *arguments, **kwargs):
    done = run(person, *arguments, **kwargs)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


def test_all_of_it(person, place, openbao):
    assert ok(person, "put", f"{place}/db", "password=-", input=b"one") == f"{place}/db: version 1\n".encode()
    assert openbao.get(f"{place}/db") == {"password": "one"}
    assert ok(person, "get", f"{place}/db/password") == b"one"
    assert ok(person, "put", "--patch", f"{place}/db", "user=-", input=b"joe").endswith(b": version 2\n")
    assert openbao.get(f"{place}/db") == {"password": "one", "user": "joe"}
    assert ok(person, "ls", f"{place}/") == b"db\n"
    assert ok(person, "ls", f"{place}/db") == b"password\nuser\n"
    assert ok(person, "ls", "-R", f"{place}/") == f"{place}/db\n".encode()
    found = json.loads(ok(person, "get", f"{place}/db", "-o", "json"))
    assert (found["version"], found["data"]) == (2, {"password": "one", "user": "joe"})
    assert ok(person, "rm", f"{place}/db") == b""
    says(run(person, "get", f"{place}/db/password"), 66, f"{place}/db")
    says(run(person, "rm", f"{place}/db"), 66, "no such secret")


def test_rm_of_a_deleted_version(person, place, openbao):
    """Marked as deleted it has no value, but its name and older versions are there still."""
    openbao.put(f"{place}/db", {"a": "b"})
    openbao.delete(f"{place}/db")
    says(run(person, "get", f"{place}/db/a"), 66)
    assert ok(person, "rm", f"{place}/db") == b""
    assert openbao.request("GET", f"secret/metadata/{place}/db")[0] == 404


def test_patch_sees_others(person, place, openbao):
    openbao.put(f"{place}/db", {"one": "1"})
    writers = [
        person.start("put", "--patch", f"{place}/db", f"f{i}=-", env=person.env, open_vault=False) for i in range(4)
    ]
    for writer in writers:
        writer.stdin.close()
    for writer in writers:
        assert writer.wait(60) == 0, writer.stderr.read()
    assert sorted(openbao.get(f"{place}/db")) == ["f0", "f1", "f2", "f3", "one"]


def test_address_on_the_command_line(person, place, openbao):
    del person.env["VAULT_ADDR"]
    openbao.put(f"{place}/db", {"a": "b"})
    for option in ("--vault", "--vault-address"):
        assert ok(person, "get", f"{place}/db/a", option, openbao.address + "/") == b"b"


def test_openbaos_own_names_come_first(person, place, openbao):
    openbao.put(f"{place}/db", {"a": "b"})
    env = {"BAO_ADDR": openbao.address, "VAULT_ADDR": "https://127.0.0.1:1"}
    assert ok(person, "get", f"{place}/db/a", env=env) == b"b"


def test_relative_certificate_file(person, place, openbao):
    openbao.put(f"{place}/db", {"a": "b"})
    env = {"VAULT_CACERT": os.path.relpath(openbao.ca_file, person.home)}
    assert ok(person, "get", f"{place}/db/a", env=env) == b"b"


def test_token_by_file_and_descriptor(person, place, openbao):
    openbao.put(f"{place}/db", {"a": "b"})
    moved = person.token_file.rename(person.home / "elsewhere")
    assert ok(person, "get", f"{place}/db/a", "--token-file", "elsewhere") == b"b"
    r, w = os.pipe()
    os.write(w, openbao.root_token.encode() + b"\n")
    os.close(w)
    assert ok(person, "get", f"{place}/db/a", "--token-fd", r, pass_fds=[r]) == b"b"
    os.close(r)
    assert moved.exists()


def test_no_token_from_the_environment(person, openbao):
    person.token_file.unlink()
    done = run(person, "ls", env={"VAULT_TOKEN": openbao.root_token})
    says(done, 77, "--token-file", "~/.vault-token", "VAULT_TOKEN and BAO_TOKEN are not used")
    assert openbao.root_token.encode() not in done.stderr


def test_empty_token(person):
    r, w = os.pipe()
    os.close(w)
    says(run(person, "ls", "--token-fd", r, pass_fds=[r]), 77, "no token in it")
    os.close(r)


def test_wrong_token(person):
    person.token_file.write_text("s." + "x" * 24 + "\n")
    done = run(person, "ls")
    assert done.returncode in (75, 77), done.stderr
    assert b"token" in done.stderr
    assert b"x" * 20 not in done.stderr


def test_token_without_the_right(person, place, openbao):
    openbao.put(f"{place}/db", {"a": "b"})
    token = openbao.reader({f"secret/data/{place}/other": ["read"]})
    person.token_file.write_text(token + "\n")
    done = run(person, "get", f"{place}/db/a")
    says(done, 77, f"{place}/db")
    assert token.encode() not in done.stderr


def test_reading_needs_no_other_right(person, place, openbao):
    openbao.put(f"{place}/db", {"a": "b"})
    person.token_file.write_text(openbao.reader({f"secret/data/{place}/db": ["read"]}) + "\n")
    assert ok(person, "get", f"{place}/db/a") == b"b"


def test_nobody_at_that_address(person):
    done = run(person, "ls", env={"VAULT_ADDR": "https://127.0.0.1:1"})
    assert done.returncode in (69, 75)
    assert b"127.0.0.1" in done.stderr


def test_unknown_authority(person):
    del person.env["VAULT_CACERT"]
    done = run(person, "ls")
    says(done, 77, "certificate")


def test_plain_http_elsewhere_is_refused(person):
    done = run(person, "ls", env={"VAULT_ADDR": "http://vault.example.eu:8200"})
    assert done.returncode in (64, 78), done.stderr
    assert b"https" in done.stderr


def test_run(person, place, openbao, fuse_device):
    openbao.put(f"{place}/db", {"password": "from OpenBao"})
    assert ok(person, "run", "--path", place, "--", "cat", "/secrets/db/password") == b"from OpenBao"
    assert ok(person, "run", "--path", place, "--env", "PW=db/password", "--", "printenv", "PW") == b"from OpenBao\n"
