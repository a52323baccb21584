"""MIG devices: found while they come and go, who they are, what each does, and whom its time is charged to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pynvml
import pytest
from tools.lab.nvml_stub import Mig, Process, Stub

from gpu_exporter.catalog import OWNER_SECONDS, STATE_SECONDS, by_name
from gpu_exporter.catalog.mig import (
    MIG_DRAM_ACTIVE,
    MIG_INFO,
    MIG_MEMORY_TOTAL,
    MIG_MEMORY_USED,
    MIG_SM_ACTIVE,
    MIG_TENSOR_ACTIVE,
    ROWS,
)
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Identity, Reading
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources.nvml import NvmlSource

GIB = 1024**3
ONE, TWO, THREE = (f"MIG-0a0a0a0a-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
SM, TENSOR, DRAM = 2, 5, 10
_NOT_SUPPORTED, _LOST, _UNKNOWN = 3, 15, 999


def device(uuid: str, gpu_instance: int, sm: float | None = None, *, compute_instance: int = 0, **rest: Any) -> Mig:
    gpm = {} if sm is None else {SM: sm, TENSOR: sm / 2, DRAM: sm / 4}
    name = rest.pop("name", "NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    return Mig(uuid, name, gpu_instance, compute_instance, rest.pop("total", 10 * GIB), rest.pop("used", GIB), gpm)


class Given:
    """Allocations as a kubelet tells them."""

    def __init__(self, given: Mapping[str, Sequence[Identity]]) -> None:
        self.given = given

    def current(self) -> Mapping[str, Sequence[Identity]]:
        return self.given

    def close(self) -> None:
        """Nothing is open."""


class Machine:
    """GPUs, their source, and a clock that moves by hand for both."""

    def __init__(self, stub: Stub, *, processes: float | None = 0.0, given: Given | None = None) -> None:
        self.stub = stub
        self.elapsed = 1000.0
        self.source = NvmlSource(processes=processes, monotonic=lambda: self.elapsed)
        self.pipeline = Pipeline(gap=15, resolver=Resolver(allocations=[given] if given else []))

    def read_all(self, after: float = 5.0) -> tuple[Reading, ...]:
        self.elapsed += after
        self.stub.now += after
        return self.pipeline.complete([self.source.read(device) for device in self.source.devices], self.elapsed)

    def read(self, after: float = 5.0) -> Reading:
        return self.read_all(after)[0]

    def spend(self, seconds: float = 20.0) -> dict[str, float]:
        """The states to which the next seconds are charged."""
        before = self.read(0.0).values
        for _ in range(int(seconds / 5)):
            after = self.read().values
        grown = {state: after[row] - before[row] for state, row in STATE_SECONDS.items()}
        return {state: round(time, 3) for state, time in grown.items() if time}


@pytest.fixture
def machine(here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(*models: str, **rest: Any) -> Machine:
        shown = stub(*(models or ("h100",)))
        shown.set(0, "memory_used", 0)
        made.append(Machine(here(shown), **rest))
        return made[-1]

    yield make
    for each in made:
        each.source.close()


def told(reading: Reading, row: Metric) -> dict[str, float]:
    """One row by MIG device."""
    return {labels[0]: value for (metric, labels), value in reading.labelled.items() if metric is row}


def infos(reading: Reading) -> list[tuple[str, ...]]:
    return [labels for metric, labels in reading.labelled if metric is MIG_INFO]


# --- which there are, and who they are --------------------------------------------------------------------------------


def test_every_mig_device_is_told_with_its_instances_memory_and_activity(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    gpu.stub.mig(
        0,
        [
            device(ONE, 1, 80.0, name="NVIDIA H100 80GB HBM3 MIG 3g.40gb", total=40 * GIB, used=30 * GIB),
            device(TWO, 7, 0.0),
        ],
    )
    gpu.read()
    reading = gpu.read()
    assert infos(reading) == [(ONE, "1", "0", "3g.40gb"), (TWO, "7", "0", "1g.10gb")]
    assert told(reading, MIG_MEMORY_TOTAL) == {ONE: 40.0 * GIB, TWO: 10.0 * GIB}
    assert told(reading, MIG_MEMORY_USED) == {ONE: 30.0 * GIB, TWO: 1.0 * GIB}
    assert told(reading, MIG_SM_ACTIVE) == {ONE: 0.8, TWO: 0.0}
    assert told(reading, MIG_TENSOR_ACTIVE) == {ONE: 0.4, TWO: 0.0}
    assert told(reading, MIG_DRAM_ACTIVE) == {ONE: 0.2, TWO: 0.0}


@pytest.mark.parametrize("processes", [None, 15.0])
def test_mig_devices_are_told_whether_processes_are_listed_or_not(
    machine: Callable[..., Machine], processes: float | None
) -> None:
    gpu = machine(processes=processes)
    gpu.stub.mig(0, [device(ONE, 1, 80.0)])
    assert gpu.read().mig_uuids == (ONE,)
    assert told(gpu.read(), MIG_SM_ACTIVE) == {ONE: 0.8}


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "1g.5gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb", "1c.3g.40gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", "1g.10gb+me"),
        ("1g.10gb", "1g.10gb"),
        ("NVIDIA H100 80GB HBM3", "1g.10gb"),  # an old driver: by the number of slices and the memory
    ],
)
def test_the_profile_is_what_nvidia_calls_it(machine: Callable[..., Machine], name: str, profile: str) -> None:
    gpu = machine()
    gpu.stub.mig(0, [device(ONE, 1, name=name)])
    assert infos(gpu.read()) == [(ONE, "1", "0", profile)]


@pytest.mark.parametrize("function", ["nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId"])
def test_what_an_instance_does_not_tell_is_left_out_and_asked_again(
    machine: Callable[..., Machine], function: str
) -> None:
    gpu = machine()
    gpu.stub.mig(0, [device(ONE, 1, 50.0)])
    gpu.stub.fail(function, _UNKNOWN)
    (before,) = infos(gpu.read())
    assert before.count("") == 1
    gpu.stub.fail(function, 0)
    for _ in range(3):
        after = infos(gpu.read())
    assert after == [(ONE, "1", "0", "1g.10gb")]


def test_a_layout_that_changes_is_seen_at_the_next_reading_and_no_other_gpu_notices(
    machine: Callable[..., Machine],
) -> None:
    gpu = machine("h100", "h100")
    gpu.stub.mig(0, [device(ONE, 1, 80.0), device(TWO, 2, 10.0)])
    for _ in range(2):
        parted, other = gpu.read_all()
    before = {row.name for row in other.values}
    gpu.stub.mig(0, [device(THREE, 1, 40.0)])
    parted, other = gpu.read_all()
    assert parted.failure is other.failure is None
    assert parted.mig_uuids == (THREE,)
    assert infos(parted) == [(THREE, "1", "0", "1g.10gb")]
    assert told(parted, MIG_SM_ACTIVE) == {}, (
        "another instance of the same number: its counters are not those of before"
    )
    parted, other = gpu.read_all()
    assert told(parted, MIG_SM_ACTIVE) == {THREE: 0.4}
    assert {row.name for row in other.values} == before


def test_mode_that_is_switched_while_it_runs(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    assert not set(ROWS) & {metric for metric, _ in gpu.read().labelled}
    gpu.stub.mig(0, [device(ONE, 1, 80.0)])
    assert gpu.read().mig_uuids == (ONE,)
    reading = gpu.read()
    assert told(reading, MIG_SM_ACTIVE) == {ONE: 0.8}
    assert {row.name: value for row, value in reading.values.items()}["gpu_mig_mode_enabled"] == 1.0
    gpu.stub.mig(0, [])
    gpu.stub.set(0, "mig_mode", 0)
    for _ in range(2):
        reading = gpu.read()
    assert {row.name: value for row, value in reading.values.items()}["gpu_mig_mode_enabled"] == 0.0
    assert not set(ROWS) & {metric for metric, _ in reading.labelled}
    assert reading.mig_uuids == ()
    assert "gpu_utilization_ratio" in {row.name for row in gpu.read().values}


@pytest.mark.parametrize("code", [6, 2, _UNKNOWN])
def test_an_instance_that_vanishes_while_it_is_read_harms_nothing_else(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Its handle was taken, and answers nothing any more."""
    gpu = machine()
    gpu.stub.mig(0, [device(ONE, 1, 80.0), device(TWO, 2, 10.0)])
    gpu.read()
    genuine = pynvml.nvmlDeviceGetMemoryInfo
    handles = set()

    def gone(handle: Any, version: Any = None) -> Any:
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        if uuid == TWO:
            handles.add(uuid)
            raise pynvml.NVMLError(code)
        return genuine(handle, version)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", gone)
    reading = gpu.read()
    assert handles == {TWO}
    assert reading.failure is None
    assert told(reading, MIG_MEMORY_USED) == {ONE: 1.0 * GIB}
    assert told(reading, MIG_SM_ACTIVE) == {ONE: 0.8, TWO: 0.1}


