# SPDX-License-Identifier: Apache-2.0
"""The OpenBao backend (vault/openbao.c, base/http.c) against the real OpenBao, through tests/vault/vaultcat.c."""

import base64
import json
import os
import pathlib
import resource
import subprocess
import time

import pytest
from peers.certs import Authority
from peers.faulty import Faulty
from peers.openbao import OpenBao
from peers.process import free_port, wait_until


class Cat:
    """A running vaultcat."""

    def __init__(self, program, prefix=(), before=None, env=None, **conf):
        self.process = subprocess.Popen(
            [*prefix, program, json.dumps(conf)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=before,
            env={**os.environ, **(env or {})},
        )
        self.opened = json.loads(self.process.stdout.readline())

    def __call__(self, *command):
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"vaultcat ended: {self.process.wait()}"
        return json.loads(line)

    def fields(self, path):
        """A secret as {name: value}, bytes both."""
        answer = self("get", path)
        assert answer["r"] == 0, answer
        return {base64.b64decode(n): base64.b64decode(v) for n, v in answer["fields"]}

    def fails(self, errno, *command):
        """Runs a command that has to fail so; its sentence."""
        answer = self(*command)
        assert answer["errno"] == errno, answer
        assert answer["error"].startswith("vault test: "), answer
        return answer["error"].removeprefix("vault test: ")

    def end(self):
        self.process.stdin.close()
        status = self.process.wait(30)
        self.process.stdout.close()
        assert status == 0


@pytest.fixture(scope="session")
def program(build_folder):
    return build_folder / "tests" / "vaultcat"


@pytest.fixture
def cat(program):
    """cat(address=..., token_file=..., ...) or cat(bao, ...): a Cat that is ended, and must end well."""
    cats = []

    def start(bao=None, **conf):
        if bao:
            conf.setdefault("address", bao.address)
            if not bao.dev:
                conf.setdefault("ca_file", bao.ca_file)
            if "token" not in conf:
                conf.setdefault("token_file", bao.token_file)
        cats.append(Cat(program, **conf))
        return cats[-1]

    yield start
    for c in cats:
        c.end()


@pytest.fixture(scope="module")
def bao():
    with OpenBao() as server:
        yield server


@pytest.fixture(scope="module")
def dev():
    with OpenBao(dev=True) as server:
        yield server


@pytest.fixture(params=["sealed server", "dev server"])
def either(request, bao, dev):
    return bao if request.param == "sealed server" else dev


# --- what goes in comes out


def test_put_get_list_delete(either, cat):
    c = cat(either)
    assert c("check")["r"] == 0
    assert c("put", "round/app/db", {"user": "u", "password": "p"}, 0)["version"] == 1
    assert c("put", "round/app/db", {"user": "u2", "password": "p2"}, -1)["version"] == 2
    assert c("put", "round/app", {"a": "b"}, -1)["version"] == 1
    assert c.fields("round/app/db") == {b"password": b"p2", b"user": b"u2"}
    answer = c("get", "round/app/db")
    assert answer["version"] == 2
    assert abs(answer["created"] - time.time()) < 60
    assert c("list", "round/")["names"] == ["app", "app/"]
    assert "round/" in c("list", "")["names"]
    assert c("del", "round/app/db")["r"] == 0
    assert c.fails("ENOENT", "get", "round/app/db") == 'there is no secret "round/app/db"'
    assert c("list", "round/")["names"] == ["app"]
    assert c.fails("ENOENT", "list", "round/none/") == 'there is no folder "round/none/"'
    assert c.fails("ENOENT", "del", "round/app/db") == 'there is no secret "round/app/db"'


def test_del_removes_all_versions(bao, cat):
    c = cat(bao)
    for n in range(3):
        c("put", "versions/one", {"n": str(n)}, -1)
    c("del", "versions/one")
    assert bao.request("GET", "secret/metadata/versions/one")[0] == 404


def test_an_empty_store_has_an_empty_top_folder(bao, cat):
    bao.mount_kv("empty/store")
    assert cat(bao, kv_mount="empty/store")("list", "")["names"] == []
    assert cat(bao, kv_mount="empty/store/")("list", "")["names"] == []


def test_values(either, cat):
    big = os.urandom(512 * 1024).hex()
    fields = {
        "": "a field without a name",
        "empty": "",
        "unicode \u00e4\u6f22\U0001f511": "\u00e4\u6f22\U0001f511\u0000\u2028\ud7ff",
        "nul\u0000name": "nul\u0000value",
        "newlines": "a\r\nb\n",
        "quotes": '\\"\\\\/\t\b\f\u001f\u007f',
        "..": "dots",
        "a/b": "slash",
        "per%cent": "%2F%",
        "big": big,
    }
    either.put("values/text", fields)
    c = cat(either)
    expected = {k.encode(): v.encode() for k, v in fields.items()}
    assert c.fields("values/text") == expected
    assert c("put", "values/copy", fields, -1)["r"] == 0
    assert either.get("values/copy") == fields
    assert len(big) == 1 << 20


def test_binary_values_come_back_as_they_were(bao, cat):
    c = cat(bao)
    raw = bytes(range(256)) * 3
    binary = {"base64": base64.b64encode(raw).decode()}
    assert c("put", "values/binary", {"key": binary, "text": "t"}, -1)["r"] == 0
    assert bao.get("values/binary") == {"key": binary, "text": "t"}
    assert c.fields("values/binary") == {b"key": raw, b"text": b"t"}


def test_other_types_come_as_their_text(bao, cat):
    bao.put("values/types", {"t": True, "f": False, "z": None, "n": 42, "list": [1, "two", {}], "map": {"b": 1}})
    assert cat(bao).fields("values/types") == {
        b"t": b"true",
        b"f": b"false",
        b"z": b"null",
        b"n": b"42",
        b"list": b'[1,"two",{}]',
        b"map": b'{"b":1}',
    }


def test_numbers_come_exactly_as_the_vault_sends_them(front, through):
    """OpenBao rounds numbers itself when they are put in; Vault and others may not."""
    numbers = ["12345678901234567890", "1e400", "-0.10", "1E+2", "3.141592653589793238462643383279502884197", "-0"]
    data = ",".join(f'"n{i}": {n}' for i, n in enumerate(numbers))
    metadata = '{"version": 7, "created_time": "2006-01-02T15:04:05.999+01:00"}'
    front.mode = Faulty.status(200, f'{{"data": {{"data": {{{data}}}, "metadata": {metadata}}}}}'.encode())
    assert through.fields("front/a") == {f"n{i}".encode(): n.encode() for i, n in enumerate(numbers)}
    answer = through("get", "front/a")
    assert (answer["version"], answer["created"]) == (7, 1136210645)


def test_ten_thousand_fields(bao, cat):
    fields = {f"field {n}": f"value {n}" for n in range(10_000)}
    bao.put("values/many", fields)
    assert cat(bao).fields("values/many") == {k.encode(): v.encode() for k, v in fields.items()}


def test_more_fields_than_a_secret_may_have(bao, cat):
    bao.put("values/toomany", {f"{n}": "" for n in range(16385)})
    assert "at most 16384 fields" in cat(bao).fails("EMSGSIZE", "get", "values/toomany")


@pytest.mark.parametrize("name", ["a%b", "q?z", "x\\y", "sp ace ", "#h&=+;", "\u00e4\u6f22", "d.", "...", "a:b", "@[]"])
def test_names_that_need_encoding(bao, cat, name):
    c = cat(bao)
    path = f"names/{name}/{name}"
    assert c("put", path, {"k": name}, -1)["r"] == 0
    assert bao.get(path) == {"k": name}
    assert c.fields(path) == {b"k": name.encode()}
    assert name + "/" in c("list", "names/")["names"]
    assert c("list", f"names/{name}/")["names"] == [name]
    assert c("del", path)["r"] == 0


def test_names_that_the_vault_cannot_hold(bao, cat):
    c = cat(bao)
    before = len(bao.audit_entries())
    assert "no such name" in c.fails("ENOENT", "get", "names/a\u0001b")
    assert "no such name" in c.fails("ENOENT", "list", "names/a\u007fb/")
    assert "control bytes" in c.fails("EINVAL", "put", "names/a\nb", {"k": "v"}, -1)
    assert len(bao.audit_entries()) == before


def test_deleted_and_destroyed_versions(bao, cat):
    c = cat(bao)
    bao.put("gone/soft", {"k": "1"})
    bao.put("gone/soft", {"k": "2"})
    bao.delete("gone/soft")
    assert c.fails("ENOENT", "get", "gone/soft") == 'there is no secret "gone/soft"'
    assert c("list", "gone/")["names"] == ["soft"]
    bao.api("POST", "secret/undelete/gone/soft", {"versions": [2]})
    assert c.fields("gone/soft") == {b"k": b"2"}
    bao.api("POST", "secret/destroy/gone/soft", {"versions": [2]})
    assert c.fails("ENOENT", "get", "gone/soft") == 'there is no secret "gone/soft"'
    # a later version is there again
    assert c("put", "gone/soft", {"k": "3"}, 2)["version"] == 3
    assert c.fields("gone/soft") == {b"k": b"3"}


def test_check_and_set(bao, cat):
    c = cat(bao)
    assert c("put", "cas/a", {"k": "1"}, 0)["version"] == 1
    message = c.fails("EEXIST", "put", "cas/a", {"k": "2"}, 0)
    assert message == '"cas/a" has another version than expected: somebody else has written it'
    c.fails("EEXIST", "put", "cas/a", {"k": "2"}, 2)
    assert c("put", "cas/a", {"k": "2"}, 1)["version"] == 2
    assert bao.get("cas/a") == {"k": "2"}
    bao.api("POST", "secret/metadata/cas/must", {"cas_required": True})
    assert "may only be written by saying which version" in c.fails("EINVAL", "put", "cas/must", {"k": "1"}, -1)
    assert c("put", "cas/must", {"k": "1"}, 0)["version"] == 1


def test_one_read_is_one_request(bao, cat):
    bao.put("once/a", {"k": "v"})
    c = cat(bao)
    before = len(bao.requests_of("auth/token/lookup-self"))
    assert c("many", "once/a", 7)["r"] == 0
    assert bao.reads_of("once/a") == 7
    assert len(bao.requests_of("auth/token/lookup-self")) == before, "no login is needed to read"


# --- where it is


def test_namespace(bao, cat):
    bao.make_namespace("team")
    bao.mount_kv("kv", namespace="team")
    bao.put("app", {"k": "in team"}, mount="kv", namespace="team")
    c = cat(bao, kv_mount="kv", namespace="team")
    assert c("check")["r"] == 0
    assert c.fields("app") == {b"k": b"in team"}
    assert c("list", "")["names"] == ["app"]
    message = cat(bao, kv_mount="kv").fails("EAGAIN", "get", "app")
    assert message == f'{bao.address} has no store mounted at "kv/": check kv_mount'
    message = cat(bao, namespace="nobody").fails("EAGAIN", "get", "app")
    assert message == f'{bao.address} has no namespace "nobody"'


def test_wrong_mount_is_not_an_absent_secret(bao, cat):
    message = cat(bao, kv_mount="other").fails("EAGAIN", "get", "app/db")
    assert message == f'{bao.address} has no store mounted at "other/": check kv_mount'
    c = cat(bao, kv_mount="cubbyhole")
    assert c("get", "app/db")["errno"] in ("ENOENT", "EPROTO")


def test_kv_version_1_is_told_apart(bao, cat):
    bao.api("POST", "sys/mounts/old", {"type": "kv", "options": {"version": "1"}})
    bao.api("POST", "old/data/app", {"k": "v"})
    message = cat(bao, kv_mount="old").fails("EPROTO", "get", "app")
    assert "not that of a KV version 2 store: check kv_mount" in message


@pytest.mark.parametrize(
    "address, why",
    [
        ("http://vault.example:8200", "would send secrets in the clear"),
        ("ftp://127.0.0.1", "is no address"),
        ("127.0.0.1:8200", "is no address"),
        ("https://", "wrong host or port"),
        ("https://host:0", "wrong host or port"),
        ("https://host:65536", "wrong host or port"),
        ("https://a b", "is no address"),
        ("https://h/?x=1", "no query"),
        ("https://h/#x", "no query"),
        ("https://[::1", "wrong host or port"),
    ],
)
def test_addresses_that_are_none(cat, address, why):
    c = cat(address=address, token="t")
    assert c.opened["errno"] == "EINVAL"
    assert why in c.opened["error"]


def test_an_address_never_shows_its_password(cat):
    c = cat(address="https://user:hunter2@h", token="t")
    assert c.opened["errno"] == "EINVAL"
    assert "hunter2" not in c.opened["error"]
    assert "may not hold a user name or a password" in c.opened["error"]


def test_settings_of_the_environment_are_not_followed(bao, cat, tmp_path):
    dead = f"http://127.0.0.1:{free_port()}"
    env = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), dead)
    env |= {"SSL_CERT_FILE": "/nowhere", "CURL_CA_BUNDLE": "/nowhere", "SSLKEYLOGFILE": str(tmp_path / "keys")}
    bao.put("env/a", {"k": "v"})
    assert cat(bao, env=env).fields("env/a") == {b"k": b"v"}
    assert not (tmp_path / "keys").exists() or (tmp_path / "keys").read_bytes() == b"", "the session's keys"


