# SPDX-License-Identifier: Apache-2.0
"""vault init, put, get, ls, rm on a sealed vault: what they do, and what they say when they do not."""

import json
import os
import stat
import subprocess

import pytest
from cli_people import PASSPHRASE, says

BINARY = bytes(range(256)) * 17


# --- vault init


def test_init_makes_a_private_file(nobody_yet):
    nobody_yet.init()
    assert stat.S_IMODE(nobody_yet.vault.stat().st_mode) == 0o600
    assert stat.S_IMODE(nobody_yet.vault.parent.stat().st_mode) == 0o700
    assert nobody_yet.ok("ls") == b""


def test_init_never_replaces(person):
    before = person.vault.read_bytes()
    says(person.run("vault", "init"), 73, f"{person.vault} is there already; nothing was changed")
    assert person.vault.read_bytes() == before


def test_init_elsewhere(person):
    place = person.home / "elsewhere/deep/vault"
    person.ok("vault", "init", "--file", place, "--kdf-memory", "8", "--kdf-ops", "1")
    person.ok("put", "a", "b=-", "--vault", f"file:{place}", input=b"x")
    assert person.ok("get", "a/b", "--vault", "file:elsewhere/deep/vault") == b"x"
    assert person.ok("ls") == b""


def test_init_xdg_data_home(nobody_yet):
    env = {"XDG_DATA_HOME": str(nobody_yet.home / "data")}
    nobody_yet.ok("vault", "init", "--kdf-memory", "8", "--kdf-ops", "1", env=env)
    assert (nobody_yet.home / "data/cloudtaser/vault").exists()


@pytest.mark.parametrize("content", [b"", b"\n", b"\nsecond line\n"])
def test_init_refuses_an_empty_passphrase(nobody_yet, content):
    nobody_yet.write(nobody_yet.passphrase, content, 0o600)
    says(nobody_yet.run("vault", "init"), 65, "the passphrase is empty")
    assert not nobody_yet.vault.exists()


def test_init_refuses_a_passphrase_file_that_others_can_read(nobody_yet):
    nobody_yet.passphrase.chmod(0o640)
    says(nobody_yet.run("vault", "init"), 77, "chmod 600")
    assert not nobody_yet.vault.exists()


def test_init_without_terminal_and_passphrase(nobody_yet):
    done = nobody_yet.run("vault", "init", open_vault=False, start_new_session=True)
    says(done, 64, "there is no terminal to ask on", "--passphrase-file FILE or --passphrase-fd N")
    assert not nobody_yet.vault.exists()


# --- how a vault is opened


def test_passphrase_by_descriptor_leaves_the_rest_of_it(person):
    """One line is read and no more: a pipe may stay open, and what follows may be for others."""
    r, w = os.pipe()
    os.write(w, PASSPHRASE + b"\nmine\n")
    done = person.run("ls", "--passphrase-fd", r, open_vault=False, pass_fds=[r])
    assert done.returncode == 0, done.stderr
    assert os.read(r, 100) == b"mine\n"
    os.close(r)
    os.close(w)


def test_passphrase_by_closed_descriptor(person):
    says(person.run("ls", "--passphrase-fd", "77", open_vault=False), 64, "descriptor 77 is not open")


def test_passphrase_twice(person):
    says(person.run("ls", "--passphrase-fd", "0"), 64, "give one of them")


def test_wrong_passphrase(person):
    person.write(person.passphrase, b"wrong\n", 0o600)
    says(person.run("ls"), 77, "wrong passphrase")


def test_no_passphrase_and_no_terminal(person):
    done = person.run("ls", open_vault=False, start_new_session=True)
    says(done, 64, "needs its passphrase and there is no terminal to ask on", "--passphrase-file FILE")


def test_no_vault(nobody_yet):
    says(nobody_yet.run("ls"), 66, f"there is no sealed vault at {nobody_yet.vault}", "cloudtaser vault init")


def test_damaged_vault(person):
    person.put("app/db", password=b"x")
    data = bytearray(person.vault.read_bytes())
    data[-40] ^= 1
    person.vault.write_bytes(data)
    says(person.run("get", "app/db/password"), 65)


def test_unknown_vault_name(person):
    says(person.run("ls", "--vault", "nosuch"), 66, "--vault nosuch", "file:PATH")


# --- put and get