def test_a_gpu_that_is_lost_while_its_instances_are_read_is_lost(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    gpu.stub.mig(0, [device(ONE, 1, 80.0)])
    gpu.read()
    gpu.stub.fail("nvmlGpmMigSampleGet", _LOST)
    failure = gpu.read().failure
    assert failure is not None
    assert failure.reason == "lost"
    gpu.stub.fail("nvmlGpmMigSampleGet", 0)
    gpu.read()
    assert told(gpu.read(), MIG_SM_ACTIVE) == {ONE: 0.8}


def test_compute_instances_of_one_gpu_instance_tell_what_it_does(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    gpu.stub.mig(0, [device(ONE, 1, 60.0), device(TWO, 1, 60.0, compute_instance=1)])
    gpu.read()
    reading = gpu.read()
    assert [labels[:3] for labels in infos(reading)] == [(ONE, "1", "0"), (TWO, "1", "1")]
    assert told(reading, MIG_SM_ACTIVE) == {ONE: 0.6, TWO: 0.6}


@pytest.mark.parametrize("mean", [float("nan"), -1.0, 255.0, 4294967295.0])
def test_a_share_that_cannot_be_is_absent(machine: Callable[..., Machine], mean: float) -> None:
    gpu = machine()
    gpu.stub.mig(0, [replace_gpm(device(ONE, 1), {SM: mean, DRAM: 10.0})])
    gpu.read()
    reading = gpu.read()
    assert told(reading, MIG_SM_ACTIVE) == {}
    assert told(reading, MIG_DRAM_ACTIVE) == {ONE: 0.1}
    assert gpu.pipeline.implausible == {"gpu_mig_sm_active_ratio": 1}


@pytest.mark.parametrize(("total", "used"), [(2**64 - 1, GIB), (10 * GIB, 2**64 - 1), (10 * GIB, 11 * GIB), (0, 0)])
def test_memory_that_cannot_be_is_absent(machine: Callable[..., Machine], total: int, used: int) -> None:
    gpu = machine()
    gpu.stub.mig(0, [device(ONE, 1, 80.0, total=total, used=used), device(TWO, 2, 80.0)])
    reading = gpu.read()
    assert told(reading, MIG_MEMORY_TOTAL) == {TWO: 10.0 * GIB}
    assert told(reading, MIG_MEMORY_USED) == {TWO: 1.0 * GIB}
    assert gpu.pipeline.implausible.keys() <= {"gpu_mig_memory_total_bytes", "gpu_mig_memory_used_bytes"}
    assert gpu.pipeline.implausible


def replace_gpm(mig: Mig, gpm: Mapping[int, float]) -> Mig:
    return mig._replace(gpm=gpm)


# --- what its time is charged to --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "used", "state"),
    [
        ((80.0, 0.0), 3 * GIB, "active"),
        ((6.0, 0.0), 3 * GIB, "active"),
        ((0.0, 0.0), 3 * GIB, "idle_held"),
        ((0.8, 4.0), 3 * GIB, "idle_held"),  # blocks that spin
        ((0.0, 0.0), 0, "idle_free"),
        ((), 0, "idle_free"),  # nobody has made an instance: there is nothing to run on
    ],
)
def test_what_the_time_of_a_partitioned_gpu_is_charged_to(
    machine: Callable[..., Machine], shares: tuple[float, ...], used: int, state: str
) -> None:
    gpu = machine()
    gpu.stub.mig(0, [device(f"MIG-{number}", number, share) for number, share in enumerate(shares, 1)])
    gpu.stub.processes(0, [Process(100, used, 1, 0)] if used else [])
    gpu.read()
    assert gpu.spend() == {state: 20.0}


@pytest.mark.parametrize("model", ["h100", "a100"])
def test_instances_that_do_not_tell_what_they_do_are_unknown(machine: Callable[..., Machine], model: str) -> None:
    """Ampere has no GPM; on Hopper it may fail. Silence is not idleness."""
    gpu = machine(model)
    gpu.stub.mig(0, [device(ONE, 1), device(TWO, 2)])
    gpu.stub.fail("nvmlGpmMigSampleGet", _NOT_SUPPORTED)
    gpu.read()
    assert gpu.spend() == {"unknown": 20.0}


@pytest.mark.parametrize("function", ["nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex"])
def test_instances_that_cannot_be_looked_up_are_not_none(machine: Callable[..., Machine], function: str) -> None:
    gpu = machine()
    gpu.stub.mig(0, [])
    gpu.stub.fail(function, _UNKNOWN)
    gpu.read()
    assert gpu.spend() == {"unknown": 20.0}


def test_an_idle_neighbour_does_not_work(machine: Callable[..., Machine]) -> None:
    """Each owner's time is what the instance did that it was given."""
    alice, bob = (Identity(labels={"pod": pod, "namespace": "ml"}) for pod in ("alice-0", "bob-0"))
    gpu = machine(given=Given({ONE: [alice], TWO: [bob]}))
    gpu.stub.mig(0, [device(ONE, 1, 80.0), device(TWO, 2, 0.0)])
    for _ in range(5):
        reading = gpu.read()
    seconds = {
        (labels[1], state): value
        for state, row in OWNER_SECONDS.items()
        for (metric, labels), value in reading.labelled.items()
        if metric is row and value
    }
    assert seconds == {("alice-0", "active"): pytest.approx(10.0), ("bob-0", "idle_held"): pytest.approx(10.0)}
    assert reading.values[STATE_SECONDS["active"]] == pytest.approx(20.0)


def test_an_instance_that_nobody_was_given_is_not_its_neighbours(machine: Callable[..., Machine]) -> None:
    bob = Identity(labels={"pod": "bob-0", "namespace": "ml"})
    gpu = machine(given=Given({TWO: [bob]}))
    gpu.stub.mig(0, [device(ONE, 1, 80.0), device(TWO, 2, 0.0)])
    for _ in range(3):
        reading = gpu.read()
    seconds = {
        state: value
        for state, row in OWNER_SECONDS.items()
        for (metric, labels), value in reading.labelled.items()
        if metric is row and value
    }
    assert seconds == {"idle_held": pytest.approx(10.0)}


def test_samples_are_freed_with_their_instance_and_before_the_driver_is_let_go(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = machine()
    gpu.stub.mig(0, [device(ONE, 1, 80.0), device(TWO, 2, 10.0)])
    gpu.read()
    names: list[str] = []
    genuine = pynvml._nvmlGetFunctionPointer

    def listed(name: str) -> object:
        names.append(name)
        return genuine(name)

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", listed)
    gpu.stub.mig(0, [device(ONE, 1, 80.0)])
    gpu.read()
    assert names.count("nvmlGpmSampleFree") == 2
    names.clear()
    gpu.source.close()
    assert names[-1] == "nvmlShutdown"
    assert names.count("nvmlGpmSampleFree") >= 2
    gpu.source = NvmlSource(monotonic=lambda: gpu.elapsed)


def test_what_only_the_whole_gpu_counts_is_absent_in_mig_mode_and_goes_on_after_it(
    machine: Callable[..., Machine],
) -> None:
    """A counter that stood still would tell of idleness."""
    gpu = machine()
    seconds = by_name("gpu_sm_active_seconds_total")
    gpu.stub.gpm(0, {SM: 50.0})
    gpu.read()
    assert gpu.read().values[seconds] == pytest.approx(2.5)
    gpu.stub.mig(0, [device(ONE, 1, 80.0)])
    gpu.stub.fail("nvmlGpmSampleGet", _NOT_SUPPORTED)
    gpu.read()
    assert seconds not in gpu.read().values
    gpu.stub.fail("nvmlGpmSampleGet", 0)
    gpu.stub.mig(0, [])
    gpu.stub.set(0, "mig_mode", 0)
    for _ in range(3):
        values = gpu.read().values
    assert values[seconds] >= 2.5
