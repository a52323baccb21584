"""Profiling by GPM: an H200's recorded answers to known loads, through the whole path; and what is not there."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pynvml
import pytest
from tools.lab.nvml_stub import Process, Stub

from gpu_exporter.catalog import STATE_SECONDS, by_name
from gpu_exporter.catalog.profiling import ROWS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Reading
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources.nvml import NvmlSource
from recorded import known_loads

RATIOS = {row.name.removeprefix("gpu_").removesuffix("_active_ratio"): row for row in ROWS if row.kind == "gauge"}
SM, GRAPHICS = by_name("gpu_sm_active_ratio"), by_name("gpu_graphics_active_ratio")
SM_SECONDS, TENSOR_SECONDS = by_name("gpu_sm_active_seconds_total"), by_name("gpu_tensor_active_seconds_total")
DRAM_SECONDS, BUSY = by_name("gpu_dram_active_seconds_total"), by_name("gpu_busy_seconds_total")
UTILIZATION = by_name("gpu_utilization_ratio")
BUFFER = 71  # samples: 14 s, as the H200 keeps them
_UNKNOWN = 999


class Machine:
    """One GPU, its source, and a clock that moves by hand for both."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.elapsed = 1000.0
        self.source = NvmlSource(processes=0.0, monotonic=lambda: self.elapsed)
        self.pipeline = Pipeline(gap=15)

    def read(self, after: float = 0.0) -> Reading:
        self.elapsed += after
        self.stub.now += after
        (reading,) = self.pipeline.complete([self.source.read(self.source.devices[0])], self.elapsed)
        return reading


