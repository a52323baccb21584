"""What cannot be is absent, counted and told once, whatever the source."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from gpu_exporter.catalog import OWNER_MEMORY, PROCESS_MEMORY, PROCESS_UTILIZATION, by_name
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Device, Failure, Process, Reading
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sampling.plausibility import Plausibility

DEVICE, OTHER = Device(0, "GPU-0", "H100"), Device(1, "GPU-1", "H100")
POWER, ENERGY, LIMIT = by_name("gpu_power_watts"), by_name("gpu_energy_joules_total"), by_name("gpu_power_limit_watts")
UTILIZATION, BUSY = by_name("gpu_utilization_ratio"), by_name("gpu_busy_seconds_total")
TOTAL, USED, FREE = (by_name(f"gpu_memory_{part}_bytes") for part in ("total", "used", "free"))
RESERVED = by_name("gpu_memory_reserved_bytes")
BAR1_TOTAL, BAR1_USED = by_name("gpu_bar1_memory_total_bytes"), by_name("gpu_bar1_memory_used_bytes")
CLOCK, VIDEO = by_name("gpu_clock_hertz", clock="sm"), by_name("gpu_clock_hertz", clock="video")
FAN = by_name("gpu_fan_speed_ratio")
REPLAYS = by_name("gpu_nvlink_errors_total", kind="replay")
GIB = 2.0**30


def refused(reading: Reading) -> set[Metric]:
    return {metric for metric, _ in reading.refused}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e9, -0.0])
def test_a_value_out_of_its_range_is_absent_and_counted(value: float) -> None:
    plausibility = Plausibility()
    checked = plausibility.check(Reading(DEVICE, {POWER: value, UTILIZATION: 0.5}), now=0)
    assert checked.values == {UTILIZATION: 0.5}
    assert refused(checked) == {POWER}
    assert plausibility.counts == {"gpu_power_watts": 1}


def test_a_reading_that_can_be_is_passed_as_it_is() -> None:
    plausibility = Plausibility()
    reading = Reading(DEVICE, {POWER: 100.0}, {BUSY: 0.0}, {(FAN, ("0",)): 0.0})
    assert plausibility.check(reading, now=0) is reading
    assert plausibility.counts == {}


def test_what_the_source_refused_is_counted_too() -> None:
    plausibility = Plausibility()
    checked = plausibility.check(Reading(DEVICE, {UTILIZATION: 0.5}, refused=((POWER, -1.0), (POWER, -1.0))), now=0)
    assert checked.refused == ((POWER, -1.0), (POWER, -1.0))
    assert plausibility.counts == {"gpu_power_watts": 2}


def test_increments_and_labelled_values_are_looked_at_as_well() -> None:
    checked = Plausibility().check(
        Reading(DEVICE, {}, {BUSY: math.inf, ENERGY: 5.0}, {(FAN, ("0",)): 0.3, (FAN, ("1",)): 655.35}), now=0
    )
    assert (checked.increments, checked.labelled) == ({ENERGY: 5.0}, {(FAN, ("0",)): 0.3})
    assert refused(checked) == {BUSY, FAN}


CONTRADICTIONS: dict[str, tuple[Mapping[Metric, float], set[Metric]]] = {
    "used > total": ({TOTAL: 80 * GIB, USED: 81 * GIB, FREE: 1 * GIB}, {TOTAL, USED, FREE}),
    "used > total, nothing free": ({TOTAL: 80 * GIB, USED: 81 * GIB}, {TOTAL, USED}),
    "free > total": ({TOTAL: 80 * GIB, FREE: 81 * GIB}, {TOTAL, FREE}),
    "reserved > total": ({TOTAL: 80 * GIB, USED: 0.0, RESERVED: 90 * GIB}, {TOTAL, RESERVED}),
    "used + free > total": ({TOTAL: 80 * GIB, USED: 70 * GIB, FREE: 70 * GIB}, {TOTAL, USED, FREE}),
    "used of nothing": ({TOTAL: 0.0, USED: 0.0, FREE: 0.0, RESERVED: 0.0}, {TOTAL, USED, FREE, RESERVED}),
    "a full GPU": ({TOTAL: 80 * GIB, USED: 79 * GIB, FREE: 1 * GIB}, set()),
    "an older driver counts reserved as used": ({TOTAL: 80 * GIB, USED: 80 * GIB, FREE: 0.0}, set()),
    "total is not told": ({USED: 5 * GIB}, set()),
    "BAR1": ({BAR1_TOTAL: GIB, BAR1_USED: 2 * GIB}, {BAR1_TOTAL, BAR1_USED}),
    "BAR1 of nothing": ({BAR1_TOTAL: 0.0, BAR1_USED: 0.0}, {BAR1_TOTAL, BAR1_USED}),
    "power": ({POWER: 2200.0, LIMIT: 700.0}, {POWER}),
    "a peak": ({POWER: 1300.0, LIMIT: 700.0}, set()),
    "capped below what is drawn": ({POWER: 600.0, LIMIT: 100.0, by_name("gpu_power_max_limit_watts"): 700.0}, set()),
    "busy without a clock": ({UTILIZATION: 0.9, CLOCK: 0.0, VIDEO: 0.0}, {CLOCK}),
    "asleep": ({UTILIZATION: 0.0, CLOCK: 0.0, VIDEO: 0.0}, set()),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_numbers_that_contradict_each_other(case: str) -> None:
    values, wrong = CONTRADICTIONS[case]
    checked = Plausibility().check(Reading(DEVICE, values), now=0)
    assert refused(checked) == wrong
    assert checked.values == {metric: value for metric, value in values.items() if metric not in wrong}


def test_power_is_held_against_limits_of_an_earlier_reading() -> None:
    """Limits are asked for once a minute, and not in light readings."""
    plausibility = Plausibility()
    plausibility.check(Reading(DEVICE, {LIMIT: 700.0}), now=0)
    assert refused(plausibility.check(Reading(DEVICE, {POWER: 9000.0}), now=5)) == {POWER}
    assert refused(plausibility.check(Reading(DEVICE, {POWER: 690.0}), now=10)) == set()


def test_an_input_that_cannot_be_spoils_no_integral() -> None:
    pipeline = Pipeline(gap=15)
    told = []
    for now, watts in ((0, 100.0), (5, 100.0), (10, 4e6), (15, 100.0), (20, 100.0)):
        (reading,) = pipeline.complete([Reading(DEVICE, {POWER: watts})], now)
        told.append(reading.values[ENERGY])
    assert told == [0.0, 500.0, 500.0, 1000.0, 1500.0]
    assert pipeline.implausible == {"gpu_power_watts": 1}


def test_the_drivers_counter_is_not_integrated_because_it_was_refused_first() -> None:
    pipeline = Pipeline(gap=15)
    told = []
    for now, joules in ((0, math.nan), (5, 7e6), (10, 7e6 + 500)):
        (reading,) = pipeline.complete([Reading(DEVICE, {POWER: 100.0, ENERGY: joules})], now)
        told.append(reading.values.get(ENERGY))
    assert told == [None, 7e6, 7e6 + 500]


def test_growth_that_cannot_be_spoils_no_counter() -> None:
    pipeline = Pipeline(gap=15)
    told = []
    for now, growth in ((0, 0.0), (5, 2.0), (10, -3.0), (15, 1e300), (20, 1.0)):
        (reading,) = pipeline.complete([Reading(DEVICE, {UTILIZATION: 0.5}, {BUSY: growth})], now)
        told.append(reading.values[BUSY])
    assert told == [0.0, 2.0, 4.5, 7.0, 8.0], "the gauge stands for the time of which nothing can be believed"
    pipeline.add_late([Reading(DEVICE, increments={BUSY: math.inf})], 20)
    (reading,) = pipeline.complete([Reading(DEVICE, {UTILIZATION: 0.5}, {BUSY: 1.0})], 25)
    assert reading.values[BUSY] == 9.0


# --- counters that fall -----------------------------------------------------------------------------------------------


def energies(plausibility: Plausibility, *told: float) -> list[float | None]:
    return [plausibility.check(Reading(DEVICE, {ENERGY: joules}), now=0).values.get(ENERGY) for joules in told]


def test_a_counter_that_falls_once_is_left_out() -> None:
    plausibility = Plausibility()
    assert energies(plausibility, 100, 200, 0, 210, 220) == [100, 200, None, 210, 220]
    assert plausibility.counts == {"gpu_energy_joules_total": 1}


def test_a_counter_that_stays_below_was_reset() -> None:
    plausibility = Plausibility()
    assert energies(plausibility, 200, 3, 4, 5) == [200, None, 4, 5]
    assert plausibility.counts == {"gpu_energy_joules_total": 1}


def test_a_counter_that_keeps_falling_is_left_out() -> None:
    assert energies(Plausibility(), 200, 100, 50, 20) == [200, None, None, None]


def test_a_counter_may_begin_anew_while_nobody_looks() -> None:
    plausibility = Plausibility()
    energies(plausibility, 200)
    plausibility.interrupt()
    assert energies(plausibility, 3) == [3], "the driver was loaded anew"
    plausibility.check(Reading(DEVICE, failure=Failure("reset_required", "it must be reset")), now=0)
    assert energies(plausibility, 1) == [1], "the GPU was reset"


def test_a_counter_that_jumps_once_is_left_out() -> None:
    """What no power draw can do in the time: it would be read as that power by whoever asks for a rate."""
    plausibility = Plausibility()
    assert energies(plausibility, 100, 9e12, 200, 300) == [100, None, 200, 300]
    assert energies(plausibility, 9e12, 9e12 + 1) == [None, 9e12 + 1], "one that stays there is believed"


def test_a_counter_may_grow_for_as_long_as_nobody_asked() -> None:
    plausibility = Plausibility()
    for now, joules in ((0, 0.0), (3600, 700.0 * 3600), (3605, 700.0 * 3605)):
        checked = plausibility.check(Reading(DEVICE, {ENERGY: joules}), now=now)
        assert checked.values == {ENERGY: joules}


def test_a_storm_of_errors_is_no_jump() -> None:
    plausibility = Plausibility()
    for errors in (0.0, 1e9, 1e12):
        assert plausibility.check(Reading(DEVICE, {REPLAYS: errors}), now=0).values == {REPLAYS: errors}


def test_a_gauge_may_fall() -> None:
    plausibility = Plausibility()
    for watts in (300.0, 50.0):
        assert plausibility.check(Reading(DEVICE, {POWER: watts}), now=0).values == {POWER: watts}


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [81 * GIB, 2.0**64, -1.0, math.nan])
def test_a_process_cannot_have_more_memory_than_the_gpu(memory: float) -> None:
    processes = (Process(1, "compute", memory), Process(2, "compute", 2 * GIB))
    pipeline = Pipeline(gap=15)
    for now in (0, 5):
        reading = Reading(DEVICE, {TOTAL: 80 * GIB, UTILIZATION: 0.0}, processes=processes)
        (complete,) = pipeline.complete([reading], now)
    told = {row: value for (row, _), value in complete.labelled.items() if row in {PROCESS_MEMORY, OWNER_MEMORY}}
    assert told == {PROCESS_MEMORY: 2 * GIB}, "what its owner holds is not known"
    assert complete.values[by_name("gpu_processes", type="compute")] == 2, "it is there"
    assert complete.values[by_name("gpu_state_seconds_total", state="idle_held")] == 5.0
    assert pipeline.implausible == {"gpu_process_memory_used_bytes": 1}, "one list is counted once"


@pytest.mark.parametrize("share", [1.01, 42949672.94, -0.5, math.nan])
def test_a_process_cannot_be_busier_than_always(share: float) -> None:
    plausibility = Plausibility()
    processes = (Process(1, "compute", GIB, share), Process(2, "compute", GIB, 1.0))
    checked = plausibility.check(Reading(DEVICE, processes=processes), now=0)
    assert checked.processes == (Process(1, "compute", GIB), Process(2, "compute", GIB, 1.0))
    assert refused(checked) == {PROCESS_UTILIZATION}


def test_processes_that_can_be_are_the_same_object() -> None:
    """Those after it go by that, so that what did not change is not rendered again."""
    plausibility = Plausibility()
    processes = (Process(1, "compute", GIB, 0.5),)
    reading = Reading(DEVICE, {POWER: -1.0}, processes=processes)
    assert plausibility.check(reading, now=0).processes is processes
    bad = (replace(processes[0], memory_used=-1.0),)
    first, second = (plausibility.check(replace(reading, processes=bad), now=now).processes for now in (5, 10))
    assert first is second


# --- the log ----------------------------------------------------------------------------------------------------------


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[object, ...]]:
    told = [tuple(vars(record)[name] for name in ("gpu", "metric", "value", "accepted")) for record in caplog.records]
    caplog.clear()
    return told


def test_a_refusal_is_told_once_a_gpu_and_metric(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    plausibility = Plausibility()
    for now in range(10):
        for device in (DEVICE, OTHER):
            plausibility.check(Reading(device, {POWER: 4e6, UTILIZATION: 8.08}), now=now)
    assert logged(caplog) == [
        (0, "gpu_power_watts", 4e6, "0.001 to 10000"),
        (0, "gpu_utilization_ratio", 8.08, "0 to 1"),
        (1, "gpu_power_watts", 4e6, "0.001 to 10000"),
        (1, "gpu_utilization_ratio", 8.08, "0 to 1"),
    ]
    assert plausibility.counts == {"gpu_power_watts": 20, "gpu_utilization_ratio": 20}


def test_a_refusal_is_told_again_after_it_was_well_and_at_most_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    plausibility = Plausibility()

    def read(watts: float | None, now: float) -> int:
        plausibility.check(Reading(DEVICE, {} if watts is None else {POWER: watts}), now=now)
        return len(logged(caplog))

    assert read(0.0, 0) == 1
    assert read(0.0, 4000) == 0, "it was not well in between"
    assert read(None, 4001) == 0
    assert read(0.0, 4002) == 0, "absent is not well"
    assert read(100.0, 4003) == 0
    assert read(0.0, 4004) == 1
    assert read(100.0, 4005) == 0
    assert read(0.0, 4006) == 0, "at most once an hour"
    assert read(100.0, 7610) == 0
    assert read(0.0, 7611) == 1


def test_the_row_is_told_with_its_labels(caplog: pytest.LogCaptureFixture) -> None:
    Plausibility().check(Reading(DEVICE, {REPLAYS: 2.0**63}), now=0)
    assert [told[1] for told in logged(caplog)] == ['gpu_nvlink_errors_total{kind="replay"}']
