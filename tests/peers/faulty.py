# SPDX-License-Identifier: Apache-2.0
"""A server in front of OpenBao that passes requests on, or misbehaves.

    with OpenBao() as bao, Faulty(bao) as front:
        front.address              # instead of bao.address; same authority (bao.ca_file)
        front.mode = Faulty.garbage
        front.requests, front.connections       # what came in so far

Plain HTTP in front of a dev server. Runs in threads of this process; a mode is a method below, or any function of the
same form: mode(front, connection, request) answers one request and returns whether to keep the connection.
"""

import socket
import ssl
import threading
import time


class Request:
    def __init__(self, head, body):
        self.raw = head + b"\r\n\r\n" + body
        self.body = body
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = lines[0].split(" ", 2)
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()


def _read_message(sock, buffer):
    """(head, body) of one HTTP message with Content-Length or chunks; None at its end."""
    while b"\r\n\r\n" not in buffer:
        data = sock.recv(65536)
        if not data:
            return None
        buffer += data
    head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
    length, chunked = 0, False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        chunked = chunked or (name.lower() == b"transfer-encoding" and b"chunked" in value.lower())
    body = bytearray(rest)
    while (not body.endswith(b"0\r\n\r\n")) if chunked else (len(body) < length):
        data = sock.recv(65536)
        if not data:
            return None
        body += data
    end = len(body) if chunked else length
    buffer[:] = body[end:]
    return head, bytes(body[:end])


class Faulty:
    def __init__(self, bao=None, authority=None, cert=None, key=None):
        """bao: whom to pass requests on to. authority, cert, key: for TLS without a server behind."""
        self.bao = bao
        self.mode = Faulty.passing if bao else Faulty.garbage
        self.connections = 0
        self.requests = []
        self._open = set()
        self._lock = threading.Lock()
        self._tls = None
        authority = authority or (bao and not bao.dev and bao.authority)
        if authority:
            if not cert:
                cert, key = authority.server(name=f"front-{id(self):x}")
            self.ca_file = str(authority.ca_file)
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(cert, key)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.address = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Stops listening and cuts every connection."""
        self._listener.close()
        with self._lock:
            for sock in list(self._open):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    # --- modes

    def passing(self, connection, request):
        connection.sock.sendall(connection.ask(request))
        return True

    @staticmethod
    def slow(seconds):
        """Passes on, and holds the answer back for that long."""

        def mode(front, connection, request):
            began = time.monotonic()
            answer = connection.ask(request)
            time.sleep(max(0, seconds - (time.monotonic() - began)))
            connection.sock.sendall(answer)
            return True

        return mode

    def silent(self, connection, request):
        """Never answers; the connection stays open until the client leaves."""
        connection.sock.recv(1)
        return False

    def garbage(self, connection, request):
        connection.sock.sendall(b"\x00\xff\x17garbage, no protocol at all\r\n\r\n" * 20)
        return False

    def garbage_body(self, connection, request):
        return self._reply(connection, 200, b'{"data": {"data": {"a": ')

    def other_body(self, connection, request):
        """Good JSON, and not what a vault says."""
        return self._reply(connection, 200, b'{"welcome": "to another service"}')

    def half(self, connection, request):
        """Half of the true answer, then the end of the connection."""
        answer = connection.ask(request)
        head, _, body = answer.partition(b"\r\n\r\n")
        connection.sock.sendall(head + b"\r\n\r\n" + body[: len(body) // 2])
        return False

    @staticmethod
    def huge(size=10_000_000, kind=b"x"):
        """A body of that size, told beforehand."""

        def mode(front, connection, request):
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
            connection.sock.sendall(head.encode())
            block = kind * 65536
            while size_left := size - connection.sent:
                connection.sock.sendall(block[: min(len(block), size_left)])
                connection.sent += min(len(block), size_left)
            return False

        return mode

    def endless(self, connection, request):
        """Chunks for as long as somebody takes them."""
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sock.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    def reset(self, connection, request):
        """Drops the connection with a TCP reset."""
        linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.sock.close()
        return False

    @staticmethod
    def status(code, body=b'{"errors":[]}', **headers):
        """An answer with that status; headers: retry_after="7" becomes Retry-After: 7."""

        def mode(front, connection, request):
            return front._reply(connection, code, body, headers)

        return mode

    # --- how

    @staticmethod
    def _reply(connection, code, body, headers=None):
        lines = [f"HTTP/1.1 {code} Status", f"Content-Length: {len(body)}", "Content-Type: application/json"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in (headers or {}).items()]
        connection.sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return True

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        with self._lock:
            self.connections += 1
            self._open.add(sock)
        raw = sock
        connection = None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._open.discard(raw)
                    self._open.add(sock)
            connection = _Connection(self, sock)
            buffer = bytearray()
            while (message := _read_message(sock, buffer)) is not None:
                request = Request(*message)
                with self._lock:
                    self.requests.append(request)
                connection.sent = 0
                if not self.mode(self, connection, request):
                    break
        except (OSError, ValueError):
            pass
        finally:
            if connection:
                connection.close()
            with self._lock:
                self._open.discard(raw)
                self._open.discard(sock)
            sock.close()


class _Connection:
    """A client's connection and the one to the server behind, opened when it is needed."""

    def __init__(self, front, sock):
        self.front = front
        self.sock = sock
        self.sent = 0
        self._upstream = None
        self._buffer = bytearray()

    def ask(self, request):
        """The raw answer of the server behind."""
        if self._upstream is None:
            bao = self.front.bao
            self._upstream = socket.create_connection(("127.0.0.1", bao.port), 30)
            self._upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not bao.dev:
                self._upstream = bao._tls().wrap_socket(self._upstream, server_hostname=bao.server_name or "127.0.0.1")
        self._upstream.sendall(request.raw)
        answer = _read_message(self._upstream, self._buffer)
        if answer is None:
            raise OSError("no answer from behind")
        return answer[0] + b"\r\n\r\n" + answer[1]

    def close(self):
        if self._upstream:
            self._upstream.close()
