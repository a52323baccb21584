"""Light readings between full ones: what they ask, what stands meanwhile, and that nothing is lost by them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pynvml
import pytest
import tools.lab.nvml_stub
from tools.lab.clock import Clock
from tools.lab.nvml_stub import Process, Stub

from gpu_exporter.catalog import ASKED, OWNER_ENERGY, OWNER_SECONDS, SCORE_SECONDS, STATE_SECONDS, by_name
from gpu_exporter.catalog.prices import PRICES
from gpu_exporter.catalog.row import Call, Field, Metric, Samples
from gpu_exporter.model import Identity, Reading
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sampling.rhythm import Rhythm
from gpu_exporter.sampling.schedule import Schedule
from gpu_exporter.sources.nvml import NvmlSource

BUSY, ENERGY = by_name("gpu_busy_seconds_total"), by_name("gpu_energy_joules_total")
THROTTLED = by_name("gpu_clock_event_seconds_total", reason="sw_power_cap")
TEMPERATURE, CLOCK = by_name("gpu_temperature_celsius"), by_name("gpu_clock_hertz", clock="sm")
MIB = 2**20
PRICED = Path(tools.lab.nvml_stub.__file__).with_name("h200-prices.json")
# The dear calls; what fails here is not asked.
DEAR = (
    "nvmlDeviceGetSamples",
    "nvmlDeviceGetProcessUtilization",
    "nvmlGpmSampleGet",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetBAR1MemoryInfo",
    "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetTemperatureThreshold",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetMigMode",
)


class Names:
    """Every process is the user's whose number its pid begins with."""

    visible = True
    trouble = ""

    def identity(self, pid: int, *, listed_at: float | None = None) -> Identity | None:
        return Identity("python3", f"user{pid // 1000}")

    def pod_uid(self, pid: int) -> str:
        return ""

    def forget_but(self, pids: Sequence[int]) -> None:
        pass

    def close(self) -> None:
        pass


class Machine:
    """One GPU whose clocks stand still between readings."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.began = stub.now
        self.clock = Clock(100.0, ahead=stub.now - 100.0)
        self.pipeline = Pipeline(gap=15.0, resolver=Resolver(processes=Names()))
        self.source = NvmlSource(processes=15.0, light=True, monotonic=self.clock, clock=self.clock.time)

    def to(self, seconds: float) -> None:
        self.clock.now = 100.0 + seconds
        self.stub.now = self.began + seconds

    def full(self) -> Reading:
        (device,) = self.source.devices
        return self._complete(self.source.read(device))

    def light(self, *, buffers: bool = False) -> Reading:
        (device,) = self.source.devices
        return self._complete(self.source.read_light(device, buffers=buffers))

    def _complete(self, reading: Reading) -> Reading:
        (complete,) = self.pipeline.complete([reading], self.clock.now)
        return complete


@pytest.fixture
def machine(here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> Iterator[Machine]:
    made = Machine(here(stub("h100")))
    yield made
    made.source.close()


def test_a_light_reading_asks_for_nothing_dear(machine: Machine) -> None:
    full = machine.full()
    for function in DEAR:
        machine.stub.fail(function, 999)
    machine.stub.set(0, "temperature", 71)
    machine.stub.set(0, "energy", 123_456_789_000)
    machine.to(5.0)
    light = machine.light()
    assert (light.failure, light.partial, light.refused) == (None, "", ())
    assert light.values[TEMPERATURE] == 71
    assert light.values[ENERGY] == full.values[ENERGY], "what was not asked stands"
    assert light.values[CLOCK] == full.values[CLOCK]
    assert light.values.keys() == full.values.keys()
    assert light.labelled.keys() == full.labelled.keys()


def test_what_a_light_reading_is_refused_is_absent_and_does_not_stand(machine: Machine) -> None:
    machine.full()
    machine.stub.fail("nvmlDeviceGetTemperatureV", 999)
    machine.to(5.0)
    assert TEMPERATURE not in machine.light().values


def test_a_gpu_that_is_lost_is_down_at_once_and_comes_back(machine: Machine) -> None:
    machine.full()
    machine.stub.lose(0)
    machine.to(5.0)
    lost = machine.light()
    assert lost.failure is not None
    assert lost.failure.reason == "lost"
    machine.stub.recover(0)
    machine.to(10.0)
    back = machine.light()
    assert back.failure is None
    assert back.only is None, "a GPU that was down is read in full"


def test_who_held_it_between_full_readings_is_charged_for_that(machine: Machine) -> None:
    machine.stub.set(0, "utilization", 100)

    def held_by(pid: int) -> None:
        machine.stub.processes(0, [Process(pid, 19_810 * MIB)])

    held_by(1001)
    machine.full()
    machine.to(5.0)
    machine.light()
    held_by(2001)
    machine.to(10.0)
    between = machine.light(buffers=True)
    assert [hold.owner.name for hold in between.holds or ()] == ["user2"]
    machine.to(15.0)
    told = machine.full()
    seconds = {
        labels[1]: value for (row, labels), value in told.labelled.items() if row is OWNER_SECONDS["active"] and value
    }
    assert seconds == pytest.approx({"user1": 5.0, "user2": 10.0})
    assert told.values[STATE_SECONDS["active"]] == pytest.approx(15.0)
    assert told.values[BUSY] == pytest.approx(15.0, abs=0.4)


def test_the_time_before_a_gpu_is_lost_is_told_as_unknown(machine: Machine) -> None:
    machine.full()
    machine.to(5.0)
    machine.light()
    machine.stub.lose(0)
    machine.to(10.0)
    values = machine.light().values
    assert values[STATE_SECONDS["unknown"]] == pytest.approx(5.0)
    assert values[STATE_SECONDS["down"]] == pytest.approx(5.0)


def _busy(seconds: float) -> float:
    """For how long the GPU was busy by then, that is for 7 s of each 10."""
    return 7.0 * (seconds // 10.0) + min(seconds % 10.0, 7.0)


_THROTTLED = 0.4  # share of the time for which power held the clocks down


def _owned(reading: Reading) -> dict[Metric, float]:
    """The owners' counters, of the one owner that there is."""
    rows = (*OWNER_SECONDS.values(), OWNER_ENERGY)
    return {row: sum(value for (told, _), value in reading.labelled.items() if told is row) for row in rows}


