"""A server under test over real sockets, and the clients that talk to it."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from gpu_exporter.http.server import Server

GET = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
BIG = b"x" * (32 << 20)  # more than the kernel buffers between two sockets


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
    server = Server(app, **{"host": "127.0.0.1", "port": 0, **options})
    server.start()
    with closing(server):
        yield server
    assert not workers()


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in {"http", "http-worker"}]


def dial(server: Server, data: bytes = b"", *, host: str = "127.0.0.1", timeout: float = 5.0) -> socket.socket:
    client = socket.create_connection((host, server.port), timeout=timeout)
    client.sendall(data)
    return client


def everything(client: socket.socket) -> bytes:
    """Until the server closes."""
    data = b""
    with suppress(ConnectionResetError):
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


def fetch(server: Server, path: str = "/hello", *, host: str = "127.0.0.1", timeout: float = 3.0) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, server.port, timeout=timeout)
    with closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def eventually(condition: Callable[[], object], within: float = 3.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def lifetime(client: socket.socket, trickle: bytes = b"") -> float:
    """Seconds until the server closes, while a byte is sent every 10 ms."""
    started = time.monotonic()
    client.settimeout(0.01)
    while time.monotonic() < started + 5:
        try:
            if client.recv(1) == b"":
                break
        except TimeoutError:
            with suppress(OSError):
                client.sendall(trickle)
        except ConnectionError:
            break
    return time.monotonic() - started
