"""One request by HTTP to a program on this machine."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import NamedTuple

from tools.lab import LOOPBACK

_TIMEOUT = 60.0  # seconds; only a program that hangs needs them


class Answer(NamedTuple):
    """What a program answered."""

    status: int
    headers: dict[str, str]
    text: str


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    body: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """The answer on a connection of its own. Raises OSError or HTTPException where there is none."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_TIMEOUT)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read().decode())
    finally:
        connection.close()


def answers(port: int, path: str) -> bool:
    """Whether the page is there."""
    try:
        return ask(port, path).status == 200
    except (OSError, http.client.HTTPException):
        return False
