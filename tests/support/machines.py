"""Machines that the hub asks: exporters that say what a test lets them say, and servers that are none."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tools.lab.ports import free_port

from gpu_exporter.config import Address
from gpu_exporter.http.server import Server
from gpu_exporter.model import Device, Host, Snapshot
from gpu_exporter.pages.application import Application
from snapshots import FULL, snapshot

LOCAL = Address("127.0.0.1", 0)
Handle = Callable[[socket.socket, bytes], None]


class Told:
    """What an exporter tells, as a test sets it."""

    def __init__(self, *readings: Any, **rest: Any) -> None:
        self.now: Snapshot = snapshot(*(readings or (FULL,)), **{"timestamp": 1.7e9, **rest})
        self.machine = Host(name="made-up")
        self.why: str | None = None

    def exposition(self, *, openmetrics: bool, gzip: bool, client: str) -> bytes:
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        return self.now

    def watched(self) -> None:
        pass

    def host(self) -> Host:
        return self.machine

    def trail(self, device: Device) -> Sequence[float | None]:
        return ()

    def interval(self) -> float:
        return 5.0

    def age(self, snapshot: Snapshot) -> float | None:
        return 1.0

    def live(self) -> str | None:
        return None

    def ready(self) -> str | None:
        return self.why


@contextmanager
def exporter(told: Told, *, port: int = 0, application: Any = None, **options: Any) -> Iterator[Server]:
    """The exporter's real pages on its real server."""
    server = Server(application or Application(provider=told), addresses=[Address("127.0.0.1", port)], **options)
    server.start()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def anything(handle: Handle) -> Iterator[int]:
    """A server that reads a request's head and then does whatever it likes with the connection; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []
    closing = threading.Event()

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):
            while not closing.is_set():
                head = b""
                while b"\r\n\r\n" not in head:
                    chunk = connection.recv(65536)
                    if not chunk:
                        return
                    head += chunk
                handle(connection, head)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        closing.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()


def answer(
    body: bytes | str | dict[str, Any] = b"",
    *,
    status: str = "200 OK",
    kind: str = "application/json",
    headers: str = "",
    pack: bool = False,
) -> Handle:
    """Answers every request with this."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
    if pack:
        content = gzip.compress(content)
        headers += "Content-Encoding: gzip\r\n"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n{headers}\r\n".encode()
    return lambda connection, _head: connection.sendall(head + content)


def nobody() -> int:
    """A port on which nobody listens."""
    return free_port()
