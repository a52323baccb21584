from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gpu_exporter.catalog import CATALOG
from gpu_exporter.catalog.reference import COMMAND, as_json, check, markdown

METRICS = Path(__file__).parents[2] / "docs" / "METRICS.md"


def test_the_committed_reference_is_current() -> None:
    assert check(METRICS) is None, f"write it again: {COMMAND}"
    assert METRICS.read_text("utf-8") == markdown()


def test_every_family_has_one_line() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", markdown(), re.MULTILINE)
    assert listed == list(dict.fromkeys(metric.name for metric in CATALOG))


def test_every_table_line_has_its_five_cells() -> None:
    lines = [line for line in markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {6}


def test_every_label_and_its_values_are_told() -> None:
    lines = {line.split("`")[1]: line for line in markdown().splitlines() if line.startswith("| `")}
    for metric in CATALOG:
        line = lines[metric.name]
        for name, value in metric.labels:
            assert f"`{name}`: " in line
            assert value in line
        for name in (*metric.info, *metric.dynamic):
            assert f"`{name}`" in line


def test_rows_are_folded_into_one_source() -> None:
    text = markdown()
    assert "`NVML_FI_DEV_ECC_{SBE, DBE}_{VOL, AGG}_{DEV, L1, L2, REG, TEX}`" in text
    assert "`nvmlDeviceGetClockInfo(NVML_CLOCK_{SM, GRAPHICS, MEM, VIDEO})`" in text
    assert "`NVML_FI_DEV_TEMPERATURE_{SLOWDOWN, SHUTDOWN, GPU_MAX}_TLIMIT`" in text
    assert "smi `retired_pages.{single_bit_ecc, double_bit}.count`" in text
    assert "`nvmlDeviceGetMemoryInfo(nvmlMemory_v2).total`<br>`nvmlDeviceGetMemoryInfo().total`" in text


def test_json_holds_every_row_with_its_sources() -> None:
    families = json.loads(as_json())["families"]
    assert sum(len(family["rows"]) for family in families) == len(CATALOG)
    busy = next(family for family in families if family["name"] == "gpu_busy_seconds_total")
    assert busy == {
        "name": "gpu_busy_seconds_total",
        "type": "counter",
        "help": busy["help"],
        "group": "utilization",
        "labels": ["gpu", "uuid", "model"],
        "rows": [
            {
                "labels": {},
                "nvml": ["nvmlDeviceGetSamples(NVML_GPU_UTILIZATION_SAMPLES)"],
                "integral_of": "gpu_utilization_ratio",
            }
        ],
    }


@pytest.mark.parametrize("line", [0, 10, -1])
def test_a_changed_line_is_told(tmp_path: Path, line: int) -> None:
    lines = markdown().splitlines()
    current, lines[line] = lines[line], "old"
    path = tmp_path / "METRICS.md"
    path.write_text("\n".join(lines), "utf-8")
    number = range(1, len(lines) + 1)[line]
    assert check(path) == f"{path}: line {number} is not current; write the file with: {COMMAND}\n- old\n+ {current}"


def test_a_missing_end_is_told(tmp_path: Path) -> None:
    lines = markdown().splitlines()
    path = tmp_path / "METRICS.md"
    path.write_text("\n".join(lines[:-1]), "utf-8")
    expected = f"{path}: has {len(lines) - 1} lines, the reference {len(lines)}; write the file with: {COMMAND}"
    assert check(path) == expected


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "No such file" in (check(tmp_path / "no.md") or "")
