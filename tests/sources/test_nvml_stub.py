"""The stand-in for NVML, through the real pynvml."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest
from tools.lab import ROOT
from tools.lab.exporter import environment
from tools.lab.nvml_stub import FUNCTIONS, MODELS, SETTINGS, Mig, Process, Stub, Usage, build
from tools.lab.nvml_stub.agent import Agent, NvmlError
from tools.lab.wait import patience, wait_for

from gpu_exporter.catalog import CATALOG
from gpu_exporter.catalog.row import Call, Field, Links

UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, TIMEOUT = 1, 3, 4, 6, 10
DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND, LOST, RESET_REQUIRED, MISMATCH, UNKNOWN = 9, 13, 15, 16, 18, 999
GIB = 1 << 30


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvml")


@pytest.fixture(scope="module")
def library(directory: Path) -> Path:
    return build(directory)


@pytest.fixture(scope="module")
def agent(directory: Path, library: Path) -> Iterator[Agent]:
    with Agent(Stub(directory).env(library)) as agent:
        yield agent


@pytest.fixture
def stub(directory: Path) -> Stub:
    return Stub(directory, ["h100", "a100", "rtx4090", "l40s"])


@pytest.fixture
def nvml(agent: Agent, stub: Stub) -> Iterator[Agent]:
    agent("nvmlInit()")
    yield agent
    for device in range(stub.count):
        stub.recover(device)
    agent("nvmlShutdown()")


# --- values -----------------------------------------------------------------------------------------------------------


def test_answers_the_values_of_each_model(nvml: Agent) -> None:
    assert nvml("nvmlDeviceGetCount()") == 4
    assert nvml("[nvmlDeviceGetName(handle(i)) for i in range(4)]") == [
        "NVIDIA H100 80GB HBM3",
        "NVIDIA A100-SXM4-80GB",
        "NVIDIA GeForce RTX 4090",
        "NVIDIA L40S",
    ]
    assert nvml("nvmlDeviceGetTemperatureV(handle(0), NVML_TEMPERATURE_GPU)") == 59
    assert nvml("nvmlDeviceGetPciInfo(handle(1)).busId") == "00000000:11:00.0"
    assert nvml("nvmlDeviceGetCudaComputeCapability(handle(3))") == [8, 9]
    assert nvml("[nvmlDeviceGetFanSpeed_v2(handle(2), fan) for fan in range(nvmlDeviceGetNumFans(handle(2)))]") == [
        30,
        31,
    ]
    assert nvml("nvmlDeviceGetPowerManagementLimitConstraints(handle(0))") == [200_000, 700_000]
    assert nvml("nvmlSystemGetDriverVersion()") == "590.48.01"
    for model_lacks in ("nvmlDeviceGetEccMode(handle(2))", "nvmlDeviceGetNumFans(handle(0))"):
        assert nvml.error(model_lacks) == NOT_SUPPORTED


def test_finds_handles_by_uuid_and_address(nvml: Agent, stub: Stub) -> None:
    uuid = stub.get(2, "uuid")
    assert nvml(f"nvmlDeviceGetIndex(nvmlDeviceGetHandleByUUID({uuid!r}))") == 2
    assert nvml("nvmlDeviceGetIndex(nvmlDeviceGetHandleByPciBusId('0000:12:00.0'))") == 2
    assert nvml.error("nvmlDeviceGetHandleByUUID('GPU-none')") == NOT_FOUND


def test_changes_reach_the_running_process(nvml: Agent, stub: Stub) -> None:
    stub.set(0, "temperature", 91)
    assert nvml("nvmlDeviceGetTemperature(handle(0), 0)") == 91
    stub.set(0, "temperature", None)
    assert nvml.error("nvmlDeviceGetTemperatureV(handle(0), 0)") == NOT_SUPPORTED


def test_memory_version_1_counts_reserved_memory_as_used(nvml: Agent) -> None:
    old = nvml("(lambda m: [m.total, m.free, m.used])(nvmlDeviceGetMemoryInfo(handle(0)))")
    new = nvml("(lambda m: [m.total, m.free, m.used, m.reserved])(nvmlDeviceGetMemoryInfo(handle(0), nvmlMemory_v2))")
    assert old[:2] == new[:2]
    assert old[2] == new[2] + new[3]
    assert sum(new[1:]) == new[0]


@pytest.fixture
def every_model(agent: Agent, directory: Path) -> Iterator[Stub]:
    stub = Stub(directory, ["h100", "a100", *MODELS])
    agent("nvmlInit()")
    yield stub
    agent("nvmlShutdown()")


def test_every_call_of_the_catalogue_is_answered(agent: Agent, every_model: Stub) -> None:
    stub = every_model
    with stub.batch():
        for name in SETTINGS - {"name", "uuid", "serial", "vbios_version", "mig_mode", "nvlink_generation"}:
            for device in (0, 1):
                pair = [1, 2] if name in {"fan_speeds", "fan_rpms"} or name.startswith("nvlink_") else 1
                stub.set(device, name, [1] * 5 if name == "remap_banks" else pair)
        stub.set(0, "nvlink_generation", 3)
        stub.set(1, "nvlink_generation", 5)
        stub.set(0, "mig_mode", 0)
    calls = {call for metric in CATALOG for call in metric.nvml if isinstance(call, Call)}
    assert calls
    for call in calls:
        arguments = ["handle(0)", *map(str, call.args), *([f"byref({call.struct}())"] if call.struct else [])]
        agent(f"str({call.name}({', '.join(arguments)}))")
    unknown = [
        f"{number}: 1,  # {name}"
        for number, scope, name in sorted(set(_fields()))
        if all(agent(f"fields({device}, ({number}, {scope}))")[0][0] for device in range(stub.count))
    ]
    assert unknown == [], (
        "tools/lab/nvml_stub/presets.py: add to a board of FIELDS, with what it answers:\n" + "\n".join(unknown)
    )


def _fields() -> Iterator[tuple[int, int, str]]:
    """Number, scope and name of every field that a row asks for."""
    for metric in CATALOG:
        if metric.links is not None:
            yield getattr(pynvml, metric.links), 0, metric.links
        for column in metric.nvml:
            if isinstance(column, Field):
                number = column.renumbered[0][1] if column.renumbered else getattr(pynvml, column.name)
                yield number, 0 if column.scope == "links" else column.scope, column.name
            elif isinstance(column, Links):
                yield getattr(pynvml, column.state), 0, column.state


def test_old_names_answer_as_the_new_ones(nvml: Agent, stub: Stub) -> None:
    stub.set(0, "event_reasons", 0x44)
    assert nvml("nvmlDeviceGetCurrentClocksEventReasons(handle(0))") == 0x44
    assert nvml("nvmlDeviceGetCurrentClocksThrottleReasons(handle(0))") == 0x44
    assert nvml("[nvmlDeviceGetNvLinkState(handle(1), link) for link in range(12)]") == [1] * 12


# --- fields -----------------------------------------------------------------------------------------------------------


def test_fields_have_a_status_and_a_type_each(nvml: Agent, stub: Stub) -> None:
    stub.field(0, 83, error=UNKNOWN)
    assert nvml(
        "fields(0, NVML_FI_DEV_MEMORY_TEMP, 83, NVML_FI_DEV_RETIRED_SBE, NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT)"
    ) == [
        [0, 54, 1],
        [UNKNOWN, None, 3],
        [NOT_SUPPORTED, None, 0],
        [0, -8, 5],
    ]


def test_a_field_that_no_setting_stands_for_is_not_supported_until_it_is_told(nvml: Agent, stub: Stub) -> None:
    number = pynvml.NVML_FI_DEV_NVLINK_GET_POWER_STATE
    asked = f"fields(0, ({number}, 0), ({number}, 1))"
    assert nvml(asked) == [[NOT_SUPPORTED, None, 0], [NOT_SUPPORTED, None, 0]]
    stub.field(0, (number, 1), -3, kind=pynvml.NVML_VALUE_TYPE_SIGNED_INT)
    assert nvml(asked) == [[NOT_SUPPORTED, None, 0], [0, -3, 5]]
    stub.field(0, number, 7, kind=pynvml.NVML_VALUE_TYPE_UNSIGNED_INT)
    assert nvml(asked) == [[0, 7, 1], [0, -3, 5]]


@pytest.mark.parametrize(
    ("driver", "answered"),
    [
        ("570.86.10", []),
        ("575.57.08", [251, 252, 253]),
        ("580.159.04", [269, 270, 271]),
        ("590.48.01", [269, 270, 271]),
    ],
)
def test_clock_event_counters_follow_the_driver(agent: Agent, stub: Stub, driver: str, answered: list[int]) -> None:
    for number, name in enumerate(("reason_ns_sw_thermal", "reason_ns_hw_thermal", "reason_ns_power_brake")):
        stub.set(0, name, 100 + number)
    stub.driver_version = driver
    agent("nvmlInit()")
    assert agent("nvmlSystemGetDriverVersion()") == driver
    numbers = [251, 252, 253, 269, 270, 271]
    found = {
        number: value
        for number, (code, value, _) in zip(numbers, agent(f"fields(0, *{numbers})"), strict=True)
        if not code
    }
    assert found == dict(zip(answered, (100, 101, 102), strict=False))
    agent("nvmlShutdown()")


def test_nvlink_counters_by_link_and_in_sum(nvml: Agent, stub: Stub) -> None:
    stub.set(0, "nvlink_tx", (1024, 2048, 4096))
    tx = pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX
    answers = nvml(f"fields(0, ({tx}, 1), ({tx}, 0xFFFFFFFF), ({tx}, 7), (NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES, 1))")
    assert [(code, value) for code, value, _ in answers] == [(0, 2), (0, 7), (2, None), (3, None)]
    stub.set(0, "nvlink_generation", 5)
    assert nvml("fields(0, (NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES, 1))") == [[0, 2048, 3]]


def test_pcie_counters_can_have_32_bits(nvml: Agent, stub: Stub) -> None:
    stub.set(0, "pcie_tx_bytes", 2**32 + 5)
    assert nvml("fields(0, NVML_FI_DEV_PCIE_COUNT_TX_BYTES)") == [[0, 5, 1]], "as on an H200 with driver 580"
    stub.set(0, "pcie_counter_bits", 64)
    assert nvml("fields(0, NVML_FI_DEV_PCIE_COUNT_TX_BYTES)") == [[0, 2**32 + 5, 3]]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_lost_gpu_leaves_the_others_alone(nvml: Agent, stub: Stub) -> None:
    nvml("handle(1)")
    stub.lose(1)
    assert nvml.error("nvmlDeviceGetName(handle(1))") == LOST
    assert nvml.error("nvmlDeviceGetHandleByIndex(1)") == LOST
    assert nvml("nvmlDeviceGetCount()") == 4
    assert nvml("nvmlDeviceGetName(handle(0))") == "NVIDIA H100 80GB HBM3"
    stub.lose(1, lookup=True)
    nvml("nvmlDeviceGetHandleByIndex(1)")
    assert nvml.error("nvmlDeviceGetName(handle(1))") == LOST
    stub.recover(1)
    assert nvml("nvmlDeviceGetName(handle(1))") == "NVIDIA A100-SXM4-80GB"


@pytest.mark.parametrize("code", [NO_PERMISSION, RESET_REQUIRED, UNKNOWN])
def test_a_gpu_can_answer_any_error(nvml: Agent, stub: Stub, code: int) -> None:
    stub.error(3, code)
    assert nvml.error("nvmlDeviceGetUtilizationRates(handle(3))") == code


def test_a_hung_call_blocks_only_its_gpu(nvml: Agent, stub: Stub) -> None:
    nvml("[handle(i) for i in range(4)]")
    stub.reset_calls()
    stub.hang(2)
    hung = nvml.start("nvmlDeviceGetName(handle(2))")
    wait_for(lambda: stub.calls().get("nvmlDeviceGetName") == 1)
    assert nvml("nvmlDeviceGetName(handle(3))") == "NVIDIA L40S"
    stub.set(3, "temperature", 60)
    assert nvml("nvmlDeviceGetTemperature(handle(3), 0)") == 60
    assert not hung.done()
    stub.recover(2)
    assert hung.result(timeout=patience()) == "NVIDIA GeForce RTX 4090"


def test_slow_calls(nvml: Agent, stub: Stub) -> None:
    nvml("[handle(0), handle(1)]")
    stub.slow(1, 0.05)
    began = time.monotonic()  # a call may take longer than it was told to, never less
    assert nvml("nvmlDeviceGetIndex(handle(1))") == 1
    assert time.monotonic() - began >= 0.05
    stub.slow_function("nvmlDeviceGetIndex", 3600)
    slow = nvml.start("nvmlDeviceGetIndex(handle(0))")
    assert nvml("nvmlDeviceGetTemperature(handle(0), 0)") == 59
    assert not slow.done()
    stub.slow_function("nvmlDeviceGetIndex", 0)
    assert slow.result(timeout=patience()) == 0


def test_a_function_can_fail_for_one_gpu_or_all(nvml: Agent, stub: Stub) -> None:
    stub.unsupported("nvmlDeviceGetJpgUtilization", device=0)
    assert nvml.error("nvmlDeviceGetJpgUtilization(handle(0))") == NOT_SUPPORTED
    assert nvml("nvmlDeviceGetJpgUtilization(handle(1))")[0] == 0
    stub.unsupported("nvmlDeviceGetJpgUtilization")
    assert nvml.error("nvmlDeviceGetJpgUtilization(handle(1))") == NOT_SUPPORTED


def test_init_fails_and_recovers(agent: Agent, stub: Stub) -> None:
    assert agent.error("nvmlDeviceGetCount()") == UNINITIALIZED
    for code in (DRIVER_NOT_LOADED, MISMATCH):
        stub.fail_init(code)
        assert agent.error("nvmlInit()") == code
    stub.fail_init(0)
    agent("nvmlInit()")
    agent("nvmlInit()")
    agent("nvmlShutdown()")
    assert agent("nvmlDeviceGetCount()") == 4
    agent("nvmlShutdown()")
    assert agent.error("nvmlDeviceGetCount()") == UNINITIALIZED
    assert agent.error("nvmlShutdown()") == UNINITIALIZED


def test_init_hangs(agent: Agent, stub: Stub) -> None:
    stub.hang_init()
    stub.reset_calls()
    starting = agent.start("nvmlInit()")
    wait_for(lambda: stub.calls().get("nvmlInitWithFlags") == 1)
    assert not starting.done()
    stub.hang_init(hang=False)
    starting.result(timeout=patience())
    agent("nvmlShutdown()")


@pytest.mark.parametrize("code", [UNINITIALIZED, DRIVER_NOT_LOADED, MISMATCH])
def test_a_failed_driver_needs_a_new_session(nvml: Agent, stub: Stub, code: int) -> None:
    stub.fail_driver(code)
    assert nvml.error("nvmlDeviceGetName(handle(0))") == code
    stub.set(0, "temperature", 1)
    assert nvml.error("nvmlDeviceGetCount()") == code
    nvml("nvmlShutdown()")
    nvml("nvmlInit()")
    assert nvml("nvmlDeviceGetTemperature(handle(0), 0)") == 1


def test_gpus_come_and_go_between_sessions(nvml: Agent, stub: Stub) -> None:
    stub.add("a100")
    stub.count = 2
    assert nvml("nvmlDeviceGetCount()") == 4
    nvml("nvmlShutdown()")
    nvml("nvmlInit()")
    assert nvml("nvmlDeviceGetCount()") == 2
    assert nvml.error("nvmlDeviceGetHandleByIndex(2)") == 2


def test_missing_symbols(directory: Path, tmp_path: Path) -> None:
    old = build(directory, without=["nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryInfo_v2"])
    assert build(directory, without=["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTemperatureV"]) == old
    with Agent(Stub(tmp_path).env(old)) as agent:
        agent("nvmlInit()")
        assert agent.error("nvmlDeviceGetTemperatureV(handle(0), 0)") == FUNCTION_NOT_FOUND
        assert agent.error("nvmlDeviceGetMemoryInfo(handle(0), nvmlMemory_v2)") == FUNCTION_NOT_FOUND
        assert agent("nvmlDeviceGetTemperature(handle(0), 0)") == 59


def test_misspelt_names_are_refused(stub: Stub, directory: Path) -> None:
    with pytest.raises(ValueError, match="temprature"):
        stub.set(0, "temprature", 1)
    with pytest.raises(ValueError, match="nvmlDeviceGetNames"):
        stub.unsupported("nvmlDeviceGetNames")
    with pytest.raises(ValueError, match="nvmlDeviceGetNames"):
        build(directory, without=["nvmlDeviceGetNames"])


# --- samples, processes, events, partitions ---------------------------------------------------------------------------

SAMPLES = "[[s.timeStamp, s.sampleValue.uiVal] for s in nvmlDeviceGetSamples(handle({}), {}, {})[1]]"


def test_listed_samples_are_told_once(nvml: Agent, stub: Stub) -> None:
    stub.samples(0, 1, [(100, 10), (200, 20), (300, 30)])
    assert nvml(SAMPLES.format(0, 1, 0)) == [[100, 10], [200, 20], [300, 30]]
    assert nvml(SAMPLES.format(0, 1, 200)) == [[300, 30]]
    assert nvml.error(SAMPLES.format(0, 1, 300)) == NOT_FOUND
    stub.unsupported("nvmlDeviceGetSamples", device=0)
    assert nvml.error(SAMPLES.format(0, 1, 0)) == NOT_SUPPORTED


def test_samples_follow_what_the_settings_were(nvml: Agent, stub: Stub) -> None:
    began = round(stub.now)
    stub.now = began + 0.25
    stub.set(0, "utilization", 40)
    stub.now = began + 0.5
    found = [[round((at / 1e6 - began) * 6, 3), value] for at, value in nvml(SAMPLES.format(0, 1, 0))]
    assert found == [[0, 100], [1, 100], [2, 40], [3, 40]], "six a second"


def test_the_clock_stands_still_unless_it_is_moved_or_live(nvml: Agent, stub: Stub, directory: Path) -> None:
    field, violation = "nvmlDeviceGetFieldValues(handle(0), [82])[0]", "nvmlDeviceGetViolationStatus(handle(0), 0)"
    stamps = f"[{field}.timestamp, {violation}.referenceTime]"
    stub.now = 1_000_000_000.25
    assert nvml(stamps) == [1_000_000_000_250_000] * 2
    stub.now += 1
    assert nvml(stamps) == [1_000_000_001_250_000] * 2
    live = Stub(directory, live=True)
    before = live.now
    assert before <= nvml(stamps)[0] / 1e6 <= live.now


def test_processes_of_every_version(nvml: Agent, stub: Stub) -> None:
    asked = "[[p.pid, p.usedGpuMemory] for p in nvmlDeviceGet{}RunningProcesses{}(handle(0))]"
    assert nvml(asked.format("Compute", "")) == []
    stub.processes(0, [Process(10 + number, number * GIB) for number in range(64)])
    stub.processes(0, [Process(7, None)], kind="graphics")
    for version in ("", "_v2", "_v3"):
        assert nvml(asked.format("Compute", version)) == [[10 + number, number * GIB] for number in range(64)]
        assert nvml(asked.format("Graphics", version)) == [[7, None]]
        assert nvml(asked.format("MPSCompute", version)) == []


def test_process_utilization_is_not_found_without_news(nvml: Agent, stub: Stub) -> None:
    asked = "[[s.pid, s.timeStamp, s.smUtil, s.decUtil] for s in nvmlDeviceGetProcessUtilization(handle(0), {})]"
    assert nvml.error(asked.format(0)) == NOT_FOUND
    stub.process_utilization(0, [Usage(5, sm=50, decoder=4, time_us=1000), Usage(6, sm=25, time_us=2000)])
    assert nvml(asked.format(0)) == [[5, 1000, 50, 4], [6, 2000, 25, 0]]
    assert nvml(asked.format(1000)) == [[6, 2000, 25, 0]]
    assert nvml.error(asked.format(2000)) == NOT_FOUND
    stub.process_utilization(0, [Usage(5, sm=50)])
    began = round(stub.now * 1e6)
    stub.now += 0.4
    assert nvml(asked.format(0)) == [[5, began + 333_334, 50, 0]], "the second beat of a second"


def test_xid_events_come_once_and_in_order(nvml: Agent, stub: Stub) -> None:
    wait = (
        "(lambda e: [nvmlDeviceGetIndex(e.device), e.eventType, e.eventData, e.gpuInstanceId])"
        "(nvmlEventSetWait_v2(kept['set'], {}))"
    )
    stub.xid(0, 13)
    nvml("kept.update(set=nvmlEventSetCreate())")
    nvml("[nvmlDeviceRegisterEvents(handle(i), nvmlEventTypeXidCriticalError, kept['set']) for i in (0, 1)]")
    assert nvml.error(wait.format(10)) == TIMEOUT
    waiting = nvml.start(wait.format(5000))
    stub.xid(2, 31)
    stub.xid(1, 79)
    stub.xid(0, 48)
    assert waiting.result(timeout=patience()) == [1, 8, 79, 0xFFFFFFFF]
    stub.set(0, "temperature", 1)
    assert nvml(wait.format(5000)) == [0, 8, 48, 0xFFFFFFFF]
    assert nvml.error(wait.format(10)) == TIMEOUT
    waiting = nvml.start(wait.format(5000))
    stub.fail("nvmlEventSetWait_v2", LOST)
    with pytest.raises(NvmlError, match=str(LOST)):
        waiting.result(timeout=patience())
    nvml("nvmlEventSetFree(kept['set'])")


def test_mig_devices(nvml: Agent, stub: Stub) -> None:
    assert nvml("nvmlDeviceGetMigMode(handle(0))") == [0, 0]
    assert nvml.error("nvmlDeviceGetMigDeviceHandleByIndex(handle(0), 0)") == NOT_SUPPORTED
    stub.mig(0, [Mig("MIG-1", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 7, 0, 10 * GIB, GIB)])
    stub.processes(0, [Process(1, GIB, 7, 0), Process(2, GIB, 8, 0)])
    nvml("kept.update(mig=nvmlDeviceGetMigDeviceHandleByIndex(handle(0), 0))")
    assert nvml("[nvmlDeviceGetName(kept['mig']), nvmlDeviceGetGpuInstanceId(kept['mig'])]") == [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        7,
    ]
    assert nvml("nvmlDeviceGetMemoryInfo(kept['mig'], nvmlMemory_v2).used") == GIB
    assert nvml("[p.pid for p in nvmlDeviceGetComputeRunningProcesses(kept['mig'])]") == [1]
    assert nvml.error("nvmlDeviceGetTemperatureV(kept['mig'], 0)") == NOT_SUPPORTED
    assert nvml.error("nvmlDeviceGetUtilizationRates(handle(0))") == NOT_SUPPORTED
    assert nvml.error("nvmlDeviceGetMigDeviceHandleByIndex(handle(0), 1)") == NOT_FOUND


def test_gpm(nvml: Agent) -> None:
    assert nvml("[nvmlGpmQueryDeviceSupport(handle(i)).isSupportedDevice for i in range(2)]") == [1, 0]
    assert nvml("gpm(0, NVML_GPM_METRIC_SM_UTIL)") == 92.25


# --- counting and cost ------------------------------------------------------------------------------------------------


def test_counts_each_call_once(nvml: Agent, stub: Stub) -> None:
    nvml("handle(0)")
    stub.reset_calls()
    nvml("[nvmlDeviceGetIndex(handle(0)) for _ in range(5)]")
    stub.unsupported("nvmlDeviceGetBrand")
    assert nvml.error("nvmlDeviceGetBrand(handle(0))") == NOT_SUPPORTED
    nvml("fields(0, 82, 83, 94)")
    assert stub.calls() == {"nvmlDeviceGetIndex": 5, "nvmlDeviceGetBrand": 1, "nvmlDeviceGetFieldValues": 1}


def test_exports_what_the_table_lists(library: Path) -> None:
    symbols = subprocess.run(
        ["nm", "--dynamic", "--defined-only", str(library / "libnvidia-ml.so.1")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {line.split()[2] for line in symbols.splitlines()} == FUNCTIONS | {"nvmlErrorString"}


def test_shows_64_gpus_with_64_processes_each(agent: Agent, directory: Path) -> None:
    stub = Stub(directory, ["h100"] * 64)
    with stub.batch():
        for device in range(64):
            stub.processes(device, [Process(device * 100 + number, GIB) for number in range(64)])
    agent("nvmlInit()")
    asked = "sum(len(nvmlDeviceGetComputeRunningProcesses(nvmlDeviceGetHandleByIndex(i))) for i in range(64))"
    assert agent(asked) == 64 * 64
    agent("nvmlShutdown()")


def test_by_hand_as_contributing_tells(tmp_path: Path) -> None:
    """The page's own commands, in a folder of the test's."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"^```bash\n(.*nvml_stub.*?)^```$", page, re.MULTILINE | re.DOTALL)
    script = block.replace(".venv/bin/python", sys.executable).replace(".build/gpus", str(tmp_path / "gpus"))
    script = script.replace(".venv/bin/gpu-exporter", f"{sys.executable} -m gpu_exporter")
    done = subprocess.run(
        ["bash", "-ec", script], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = re.findall(r"^1 .*A100.*?(\d+) °C", done.stdout, re.MULTILINE)
    assert before != after == "91"
