"""Clocks that are set and buffers that say nothing: the installed exporter over the stand-in, in real time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter, Samples, pick
from tools.lab.nvml_stub import Process, Stub
from tools.lab.wait import wait_for

FAST = (
    "--source=nvml",
    "--collection.interval=250ms",
    "--collection.timeout=250ms",
    "--processes.interval=250ms",
    "--owners.procfs-nested",
)
IDLE = ("idle_held", "idle_free")
UTILIZATION_SAMPLES, MEMORY_SAMPLES = 1, 2
Start = Callable[..., Exporter]


@pytest.fixture
def start(library: Path, tmp_path: Path) -> Iterator[Start]:
    running: list[Exporter] = []

    def begin(machine: Stub, *arguments: str) -> Exporter:
        running.append(Exporter(tmp_path, *FAST, *arguments, extra=machine.env(library)))
        return running[-1]

    yield begin
    for exporter in running:
        exporter.__exit__()


def busy_machine(stub: Callable[..., Stub]) -> Stub:
    """One GPU at 100 %, held by this very process."""
    machine = stub("h100", live=True)
    with machine.batch():
        for name in ("utilization", "memory_utilization"):
            machine.set(0, name, 100)
        machine.processes(0, [Process(os.getpid(), 30 * 2**30)])
    return machine


def state(samples: Samples, name: str) -> float:
    return pick(samples, "gpu_state_seconds_total", state=name) or 0.0


def busy(samples: Samples) -> float:
    return pick(samples, "gpu_busy_seconds_total") or 0.0


def watch(exporter: Exporter, seconds: float) -> tuple[Samples, Samples]:
    """What was told before and after so many seconds that the exporter charged to some state."""

    def charged(samples: Samples) -> float:
        return sum(value for (name, _), value in samples.items() if name == "gpu_state_seconds_total")

    wait_for(lambda: busy(exporter.samples()) > 0.5)
    before = exporter.samples()

    def later() -> Samples | None:
        after = exporter.samples()
        return after if charged(after) - charged(before) >= seconds else None

    return before, wait_for(later)


def assert_all_of_it_was_active(before: Samples, after: Samples) -> None:
    active = state(after, "active") - state(before, "active")
    assert active == pytest.approx(busy(after) - busy(before), abs=1.0)
    assert [state(after, idle) for idle in IDLE] == [0.0, 0.0]
    assert (pick(after, "gpu_owner_seconds_total", state="idle_held") or 0.0) == 0.0, "nobody gets a mail for it"
    grown = [pick(samples, "gpu_owner_seconds_total", state="active") or 0.0 for samples in (before, after)]
    assert grown[1] - grown[0] == pytest.approx(active, abs=0.5)


@pytest.mark.parametrize("step", [-3600.0, -86400.0, 3600.0])
def test_a_clock_that_is_set_bills_nobody_as_idle(start: Start, stub: Callable[..., Stub], step: float) -> None:
    machine = busy_machine(stub)
    exporter = start(machine)
    wait_for(lambda: busy(exporter.samples()) > 0.5)
    machine.set_clock(step)
    before, after = watch(exporter, 4.0)
    assert state(after, "unknown") == 0.0
    assert_all_of_it_was_active(before, after)
    assert busy(after) - busy(before) >= 3.0


def test_a_busy_gpu_without_samples_is_busy(start: Start, stub: Callable[..., Stub]) -> None:
    machine = busy_machine(stub)
    for kind in (UTILIZATION_SAMPLES, MEMORY_SAMPLES):
        machine.samples(0, kind, [])
    exporter = start(machine)
    before, after = watch(exporter, 4.0)
    assert_all_of_it_was_active(before, after)
    assert busy(after) - busy(before) >= 3.0
    assert (pick(after, "gpu_memory_io_busy_seconds_total") or 0.0) == pytest.approx(busy(after), abs=0.5)


@pytest.mark.parametrize(("profiled", "told"), [(False, "unknown"), (True, "active")])
def test_samples_of_zero_beside_a_busy_rate_are_never_idleness(
    start: Start, stub: Callable[..., Stub], profiled: bool, told: str
) -> None:
    machine = busy_machine(stub)
    if not profiled:  # else the multiprocessors' activity decides between the two
        machine.gpm(0, {})
    at, began = round(machine.now * 1e6), time.monotonic()

    def buffer() -> None:
        """Samples of zero, four a second, as far as time has come."""
        beats = range(-40, int((time.monotonic() - began) / 0.25))
        machine.samples(0, UTILIZATION_SAMPLES, [(at + beat * 250_000, 0) for beat in beats])

    def charged() -> Samples | None:
        buffer()
        after = exporter.samples()
        return after if state(after, told) > 0.0 else None

    buffer()
    exporter = start(machine)
    wait_for(lambda: exporter.value("gpu_utilization_ratio") == 1.0)
    after = wait_for(charged)
    assert [state(after, idle) for idle in IDLE] == [0.0, 0.0]


def test_a_driver_that_fails_and_is_opened_again_counts_nothing_twice(start: Start, stub: Callable[..., Stub]) -> None:
    machine = busy_machine(stub)
    exporter = start(machine)
    wait_for(lambda: busy(exporter.samples()) > 1.0)
    machine.fail_driver(1)
    exporter.wait_value(0.0, "gpu_exporter_last_sample_success")
    exporter.wait_value(1.0, "gpu_exporter_last_sample_success")
    wait_for(lambda: busy(exporter.samples()) > 2.0)
    after = exporter.samples()
    assert busy(after) <= state(after, "active") + 0.5, "the buffer still had what was counted before"
