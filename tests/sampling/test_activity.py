"""Active, idle, or nobody knows: idleness needs evidence."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gpu_exporter.catalog import STATE_SECONDS, by_name
from gpu_exporter.catalog.row import Metric
from gpu_exporter.config import AccountingConfig
from gpu_exporter.model import Device, Reading
from gpu_exporter.sampling.ledger import Ledger

DEVICE = Device(0, "GPU-0", "H100")
BUSY, RATE = by_name("gpu_busy_seconds_total"), by_name("gpu_utilization_ratio")
POWER, LIMIT = by_name("gpu_power_watts"), by_name("gpu_power_limit_watts")
MEMORY_IO = by_name("gpu_memory_io_utilization_ratio")


def look(share: float | None, rate: float | None, **others: float) -> Reading:
    """Five seconds of which the buffer told such a share to be busy, and the rate at their end."""
    values = {by_name(name): value for name, value in others.items()}
    if rate is not None:
        values[RATE] = rate
    if share is None:
        return Reading(DEVICE, values)
    return Reading(DEVICE, values, {BUSY: share * 5.0}, covered={BUSY: 5.0}, processes=())


def states(*readings: Reading) -> list[str]:
    """The state of each reading but the first."""
    ledger, found = Ledger(gap=15, accounting=AccountingConfig()), []
    before: Mapping[Metric, float] = {}
    for number, reading in enumerate(readings):
        after = ledger.account(reading, now=5.0 * number).values
        found += [state for state, row in STATE_SECONDS.items() if after[row] > before.get(row, 0.0)]
        before = after
    return found


@pytest.mark.parametrize(
    ("share", "rate", "state"),
    [
        (0.0, 0.0, "idle_free"),
        (0.04, 0.04, "idle_free"),
        (1.0, 1.0, "active"),
        (0.3, 0.0, "active"),  # bursts
        (0.3, 1.0, "active"),
        (0.0, 1.0, "unknown"),
        (0.04, 0.05, "unknown"),
        (0.0, None, "idle_free"),
        (0.5, None, "active"),
        (None, 0.0, "idle_free"),
        (None, 1.0, "active"),
        (None, None, "unknown"),
        (0.0, 8.08, "idle_free"),  # an impossible rate says nothing
        (None, 8.08, "unknown"),
        (None, float("nan"), "unknown"),
        (None, -1.0, "unknown"),
    ],
)
def test_buffer_and_rate(share: float | None, rate: float | None, state: str) -> None:
    first = look(None if share is None else 0.0, rate)
    assert states(first, look(share, rate)) == [state]


def test_a_job_that_has_just_begun_or_ended_is_unknown_for_one_reading_at_most() -> None:
    idle, begun, busy, ended = look(0.0, 0.0), look(0.01, 1.0), look(1.0, 1.0), look(0.99, 0.0)
    assert states(idle, idle, begun, busy, busy, ended, idle) == [
        *("idle_free", "unknown", "active", "active", "active", "idle_free")
    ]


def test_a_buffer_that_goes_on_telling_of_work_that_nobody_does_is_not_believed() -> None:
    stuck = look(1.0, 0.0)
    assert states(stuck, stuck, stuck, stuck, look(1.0, 1.0)) == ["active", "unknown", "unknown", "active"]
    bursts = look(0.9, 0.0)
    assert states(bursts, bursts, bursts, bursts) == ["active"] * 3, "the rate may miss them again and again"


def test_most_of_the_time_must_be_told_of() -> None:
    little = Reading(DEVICE, {}, {BUSY: 0.0}, covered={BUSY: 1.0})
    assert states(little, little) == ["unknown"]
    enough = Reading(DEVICE, {}, {BUSY: 1.0}, covered={BUSY: 1.0})
    assert states(enough, enough) == ["active"], "a fifth of the time is more than a twentieth, whatever the rest was"


@pytest.mark.parametrize("engine", ["encoder", "decoder", "jpeg", "ofa"])
def test_work_that_is_no_kernel_is_not_idleness(engine: str) -> None:
    name = f"gpu_{engine}_utilization_ratio"
    assert states(look(0.0, 0.0), look(0.0, 0.0, **{name: 0.4})) == ["unknown"]
    assert states(look(0.0, 0.0), look(0.0, 0.0, **{name: 0.04})) == ["idle_free"]


@pytest.mark.parametrize(("power", "state"), [(690.0, "unknown"), (600.0, "idle_free")])
def test_a_board_at_its_power_limit_is_not_idle(power: float, state: str) -> None:
    hot = look(0.0, 0.0, gpu_power_watts=power, gpu_power_limit_watts=700.0)
    assert states(hot, hot) == [state]


def test_the_memory_of_an_idle_gpu_may_show_a_screen() -> None:
    assert states(look(0.0, 0.0), look(0.0, 0.0, gpu_memory_io_utilization_ratio=0.3)) == ["idle_free"]


@pytest.mark.parametrize(
    ("share", "rate", "multiprocessors", "resident", "state"),
    [
        (1.0, 1.0, 0.958, 0.99, "active"),
        (0.25, 0.25, 0.199, 0.24, "active"),
        (1.0, 1.0, 0.0075, 0.997, "idle_free"),  # one block that spins
        (None, 1.0, 0.0075, 0.997, "idle_free"),
        (1.0, 1.0, 0.0, 0.0, "unknown"),  # copies, or counters that stand still
        (1.0, 1.0, 0.0, None, "unknown"),
        (0.0, 0.0, 0.0, 0.0, "idle_free"),
        (0.0, 0.0, 0.5, 0.5, "unknown"),  # counters that are stuck
        (0.3, 0.0, 0.2, 0.3, "active"),
        (0.01, 1.0, 0.01, 0.01, "unknown"),  # a job that has just begun
        (None, None, 0.9, 0.9, "unknown"),  # a driver that is not whole
        (1.0, 1.0, 8.08, 0.99, "active"),  # an impossible share says nothing
        (1.0, 1.0, float("nan"), 0.99, "active"),
    ],
)
def test_busy_multiprocessors_are_the_evidence_where_they_are_told(
    share: float | None, rate: float | None, multiprocessors: float, resident: float | None, state: str
) -> None:
    told = {"gpu_sm_active_ratio": multiprocessors}
    if resident is not None:
        told["gpu_graphics_active_ratio"] = resident
    first = look(None if share is None else 0.0, rate)
    assert states(first, look(share, rate, **told)) == [state]


@pytest.mark.parametrize("engine", ["encoder", "decoder", "jpeg", "ofa"])
def test_a_spinning_block_beside_a_video_engine_is_not_idleness(engine: str) -> None:
    told = {"gpu_sm_active_ratio": 0.0075, "gpu_graphics_active_ratio": 1.0, f"gpu_{engine}_utilization_ratio": 0.4}
    assert states(look(0.0, 0.0), look(1.0, 1.0, **told)) == ["unknown"]