@pytest.fixture
def machine(here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(model: str = "h100", **rest: Any) -> Machine:
        made.append(Machine(here(stub(model, **rest))))
        return made[-1]

    yield make
    for each in made:
        each.source.close()


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The driver's functions, as they are called."""
    names: list[str] = []
    genuine = pynvml._nvmlGetFunctionPointer

    def listed(name: str) -> object:
        names.append(name)
        return genuine(name)

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", listed)
    return names


class Run(NamedTuple):
    """One recorded load: the readings inside it, and the growth of each counter from the one before it to the last."""

    truth: dict[str, Any]
    readings: list[Reading]
    grown: dict[Metric, float]
    lasted: float

    def mean(self, row: Metric) -> float:
        values = [reading.values[row] for reading in self.readings]
        return sum(values) / len(values)


@pytest.fixture(scope="module")
def recorded(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The H200's recording, second by second through driver calls, source and ledger; by segment."""
    told, truth = known_loads()
    stub = Stub(tmp_path_factory.mktemp("machine"), ["h100"], now=told[0]["t"])
    ctypes.CDLL(str(library / "libnvidia-ml.so.1"))  # what dlopen finds when pynvml asks for the name
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NVML_STUB_STATE", str(stub.state_file))
        gpu = Machine(stub)
        readings = played(gpu, told)
        gpu.source.close()
    return by_segment(readings, truth)


def played(gpu: Machine, told: list[dict[str, Any]]) -> list[tuple[float, Reading]]:
    """The readings, each with its Unix time."""
    readings = []
    buffers: dict[int, list[tuple[int, int]]] = {1: [], 2: []}
    for row in told:
        with gpu.stub.batch():
            asked = {int(number): value for number, value in row["gpm"].items() if int(number) < 30}
            gpu.stub.gpm(0, asked)
            for kind, name in ((1, "s1"), (2, "s2")):
                buffers[kind] = [*buffers[kind], *map(tuple, row[name])][-BUFFER:]
                gpu.stub.samples(0, kind, buffers[kind])
            gpu.stub.set(0, "utilization", row["util"][0])
            gpu.stub.set(0, "memory_utilization", row["util"][1])
            gpu.stub.set(0, "power", row["power"])
            gpu.stub.set(0, "memory_used", row["mem"])
            gpu.stub.processes(0, [Process(pid, used) for pid, used in row["procs"]])
        readings.append((row["t"], gpu.read(after=row["t"] - gpu.stub.now)))
    return readings


def by_segment(readings: list[tuple[float, Reading]], truth: list[dict[str, Any]]) -> dict[str, Run]:
    """What the readings inside of each load told."""
    runs = {}
    for each in truth:
        # The first second of a load is warm-up, and the last row may reach beyond its end.
        inside = [number for number, (at, _) in enumerate(readings) if each["t0"] + 1.2 < at < each["t1"]]
        first, last = readings[inside[0] - 1], readings[inside[-1]]
        grown = {
            row: last[1].values[row] - first[1].values[row]
            for row in (SM_SECONDS, TENSOR_SECONDS, DRAM_SECONDS, BUSY, *STATE_SECONDS.values())
        }
        runs[each["segment"]] = Run(each, [readings[number][1] for number in inside], grown, last[0] - first[0])
    return runs


def test_the_recording_tells_which_metric_is_which(recorded: dict[str, Run]) -> None:
    """What each load is known to have been: cuBLAS in bf16, fp32 and fp64, copies, one block that spins."""
    shares = {
        name: {what: round(run.mean(row), 2) for what, row in RATIOS.items() if run.mean(row) >= 0.005}
        for name, run in recorded.items()
    }
    assert shares == {
        "bf16 matmul": {"graphics": 0.99, "sm": 0.96, "sm_occupancy_ratio": 0.14, "tensor": 0.94, "dram": 0.17},
        "fp32 matmul": {"graphics": 0.99, "sm": 0.96, "sm_occupancy_ratio": 0.12, "dram": 0.05, "fp32": 0.76},
        # FP64 matrix products run on the tensor cores.
        "fp64 matmul": {"graphics": 0.99, "sm": 0.99, "sm_occupancy_ratio": 0.12, "tensor": 0.97, "dram": 0.1},
        "copy": {"graphics": 0.99, "sm": 0.99, "sm_occupancy_ratio": 0.8, "dram": 0.89},
        "spin one block": {"graphics": 1.0, "sm": 0.01},
        "bf16 matmul 25 %": {"graphics": 0.24, "sm": 0.2, "sm_occupancy_ratio": 0.03, "tensor": 0.19, "dram": 0.05},
        "host to device": {"dram": 0.01},
    }


@pytest.mark.parametrize(
    ("segment", "row", "share"),
    [
        ("bf16 matmul", TENSOR_SECONDS, 0.943),
        ("bf16 matmul 25 %", TENSOR_SECONDS, 0.1925),
        ("fp64 matmul", TENSOR_SECONDS, 0.971),
        ("fp32 matmul", TENSOR_SECONDS, 0.0),
        ("copy", DRAM_SECONDS, 0.892),
        ("copy", SM_SECONDS, 0.987),
        ("spin one block", SM_SECONDS, 0.0075),
        ("host to device", SM_SECONDS, 0.0),
    ],
)
def test_counters_lose_nothing(recorded: dict[str, Run], segment: str, row: Metric, share: float) -> None:
    run = recorded[segment]
    assert run.grown[row] == pytest.approx(share * run.lasted, rel=0.01, abs=0.002)


@pytest.mark.parametrize(
    ("segment", "state"),
    [
        ("bf16 matmul", "active"),
        ("fp32 matmul", "active"),
        ("fp64 matmul", "active"),
        ("copy", "active"),
        ("bf16 matmul 25 %", "active"),
        ("spin one block", "idle_held"),  # utilization says 100 %
        ("host to device", "unknown"),  # utilization says 99 %; whether a job waits for it, nobody can tell
    ],
)
def test_what_the_time_is_charged_to(recorded: dict[str, Run], segment: str, state: str) -> None:
    run = recorded[segment]
    assert run.mean(UTILIZATION) > 0.2
    assert {name: run.grown[row] for name, row in STATE_SECONDS.items() if run.grown[row]} == {
        state: pytest.approx(run.lasted)
    }


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["v100", "a100", "l40s", "rtx4090"])
def test_a_gpu_without_gpm_has_no_such_series(machine: Callable[..., Machine], model: str) -> None:
    gpu = machine(model)
    for _ in range(3):
        assert not gpu.read(after=5).values.keys() & set(ROWS)


def test_a_metric_that_the_gpu_lacks_is_absent(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    gpu.stub.gpm(0, {1: 90.0, 2: 50.0, 5: 40.0})
    gpu.read()
    for _ in range(3):
        values = gpu.read(after=5).values
        assert {row.name for row in values.keys() & set(ROWS)} == {
            "gpu_graphics_active_ratio",
            "gpu_sm_active_ratio",
            "gpu_tensor_active_ratio",
            "gpu_sm_active_seconds_total",
            "gpu_tensor_active_seconds_total",
        }


def test_a_metric_that_appears_later_is_told_from_then_on(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    gpu.stub.gpm(0, {2: 50.0})
    gpu.read()
    assert TENSOR_SECONDS not in gpu.read(after=5).values
    gpu.stub.gpm(0, {2: 50.0, 5: 40.0})
    assert gpu.read(after=5).values[TENSOR_SECONDS] == pytest.approx(2.0)


def test_a_share_of_no_time_is_absent_and_its_counter_begins_at_zero(machine: Callable[..., Machine]) -> None:
    values = machine().read().values
    assert SM not in values
    assert values[SM_SECONDS] == 0.0


@pytest.mark.parametrize("function", ["nvmlGpmSampleGet", "nvmlGpmMetricsGet"])
def test_a_call_that_fails_loses_nothing(machine: Callable[..., Machine], function: str) -> None:
    gpu = machine()
    gpu.stub.gpm(0, {2: 50.0})
    gpu.read()
    assert gpu.read(after=5).values[SM_SECONDS] == pytest.approx(2.5)
    gpu.stub.fail(function, _UNKNOWN)
    values = gpu.read(after=5).values
    assert values[SM_SECONDS] == pytest.approx(2.5)
    assert SM not in values
    gpu.stub.fail(function, 0)
    assert gpu.read(after=5).values[SM_SECONDS] == pytest.approx(7.5)


def test_readings_closer_than_the_drivers_counts_lose_nothing(
    machine: Callable[..., Machine], called: list[str]
) -> None:
    """nvml.h: the interval between two samples should be greater than 100 ms."""
    gpu = machine()
    gpu.stub.gpm(0, {2: 50.0})
    gpu.read()
    for _ in range(3):
        values = gpu.read(after=0.04).values
    assert called.count("nvmlGpmMetricsGet") == 1, "between those that are far enough apart"
    assert values[SM_SECONDS] == pytest.approx(0.06)
    assert gpu.read(after=4.88).values[SM_SECONDS] == pytest.approx(2.5)


@pytest.mark.parametrize("mean", [float("nan"), float("inf"), -1.0, 255.0, 4294967295.0])
def test_an_impossible_share_is_absent_and_spoils_no_counter(machine: Callable[..., Machine], mean: float) -> None:
    gpu = machine()
    gpu.stub.gpm(0, {1: 60.0, 2: 50.0})
    gpu.read()
    gpu.read(after=5)
    gpu.stub.gpm(0, {1: 60.0, 2: mean})
    values = gpu.read(after=5).values
    assert SM not in values
    assert values[SM_SECONDS] == pytest.approx(2.5)
    assert values[GRAPHICS] == pytest.approx(0.6)
    assert gpu.pipeline.implausible == {"gpu_sm_active_ratio": 1, "gpu_sm_active_seconds_total": 1}


def test_a_little_more_than_all_is_all(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    gpu.stub.gpm(0, {2: 100.4})
    gpu.read()
    values = gpu.read(after=5).values
    assert values[SM] == 1.0
    assert values[SM_SECONDS] == pytest.approx(5.0)


def test_one_call_a_reading_answers_all(machine: Callable[..., Machine], called: list[str]) -> None:
    gpu = machine()
    gpu.read()
    gpu.read(after=5)
    called.clear()
    gpu.read(after=5)
    assert [name for name in called if "Gpm" in name] == ["nvmlGpmSampleGet", "nvmlGpmMetricsGet"]
