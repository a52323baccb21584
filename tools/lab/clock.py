"""A clock that a test moves by hand."""

from __future__ import annotations


class Clock:
    """Stands still unless it is moved, so that nothing is late by accident. ``clock.now += 5`` lets time pass.

    Called, it tells what time.monotonic would, ``time`` what time.time would; ``ahead`` is by how much the latter is
    ahead, and what somebody changes who sets the machine's clock.
    """

    def __init__(self, now: float = 0.0, *, ahead: float = 0.0) -> None:
        self.now = now
        self.ahead = ahead

    def __call__(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + self.ahead
