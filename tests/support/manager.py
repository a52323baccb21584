"""A service manager, as its services see it."""

from __future__ import annotations

import socket

from tools.lab.wait import wait_for


class Manager:
    """What systemd is to a service: a datagram socket that keeps what it is told."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)
        self._told: list[str] = []

    def __enter__(self) -> Manager:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def told(self) -> list[str]:
        try:
            while True:
                self._told.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return self._told

    def count(self, message: str) -> int:
        return sum(message in told.splitlines() for told in self.told())

    def wait(self, message: str, times: int = 1) -> None:
        wait_for(lambda: self.count(message) >= times, lambda: (message, self.told()))
