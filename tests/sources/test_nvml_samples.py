"""What the driver samples by itself, whatever its clock and buffer do: real pynvml, source and ledger, no real time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest
from tools.lab.clock import Clock
from tools.lab.nvml_stub import Stub

from gpu_exporter.catalog import STATE_SECONDS, by_name
from gpu_exporter.model import Reading
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources.nvml import NvmlSource

# nvml.h, nvmlSamplingType_t; and what says "no such samples" in nvmlReturn_t.
POWER, UTILIZATION, MEMORY = 0, 1, 2
NOT_FOUND: Final = 6
HOUR: Final = 3600.0
BUSY, RATE = by_name("gpu_busy_seconds_total"), by_name("gpu_utilization_ratio")
MEMORY_IO, ENERGY = by_name("gpu_memory_io_busy_seconds_total"), by_name("gpu_energy_joules_total")
Begin = Callable[..., "Machine"]


class Machine:
    """One GPU that is looked at every ``every`` seconds, by a driver's clock and ours that both stand still between."""

    def __init__(self, stub: Stub, *, every: float) -> None:
        self.stub = stub
        self.every = every
        self.clock = Clock(100.0, ahead=stub.now - 100.0)
        self.pipeline = Pipeline(gap=3 * every)
        self.source = self.open()
        self.begun = self.clock.now
        self.latest = self.look()

    def open(self) -> NvmlSource:
        return NvmlSource(monotonic=self.clock, clock=self.clock.time)

    def reopen(self) -> None:
        self.pipeline.interrupt()
        self.source.close()
        self.source = self.open()

    def look(self) -> Reading:
        (device,) = self.source.devices
        (self.latest,) = self.pipeline.complete([self.source.read(device)], self.clock.now)
        assert self.latest.failure is None
        return self.latest

    def look_for(self, seconds: float) -> Reading:
        """So many seconds pass, with readings."""
        end = self.clock.now + seconds
        while self.clock.now < end - 1e-6:
            self.pass_by(min(self.every, end - self.clock.now))
            self.look()
        return self.latest

    def pass_by(self, seconds: float) -> None:
        self.clock.now += seconds
        self.stub.now = self.clock.time()

    @property
    def busy(self) -> float:
        return self.latest.values[BUSY]

    @property
    def watched(self) -> float:
        return self.clock.now - self.begun

    @property
    def states(self) -> dict[str, float]:
        return {state: value for state, row in STATE_SECONDS.items() if (value := self.latest.values[row])}


