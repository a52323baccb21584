"""Accepts connections and hands them to uvicorn's protocol: networks, TLS, deadlines and a bound come first."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final, TypeAlias

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from gpu_exporter.config import Address
from gpu_exporter.http import listening
from gpu_exporter.http.access import Gate, tls
from gpu_exporter.http.listening import listen

log = logging.getLogger(__name__)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_CONNECTIONS: Final = 1024
_HEADER: Final = 5.0  # seconds for a handshake, and for a request's header
_IDLE: Final = 30  # seconds between requests
_WRITE: Final = 10.0  # seconds for a client to take what waits for it
_GRACE: Final = 0.5  # seconds for answers under way when we close
_HEAD_LIMIT: Final = 32 * 1024
_FORBIDDEN: Final = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 14\r\nConnection: close\r\n\r\n403 Forbidden\n"
)
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class _Connection(H11Protocol):
    """uvicorn's, with the deadlines that it lacks."""

    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    busy_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.busy_since = self.loop.time()
        session = transport.get_extra_info("ssl_object")
        if session is not None and not tls.admits(session.context, session.getpeercert()):
            log.debug("the client's certificate has none of client_allowed_sans", extra={"peer": str(self.client)})
            transport.abort()
            return
        self._await_header()

    def data_received(self, data: bytes) -> None:
        self._await_header()
        super().data_received(data)
        if self.answering:
            self._stop_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header()
        self._stop_write()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self._write_timer or self.loop.call_later(_WRITE, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write()

    @property
    def answering(self) -> bool:
        """Whether a whole request has come and its answer is not out."""
        return self.cycle is not None and not self.cycle.response_complete

    def _await_header(self) -> None:
        if self._header_timer is None and not self.answering:
            self._header_timer = self.loop.call_later(_HEADER, self.transport.abort)

    def _stop_header(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class Server:
    """Listens from the moment it is made, serves from ``start`` to ``close``. Raises ListenError where it cannot."""

    def __init__(
        self,
        application: Any,
        addresses: Sequence[Address],
        *,
        allow: Sequence[Network] = (),
        gate: Gate | None = None,
        connections: int = _CONNECTIONS,
    ) -> None:
        self._allow = tuple(allow)
        self._gate = gate if gate is not None and gate.secure else None
        self._limit = connections
        self._state = ServerState()
        self._config = Config(
            application,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_IDLE,
            h11_max_incomplete_event_size=_HEAD_LIMIT,
        )
        self._config.load()
        quiet = logging.getLogger("uvicorn")  # how clients misbehave; what fails here is logged by the application
        quiet.handlers[:] = [logging.NullHandler()]
        quiet.propagate = False
        self._listeners = listen(addresses)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def scheme(self) -> str:
        """What its URLs begin with."""
        return "http" if self._gate is None else "https"

    @property
    def addresses(self) -> list[str]:
        """Where it listens."""
        return [str(listener.address) for listener in self._listeners]

    def start(self) -> None:
        """Begin to serve, on the running loop."""
        self._tasks = [asyncio.create_task(self._accept(listener.sock)) for listener in self._listeners]
        self._tasks.append(asyncio.create_task(self._tell_date()))

    async def close(self) -> None:
        """Stop within a second; answers under way get half of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        listening.close(self._listeners)
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=_GRACE)
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)

    async def _tell_date(self) -> None:
        while True:
            self._state.default_headers = [
                (b"date", formatdate(time.time(), usegmt=True).encode()),
                (b"server", b"gpu-exporter"),
            ]
            await asyncio.sleep(1)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        waiting: set[asyncio.Task[None]] = set()
        while True:
            try:
                client, peer = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._give_up_one()
                    await asyncio.sleep(0.05)
                continue
            if not self._allowed(peer[0]):
                if self._gate is None:
                    with suppress(OSError):
                        client.send(_FORBIDDEN)
                client.close()
                continue
            if len(self._state.connections) + len(waiting) >= self._limit and not self._give_up_one():
                client.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(self._serve(client))
            waiting.add(task)
            task.add_done_callback(waiting.discard)

    async def _serve(self, client: socket.socket) -> None:
        """Let the protocol have the connection, after the handshake where there is one."""
        context = None if self._gate is None else self._gate.context()
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Connection(self._config, self._state, {}),
                client,
                ssl=context,
                ssl_handshake_timeout=None if context is None else _HEADER,
            )
        except (OSError, asyncio.TimeoutError) as error:
            log.debug("connection ended", extra={"why": str(error)})
            client.close()

    def _give_up_one(self) -> bool:
        """Cut the connection that has waited longest without a whole request; whether there was one."""
        idle = [one for one in self._state.connections if isinstance(one, _Connection) and not one.answering]
        if not idle:
            return False
        min(idle, key=lambda one: one.busy_since).transport.abort()
        return True

    def _allowed(self, peer: str) -> bool:
        if not self._allow:
            return True
        address = ipaddress.ip_address(peer.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._allow)
