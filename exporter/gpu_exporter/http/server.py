"""The HTTP server: one accept loop over all its addresses, and a thread a connection, under a WSGI application.

What the standard servers lack: deadlines that trickled bytes cannot stretch, a bound on connections and threads, a TLS
handshake away from the accept loop, and one write a response. How clients misbehave is never logged above debug.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from gpu_exporter.config import Address
from gpu_exporter.http import listening
from gpu_exporter.http.connections import Connection, Connections
from gpu_exporter.http.handler import LINGER, Handler
from gpu_exporter.http.wsgi import Answer, App, Environ, Guarded

log = logging.getLogger(__name__)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_TURN: Final = 2.0  # seconds between looks at whether to stop; closing does not wait for them
_FORBIDDEN: Final = (
    "HTTP/1.1 403 Forbidden\r\nServer: gpu-exporter\r\nContent-Type: text/plain; charset=utf-8\r\n"
    "Content-Length: {}\r\nConnection: close\r\n\r\n{}"
)
_NOT_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"400 Bad Request: this port speaks HTTPS\n"
)
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Server:
    """Listens from the moment it is made, serves from ``start`` to ``close``. Raises ListenError where it cannot.

    The limits are of the server, not of each address. ``allow`` may be replaced at any time; empty admits everyone.
    ``wrap`` is called with each accepted socket in that connection's own thread and gives the socket to use; it must
    not talk to the client: a ``do_handshake`` of the result is called within the header deadline.
    Deadlines are seconds: ``header_deadline`` for a whole request header, counted from accepting or from the first byte
    of a following request; ``idle_deadline`` between requests; ``write_deadline`` for an answer to be taken.
    ``heartbeat`` is called with every turn of the accept loop, at least every two seconds; it must not wait.
    """

    def __init__(
        self,
        application: App,
        *,
        addresses: Sequence[Address],
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
        self._listeners = listening.listen(addresses)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    # --- for any thread ----------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every IP address and port at which it listens, in the order of what it was given."""
        return tuple(listener.address for listener in self._listeners)

    @property
    def port(self) -> int:
        """The port of the first of them."""
        return self._listeners[0].address.port

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
                self._listeners[0].sock.shutdown(socket.SHUT_RDWR)  # wakes the accept loop at once
            self._thread.join()
        listening.close(self._listeners)
        self.connections.close()

    # --- the accept loop ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listener in self._listeners:
                selector.register(listener.sock, selectors.EVENT_READ, listener)
            while True:
                ready = selector.select(_TURN)
                if self.connections.closing:
                    return
                for key, _ in ready:
                    self._accept(key.data)
                if self._heartbeat is not None:
                    self._heartbeat()

    def _accept(self, listener: listening.Listener) -> None:
        """Take one connection in; when descriptors have run out, give up the oldest one rather than spin."""
        try:
            sock, (peer, *_) = listener.sock.accept()
        except OSError as error:  # often a client that has left already
            if error.errno in _EXHAUSTED:
                self.connections.give_up_one()
            return
        if not self._allowed(peer):
            self._turn_away(sock, peer)
            return
        try:
            self._admit(Connection(sock, peer, local=listener.address, accepted=self.monotonic()))
        except (
            OSError,
            RuntimeError,
            MemoryError,
        ) as error:  # the client has left, there is no room, or there are no more threads
            log.debug("connection refused", extra={"peer": peer, "why": str(error) or type(error).__name__})
            sock.close()

    def _turn_away(self, sock: socket.socket, peer: str) -> None:
        """Answer a client that is not allowed, before anything is read."""
        with sock, suppress(OSError):
            if self._wrap is None:
                # Whoever set it up asks from there as well, and would look for the mistake elsewhere.
                text = f"403 Forbidden: {peer} is not in web.allow\n"
                sock.send(_FORBIDDEN.format(len(text), text).encode(), socket.MSG_DONTWAIT)
            sock.shutdown(socket.SHUT_WR)
        log.debug("refused", extra={"peer": peer})

    def _admit(self, connection: Connection) -> None:
        """Give the connection a thread of its own; when there is no room, the oldest unfinished one makes way."""
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections.admit(connection)
        for last in (False, False, True):
            connection.thread = threading.Thread(target=self._work, args=(connection,), name="http-worker", daemon=True)
            try:
                connection.thread.start()
            except (RuntimeError, MemoryError):  # no more threads, or no room for their stacks
                connection.thread = None
                if last:
                    self.connections.leave(connection)
                    raise
                self.connections.give_up_some()
            else:
                return

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
