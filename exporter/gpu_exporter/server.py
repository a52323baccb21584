"""The HTTP server: the standard library's threading server, hardened, under a WSGI application (PEP 3333).

What the standard one lacks: deadlines that trickled bytes cannot stretch, a bound on connections and threads, a TLS
handshake away from the accept loop, and one write a response. How clients misbehave is never logged above debug.
"""

from __future__ import annotations

import errno
import io
import ipaddress
import logging
import math
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from traceback import extract_tb
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

log = logging.getLogger(__name__)

App: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

LINE_LIMIT: Final = 8 * 1024
HEAD_LIMIT: Final = 32 * 1024  # all header lines together; the standard library limits their number to 100
BODY_LIMIT: Final = 64 * 1024
_LEAVING: Final = 16  # workers of evicted connections that may still be on their way out
_GRACE: Final = 0.5  # for answers under way when the server closes
_LINGER: Final = 1.0  # for a client to read an answer that came before it had sent everything

_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
# Strict, because what the standard parser skips over (a line without a colon, a bare CR) could hide a Content-Length.
_HEADERS: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r?\n)*\r?\n")
_ORIGIN: Final = re.compile(r"(?i:https?)://[^/?]+")  # what a client writes that takes us for a proxy
_FORBIDDEN: Final = (
    b"HTTP/1.1 403 Forbidden\r\nServer: gpu-exporter\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 14\r\nConnection: close\r\n\r\n403 Forbidden\n"
)
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(slots=True, eq=False)
class _Connection:
    """One client. ``since`` is when it began what it does now; ``busy`` while a whole request is being answered."""

    sock: socket.socket
    peer: str
    accepted: float
    since: float
    thread: threading.Thread | None = None
    busy: bool = False
    cut: bool = False


