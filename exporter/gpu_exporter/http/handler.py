"""One HTTP/1.1 connection: requests read by their deadlines, each answered in one write."""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from gpu_exporter.http.connections import Connection, Connections
from gpu_exporter.http.request import RefusedError, Request, Stream, parse
from gpu_exporter.http.wsgi import GONE, Answer, Environ, pieces, status_answer

log = logging.getLogger(__name__)

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_JOINED: Final = 64 * 1024  # bytes of an answer that go out in one write
LINGER: Final = 1.0  # seconds for a client to read an answer that came before it had sent everything


class Host(Protocol):
    """What a connection needs of its server. Deadlines are seconds."""

    connections: Connections
    header_deadline: float
    idle_deadline: float
    write_deadline: float
    monotonic: Callable[[], float]

    @property
    def scheme(self) -> str:
        """What its URLs begin with."""

    def call(self, environ: Environ) -> Answer:
        """The application's answer."""


class Handler:
    """Serves one connection to its end."""

    def __init__(self, connection: Connection, server: Host) -> None:
        self._connection = connection
        self._server = server
        self._stream = Stream(self._receive)

    def run(self) -> None:
        """Serve requests until either side ends it. Raises OSError where the connection breaks."""
        server = self._server
        going_on = self._serve_request(self._connection.accepted + server.header_deadline)
        while going_on:
            self._stream.wait(server.monotonic() + server.idle_deadline)
            going_on = self._serve_request(server.monotonic() + server.header_deadline)

    def _serve_request(self, deadline: float) -> bool:
        """Read a request by the deadline and answer it; return whether another may follow."""
        server, connection = self._server, self._connection
        request = None
        try:
            head = self._stream.head(deadline)
            if head is None:
                return False
            request = parse(head)
            length = request.body_length()
            body = self._stream.body(length, server.monotonic() + server.header_deadline) if length else b""
            local = connection.local
            environ = request.environ(body, server=(local.host, local.port), scheme=server.scheme, peer=connection.peer)
            environ[GONE] = partial(getattr, connection, "cut")
        except RefusedError as refusal:
            self._send(request, status_answer(str(refusal)), keep_alive=False, seconds=server.write_deadline)
            self._linger()
            return False
        keep_alive = request.keep_alive and length is not None
        server.connections.begin(connection)
        try:
            answer = server.call(environ)
            self._send(request, answer, keep_alive=keep_alive, seconds=self._write_seconds(request))
        finally:
            may_stay = server.connections.end(connection)
        if length is None:
            self._linger()
        return keep_alive and may_stay

    def _receive(self, deadline: float) -> bytes:
        remaining = deadline - self._server.monotonic()
        if remaining <= 0:
            raise TimeoutError("deadline passed")
        self._connection.sock.settimeout(remaining)
        return self._connection.sock.recv(16384)

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write_seconds(self, request: Request) -> float:
        """Seconds for the answer: Prometheus says when it gives up, and writing for longer helps nobody."""
        try:
            scrape_timeout = float((request.values("x-prometheus-scrape-timeout-seconds") or ["nan"])[0])
        except ValueError:
            scrape_timeout = math.nan
        most = self._server.write_deadline
        return min(most, scrape_timeout) if scrape_timeout > 0 else most

    def _send(self, request: Request | None, answer: Answer, *, keep_alive: bool, seconds: float) -> None:
        status, headers, body = answer
        lines = [f"HTTP/1.1 {status}", "Server: gpu-exporter", f"Date: {_date(time.time())}"]
        lines += [f"{name}: {value}" for name, value in headers]
        # With 304, a length would be that of the page which the client has already (RFC 9110, 8.6).
        if not any(name.lower() == "content-length" for name, _ in headers) and not status.startswith("304"):
            lines.append(f"Content-Length: {sum(map(len, pieces(body)))}")
        if not keep_alive:
            lines.append("Connection: close")
        elif request is not None and request.version == "HTTP/1.0":
            lines.append("Connection: keep-alive")
        data = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        if request is not None and request.method == "HEAD":
            body = ()
        what = "" if request is None else f"{request.method} {request.target} {request.version}"
        log.debug("request", extra={"peer": self._connection.peer, "request": what, "status": status[:3]})
        self._write_all(data, pieces(body), self._server.monotonic() + seconds)

    def _write_all(self, head: bytes, body: tuple[bytes, ...], deadline: float) -> None:
        """One write for a small answer. Of a large one the body is shared by all who read it slowly, not copied."""
        for piece in body:
            joined = max(0, _JOINED - len(head))
            head += piece[:joined]
            if len(piece) > joined:
                self._write(head, deadline)
                self._write(memoryview(piece)[joined:], deadline)
                head = b""
        if head:
            self._write(head, deadline)

    def _write(self, data: bytes | memoryview, deadline: float) -> None:
        """All of it by the deadline, however much the socket takes at a time."""
        rest = memoryview(data)
        while rest:
            remaining = deadline - self._server.monotonic()
            if remaining <= 0:
                raise TimeoutError("deadline passed")
            self._connection.sock.settimeout(remaining)
            rest = rest[self._connection.sock.send(rest) :]

    def _linger(self) -> None:
        """Keep reading briefly: closing on unread bytes resets the connection, and the client may lose the answer."""
        deadline = self._server.monotonic() + LINGER
        with suppress(OSError):
            socket.socket.shutdown(self._connection.sock, socket.SHUT_WR)
            for _ in range(64):
                if not self._receive(deadline):
                    return


def _date(now: float) -> str:
    """RFC 9110's IMF-fixdate, in no other language than English: email.utils would cost a MiB of imports."""
    at = time.gmtime(now)
    day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
    return f"{day}, {at.tm_mday:02} {month} {at.tm_year} {time.strftime('%H:%M:%S', at)} GMT"
