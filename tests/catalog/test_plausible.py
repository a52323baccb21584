"""The range of each row: none of what real boards told is outside, and no sentinel of NVML's is inside."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpu_exporter.catalog import CATALOG, DEVICE_METRICS, by_name
from gpu_exporter.catalog.plausible import BY_UNIT
from gpu_exporter.catalog.row import BASE_UNITS, Call, Field, Metric
from gpu_exporter.model import Device, Reading
from gpu_exporter.sampling.plausibility import Plausibility
from recorded import CAPTURES, RECORDED, by_nvml, printed

GOLDENS = sorted((Path(__file__).parents[1] / "golden").glob("*.prom"))
NVML = sorted(RECORDED.glob("*.nvml.json"))
SCALES = {(row, column.scale) for row in DEVICE_METRICS for column in row.nvml if isinstance(column, (Call, Field))}


@pytest.mark.parametrize("metric", CATALOG, ids=repr)
def test_every_row_has_a_range(metric: Metric) -> None:
    least, most = metric.plausible
    assert 0 <= least <= most < math.inf, f"{metric!r}: plausible=(lowest, highest), in base units"
    assert (least < most) == (metric.kind != "info")


def test_every_unit_has_one() -> None:
    assert set(BY_UNIT) == {*BASE_UNITS, None}


@pytest.mark.parametrize(("metric", "scale"), sorted(SCALES, key=repr), ids=repr)
def test_no_end_of_a_type_is_in_a_range(metric: Metric, scale: float) -> None:
    """What an overflow or a sign leaves, in the unit that the driver tells the row in."""
    least, most = metric.plausible
    if metric.unit != "bytes":  # 2^64 bytes go over NVLink; the source refuses the end of the type itself
        assert not least <= (2**64 - 1) * scale <= most
    if metric.kind == "gauge" and metric.unit != "bytes":
        for end in (2**63, 2**32 - 1, 2**32 - 2, 2**31, 2**31 - 1):
            assert not least <= end * scale <= most, f"{metric!r}: {end} x {scale:g} is not plausible"


@pytest.mark.parametrize("unit", ["celsius", "watts"])
def test_a_sensor_that_is_not_there_says_zero(unit: str) -> None:
    assert [row for row in CATALOG if row.unit == unit and row.plausible[0] <= 0] == []


def values_of(path: Path) -> dict[Metric, float]:
    """What a recorded GPU told, in base units."""
    if path.suffix == ".csv":
        told = printed(path)
        found = {row: row.smi.value(told[row.smi.name]) for row in DEVICE_METRICS if row.smi}
    else:
        nvml = json.loads(path.read_text("utf-8"))
        found = {row: by_nvml(row, nvml) for row in DEVICE_METRICS}
    return {row: value for row, value in found.items() if value is not None}


@pytest.mark.parametrize("path", [*CAPTURES, *NVML], ids=lambda path: path.name)
def test_nothing_is_refused_of_a_real_gpu(path: Path) -> None:
    plausibility = Plausibility()
    values = values_of(path)
    assert len(values) >= 35
    reading = Reading(Device(0, "GPU-0", path.stem), values)
    for now in range(2):
        assert plausibility.check(reading, now=now).refused == ()
    assert plausibility.counts == {}


def test_both_tools_are_recorded_idle_and_loaded() -> None:
    assert len(CAPTURES) >= 8
    assert [path.name.split(".")[-3] for path in NVML] == ["idle", "load"]


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.name)
def test_nothing_in_the_goldens_is_outside_of_its_range(path: Path) -> None:
    rows = {row.name: row for row in CATALOG}
    samples = [
        sample for family in text_string_to_metric_families(path.read_text("utf-8")) for sample in family.samples
    ]
    assert len(samples) >= 100
    for sample in samples:
        least, most = rows[sample.name].plausible
        assert least <= sample.value <= most, sample


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("gpu_temperature_celsius", {}, 150.0),
        ("gpu_power_watts", {}, 1400.0),
        ("gpu_memory_total_bytes", {}, 288 * 2.0**30),
        ("gpu_memory_total_bytes", {}, 512 * 2.0**20),
        ("gpu_clock_hertz", {"clock": "memory"}, 16e9),
        ("gpu_clock_hertz", {"clock": "video"}, 0.0),
        ("gpu_fan_speed_ratio", {}, 1.05),
        ("gpu_energy_joules_total", {}, 10 * 365 * 86400 * 1400.0),
        ("gpu_nvlink_transmit_bytes_total", {}, 900e9 * 5 * 365 * 86400),
        ("gpu_remapped_rows", {"severity": "uncorrected"}, 512.0),
        ("gpu_recovery_action", {}, 7.0),
    ],
)
def test_what_boards_reach_is_in_the_range(name: str, labels: dict[str, str], value: float) -> None:
    least, most = by_name(name, **labels).plausible
    assert least <= value <= most
