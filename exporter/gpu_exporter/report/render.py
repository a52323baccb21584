"""The report as a table for people, as JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

from gpu_exporter.config.parsers import printable
from gpu_exporter.history.export import harmless
from gpu_exporter.report.waste import COLUMNS, COSTS, FIGURES, WORDS, Report, Row, span

WIDTH: Final = 100
_GAP: Final = 2
# Title, figure, how it is written. Long names make room for these, never the other way.
_TABLE: Final[tuple[tuple[str, str, str], ...]] = (
    ("GPUS", "gpus", "{:d}"),
    ("HELD h", "held_hours", "{:.1f}"),
    ("USED h", "used_hours", "{:.1f}"),
    ("IDLE h", "idle_held_hours", "{:.1f}"),
    ("FREE h", "free_hours", "{:.1f}"),
    ("EFF", "efficiency", "{:.0%}"),
    ("SCORE", "score", "{:.2f}"),
    ("CLASS", "grade", "{}"),
    ("kWh", "energy_kwh", "{:.1f}"),
    ("COST", "held_cost", "{:.2f}"),
    ("IDLE COST", "idle_held_cost", "{:.2f}"),
    ("kWh COST", "energy_cost", "{:.2f}"),
)
_PLAIN: Final = {  # the columns of CSV and JSON after those that tell the rows apart; the order never changes
    "gpus": "gpus",
    "held_hours": "held_hours",
    "used_hours": "used_hours",
    "idle_held_hours": "idle_held_hours",
    "unknown_hours": "unknown_hours",
    "efficiency": "efficiency",
    "score": "score",
    "class": "grade",
    "energy_kwh": "energy_kwh",
}
_OF_GPUS: Final = {"free_hours": "free_hours", "down_hours": "down_hours"}


def table(report: Report) -> str:
    """Aligned columns, at most 100 wide; long names are shortened in their middle."""
    left_out = {"gpus" if report.by == "gpu" else "free_hours", *COSTS} - {*report.prices.costs}
    figures = [row for row in _TABLE if row[1] not in left_out]
    names = [name for name in COLUMNS[report.by] if name != "uuid" and any(row.keys.get(name) for row in report.rows)]
    names = names or [COLUMNS[report.by][1]]
    heads = [*(name.upper() for name in names), *(title for title, _, _ in figures)]
    listed = [*report.rows, *((report.rest,) if report.rest else ())]
    rows = [[*_names(row.keys, names), *_cells(row, figures)] for row in listed]
    feet = [["total", *[""] * (len(names) - 1), *_cells(report.total, figures)]]
    if len(report.rows) > 1:
        for title, values in (("mean", report.mean), ("min", report.low), ("max", report.high)):
            feet.append([title, *[""] * (len(names) - 1), *_cells(values, figures)])
    widths = [max(map(_width, column)) for column in zip(heads, *rows, *feet, strict=True)]
    room = WIDTH - _GAP * (len(widths) - 1) - sum(widths[len(names) :])
    while sum(widths[: len(names)]) > room:
        widest = max(range(len(names)), key=widths.__getitem__)
        widths[widest] -= 1
    left = {*range(len(names)), heads.index("CLASS")}
    lines = [_line(cells, widths, left) for cells in (heads, *rows)]
    rule = "-" * (sum(widths) + _GAP * (len(widths) - 1))
    return "\n".join([*lines, rule, *(_line(cells, widths, left) for cells in feet), "", *_words(report)])


def _words(report: Report) -> list[str]:
    fleet, classes = report.fleet, report.classes
    what = WORDS[report.by]
    hours = [
        f"{value:.1f} {name}"
        for name, value in (
            ("used", fleet.used_hours),
            ("held idle", fleet.idle_held_hours),
            ("unknown", fleet.unknown_hours),
            ("free", fleet.free_hours),
            ("down", fleet.down_hours),
        )
        if value >= 0.05 or name in {"used", "held idle", "free"}
    ]
    parts = (fleet.used_hours, fleet.idle_held_hours, fleet.unknown_hours, fleet.free_hours, fleet.down_hours)
    end = _when(report.grid.end).replace("T", " ").replace("+00:00", " UTC")
    return [
        f"{_counted(len(report.rows), what)}: {', '.join(f'{count} {name}' for name, count in classes.items())}",
        f"{_counted(fleet.gpus, 'GPU')}, {sum(parts):.1f} GPU-hours seen: {', '.join(hours)}",
        f"{span(report.grid.window)} to {end}; {report.idle_held_share:.1%} of the held hours were idle",
        *((report.simulated,) if report.simulated else ()),
    ]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def as_json(report: Report) -> str:
    """The report for programs; docs/REPORT.md describes it."""
    grid = report.grid
    document = {
        "by": report.by,
        "simulated": bool(report.simulated),
        "window": {
            "start": _when(grid.end - grid.window),
            "end": _when(grid.end),
            "seconds": round(grid.window, 3),
            "covered_seconds": round(report.covered, 3),
            "step_seconds": grid.step,
        },
        "rows": [{**row.keys, **_plain(row, report)} for row in report.rows],
        "rest": {**report.rest.keys, **_plain(report.rest, report)} if report.rest else None,
        "total": _plain(report.total, report),
        "min": _rounded(report.low),
        "mean": _rounded(report.mean),
        "max": _rounded(report.high),
        "classes": dict(report.classes),
        "idle_held_share": round(report.idle_held_share, 6),
        "fleet": _plain(report.fleet, report, by="gpu"),
        "warnings": list(report.warnings),
    }
    return json.dumps(document, indent=2)


def as_csv(report: Report) -> str:
    """One header, one line a row, the rest last; no totals, so that a spreadsheet can make its own."""
    text = io.StringIO()
    listed = [*report.rows, *((report.rest,) if report.rest else ())]
    columns = [*COLUMNS[report.by], *_columns(report, report.by)]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in listed:
        writer.writerow({name: harmless(cell) for name, cell in {**row.keys, **_plain(row, report)}.items()})
    return text.getvalue().rstrip("\n")


def _columns(report: Report, by: str) -> dict[str, str]:
    return {**_PLAIN, **(_OF_GPUS if by == "gpu" else {}), **{name: name for name in report.prices.costs}}


def _plain(row: Row, report: Report, *, by: str = "") -> dict[str, Any]:
    columns = _columns(report, by or report.by)
    return _rounded({column: getattr(row, name) for column, name in columns.items()})


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}


def _when(time: float) -> str:
    return datetime.fromtimestamp(time, timezone.utc).isoformat(timespec="seconds")


def _names(keys: Mapping[str, str], names: Sequence[str]) -> list[str]:
    # Names come from users: nothing in them may move the cursor.
    return [printable(keys.get(name, "")) for name in names]


def _cells(row: Row | Mapping[str, float | None], figures: Sequence[tuple[str, str, str]]) -> list[str]:
    cells = []
    for _, name, form in figures:
        if isinstance(row, Row):
            value: Any = getattr(row, name)
        elif name in (*FIGURES, *COSTS):
            value = row[name]
        else:
            cells.append("")
            continue
        cells.append("n/a" if value is None else form.format(value))
    return cells


def _line(cells: Sequence[str], widths: Sequence[int], left: set[int]) -> str:
    shown = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        text = _shortened(cell, width)
        space = " " * (width - _width(text))
        shown.append(text + space if column in left else space + text)
    return (" " * _GAP).join(shown).rstrip()


def _shortened(text: str, width: int) -> str:
    """Both ends of it: a pod's name begins with what it is and ends with which one it is."""
    if _width(text) <= width:
        return text
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    while _width(head) + 1 + _width(tail) > width:
        if _width(head) > _width(tail):
            head = head[:-1]
        else:
            tail = tail[1:]
    return f"{head}…{tail}"


def _width(text: str) -> int:
    """Columns of a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in {"W", "F"} else 1 for c in text
    )
