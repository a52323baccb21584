"""Minutes as rows of the tables: whole numbers, whose sums are right although each was rounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gpu_exporter.history.document import HELD, STATES
from gpu_exporter.history.minutes import GpuMinute, HostMinute, Mean
from gpu_exporter.model import Owner

MIB: Final = 1024**2
# Of a minute that two owners held, or one for a part of it, each owner has a row of its own.
_SAME: Final = 0.5  # seconds

Row = tuple[int | None, ...]


@dataclass(slots=True)
class Carry:
    """What rounding has left over of one GPU's sums: it goes into the next row."""

    states: list[float] = field(default_factory=lambda: [0.0] * len(STATES))
    sums: dict[str, float] = field(default_factory=dict)
    owners: dict[tuple[Owner, int], float] = field(default_factory=dict)

    def whole(self, value: float, at: int) -> int:
        """Seconds of a state."""
        exact = value + self.states[at]
        whole = max(0, round(exact))
        self.states[at] = exact - whole
        return whole

    def mean(self, name: str, value: float | None, seconds: int, *, scale: int, most: int) -> int | None:
        """A sum over so many seconds as a mean times ``scale``, at most ``most``; None where it is not known."""
        if value is None or seconds <= 0:
            return None
        exact = value + self.sums.get(name, 0.0)
        mean = min(max(0, round(exact / seconds * scale)), most)
        # What does not fit into this row is no rounding: it is not carried on for ever.
        self.sums[name] = min(max(exact - mean * seconds / scale, -seconds / scale), seconds / scale)
        return mean

    def of_owner(self, owner: Owner, at: int, value: float) -> int:
        """An owner's seconds of a state."""
        exact = value + self.owners.get((owner, at), 0.0)
        whole = max(0, round(exact))
        if len(self.owners) > 1024:
            self.owners.clear()
        self.owners[owner, at] = exact - whole
        return whole


def gpu_row(minute: GpuMinute, carry: Carry) -> Row | None:
    """The columns after id and owner; None where no whole second was seen."""
    states = [carry.whole(value, at) for at, value in enumerate(minute.states)]
    if not any(states):
        return None
    observed = sum(states[:-1])
    power = carry.mean("power", minute.joules, observed, scale=10, most=1_000_000)
    return (
        *states,
        carry.mean("busy", minute.busy, observed, scale=100, most=100),
        None if minute.utilization.high is None else math.ceil(minute.utilization.high * 100 - 1e-9),
        carry.mean("memory_io", minute.memory_io_busy, observed, scale=100, most=100),
        *_mean_and_over(minute.memory, MIB),
        *_mean_and_over(minute.temperature, 1),
        power,
        _over(minute.power.high, None if power is None else power / 10),
        carry.mean("score", minute.score, observed, scale=100, most=100),
        None if minute.sm_clock.value is None else round(minute.sm_clock.value / 1e6),
        None if minute.slowed is None else round(minute.slowed),
        None if minute.processes.high is None else round(minute.processes.high),
    )


def owners_of(minute: GpuMinute) -> tuple[Owner | None, Mapping[Owner, tuple[float, ...]]]:
    """The one owner that held the GPU all the time in which anybody did; or the shares of several."""
    shares = minute.shares()
    held = [minute.states[STATES.index(state)] for state in HELD]
    if len(shares) == 1:
        owner, seconds = next(iter(shares.items()))
        if all(abs(mine - all_) < _SAME for mine, all_ in zip(seconds, held, strict=True)):
            return owner, {}
    return None, shares


def owner_rows(shares: Mapping[Owner, tuple[float, ...]], carry: Carry) -> Iterable[tuple[Owner, tuple[int, ...]]]:
    """Whole seconds by owner, in the order of HELD; who has none of them has no row."""
    for owner, seconds in shares.items():
        whole = tuple(carry.of_owner(owner, at, value) for at, value in enumerate(seconds))
        if any(whole):
            yield owner, whole


def host_row(minute: HostMinute) -> Row:
    """The columns after id."""
    load = minute.load.value
    return (
        min(round(minute.seconds), 60),
        None if minute.cpu.value is None else round(minute.cpu.value * 100),
        None if minute.cpu.high is None else math.ceil(minute.cpu.high * 100 - 1e-9),
        *_mean_and_over(minute.memory, MIB),
        None if load is None else round(load * 100),
    )


def _mean_and_over(gauge: Mean, unit: float) -> tuple[int | None, int | None]:
    mean = None if gauge.value is None else round(gauge.value / unit)
    return mean, _over(None if gauge.high is None else gauge.high / unit, mean)


def _over(high: float | None, mean: float | None) -> int | None:
    """By how much the highest sample is above the mean."""
    return None if high is None or mean is None else max(0, math.ceil(high - mean - 1e-9))