@pytest.mark.parametrize("period", [10.0, 15.0])
def test_what_is_asked_once_a_minute_makes_no_light_reading_a_full_one(
    here: Callable[[Stub], Stub], stub: Callable[..., Stub], period: float
) -> None:
    """Light ones each 5 s, full ones each ``period``: eight GPUs begin at different moments of the minute."""
    driver = here(stub(*["h100"] * 8))
    clock = Clock(100.0, ahead=driver.now - 100.0)
    source = NvmlSource(processes=15.0, light=True, monotonic=clock, clock=clock.time)
    light: list[Reading] = []
    asked: dict[float, int] = {}
    for step in range(61):
        clock.now = 100.0 + 5.0 * step
        before = driver.calls().get("nvmlDeviceGetBAR1MemoryInfo", 0)
        if full := 5.0 * step % period == 0:
            readings = [source.read(device) for device in source.devices]
        else:
            readings = [source.read_light(device, buffers=False) for device in source.devices]
            light += readings
        asked[5.0 * step] = driver.calls().get("nvmlDeviceGetBAR1MemoryInfo", 0) - before
        assert full or not asked[5.0 * step]
    source.close()
    assert light
    assert all(reading.only is not None for reading in light)
    assert sum(asked.values()) <= 8 * (1 + 300 / 45), "once in 45 s at most"
    for since in range(0, 240, 5):
        assert sum(count for at, count in asked.items() if since < at <= since + 60) >= 8, "each within a minute"
    assert max(count for at, count in asked.items() if at > 60) <= 4, "not of all GPUs at once"


