"""The open connections of a server: how many there may be, and which one makes room for the next."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gpu_exporter.config import Address

log = logging.getLogger(__name__)

_LEAVING: Final = 16  # workers of evicted connections that may still be on their way out
_READS_WITHIN: Final = 5.0  # seconds in which an answer is taken by whoever is not slow
_THREADS_WITHIN: Final = 0.2  # seconds in which threads of evicted connections end
GRACE: Final = 0.5  # seconds for answers under way when the server closes


@dataclass(slots=True, eq=False)
class Connection:
    """One client. ``accepted`` is when it came, ``since`` when it began what it does now.

    Both are monotonic times, ``accepted`` of the server's clock. ``local`` is the address that it came to.
    """

    sock: socket.socket
    peer: str
    local: Address
    accepted: float
    since: float = 0.0
    thread: threading.Thread | None = None
    busy: bool = False  # a whole request is being answered
    cut: bool = False


class Connections:
    """At most ``limit`` connections; where there are more, the address that has the most of them makes room.

    Of its own the one goes that has been unfinished for longest: it has sent no whole request, or has not taken its
    answer for seconds. So a flood from one address evicts itself, and nobody who comes with a few.
    """

    def __init__(self, limit: int) -> None:
        self.open: dict[Connection, None] = {}
        self.closing = False
        self._limit = limit
        self._changed = threading.Condition()

    def admit(self, connection: Connection) -> None:
        """Add a connection. Raises ConnectionAbortedError while too many evicted ones are still on their way out."""
        with self._changed:
            self._evict(room=1)
            if not self._changed.wait_for(lambda: len(self.open) < self._limit + _LEAVING, 0.2):
                raise ConnectionAbortedError
            connection.since = time.monotonic()
            self.open[connection] = None

    def leave(self, connection: Connection) -> None:
        """Close and forget it."""
        with self._changed:
            # Under the lock, so that nobody cuts a descriptor that already belongs to the next connection.
            connection.sock.close()
            self.open.pop(connection, None)
            self._changed.notify_all()

    def give_up_one(self) -> None:
        """Cut the oldest and wait a moment for its descriptor."""
        with self._changed:
            self._evict(room=0)
            self._changed.wait(0.05)

    def make_room(self) -> None:
        """Cut a quarter of the connections, for others who need their threads. Never waits."""
        with self._changed:
            for _ in range(max(1, len(self.open) // 4)):
                self._evict(room=0)

    def give_up_some(self) -> None:
        """Cut a quarter of the connections, and wait a moment for their threads."""
        self.make_room()
        with self._changed:
            threads = len(self.open)
            self._changed.wait_for(lambda: len(self.open) < threads, _THREADS_WITHIN)

    def begin(self, connection: Connection) -> None:
        """Mark that a whole request has arrived. Raises ConnectionAbortedError if the connection was cut meanwhile."""
        with self._changed:
            if connection.cut:
                raise ConnectionAbortedError
            connection.busy = True
            connection.since = time.monotonic()

    def end(self, connection: Connection) -> bool:
        """Mark that the answer is out; return whether the connection may stay open."""
        with self._changed:
            connection.busy = False
            connection.since = time.monotonic()
            self._changed.notify_all()
            return not self.closing

    def cut_unless(self, allowed: Callable[[str], bool]) -> None:
        """Cut the connections of peers that are not allowed."""
        with self._changed:
            for connection in self.open:
                if not allowed(connection.peer):
                    _cut(connection)

    def close(self) -> None:
        """Cut every connection, after half a second for answers under way; then give the threads a moment to end."""
        with self._changed:
            connections = list(self.open)
            for connection in connections:
                if not connection.busy:
                    _cut(connection)
            self._changed.wait_for(lambda: not any(connection.busy for connection in self.open), GRACE)
            for connection in self.open:
                _cut(connection)
        deadline = time.monotonic() + GRACE / 2
        for connection in connections:
            if connection.thread is not None:
                connection.thread.join(max(0.0, deadline - time.monotonic()))

    def _evict(self, *, room: int) -> None:
        """Cut connections until ``room`` more fit, those of the address with the most of them first.

        Of these, the ones without a whole request or that take their answers slowly, and the oldest of them; then those
        that are being answered.
        """
        living = [connection for connection in self.open if not connection.cut]
        surplus = len(living) + room - self._limit if room else 1
        if surplus <= 0:
            return
        now = time.monotonic()
        shares = Counter(map(_client, living))
        living.sort(key=lambda each: (each.busy and now - each.since < _READS_WITHIN, each.since))
        for _ in range(min(surplus, len(living))):
            most = max(shares.values())
            evicted = next(each for each in living if shares[_client(each)] == most)
            living.remove(evicted)
            shares[_client(evicted)] -= 1
            log.debug("evicted", extra={"peer": evicted.peer})
            _cut(evicted)


def _client(connection: Connection) -> str:
    """Whose share it counts into: an IPv4 address, or a network of 64 bits, of which a host has all IPv6 addresses."""
    peer = connection.peer
    if ":" not in peer:
        return peer
    try:
        address = ipaddress.IPv6Address(peer.partition("%")[0])
    except ValueError:
        return peer
    return str(address.ipv4_mapped or int(address) >> 64)


def _cut(connection: Connection) -> None:
    """Wake the connection's thread with the end of its stream. The caller holds the lock."""
    connection.cut = True
    with suppress(OSError):
        # Not the method of a TLS socket, which would pull its state away from under the thread that uses it.
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
