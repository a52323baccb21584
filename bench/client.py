"""A scraper on a bare socket, so that what is timed is the exporter and not a client library."""

from __future__ import annotations

import gzip
import math
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

# What Prometheus asks for, less the protobuf that neither exporter speaks.
_ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
_TIMEOUT = 30.0


class NotOfferedError(Exception):
    """The exporter closes every connection."""


@dataclass(frozen=True)
class Answer:
    """One scrape. ``seconds`` run from connecting, or from sending on a connection that is kept, to the last byte."""

    seconds: float
    status: int
    wire: bytes
    compressed: bool

    def text(self) -> str:
        return (gzip.decompress(self.wire) if self.compressed else self.wire).decode()


class Scraper:
    """Scrapes 127.0.0.1; a context manager."""

    def __init__(self, port: int, *, compressed: bool = True, keep_alive: bool = False, path: str = "/metrics") -> None:
        self._port = port
        self._keep_alive = keep_alive
        self._socket: socket.socket | None = None
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            f"Accept: {_ACCEPT}",
            f"Accept-Encoding: {'gzip' if compressed else 'identity'}",
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
        )
        self._request = "\r\n".join((*lines, "", "")).encode()

    def __enter__(self) -> Scraper:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def scrape(self) -> Answer:
        """Raises OSError, or NotOfferedError where a connection should be kept and is not."""
        began = time.perf_counter()
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(self._request)
        head, body = self._receive()
        seconds = time.perf_counter() - began
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines[1:])}
        kept = lines[0].startswith("HTTP/1.1") and fields.get("connection") != "close"
        if not (kept and self._keep_alive):
            self._close()
        if self._keep_alive and not kept:
            raise NotOfferedError
        if fields.get("transfer-encoding") == "chunked":
            body = _joined(body)
        return Answer(seconds, int(lines[0].split()[1]), body, fields.get("content-encoding") == "gzip")

    def _receive(self) -> tuple[bytes, bytes]:
        """Head and body; without a length, the body ends with the connection."""
        if self._socket is None:
            raise ConnectionAbortedError
        buffer = bytearray()
        wanted = None
        while wanted is None or len(buffer) < wanted:
            chunk = self._socket.recv(1 << 18)
            if not chunk:
                if wanted is not None or b"\r\n\r\n" not in buffer:
                    raise ConnectionResetError
                break
            buffer += chunk
            if wanted is None and (end := buffer.find(b"\r\n\r\n")) >= 0:
                wanted = _length(bytes(buffer[:end]), end + 4)
        head, _, body = bytes(buffer).partition(b"\r\n\r\n")
        return head, body


def _length(head: bytes, start: int) -> int | None:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return start + int(value)
    return None


def _joined(chunks: bytes) -> bytes:
    """A chunked body that has come in whole, as of one who closes the connection (RFC 9112, 7.1)."""
    body = bytearray()
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        body += chunks[:length]
        chunks = chunks[length + 2 :] if length else b""
    return bytes(body)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]
