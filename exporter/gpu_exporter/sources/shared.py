"""One answer for all devices of a round, where a source asks for all of them by one call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_KEPT: Final = 1.0  # seconds


class Shared(Generic[T]):
    """What ``ask`` answers, asked anew once a device comes back for more.

    What one device has taken it is not given again, and an answer that came more than a second ago is given to nobody:
    so one call serves a whole round, and none serves two. An error is shared like an answer. ``take`` may be called by
    several threads; those that come while it is being asked wait for the answer.
    """

    def __init__(self, ask: Callable[[], T], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._answer: T | Exception | None = None
        self._came = 0.0  # monotonic seconds
        self._taken: set[int] = set()

    def take(self, device: int) -> T:
        """The answer of this round, for the device of that index. Raises what ``ask`` raises."""
        with self._lock:
            if self._answer is None or device in self._taken or self._monotonic() - self._came > _KEPT:
                self._taken.clear()
                try:
                    self._answer = self._ask()
                except Exception as error:  # noqa: BLE001 - raised for each device of the round
                    self._answer = error
                self._came = self._monotonic()
            self._taken.add(device)
            answer = self._answer
        if isinstance(answer, Exception):
            raise answer
        return answer