# --- who asks: tokens


def test_denied_by_policy(bao, cat):
    bao.put("rights/a", {"k": "v"})
    token = bao.write_token(bao.reader({"secret/data/rights/b": ["read"]}))
    c = cat(bao, token_file=token)
    assert c("check")["r"] == 0
    assert c.fails("EACCES", "get", "rights/a") == 'the token\'s policies do not allow to read "rights/a"'
    assert c.fails("EACCES", "list", "rights/") == 'the token\'s policies do not allow to list "rights/"'
    assert c.fails("EACCES", "put", "rights/a", {"k": "w"}, -1) == (
        'the token\'s policies do not allow to write "rights/a"'
    )
    assert c.fails("EACCES", "del", "rights/a") == 'the token\'s policies do not allow to delete "rights/a"'
    assert c.fails("ENOENT", "get", "rights/b") == 'there is no secret "rights/b"'
    assert bao.get("rights/a") == {"k": "v"}


def test_delete_needs_no_right_to_read(bao, cat):
    bao.put("rights/del", {"k": "v"})
    token = bao.write_token(bao.reader({"secret/metadata/rights/del": ["delete"]}))
    assert cat(bao, token_file=token)("del", "rights/del")["r"] == 0
    assert bao.request("GET", "secret/metadata/rights/del")[0] == 404


