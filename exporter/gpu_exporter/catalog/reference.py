"""The reference of all metrics, generated from the catalogue: docs/METRICS.md and its JSON twin."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from gpu_exporter.catalog import CATALOG
from gpu_exporter.catalog.row import Call, Fans, Links, Metric, Nvml, Samples

COMMAND: Final = "gpu-exporter metrics > docs/METRICS.md"

_HEADER: Final = f"""\
<!-- Generated from exporter/gpu_exporter/catalog by `{COMMAND}`; do not edit. -->

# Metrics

Every series of a GPU has the labels `gpu` (its index), `uuid` and `model`, plus those named in the table. The host is
the scrape's `instance`. Values are in base units. **A value that a GPU, its driver or the source does not have, or that
cannot be, is absent**: never 0, -1 or NaN. In "From", a second source stands in where the device or driver does not
support the first; `{{a, b}}` tells that one row reads `a`, the next `b`. "smi" names the number in
`nvidia-smi --query-gpu`, "dcgm" the field of `dcgmi dmon`; what has no such source is absent where
that one is chosen ([SOURCES.md](SOURCES.md)).
"""
_PROCESS: Final = """
The `process_*` series of the exporter itself (CPU seconds, memory, start time, file descriptors) are those of
prometheus_client.
"""


def markdown(catalog: Sequence[Metric] = CATALOG) -> str:
    """docs/METRICS.md: one table a group, one line a family."""
    parts = [_HEADER]
    for group, metrics in groupby(catalog, attrgetter("group")):
        parts.append(f"\n## {group[0].upper()}{group[1:]}\n\n| Metric | Type | Labels | Meaning | From |\n")
        parts.append("|---|---|---|---|---|\n")
        for family in _families(metrics):
            cells = (f"`{family[0].name}`", _type(family[0]), _labels(family), family[0].help, _from(family))
            parts.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n")
    return "".join(parts) + _PROCESS


def as_json(catalog: Sequence[Metric] = CATALOG) -> str:
    """Every family with its rows and the sources of each, for programs."""
    families = [
        {
            "name": family[0].name,
            "type": _type(family[0]),
            "help": family[0].help,
            "group": family[0].group,
            "labels": [*(() if family[0].own else ("gpu", "uuid", "model")), *_label_names(family[0])],
            "rows": [_as_row(row) for row in family],
        }
        for family in _families(catalog)
    ]
    return json.dumps({"families": families}, indent=2) + "\n"


def check(path: Path) -> str | None:
    """The first difference between the file and the reference, or None."""
    try:
        written = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return f"{path}: cannot be read: {error}; write it with: {COMMAND}"
    current = markdown().splitlines()
    for number, (old, new) in enumerate(zip(written, current, strict=False), 1):
        if old != new:
            return f"{path}: line {number} is not current; write the file with: {COMMAND}\n- {old}\n+ {new}"
    if len(written) != len(current):
        return f"{path}: has {len(written)} lines, the reference {len(current)}; write the file with: {COMMAND}"
    return None


def _families(metrics: Iterable[Metric]) -> list[list[Metric]]:
    return [list(rows) for _, rows in groupby(metrics, attrgetter("name"))]


def _type(row: Metric) -> str:
    return "gauge" if row.kind == "info" else row.kind


def _label_names(row: Metric) -> list[str]:
    return [*(name for name, _ in row.labels), *row.info, *row.dynamic]


def _labels(family: Sequence[Metric]) -> str:
    """Each label with the values that it can have, where the catalogue knows them."""
    described = []
    for name in _label_names(family[0]):
        values = dict.fromkeys(dict(row.labels)[name] for row in family if name in dict(row.labels))
        described.append(f"`{name}`: {', '.join(values)}" if values else f"`{name}`")
    return "<br>".join(described) if any(":" in text for text in described) else ", ".join(described)


# --- where a number comes from ----------------------------------------------------------------------------------------


def _as_row(row: Metric) -> dict[str, Any]:
    told = {
        "labels": dict(row.labels),
        "nvml": [_source(column) for column in row.nvml],
        "smi": " or ".join(row.smi.names) if row.smi else [part.smi.name for part in row.parts if part.smi],
        "dcgm": {"field": row.dcgm.number, "name": row.dcgm.name} if row.dcgm else None,
        "integral_of": row.integral_of,
    }
    return {name: value for name, value in told.items() if value or name == "labels"}


def _source(column: Nvml) -> str:
    """One place where NVML has the value, as a reader of NVIDIA's reference would look it up."""
    if isinstance(column, Call):
        picked = "+".join(map(str, column.part))
        answer = f"[{picked}]" if picked.isdigit() else f".{picked}" if picked else ""
        bit = f" & {column.bit}" if column.bit else ""
        return f"{column.name}({', '.join(map(str, column.args))}){answer}{bit}"
    if isinstance(column, Samples):
        return f"nvmlDeviceGetSamples({column.name})"
    if isinstance(column, Fans):
        return f"{column.name}()"
    if isinstance(column, Links):
        return "nvmlDeviceGetNvLinkState()" if column.per_link else column.state
    return column.name


