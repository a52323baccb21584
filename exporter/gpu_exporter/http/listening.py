"""Where a server listens: addresses as people write them, looked up and bound, all of them or none."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gpu_exporter.config import Address

log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
# What a kernel answers that was started or configured without IPv6, or to an address of another machine.
_UNAVAILABLE: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
_TRIES: Final = 16  # of finding one free port on all addresses of a name
_ADVICE: Final = {
    errno.EADDRINUSE: "write a free one",
    errno.EACCES: "write a port from 1024 on",
}


class ListenError(OSError):
    """An address cannot be listened on; the text is one line that names it."""


class _BindError(Exception):
    """One place of an address cannot be bound."""

    def __init__(self, place: Address, error: OSError) -> None:
        super().__init__(str(error))
        self.place, self.errno, self.why = place, error.errno, error.strerror or str(error)


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens, does not block, and ``address``, the IP address and port at which it does."""

    sock: socket.socket
    address: Address


@dataclass(frozen=True, slots=True)
class _Place:
    """One address of one family, as the kernel takes it."""

    family: int
    sockaddr: Any
    written: Address

    @property
    def address(self) -> Address:
        return Address(self.sockaddr[0], self.sockaddr[1])


def listen(addresses: Sequence[Address]) -> tuple[Listener, ...]:
    """Listen on every one of them, in that order. Raises ListenError where one cannot be had; then none is kept.

    A name is all of its addresses, of which those of a family that this machine lacks are passed over. Every address
    of the machine is one socket for both families where there is IPv6. Port 0 is a free one, the same for all
    addresses of a name.
    """
    looked_up = [_look_up(address) for address in addresses]
    _refuse_overlaps([place for places in looked_up for place in places])
    listeners: list[Listener] = []
    try:
        for address, places in zip(addresses, looked_up, strict=True):
            listeners += _listen_on(address, places)
    except OSError:
        close(listeners)
        raise
    return tuple(listeners)


def close(listeners: Sequence[Listener]) -> None:
    """Close the sockets."""
    for listener in listeners:
        listener.sock.close()


def _look_up(address: Address) -> tuple[_Place, ...]:
    """The places of an address. Raises ListenError where the name has none."""
    if address.everywhere:
        return (_Place(socket.AF_INET6, ("::", address.port), address),)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label of the name is empty or too long
        why = getattr(error, "strerror", None) or "is no host name"
        raise ListenError(f"'{address}': {why}; write a name or an address of this machine") from None
    # The same answer may come again and again, once from each line of /etc/hosts.
    return tuple(dict.fromkeys(_Place(family, sockaddr, address) for family, _, _, _, sockaddr in found))


def _refuse_overlaps(places: Sequence[_Place]) -> None:
    """Raise ListenError where two addresses mean one place: the second would be "in use" by ourselves."""
    for number, place in enumerate(places):
        for earlier in places[:number]:
            if earlier.written != place.written and (
                earlier.address.takes_in(place.address) or place.address.takes_in(earlier.address)
            ):
                both = f"'{place.written}' is taken in by '{earlier.written}'"
                raise ListenError(f"{both} ({place.address}); leave one of them out")


def _listen_on(address: Address, places: Sequence[_Place]) -> list[Listener]:
    tries = 1 if address.port else _TRIES
    while True:
        tries -= 1
        try:
            return _listen_at(places, address.port)
        except _BindError as error:
            if tries and error.errno == errno.EADDRINUSE:
                continue  # the port that was free at the name's first place was none at another
            advice = _ADVICE.get(error.errno or 0, "write an address of this machine")
            place = "" if error.place == address or address.everywhere else f" ({error.place})"
            raise ListenError(f"'{address}'{place}: {error.why}; {advice}") from None


def _listen_at(places: Sequence[_Place], port: int) -> list[Listener]:
    """Listen at those places that this machine has. Raises _BindError where it has none, or one is in use."""
    listeners: list[Listener] = []
    missing: list[_BindError] = []
    try:
        for place in places:
            try:
                listeners.append(_bind(place, port or (listeners[0].address.port if listeners else 0)))
            except _BindError as failed:
                if failed.errno not in _UNAVAILABLE:
                    raise
                missing.append(failed)
    except _BindError:
        close(listeners)
        raise
    if not listeners:
        raise missing[0]
    for error in missing:
        log.info("not listening", extra={"address": str(error.place), "why": error.why})
    return listeners


def _bind(place: _Place, port: int) -> Listener:
    """Listen at one place; every address without IPv6 is every IPv4 address. Raises _BindError."""
    choices = [(place.family, (place.sockaddr[0], port, *place.sockaddr[2:]))]
    if place.address.everywhere:
        choices.append((socket.AF_INET, ("0.0.0.0", port)))  # noqa: S104 - asked for
    for number, (family, sockaddr) in enumerate(choices, start=1):
        try:
            sock = _listening_socket(family, sockaddr, both=place.address.everywhere)
        except OSError as error:
            if error.errno not in _UNAVAILABLE or number == len(choices):
                raise _BindError(Address(place.sockaddr[0], port), error) from None
        else:
            return Listener(sock, Address(*sock.getsockname()[:2]))
    raise AssertionError("there is always a last choice")


def _listening_socket(family: int, sockaddr: Any, *, both: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Not SO_REUSEPORT: a second exporter would share the port instead of being told.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        sock.bind(sockaddr)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    # A client that left between select and accept must not make the accept loop wait for the next one.
    sock.setblocking(False)
    return sock