def test_expired_token_and_its_renewal(bao, cat):
    bao.put("renew/a", {"k": "v"})
    rules = {"secret/data/renew/*": ["read"]}
    first = bao.reader(rules)
    file = pathlib.Path(bao.write_token(first))
    c = cat(bao, token_file=str(file))
    assert c.fields("renew/a") == {b"k": b"v"}
    bao.revoke(first)
    sentence = f"the token in {file} has expired or was revoked: write a new one there"
    assert c.fails("EAGAIN", "get", "renew/a") == sentence
    assert c.fails("EAGAIN", "check") == sentence
    file.unlink()
    assert f"token_file: {file}" in c.fails("EAGAIN", "get", "renew/a")
    bao.write_token(bao.reader(rules), file.name)
    assert c.fields("renew/a") == {b"k": b"v"}
    assert c("check")["r"] == 0


def test_a_short_lived_token_expires(bao, cat):
    bao.put("renew/ttl", {"k": "v"})
    rules = {"secret/data/renew/*": ["read"]}
    token = bao.reader(rules, ttl="1s")
    file = bao.write_token(token)
    c = cat(bao, token_file=file)
    wait_until(lambda: bao.request("GET", "auth/token/lookup-self", token=token)[0] == 403, 30, "expiry")
    assert "has expired or was revoked" in c.fails("EAGAIN", "get", "renew/ttl")
    bao.write_token(bao.reader(rules), os.path.basename(file))
    assert c("check")["r"] == 0
    assert c.fields("renew/ttl") == {b"k": b"v"}


