"""One HTTP/1.1 connection: reads with its own deadlines, parses strictly, answers in one write."""

from __future__ import annotations

import io
import logging
import math
import re
import socket
import sys
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

from gpu_exporter.http.connections import Connection, Connections

log = logging.getLogger(__name__)

LINE_LIMIT: Final = 8 * 1024
HEAD_LIMIT: Final = 32 * 1024  # all header lines together; the standard library limits their number to 100
BODY_LIMIT: Final = 64 * 1024
PLAIN: Final = ("Content-Type", "text/plain; charset=utf-8")
LINGER: Final = 1.0  # seconds for a client to read an answer that came before it had sent everything

_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
# Strict, because what the standard parser skips over (a line without a colon, a bare CR) could hide a Content-Length.
_HEADERS: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r?\n)*\r?\n")
_ORIGIN: Final = re.compile(r"(?i:https?)://[^/?]+")  # what a client writes that takes us for a proxy


class Host(Protocol):
    """What a connection needs of its server. Deadlines are seconds."""

    connections: Connections
    header_deadline: float
    idle_deadline: float
    write_deadline: float
    server_name: str
    server_port: int

    @property
    def scheme(self) -> str:
        """What its URLs begin with."""

    def call(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        """Status, headers and body from the application."""


class Handler(BaseHTTPRequestHandler):
    """One connection: reads with its own deadlines, parses with the parent's parser, answers in one write."""

    protocol_version = "HTTP/1.1"
    request: Connection
    server: Host  # type: ignore[assignment] # the base class only stores it

    def setup(self) -> None:
        """Begin a connection; there is no file to wrap the socket in."""
        self._buffer = bytearray()
        self._first = True

    def finish(self) -> None:
        """Nothing was opened; the server closes the socket."""

    def handle_one_request(self) -> None:
        """Read, parse and answer; ``close_connection`` tells whether that was the last one."""
        self.close_connection = True
        self._unread = False  # whether the client may still be sending what nobody will read
        self.command, self.requestline, self.request_version = "", "", "HTTP/1.1"
        head = self._read_head()
        if head is None:
            return
        line, _, rest = head.partition(b"\n")
        self.raw_requestline, self.rfile = line, io.BytesIO(rest)
        if not _HEADERS.fullmatch(rest):
            self.send_error(HTTPStatus.BAD_REQUEST)
        elif self.parse_request():  # else it has answered
            self._answer()

    def handle_expect_100(self) -> bool:
        """Nothing here wants a body: answer finally instead of asking for it."""
        self._unread = self.close_connection = True
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse the request and close. The parent's texts echo what the client sent; these do not."""
        self.close_connection = self._unread = True
        status = f"{int(code)} {HTTPStatus(code).phrase}"
        self._send(status, [PLAIN], f"{status}\n".encode(), deadline=self.server.write_deadline)
        self._linger()

    def _answer(self) -> None:
        if self.request_version == "HTTP/0.9" or not (environ := self._environ()):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self.server.connections.begin(self.request)
        try:
            status, headers, body = self.server.call(environ)
            self._send(status, headers, body, deadline=self._write_deadline())
        finally:
            if not self.server.connections.end(self.request):
                self.close_connection = True
        if self._unread:
            self._linger()

    # --- reading -----------------------------------------------------------------------------------------------------

    def _receive(self, deadline: float) -> bytes:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("deadline passed")
        self.request.sock.settimeout(remaining)
        return self.request.sock.recv(16384)

    def _read_head(self) -> bytes | None:
        """Request line and headers, with the empty line. None when the client left or was refused."""
        buffer = self._buffer
        if self._first:
            deadline = self.request.accepted + self.server.header_deadline
            self._first = False
        else:
            if not buffer:
                buffer += self._receive(time.monotonic() + self.server.idle_deadline)
            deadline = time.monotonic() + self.server.header_deadline
        searched = 0
        while True:
            if buffer.startswith((b"\r", b"\n")):  # RFC 9112 asks for patience with empty lines before a request
                del buffer[: len(buffer) - len(buffer.lstrip(b"\r\n"))]
            end = _END_OF_HEAD.search(buffer, searched)
            line = buffer.find(b"\n", 0, LINE_LIMIT + 1)
            if line < 0 and len(buffer) > LINE_LIMIT:
                self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
                return None
            if (end.end() if end else len(buffer)) - line > HEAD_LIMIT:
                self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return None
            if end:
                head = bytes(buffer[: end.end()])
                del buffer[: end.end()]
                return head
            searched = max(0, len(buffer) - 2)
            chunk = self._receive(deadline)
            if not chunk:
                return None
            buffer += chunk

    def _read_body(self) -> bytes | None:
        """The body where it is short; where it is not, nobody reads it and the connection ends. None: nonsense."""
        lengths = {value.strip() for value in self.headers.get_all("Content-Length", ())}
        if "Transfer-Encoding" in self.headers:
            self._unread = self.close_connection = True
        elif lengths:
            text = lengths.pop()
            if lengths or not (text.isascii() and text.isdecimal()):
                return None
            if len(text) > 9 or (length := int(text)) > BODY_LIMIT:
                self._unread = self.close_connection = True
            elif not self._unread:
                deadline = time.monotonic() + self.server.header_deadline
                while len(self._buffer) < length:
                    chunk = self._receive(deadline)
                    if not chunk:
                        raise ConnectionResetError
                    self._buffer += chunk
                body = bytes(self._buffer[:length])
                del self._buffer[:length]
                return body
        return b""

    def _environ(self) -> dict[str, Any] | None:
        """PEP 3333's dictionary; None where the request is not one."""
        target = _ORIGIN.sub("", self.path)
        body = self._read_body()
        if body is None or target[:1] not in {"/", "?", "*", ""}:
            return None
        path, _, query = target.partition("?")
        environ = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": (unquote_to_bytes(path).decode("latin-1") if "%" in path else path) or "/",
            "QUERY_STRING": query,
            "SERVER_NAME": self.server.server_name,
            "SERVER_PORT": str(self.server.server_port),
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.request.peer,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": self.server.scheme,
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.headers.raw_items():
            if "_" not in name:  # a-b and a_b would otherwise look the same to the application
                key = "HTTP_" + name.upper().replace("-", "_")
                text = value.strip()
                environ[key] = f"{environ[key]},{text}" if key in environ else text
        for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if f"HTTP_{key}" in environ:
                environ[key] = environ.pop(f"HTTP_{key}")
        return environ

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write_deadline(self) -> float:
        """Prometheus tells when it gives up; to write for longer serves nobody."""
        try:
            told = float(self.headers.get("X-Prometheus-Scrape-Timeout-Seconds", "nan"))
        except ValueError:
            told = math.nan
        return min(self.server.write_deadline, told) if told > 0 else self.server.write_deadline

    def _send(self, status: str, headers: list[tuple[str, str]], body: bytes, *, deadline: float) -> None:
        known = {name.lower() for name, _ in headers}
        lines = [f"HTTP/1.1 {status}", "Server: gpu-exporter", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if "content-length" not in known:
            lines.append(f"Content-Length: {len(body)}")
        if self.close_connection:
            lines.append("Connection: close")
        elif self.request_version == "HTTP/1.0":
            lines.append("Connection: keep-alive")
        data = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        if self.command != "HEAD":
            data += body
        log.debug("request", extra={"peer": self.request.peer, "request": self.requestline, "status": status[:3]})
        self._write(data, time.monotonic() + deadline)

    def _write(self, data: bytes, deadline: float) -> None:
        """All of it by the deadline; a TLS socket's sendall would grant the whole time to every record anew."""
        rest = memoryview(data)
        while rest:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("deadline passed")
            self.request.sock.settimeout(remaining)
            rest = rest[self.request.sock.send(rest) :]

    def _linger(self) -> None:
        """Read on for a moment: closing on unread bytes resets the connection, and the client may lose the answer."""
        deadline = time.monotonic() + LINGER
        with suppress(OSError):
            socket.socket.shutdown(self.request.sock, socket.SHUT_WR)
            for _ in range(64):
                if not self._receive(deadline):
                    return
