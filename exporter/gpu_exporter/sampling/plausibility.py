"""Whether what a driver tells can be: a value that cannot is absent, counted and told once, whatever the source.

A row has its range in the catalogue. Here are also the numbers that only beside others are seen to be wrong, and
counters that fall, or grow faster than anything can.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from gpu_exporter.catalog import PROCESS_MEMORY, PROCESS_UTILIZATION, by_name
from gpu_exporter.catalog.plausible import FASTEST
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Process, Reading

log = logging.getLogger(__name__)

_TELL_AGAIN: Final = 3600.0  # seconds; a value that comes and goes does not fill the log
_MOST_OVER_LIMIT: Final = 3.0  # measured for milliseconds at a time: twice the limit
_BUSY: Final = 0.1  # the clock is of this moment, utilization of the last second
_SLACK: Final = 60.0  # seconds; some drivers bring a counter up to date once in a while
_ROUNDING: Final = 0.01  # used, free and total are rounded apart, and read a moment apart
_UTILIZATION: Final = by_name("gpu_utilization_ratio")
_TOTAL: Final = by_name("gpu_memory_total_bytes")
_USED: Final = by_name("gpu_memory_used_bytes")
_FREE: Final = by_name("gpu_memory_free_bytes")
_RESERVED: Final = by_name("gpu_memory_reserved_bytes")
_BAR1_TOTAL: Final = by_name("gpu_bar1_memory_total_bytes")
_BAR1_USED: Final = by_name("gpu_bar1_memory_used_bytes")
_POWER: Final = (by_name("gpu_power_watts"), by_name("gpu_power_average_watts"))
_POWER_LIMITS: Final = tuple(by_name(f"gpu_power{which}_limit_watts") for which in ("_max", "_default", ""))
# A video engine that nobody uses may have its clock stopped; these cannot stand still while kernels run.
_RUNNING_CLOCKS: Final = tuple(by_name("gpu_clock_hertz", clock=clock) for clock in ("sm", "graphics", "memory"))

# Rows that cannot be, with what would have been accepted.
_Refusals: TypeAlias = dict[Metric, str]


@dataclass(slots=True)
class _Known:
    """What is remembered of one device."""

    counters: dict[Metric, tuple[float, float]] = field(default_factory=dict)  # as believed, when (monotonic seconds)
    doubted: dict[Metric, float] = field(default_factory=dict)  # those that fell or jumped in the reading before
    limits: dict[Metric, float] = field(default_factory=dict)  # of power, as believed; light readings have none
    processes: tuple[tuple[Process, ...], tuple[Process, ...]] | None = None  # as listed, as believed
    told: dict[Metric, float] = field(default_factory=dict)  # when its refusal was logged, monotonic seconds
    bad: set[Metric] = field(default_factory=set)  # refused in the latest reading that told it


class Plausibility:
    """Takes out of readings what cannot be. ``counts`` has the refusals by the name of their metric.

    Belongs to the sampler's thread and outlives every reopening of the source.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._devices: dict[str, _Known] = {}

    def check(self, reading: Reading, *, now: float) -> Reading:
        """The reading without what cannot be, which is in ``refused`` instead; ``now`` is monotonic seconds."""
        known = self._devices.setdefault(reading.device.key, _Known())
        if reading.failure is not None:
            known.counters, known.doubted, known.limits = {}, {}, {}  # a GPU that comes back may have been reset
            return reading
        found = [(metric, value, _range(metric)) for metric, value in reading.refused]
        values, increments, labelled = dict(reading.values), dict(reading.increments), dict(reading.labelled)
        for told in (values, increments):
            for metric, value in list(told.items()):
                if not metric.plausible[0] <= value <= metric.plausible[1]:
                    found.append((metric, told.pop(metric), _range(metric)))
        for (metric, labels), value in list(labelled.items()):
            if not metric.plausible[0] <= value <= metric.plausible[1]:
                found.append((metric, labelled.pop((metric, labels)), _range(metric)))
        known.limits |= {limit: values[limit] for limit in _POWER_LIMITS if limit in values}
        for metric, accepted in _contradictions(values, {metric for metric, _, _ in found}, known.limits).items():
            found.append((metric, values.pop(metric), accepted))
        found += [(metric, values.pop(metric), accepted) for metric, accepted in _steps(known, values, now)]
        processes, misjudged = _believed(known, reading.processes, values.get(_TOTAL))
        found += misjudged
        self._tell(known, reading, found, now)
        if not found and processes is reading.processes:
            return reading
        return replace(
            reading,
            values=values,
            increments=increments,
            labelled=labelled,
            processes=processes,
            refused=tuple((metric, value) for metric, value, _ in found),
        )

    def interrupt(self) -> None:
        """Nobody looks for a while: counters may begin anew meanwhile."""
        for known in self._devices.values():
            known.counters, known.doubted = {}, {}

    def _tell(self, known: _Known, reading: Reading, found: list[tuple[Metric, float, str]], now: float) -> None:
        for metric, value, accepted in found:
            self.counts[metric.name] = self.counts.get(metric.name, 0) + 1
            if metric not in known.bad and now - known.told.get(metric, -_TELL_AGAIN) >= _TELL_AGAIN:
                known.told[metric] = now
                log.warning(
                    "the driver tells what cannot be: the value is left out",
                    extra={
                        "gpu": reading.device.index,
                        "uuid": reading.device.uuid,
                        "metric": repr(metric),
                        "value": value,
                        "accepted": accepted,
                    },
                )
            known.bad.add(metric)
        if known.bad:
            refused = {metric for metric, _, _ in found}
            told = {*reading.values, *reading.increments, *(metric for metric, _ in reading.labelled)}
            known.bad -= told - refused


