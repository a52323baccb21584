"""The sampler over sources made for the occasion: isolation, failure, recovery, pause, staleness."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from tools.lab.clock import Clock
from tools.lab.wait import patience, wait_for

from gpu_exporter.catalog import DEVICE_METRICS, GPU_UP, READ_ERRORS, XID_ERRORS
from gpu_exporter.config import CollectionConfig
from gpu_exporter.model import Build, Device, Driver, Failure, Reading, Snapshot, Xid
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sampling.poller import Poller
from gpu_exporter.sampling.roster import Roster
from gpu_exporter.sampling.round import Round
from gpu_exporter.sampling.sampler import Sampler
from gpu_exporter.sampling.schedule import Due
from gpu_exporter.sources import SourceChangedError, SourceError

TEMPERATURE = next(metric for metric in DEVICE_METRICS if metric.name == "gpu_temperature_celsius")
SENT = next(metric for metric in DEVICE_METRICS if metric.name == "gpu_pcie_transmit_bytes_total")


class Hardware:
    """What outlives a source: four GPUs whose troubles a test sets."""

    def __init__(self) -> None:
        self.gpus = [Device(index, f"GPU-{index}", "H100") for index in range(4)]
        self.failures: dict[int, Failure] = {}
        self.hung: dict[int, threading.Event] = {}
        self.gone: str | None = None
        self.bug = False
        self.bugs: dict[int, Exception] = {}
        self.refused: SourceError | None = None
        self.broken: str | None = None
        self.changed = False
        self.opened = 0
        self.closed: list[bool] = []
        self.reads = [0, 0, 0, 0]
        self.events: list[Xid] = []
        self.begins: Callable[[int], None] = lambda _: None

    def open(self) -> Source:
        self.opened += 1
        if self.gone:
            raise SourceError(self.gone)
        if self.refused:
            raise self.refused
        return Source(self)


class Source:
    name = "made up"
    simulated = False
    driver = Driver("590.48.01", "13.1", "13.590.48.01")

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware

    @property
    def devices(self) -> Sequence[Device]:
        return list(self.hardware.gpus)

    def read(self, device: Device) -> Reading:
        hardware = self.hardware
        hardware.reads[device.index] += 1
        hardware.begins(device.index)
        if event := hardware.hung.get(device.index):
            event.wait(patience())
        if hardware.bug:
            raise ZeroDivisionError
        if bug := hardware.bugs.get(device.index):
            raise bug
        if hardware.changed:
            hardware.changed = False
            raise SourceChangedError("the driver lists 4 GPUs, and listed 3")
        if hardware.broken:
            raise SourceError(hardware.broken)
        if hardware.gone:
            raise SourceError(hardware.gone)
        if failure := hardware.failures.get(device.index):
            return Reading(device, failure=failure)
        return Reading(device, {TEMPERATURE: 40.0 + device.index}, {SENT: 1.0})

    def events(self) -> Sequence[Xid]:
        events, self.hardware.events = self.hardware.events, []
        return events

    def close(self, *, hung: bool = False) -> None:
        self.hardware.closed.append(hung)


@pytest.fixture
def hardware() -> Hardware:
    return Hardware()


@pytest.fixture
def make(hardware: Hardware) -> Iterator[Callable[..., Sampler]]:
    made = []

    def build(interval: float = 0.05, timeout: float = 1.0, pause: float = 60, **rest: object) -> Sampler:
        collection = CollectionConfig(interval=interval, timeout=timeout, pause=pause)
        sampler = Sampler(
            open_source=hardware.open,
            source_name="made up",
            collection=collection,
            build=Build("1", "3"),
            **rest,  # type: ignore[arg-type]
        )
        made.append(sampler)
        sampler.start()
        return sampler

    yield build
    for event in hardware.hung.values():
        event.set()
    for sampler in made:
        sampler.close()


def until(sampler: Sampler, condition: Callable[[Snapshot], bool]) -> Snapshot:
    def look() -> Snapshot | None:
        snapshot = sampler.latest()
        return snapshot if condition(snapshot) else None

    return wait_for(look, sampler.latest)


def up(snapshot: Snapshot) -> list[float]:
    return [reading.values[GPU_UP] for reading in snapshot.readings]


def test_a_healthy_machine(make: Callable[..., Sampler]) -> None:
    sampler = make()
    snapshot = until(sampler, lambda seen: seen.ok)
    assert up(snapshot) == [1, 1, 1, 1]
    assert [reading.values[TEMPERATURE] for reading in snapshot.readings] == [40, 41, 42, 43]
    assert snapshot.timestamp is not None
    assert abs(snapshot.timestamp - time.time()) < patience()
    assert (sampler.ready(), sampler.live()) == (None, None)


def test_one_lost_gpu_hides_nothing(make: Callable[..., Sampler], hardware: Hardware) -> None:
    sampler = make()
    until(sampler, lambda seen: seen.ok)
    hardware.failures[2] = Failure("lost", "GPU is lost")
    snapshot = until(sampler, lambda seen: up(seen) == [1, 1, 0, 1])
    lost = snapshot.readings[2]
    assert lost.device == hardware.gpus[2], "it still has its name"
    assert TEMPERATURE not in lost.values
    assert lost.values[READ_ERRORS["lost"]] >= 1
    assert snapshot.ok
    del hardware.failures[2]
    until(sampler, lambda seen: up(seen) == [1, 1, 1, 1])


def test_a_hung_gpu_is_parked_once_and_comes_back(make: Callable[..., Sampler], hardware: Hardware) -> None:
    sampler = make()
    before = until(sampler, lambda seen: seen.ok).readings[1].values[SENT]
    release = hardware.hung[1] = threading.Event()
    snapshot = until(sampler, lambda seen: up(seen) == [1, 0, 1, 1])
    assert snapshot.readings[1].failure is not None
    assert snapshot.readings[1].failure.reason == "timeout"
    assert snapshot.stuck == 1
    reads, siblings = hardware.reads[1], hardware.reads[0]
    until(sampler, lambda _: hardware.reads[0] >= siblings + 3)
    assert hardware.reads[1] == reads, "a parked read is not repeated"
    assert sampler.latest().readings[1].values[READ_ERRORS["timeout"]] == 1
    del hardware.hung[1]
    release.set()
    snapshot = until(sampler, lambda seen: up(seen) == [1, 1, 1, 1])
    assert snapshot.stuck == 0
    assert snapshot.readings[1].values[SENT] >= before + 2, "what the late reading counted is not lost"


def test_a_call_that_returns_just_past_its_deadline_is_not_parked_for_ever(hardware: Hardware) -> None:
    roster, device = Roster(), hardware.gpus[0]
    roster.enlist(hardware.gpus)
    roster.returned(device, Reading(device))
    roster.park(device)
    assert roster.hanging == 0
    assert [listed for listed, _ in roster.enlist(hardware.gpus)] == hardware.gpus
    assert roster.late_readings() == [Reading(device)]


def test_a_failed_source_does_not_forget_who_hangs(make: Callable[..., Sampler], hardware: Hardware) -> None:
    sampler = make()
    until(sampler, lambda seen: seen.ok)
    release = threading.Event()
    reads = list(hardware.reads)
    hardware.hung = {3: release}
    hardware.gone = "the driver is not loaded"
    until(sampler, lambda seen: seen.stuck == 1 and not seen.ok)
    until(sampler, lambda _: hardware.opened >= 2)
    assert hardware.reads[3] == reads[3] + 1, "read once, parked, not read again"
    hardware.hung = {}
    release.set()


def test_every_gpu_hangs(make: Callable[..., Sampler], hardware: Hardware) -> None:
    sampler = make()
    until(sampler, lambda seen: seen.ok)
    release = threading.Event()
    hardware.hung = dict.fromkeys(range(4), release)
    snapshot = until(sampler, lambda seen: seen.stuck == 4 and not seen.ok)
    assert up(snapshot) == [0, 0, 0, 0]
    assert sampler.ready() is not None
    assert sampler.live() is None, "a restart would freeze the GPU and hang again"
    hardware.hung = {}
    release.set()
    until(sampler, lambda seen: seen.ok and up(seen) == [1, 1, 1, 1])


def test_close_is_quick_while_everything_hangs(make: Callable[..., Sampler], hardware: Hardware) -> None:
    hardware.hung = dict.fromkeys(range(4), threading.Event())
    sampler = make(interval=300, timeout=200)
    until(sampler, lambda _: sum(hardware.reads) > 0)
    started = time.monotonic()
    sampler.close()
    assert time.monotonic() - started < 30, "a call that hangs takes a minute here"
    assert False not in hardware.closed, "the driver must not be shut down beneath a call"


def test_a_round_that_is_under_way_at_the_end_is_finished_and_the_driver_closed(
    make: Callable[..., Sampler], hardware: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_exporter.sampling.sampler._FINISH", patience())
    release = threading.Event()
    hardware.hung = dict.fromkeys(range(4), release)
    sampler = make(interval=300, timeout=200)
    until(sampler, lambda _: sum(hardware.reads) > 0)
    ending = threading.Thread(target=sampler.close)
    ending.start()
    wait_for(lambda: sampler._stopping)
    release.set()
    ending.join()
    assert hardware.closed == [False]


def test_what_was_left_open_beneath_a_call_that_hung_is_closed_at_the_end(hardware: Hardware) -> None:
    sampler = Sampler(
        open_source=hardware.open,
        source_name="made up",
        collection=CollectionConfig(timeout=0.2),
        build=Build("1", "3"),
    )
    release = hardware.hung[1] = threading.Event()
    sampler._cycle()
    assert sampler.latest().stuck == 1
    hardware.gone = "the driver is not loaded"
    sampler._cycle()
    assert hardware.closed == [True]
    release.set()
    wait_for(lambda: not sampler._stuck())
    sampler.close()
    assert hardware.closed == [True, False], "and not only by the next cycle, which does not come"


def test_a_bug_of_who_is_told_does_not_end_the_thread(
    make: Callable[..., Sampler], caplog: pytest.LogCaptureFixture
) -> None:
    def published(_: Snapshot) -> None:
        raise ZeroDivisionError

    sampler = make(published=published)
    first = until(sampler, lambda seen: seen.ok)
    until(sampler, lambda seen: seen.ok and seen.monotonic > first.monotonic)
    assert "this is a bug in gpu-exporter" in caplog.text


def test_a_reading_that_is_cut_short_by_the_end_is_no_failure(
    make: Callable[..., Sampler], hardware: Hardware, caplog: pytest.LogCaptureFixture
) -> None:
    hardware.hung = dict.fromkeys(range(1, 4), threading.Event())
    sampler = make(interval=300, timeout=200)
    until(sampler, lambda _: hardware.reads[1] > 0)
    sampler.close()
    wait_for(lambda: not sampler._thread.is_alive())
    assert "GPU is down" not in caplog.messages


def test_a_driver_that_goes_and_comes_back(make: Callable[..., Sampler], hardware: Hardware) -> None:
    sampler = make()
    until(sampler, lambda seen: seen.ok)
    hardware.gone = "the driver is not loaded"
    # Not only withheld, as on a busy machine: closed.
    snapshot = until(sampler, lambda seen: seen.driver is None)
    assert (snapshot.ok, snapshot.readings) == (False, ())
    assert sampler.ready() == "the driver is not loaded"
    assert hardware.closed == [False]
    hardware.gone = None
    snapshot = until(sampler, lambda seen: seen.ok)
    assert up(snapshot) == [1, 1, 1, 1]


def test_a_source_that_failed_beneath_a_hung_call_is_shut_down_when_that_returns(
    make: Callable[..., Sampler], hardware: Hardware
) -> None:
    sampler = make()
    until(sampler, lambda seen: seen.ok)
    release = hardware.hung[1] = threading.Event()
    until(sampler, lambda seen: seen.stuck == 1)
    hardware.gone = "the driver is not loaded"
    until(sampler, lambda _: hardware.closed == [True])
    del hardware.hung[1]
    hardware.gone = None
    release.set()
    until(sampler, lambda _: hardware.closed == [True, False])
    until(sampler, lambda seen: seen.ok and up(seen) == [1, 1, 1, 1])


def test_no_driver_at_the_start(make: Callable[..., Sampler], hardware: Hardware) -> None:
    hardware.gone = "libnvidia-ml.so.1 was not found"
    sampler = make()
    assert sampler.wait_first(patience())
    assert sampler.ready() == "libnvidia-ml.so.1 was not found"
    hardware.gone = None
    until(sampler, lambda seen: seen.ok)


def test_retries_back_off(make: Callable[..., Sampler], hardware: Hardware) -> None:
    hardware.gone = "no"
    sampler = make(interval=0.01)
    until(sampler, lambda _: hardware.opened == 2)
    # The opening is counted as it begins, its failure when it has ended.
    until(sampler, lambda _: sampler._lifecycle.retry_in != 2.0)
    assert sampler._lifecycle.retry_in == 4.0, "1 s, 2 s, 4 s"


def test_a_bug_does_not_end_the_thread(
    make: Callable[..., Sampler], hardware: Hardware, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = make()
    until(sampler, lambda seen: seen.ok)
    hardware.bug = True
    until(sampler, lambda seen: not seen.ok)
    assert "this is a bug in gpu-exporter" in caplog.text
    hardware.bug = False
    until(sampler, lambda seen: seen.ok)


def test_a_gpu_that_the_driver_no_longer_lists_is_still_told(make: Callable[..., Sampler], hardware: Hardware) -> None:
    sampler = make()
    until(sampler, lambda seen: seen.ok)
    missing = hardware.gpus.pop(3)
    snapshot = until(sampler, lambda seen: up(seen) == [1, 1, 1, 0])
    assert snapshot.readings[3].device == missing
    sampler.reconfigure(CollectionConfig(interval=0.05, timeout=1), ok=True)
    until(sampler, lambda seen: up(seen) == [1, 1, 1])


def test_a_gpu_lost_at_the_start_gets_its_name_when_it_answers(
    make: Callable[..., Sampler], hardware: Hardware
) -> None:
    named, hardware.gpus[1] = hardware.gpus[1], Device(1, "", "")
    hardware.failures[1] = Failure("lost", "GPU is lost")
    sampler = make()
    snapshot = until(sampler, lambda seen: up(seen) == [1, 0, 1, 1])
    assert snapshot.readings[1].device.uuid == ""
    hardware.gpus[1] = named
    del hardware.failures[1]
    snapshot = until(sampler, lambda seen: up(seen) == [1, 1, 1, 1])
    assert snapshot.readings[1].device == named
    hardware.gpus[1] = Device(1, "", "")
    hardware.failures[1] = Failure("lost", "GPU is lost")
    snapshot = until(sampler, lambda seen: up(seen) == [1, 0, 1, 1])
    assert snapshot.readings[1].device == named, "reopened while lost: its name is remembered"


def test_xids_reach_the_snapshot_and_outlive_the_gpu(make: Callable[..., Sampler], hardware: Hardware) -> None:
    sampler = make()
    until(sampler, lambda seen: seen.ok)
    hardware.events = [Xid(hardware.gpus[0], 79, 123.0)]
    hardware.failures[0] = Failure("lost", "GPU is lost")
    snapshot = until(sampler, lambda seen: bool(seen.readings) and bool(seen.readings[0].labelled))
    assert snapshot.readings[0].labelled[XID_ERRORS, ("79",)] == 1.0


def test_pause_closes_the_driver_and_resumes(make: Callable[..., Sampler], hardware: Hardware) -> None:
    sampler = make(interval=0.02)
    until(sampler, lambda seen: seen.ok)
    sampler.toggle_pause()
    snapshot = until(sampler, lambda seen: seen.paused)
    assert hardware.closed == [False]
    assert snapshot.readings == ()
    assert snapshot.ok, "no alert storm"
    assert sampler.ready() == "paused by SIGUSR1"
    reads = sum(hardware.reads)
    until(sampler, lambda seen: seen.monotonic > snapshot.monotonic + 0.1)
    assert sum(hardware.reads) == reads
    sampler.toggle_pause()
    until(sampler, lambda seen: bool(seen.readings) and not seen.paused)


def test_a_pause_ends_by_itself(make: Callable[..., Sampler]) -> None:
    sampler = make(interval=0.02, pause=0.1)
    until(sampler, lambda seen: seen.ok)
    sampler.toggle_pause()
    until(sampler, lambda seen: seen.paused)
    until(sampler, lambda seen: bool(seen.readings))


def test_an_old_snapshot_is_withheld(hardware: Hardware) -> None:
    now = 0.0
    sampler = Sampler(
        open_source=hardware.open,
        source_name="made up",
        collection=CollectionConfig(),
        build=Build("1", "3"),
        monotonic=lambda: now,
    )
    sampler._cycle()
    assert len(sampler.latest().readings) == 4
    now = 15.0
    assert len(sampler.latest().readings) == 4
    now = 15.1
    stale = sampler.latest()
    assert (stale.readings, stale.ok) == ((), False)
    assert sampler.latest() is stale, "rendered once as well"
    sampler.close()


def test_each_value_is_as_old_as_its_own_reading(hardware: Hardware) -> None:
    clock = Clock(100.0)
    sampler = Sampler(
        open_source=hardware.open,
        source_name="made up",
        collection=CollectionConfig(interval=5, timeout=3),
        build=Build("1", "3"),
        monotonic=clock,
        clock=lambda: 1000 + clock.now,
    )

    def takes(_: int) -> None:
        clock.now += 0.2

    hardware.begins = takes
    sampler._cycle()
    snapshot = sampler.latest()
    assert [reading.read_at for reading in snapshot.readings] == pytest.approx([100.0, 100.2, 100.4, 100.6])
    assert snapshot.timestamp == pytest.approx(1100.0), "of the oldest, not of the moment that all were there"
    assert sampler.age(snapshot) == pytest.approx(0.8)
    clock.now = 115.3
    aged = sampler.latest()
    assert [reading.device.index for reading in aged.readings] == [2, 3], "older than three intervals: withheld"
    assert aged.timestamp == pytest.approx(1100.4)
    assert aged.ok
    assert sampler.latest() is aged, "rendered once as well"
    clock.now = 115.7
    assert (sampler.latest().readings, sampler.latest().ok) == ((), False)
    assert sampler.ready() is not None
    sampler.close()


def test_slow_gpus_do_not_keep_the_healthy_ones_waiting(hardware: Hardware) -> None:
    """None overruns its deadline: what they took together made everybody late."""
    clock = Clock(10.0)
    beside: set[int] = set()
    together = threading.Barrier(3)
    sampler = Sampler(
        open_source=hardware.open,
        source_name="made up",
        collection=CollectionConfig(interval=0.5, timeout=0.3),
        build=Build("1", "3"),
        monotonic=clock,
    )

    def begins(index: int) -> None:
        if index == 0:
            clock.now += 0.28  # more than its share of a round, less than its deadline
        if index in {0, 1, 2}:  # each returns once all three have begun
            together.wait(patience())
            beside.add(index)

    hardware.begins = begins
    for _ in range(2):  # the second time it is known from the beginning who is slow
        beside.clear()
        sampler._cycle()
        assert up(sampler.latest()) == [1, 1, 1, 1]
        assert beside == {0, 1, 2}
        clock.now += 0.5
    sampler.close()


def test_a_machine_that_slept_serves_nothing_of_before(hardware: Hardware) -> None:
    awake, boot = Clock(), Clock()
    sampler = Sampler(
        open_source=hardware.open,
        source_name="made up",
        collection=CollectionConfig(),
        build=Build("1", "3"),
        monotonic=awake,
        since_boot=boot,
    )
    sampler._cycle()
    assert sampler.latest().ok
    awake.now, boot.now = 1.0, 8 * 3600.0
    assert (sampler.latest().readings, sampler.latest().ok) == ((), False)
    assert sampler.ready() is not None
    sampler._wait()
    sampler._cycle()
    assert sampler.latest().ok, "read at once, not at the next tick"
    assert sampler.latest().overruns == 0
    sampler.close()


def test_what_cannot_be_completed_is_one_gpus_failure(
    hardware: Hardware, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(gap=15)
    account = pipeline._ledger.account

    def fails(reading: Reading, *, now: float) -> Reading:
        if reading.device.index == 1 and reading.values:
            raise OverflowError("int too large to convert to float")
        return account(reading, now=now)

    monkeypatch.setattr(pipeline._ledger, "account", fails)
    clock = Clock()
    sampler = Sampler(
        open_source=hardware.open,
        source_name="made up",
        collection=CollectionConfig(),
        build=Build("1", "3"),
        monotonic=clock,
        pipeline=pipeline,
    )
    for at in range(0, 50, 5):
        clock.now = at
        sampler._cycle()
        assert up(sampler.latest()) == [1, 0, 1, 1]
    assert sampler.latest().readings[1].values[READ_ERRORS["unknown"]] == 10
    assert caplog.text.count("this is a bug in gpu-exporter") == 1, "logged once"
    sampler.close()


def test_a_container_that_lost_its_devices_asks_for_a_restart(hardware: Hardware) -> None:
    now = 0.0
    sampler = Sampler(
        open_source=hardware.open,
        source_name="made up",
        collection=CollectionConfig(),
        build=Build("1", "3"),
        monotonic=lambda: now,
    )

    def cycle(at: float) -> str | None:
        nonlocal now
        now = at
        sampler._cycle()
        return sampler.live()

    everything_unknown = {index: Failure("unknown", "Unknown Error") for index in range(4)}
    hardware.failures = everything_unknown
    cycle(0)
    assert cycle(400) is None, "never worked: a restart would not help"
    hardware.failures = {}
    cycle(405)
    hardware.failures = dict(everything_unknown)
    assert cycle(410) is None
    assert cycle(709) is None
    assert "restart" in (cycle(710) or "")
    hardware.failures[0] = Failure("lost", "GPU is lost")
    assert cycle(715) is None, "a lost GPU is another trouble"
    hardware.failures = dict(everything_unknown)
    assert cycle(720) is None
    late = {**everything_unknown, 2: Failure("timeout", "its driver call took longer than 3 s")}
    hardware.failures = late
    assert cycle(900) is None
    hardware.failures = dict(everything_unknown)
    assert cycle(1019) is None
    assert "restart" in (cycle(1020) or ""), "a call that was late for once is no answer"
    hardware.failures = late
    assert cycle(1025) is None, "while a call hangs the process is better not ended"
    hardware.failures = dict(everything_unknown)
    assert "restart" in (cycle(1030) or "")
    hardware.failures = {1: everything_unknown[1]}
    assert cycle(1035) is None
    sampler.close()


@pytest.fixture
def virtual(hardware: Hardware) -> Iterator[Callable[[float], Sampler]]:
    """A sampler that makes a cycle at the moment that it is given."""
    clock = Clock()
    sampler = Sampler(
        open_source=hardware.open,
        source_name="made up",
        collection=CollectionConfig(),
        build=Build("1", "3"),
        monotonic=clock,
    )

    def cycle(at: float) -> Sampler:
        clock.now = at
        sampler._cycle()
        return sampler

    yield cycle
    sampler.close()


@pytest.mark.parametrize(("helps", "expected"), [(True, "restart"), (False, "")])
def test_a_driver_that_cannot_be_opened_any_more(
    virtual: Callable[[float], Sampler], hardware: Hardware, helps: bool, expected: str
) -> None:
    hardware.refused = SourceError("unknown (NVML error 999)", restart_may_help=helps)
    for at in range(0, 400, 5):
        assert virtual(at).live() is None, "it never worked: a restart would not help"
    hardware.refused = None
    assert virtual(460).latest().ok
    hardware.gone = "the driver is gone"
    virtual(465)
    hardware.gone, hardware.refused = None, SourceError("unknown (NVML error 999)", restart_may_help=helps)
    for at in range(470, 765, 5):
        assert virtual(at).live() is None
    assert expected in (virtual(775).live() or "")
    assert (virtual(780).live() is not None) == helps
    hardware.refused = None
    assert virtual(900).live() is None


def test_the_backoff_goes_on_where_opening_works_and_reading_does_not(
    virtual: Callable[[float], Sampler], hardware: Hardware
) -> None:
    hardware.broken = "NVML was shut down"
    for at in range(300):
        virtual(at)
    assert hardware.opened <= 10, "1, 2, 4, 8, 16, 32, 60 s apart"
    hardware.broken = None
    virtual(400)
    hardware.broken = "NVML was shut down"
    before = hardware.opened
    for at in range(401, 404):
        virtual(at)
    assert hardware.opened > before, "it had worked: tried again soon"


def test_gpus_that_come_are_read_in_the_same_cycle(virtual: Callable[[float], Sampler], hardware: Hardware) -> None:
    new = hardware.gpus.pop()
    assert len(virtual(0).latest().readings) == 3
    hardware.gpus.append(new)
    hardware.changed = True
    snapshot = virtual(5).latest()
    assert (up(snapshot), snapshot.ok) == ([1, 1, 1, 1], True)
    assert (hardware.opened, hardware.closed) == (2, [False])


def test_no_gpu_is_no_success(virtual: Callable[[float], Sampler], hardware: Hardware) -> None:
    gpus, hardware.gpus = hardware.gpus, []
    snapshot = virtual(0).latest()
    assert (snapshot.ok, snapshot.readings) == (False, ())
    assert snapshot.driver is not None
    assert virtual(1).ready() == "the driver lists no GPU"
    hardware.gpus = gpus
    hardware.reads = [0] * 4
    assert virtual(70).latest().ok
    assert virtual(71).ready() is None


def test_a_bug_in_one_gpus_reading_is_its_failure(
    virtual: Callable[[float], Sampler], hardware: Hardware, caplog: pytest.LogCaptureFixture
) -> None:
    hardware.bugs = {2: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")}
    for at in range(0, 50, 5):
        assert up(virtual(at).latest()) == [1, 1, 0, 1]
    assert virtual(50).latest().readings[2].values[READ_ERRORS["unknown"]] == 11
    assert caplog.text.count("this is a bug in gpu-exporter") == 1, "logged once"


def test_a_storm_of_xids_is_summed_up(
    virtual: Callable[[float], Sampler], hardware: Hardware, caplog: pytest.LogCaptureFixture
) -> None:
    virtual(0)
    hardware.events = [Xid(hardware.gpus[0], 79, 1.0, count=1000)]
    hardware.events += [Xid(hardware.gpus[1], 7_000_000 + number, 1.0) for number in range(5000)]
    hardware.events += [Xid(hardware.gpus[1], 79, 1.0)]
    caplog.clear()
    labelled = [reading.labelled for reading in virtual(5).latest().readings]
    assert labelled[0][XID_ERRORS, ("79",)] == 1000
    assert len(labelled[1]) < 100
    assert labelled[1][XID_ERRORS, ("79",)] == 1, "a real number has its place, however many others there are"
    assert labelled[1][XID_ERRORS, ("other",)] == 5000 - 32
    assert len(caplog.messages) < 30


def test_missed_ticks_are_counted(make: Callable[..., Sampler], hardware: Hardware) -> None:
    started = time.monotonic()
    sampler = make(interval=0.02, timeout=patience())
    until(sampler, lambda seen: seen.ok)
    release = hardware.hung[0] = threading.Event()
    threading.Timer(0.2, release.set).start()
    overruns = until(sampler, lambda seen: seen.overruns >= 5).overruns
    assert overruns <= (time.monotonic() - started) / 0.02, "no more than there were ticks"


def test_a_changed_interval_counts_from_the_next_tick(make: Callable[..., Sampler], hardware: Hardware) -> None:
    sampler = make(interval=30, timeout=1)
    until(sampler, lambda seen: seen.ok)
    sampler.reconfigure(CollectionConfig(interval=0.02, timeout=1, expected_gpus=8), ok=True)
    until(sampler, lambda _: hardware.reads[0] > 3)
    assert sampler.latest().gpus_expected == 8
    sampler.reconfigure(CollectionConfig(interval=0.02, timeout=1), ok=False)
    until(sampler, lambda seen: not seen.config_ok)


def test_settings_change_from_outside_while_devices_come_and_go(
    hardware: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wished from another thread is granted between two readings, never in the midst of one."""
    sampler = Sampler(
        open_source=hardware.open, source_name="made up", collection=CollectionConfig(), build=Build("1", "3")
    )
    names = 256
    failed: list[Exception] = []
    ended = threading.Event()
    apply, appliers = sampler._apply, set()

    def noted(collection: CollectionConfig, *, ok: bool) -> None:
        appliers.add(threading.current_thread())
        apply(collection, ok=ok)

    monkeypatch.setattr(sampler, "_apply", noted)

    def reload_again_and_again() -> None:
        try:
            while not ended.is_set():
                sampler.reconfigure(CollectionConfig(expected_gpus=names), ok=True)
        except Exception as error:  # noqa: BLE001 - told below, whatever it is
            failed.append(error)

    before = sys.getswitchinterval()
    outside = threading.Thread(target=reload_again_and_again)
    sys.setswitchinterval(1e-6)
    try:
        outside.start()
        for generation in range(40):
            # Half of them have no name yet: they get one in the next generation, as the others lose theirs.
            named = [f"GPU-{generation}-{index}" if (generation + index) % 2 else "" for index in range(names)]
            hardware.gpus = [Device(index, name, "H100") for index, name in enumerate(named)]
            hardware.reads = [0] * names
            sampler._cycle()
            told = {reading.device.uuid for reading in sampler.latest().readings}
            assert told >= {device.uuid for device in hardware.gpus if device.uuid}
    finally:
        ended.set()
        sys.setswitchinterval(before)
        outside.join()
        sampler.close()
    assert failed == []
    assert appliers == {threading.current_thread()}
    assert sampler.latest().gpus_expected == names