class Server(ThreadingHTTPServer):
    """Listens from the moment it is made, serves from ``start`` to ``close``. Raises OSError where it cannot listen.

    An empty ``host`` is every address, IPv6 and IPv4. ``allow`` may be replaced at any time; empty lets everybody in.
    ``wrap`` is called with each accepted socket in that connection's own thread and gives the socket to use; it must
    not talk to the client: a ``do_handshake`` of the result is called within the header deadline.
    ``heartbeat`` is the monotonic time of the accept loop's latest turn, twice a second at least.
    Deadlines are seconds: ``header_deadline`` for a whole request header, counted from accepting or from the first byte
    of a following request; ``idle_deadline`` between requests; ``write_deadline`` for an answer to be taken.
    """

    allow_reuse_address = True
    # Some Python releases switch this on: a second exporter would then share the port instead of being told.
    allow_reuse_port = False
    request_queue_size = 1024

    def __init__(
        self,
        application: App,
        *,
        host: str = "",
        port: int,
        allow: Sequence[Network] = (),
        wrap: Callable[[socket.socket], socket.socket] | None = None,
        connections: int = 64,
        header_deadline: float = 5.0,
        idle_deadline: float = 30.0,
        write_deadline: float = 10.0,
    ) -> None:
        self.application = application
        self.header_deadline = header_deadline
        self.idle_deadline = idle_deadline
        self.write_deadline = write_deadline
        self.heartbeat = time.monotonic()
        self._allow = tuple(allow)
        self._wrap = wrap
        self._limit = connections
        self._open: dict[_Connection, None] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._told: set[str] = set()
        self._listen(host, port)
        self._thread = threading.Thread(target=partial(self.serve_forever, 0.5), name="http", daemon=True)

    # --- for any thread ----------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server_port

    @property
    def scheme(self) -> str:
        """What its URLs begin with."""
        return "http" if self._wrap is None else "https"

    @property
    def allow(self) -> tuple[Network, ...]:
        """Networks that may connect."""
        return self._allow

    @allow.setter
    def allow(self, networks: Sequence[Network]) -> None:
        self._allow = tuple(networks)
        with self._changed:
            for connection in self._open:
                if not self._allowed(connection.peer):
                    _cut(connection)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """Stop within a second. Answers under way get half of it."""
        self._closing = True
        if self._thread.is_alive():
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)  # wakes the accept loop at once
            self.shutdown()
            self._thread.join()
        self.server_close()
        with self._changed:
            connections = list(self._open)
            for connection in connections:
                if not connection.busy:
                    _cut(connection)
            self._changed.wait_for(lambda: not any(connection.busy for connection in self._open), _GRACE)
            for connection in self._open:
                _cut(connection)
        deadline = time.monotonic() + _GRACE / 2
        for connection in connections:
            if connection.thread is not None:
                connection.thread.join(max(0.0, deadline - time.monotonic()))

    # --- the accept loop ---------------------------------------------------------------------------------------------

    def _listen(self, host: str, port: int) -> None:
        if host:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            choices: list[tuple[socket.AddressFamily, Any]] = [(family, address)]
        else:
            choices = [(socket.AF_INET6, ("::", port)), (socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104 - asked for
        for self.address_family, address in choices:
            self._both_families = not host and self.address_family == socket.AF_INET6
            try:
                super().__init__(address, _Handler)
            except OSError as error:
                # What a kernel answers that was started or configured without IPv6.
                if not self._both_families or error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                    raise
            else:
                return

    def server_bind(self) -> None:
        """Bind; not the parent's, which asks the DNS for our name."""
        if self._both_families:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        # A client that left between select and accept must not make the loop wait for the next one.
        self.socket.setblocking(False)

    def service_actions(self) -> None:
        """Note that the loop turns."""
        self.heartbeat = time.monotonic()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; where descriptors have run out, give up the oldest connection rather than spin."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                with self._changed:
                    self._evict(room=0)
                    self._changed.wait(0.05)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Turn away who is not allowed, before anything is read."""
        if self._allowed(client_address[0]):
            return True
        if self._wrap is None:
            with suppress(OSError):
                request.send(_FORBIDDEN, socket.MSG_DONTWAIT)
        log.debug("refused", extra={"peer": client_address[0]})
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread of its own, at the cost of the oldest unfinished one where the house is full."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        now = time.monotonic()
        connection = _Connection(request, client_address[0], accepted=now, since=now)
        connection.thread = threading.Thread(target=self._work, args=(connection,), name="http-worker", daemon=True)
        with self._changed:
            self._evict(room=1)
            if not self._changed.wait_for(lambda: len(self._open) < self._limit + _LEAVING, 0.2):
                raise ConnectionAbortedError
            self._open[connection] = None
        try:
            connection.thread.start()
        except RuntimeError:  # no more threads
            with self._changed:
                del self._open[connection]
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection could not be accepted for; the parent prints."""
        log.debug("connection refused", extra={"peer": client_address[0]})

    def _allowed(self, peer: str) -> bool:
        if not self._allow:
            return True
        address = ipaddress.ip_address(peer.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._allow)

    def _evict(self, *, room: int) -> None:
        """Cut connections until ``room`` more fit: first who has no whole request in, then the slowest readers."""
        living = [connection for connection in self._open if not connection.cut]
        living.sort(key=lambda connection: (connection.busy, connection.since))
        surplus = len(living) + room - self._limit if room else 1
        for connection in living[: max(0, surplus)]:
            log.debug("evicted", extra={"peer": connection.peer})
            _cut(connection)

    # --- a connection's own thread -----------------------------------------------------------------------------------

    def _work(self, connection: _Connection) -> None:
        try:
            self._secure(connection)
            _Handler(connection, connection.peer, self)  # type: ignore[arg-type] # the base class only stores it
        except OSError as error:  # resets, deadlines, evictions
            log.debug("connection ended", extra={"peer": connection.peer, "why": str(error) or type(error).__name__})
        except Exception:  # a thread that dies otherwise prints to standard error
            log.exception("a connection failed: this is a bug in gpu-exporter")
        finally:
            with self._changed:
                # Under the lock, so that nobody cuts a descriptor that already belongs to the next connection.
                connection.sock.close()
                del self._open[connection]
                self._changed.notify_all()

    def _secure(self, connection: _Connection) -> None:
        if self._wrap is None:
            return
        connection.sock = self._wrap(connection.sock)
        if connection.cut:  # while the old socket object was no longer the one to cut
            raise ConnectionAbortedError
        connection.sock.settimeout(max(0.001, connection.accepted + self.header_deadline - time.monotonic()))
        if handshake := getattr(connection.sock, "do_handshake", None):
            handshake()

    def begin(self, connection: _Connection) -> None:
        """A whole request is in."""
        with self._changed:
            if connection.cut:
                raise ConnectionAbortedError
            connection.busy = True
            connection.since = time.monotonic()

    def end(self, connection: _Connection) -> bool:
        """The answer is out. Tells whether the connection may go on."""
        with self._changed:
            connection.busy = False
            connection.since = time.monotonic()
            self._changed.notify_all()
            return not self._closing

    def call(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        """Status, headers and body from the application; 500 without details where it fails."""
        status = ""
        headers: list[tuple[str, str]] = []
        chunks: list[bytes] = []

        def start_response(line: str, fields: list[tuple[str, str]], _exc_info: Any = None) -> Callable[[bytes], None]:
            nonlocal status, headers
            status, headers = line, fields
            return chunks.append

        try:
            result = self.application(environ, start_response)
            try:
                chunks.extend(result)
            finally:
                if close := getattr(result, "close", None):
                    close()
            body = b"".join(chunks)
            if not status or any("\r" in part or "\n" in part for field in (("", status), *headers) for part in field):
                raise ValueError(f"unusable status or headers: {status!r} {headers!r}")  # noqa: TRY301 - one way out
        except Exception as error:  # whatever the application does, the client gets an answer and the thread lives
            key = f"{type(error).__name__} at {extract_tb(error.__traceback__)[-1].lineno}"
            log.log(
                logging.DEBUG if key in self._told else logging.ERROR,
                "the answer failed: this is a bug in gpu-exporter",
                extra={"path": environ["PATH_INFO"]},
                exc_info=True,
            )
            self._told.add(key)  # a scraper would otherwise fill the log with the same traceback
            return "500 Internal Server Error", [_PLAIN], b"500 Internal Server Error\n"
        return status, headers, body


_PLAIN: Final = ("Content-Type", "text/plain; charset=utf-8")


def _cut(connection: _Connection) -> None:
    """Wake the connection's thread with the end of its stream. The caller holds the server's lock."""
    connection.cut = True
    with suppress(OSError):
        # Not the method of a TLS socket, which would pull its state away from under the thread that uses it.
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads with its own deadlines, parses with the parent's parser, answers in one write."""

    protocol_version = "HTTP/1.1"
    request: _Connection
    server: Server

    def setup(self) -> None:
        self._buffer = bytearray()
        self._first = True

    def finish(self) -> None:
        pass

    def handle_one_request(self) -> None:
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
        self._send(status, [_PLAIN], f"{status}\n".encode(), deadline=self.server.write_deadline)
        self._linger()

    def _answer(self) -> None:
        if self.request_version == "HTTP/0.9" or not (environ := self._environ()):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self.server.begin(self.request)
        try:
            status, headers, body = self.server.call(environ)
            self._send(status, headers, body, deadline=self._write_deadline())
        finally:
            if not self.server.end(self.request):
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
        self.request.sock.settimeout(deadline)
        self.request.sock.sendall(data)

    def _linger(self) -> None:
        """Read on for a moment: closing on unread bytes resets the connection, and the client may lose the answer."""
        deadline = time.monotonic() + _LINGER
        with suppress(OSError):
            socket.socket.shutdown(self.request.sock, socket.SHUT_WR)
            for _ in range(64):
                if not self._receive(deadline):
                    return
