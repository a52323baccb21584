"""The score of one GPU over time: how much of it was put to use, as one number that adds up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.row import Metric
from gpu_exporter.catalog.score import weighted
from gpu_exporter.model import Reading
from gpu_exporter.sampling.activity import BUSY, is_partitioned, share_of

_UTILIZATION: Final = by_name("gpu_utilization_ratio")
_SM_ACTIVE: Final = by_name("gpu_sm_active_ratio")
_SM_SECONDS: Final = by_name("gpu_sm_active_seconds_total")
_MEMORY_IO: Final = by_name("gpu_memory_io_utilization_ratio")
_IO_BUSY: Final = by_name("gpu_memory_io_busy_seconds_total")
_MEMORY_USED: Final = by_name("gpu_memory_used_bytes")
_MEMORY_TOTAL: Final = by_name("gpu_memory_total_bytes")
_POWER_LIMIT: Final = by_name("gpu_power_limit_watts")


class Score:
    """Adds up what good readings tell. ``total`` is in seconds: a second of score 0.5 is half a second.

    A part that grows (work, memory I/O, energy) is the growth of its counter, so that nothing is lost that the
    driver's buffers tell late. A GPU that does not tell a part is scored by its activity alone for that time: no part
    vanishes into a low score. How much memory it has, and its power limit, stand until they are told anew.
    """

    __slots__ = ("_limit", "_memory", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self._memory: float | None = None
        self._limit: float | None = None

    def step(
        self,
        reading: Reading,
        *,
        before: Mapping[Metric, float] | None,
        now: Mapping[Metric, float],
        joules: float | None,
        elapsed: float,
    ) -> float | None:
        """Add the seconds that end with a good reading, and say what that came to; None where activity is not told.

        ``before`` and ``now`` have the counters at their begin and end; ``joules`` is what was drawn meanwhile.
        """
        self._memory = reading.values.get(_MEMORY_TOTAL, self._memory)
        self._limit = reading.values.get(_POWER_LIMIT, self._limit)
        if is_partitioned(reading) or not _tells_utilization(reading):
            return None
        if before is None or not elapsed:
            return 0.0
        active = _activity(reading, before, now, elapsed)
        if active is None:
            return None
        moved = _grown(_IO_BUSY, before, now)
        if moved is None:
            moved = _held(reading, _MEMORY_IO, elapsed)
        filled, drawn = self._filled(reading, before), self._drawn(joules, elapsed)
        score = active
        if moved is not None and filled is not None and drawn is not None:
            score = weighted(
                {
                    "utilization": active,
                    "memory_io": moved,
                    "memory_used": filled * elapsed,
                    "power": drawn * elapsed,
                }
            )
        self.total += score
        return score

    def _filled(self, reading: Reading, before: Mapping[Metric, float]) -> float | None:
        """Share of the memory in use, the mean of begin and end; None where neither is told."""
        told = [values[_MEMORY_USED] for values in (before, reading.values) if _MEMORY_USED in values]
        if not told or not self._memory:
            return None
        return min(sum(told) / len(told) / self._memory, 1.0)

    def _drawn(self, joules: float | None, elapsed: float) -> float | None:
        """Share of the power limit; power is above it for moments, when it was just lowered."""
        if joules is None or not self._limit:
            return None
        return min(joules / elapsed / self._limit, 1.0)


def _tells_utilization(reading: Reading) -> bool:
    """Whether a source told how busy the GPU was: by its counter, by the driver's buffer or by the rate."""
    buffered = BUSY in reading.increments and reading.covered.get(BUSY, 0.0) is not None
    return buffered or BUSY in reading.values or share_of(reading, _UTILIZATION) is not None


def _activity(
    reading: Reading, before: Mapping[Metric, float], now: Mapping[Metric, float], elapsed: float
) -> float | None:
    """Seconds at work: of the multiprocessors where they are told, else those in which a kernel ran."""
    for counter, gauge in ((_SM_SECONDS, _SM_ACTIVE), (BUSY, _UTILIZATION)):
        seconds = _grown(counter, before, now)
        if seconds is None:
            seconds = _held(reading, gauge, elapsed)
        if seconds is not None:
            return seconds
    return None


def _held(reading: Reading, gauge: Metric, elapsed: float) -> float | None:
    """Seconds by the gauge, of a time at whose begin the counter was not told."""
    share = share_of(reading, gauge)
    return None if share is None else share * elapsed


def _grown(counter: Metric, before: Mapping[Metric, float], now: Mapping[Metric, float]) -> float | None:
    old, new = before.get(counter), now.get(counter)
    return None if old is None or new is None or new < old else new - old