@pytest.fixture
def begin(here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> Iterator[Begin]:
    machines: list[Machine] = []

    def make(utilization: int = 100, *, every: float = 0.5, prepare: Callable[[Stub], None] | None = None) -> Machine:
        machine = here(stub("h100", now=1_800_000_000.0))
        with machine.batch():
            machine.set(0, "utilization", utilization)
            machine.set(0, "memory_utilization", utilization)
            machine.now += 30.0  # that the buffers are full
            if prepare is not None:
                prepare(machine)
        machines.append(Machine(machine, every=every))
        return machines[-1]

    yield make
    for machine in machines:
        machine.source.close()


def test_a_steady_clock_loses_nothing(begin: Begin) -> None:
    machine = begin(40)
    machine.look_for(20)
    assert machine.busy == pytest.approx(8.0, abs=0.2)
    assert machine.latest.values[MEMORY_IO] == pytest.approx(8.0, abs=0.2)
    assert machine.states == {"active": 20.0}


# --- clocks that are set --------------------------------------------------------------------------------------------

STEPS: Final = (-HOUR, HOUR, -24 * HOUR, 24 * HOUR, -3.1, 3.1, -0.4, 0.4)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("every", [0.1, 0.5, 5.0])
def test_a_clock_that_is_set_while_it_runs(begin: Begin, step: float, every: float) -> None:
    machine = begin(every=every)
    machine.look_for(20)
    machine.stub.set_clock(step)
    before = machine.busy
    machine.look_for(5)
    assert machine.busy - before == pytest.approx(5.0, abs=max(0.5, every / 10)), "it counts on at once"
    machine.look_for(30)
    assert machine.busy == pytest.approx(55.0, abs=2.0)
    assert machine.busy <= machine.watched + 1e-6
    assert machine.states == {"active": pytest.approx(machine.watched)}


@pytest.mark.parametrize("step", STEPS)
def test_an_idle_gpu_stays_idle_when_the_clock_is_set(begin: Begin, step: float) -> None:
    machine = begin(0, every=5.0)
    machine.look_for(20)
    machine.stub.set_clock(step)
    machine.look_for(20)
    assert machine.busy == 0.0
    assert machine.states == {"idle_held": 40.0}, "some of its memory is in use"


@pytest.mark.parametrize("step", STEPS)
def test_a_clock_that_is_set_between_two_readings(begin: Begin, step: float) -> None:
    machine = begin(every=5.0)
    machine.look_for(20)
    machine.pass_by(2.5)
    machine.stub.set_clock(step)
    machine.pass_by(2.5)
    machine.look()
    machine.look_for(20)
    assert machine.busy == pytest.approx(45.0, abs=0.5)
    assert machine.states == {"active": 45.0}


def test_a_clock_that_ntp_slews(begin: Begin) -> None:
    machine = begin(50, every=1.0)
    for _ in range(60):
        machine.stub.set_clock(0.0005)  # 500 ppm, the most that the kernel slews
        machine.look_for(1)
    assert machine.busy == pytest.approx(30.0, abs=0.3)


def test_a_clock_that_is_set_again_and_again(begin: Begin) -> None:
    machine = begin(every=1.0)
    for step in (-HOUR, HOUR, -HOUR, 24 * HOUR, -5.0, 5.0):
        machine.stub.set_clock(step)
        machine.look_for(6)
    assert machine.busy == pytest.approx(36.0, abs=1.5)
    assert machine.states == {"active": 36.0}


def test_a_clock_that_counts_from_the_start_of_the_machine(begin: Begin) -> None:
    machine = begin(60, prepare=lambda machine: machine.set_clock(-1_799_990_000.0))
    machine.look_for(20)
    assert machine.busy == pytest.approx(12.0, abs=0.2)


# --- buffers that tell nothing, or nonsense -------------------------------------------------------------------------


def no_samples(machine: Stub) -> None:
    machine.samples(0, UTILIZATION, [])
    machine.samples(0, MEMORY, [])


def not_found(machine: Stub) -> None:
    machine.fail("nvmlDeviceGetSamples", NOT_FOUND)


def unstamped(machine: Stub) -> None:
    machine.samples(0, UTILIZATION, [(0, 100)] * 20)


def from_the_future(machine: Stub) -> None:
    machine.samples(0, UTILIZATION, [(4_000_000_000_000_000, 0)])


def frozen(machine: Stub) -> None:
    start = round(machine.now * 1e6) - 3_000_000
    machine.samples(0, UTILIZATION, [(start + 166_667 * beat, 100) for beat in range(18)])


def broken(machine: Stub) -> None:
    machine.fail("nvmlDeviceGetSamples", 999)


@pytest.mark.parametrize("silence", [no_samples, not_found, unstamped, from_the_future, frozen, broken])
@pytest.mark.parametrize("every", [0.5, 5.0])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_where_the_buffer_says_nothing_the_rate_is_integrated(
    begin: Begin, silence: Callable[[Stub], None], every: float, *, from_the_start: bool
) -> None:
    machine = begin(every=every, prepare=silence if from_the_start else None)
    machine.look_for(10)
    silence(machine.stub)
    machine.look_for(10)
    before = machine.busy
    machine.look_for(5)
    assert machine.busy - before == pytest.approx(5.0, abs=0.01), "a second a second, and no sooner or later"
    assert machine.busy == pytest.approx(25.0, abs=0.5)
    assert machine.states == {"active": 25.0}


@pytest.mark.parametrize("silence", [no_samples, not_found, unstamped, from_the_future])
def test_where_neither_buffer_nor_rate_says_anything_nothing_is_known(
    begin: Begin, silence: Callable[[Stub], None]
) -> None:
    machine = begin()
    machine.look_for(5)
    before = machine.busy
    silence(machine.stub)
    machine.stub.fail("nvmlDeviceGetUtilizationRates", 999)
    machine.look_for(10)
    assert machine.busy == pytest.approx(before, abs=0.2)
    assert machine.states == {"active": 5.0, "unknown": 10.0}
    machine.stub.fail("nvmlDeviceGetUtilizationRates", 0)
    machine.stub.fail("nvmlDeviceGetSamples", 0)
    machine.stub.samples(0, UTILIZATION, None)
    machine.look_for(10)
    assert machine.busy - before == pytest.approx(10.0, abs=0.7), "what nobody saw is not made up for"
    assert machine.states["active"] == 15.0


def test_a_buffer_that_speaks_again_counts_nothing_twice(begin: Begin) -> None:
    machine = begin()
    for _ in range(5):
        no_samples(machine.stub)
        machine.look_for(7)
        machine.stub.samples(0, UTILIZATION, None)
        machine.stub.samples(0, MEMORY, None)
        machine.look_for(7)
    assert machine.watched - 1.5 <= machine.busy <= machine.watched + 1e-6


Sampled = list[tuple[int, int]]


def among(good: Sampled, *bad: tuple[int, int]) -> Sampled:
    """The bad ones in the middle."""
    return [*good[: len(good) // 2], *bad, *good[len(good) // 2 :]]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: among(good, (good[-1][0] + 3_600_000_000, 50)),
        lambda good: among(good, (2**63, 50)),
        lambda good: among(good, (1, 50)),
        lambda good: among(good, (0, 50)),
        lambda good: [*good, (good[-1][0] + 86_400_000_000, 50)],
        lambda good: good[::-1],
        lambda good: good[1::2] + good[::2],
        lambda good: [sample for sample in good for _ in range(2)],
        lambda good: [*good, *good],
        lambda good: among(good, *[(0, 50)] * 20),
    ],
    ids=[
        "ahead",
        "far ahead",
        "1970",
        "no stamp",
        "newest ahead",
        "reversed",
        "mixed",
        "twice",
        "again",
        "many unstamped",
    ],
)
def test_bad_stamps_among_good_ones(begin: Begin, spoil: Callable[[Sampled], Sampled]) -> None:
    machine = begin(50)
    machine.stub.set(0, "utilization", 50)
    for _ in range(30):
        machine.pass_by(1.0)
        newest = round(machine.clock.time() * 1e6) // 200_000
        good = [(beat * 200_000, 50) for beat in range(newest - 50, newest + 1)]
        machine.stub.samples(0, UTILIZATION, spoil(good))
        machine.look()
    assert machine.busy == pytest.approx(15.0, abs=0.6)
    assert machine.states == {"active": 30.0}


@pytest.mark.parametrize("value", [808, 101, 0xFFFFFFFF, 0xFFFFFFFE])
def test_one_impossible_sample_spoils_nothing(begin: Begin, value: int) -> None:
    machine = begin(50)
    bad = round(machine.clock.time() * 1e6) + 3_050_000
    for _ in range(20):
        machine.pass_by(0.5)
        now = round(machine.clock.time() * 1e6)
        samples = [(beat * 200_000, 50) for beat in range(now // 200_000 - 50, now // 200_000 + 1)]
        machine.stub.samples(0, UTILIZATION, [*samples, (bad, value)] if bad <= now else samples)
        machine.look()
    assert machine.busy == pytest.approx(5.0, abs=0.5)
    assert machine.pipeline.implausible == {"gpu_busy_seconds_total": 1}


@pytest.mark.parametrize("value", [808, 0xFFFFFFFF])
def test_where_all_samples_are_impossible_the_rate_is_integrated(begin: Begin, value: int) -> None:
    machine = begin(50)
    for _ in range(20):
        machine.pass_by(0.5)
        newest = round(machine.clock.time() * 1e6) // 200_000
        machine.stub.samples(0, UTILIZATION, [(beat * 200_000, value) for beat in range(newest - 50, newest + 1)])
        machine.look()
    assert machine.busy == pytest.approx(5.0, abs=0.3)
    assert machine.states == {"active": 10.0}
    assert machine.pipeline.implausible["gpu_busy_seconds_total"] > 40


# --- what was before, and between -----------------------------------------------------------------------------------


def test_the_first_reading_counts_nothing_from_before(begin: Begin) -> None:
    assert begin(100).busy == 0.0, "the buffer holds 20 s of a busy GPU"


def test_a_driver_that_is_opened_again_counts_nothing_twice(begin: Begin) -> None:
    machine = begin(100)
    machine.look_for(10)
    for _ in range(5):
        machine.reopen()
        machine.pass_by(1.0)
        machine.look()
        machine.look_for(2)
    assert machine.busy == pytest.approx(20.0, abs=0.5)
    assert machine.busy <= machine.watched + 1e-6


def test_a_buffer_shorter_than_the_interval(begin: Begin) -> None:
    machine = begin(100, every=5.0, prepare=lambda machine: machine.buffer(0, 14))
    machine.look_for(40)
    assert machine.busy == pytest.approx(40.0, abs=0.1), "2.3 of 5 s are sampled, the rate stands for the others"
    assert machine.states == {"active": 40.0}


def test_a_buffer_that_is_full_is_not_asked_twice_for_what_it_holds(begin: Begin) -> None:
    """A call for samples costs milliseconds of CPU on a real board; one for the size of the buffer next to nothing."""
    machine = begin(every=30.0)
    machine.look_for(60.0)
    machine.stub.reset_calls()
    machine.look_for(30.0)
    assert machine.stub.calls()["nvmlDeviceGetSamples"] == 4, "samples and size, of utilization and of memory"


def test_buffers_that_are_read_between_two_readings_lose_nothing(begin: Begin) -> None:
    machine = begin(0, every=40.0)
    (device,) = machine.source.devices
    # Busy for the first 10 s: the rate at the readings knows nothing of it, the buffer at their end neither.
    for second, utilization in ((10, 100), (16, 0), (14, 0)):
        machine.stub.set(0, "utilization", utilization)
        machine.pass_by(second)
        machine.pipeline.add_late([machine.source.read_buffers(device)], machine.clock.now)
    machine.look()
    assert machine.busy == pytest.approx(10.0, abs=0.2)
    assert machine.states == {"active": 40.0}


def test_energy_between_power_samples_is_that_of_the_rate(begin: Begin) -> None:
    def no_counter(machine: Stub) -> None:
        machine.field(0, 83, error=3)
        machine.unsupported("nvmlDeviceGetTotalEnergyConsumption")
        machine.set(0, "power", 400_000)
        machine.buffer(0, 14)

    machine = begin(100, every=5.0, prepare=no_counter)
    machine.look_for(20)
    machine.stub.set(0, "power", 400_000)
    machine.look_for(20)
    assert machine.latest.values[ENERGY] == pytest.approx(16_000, rel=0.02)
