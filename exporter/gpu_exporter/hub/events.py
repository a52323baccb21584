"""Server-sent events: one connection a viewer, and never more waiting for it than the newest event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final

import msgspec

_MOST: Final = 600  # viewers


class FullError(Exception):
    """There are as many viewers as there may be."""


class Events:
    """Tells every viewer the same at every beat. ``told`` makes what is told."""

    def __init__(self, told: Callable[[], dict[str, Any]]) -> None:
        self._told = told
        self._changed = asyncio.Condition()
        self._number = 0
        self._text = b""
        self._closed = False
        self.viewers = 0

    async def beat(self) -> None:
        """Tell what is now. A viewer that has not read the one before will never see it."""
        async with self._changed:
            self._number += 1
            self._text = self._event()
            self._changed.notify_all()

    async def close(self) -> None:
        """Send every viewer home."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def join(self) -> AsyncIterator[bytes]:
        """What one viewer is sent, from now on. Raises FullError."""
        if self.viewers >= _MOST:
            raise FullError
        stream = self._stream()
        # Begun here, so that whoever comes at the same moment is counted already.
        return _with_first(await stream.__anext__(), stream)

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        self.viewers += 1
        try:
            # A browser that lost us comes back after a while, not all of them at once.
            yield b"retry: 5000\n\n" + self._event()
            seen = self._number
            while not self._closed:
                async with self._changed:
                    while seen == self._number and not self._closed:
                        await self._changed.wait()
                    seen, text = self._number, self._text
                if not self._closed:
                    yield text
        finally:
            self.viewers -= 1

    def _event(self) -> bytes:
        data = msgspec.json.encode(self._told())
        return b"event: state\nid: %d\ndata: %b\n\n" % (self._number, data)


async def _with_first(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for text in rest:
            yield text
    finally:
        await rest.aclose()
