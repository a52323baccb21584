"""One counter that the exporter keeps of a device: what the driver's buffer tells of the time, the gauge for the rest.

The time is our own monotonic one. What a buffer tells is never more than the time that passed, so that no clock of the
driver's, whatever it does, makes a second count twice.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

# nvml.h, nvmlDeviceGetSamples: the driver takes a sample each 1/6 to 1 s. For so long its buffer may be behind.
PATIENCE: Final = 2.0  # seconds


class Grown(NamedTuple):
    """What was added to a counter, and the seconds that it stands for."""

    amount: float
    seconds: float


NOTHING: Final = Grown(0.0, 0.0)


class Integral:
    """The sum of a gauge over time. ``ratio`` tells that the gauge is a share, which is never above 1."""

    __slots__ = ("_amount", "_area", "_behind", "_deferred", "_open", "_ratio", "_seconds", "_silent", "total")

    def __init__(self, *, ratio: bool) -> None:
        self.total = 0.0
        self._ratio = ratio
        # What a buffer told since the previous step.
        self._amount = self._seconds = 0.0
        # Observed seconds that nothing was added for yet, and those of them that a good reading ended.
        self._open = self._behind = 0.0
        self._silent = False
        # What the gauge came to in the seconds that were deferred to the next step.
        self._area = self._deferred = 0.0

    def tell(self, amount: float, seconds: float) -> None:
        """Note what a buffer told, and of how many seconds; infinity is all since the previous step."""
        if 0.0 <= amount < math.inf and seconds > 0.0:
            self._amount += amount
            self._seconds += seconds

    def step(
        self, elapsed: float, *, before: float | None, value: float | None, told: bool, unbroken: bool = True
    ) -> Grown:
        """Add the observed seconds that end with a good reading, and say what that came to.

        ``before`` and ``value`` are the gauge at their begin and end. ``told`` says that the buffer spoke in this very
        reading: then what it left open may still come, for ``PATIENCE``. The gauge never stands for time before a
        device failed: ``unbroken`` says that it did not.
        """
        self._open += elapsed
        self._behind = self._behind + elapsed if unbroken else 0.0
        buffered = self._take()
        self._behind = max(0.0, self._behind - buffered.seconds)
        filled = NOTHING
        if not told or self._behind > PATIENCE or (self._silent and not buffered.seconds):
            filled = self._fill(elapsed, before, value)
            self._behind = 0.0
        self._area = self._deferred = 0.0
        self._silent = not buffered.seconds and (self._silent or filled.seconds > 0.0)
        self._open = self._behind
        self.total += buffered.amount + filled.amount
        return Grown(buffered.amount + filled.amount, buffered.seconds + filled.seconds)

    def defer(self, elapsed: float, *, before: float | None, value: float | None) -> None:
        """Leave observed seconds to the next step: what ends them is a reading that asked for no counter.

        ``before`` and ``value`` are the gauge at their begin and end.
        """
        self._open += elapsed
        self._behind += elapsed
        mean = self._mean(before, value)
        if mean is not None:
            self._area += mean * elapsed
            self._deferred += elapsed

    def skip(self, elapsed: float) -> None:
        """The device failed: the gauge says nothing of these seconds, a buffer may still do so."""
        self._open += elapsed
        self._behind = self._area = self._deferred = 0.0

    def interrupt(self) -> None:
        """Nobody looked: what a buffer tells of the time until now was not observed."""
        self._amount = self._seconds = self._open = self._behind = 0.0
        self._area = self._deferred = 0.0
        self._silent = False

    def _take(self) -> Grown:
        """What the buffer told, within the time that passed."""
        amount, seconds = self._amount, self._seconds
        self._amount = self._seconds = 0.0
        if seconds > self._open:
            amount *= 1.0 if seconds == math.inf else self._open / seconds
            seconds = self._open
        return Grown(min(amount, seconds) if self._ratio else amount, seconds)

    def _fill(self, elapsed: float, before: float | None, value: float | None) -> Grown:
        """The mean of the gauge over the time that is open; nothing where it is not told, or impossible."""
        mean = self._mean(before, value)
        if mean is None:
            return NOTHING
        if self._deferred:
            mean = (self._area + mean * elapsed) / (self._deferred + elapsed)
        return Grown(mean * self._behind, self._behind)

    def _mean(self, before: float | None, value: float | None) -> float | None:
        if value is None or not self._possible(value):
            return None
        return value if before is None or not self._possible(before) else (before + value) / 2

    def _possible(self, value: float) -> bool:
        return 0.0 <= value <= (1.0 if self._ratio else math.inf) and value != math.inf
