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
CORRECTABLE, FATAL = 173, 180  # PCIe


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
    assert told(reading, "gpu_sram_uncorrected_errors_total", "unit") == {
        "l2": 0, "sm": 3, "mcu": 2, "pcie": 0, "other": 0,
    }  # fmt: skip


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