@pytest.mark.parametrize(
    "value", [b"", b"x", b"no newline", b"newline\n", b"\0", BINARY, "zażółć 🔑".encode(), b"v" * 2**20]
)
def test_round_trip(person, value):
    assert person.ok("put", "app/db", "password=-", input=value) == b"app/db: version 1\n"
    assert person.ok("get", "app/db/password") == value


def test_put_replaces_the_whole_secret(person):
    person.put("app/db", username=b"joe", password=b"one")
    file = person.write(person.home / "new", b"two")
    assert person.ok("put", "app/db", f"password=@{file}") == b"app/db: version 2\n"
    assert json.loads(person.ok("get", "app/db", "-o", "json"))["data"] == {"password": "two"}


def test_name_at_file(person):
    file = person.write(person.home / "value", b"by file")
    person.ok("put", "a", f"b@{file}")
    assert person.ok("get", "a/b") == b"by file"


def test_patch_keeps_the_others(person):
    person.put("app/db", username=b"joe", password=b"one")
    assert person.ok("put", "--patch", "app/db", "password=-", input=b"two") == b"app/db: version 2\n"
    assert json.loads(person.ok("get", "app/db", "-o", "json"))["data"] == {"username": "joe", "password": "two"}


def test_patch_of_nothing(person):
    says(person.run("put", "--patch", "app/db", "a=-", input=b""), 66, "no such secret to patch")
    assert person.ok("ls", "-R") == b""


@pytest.mark.deadline(240)
def test_patches_at_once_lose_nothing(person):
    """Two writers of different fields: compare-and-set makes each see the other's."""
    person.put("app/db", start=b"")
    writers = [person.start("put", "--patch", "app/db", f"f{i}=-") for i in range(6)]
    for writer in writers:
        writer.stdin.close()
    for writer in writers:
        assert writer.wait(120) == 0, writer.stderr.read()
    found = json.loads(person.ok("get", "app/db", "-o", "json"))
    assert sorted(found["data"]) == ["f0", "f1", "f2", "f3", "f4", "f5", "start"]
    assert found["version"] == 7


def test_json_both_ways(person):
    secret = {"text": "zażółć\n", "nul": "a\u0000b", "raw": {"base64": "/w=="}}
    assert person.ok("put", "app/db", "--json", input=json.dumps(secret).encode()) == b"app/db: version 1\n"
    assert person.ok("get", "app/db/raw") == b"\xff"
    assert person.ok("get", "app/db/nul") == b"a\0b"
    found = json.loads(person.ok("get", "app/db", "-o", "json"))
    assert found["data"] == secret
    assert (found["path"], found["version"]) == ("app/db", 1)
    assert found["created"].endswith("Z")


@pytest.mark.parametrize("text", [b"", b"[1]", b"no json", b'{"a":"canary', b'{"a":1,"a":2}'])
def test_bad_json(person, text):
    done = person.run("put", "app/db", "--json", input=text)
    says(done, 65, "standard input")
    assert b"canary" not in done.stderr
    assert person.ok("ls", "-R") == b""


def test_literal_is_refused_without_repeating_it(person):
    done = person.run("put", "app/db", "password=hunter2")
    says(done, 64, "ps", "password=-", "--literal")
    assert b"hunter2" not in done.stderr
    assert person.ok("ls", "-R") == b""


def test_literal_when_meant(person):
    done = person.run("put", "app/db", "--literal", "user=joe", "password=-", input=b"x")
    assert done.returncode == 0
    assert b"ps" in done.stderr
    assert person.ok("get", "app/db/user") == b"joe"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "say where"),
        (["app/db"], "say which fields"),
        (["app/db", "a=-", "b=-"], "standard input is read once"),
        (["app/db", "a=-", "a=@/dev/null"], "given twice"),
        (["app/db", "noequals"], "NAME=@FILE"),
        (["app/db", "=-"], "NAME=@FILE"),
        (["app/db", "a=@"], "no file name"),
        (["app/db", "--json", "a=-"], "name no fields"),
        (["app/db", "--json", "--patch"], "does not go with --patch"),
        (["/app/db", "a=-"], "without '/'"),
        (["app//db", "a=-"], "between two '/'"),
        (["app/../db", "a=-"], '"." or ".."'),
        (["app/%2E%2E/db", "a=-"], '"." or ".."'),
        (["app/db/", "a=-"], "folder"),
        (["100%", "a=-"], "%25"),
        (["app/a%2Fb", "a=-"], "'/'"),
    ],
)
def test_put_usage(person, arguments, sentence):
    says(person.run("put", *arguments, input=b"x"), 64, sentence)
    assert person.ok("ls", "-R") == b""


