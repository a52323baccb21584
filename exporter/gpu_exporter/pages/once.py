"""Pages that are rendered once and shared by all who ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

_MOST: Final = 64  # pages of one state


class Once:
    """Keeps the pages of the newest state that was asked for. Any thread may call.

    A state is a tuple of objects: it is the same where each of them is the same object, or equal text or number.
    However many ask, one of them renders at a time, and the others wait for what that gives.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[tuple[object, ...], dict[str, bytes]] = ((), {})

    def page(self, name: str, state: tuple[object, ...], render: Callable[[], bytes]) -> bytes:
        """The page of that name in that state."""
        kept, pages = self._kept
        body = pages.get(name) if _same(kept, state) else None
        if body is not None:
            return body
        with self._lock:
            kept, pages = self._kept
            if not _same(kept, state):
                pages = {}
                self._kept = (state, pages)
            body = pages.get(name)
            if body is None:
                body = render()
                if len(pages) < _MOST:
                    pages[name] = body
        return body


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(one) == len(other) and all(
        mine is theirs or (isinstance(mine, (str, int)) and mine == theirs)
        for mine, theirs in zip(one, other, strict=True)
    )
