"""The HTTP server: the standard library's accept loop, hardened, and a thread a connection, under a WSGI application.

What the standard servers lack: deadlines that trickled bytes cannot stretch, a bound on connections and threads, a TLS
handshake away from the accept loop, and one write a response. How clients misbehave is never logged above debug.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from socketserver import TCPServer
from typing import Any, Final, TypeAlias

from gpu_exporter.http.connections import Connection, Connections
from gpu_exporter.http.handler import LINGER, Handler
from gpu_exporter.http.wsgi import Answer, App, Environ, Guarded

log = logging.getLogger(__name__)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_TURN: Final = 2.0  # seconds between looks at whether to stop; closing does not wait for them
_FORBIDDEN: Final = (
    b"HTTP/1.1 403 Forbidden\r\nServer: gpu-exporter\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 14\r\nConnection: close\r\n\r\n403 Forbidden\n"
)
_NOT_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"400 Bad Request: this port speaks HTTPS\n"
)
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Server(TCPServer):
    """Listens from the moment it is made, serves from ``start`` to ``close``. Raises OSError where it cannot listen.

    An empty ``host`` is every address, IPv6 and IPv4. ``allow`` may be replaced at any time; empty admits everyone.
    ``wrap`` is called with each accepted socket in that connection's own thread and gives the socket to use; it must
    not talk to the client: a ``do_handshake`` of the result is called within the header deadline.
    Deadlines are seconds: ``header_deadline`` for a whole request header, counted from accepting or from the first byte
    of a following request; ``idle_deadline`` between requests; ``write_deadline`` for an answer to be taken.
    ``heartbeat`` is called with every turn of the accept loop, at least every two seconds; it must not wait.
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
        heartbeat: Callable[[], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._application = Guarded(application)
        self.monotonic = monotonic
        self.header_deadline = header_deadline
        self.idle_deadline = idle_deadline
        self.write_deadline = write_deadline
        self.connections = Connections(connections)
        self._allow = tuple(allow)
        self._wrap = wrap
        self._heartbeat = heartbeat
        self._listen(host, port)
        self._thread = threading.Thread(target=partial(self.serve_forever, _TURN), name="http", daemon=True)

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
        self.connections.cut_unless(self._allowed)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """Stop within a second. Answers under way get half of it."""
        self.connections.closing = True
        if self._thread.is_alive():
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)  # wakes the accept loop at once
            self.shutdown()
            self._thread.join()
        self.server_close()
        self.connections.close()

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
                super().__init__(address, Handler)  # type: ignore[arg-type] # it only stores it
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
        """Call the heartbeat; the parent's loop calls this."""
        if self._heartbeat is not None:
            self._heartbeat()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; when descriptors have run out, give up the oldest connection rather than spin."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self.connections.give_up_one()
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Turn away clients that are not allowed, before anything is read."""
        if self._allowed(client_address[0]):
            return True
        if self._wrap is None:
            with suppress(OSError):
                request.send(_FORBIDDEN, socket.MSG_DONTWAIT)
        log.debug("refused", extra={"peer": client_address[0]})
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread of its own; when there is no room, the oldest unfinished one makes way."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(request, client_address[0], accepted=self.monotonic())
        connection.thread = threading.Thread(target=self._work, args=(connection,), name="http-worker", daemon=True)
        self.connections.admit(connection)
        try:
            connection.thread.start()
        except RuntimeError:  # no more threads
            self.connections.leave(connection)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a connection that could not be accepted; the parent would print."""
        log.debug("connection refused", extra={"peer": client_address[0]})

    def _allowed(self, peer: str) -> bool:
        if not self._allow:
            return True
        address = ipaddress.ip_address(peer.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._allow)

    # --- a connection's own thread -----------------------------------------------------------------------------------

    def _work(self, connection: Connection) -> None:
        try:
            self._secure(connection)
            Handler(connection, self).run()
            _end_tls(connection.sock)
        except OSError as error:  # resets, deadlines, evictions
            log.debug("connection ended", extra={"peer": connection.peer, "why": str(error) or type(error).__name__})
        except Exception:  # a thread that dies otherwise prints to standard error
            log.exception("a connection failed: this is a bug in gpu-exporter")
        finally:
            self.connections.leave(connection)

    def _secure(self, connection: Connection) -> None:
        if self._wrap is None:
            return
        connection.sock = self._wrap(connection.sock)
        if connection.cut:  # while the old socket object was no longer the one to cut
            raise ConnectionAbortedError
        connection.sock.settimeout(max(0.001, connection.accepted + self.header_deadline - self.monotonic()))
        if handshake := getattr(connection.sock, "do_handshake", None):
            try:
                handshake()
            except OSError as error:
                if getattr(error, "reason", None) == "HTTP_REQUEST":
                    _answer_without_tls(connection.sock)
                raise

    def call(self, environ: Environ) -> Answer:
        """The application's answer; 500 without details where it fails."""
        return self._application.answer(environ)


def _answer_without_tls(sock: socket.socket) -> None:
    """Answer a client that spoke HTTP to a TLS port, on the socket beneath the TLS that never began."""
    deadline = time.monotonic() + LINGER
    with suppress(OSError):
        socket.socket.send(sock, _NOT_TLS, socket.MSG_DONTWAIT)
        socket.socket.shutdown(sock, socket.SHUT_WR)
        while (remaining := deadline - time.monotonic()) > 0:
            sock.settimeout(remaining)
            if not socket.socket.recv(sock, 65536):  # closing on unread bytes would take the answer back
                break


def _end_tls(sock: socket.socket) -> None:
    """Send TLS's end of the stream, without waiting for the client's."""
    if unwrap := getattr(sock, "unwrap", None):
        with suppress(OSError, ValueError):
            sock.settimeout(0)
            unwrap()