def test_a_hundred_denials_ask_about_the_token_once(cat):
    with OpenBao() as bao:
        bao.put("renew/b", {"k": "v"})
        rules = {"secret/data/renew/*": ["read"]}
        token = bao.reader(rules)
        file = bao.write_token(token)
        c = cat(bao, token_file=file)
        assert c.fields("renew/b") == {b"k": b"v"}
        bao.revoke(token)
        bao.write_token(bao.reader(rules), os.path.basename(file))
        before = len(bao.requests_of("auth/token/lookup-self"))
        answer = c("many", "renew/b", 40)
        assert (answer["r"], answer["failed"]) == (0, 0), answer
        assert 1 <= len(bao.requests_of("auth/token/lookup-self")) - before <= 2


def test_a_token_that_was_handed_over(bao, cat):
    bao.put("handed/a", {"k": "v"})
    token = bao.reader({"secret/data/handed/*": ["read"]})
    c = cat(bao, token=token + "\n")
    assert c.fields("handed/a") == {b"k": b"v"}
    bao.revoke(token)
    assert c.fails("EAGAIN", "get", "handed/a") == "the token has expired or was revoked: give a new one"


def test_token_files_that_are_none(bao, cat, tmp_path):
    file = tmp_path / "token"
    c = cat(bao, token_file=str(file))
    assert c.opened["r"] == 0, "a token that comes later needs no restart"
    assert str(file) in c.fails("EAGAIN", "check")
    file.touch(mode=0o600)
    assert c.fails("EAGAIN", "check") == f"token_file {file} is empty: it should hold the token and nothing else"
    file.write_text("two words\n")
    assert c.fails("EAGAIN", "check") == f"token_file {file} holds more than a token: it should be one line"
    file.write_text(bao.root_token + "\n")
    file.chmod(0o644)
    assert str(file) in c.fails("EAGAIN", "check")
    file.chmod(0o600)
    assert c("check")["r"] == 0