def _range(metric: Metric) -> str:
    return "{:g} to {:g}".format(*metric.plausible)


def _contradictions(values: Mapping[Metric, float], refused: set[Metric], limits: Mapping[Metric, float]) -> _Refusals:
    """Rows that cannot be beside the others, or beside the ``limits``, with what would have been accepted."""
    wrong: _Refusals = {}
    total, used, free = values.get(_TOTAL), values.get(_USED), values.get(_FREE)
    if _TOTAL in refused:
        # One answer of the driver: what is used of an impossible memory is not known, and 0 of 0 bytes is not "free".
        wrong |= dict.fromkeys((_USED, _FREE, _RESERVED), "beside a plausible total")
    elif total is not None:
        limit = f"at most the total of {total:.0f}"
        if (used or 0.0) + (free or 0.0) > total * (1 + _ROUNDING):
            wrong |= dict.fromkeys((_TOTAL, _USED, _FREE), "used and free together no more than the total")
        for part in (_USED, _FREE, _RESERVED):
            if values.get(part, 0.0) > total:
                wrong |= {_TOTAL: f"at least the {values[part]:.0f} told beside it", part: limit}
    bar1 = values.get(_BAR1_TOTAL)
    if _BAR1_TOTAL in refused:
        wrong[_BAR1_USED] = "beside a plausible total"
    elif bar1 is not None and values.get(_BAR1_USED, 0.0) > bar1:
        wrong |= {_BAR1_TOTAL: f"at least the {values[_BAR1_USED]:.0f} used", _BAR1_USED: f"at most {bar1:.0f}"}
    highest = max(limits.values(), default=math.inf)
    for power in _POWER:
        if values.get(power, 0.0) > _MOST_OVER_LIMIT * highest:
            wrong[power] = f"at most {_MOST_OVER_LIMIT:g} times the highest limit of {highest:g}"
    if values.get(_UTILIZATION, 0.0) >= _BUSY:
        wrong |= {clock: "more than 0 on a busy GPU" for clock in _RUNNING_CLOCKS if values.get(clock) == 0}
    return {metric: accepted for metric, accepted in wrong.items() if metric in values}


def _steps(known: _Known, values: Mapping[Metric, float], now: float) -> Iterator[tuple[Metric, str]]:
    """Counters of the device's own that fell, or jumped. One that stays there is believed at the next reading.

    It was reset then. A single answer that is too low or too high would be read as growth by whoever asks for a rate.
    """
    for metric, value in list(values.items()):
        if metric.kind != "counter":
            continue
        before, at = known.counters.get(metric, (value, now))
        most = before + FASTEST.get(metric.unit, math.inf) * (now - at + _SLACK)
        doubted = known.doubted.pop(metric, None)
        if not before <= value <= most and (doubted is None or value < doubted):
            known.doubted[metric] = value
            yield metric, f"{before:.15g} to {most:.15g}, after the reading before"
        else:
            known.counters[metric] = value, now


def _believed(
    known: _Known, listed: tuple[Process, ...] | None, total: float | None
) -> tuple[tuple[Process, ...] | None, list[tuple[Metric, float, str]]]:
    """The processes without what cannot be of them, and what that was; a list that was looked at is not again."""
    if not listed:
        return listed, []
    if known.processes is not None and known.processes[0] is listed:
        return known.processes[1], []
    found: list[tuple[Metric, float, str]] = []
    believed = []
    least, most = PROCESS_MEMORY.plausible
    most = most if total is None else total
    for process in listed:
        memory, busy = process.memory_used, process.utilization
        if memory is not None and not least <= memory <= most:
            found.append((PROCESS_MEMORY, memory, f"{least:g} to {most:.0f}"))
            memory = None
        if busy is not None and not PROCESS_UTILIZATION.plausible[0] <= busy <= PROCESS_UTILIZATION.plausible[1]:
            found.append((PROCESS_UTILIZATION, busy, _range(PROCESS_UTILIZATION)))
            busy = None
        same = memory is process.memory_used and busy is process.utilization
        believed.append(process if same else replace(process, memory_used=memory, utilization=busy))
    processes = tuple(believed) if found else listed
    known.processes = (listed, processes)
    return processes, found
