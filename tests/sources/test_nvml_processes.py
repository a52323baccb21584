"""Processes of a GPU, through the real pynvml's library handling over the stand-in for the driver's library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pynvml
import pytest
from tools.lab.clock import Clock
from tools.lab.nvml_stub import Mig, Process, Stub, Usage

from gpu_exporter.model import Process as Listed
from gpu_exporter.sources.nvml import NvmlSource

GIB = 1024**3
MakeStub = Callable[..., Stub]
Here = Callable[[Stub], Stub]


@pytest.fixture
def machine(stub: MakeStub, here: Here) -> Stub:
    made = here(stub("h100"))
    made.processes(0, [Process(100, 40 * GIB), Process(200, 2 * GIB)])
    made.processes(0, [Process(300, GIB // 8)], kind="graphics")
    return made


def read(every: float | None = 15.0) -> tuple[Listed, ...] | None:
    """One reading of a source that was just opened."""
    source = NvmlSource(processes=every)
    try:
        return source.read(source.devices[0]).processes
    finally:
        source.close()


@pytest.mark.usefixtures("machine")
def test_compute_and_graphics() -> None:
    assert read() == (
        Listed(100, "compute", 40.0 * GIB),
        Listed(200, "compute", 2.0 * GIB),
        Listed(300, "graphics", GIB / 8),
    )


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_the_layout_of_the_answer_is_measured(machine: Stub, size: int, count: int) -> None:
    """Drivers 535.43 to 535.86 write 32 bytes a process, some 16, under the same name."""
    machine.process_layout(0, size)
    machine.processes(0, [Process(100 + each, each * GIB) for each in range(count)])
    machine.processes(0, [], kind="graphics")
    assert read() == tuple(Listed(100 + each, "compute", float(each * GIB)) for each in range(count))


@pytest.mark.parametrize("missing", [["_v3"], ["_v3", "_v2"], ["_v3", "_v2", ""]])
def test_older_versions_stand_in(machine: Stub, missing: list[str]) -> None:
    for version in missing:
        for kind in ("Compute", "Graphics"):
            machine.fail(f"nvmlDeviceGet{kind}RunningProcesses{version}", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    processes = read()
    if len(missing) == 3:
        assert processes is None, "not known is not none"
    else:
        assert [(each.pid, each.memory_used) for each in processes or ()] == [
            (100, 40.0 * GIB),
            (200, 2.0 * GIB),
            (300, GIB / 8),
        ]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of the driver's functions was looked up, which is done at every call."""
    counts: Counter[str] = Counter()
    look_up = pynvml._nvmlGetFunctionPointer

    def counted(name: str) -> Any:
        counts[name] += 1
        return look_up(name)

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", counted)
    return counts


def test_a_driver_that_does_not_list_is_asked_once(machine: Stub, asked: Counter[str]) -> None:
    machine.unsupported("nvmlDeviceGetComputeRunningProcesses_v3")
    machine.unsupported("nvmlDeviceGetGraphicsRunningProcesses_v3")
    clock = Clock(1000.0)
    source = NvmlSource(processes=1.0, monotonic=clock)
    for _ in range(5):
        assert source.read(source.devices[0]).processes is None
        clock.now += 5
    source.close()
    assert {name: count for name, count in asked.items() if "RunningProcesses" in name} == {
        "nvmlDeviceGetComputeRunningProcesses_v3": 1,
        "nvmlDeviceGetGraphicsRunningProcesses_v3": 1,
    }


def test_memory_that_is_not_told_is_absent(machine: Stub) -> None:
    machine.processes(0, [Process(100, None)])
    machine.processes(0, [], kind="graphics")
    assert read() == (Listed(100, "compute", None),)


def test_no_process_is_an_answer(machine: Stub) -> None:
    machine.processes(0, [])
    machine.processes(0, [], kind="graphics")
    assert read() == ()


