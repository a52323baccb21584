"""The rate limit on requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Allowance:
    """A token bucket: ``burst`` requests at once, one more each ``interval`` seconds."""

    def __init__(self, interval: float, burst: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._burst = burst
        self._tokens = float(burst)
        self._monotonic = monotonic
        self._at = monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether one more request is within the rate."""
        with self._lock:
            now = self._monotonic()
            self._tokens = min(float(self._burst), self._tokens + (now - self._at) / self._interval)
            self._at = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True
