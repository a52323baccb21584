"""What the driver tells of wear, fabric, links and place, over the stand-in driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tools.lab.nvml_stub import Stub

from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.interconnect import NVLINK_LINK_ERRORS
from gpu_exporter.model import Reading
from gpu_exporter.sources.nvml import NvmlSource

MakeStub = Callable[..., Stub]
Here = Callable[[Stub], Stub]
Read = Callable[[], Reading]
RECOVERED, RECOVERIES_FAILED, EFFECTIVE = 213, 214, 219  # NVLink 5, per link
MALFORMED, INTEGRITY, DISCARDED, FEC = 206, 211, 212, 235
CORRECTABLE, BAD_TLP, FATAL = 173, 176, 180  # PCIe
SMOOTHING = 258


class Clock:
    now = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(here: Here, clock: Clock) -> Iterator[Callable[[Stub], Read]]:
    sources: list[NvmlSource] = []

    def open_source(machine: Stub) -> Read:
        here(machine)
        source = NvmlSource(monotonic=lambda: clock.now)
        sources.append(source)
        return lambda: source.read(source.devices[0])

    yield open_source
    for source in sources:
        source.close()


def told(reading: Reading, name: str, label: str) -> dict[str, float]:
    values = {dict(row.labels)[label]: value for row, value in reading.values.items() if row.name == name}
    return values | {labels[0]: value for (row, labels), value in reading.labelled.items() if row.name == name}


@pytest.mark.parametrize("mig", [0, 1])
def test_spare_rows_are_told_in_mig_mode_too(opened: Callable[[Stub], Read], stub: MakeStub, mig: int) -> None:
    machine = stub("h100")
    machine.set(0, "remap_banks", (2556, 0, 1, 2, 1))
    machine.set(0, "mig_mode", mig)
    assert told(opened(machine)(), "gpu_row_remap_banks", "spare") == {
        "max": 2556, "high": 0, "partial": 1, "low": 2, "none": 1,
    }  # fmt: skip


def test_repairs_and_sram_units(opened: Callable[[Stub], Read], stub: MakeStub) -> None:
    machine = stub("h100")
    for name, value in (("repair_tpc", 1), ("sram_bucket_sm", 3), ("sram_bucket_mcu", 2)):
        machine.set(0, name, value)
    reading = opened(machine)()
    assert told(reading, "gpu_repair_pending", "kind") == {"channel": 0, "tpc": 1}
    assert told(reading, "gpu_sram_uncorrected_errors_total", "unit") == {"sm": 3, "mcu": 2}, "units without any"


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (0, {}),
        (
            0b10_10_10_10,
            dict.fromkeys(("degraded_bandwidth", "route_recovery", "route_unhealthy", "access_timeout_recovery"), 0),
        ),
        (0b01, {"degraded_bandwidth": 1}),
        (0b01_00_00, {"route_unhealthy": 1}),
        (0b10_01_00, {"route_recovery": 1, "route_unhealthy": 0}),
        (0b11, {}),
        (0x100, {"incorrect_configuration": 0}),
        (0x500, {"incorrect_configuration": 1}),
    ],
)
def test_the_fabric_s_conditions(
    opened: Callable[[Stub], Read], stub: MakeStub, mask: int, expected: dict[str, float]
) -> None:
    machine = stub("h100")
    machine.set(0, "fabric_health", mask)
    assert told(opened(machine)(), "gpu_fabric_health", "condition") == expected


def test_the_status_counts_where_registration_is_complete(opened: Callable[[Stub], Read], stub: MakeStub) -> None:
    status = by_name("gpu_fabric_status")
    machine = stub("h100")
    machine.set(0, "fabric_status", 24)
    read = opened(machine)
    assert read().values[status] == 24
    machine.set(0, "fabric_state", 2)
    assert status not in read().values
    machine.set(0, "fabric_state", 3)
    machine.set(0, "fabric_status", 0)
    assert read().values[status] == 0


def test_errors_of_links_and_of_pcie(opened: Callable[[Stub], Read], stub: MakeStub) -> None:
    machine = stub("h100")
    for field, values in ((RECOVERED, {14: 505}), (RECOVERIES_FAILED, {14: 1}), (EFFECTIVE, {3: 7, 14: 2})):
        for link in range(18):
            machine.field(0, (field, link), values.get(link, 0))
    machine.field(0, CORRECTABLE, 9)
    machine.field(0, FATAL, 0)
    reading = opened(machine)()
    kinds = told(reading, "gpu_nvlink_errors_total", "kind")
    assert {kind: kinds[kind] for kind in ("recovery_successful", "recovery_failed", "effective")} == {
        "recovery_successful": 505, "recovery_failed": 1, "effective": 9,
    }  # fmt: skip
    assert {labels: value for (row, labels), value in reading.labelled.items() if row is NVLINK_LINK_ERRORS} == {
        ("14", "recovery_successful"): 505, ("14", "recovery_failed"): 1, ("3", "effective"): 7, ("14", "effective"): 2,
    }  # fmt: skip
    assert told(reading, "gpu_pcie_aer_errors_total", "kind") == {"correctable": 9, "fatal": 0}


def test_what_is_told_once_there_is_any(opened: Callable[[Stub], Read], stub: MakeStub, clock: Clock) -> None:
    """Seldom errors are looked at once a minute, are kept until then, and are absent while there are none."""
    machine = stub("h100")
    seldom = (MALFORMED, INTEGRITY, DISCARDED, *range(FEC, FEC + 16))
    for field in seldom:
        machine.field(0, (field, 2), 0)
    machine.field(0, CORRECTABLE, 0)
    machine.field(0, BAD_TLP, 0)
    read = opened(machine)
    kinds = {"crc_flit", "replay", "recovery"}
    reading = read()
    assert told(reading, "gpu_nvlink_errors_total", "kind").keys() == kinds
    assert told(reading, "gpu_pcie_aer_errors_total", "kind") == {"correctable": 0}, "the sum tells that there is none"
    for field, count in ((INTEGRITY, 3), (FEC + 7, 1000), (FEC + 8, 20), (FEC + 15, 1)):
        machine.field(0, (field, 2), count)
    machine.field(0, BAD_TLP, 4)
    assert told(read(), "gpu_nvlink_errors_total", "kind").keys() == kinds
    clock.now += 61
    for _ in range(2):
        reading = read()
        assert told(reading, "gpu_pcie_aer_errors_total", "kind") == {"correctable": 0, "bad_tlp": 4}
        assert told(reading, "gpu_nvlink_errors_total", "kind") == {
            **dict.fromkeys(kinds, 0), "integrity": 3, "fec": 21,
        }, "code words that needed less than half of the correction are healthy"  # fmt: skip
        assert {labels for row, labels in reading.labelled if row is NVLINK_LINK_ERRORS} == {("2", "integrity")}
        clock.now += 1


def test_power_smoothing_wears_out(opened: Callable[[Stub], Read], stub: MakeStub) -> None:
    machine = stub("h100")
    machine.field(0, SMOOTHING, 9)
    assert opened(machine)().values[by_name("gpu_power_smoothing_lifetime_ratio")] == 0.09


def test_fans_are_measured_one_by_one(opened: Callable[[Stub], Read], stub: MakeStub) -> None:
    machine = stub("rtx4090")
    machine.set(0, "fan_rpms", (0, 1043))
    read = opened(machine)
    assert told(read(), "gpu_fan_speed_rpm", "fan") == {"0": 0, "1": 1043}
    machine.set(0, "fan_rpms", (990,))
    assert told(read(), "gpu_fan_speed_rpm", "fan") == {"0": 990}, "one that cannot be measured costs itself only"
    machine.set(0, "fan_rpms", None)
    reading = read()
    assert told(reading, "gpu_fan_speed_rpm", "fan") == {}
    assert told(reading, "gpu_fan_speed_ratio", "fan") == {"0": 0.3, "1": 0.31}, "the intended speed is still told"


def test_the_place_in_fabric_and_rack(opened: Callable[[Stub], Read], stub: MakeStub, clock: Clock) -> None:
    machine = stub("h100")
    place: dict[str, int | str] = {"chassis_serial": "1820325190123", "platform_slot": 7, "platform_tray": 0}
    place["platform_host"] = 1
    for name, value in {
        **place,
        "platform_module": 3,
        "fabric_cluster": 0x0807060504030201,
        "fabric_clique": 5,
    }.items():
        machine.set(0, name, value)
    read = opened(machine)
    device = read().device
    assert (device.chassis, device.slot, device.tray, device.host, device.module) == (
        "1820325190123",
        "7",
        "0",
        "1",
        "3",
    )
    assert (device.cluster_uuid, device.clique) == ("01020304-0506-0708-0000-000000000000", "5")
    machine.set(0, "fabric_clique", 6)
    clock.now += 400
    assert read().device.clique == "6", "the fabric was set up anew"


def test_a_board_without_all_that(opened: Callable[[Stub], Read], stub: MakeStub) -> None:
    reading = opened(stub("rtx4090"))()
    assert reading.failure is None
    names = {row.name for row in reading.values} | {row.name for row, _ in reading.labelled}
    assert not names & {"gpu_row_remap_banks", "gpu_repair_pending", "gpu_fabric_health", "gpu_pcie_aer_errors_total"}
    assert (reading.device.clique, reading.device.module, reading.device.chassis) == ("", "", "")
