"""The ``smi=`` columns, over what nvidia-smi printed on real GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpu_exporter.catalog import DEVICE_METRICS, by_name
from gpu_exporter.catalog.row import Metric, Smi
from recorded import CAPTURES, RECORDED, by_nvml, printed

ROWS = [(row, row.smi) for row in DEVICE_METRICS if row.smi is not None]
NOTHING = {"[N/A]", "N/A", "[Requested functionality has been deprecated]"}
PLAUSIBLE = {
    "ratio": (0, 1),
    "bytes": (0, 1e12),
    "celsius": (10, 110),
    "watts": (1, 1500),
    "hertz": (1e8, 2e10),
    "seconds": (0, 1e9),
    None: (0, 1e6),
}


def test_nvidia_smi_and_nvml_say_the_same_of_an_idle_gpu() -> None:
    smi = printed(RECORDED / "h200-580.159.04.idle.csv")
    nvml = json.loads((RECORDED / "h200-580.159.04.idle.nvml.json").read_text("utf-8"))
    # nvidia-smi counts reserved memory otherwise; power and temperature moved by a little between the two.
    loose = {"gpu_memory_reserved_bytes": 2e6, "gpu_memory_free_bytes": 2e6, "gpu_temperature_celsius": 1}
    loose |= {"gpu_power_watts": 1, "gpu_power_average_watts": 1}
    compared = 0
    for row, column in ROWS:
        theirs, ours = column.value(smi[column.name]), by_nvml(row, nvml)
        if ours is not None:
            assert theirs == pytest.approx(ours, abs=loose.get(row.name, 1e-9)), f"{row!r}: smi={column}"
            compared += 1
    assert compared >= 40


@pytest.mark.parametrize("path", CAPTURES, ids=[path.stem for path in CAPTURES])
@pytest.mark.parametrize(("row", "column"), ROWS, ids=[repr(row) for row, _ in ROWS])
def test_what_a_gpu_has_is_in_base_units(path: Path, row: Metric, column: Smi) -> None:
    text = printed(path)[column.name]
    value = column.value(text)
    assert (value is None) == (text in NOTHING), f"{row!r}: smi={column} makes {value} of {text!r}"
    if value is not None:
        least, most = PLAUSIBLE[row.unit]
        assert least <= value <= most, f"{row!r}: smi={column} makes {value} of {text!r}"


def test_loads_are_seen() -> None:
    smi = printed(RECORDED / "h100-80gb-hbm3-590.48.01.load.csv")
    expected = {
        "gpu_utilization_ratio": 1.0,
        "gpu_memory_total_bytes": 81559 * 2**20,
        "gpu_performance_state": 0.0,
        "gpu_fabric_state": 3.0,
        "gpu_persistence_mode_enabled": 1.0,
    }
    found = {name: column.value(smi[column.name]) for name in expected if (column := by_name(name).smi)}
    assert found == expected


@pytest.mark.parametrize("text", ["", "[N/A]", "[Unknown Error]", "On", "enabled", "0x1"])
def test_what_is_no_number_is_no_value(text: str) -> None:
    assert Smi("x").value(text) is None
    assert Smi("x", words=(("Enabled", 1.0), ("Disabled", 0.0))).value(text) is None