@pytest.mark.parametrize("period", [10.0, 15.0, 30.0, 60.0])
def test_rates_over_one_scrape_interval_are_the_truth(machine: Machine, period: float) -> None:
    """Busy for 7 s of each 10: what a scraper with a rhythm computes from two scrapes is within 3 % of that."""
    stub, rhythm = machine.stub, Rhythm(interval=5.0)
    stub.buffer(0, 84)  # 14 s, as that of an H200
    stub.processes(0, [Process(1001, 19_810 * MIB)])
    plan = Schedule(interval=5.0, now=0.0, rhythm=rhythm)
    reading, read_at, scraped = machine.full(), 0.0, []
    scrapes = [3.0 + period * number for number in range(max(9, int(330 / period)))]
    changes = [(10.0 * number + at, busy) for number in range(60) for at, busy in ((0.0, 100), (7.0, 0))]
    joules, power = 0.0, 500.0
    before = 0.0
    while scrapes:
        due = plan.due(machine.clock.now - 100.0, light=True)
        at = max(due.at, machine.clock.now - 100.0)
        if scrapes[0] < at:
            machine.to(scrapes[0])
            rhythm.note("prometheus", scrapes.pop(0))
            scraped.append((read_at, {**reading.values, **_owned(reading)}))
            continue
        while changes and changes[0][0] <= at:
            moment, busy = changes.pop(0)
            machine.to(moment)
            stub.set(0, "utilization", busy)
        machine.to(at)
        joules += power * (at - before)
        before = at
        stub.set(0, "energy", round(joules * 1000))
        stub.set(0, "reason_ns_power", round(_THROTTLED * at * 1e9))
        plan.began(due, at)
        if due.kind == "full":
            reading, read_at = machine.full(), at
        elif due.kind == "light":
            reading = machine.light(buffers=due.buffers)
        else:
            pytest.fail("with light readings there is no look at buffers alone")
    known = scraped[4:]
    for (since, old), (until, new) in pairwise(known):
        assert (new[ENERGY] - old[ENERGY]) / period == pytest.approx(power, rel=0.03)
        states = sum(new[row] - old[row] for row in STATE_SECONDS.values())
        assert states / period == pytest.approx(1.0, rel=0.03)
        held = sum(new[row] - old[row] for row in OWNER_SECONDS.values())
        assert held / period == pytest.approx(1.0, rel=0.03)
        assert (new[OWNER_ENERGY] - old[OWNER_ENERGY]) / period == pytest.approx(power, rel=0.03)
        assert (new[THROTTLED] - old[THROTTLED]) / period == pytest.approx(_THROTTLED, rel=0.03)
        truth = _busy(until) - _busy(since)
        assert new[BUSY] - old[BUSY] == pytest.approx(truth, abs=0.03 * period)
        assert new[SCORE_SECONDS] - old[SCORE_SECONDS] <= 1.03 * period
    first, last = known[0], known[-1]
    whole = (last[1][BUSY] - first[1][BUSY]) / (last[0] - first[0])
    assert whole == pytest.approx(0.7, rel=0.03), "nothing is lost"


# --- prices -----------------------------------------------------------------------------------------------------------


def recorded() -> dict[str, int]:
    """Microseconds of the calls, fields and buffers that were recorded, by the names that the catalogue has."""
    told = json.loads(PRICED.read_text())
    numbers = {getattr(pynvml, name): name for name in PRICES if name.startswith("NVML_FI_")}
    fields = {numbers[int(number)]: both[0] for number, both in told["fields"].items() if int(number) in numbers}
    buffers = {name: told["samples"][str(getattr(pynvml, name))][0] for name in PRICES if name.endswith("_SAMPLES")}
    return {**{name: both[0] for name, both in told["functions"].items()}, **fields, **buffers}


@pytest.mark.parametrize("name", sorted(PRICES.keys() & recorded().keys()))
def test_prices_are_those_that_were_recorded(name: str) -> None:
    price, microseconds = PRICES[name], recorded()[name]
    assert price.microseconds is not None
    assert 0.5 * microseconds <= price.microseconds <= 2 * microseconds
    assert price.microseconds <= {"light": 300, "never": 1e9}.get(price.pace, 5000)


def test_every_dear_call_has_its_class() -> None:
    columns = {column.name for metric in ASKED for column in metric.nvml if isinstance(column, Call | Field | Samples)}
    dear = {name for name, microseconds in recorded().items() if microseconds > 300 and name in columns}
    assert dear <= PRICES.keys()


@pytest.mark.parametrize("metric", ASKED, ids=repr)
def test_what_no_metric_is_worth_is_not_asked(metric: Metric) -> None:
    never = {name for name, price in PRICES.items() if price.pace == "never"}
    assert never.isdisjoint(column.name for column in metric.nvml if isinstance(column, Call | Field | Samples))


def test_the_stand_in_charges_what_was_recorded(here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> None:
    here(stub("h100", priced=True))
    pynvml.nvmlInit()
    asked: list[tuple[str, tuple[object, ...], float]] = [
        ("nvmlDeviceGetHandleByIndex", (0,), 50e-3),  # pays for the first call of all
        ("nvmlDeviceGetTotalEnergyConsumption", (), 2.8e-3),
        ("nvmlDeviceGetFieldValues", ([83],), 2.7e-3),
        ("nvmlDeviceGetEnforcedPowerLimit", (), 0.6e-3),
    ]
    handle: tuple[object, ...] = ()
    try:
        for name, arguments, least in asked:
            before = time.thread_time()
            answer = getattr(pynvml, name)(*handle, *arguments)
            assert time.thread_time() - before >= least, "it spins for so long at least, however busy the machine is"
            handle = handle or (answer,)
    finally:
        pynvml.nvmlShutdown()
