"""When the GPUs are read, and when the driver's buffers are in between."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
from tools.lab.nvml_stub import Stub
from tools.lab.wait import wait_for

from gpu_exporter.catalog import by_name
from gpu_exporter.config import CollectionConfig
from gpu_exporter.model import Build, Device, Reading, Snapshot
from gpu_exporter.sampling import schedule
from gpu_exporter.sampling.rhythm import Rhythm
from gpu_exporter.sampling.sampler import Sampler
from gpu_exporter.sampling.schedule import BUFFERS_EVERY, Due, Schedule
from gpu_exporter.sources import BufferedSource
from gpu_exporter.sources.fake import FakeFleet
from gpu_exporter.sources.nvml import NvmlSource

BUSY = by_name("gpu_busy_seconds_total")


def looks(interval: float, until: float) -> list[tuple[float, str]]:
    """When what is read by somebody who always comes at the moment that he was told, of a source without light ones."""
    plan, now, found = Schedule(interval=interval, now=0.0), 0.0, []
    while now < until:
        due = plan.due(now)
        now = due.at
        plan.began(due, now)
        found.append((round(now, 6), due.kind))
    return [look for look in found if look[0] < until]


def test_a_short_interval_needs_no_look_in_between() -> None:
    assert looks(5.0, 20.0) == [(5.0, "full"), (10.0, "full"), (15.0, "full")]
    assert looks(10.0, 31.0) == [(10.0, "full"), (20.0, "full"), (30.0, "full")]


def test_a_long_interval_is_divided_evenly() -> None:
    assert looks(15.0, 31.0) == [(7.5, "buffers"), (15.0, "full"), (22.5, "buffers"), (30.0, "full")]
    assert [what for _, what in looks(40.0, 81.0)] == [*["buffers"] * 3, "full"] * 2
    assert len(looks(3600.0, 3600.5)) == 360


@pytest.mark.parametrize("interval", [0.1, 3.0, 10.0, 10.1, 15.0, 29.0, 40.0, 60.0, 3600.0])
def test_no_buffer_runs_over(interval: float) -> None:
    times = [0.0, *(at for at, _ in looks(interval, 2 * interval + 0.05))]
    assert max(after - before for before, after in pairwise(times)) <= 1.01 * BUFFERS_EVERY + 1e-6


def test_looks_that_were_missed_are_made_once() -> None:
    plan = Schedule(interval=40.0, now=0.0)
    late = plan.due(27.0)
    assert (late.kind, late.at) == ("buffers", 10.0)
    plan.began(late, 27.0)
    assert 27.0 < plan.due(27.0).at <= 37.0
    plan = Schedule(interval=5.0, now=0.0)
    plan.began(plan.due(16.0), 16.0)
    assert plan.overruns == 2
    assert plan.due(16.0).at == 20.0, "the grid stands"


def test_a_reload_to_a_short_interval_ends_them() -> None:
    plan = Schedule(interval=40.0, now=0.0)
    plan.interval = 5.0
    assert plan.due(3.0) == Due(5.0, "full")


def test_between_full_readings_are_light_ones() -> None:
    plan, now, found = Schedule(interval=5.0, now=0.0), 0.0, []
    while now < 29.0:
        due = plan.due(now, light=True)
        now = due.at
        plan.began(due, now)
        found.append((now, due.kind))
    assert found == [(5.0 * place, "full" if place % 2 == 0 else "light") for place in range(1, 7)]


@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("interval", [0.5, 1.0, 4.7, 5.0, 7.0, 10.0, 12.0, 14.9, 15.0, 30.0])
@pytest.mark.parametrize("period", [None, 5.0, 15.0, 31.0])
def test_how_far_readings_are_apart_at_most(interval: float, period: float | None, *, light: bool) -> None:
    rhythm = Rhythm(interval=interval)
    plan, now, read, scrape = Schedule(interval=interval, now=0.0, rhythm=rhythm), 0.0, [0.0], period or math.inf
    kinds = set()
    while now < 40 * interval:
        due = plan.due(now, light=light)
        while scrape < due.at:
            rhythm.note("somebody", scrape)
            now, scrape = max(now, scrape), scrape + (period or math.inf)
            due = plan.due(now, light=light)
        now = max(now, due.at)
        plan.began(due, now)
        if due.kind != "buffers":
            read.append(now)
            kinds.add(due.kind)
    assert max(after - before for before, after in pairwise(read)) <= interval * (1.3 if light else 1.0) + 1e-6
    assert "light" not in kinds if not light else interval >= 10.0 or "light" in kinds


def test_a_source_without_buffers_needs_no_method() -> None:
    assert not isinstance(FakeFleet(gpus=1, model="h100", seed=1).open(), BufferedSource)


# --- the sampler -----------------------------------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers are due every half second."""
    monkeypatch.setattr(schedule, "BUFFERS_EVERY", 0.5)


def sampler_of(open_source: Callable[[], BufferedSource], *, interval: float, timeout: float) -> Sampler:
    collection = CollectionConfig(interval=interval, timeout=timeout)
    return Sampler(open_source=open_source, source_name="nvml", collection=collection, build=Build("1", "3"))


def first(snapshot: Snapshot) -> Reading:
    (reading,) = snapshot.readings
    return reading


@pytest.mark.usefixtures("often")
def test_an_interval_longer_than_the_buffer_loses_nothing(
    here: Callable[[Stub], Stub], stub: Callable[..., Stub]
) -> None:
    machine = here(stub("h100", live=True))
    machine.set(0, "utilization", 100)
    machine.buffer(0, 6)  # 1 s
    # Only the buffer tells of the work: the rate must not make up for what is lost of it.
    machine.fail("nvmlDeviceGetUtilizationRates", 999)
    sampler = sampler_of(NvmlSource, interval=4.0, timeout=2.0)
    sampler.start()
    try:
        began = wait_for(lambda: sampler.latest() if sampler.latest().ok else None)
        ended = wait_for(lambda: sampler.latest() if sampler.latest().monotonic > began.monotonic else None)
    finally:
        sampler.close()
    assert first(ended).values[BUSY] == pytest.approx(ended.monotonic - began.monotonic, rel=0.25)
    for kind in ("full", "light"):
        assert 0.0 <= began.reading_seconds[kind] < ended.reading_seconds[kind], f"{kind} readings take time"


class Hanging(NvmlSource):
    """Its buffers of one GPU do not answer until they are told to."""

    release = threading.Event()
    asked: list[int]

    def read_buffers(self, device: Device) -> Reading:
        self.asked.append(device.index)
        if device.index == 0:
            self.release.wait()
        return super().read_buffers(device)


@pytest.mark.usefixtures("often")
def test_a_buffer_that_hangs_parks_its_gpu_and_no_other(
    here: Callable[[Stub], Stub], stub: Callable[..., Stub]
) -> None:
    here(stub("h100", "h100"))
    Hanging.release.clear()
    Hanging.asked = []
    sampler = sampler_of(Hanging, interval=2.0, timeout=0.3)
    sampler.start()
    try:
        wait_for(lambda: [reading.failure is None for reading in sampler.latest().readings] == [False, True])
        failure = sampler.latest().readings[0].failure
        assert failure is not None
        assert failure.reason == "timeout"
        assert Hanging.asked.count(0) == 1, "a parked GPU is not asked again"
        assert Hanging.asked.count(1) > 1
        Hanging.release.set()
        wait_for(lambda: all(reading.failure is None for reading in sampler.latest().readings))
    finally:
        Hanging.release.set()
        sampler.close()
