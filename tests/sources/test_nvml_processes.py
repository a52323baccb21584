"""Processes of a GPU, through the real pynvml's library handling over the stand-in for the driver's library."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynvml
import pytest
from tools.lab.clock import Clock
from tools.lab.nvml_stub import Mig, Process, Stub, Usage

from gpu_exporter.model import Process as Listed
from gpu_exporter.model import Reading
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
        for kind in ("Compute", "Graphics", "MPSCompute"):
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


LISTS = [f"nvmlDeviceGet{kind}RunningProcesses_v3" for kind in ("Compute", "Graphics", "MPSCompute")]


@contextmanager
def opened(steady: Clock, every: float = 1.0, **rest: Any) -> Iterator[Callable[[], Reading]]:
    """A source whose readings are five seconds apart."""
    source = NvmlSource(processes=every, monotonic=steady, **rest)

    def look() -> Reading:
        reading = source.read(source.devices[0])
        steady.now += 5
        return reading

    try:
        yield look
    finally:
        source.close()


def test_a_driver_that_does_not_list_is_asked_again_after_minutes(machine: Stub, asked: Counter[str]) -> None:
    for name in LISTS:
        machine.unsupported(name)
    with opened(Clock(1000.0)) as look:
        assert [look().processes for _ in range(360)] == [None] * 360, "half an hour"
        assert {name for name in asked if "RunningProcesses" in name} == {LISTS[0]}, (
            "without it the others say too little"
        )
        assert asked[LISTS[0]] <= 12, "soon at first, then every five minutes"
        for name in LISTS:
            machine.fail(name, 0)
        seen = [look().processes for _ in range(61)]
        assert len(seen[-1] or ()) == 3, "never struck off for good"


def test_a_driver_that_does_not_list_at_first_is_asked_again_soon(machine: Stub) -> None:
    for name in LISTS:
        machine.unsupported(name)
    with opened(Clock(1000.0)) as look:
        assert look().processes is None
        for name in LISTS:
            machine.fail(name, 0)
        assert len([look().processes for _ in range(3)][-1] or ()) == 3


@pytest.mark.parametrize("failing", [*LISTS, "nvmlDeviceGetProcessUtilization"])
def test_what_has_answered_before_is_back_within_a_minute(machine: Stub, failing: str) -> None:
    machine.processes(0, [Process(400, GIB)], kind="mps")
    with opened(Clock(1000.0)) as look:

        def told() -> object:
            machine.now += 5
            machine.process_utilization(0, [Usage(100, 37)])
            return look().processes

        before = told()
        machine.unsupported(failing)
        for _ in range(150):  # so long that it is believed
            assert told() != before
        machine.fail(failing, 0)
        assert [told() for _ in range(13)][-1] == before


def test_a_list_that_tells_of_more_than_it_wrote(machine: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that cannot be makes no process of memory that the driver never wrote."""
    genuine = pynvml._nvmlGetFunctionPointer

    def boasting(name: str) -> Any:
        function = genuine(name)
        if name != LISTS[0]:
            return function

        def call(handle: Any, count: Any, buffer: Any) -> Any:
            code = function(handle, count, buffer)
            count._obj.value = 2**32 - 1
            return code

        return call

    before = read()
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", boasting)
    assert read() == before
    machine.processes(0, [])
    machine.processes(0, [], kind="graphics")
    assert read() == ()


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
@pytest.mark.parametrize("failing", LISTS)
def test_a_list_that_fails_for_a_moment_is_not_an_empty_one(machine: Stub, code: int, failing: str) -> None:
    with opened(Clock(1000.0)) as look:
        before = look().processes
        machine.fail(failing, code)
        assert look().processes is None, "what answered a moment ago is not known, neither nobody nor unsupported"
        machine.fail(failing, 0)
        assert look().processes == before


@pytest.mark.parametrize("failing", LISTS[1:])
def test_a_minor_list_that_is_never_told_hides_nobody(machine: Stub, failing: str) -> None:
    machine.fail(failing, pynvml.NVML_ERROR_NO_PERMISSION)
    assert {100, 200} <= {each.pid for each in read() or ()}


