"""dcgm-exporter's names: every value is ours times the factor, and only the one pod of a GPU is named."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import parser as text_parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from tools.lab import ROOT

from gpu_exporter.catalog import XID_LAST, by_name
from gpu_exporter.catalog.compat import FIELDS, GENERATIONS
from gpu_exporter.catalog.mig import MIG_INFO, MIG_MEMORY_USED
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Build, Device, Driver, Failure, Identity, Reading, Snapshot
from gpu_exporter.pages.compat import Compat
from gpu_exporter.pages.exposition import Page

GPU = Device(1, "GPU-1", "NVIDIA H100", pci_bus_id="00000000:19:00.0")
GIB = 1024.0**3
Labelled = dict[tuple[Metric, tuple[str, ...]], float]
VALUES = {
    by_name("gpu_utilization_ratio"): 0.42,
    by_name("gpu_clock_hertz", clock="sm"): 1.98e9,
    by_name("gpu_memory_used_bytes"): 20 * GIB,
    by_name("gpu_energy_joules_total"): 1234.5,
    by_name("gpu_power_watts"): 650.0,
    by_name("gpu_temperature_celsius"): 61.0,
    by_name("gpu_clock_event_seconds_total", reason="sw_thermal_slowdown"): 2.0,
    by_name("gpu_clock_event_seconds_total", reason="hw_thermal_slowdown"): 0.5,
    by_name("gpu_ecc_errors_total", lifetime="volatile", location="dram", severity="corrected"): 3.0,
    by_name("gpu_ecc_errors_total", lifetime="volatile", location="sram", severity="corrected"): 4.0,
    by_name("gpu_clock_event_active", reason="sw_power_cap"): 1.0,
    by_name("gpu_clock_event_active", reason="hw_thermal_slowdown"): 1.0,
    by_name("gpu_clock_event_active", reason="gpu_idle"): 0.0,
    by_name("gpu_tensor_active_ratio"): 0.9,
}
OLD = {
    "DCGM_FI_DEV_GPU_UTIL": 42.0,
    "DCGM_FI_DEV_SM_CLOCK": 1980.0,
    "DCGM_FI_DEV_FB_USED": 20480.0,
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 1_234_500.0,
    "DCGM_FI_DEV_POWER_USAGE": 650.0,
    "DCGM_FI_DEV_POWER_USAGE_INSTANT": 650.0,
    "DCGM_FI_DEV_GPU_TEMP": 61.0,
    "DCGM_FI_DEV_THERMAL_VIOLATION": 2.5e9,
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": 7.0,
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": 68.0,
    "DCGM_FI_DEV_XID_ERRORS": 0.0,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.9,
}
NEW = {
    "DCGM_FI_DEV_GPU_UTIL_RATIO": 0.42,
    "DCGM_FI_DEV_SM_CLOCK_HERTZ": 1.98e9,
    "DCGM_FI_DEV_FB_USED_BYTES": 20 * GIB,
    "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL": 1234.5,
    "DCGM_FI_DEV_BOARD_POWER_WATTS": 650.0,
    "DCGM_FI_DEV_BOARD_POWER_RAW_WATTS": 650.0,
    "DCGM_FI_DEV_GPU_TEMP_CELSIUS": 61.0,
    "DCGM_FI_DEV_GPU_THERMAL_THROTTLE_SECONDS_TOTAL": 2.5,
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": 7.0,
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": 68.0,
    "DCGM_FI_DEV_XID_ERROR": 0.0,
    "DCGM_FI_PROF_TENSOR_UTIL_RATIO": 0.9,
}


def snapshot(*readings: Reading, monotonic: float = 0.0) -> Snapshot:
    driver = Driver(driver_version="590.48.01")
    return Snapshot(Build("1", "3"), "nvml", driver=driver, readings=readings, ok=True, monotonic=monotonic)


def samples(compat: Compat, told: Snapshot) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What a parser finds: name to labels and value of each sample."""
    text = "".join(family.text + lines for family, lines in compat.samples(told))
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_parser.text_string_to_metric_families(text):
        for sample in family.samples:
            # The parser gives every counter the suffix that OpenMetrics wants.
            found.setdefault(sample.name.removesuffix("_total"), []).append((sample.labels, sample.value))
    return found


def only(compat: Compat, told: Snapshot) -> dict[str, float]:
    return {name: value for name, ((_, value),) in samples(compat, told).items()}


@pytest.mark.parametrize(("generations", "told"), [(("dcgm",), OLD), (("dcgm-4.9",), NEW), (GENERATIONS, OLD | NEW)])
def test_values_are_ours_in_their_units(generations: tuple[str, ...], told: dict[str, float]) -> None:
    assert only(Compat(generations, hostname="node-1"), snapshot(Reading(GPU, VALUES))) == pytest.approx(told)


@pytest.mark.parametrize(
    ("generation", "name", "host", "driver"),
    [
        ("dcgm", "DCGM_FI_DEV_GPU_UTIL", "Hostname", "DCGM_FI_DRIVER_VERSION"),
        ("dcgm-4.9", "DCGM_FI_DEV_GPU_UTIL_RATIO", "hostname", "DCGM_FI_SYSTEM_DRIVER_VERSION"),
    ],
)
def test_labels_are_theirs(generation: str, name: str, host: str, driver: str) -> None:
    pod = Identity(container="main", labels={"pod": "train-0", "namespace": "ml"})
    told = samples(Compat([generation], hostname="node-1"), snapshot(Reading(GPU, VALUES, allocations=(pod,))))
    ((labels, _),) = told[name]
    assert labels == {
        "gpu": "1",
        "UUID": "GPU-1",
        "pci_bus_id": "00000000:19:00.0",
        "device": "nvidia1",
        "modelName": "NVIDIA H100",
        host: "node-1",
        driver: "590.48.01",
        "container": "main",
        "namespace": "ml",
        "pod": "train-0",
    }


