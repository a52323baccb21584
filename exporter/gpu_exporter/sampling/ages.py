"""How old the readings were that scrapers got."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import Final

from gpu_exporter.model import Histogram

# Seconds: half a second is what a scraper with a rhythm gets, 15 s what is served at most by default.
BOUNDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)


class Ages:
    """Counts ages as they are served. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def note(self, seconds: float) -> None:
        """Somebody got a reading of that age."""
        with self._lock:
            self._counts[bisect_left(BOUNDS, seconds)] += 1
            self._sum += seconds

    def told(self) -> Histogram:
        """What was served so far."""
        with self._lock:
            counts, total = tuple(self._counts), self._sum
        return Histogram(BOUNDS, counts, total)
