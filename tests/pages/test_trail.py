"""The last hour of every GPU in memory: a mean a minute."""

from __future__ import annotations

from gpu_exporter.model import Device, Failure, Reading
from gpu_exporter.pages.trail import MINUTES, Trail
from snapshots import reading, row, snapshot

UTILIZATION = row("gpu_utilization_ratio")


def fed(*points: tuple[float, float | None], trail: Trail | None = None) -> Trail:
    trail = trail or Trail()
    for timestamp, ratio in points:
        values = {} if ratio is None else {UTILIZATION: ratio}
        trail.add(snapshot(reading(0, values), timestamp=timestamp))
    return trail


def shown(trail: Trail, index: int = 0) -> list[float | None]:
    return list(trail.of(reading(index).device))


def test_minutes_are_means_and_the_last_one_is_not_over() -> None:
    assert shown(fed()) == []
    assert shown(fed((60.0, 0.2), (90.0, 0.4))) == [0.30000000000000004]
    assert shown(fed((60.0, 0.5), (119.0, 1.0), (120.0, 0.25))) == [0.75, 0.25]


def test_a_minute_without_a_reading_is_a_gap() -> None:
    assert shown(fed((0.0, 0.5), (180.0, 1.0))) == [0.5, None, None, 1.0]
    assert shown(fed((0.0, 0.5), (60.0, None), (120.0, 1.0))) == [0.5, None, 1.0]


def test_an_hour_is_kept() -> None:
    trail = fed(*((60.0 * minute, minute / 1000) for minute in range(200)))
    assert shown(trail) == [minute / 1000 for minute in range(200 - MINUTES, 200)]


def test_a_clock_that_is_set_begins_anew() -> None:
    assert shown(fed((6000.0, 0.5), (60.0, 1.0))) == [1.0]
    assert shown(fed((0.0, 0.5), (1e6, 1.0))) == [1.0]


def test_gpus_that_are_gone_for_an_hour_are_forgotten() -> None:
    trail = fed((0.0, 0.5))
    gone, there = reading(0).device, Device(1, "GPU-new", "")
    trail.add(snapshot(Reading(there, {UTILIZATION: 0.1}), timestamp=60.0 * (MINUTES + 1)))
    assert (trail.of(gone), trail.of(there)) == ((), (0.1,))


def test_a_gpu_that_fails_and_a_sample_that_failed_add_nothing() -> None:
    trail = fed((0.0, 0.5))
    trail.add(snapshot(reading(0, failure=Failure("lost", "")), timestamp=30.0))
    trail.add(snapshot(reading(0, {UTILIZATION: 1.0}), timestamp=30.0, ok=False))
    assert shown(trail) == [0.5]