@pytest.mark.parametrize("pods", [(), ("a", "b")])
def test_a_gpu_of_no_pod_or_of_several_names_none(pods: tuple[str, ...]) -> None:
    given = tuple(Identity(labels={"pod": pod, "namespace": "ml"}) for pod in pods)
    told = samples(Compat(["dcgm"], hostname="n"), snapshot(Reading(GPU, VALUES, allocations=given)))
    assert all(len(each) == 1 for each in told.values())
    assert not {"pod", "namespace", "container"} & told["DCGM_FI_DEV_GPU_UTIL"][0][0].keys()


def test_the_latest_xid_is_told_by_its_number() -> None:
    labelled: Labelled = {(XID_LAST, ("79",)): 2000.0, (XID_LAST, ("13",)): 3000.0}
    told = samples(Compat(["dcgm"], hostname="n"), snapshot(Reading(GPU, VALUES, labelled=labelled)))
    assert [value for _, value in told["DCGM_FI_DEV_XID_ERRORS"]] == [13.0]


def test_a_rate_is_the_mean_since_the_snapshot_before() -> None:
    sent, received = by_name("gpu_nvlink_transmit_bytes_total"), by_name("gpu_nvlink_receive_bytes_total")
    compat = Compat(GENERATIONS, hostname="n")
    first = snapshot(Reading(GPU, {sent: 1e9, received: 0.0}), monotonic=100.0)
    assert "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL" not in samples(compat, first)
    told = only(compat, snapshot(Reading(GPU, {sent: 6e9, received: 5e9}), monotonic=110.0))
    assert told["DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"] == 1000.0
    assert told["DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND"] == 1e9
    assert told["DCGM_FI_PROF_NVLINK_TX_BYTES"] == 5e8
    fallen = samples(compat, snapshot(Reading(GPU, {sent: 0.0, received: 0.0}), monotonic=120.0))
    assert "DCGM_FI_PROF_NVLINK_TX_BYTES" not in fallen, "a counter that was reset tells no rate"


def test_mig_devices_are_told_instead_of_their_gpu() -> None:
    labelled: Labelled = {
        (MIG_INFO, ("MIG-1", "7", "0", "1g.10gb")): 1.0,
        (MIG_INFO, ("MIG-2", "8", "0", "1g.10gb")): 1.0,
        (MIG_MEMORY_USED, ("MIG-1",)): GIB,
        (MIG_MEMORY_USED, ("MIG-2",)): 2 * GIB,
    }
    alice = Identity(labels={"pod": "alice-0", "namespace": "ml"})
    reading = Reading(
        GPU,
        VALUES,
        labelled=labelled,
        mig_uuids=("MIG-1", "MIG-2"),
        mig_allocations={"MIG-1": (alice,), "MIG-2": ()},
    )
    told = samples(Compat(["dcgm"], hostname="n"), snapshot(reading))
    assert [(labels["GPU_I_ID"], labels.get("pod"), value) for labels, value in told["DCGM_FI_DEV_FB_USED"]] == [
        ("7", "alice-0", 1024.0),
        ("8", None, 2048.0),
    ]
    ((labels, _),) = told["DCGM_FI_DEV_GPU_TEMP"]
    assert "GPU_I_ID" not in labels


def test_a_gpu_that_is_down_is_absent_and_the_others_are_not() -> None:
    down = Reading(replace(GPU, index=0, uuid="GPU-0"), failure=Failure("lost", "gone"))
    told = samples(Compat(["dcgm"], hostname="n"), snapshot(down, Reading(GPU, VALUES)))
    assert {labels["gpu"] for each in told.values() for labels, _ in each} == {"1"}


@pytest.mark.parametrize("hostile", ['"', "\\", "\n", "é", "\ud83d"])
def test_labels_are_escaped(hostile: str) -> None:
    told = samples(Compat(["dcgm"], hostname=hostile), snapshot(Reading(GPU, VALUES)))
    assert told["DCGM_FI_DEV_GPU_UTIL"][0][0]["Hostname"] == hostile.replace("\ud83d", "\ufffd")


@pytest.mark.parametrize("openmetrics", [False, True])
def test_the_page_has_them_in_both_formats_and_only_where_asked_for(openmetrics: bool) -> None:
    told = snapshot(Reading(GPU, VALUES))
    plain = Page().body(told, openmetrics=openmetrics, gzip=False).decode()
    assert "DCGM" not in plain
    text = Page(compat=Compat(GENERATIONS, hostname="n")).body(told, openmetrics=openmetrics, gzip=False).decode()
    parse = openmetrics_parser if openmetrics else text_parser
    names = {family.name for family in parse.text_string_to_metric_families(text)}
    assert (OLD | NEW).keys() <= names
    assert all(line in text for line in plain.splitlines() if line.startswith("gpu_"))


def test_no_name_stands_for_two_things() -> None:
    for generation in GENERATIONS:
        names = [field.named(generation)[0] for field in FIELDS]
        assert len(names) == len(set(names))
    both = {field.name: field for field in FIELDS}
    assert all(both[field.new] is field and field.factor == field.new_factor for field in FIELDS if field.new in both)


def test_the_committed_page_is_current() -> None:
    written = subprocess.run(
        [sys.executable, str(Path(ROOT) / "tools/migrating.py")], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert (Path(ROOT) / "docs/MIGRATING.md").read_text("utf-8") == written, "write it again: make docs"
    for field in FIELDS:
        assert f"`{field.name}`" in written
        assert f"`{field.new}`" in written or field.new == field.name