def test_a_token_never_shows_in_a_sentence(bao, cat):
    token = "hvs.supersecrettokenvalue1234567890"
    c = cat(bao, token=token)
    for command in (["check"], ["get", "a"], ["list", ""], ["put", "a", {"k": "v"}, -1], ["del", "a"]):
        assert token not in c.fails("EAGAIN", *command)
    assert token not in json.dumps(c("status"))


# --- TLS


def test_unknown_issuer(bao, cat, tmp_path):
    other = Authority(tmp_path / "other", "another authority")
    c = cat(bao, ca_file=str(other.ca_file))
    message = c.fails("EKEYREJECTED", "check")
    assert message == (
        f'the certificate of 127.0.0.1:{bao.port} comes from an unknown issuer ("test authority"), which is not in '
        f"ca_file ({other.ca_file}): give its authority's certificate as ca_file"
    )


def test_unknown_issuer_with_the_systems_authorities(bao, program):
    c = Cat(program, address=bao.address, token_file=bao.token_file)
    message = c.fails("EKEYREJECTED", "check")
    assert 'unknown issuer ("test authority"), which is not in the system\'s authorities' in message
    c.end()


def test_wrong_name_and_server_name(cat):
    with OpenBao(server_name="vault.example") as bao:
        bao.put("a", {"k": "v"})
        message = cat(bao).fails("EKEYREJECTED", "get", "a")
        assert message == (
            f'the certificate of 127.0.0.1:{bao.port} is not for "127.0.0.1" (it names: vault.example): use one of its '
            "names in the address, or set server_name"
        )
        c = cat(bao, server_name="vault.example")
        assert c.fields("a") == {b"k": b"v"}
        message = cat(bao, server_name="other.example").fails("EKEYREJECTED", "get", "a")
        assert 'is not for "other.example" (it names: vault.example)' in message


def test_expired_certificate_and_its_renewal(cat, tmp_path):
    authority = Authority(tmp_path / "ca")
    cert, key = authority.server(name="old", days_from=-20, days_to=-10)
    with OpenBao(authority=authority, cert=cert, key=key) as bao:
        bao.put("a", {"k": "v"})
        c = cat(bao)
        message = c.fails("EKEYREJECTED", "get", "a")
        day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 10 * 86400))
        assert message.startswith(f"the certificate of 127.0.0.1:{bao.port} expired on {day} ")
        assert message.endswith(" UTC: renew it on the server")
        new_cert, new_key = authority.server(name="new")
        key.write_bytes(new_key.read_bytes())
        cert.write_bytes(new_cert.read_bytes())
        bao.restart()
        assert c.fields("a") == {b"k": b"v"}


def test_a_certificate_from_the_future(cat, tmp_path):
    authority = Authority(tmp_path / "ca")
    cert, key = authority.server(name="future", days_from=5, days_to=10)
    with Faulty(authority=authority, cert=cert, key=key) as front:
        c = cat(address=front.address, ca_file=front.ca_file, token="t")
        assert "is valid only from" in c.fails("EKEYREJECTED", "check")


