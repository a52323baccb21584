"""Servers that are none, or lie: machines for the hub, and a kubelet for the exporter."""

from __future__ import annotations

import gzip
import random
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

_BOMB: Final = gzip.compress(b" " * (64 << 20))
_DEEP: Final = b"[" * 100_000
_LIES: Final = (
    b'{"schema": 1, "gpus": -1}',
    b'{"schema": 1, "host": {"name": "fleet"}, "gpus": [{"index": 1e308, "uuid": "<b>", "utilization_ratio": -7}]}',
    b'{"schema": 1, "timestamp_seconds": 9e99, "gpus": [null, 3, {}]}',
    b'{"schema": ' + b"9" * 5000 + b"}",
    _DEEP,
    b"\xff\xfe",
    b"",
)
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def _sized(body: bytes, extra: bytes = b"") -> bytes:
    return _HEAD + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Liar:
    """Answers each connection as chance has it, until ``close``."""

    def __init__(self, listener: socket.socket, behaviours: list[Callable[[socket.socket], None]], seed: int) -> None:
        self._listener = listener
        self._behaviours = behaviours
        self._chance = random.Random(seed)  # noqa: S311 - the same lies for the same seed
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="liar", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            behaviour = self._chance.choice(self._behaviours)
            threading.Thread(target=self._answer, args=(client, behaviour), name="lie", daemon=True).start()

    def _answer(self, client: socket.socket, behaviour: Callable[[socket.socket], None]) -> None:
        with client, suppress(OSError):
            client.settimeout(20)
            behaviour(client)

    def hang(self, client: socket.socket) -> None:
        self._closing.wait(20)

    def trickle(self, client: socket.socket) -> None:
        client.sendall(_HEAD + b"Content-Length: 1000000\r\n\r\n")
        while not self._closing.wait(0.2):
            client.sendall(b" ")


def machine(seed: int) -> Liar:
    """A machine of the hub's that is no exporter."""
    chance = random.Random(seed)  # noqa: S311

    def endless(client: socket.socket) -> None:
        client.sendall(_HEAD + b"\r\n")
        for _ in range(1000):
            client.sendall(b"[" * (1 << 16))

    def lie(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(_sized(chance.choice(_LIES)))

    def bomb(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(_sized(_BOMB, b"Content-Encoding: gzip\r\n"))

    def noise(client: socket.socket) -> None:
        client.sendall(chance.randbytes(4096))

    behaviours: list[Callable[[socket.socket], None]] = [endless, lie, lie, lie, bomb, noise]
    liar = Liar(socket.create_server(("127.0.0.1", 0), backlog=64), behaviours, seed)
    behaviours += [liar.hang, liar.trickle]
    return liar


def kubelet(path: Path, seed: int) -> Liar:
    """Something at the kubelet's socket."""
    chance = random.Random(seed)  # noqa: S311

    def noise(client: socket.socket) -> None:
        client.sendall(chance.randbytes(1000))

    def frames(client: socket.socket) -> None:
        for kind in range(12):
            client.sendall(b"\x00\x00\x08" + bytes((kind, 0, 0, 0, 0, chance.randrange(3))) + chance.randbytes(8))

    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)
    behaviours: list[Callable[[socket.socket], None]] = [noise, frames]
    liar = Liar(listener, behaviours, seed)
    behaviours.append(liar.hang)
    return liar
