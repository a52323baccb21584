"""How much a counter grew, from few numbers: exact for counters that are born, reset, or gone within the window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Raw = frozenset[tuple[str, str]]  # one series as the server keeps it: all of its labels


@dataclass(frozen=True, slots=True)
class Point:
    """What one series did within one chunk of time.

    ``last`` is its last value. ``high`` is the highest, where that is not the last: the counter fell within the chunk.
    ``low`` is the lowest, where it is not known to be at least the value before: the counter may have fallen, or begun.
    """

    last: float
    high: float | None = None
    low: float | None = None


@dataclass(slots=True)
class Meter:
    """Growth of one counter, chunk by chunk, through however many series it comes in.

    Two replicas of a Prometheus keep the same counter twice; a changed label, or a restarted pod, goes on in a new
    series. So one series is followed for as long as it lives, then the next.
    """

    value: float | None = None
    chunk: int = -1
    _carrier: Raw | None = None
    _began: int = -1  # the chunk in which the carrier did
    # Of series beside the one that is followed: the chunk and the point in which they began, and their last value.
    _beside: dict[Raw, tuple[int, Point, float]] = field(default_factory=dict)

    def advance(self, chunk: int, found: Mapping[Raw, Point], *, counts: bool) -> float:
        """The growth since the chunk before. ``counts`` tells whether what the first value holds grew in the window."""
        growth, carrier = 0.0, self._carrier
        if carrier is None or carrier not in found:
            carrier = self._carrier = max(found, key=lambda raw: (raw in self._beside, found[raw].last))
            heir = self._beside.pop(carrier, None)
            began, self._began = self._began, chunk
            if heir is not None:
                self._began, first, latest = heir
                # It began in the very chunk in which the other ended, and not beside it from the start.
                if self._began == self.chunk != began:
                    growth += self._fold(first, counts=counts)
                self.value = latest
        growth += self._fold(found[carrier], counts=counts)
        self.chunk = chunk
        if len(found) > 1:
            for raw, point in found.items():
                if raw != carrier:
                    born, first, _ = self._beside.get(raw, (chunk, point, 0.0))
                    self._beside[raw] = (born, first, point.last)
        return growth

    def _fold(self, point: Point, *, counts: bool) -> float:
        before, self.value = self.value, point.last
        peak = point.high or 0.0
        if before is None:
            if counts or point.high is not None:
                return point.last + (peak if counts else 0.0)
            return point.last - (point.last if point.low is None else point.low)
        # Servers round: a fall of less than this is none.
        floor = before - max(1e-6, abs(before) * 1e-9)
        if point.last < floor or (point.low is not None and point.low < floor):
            return point.last + max(peak - before, 0.0)
        if point.high is not None:
            return point.last + (peak - before)
        return max(point.last - before, 0.0)