def _from(family: Sequence[Metric]) -> str:
    """All sources of a family, best first; what its rows read by one call or from like fields is folded into one."""
    if family[0].group == "identity":
        return "NVML, as the source is opened"
    nvml: dict[str, list[str]] = {}
    for rank in range(max(len(row.nvml) for row in family)):
        for row in family:
            for column in row.nvml[rank : rank + 1]:
                text = _source(column)
                nvml.setdefault(_stem(column) if len(family) > 1 else text, []).append(text)
    told = [f"`{_folded(texts)}`" for texts in nvml.values()]
    for which, rank in (("smi", 0), ("else smi", 1)):
        asked = [part for row in family for part in row.parts or (row,)]
        if smi := [row.smi.names[rank] for row in asked if row.smi and len(row.smi.names) > rank]:
            told += [f"{which} `{_folded(smi)}`"]
    if dcgm := [row.dcgm for row in family if row.dcgm]:
        numbers = _ranges(dict.fromkeys(column.number for column in dcgm))
        told.append(f"dcgm {numbers} `{_folded([column.name for column in dcgm])}`")
    told += [f"integral of `{name}`" for name in dict.fromkeys(row.integral_of for row in family) if name]
    return "<br>".join(told) or "the exporter"


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers with those that follow each other as one: 314 to 323, 342."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _stem(column: Nvml) -> str:
    """Sources of one stem fold: one call, or fields that share the word after NVML_FI_DEV_."""
    return column.name if isinstance(column, Call) else "_".join(_source(column).split("_")[:4])


def _folded(texts: Iterable[str]) -> str:
    """``f(A_X_1)``, ``f(A_Y_1)`` is ``f(A_{X, Y}_1)``: the parts between brackets, commas and dots fold one by one."""
    pieces = [re.split(r"([(), .\[\]&]+)", text) for text in dict.fromkeys(texts)]
    if len({tuple(row[1::2]) for row in pieces}) > 1:  # not of one shape
        return _choice(["".join(row) for row in pieces])
    return "".join(_folded_word(list(dict.fromkeys(column))) for column in zip(*pieces, strict=True))


def _folded_word(words: list[str]) -> str:
    """Words with what they share before and after written once; where they are a product of choices, as that."""
    if len(words) == 1:
        return words[0]
    rows = [re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+|.", word) for word in words]
    shortest = min(map(len, rows))
    before = next((i for i in range(shortest - 1) if len({row[i] for row in rows}) > 1), shortest - 1)
    spare = shortest - 1 - before
    after = next((i for i in range(spare) if len({row[-1 - i] for row in rows}) > 1), spare)
    middles = [row[before : len(row) - after] for row in rows]
    choices = [list(dict.fromkeys(column)) for column in zip(*middles, strict=False)]
    product = len({len(middle) for middle in middles}) == 1 and math.prod(map(len, choices)) == len(words)
    folded = "".join(map(_choice, choices)) if product else _choice(["".join(middle) for middle in middles])
    return "".join([*rows[0][:before], folded, *rows[0][len(rows[0]) - after :]])


def _choice(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{{{', '.join(words)}}}"