def test_client_certificate(cat, tmp_path):
    with OpenBao(mtls=True) as bao:
        bao.put("a", {"k": "v"})
        mine = {"cert_file": bao.client_cert, "key_file": bao.client_key}
        assert cat(bao, **mine).fields("a") == {b"k": b"v"}
        asks = f"127.0.0.1:{bao.port} asks for a client certificate: set cert_file and key_file"
        assert cat(bao).fails("EKEYREJECTED", "get", "a") == asks
        # one that the server does not know; renewed under a running backend
        other = Authority(tmp_path / "other")
        cert, key = other.client()
        c = cat(bao, cert_file=str(cert), key_file=str(key))
        assert "refused the client certificate" in c.fails("EKEYREJECTED", "get", "a")
        key.write_bytes(pathlib.Path(bao.client_key).read_bytes())
        cert.write_bytes(pathlib.Path(bao.client_cert).read_bytes())
        wait_until(lambda: c("get", "a")["r"] == 0, 10, "the renewed certificate")


def test_certificate_files_that_are_none(bao, cat, tmp_path):
    def opens(**conf):
        c = cat(bao, **conf)
        assert c.opened["r"] < 0
        return c.opened["error"].removeprefix("vault test: ")

    none, text = tmp_path / "none", tmp_path / "text"
    text.write_text("no certificate\n")
    text.chmod(0o600)
    cert, key = bao.client_cert, bao.client_key
    assert str(none) in opens(ca_file=str(none))
    assert opens(ca_file=str(text)) == (f"ca_file {text} holds no certificate: it should be PEM (BEGIN CERTIFICATE)")
    assert opens(cert_file=cert) == "cert_file needs key_file beside it"
    assert opens(key_file=key) == "key_file needs cert_file beside it"
    assert opens(cert_file=str(text), key_file=key).startswith(f"cert_file {text} holds no certificate")
    assert opens(cert_file=cert, key_file=str(text)).startswith(f"key_file {text} holds no private key")
    other = Authority(tmp_path / "other").client()
    assert opens(cert_file=cert, key_file=str(other[1])) == (
        f"key_file {other[1]} does not belong to the certificate in cert_file"
    )
    readable = tmp_path / "readable.key"
    readable.write_bytes(pathlib.Path(key).read_bytes())
    readable.chmod(0o640)
    assert str(readable) in opens(cert_file=cert, key_file=str(readable))
    locked = tmp_path / "locked.key"
    subprocess.run(["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked], check=True)
    locked.chmod(0o600)
    assert opens(cert_file=cert, key_file=str(locked)).startswith(f"key_file {locked} is protected by a pass phrase")


def test_https_at_a_plain_server_and_the_other_way(bao, dev, cat):
    c = cat(address=f"https://127.0.0.1:{dev.port}", ca_file=bao.ca_file, token="t")
    assert c.fails("EPROTO", "check") == (
        f"127.0.0.1:{dev.port} does not speak TLS there: is the address an http:// one?"
    )
    c = cat(address=f"http://127.0.0.1:{bao.port}", token="t")
    assert c.fails("EPROTO", "check") == f"http://127.0.0.1:{bao.port} speaks TLS there: write https://"


# --- when it cannot be asked


def test_sealed_and_unsealed(cat):
    with OpenBao() as bao:
        bao.put("a", {"k": "v"})
        c = cat(bao)
        assert c.fields("a") == {b"k": b"v"}
        bao.seal()
        sentence = f"{bao.address} is sealed: somebody has to unseal it"
        assert c.fails("EAGAIN", "get", "a") == sentence
        assert c.fails("EAGAIN", "list", "") == sentence
        assert c.fails("EAGAIN", "put", "a", {"k": "w"}, -1) == sentence
        assert c.fails("EAGAIN", "del", "a") == sentence
        assert c.fails("EAGAIN", "check") == sentence
        status = c("status")
        assert status["reachable"] is False
        assert status["last_error"].endswith(sentence)
        bao.unseal()
        assert c.fields("a") == {b"k": b"v"}
        assert c("status")["reachable"] is True


def test_killed_and_restarted(cat):
    with OpenBao() as bao:
        bao.put("a", {"k": "v"})
        c = cat(bao)
        for _ in range(3):
            assert c.fields("a") == {b"k": b"v"}
            bao.kill()
            message = c.fails("EAGAIN", "get", "a")
            assert message == f"127.0.0.1:{bao.port} refused the connection: is the server running there?"
            bao.start()
        # a kept connection of the old server is not an error
        assert c.fields("a") == {b"k": b"v"}
        bao.restart()
        assert c.fields("a") == {b"k": b"v"}


def test_frozen(cat):
    with OpenBao() as bao:
        bao.put("a", {"k": "v"})
        c = cat(bao, timeout_ms=500, connect_timeout_ms=400)
        assert c.fields("a") == {b"k": b"v"}
        bao.freeze()
        began = time.monotonic()
        assert c.fails("EAGAIN", "get", "a") == f"127.0.0.1:{bao.port} did not answer within 500 ms"
        # the kept connection has gone with that: a new one is not greeted
        assert c.fails("EAGAIN", "get", "a") == (
            f"127.0.0.1:{bao.port} accepted the connection but did not answer the TLS handshake within 400 ms"
        )
        assert time.monotonic() - began < 5
        bao.thaw()
        wait_until(lambda: c("get", "a")["r"] == 0, 10, "thawed")


def test_an_unknown_name(cat):
    c = cat(address="https://no-such-host.invalid:8200", token="t")
    assert c.fails("EAGAIN", "check") == (
        'the name "no-such-host.invalid" is not known: check the address and the name server'
    )


def test_rate_limit(cat):
    with OpenBao(dev=True) as bao:
        bao.put("a", {"k": "v"})
        bao.api("POST", "sys/quotas/rate-limit/q", {"rate": 1, "interval": "1h", "path": "secret/"})
        c = cat(bao)
        answers = [c("get", "a") for _ in range(5)]
        limited = [a for a in answers if a["r"] < 0]
        assert limited
        for a in limited:
            assert a["errno"] == "EAGAIN"
            assert a["error"].startswith(f"vault test: {bao.address} limits the rate of requests")


@pytest.fixture(scope="module")
def front(bao):
    bao.put("front/a", {"k": "v" * 100})
    with Faulty(bao) as server:
        yield server


@pytest.fixture
def through(front, bao, cat):
    """A Cat whose vault is the faulty server; `front.mode` says how faulty."""
    front.mode = Faulty.passing
    c = cat(bao, address=front.address, timeout_ms=2000)
    yield c
    front.mode = Faulty.passing
    # whatever it was, it passes
    assert c.fields("front/a") == {b"k": b"v" * 100}


@pytest.mark.parametrize(
    "mode, errno, sentence",
    [
        ("garbage", "EPROTO", "is not HTTP as it should be"),
        ("garbage_body", "EPROTO", "the answer is no JSON"),
        ("other_body", "EPROTO", "not that of a KV version 2 store"),
        ("half", "EPROTO", "broke off in the middle of its answer"),
        ("endless", "EMSGSIZE", "is larger than 17825792 bytes"),
        ("reset", "EAGAIN", "closed the connection without an answer"),
        ("silent", "EAGAIN", "did not answer within 2000 ms"),
    ],
)
def test_wrong_answers(front, through, mode, errno, sentence):
    front.mode = getattr(Faulty, mode)
    assert sentence in through.fails(errno, "get", "front/a")


def test_huge_answers(front, through):
    front.mode = Faulty.huge(10_000_000)
    assert "the answer is no JSON" in through.fails("EPROTO", "get", "front/a")
    front.mode = Faulty.huge(10_000_000, b"[")
    assert "the answer is no JSON" in through.fails("EPROTO", "get", "front/a")
    front.mode = Faulty.huge(100_000_000)
    assert "is larger than 17825792 bytes" in through.fails("EMSGSIZE", "get", "front/a")


@pytest.mark.parametrize(
    "code, errno, sentence",
    [
        (200, "EPROTO", "the answer is not that of a KV version 2 store"),
        (307, "EAGAIN", "sends us elsewhere (307): give the address of the active node"),
        (400, "EPROTO", "answers 400"),
        (401, "EPROTO", "answers 401"),
        (418, "EPROTO", "answers 418"),
        (429, "EAGAIN", "limits the rate of requests"),
        (500, "EAGAIN", "answers 500 (an error of its own)"),
        (502, "EAGAIN", "answers 502: what stands before the vault does not reach it"),
        (503, "EAGAIN", "is not available now (503)"),
        (504, "EAGAIN", "answers 504: what stands before the vault does not reach it"),
    ],
)
def test_statuses(front, through, code, errno, sentence):
    front.mode = Faulty.status(code)
    assert sentence in through.fails(errno, "get", "front/a")


def test_standby_without_an_active_node(front, through):
    body = b'{"errors":["local node not active but active cluster node not found"]}'
    front.mode = Faulty.status(500, body)
    assert "is a standby that knows no active node" in through.fails("EAGAIN", "get", "front/a")


def test_a_store_that_keeps_nothing_so_large(front, through):
    front.mode = Faulty.status(500, b'{"errors":["put failed due to value being too large; got 5 bytes"]}')
    message = through.fails("EMSGSIZE", "put", "front/b", {"k": "v"}, -1)
    assert message.endswith("keeps no secret as large as this (its storage sets the bound)")
    front.mode = Faulty.status(413, b'{"errors":["http: request body too large"]}')
    assert "takes no request as large as this" in through.fails("EMSGSIZE", "put", "front/b", {"k": "v"}, -1)


def test_a_foreign_404_is_not_an_absent_secret(front, through):
    front.mode = Faulty.status(404, b"<html>not found</html>")
    assert "answers 404, but not as a vault does" in through.fails("EPROTO", "get", "front/a")


def test_retry_after_is_kept(front, bao, cat):
    front.mode = Faulty.status(429, Retry_After="2")
    c = cat(bao, address=front.address)
    message = c.fails("EAGAIN", "get", "front/a")
    began = time.monotonic()
    assert message.endswith("limits the rate of requests; it asks to wait for 2 s")
    asked = len(front.requests)
    assert c.fails("EAGAIN", "get", "front/a") == message
    assert c.fails("EAGAIN", "check") == message
    assert len(front.requests) == asked, "asked although it was told to wait"
    front.mode = Faulty.passing
    wait_until(lambda: c("get", "front/a")["r"] == 0, 10, "the end of the wait")
    assert time.monotonic() - began > 1.8


def test_connections_are_kept_and_capped(front, bao, cat):
    front.mode = Faulty.slow(0.02)
    c = cat(bao, address=front.address, max_connections=5)
    assert c("status")["connections"] == 5
    before = front.connections
    assert c("many", "front/a", 50)["r"] == 0
    assert front.connections - before == 5
    for _ in range(10):
        assert c("get", "front/a")["r"] == 0
    assert front.connections - before == 5
    front.mode = Faulty.passing


def test_writes_are_never_sent_twice(front, bao, cat):
    """A kept connection that dies under a request: a read is repeated, a write is not."""
    front.mode = Faulty.passing
    c = cat(bao, address=front.address)
    assert c("get", "front/a")["r"] == 0
    dropped = []

    def drop_once(server, connection, request):
        if not dropped:
            dropped.append(request.method)
            return False
        return Faulty.passing(server, connection, request)

    front.mode = drop_once
    assert c("get", "front/a")["r"] == 0
    assert dropped == ["GET"]
    dropped.clear()
    asked = len(front.requests)
    c.fails("EAGAIN", "put", "front/b", {"k": "v"}, -1)
    assert dropped == ["POST"]
    assert len(front.requests) == asked + 1
    front.mode = Faulty.passing


def test_close_answers_what_is_under_way(bao, cat):
    c = cat(bao)
    assert c("check")["r"] == 0
    answer = c("close")
    assert answer["errno"] == "ECANCELED"


# --- what it costs


def limit_memory(size):
    def before():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, size))

    return before


def test_many_reads_at_once(bao, cat):
    bao.put("cost/a", {"k": "v" * 64})
    c = cat(bao)
    cap = c("status")["connections"]
    answer = c("many", "cost/a", 200)
    assert (answer["r"], answer["failed"]) == (0, 0)
    print(f"200 reads, {cap} connections: {answer['ms']} ms, peak {answer['peak'] // cap} bytes a connection")
    if answer["peak"]:
        assert answer["peak"] / cap < 96 * 1024, "base/http.c counts with less"


@pytest.mark.skipif(os.geteuid() != 0, reason="drops the capability to lock memory without bound")
def test_within_eight_mebibytes_of_locked_memory(bao, cat):
    bao.put("cost/a", {"k": "v" * 64})
    without = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
    c = cat(bao, prefix=without, before=limit_memory(8 << 20))
    cap = c("status")["connections"]
    assert 2 <= cap <= 24
    answer = c("many", "cost/a", 200)
    assert (answer["r"], answer["failed"]) == (0, 0), answer
    print(f"8 MiB: {cap} connections, 200 reads in {answer['ms']} ms")
