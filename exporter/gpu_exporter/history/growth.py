"""What happened between two samples of a GPU: growth of its counters, and what its gauges stood at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gpu_exporter.catalog.score import weighted
from gpu_exporter.history.document import GpuSample, RareKey, rare_counts
from gpu_exporter.model import Owner

# The most that a GPU can draw for long (a GB300 module has 1.4 kW); a device's counter that grew faster has jumped.
_MOST_WATTS: Final = 3000.0


@dataclass(frozen=True, slots=True)
class Growth:
    """Seconds, joules and counts that were added between two samples; None is what nobody knows."""

    states: tuple[float, ...]
    busy: float | None
    memory_io_busy: float | None
    joules: float | None
    score: float | None
    slowed: float | None
    owners: Mapping[tuple[Owner, str], float] = field(default_factory=dict)
    rare: Mapping[RareKey, float] = field(default_factory=dict)


def growth(before: GpuSample, now: GpuSample, elapsed: float) -> Growth | None:
    """What was added in the ``elapsed`` seconds between two samples; None where no time was observed.

    Counters of seconds begin at zero with their exporter and grow no faster than time. What the exporter does not count
    is the gauge times the observed seconds.
    """
    if before.states is None or now.states is None:
        return None
    states = tuple(_grown(old, new, elapsed) for old, new in zip(before.states, now.states, strict=True))
    together = sum(states)
    if together <= 0:
        return None
    if together > elapsed:  # the clocks of two machines are not one
        states = tuple(part * elapsed / together for part in states)
    observed = sum(states[:-1])
    busy = _seconds(before.busy, now.busy, now.utilization, elapsed, observed)
    memory_io_busy = _seconds(before.memory_io_busy, now.memory_io_busy, now.memory_io, elapsed, observed)
    joules = _joules(before.energy, now.energy, now.power, elapsed, observed)
    score = _seconds(before.score, now.score, None, elapsed, observed)
    if score is None and observed > 0:
        score = _score(now, busy, memory_io_busy, joules, observed)
    return Growth(
        states=states,
        busy=busy,
        memory_io_busy=memory_io_busy,
        joules=joules,
        score=score,
        slowed=_seconds(before.slowed, now.slowed, None, elapsed, observed),
        owners={
            key: grown
            for key, total in now.owners.items()
            if (grown := _grown(before.owners.get(key, 0.0), total, elapsed)) > 0
        },
        rare=_rare(before, now),
    )


def _grown(old: float, new: float, most: float) -> float:
    """The growth of a counter that began at zero, and again at zero where it fell."""
    return min(new - old if new >= old else new, most)


def _seconds(
    old: float | None, new: float | None, gauge: float | None, elapsed: float, observed: float
) -> float | None:
    if observed <= 0:
        return None
    if new is None:
        return None if gauge is None else gauge * observed
    if old is None:
        # It may have been counting for long before it was first told.
        return None if gauge is None else gauge * observed
    return min(_grown(old, new, elapsed), observed)


def _joules(old: float | None, new: float | None, watts: float | None, elapsed: float, observed: float) -> float | None:
    if observed <= 0:
        return None
    if old is not None and new is not None and 0 <= new - old <= _MOST_WATTS * elapsed:
        return new - old
    return None if watts is None else watts * observed


def _score(
    now: GpuSample, busy: float | None, memory_io_busy: float | None, joules: float | None, observed: float
) -> float | None:
    """The score times the seconds, as the recording rule instance_gpu:gpu_score:ratio makes it."""
    if busy is None:
        return None
    utilization = min(busy / observed, 1.0)
    if (
        memory_io_busy is None
        or joules is None
        or now.memory_used is None
        or not now.memory_total
        or not now.power_limit
    ):
        return utilization * observed
    parts = {
        "utilization": utilization,
        "memory_io": min(memory_io_busy / observed, 1.0),
        "memory_used": min(now.memory_used / now.memory_total, 1.0),
        "power": min(joules / observed / now.power_limit, 1.0),
    }
    return weighted(parts) * observed


def _rare(before: GpuSample, now: GpuSample) -> dict[RareKey, float]:
    """Growth of the counters that seldom grow."""
    grown: dict[RareKey, float] = {}
    for name, listed in now.rare.items():
        then = before.rare.get(name)
        if listed == then:
            continue
        counts, old = rare_counts(listed), rare_counts(then)
        for labels, count in counts.items():
            # A device's own counter may have grown before we saw it; an XID appears with its first event.
            if labels in old or name in _BORN_AT_ZERO:
                was = old.get(labels, 0.0)
                if (more := count - was if count >= was else count) > 0:
                    grown[name, labels] = more
    return grown


_BORN_AT_ZERO: Final = frozenset({"gpu_xid_errors_total", "gpu_events_total"})