def test_put_standard_input_taken(person):
    says(
        person.run("put", "a", "b=-", "--passphrase-fd", "0", open_vault=False),
        64,
        "cannot be a value and a passphrase",
    )


def test_put_missing_file(person):
    says(person.run("put", "a", "b=@/nonexistent/file"), 66, "/nonexistent/file")
    assert person.ok("ls", "-R") == b""


def test_names_as_the_mount_shows_them(person):
    person.ok("put", "odd/100%25", "a%2Fb=-", input=b"slash")
    person.ok("put", "odd/dots", "%2E%2E=-", input=b"dots")
    assert person.ok("get", "odd/100%25/a%2Fb") == b"slash"
    assert person.ok("get", "odd/dots/%2E%2E") == b"dots"
    assert person.ok("ls", "odd/") == b"100%25\ndots\n"
    assert person.ok("ls", "odd/dots") == b"%2E%2E\n"
    assert json.loads(person.ok("get", "odd/dots", "-o", "json"))["data"] == {"..": "dots"}


@pytest.mark.parametrize(
    "what, code, sentences",
    [
        ("app/db", 64, ["whole secret", "password, username", "-o json"]),
        ("app/db/nope", 66, ["no field nope", "password, username"]),
        ("app/none/x", 66, ["app/none"]),
        ("app", 64, ["which field"]),
        ("app/", 64, ["is a folder", "cloudtaser ls app/"]),
    ],
)
def test_get_what_is_not_there(person, what, code, sentences):
    person.put("app/db", username=b"joe", password=b"hidden-value")
    done = person.run("get", what)
    says(done, code, *sentences)
    assert b"hidden-value" not in done.stderr


def test_get_usage(person):
    says(person.run("get"), 64, "say what")
    says(person.run("get", "a/b", "c/d"), 64, "one at a time")
    says(person.run("get", "a/b", "-o", "xml"), 64, "text or json")


def test_full_disk_is_no_success(person):
    person.put("app/db", password=b"x")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            person.argv(*person.with_passphrase(["get", "app/db/password"])),
            stdout=full,
            stderr=subprocess.PIPE,
            env={"HOME": str(person.home)},
        )
    assert done.returncode == 74
    assert b"cannot write the output" in done.stderr


# --- ls and rm


def test_ls(person):
    for path in ("app/db", "app/web/tls", "app", "zoo"):
        person.put(path, field=b"x")
    assert person.ok("ls") == b"app\napp/\nzoo\n"
    assert person.ok("ls", "/") == b"app\napp/\nzoo\n"
    assert person.ok("ls", "app/") == b"db\nweb/\n"
    assert person.ok("ls", "app") == b"field\ndb\nweb/\n"
    assert person.ok("ls", "app/db") == b"field\n"
    assert person.ok("ls", "-R") == b"app\napp/db\napp/web/tls\nzoo\n"
    assert person.ok("ls", "-R", "app/") == b"app/db\napp/web/tls\n"
    assert json.loads(person.ok("ls", "-o", "json", "-R")) == ["app", "app/db", "app/web/tls", "zoo"]
    assert json.loads(person.ok("ls", "app/", "-o", "json")) == ["db", "web/"]


def test_ls_nothing_there(person):
    says(person.run("ls", "none/"), 66)
    says(person.run("ls", "none"), 66, "no such secret or folder")
    assert json.loads(person.ok("ls", "-o", "json")) == []


def test_rm(person):
    for path in ("a", "b", "c/d"):
        person.put(path, field=b"x")
    assert person.ok("rm", "a", "c/d") == b""
    assert person.ok("ls", "-R") == b"b\n"
    says(person.run("get", "a/field"), 66)


def test_rm_goes_on_behind_a_failure(person):
    person.put("a", field=b"x")
    says(person.run("rm", "none", "a"), 66, "none: there is no such secret")
    assert person.ok("ls", "-R") == b""


def test_rm_usage(person):
    person.put("a", field=b"x")
    says(person.run("rm"), 64, "say which")
    says(person.run("rm", "a", "c/"), 64, "folder")
    assert person.ok("ls", "-R") == b"a\n"
