"""Looks at files that may hang (a network file system, a mount of a container's), on a thread aside."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

_PATIENCE: Final = 0.5  # seconds that who asks waits for a look


class Aside(Generic[T]):
    """What a look finds. ``latest`` may be called from any thread and waits half a second at most.

    A look that has not ended by then goes on, none is begun beside it, and what the one before found stands, for
    ``keeps`` seconds; then ``nothing`` does. ``what`` names it in the log. ``look`` is called on threads that come and
    go, never on two at once, and must not raise.
    """

    def __init__(
        self,
        look: Callable[[], T],
        nothing: T,
        *,
        what: str,
        keeps: float = math.inf,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._look = look
        self._nothing = nothing
        self._what = what
        self._keeps = keeps
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._found = nothing
        self._found_at = -math.inf
        self._told = False

    def latest(self) -> T:
        """What a look finds now, or what the latest one did that ended."""
        with self._lock:
            begun = self._thread is None or not self._thread.is_alive()
            if begun:
                self._begin()
            thread = self._thread
        if begun and thread is not None:
            thread.join(_PATIENCE)
            self._tell(hangs=thread.is_alive())
        return self._found if self._monotonic() - self._found_at <= self._keeps else self._nothing

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name="looking", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads: the next one that asks tries again
            self._thread = None
        else:
            self._thread = thread

    def _run(self) -> None:
        try:
            self._found = self._look()
        except Exception:
            log.exception("a look failed: this is a bug in gpu-exporter", extra={"at": self._what})
        self._found_at = self._monotonic()

    def _tell(self, *, hangs: bool) -> None:
        """Log that it hangs, once until it answers again."""
        if hangs and not self._told:
            log.warning("a file system does not answer: what was found before stands", extra={"at": self._what})
        self._told = hangs
