"""When the GPUs are read."""

from __future__ import annotations


class Schedule:
    """A fixed grid of moments, ``interval`` seconds apart. Belongs to one thread; all times are monotonic seconds.

    ``overruns`` counts the moments that were skipped because the reading before took longer than the interval.
    """

    def __init__(self, *, interval: float, now: float) -> None:
        self.interval = interval
        self.overruns = 0
        self._latest = now

    def remaining(self, now: float) -> float:
        """Seconds until the next reading is due; 0 where it is, which moves the grid on."""
        passed = int((now - self._latest) // self.interval)
        if passed > 1:
            self.overruns += passed - 1
            self._latest += (passed - 1) * self.interval
        due = self._latest + self.interval
        if now < due:
            return due - now
        self._latest = due
        return 0.0
