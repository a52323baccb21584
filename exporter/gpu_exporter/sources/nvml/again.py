"""When to ask again for what a device did not answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

SOON: Final = 60.0  # seconds; the longest wait for what has answered before, or must answer
SELDOM: Final = 300.0  # seconds; the longest wait for what this device has never had
_SHARE: Final = 60  # of the longest wait: the first one


@dataclass(slots=True)
class Again:
    """Soon at first, then ever more seldom, up to ``most`` seconds. Times are monotonic seconds."""

    most: float = SELDOM
    _wait: float = 0.0
    _at: float = -math.inf

    def due(self, now: float) -> bool:
        """Whether it is time to ask."""
        return now >= self._at

    def later(self, now: float) -> None:
        """It was asked, in vain."""
        self._wait = max(self._wait, self.most / _SHARE)
        self._at = now + self._wait
        self._wait = min(2 * self._wait, self.most)

    def at_once(self) -> None:
        """Something changed: whatever was answered before says nothing any more."""
        self._at, self._wait = -math.inf, 0.0
