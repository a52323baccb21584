"""Messages to the service manager: sd_notify(3), the protocol of systemd's ``Type=notify``, without a library.

One datagram a message to the unix socket that NOTIFY_SOCKET names. Without that variable everything here does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

log = logging.getLogger(__name__)

# systemd recommends a sign of life every half of WatchdogSec; a third forgives one that came late.
_SHARE: Final = 3
_MICRO: Final = 1e-6  # WATCHDOG_USEC is in microseconds


class Notifier:
    """Keeps the service manager informed. Never raises and never waits; any thread may call it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._every = _watchdog(environment) / _SHARE
        self._next = 0.0
        self._failed = False

    @classmethod
    def of_this_process(cls) -> Notifier:
        """As this process's environment asks; programs started later do not inherit the variables."""
        notifier = cls(os.environ)
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            os.environ.pop(name, None)
        return notifier

    def ready(self, status: str) -> None:
        """The exporter listens, or has finished reloading."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is about to be read again; ``ready`` ends it."""
        # The time is what Type=notify-reload wants to see; Type=notify ignores it.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The exporter is stopping."""
        self._send("STOPPING=1")

    def beat(self) -> None:
        """A sign of life; call it often, most calls send nothing."""
        if not self._every or (now := time.monotonic()) < self._next:
            return
        self._next = now + self._every
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)
        except OSError as error:
            log.log(
                logging.DEBUG if self._failed else logging.WARNING,
                "the service manager cannot be told",
                extra={"what": lines[0], "why": error.strerror or str(error)},
            )
            self._failed = True


def _address(socket_name: str) -> str:
    """The socket's address; @ stands for Linux' abstract namespace. Others (vsock) are not for local services."""
    if socket_name.startswith("@"):
        return f"\0{socket_name[1:]}"
    return socket_name if socket_name.startswith("/") else ""


def _watchdog(environment: Mapping[str, str]) -> float:
    """Within how many seconds this process has to show life; 0 where nobody waits for it."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    with suppress(ValueError, OverflowError):
        return max(0.0, int(environment.get("WATCHDOG_USEC", "0")) * _MICRO)
    return 0.0
