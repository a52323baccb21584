"""What the server and its applications agree on (PEP 3333), and the answers that are a status and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

Environ: TypeAlias = dict[str, Any]
Headers: TypeAlias = list[tuple[str, str]]
StartResponse: TypeAlias = Callable[..., Any]
App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]
Answer: TypeAlias = tuple[str, Headers, bytes]  # status, headers, body

PLAIN: Final = ("Content-Type", "text/plain; charset=utf-8")


def status_answer(status: str, *headers: tuple[str, str]) -> Answer:
    """The status as a page: it echoes nothing of what the client sent."""
    return status, [PLAIN, *headers], f"{status}\n".encode()
