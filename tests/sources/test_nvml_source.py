"""The NVML source through the real pynvml, over the stand-in for the driver's library."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tools.lab.clock import Clock
from tools.lab.nvml_stub import MODELS, Mig, Stub
from tools.lab.wait import patience, wait_for

from gpu_exporter.catalog import DEVICE_METRICS, by_name
from gpu_exporter.catalog.row import Kernel, Processes
from gpu_exporter.model import Reading, Xid
from gpu_exporter.sources import SourceError
from gpu_exporter.sources.nvml import NvmlSource

# nvml.h, nvmlSamplingType_t.
TOTAL_POWER, GPU_UTILIZATION = 0, 1
MakeStub = Callable[..., Stub]
Here = Callable[[Stub], Stub]


@pytest.fixture
def opened(here: Here) -> Iterator[Callable[..., NvmlSource]]:
    sources: list[NvmlSource] = []

    def open_source(machine: Stub, **rest: Any) -> NvmlSource:
        here(machine)
        sources.append(NvmlSource(**rest))
        return sources[-1]

    yield open_source
    for source in sources:
        source.close()


def value(reading: Reading, name: str, **labels: str) -> float | None:
    return reading.values.get(by_name(name, **labels))


def named(reading: Reading) -> set[str]:
    rows = {*reading.values, *reading.increments, *(metric for metric, _ in reading.labelled)}
    return {metric.name for metric in rows}


def test_identity(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    source = opened(stub("h100", "rtx4090"))
    first, second = (source.read(device).device for device in source.devices)
    assert source.devices == [first, second]
    assert (first.index, first.model, first.architecture) == (0, "NVIDIA H100 80GB HBM3", "Hopper")
    assert first.uuid.startswith("GPU-")
    assert first.pci_bus_id.endswith(":00.0")
    assert first.vbios_version
    assert (second.index, second.architecture) == (1, "Ada")
    assert second.serial == "", "a GeForce has no serial number"
    assert source.driver.driver_version == "590.48.01"
    assert source.driver.cuda_version == "13.1"


def test_values_are_in_base_units(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    machine = stub("h100")
    with machine.batch():
        machine.set(0, "temperature", 71)
        machine.set(0, "power", 345_670)
        machine.set(0, "energy", 1_234_567_890)
    source = opened(machine)
    reading = source.read(source.devices[0])
    assert reading.failure is None
    assert value(reading, "gpu_temperature_celsius") == 71
    assert value(reading, "gpu_power_watts") == 345.67
    assert value(reading, "gpu_energy_joules_total") == 1_234_567.89, "scaled without a rounding error"
    assert value(reading, "gpu_clock_hertz", clock="sm") == 1.98e9
    assert value(reading, "gpu_memory_total_bytes") == 81559 * 1024**2
    assert value(reading, "gpu_nvlink_links", state="active") == 18
    assert value(reading, "gpu_fabric_state") == 3


def test_what_a_device_lacks_is_absent(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    source = opened(stub("h100", "rtx4090"))
    h100, rtx = (source.read(device) for device in source.devices)
    assert "gpu_fan_speed_ratio" not in named(h100)
    assert "gpu_memory_temperature_celsius" in named(h100)
    assert "gpu_fan_speed_ratio" in named(rtx)
    lacks = {"gpu_ecc_enabled", "gpu_ecc_errors_total", "gpu_nvlink_links", "gpu_mig_mode_enabled", "gpu_fabric_state"}
    assert not lacks & named(rtx)


def test_an_unsupported_call_is_not_repeated(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    machine = stub("h100", "h100")
    machine.unsupported("nvmlDeviceGetJpgUtilization", device=1)
    source = opened(machine)
    readings = [source.read(device) for device in source.devices]
    jpeg = by_name("gpu_jpeg_utilization_ratio")
    assert [jpeg in reading.values for reading in readings] == [True, False], "one device's answer is its own"
    machine.fail("nvmlDeviceGetJpgUtilization", 0, device=1)
    assert jpeg not in source.read(source.devices[1]).values, "not asked again until the source is reopened"


def test_steady_calls_stay_within_the_budget(
    opened: Callable[..., NvmlSource], stub: MakeStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    machine = stub("h100", "a100", "rtx4090", "l40s")
    source = opened(machine)
    for device in source.devices:
        source.read(device)
    import pynvml  # noqa: PLC0415 - counted from here on

    genuine = pynvml._nvmlGetFunctionPointer

    def counted(name: str) -> object:
        nonlocal calls
        calls += 1
        return genuine(name)

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", counted)
    for device in source.devices:
        source.read(device)
    assert calls <= 25 * 4, "the budget: 25 driver calls a GPU and tick"


def test_memory_version_one_is_only_a_stand_in(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    new, old = stub("h100"), stub("h100")
    old.unsupported("nvmlDeviceGetMemoryInfo_v2")
    exact = opened(new)
    used = value(exact.read(exact.devices[0]), "gpu_memory_used_bytes")
    rough = opened(old)
    reading = rough.read(rough.devices[0])
    assert "gpu_memory_reserved_bytes" not in named(reading)
    counted = value(reading, "gpu_memory_used_bytes")
    assert used is not None
    assert counted is not None
    assert counted > used, "version 1 counts what the driver reserves"


def test_temperature_falls_back_to_the_older_call(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    machine = stub("h100")
    machine.unsupported("nvmlDeviceGetTemperatureV")
    source = opened(machine)
    assert value(source.read(source.devices[0]), "gpu_temperature_celsius") == machine.get(0, "temperature")


def test_limits_come_from_margins_where_thresholds_are_gone(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    machine = stub("h100")
    with machine.batch():
        machine.unsupported("nvmlDeviceGetTemperatureThreshold")
        machine.set(0, "temperature", 41)
        machine.set(0, "temperature_margin", 46)
    source = opened(machine)
    limit = by_name("gpu_temperature_limit_celsius", limit="slowdown")
    first = source.read(source.devices[0]).values[limit]
    assert 87 <= first <= 92, "87 °C is where this board's margin is used up; it slows down a few degrees later"
    machine.set(0, "temperature_margin", 30)
    assert source.read(source.devices[0]).values[limit] == first, "the limit does not wander with the margin"


@pytest.mark.parametrize(("driver", "field"), [("575.57.08", 252), ("580.159.04", 270), ("590.48.01", 270)])
def test_renumbered_fields_follow_the_driver(
    opened: Callable[..., NvmlSource], stub: MakeStub, driver: str, field: int
) -> None:
    machine = stub("h100", driver_version=driver)
    machine.field(0, field, 7_000_000_000)
    source = opened(machine)
    reading = source.read(source.devices[0])
    assert value(reading, "gpu_clock_event_seconds_total", reason="hw_thermal_slowdown") == 7.0


def test_an_old_driver_has_no_such_field(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    source = opened(stub("h100", driver_version="550.54.14"))
    reading = source.read(source.devices[0])
    assert value(reading, "gpu_clock_event_seconds_total", reason="hw_thermal_slowdown") is None


def test_busy_seconds_come_from_the_sample_buffer(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    machine, clock = stub("h100"), Clock(100.0)
    source = opened(machine, monotonic=clock)
    (device,) = source.devices
    start = 1_000_000_000
    machine.samples(0, GPU_UTILIZATION, [(start, 90)])
    busy = by_name("gpu_busy_seconds_total")
    first = source.read(device)
    assert (first.increments[busy], first.covered[busy]) == (0.0, None), "it was not looked at before"
    # 0.2 s at 50 %, 0.2 s at 100 %, then 10 s without a sample: the one after them stands for 0.2 s as well.
    samples = [(start, 90), (start + 200_000, 50), (start + 400_000, 100)]
    machine.samples(0, GPU_UTILIZATION, [*samples, (start + 10_400_000, 10), (start + 10_600_000, 10)])
    clock.now += 10.4
    second = source.read(device)
    assert second.increments[busy] == pytest.approx(0.1 + 0.2 + 0.02 + 0.02)
    assert second.covered[busy] == pytest.approx(0.8)
    third = source.read(device)
    assert (third.increments[busy], third.covered[busy]) == (0.0, 0.0), "nothing new"


def test_energy_is_integrated_from_power_samples_where_the_driver_keeps_no_counter(
    opened: Callable[..., NvmlSource], stub: MakeStub
) -> None:
    machine = stub("h100")
    machine.field(0, 83, error=3)
    machine.unsupported("nvmlDeviceGetTotalEnergyConsumption")
    start = 1_000_000_000
    machine.samples(0, TOTAL_POWER, [(start, 300_000)])
    source = opened(machine)
    source.read(source.devices[0])
    machine.samples(0, TOTAL_POWER, [(start, 300_000), (start + 500_000, 400_000)])
    reading = source.read(source.devices[0])
    assert reading.increments[by_name("gpu_energy_joules_total")] == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("code", "reason"), [(15, "lost"), (16, "reset_required"), (28, "lost"), (999, "unknown"), (4, "permission")]
)
def test_one_devices_failure_is_its_own(
    opened: Callable[..., NvmlSource], stub: MakeStub, code: int, reason: str
) -> None:
    machine = stub("h100", "h100")
    source = opened(machine)
    for device in source.devices:
        assert source.read(device).failure is None
    machine.error(0, code)
    sick, well = (source.read(device) for device in source.devices)
    assert sick.failure is not None
    assert sick.failure.reason == reason
    assert sick.values == {}
    assert well.failure is None
    machine.recover(0)
    assert source.read(source.devices[0]).failure is None


def test_one_broken_call_does_not_condemn_the_device(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    machine = stub("rtx4090")
    machine.fail("nvmlDeviceGetFanSpeed_v2", 999)
    machine.fail("nvmlDeviceGetFanSpeed", 999)
    machine.fail("nvmlDeviceGetPerformanceState", 4)
    source = opened(machine)
    reading = source.read(source.devices[0])
    assert reading.failure is None
    assert {"gpu_fan_speed_ratio", "gpu_performance_state"}.isdisjoint(named(reading))
    assert "gpu_temperature_celsius" in named(reading)
    machine.fail("nvmlDeviceGetPerformanceState", 0)
    assert "gpu_performance_state" in named(source.read(source.devices[0])), "asked again: it was never unsupported"


def test_a_gpu_lost_at_the_start_hides_nobody_and_gets_its_name(
    opened: Callable[..., NvmlSource], stub: MakeStub
) -> None:
    machine = stub("h100", "h100", "h100")
    machine.lose(1)
    source = opened(machine)
    readings = [source.read(device) for device in source.devices]
    assert [reading.device.uuid != "" for reading in readings] == [True, False, True]
    assert [reading.failure is None for reading in readings] == [True, False, True]
    machine.recover(1)
    assert source.read(source.devices[1]).failure is None
    assert source.devices[1].uuid.startswith("GPU-")


PROC = """\
Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 130
GPU UUID: \t {uuid}
Video BIOS: \t 96.00.a5.00.01
Bus Location: \t 0000:{bus}:00.0
Device Minor: \t 0
"""


def test_a_gpu_lost_at_the_start_is_named_by_the_kernel_driver(
    opened: Callable[..., NvmlSource], stub: MakeStub, tmp_path: Path
) -> None:
    machine = stub("h100", "h100")
    machine.lose(1)
    uuid = "GPU-01234567-89ab-cdef-0123-456789abcdef"
    for bus, told in (("0a", "GPU-" + "0" * 8 + "-0000-0000-0000-" + "0" * 12), ("b1", uuid)):
        folder = tmp_path / f"proc/driver/nvidia/gpus/0000:{bus}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(PROC.format(uuid=told, bus=bus))
    source = opened(machine, root=tmp_path)
    lost = source.read(source.devices[1]).device
    assert (lost.uuid, lost.model, lost.pci_bus_id) == (uuid, "NVIDIA H100 80GB HBM3", "00000000:B1:00.0")
    (folder / "information").write_text(PROC.format(uuid="GPU-????????-????-????-????-????????????", bus="b1"))
    source = opened(machine, root=tmp_path)
    lost = source.read(source.devices[1]).device
    assert (lost.uuid, lost.model) == ("", "NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize("code", [1, 9, 18])
def test_a_driver_that_fails_as_a_whole_is_a_source_error(
    opened: Callable[..., NvmlSource], stub: MakeStub, code: int
) -> None:
    machine = stub("h100", "h100")
    source = opened(machine)
    source.read(source.devices[0])
    machine.fail_driver(code)
    with pytest.raises(SourceError):
        source.read(source.devices[0])


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (9, "not loaded"),
        (18, "library and kernel module differ"),
        (999, r"NVML cannot be opened: unknown \(NVML error 999\)"),
        (12345, "does not know .NVML error 12345."),
    ],
)
def test_init_that_fails_says_why_and_recovers(here: Here, stub: MakeStub, code: int, says: str) -> None:
    machine = here(stub("h100"))
    machine.fail_init(code)
    with pytest.raises(SourceError, match=says):
        NvmlSource()
    machine.fail_init(0)
    machine.driver_version = "595.80"
    source = NvmlSource()
    assert source.driver.driver_version == "595.80"
    source.close()


def test_xids_are_heard_with_their_time(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    machine = stub("h100", "h100")
    source = opened(machine)
    for device in source.devices:
        source.read(device)
    before = time.time()
    machine.lose(1)
    machine.xid(1, 79)
    machine.xid(0, 31)
    heard: list[Xid] = []

    def all_heard() -> bool:
        heard.extend(event for event in source.events() if isinstance(event, Xid))
        return len(heard) == 2

    wait_for(all_heard)
    assert sorted((event.device.index, event.xid) for event in heard) == [(0, 31), (1, 79)]
    assert all(before <= event.timestamp <= time.time() for event in heard)
    assert source.events() == []


def test_no_event_set_is_no_failure(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    machine = stub("h100")
    machine.fail("nvmlDeviceRegisterEvents", 3)
    source = opened(machine)
    assert source.read(source.devices[0]).failure is None
    assert source.events() == []


def test_close_leaves_no_thread_and_can_be_opened_again(here: Here, stub: MakeStub) -> None:
    here(stub("h100"))
    for _ in range(3):
        source = NvmlSource()
        assert source.read(source.devices[0]).failure is None
        source.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "xid events"]


def test_close_beneath_a_hung_call_leaves_the_driver_open(here: Here, stub: MakeStub) -> None:
    machine = here(stub("h100", "h100"))
    source = NvmlSource()
    for device in source.devices:
        source.read(device)
    results: list[Reading] = []
    machine.hang(0)
    reader = threading.Thread(target=lambda: results.append(source.read(source.devices[0])))
    reader.start()
    assert source.read(source.devices[1]).failure is None, "its sibling answers meanwhile"
    source.close(hung=True)
    assert reader.is_alive()
    machine.recover(0)
    reader.join(patience())
    assert results[0].failure is None, "NVML was not shut down beneath the call"
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "xid events"])
    import pynvml  # noqa: PLC0415

    pynvml.nvmlShutdown()


def test_slow_rows_are_asked_once_a_minute(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    now = 1000.0
    machine = stub("h100")
    source = opened(machine, monotonic=lambda: now)
    (device,) = source.devices
    assert value(source.read(device), "gpu_power_limit_watts") == 700
    machine.set(0, "power_enforced_limit", 500_000)
    now += 59
    assert value(source.read(device), "gpu_power_limit_watts") == 700
    now += 2
    assert value(source.read(device), "gpu_power_limit_watts") == 500


def test_links_are_asked_one_by_one_where_the_driver_has_no_field(
    opened: Callable[..., NvmlSource], stub: MakeStub
) -> None:
    machine = stub("a100")
    machine.set(0, "nvlink_states", [1] * 10 + [0, 0])
    source = opened(machine)
    reading = source.read(source.devices[0])
    assert value(reading, "gpu_nvlink_links", state="active") == 10
    assert value(reading, "gpu_nvlink_links", state="inactive") == 2


def test_links_of_one_kind_are_not_those_of_another(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    machine = stub("gh200", "h100")
    machine.field(0, (171, 3), 0)
    source = opened(machine)
    grace, plain = map(source.read, source.devices)
    assert [value(grace, "gpu_c2c_links", state=state) for state in ("active", "inactive")] == [9, 1]
    assert [value(grace, "gpu_nvlink_links", state=state) for state in ("active", "inactive")] == [18, 0]
    assert value(plain, "gpu_c2c_links", state="active") is None


def test_every_row_that_nvml_has_is_read_from_some_device(opened: Callable[..., NvmlSource], stub: MakeStub) -> None:
    seconds = count(0.0, 5.0)  # a share of no time is none
    machine = stub(*MODELS, "h100")
    machine.mig(len(MODELS), [Mig("MIG-1", "1g.10gb", 7, 0, 10 * 1024**3, 1024**3)])
    machine.set(len(MODELS), "sram_bucket_l2", 1)  # told where there are any
    source = opened(machine, monotonic=lambda: next(seconds))
    seen = set().union(*(named(source.read(device)) for _ in range(2) for device in source.devices))
    asked = [
        metric for metric in DEVICE_METRICS if any(not isinstance(column, Kernel | Processes) for column in metric.nvml)
    ]
    missing = [f"{metric!r}: {metric.nvml}" for metric in asked if metric.name not in seen]
    assert missing == [], (
        "tools/lab/nvml_stub/presets.py: no board has these; a field is one line in FIELDS:\n" + "\n".join(missing)
    )