@pytest.mark.usefixtures("machine")
def test_processes_off_means_no_call(asked: Counter[str]) -> None:
    assert read(None) is None
    assert asked
    assert not [name for name in asked if "Process" in name]


@pytest.mark.usefixtures("machine")
def test_lists_have_a_cadence_of_their_own(asked: Counter[str]) -> None:
    clock = Clock(1000.0)
    source = NvmlSource(processes=15.0, monotonic=clock)
    seen = []
    for _ in range(7):
        seen.append(source.read(source.devices[0]).processes)
        clock.now += 5
    source.close()
    assert asked["nvmlDeviceGetComputeRunningProcesses_v3"] == 3, "at 0, 15 and 30 s"
    assert len(set(seen)) == 1, "the latest list stands until the next one"


def test_more_processes_than_there_was_room_for(machine: Stub) -> None:
    everybody = [Process(1000 + each, each) for each in range(64)]
    machine.processes(0, everybody)
    machine.processes(0, [], kind="graphics")
    assert [each.pid for each in read() or ()] == [each.pid for each in everybody]


def test_utilization_is_the_latest_sample_of_each_process(machine: Stub) -> None:
    machine.process_utilization(0, [Usage(100, 37, 99, time_us=50), Usage(100, 81, 12, time_us=90), Usage(7, 5)])
    utilization = {each.pid: each.utilization for each in read() or ()}
    assert utilization == {100: 0.81, 200: None, 300: None}, "memUtil is bus time, and 7 holds nothing"


def test_a_sample_is_told_once(machine: Stub) -> None:
    clock = Clock(1000.0)
    machine.process_utilization(0, [Usage(100, 37, time_us=50)])
    source = NvmlSource(processes=1.0, monotonic=clock)
    told = []
    for _ in range(2):
        told.append({each.pid: each.utilization for each in source.read(source.devices[0]).processes or ()}[100])
        clock.now += 5
    source.close()
    assert told == [0.37, None], "NOT_FOUND means that there is none"


def test_impossible_samples_are_left_out(machine: Stub) -> None:
    machine.process_utilization(0, [Usage(100, 4_000_000, time_us=90), Usage(200, 100, time_us=90)])
    assert {each.pid: each.utilization for each in read() or ()} == {100: None, 200: 1.0, 300: None}


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_NO_PERMISSION]
)
def test_utilization_that_fails_takes_nothing_with_it(machine: Stub, code: int) -> None:
    machine.fail("nvmlDeviceGetProcessUtilization", code)
    assert [each.utilization for each in read() or ()] == [None, None, None]


def test_a_gpu_lost_in_the_middle_is_down(machine: Stub) -> None:
    machine.fail("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.NVML_ERROR_GPU_IS_LOST)
    source = NvmlSource(processes=15.0)
    reading = source.read(source.devices[0])
    source.close()
    assert reading.failure is not None
    assert reading.failure.reason == "lost"
    assert "nvmlDeviceGetComputeRunningProcesses_v3" in reading.failure.message


def test_processes_of_mig_devices(machine: Stub) -> None:
    uuids = ["MIG-0a0a0a0a-0000-4000-8000-000000000001", "MIG-0a0a0a0a-0000-4000-8000-000000000002"]
    machine.set(0, "mig_mode", 1)
    machine.mig(0, [Mig(uuid, "1g.10gb", 7 + place, 0, 10 * GIB, GIB) for place, uuid in enumerate(uuids)])
    machine.processes(0, [Process(100, 3 * GIB, 7, 0), Process(200, 2 * GIB, 8, 0)])
    machine.processes(0, [], kind="graphics")
    source = NvmlSource(processes=15.0)
    reading = source.read(source.devices[0])
    source.close()
    assert reading.mig_uuids == tuple(uuids)
    assert reading.processes == (
        Listed(100, "compute", 3.0 * GIB, mig_uuid=uuids[0]),
        Listed(200, "compute", 2.0 * GIB, mig_uuid=uuids[1]),
    )
