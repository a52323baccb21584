"""What real GPUs told, as recorded in tests/catalog/recorded."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_exporter.catalog.row import Call, Field, Metric, scaled

RECORDED = Path(__file__).parents[1] / "catalog/recorded"
CAPTURES = sorted(RECORDED.glob("*.csv"))


def printed(path: Path) -> dict[str, str]:
    """The first GPU's fields."""
    fields, _, gpu = csv.reader(path.read_text("utf-8").splitlines()[:3], skipinitialspace=True)
    return dict(zip(fields, gpu, strict=True))


def by_nvml(row: Metric, told: Mapping[str, Any]) -> float | None:
    """What the row's first NVML column that was recorded says."""
    for column in row.nvml:
        if isinstance(column, Field) and column.name in told["fields"]:
            return scaled(told["fields"][column.name], column.scale)
        if isinstance(column, Call):
            answer = told["calls"].get(f"{column.name}({', '.join(map(str, column.args))})")
            if answer is None:
                continue
            if column.bit is not None:
                return float(bool(answer) and column.bit.endswith("GpuIdle"))  # the mask was 1
            value = scaled(sum(answer[part] for part in column.part) if column.part else answer, column.scale)
            return None if value in column.absent else value
    return None


def known_loads() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What an H200 answered once a second beside known loads, and what each of the loads really did."""
    told, truth = (
        [json.loads(line) for line in (RECORDED / f"h200-580.159.04.known-loads{kind}").read_text("utf-8").splitlines()]
        for kind in (".jsonl", ".truth.jsonl")
    )
    return told, truth
