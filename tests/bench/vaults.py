# SPDX-License-Identifier: Apache-2.0
"""The vaults that are measured against: a sealed file, a real OpenBao, and its own agent."""

import concurrent.futures
import http.client
import itertools
import json
import os
import socket
import ssl
import statistics
import time

from harness.programs import run
from peers import openbao
from peers.process import spawn


class Sealed:
    """A sealed vault in `folder`."""

    def __init__(self, program, folder):
        self.program = program
        self.folder = folder
        self.file = folder / "vault"
        self.passphrase = folder / "passphrase"
        self.passphrase.touch(mode=0o600)
        self.passphrase.write_text(os.urandom(16).hex() + "\n")
        self._run("vault", "init")

    def options(self):
        return ["--vault", f"file:{self.file}", "--passphrase-file", self.passphrase]

    def config(self):
        return {"file": self.file, "passphrase_file": self.passphrase}

    def put(self, path, fields):
        """fields: name to bytes"""
        arguments = []
        for name, value in fields.items():
            file = self.folder / f"value-{name}"
            file.touch(mode=0o600)
            file.write_bytes(value)
            arguments.append(f"{name}=@{file}")
        self._run("put", path, *arguments)

    def _run(self, *arguments):
        done = run([self.program, *arguments, *self.options()], self.folder)
        if done.returncode:
            raise AssertionError(f"cloudtaser {arguments[0]}: status {done.returncode}: {done.stderr.decode()}")


def server():
    """A real one: TLS, raft."""
    return openbao.OpenBao(audit=False)


def config(bao, port=None):
    """It as a vault of a configuration; `port`: a proxy's."""
    return {
        "address": f"https://127.0.0.1:{port or bao.port}",
        "ca_file": bao.ca_file,
        "token_file": bao.token_file,
        "refresh": "60s",
    }


class Connection:
    """One connection that stays, for many requests."""

    def __init__(self, bao, port=None):
        context = ssl.create_default_context(cafile=bao.ca_file)
        sock = socket.create_connection(("127.0.0.1", port or bao.port), 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.http = http.client.HTTPConnection("127.0.0.1", bao.port, timeout=30)
        self.http.sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
        self.headers = {"X-Vault-Token": bao.root_token, "X-Vault-Request": "true"}

    def request(self, method, path, body=None):
        self.http.request(method, "/v1/" + path, None if body is None else json.dumps(body), self.headers)
        answer = self.http.getresponse()
        raw = answer.read()
        if answer.status >= 400:
            raise AssertionError(f"{method} {path}: {answer.status} {raw[:200]}")
        return raw

    def close(self):
        self.http.close()


def fill(bao, secrets, connections=4):
    """Writes many secrets: path to fields."""

    def some(part):
        connection = Connection(bao)
        for path, fields in part:
            connection.request("POST", f"secret/data/{path}", {"data": fields})
        connection.close()

    items = iter(secrets.items())
    parts = iter(lambda: list(itertools.islice(items, 500)), [])
    with concurrent.futures.ThreadPoolExecutor(connections) as pool:
        for done in [pool.submit(some, part) for part in parts]:
            done.result()


def round_trip(bao, port, count=9):
    """Seconds that one small request takes on a connection that is open already."""
    connection = Connection(bao, port)
    took = []
    for _ in range(count):
        started = time.monotonic()
        connection.request("GET", "sys/health")
        took.append(time.monotonic() - started)
    connection.close()
    return statistics.median(took)


def agent(bao, paths, folder):
    """`bao agent` with one template a secret: (process, the folder it renders into)."""
    rendered = folder / "rendered"
    rendered.mkdir()
    lines = [
        f'vault {{\n address = "https://127.0.0.1:{bao.port}"\n ca_cert = "{bao.ca_file}"\n}}',
        f'auto_auth {{\n method "token_file" {{\n config = {{\n token_file_path = "{bao.token_file}"\n }}\n }}\n}}',
    ]
    for i, path in enumerate(paths):
        template = f'{{{{ with secret \\"secret/data/{path}\\" }}}}{{{{ .Data.data.value }}}}{{{{ end }}}}'
        lines.append(f'template {{\n contents = "{template}"\n destination = "{rendered}/{i}"\n}}')
    file = folder / "agent.hcl"
    file.write_text("\n".join(lines) + "\n")
    return spawn([openbao.binary(), "agent", f"-config={file}"], folder / "agent.log", cwd=folder), rendered