# --- light readings, and who scrapes ----------------------------------------------------------------------------------


class Light(Source):
    """Also has light readings."""

    def read_light(self, device: Device, *, buffers: bool) -> Reading:
        self.hardware.reads[device.index] += 1
        return Reading(device, {TEMPERATURE: 70.0}, only=frozenset({TEMPERATURE}))


def test_between_full_readings_are_light_ones_unless_somebody_watches(hardware: Hardware) -> None:
    clock = Clock()
    sampler = Sampler(
        open_source=lambda: Light(hardware),
        source_name="made up",
        collection=CollectionConfig(),
        build=Build("1", "3"),
        monotonic=clock,
        light=True,
    )
    try:
        sampler._cycle()
        assert sampler._has_light()
        full = sampler.latest()
        clock.now = 5.0
        sampler._due = Due(5.0, "light")
        sampler._cycle()
        light = sampler.latest()
        assert [reading.values[TEMPERATURE] for reading in light.readings] == [70.0] * 4
        assert (light.monotonic, light.full_at) == (5.0, full.full_at)
        assert light.duration == full.duration, "of the full reading"
        sampler.scraped("somebody", light)
        clock.now = 10.0
        sampler._due = Due(10.0, "full")
        sampler._cycle()
        ages = sampler.latest().ages
        assert ages is not None
        assert (sum(ages.counts), ages.total) == (1, 5.0)
        sampler.watched()
        assert not sampler._has_light()
        clock.now = 100.0
        assert sampler._has_light()
    finally:
        sampler.close()


def test_a_gpu_that_failed_is_read_in_full_before_light_readings_mean_anything(hardware: Hardware) -> None:
    rounds = Round(roster=Roster(), poller=Poller(name="test"))
    source = Light(hardware)

    def light() -> dict[int, bool]:
        ask = partial(source.read_light, buffers=False)
        return {each.device.index: each.only is not None for each in rounds.read_all(source, timeout=5.0, ask=ask)}

    rounds.read_all(source, timeout=5.0)
    assert set(light().values()) == {True}
    first, *others = (device.index for device in source.devices)
    hardware.bugs[first] = ZeroDivisionError()
    rounds.read_all(source, timeout=5.0)
    del hardware.bugs[first]
    assert light() == {first: False, **dict.fromkeys(others, True)}, "it has to tell everything anew"
    assert set(light().values()) == {True}
