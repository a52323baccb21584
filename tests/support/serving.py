"""A server under test over real sockets, and the clients that talk to it."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from tools.lab.wait import patience

from gpu_exporter.config import Address
from gpu_exporter.http.server import Server

GET = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
BIG = b"x" * (32 << 20)  # more than the kernel buffers between two sockets
NEVER = 3600.0
LOCAL = Address("127.0.0.1", 0)


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise RuntimeError("the secret detail")
    if path == "/split":
        start_response("200 OK", [("X-Bad", "a\r\nSet-Cookie: b")])
        return [b""]
    if path == "/big":
        start_response("200 OK", [])
        return [BIG]
    body = f"{environ['REQUEST_METHOD']} {path} {environ['QUERY_STRING']} ".encode() + environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


@contextmanager
def serving(app: Any = echo, **options: Any) -> Iterator[Server]:
    """A server; of its deadlines only those pass in a test that the test sets."""
    deadlines = {"header_deadline": NEVER, "idle_deadline": NEVER, "write_deadline": NEVER}
    server = Server(app, **{"addresses": [LOCAL], **deadlines, **options})
    server.start()
    with closing(server):
        yield server
    assert not workers()


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in {"http", "http-worker"}]


def dial(server: Server, data: bytes = b"", *, host: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection((host, server.port), timeout=patience())
    client.sendall(data)
    return client


def everything(client: socket.socket) -> bytes:
    """Until the server closes."""
    data = b""
    # Over TLS, what could not be sent before is told where something is read, as a broken pipe.
    with suppress(ConnectionResetError, BrokenPipeError):
        while chunk := client.recv(65536):
            data += chunk
    return data


def ask(server: Server, data: bytes) -> bytes:
    with dial(server, data) as client:
        return everything(client)


def answer(client: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(client)
    response.begin()
    body = response.read()
    response.close()
    return response.status, body


def fetch(server: Server, path: str = "/hello", *, host: str = "127.0.0.1") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, server.port, timeout=patience())
    with closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def trickle_until_closed(client: socket.socket, trickle: bytes = b"") -> bytes:
    """Send this every 10 ms until the server closes; what it sent before."""
    deadline = time.monotonic() + patience()
    client.settimeout(0.01)
    got = b""
    while time.monotonic() < deadline:
        try:
            chunk = client.recv(4096)
        except TimeoutError:
            with suppress(OSError):
                client.sendall(trickle)
        except ConnectionError:
            return got
        else:
            if not chunk:
                return got
            got += chunk
    raise AssertionError("the server did not close")
