"""When the GPUs are read, and when the driver's buffers are between two readings."""

from __future__ import annotations

import math
from typing import Final

# The shortest of the driver's utilization buffers holds 14 s (71 samples of 200 ms; H200, driver 580).
BUFFERS_EVERY: Final = 10.0  # seconds


class Schedule:
    """A fixed grid of moments, ``interval`` seconds apart. Belongs to one thread; all times are monotonic seconds.

    ``overruns`` counts the moments that were skipped because the reading before took longer than the interval.
    Between two moments the driver's buffers are due so often that none of them runs over.
    """

    def __init__(self, *, interval: float, now: float) -> None:
        self.interval = interval
        self.overruns = 0
        self._latest = now
        self._looked = now

    def remaining(self, now: float) -> float:
        """Seconds until the next reading is due; 0 where it is, which moves the grid on."""
        passed = int((now - self._latest) // self.interval)
        if passed > 1:
            self.overruns += passed - 1
            self._latest += (passed - 1) * self.interval
        due = self._latest + self.interval
        if now < due:
            return due - now
        self._latest = self._looked = due
        return 0.0

    def until_buffers(self, now: float) -> float:
        """Seconds until the buffers are due, evenly between two readings; 0 where they are, which counts as a look.

        Infinite where the next reading comes soon enough: it looks at the buffers as well.
        """
        beat = self.interval / math.ceil(self.interval / BUFFERS_EVERY)
        due = self._looked + beat
        # A hundredth of a beat, because sums of floats do not meet the grid.
        if self._latest + self.interval <= due + beat / 100:
            return math.inf
        if now < due:
            return due - now
        self._looked = due if now < due + beat else now
        return 0.0
