"""Ports that nobody listens on."""

from __future__ import annotations

import secrets
import socket

from tools.lab import LOOPBACK

# Below those that Linux gives to outgoing connections, which could take a port between here and its use.
_FIRST, _LAST = 10_000, 32_000
_TRIES = 1000


def free_port(wanted: int = 0) -> int:
    """A port of 127.0.0.1 that nobody listens on: the wanted one if it is free, else any. Raises OSError: none."""
    for _ in range(_TRIES):
        number = wanted or _FIRST + secrets.randbelow(_LAST - _FIRST)
        wanted = 0
        with socket.socket() as probe:
            # As programs do: a connection of the last run that is still being closed does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, number))
            except OSError:
                continue
            return number
    raise OSError(f"there is no free port on {LOOPBACK}")