@pytest.mark.parametrize("version", ["_v3", "_v2", ""])
def test_clients_of_mps_are_listed(machine: Stub, version: str) -> None:
    """They are in a list of their own: go-nvml's issue 28, nvtop's 93."""
    for newer in ("_v3", "_v2"):
        if newer > version:
            machine.fail(f"nvmlDeviceGetMPSComputeRunningProcesses{newer}", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    machine.processes(0, [Process(100, GIB // 32)])
    machine.processes(0, [], kind="graphics")
    machine.processes(0, [Process(400, 30 * GIB), Process(100, GIB // 32)], kind="mps")
    assert read() == (Listed(100, "compute", GIB / 32), Listed(400, "compute", 30.0 * GIB)), "each once"


def test_processes_without_a_pid_are_all_there(machine: Stub) -> None:
    """A driver that cannot translate pids tells 0, for each of them."""
    machine.processes(0, [Process(0, 40 * GIB), Process(0, 2 * GIB), Process(2**32 - 1, GIB)])
    machine.processes(0, [], kind="graphics")
    assert [(each.pid, each.memory_used) for each in read() or ()] == [
        (0, 40.0 * GIB),
        (0, 2.0 * GIB),
        (2**32 - 1, float(GIB)),
    ]


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
def test_utilization_has_a_cadence_of_its_own(asked: Counter[str]) -> None:
    with opened(Clock(1000.0), 15.0) as look:
        for _ in range(7):
            look()
    assert asked["nvmlDeviceGetComputeRunningProcesses_v3"] == 7
    assert asked["nvmlDeviceGetProcessUtilization"] == 3, "at 0, 15 and 30 s"


def test_a_new_process_is_listed_by_the_next_reading_and_what_it_takes_later(machine: Stub) -> None:
    machine.process_utilization(0, [Usage(100, 37, time_us=50)])
    with opened(Clock(1000.0), 15.0) as look:
        look()
        machine.processes(0, [Process(100, 40 * GIB), Process(500, GIB)])
        machine.process_utilization(0, [Usage(500, 80, time_us=90)])
        shares = [{each.pid: each.utilization for each in look().processes or ()} for _ in range(3)]
    assert shares == [{100: 0.37, 500: None, 300: None}] * 2 + [{100: None, 500: 0.8, 300: None}]


def test_a_reused_pid_does_not_inherit_utilization(machine: Stub) -> None:
    machine.process_utilization(0, [Usage(100, 37, time_us=50)])
    with opened(Clock(1000.0), 15.0) as look:
        look()
        machine.processes(0, [Process(200, GIB)])
        look()
        machine.processes(0, [Process(100, GIB)])
        assert [each.utilization for each in look().processes or ()] == [None, None]


def test_a_list_tells_when_it_was_made(machine: Stub) -> None:
    machine.processes(0, [])
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    with opened(Clock(1000.0)) as look:
        listed_at = look().listed_at
    assert listed_at is not None
    assert before <= listed_at <= time.clock_gettime(time.CLOCK_BOOTTIME)


HOUR = 3600_000_000


@pytest.mark.parametrize("step", [-HOUR, 0, HOUR])
def test_a_clock_that_is_set_costs_no_utilization(machine: Stub, step: int) -> None:
    """Driver 580 stamps wall time, which NTP or a virtual machine's resume sets back."""
    now = 1_800_000_000_000_000
    with opened(Clock(1000.0), 5.0, clock=lambda: now / 1e6) as look:
        told = []
        for number in range(4):
            stamp = now + 5_000_000 * number + step * (number >= 2)
            machine.process_utilization(0, [Usage(100, 10 + number, time_us=stamp)])
            told.append((look().processes or ())[0].utilization)
    assert told == [0.1, 0.11, 0.12, 0.13]


def test_a_sample_from_the_future_spoils_nothing(machine: Stub) -> None:
    now = 1_800_000_000_000_000
    with opened(Clock(1000.0), 5.0, clock=lambda: now / 1e6) as look:
        machine.process_utilization(0, [Usage(100, 99, time_us=now + HOUR), Usage(100, 37, time_us=now)])
        assert (look().processes or ())[0].utilization == 0.37, "older than the one after the step back"
        machine.process_utilization(0, [Usage(100, 99, time_us=now + HOUR), Usage(100, 41, time_us=now + 1)])
        assert (look().processes or ())[0].utilization == 0.41


def test_utilization_is_asked_for_again_after_minutes(machine: Stub, asked: Counter[str]) -> None:
    machine.process_utilization(0, [Usage(100, 37)])
    machine.unsupported("nvmlDeviceGetProcessUtilization")
    with opened(Clock(1000.0)) as look:
        for _ in range(360):
            look()
        assert asked["nvmlDeviceGetProcessUtilization"] <= 12, "soon at first, then every five minutes"
        machine.fail("nvmlDeviceGetProcessUtilization", 0)
        assert 0.37 in [(look().processes or ())[0].utilization for _ in range(61)]


def test_mig_on_and_off(machine: Stub) -> None:
    """Hopper needs no reset for it; what MIG mode does not support is asked for again at once."""
    machine.process_utilization(0, [Usage(100, 37)])
    uuid = "MIG-0a0a0a0a-0000-4000-8000-000000000001"
    with opened(Clock(1000.0)) as look:
        assert (look().processes or ())[0].utilization == 0.37
        machine.mig(0, [Mig(uuid, "1g.10gb", 7, 0, 10 * GIB, GIB)])
        machine.processes(0, [Process(100, 3 * GIB, 7, 0)])
        machine.unsupported("nvmlDeviceGetGraphicsRunningProcesses_v3")
        assert look().processes == (Listed(100, "compute", 3.0 * GIB, mig_uuid=uuid),)
        machine.fail("nvmlDeviceGetMaxMigDeviceCount", pynvml.NVML_ERROR_UNKNOWN)
        machine.fail("nvmlDeviceGetMigMode", pynvml.NVML_ERROR_UNKNOWN)
        assert look().mig_uuids == (uuid,), "a call that fails for a moment ends no mode"
        machine.fail("nvmlDeviceGetMaxMigDeviceCount", 0)
        machine.fail("nvmlDeviceGetMigMode", 0)
        machine.set(0, "mig_mode", 0)
        machine.fail("nvmlDeviceGetGraphicsRunningProcesses_v3", 0)
        machine.now += 5
        after = look()
    assert after.mig_uuids == ()
    assert [(each.pid, each.utilization) for each in after.processes or ()] == [(100, 0.37), (300, None)]


def test_mig_is_found_although_it_was_not_supported_at_first(machine: Stub) -> None:
    uuid = "MIG-0a0a0a0a-0000-4000-8000-000000000001"
    machine.unsupported("nvmlDeviceGetMigMode")
    with opened(Clock(1000.0)) as look:
        look()
        machine.fail("nvmlDeviceGetMigMode", 0)
        machine.mig(0, [Mig(uuid, "1g.10gb", 7, 0, 10 * GIB, GIB)])
        seen = [look().mig_uuids for _ in range(60)]
    assert seen[-1] == (uuid,)


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
