"""The figures as a table, as markdown and as JSON: ours, theirs, how many times ours theirs is, and the budget."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One figure. ``compared`` is false where more is not worse and a ratio would say nothing."""

    key: str
    label: str
    unit: str
    budget: float | None = None
    compared: bool = True


@dataclass
class Section:
    """Figures of all exporters under the same conditions, by exporter and key."""

    key: str
    title: str
    rows: Sequence[Row]
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, figures: Mapping[str, Figures]) -> None:
        for target, found in figures.items():
            self.figures.setdefault(target, {}).update(found)


@dataclass
class Results:
    """One run."""

    ours: str  # the key of our exporter
    sections: list[Section] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def _scrapes(p50: float | None, p99: float | None) -> list[Row]:
    forms = (
        ("kept_plain", "kept connection, plain"),
        ("kept_gzip", "kept connection, gzip"),
        ("new_plain", "new connection, plain"),
        ("new_gzip", "new connection, gzip"),
    )
    return [
        Row(f"{key}_{percent}", f"scrape {percent}, {label}", "ms", budget)
        for key, label in forms
        for percent, budget in (("p50", p50), ("p99", p99))
    ]


# The budgets are DESIGN.md section 10's.
COSTS = [
    Row("cpu_idle", "CPU, nobody scrapes", "s/h", 7.2),
    Row("cpu_scraped", "CPU, scraped every 15 s", "s/h", 7.2),
    Row("rss_warm", "memory (RSS), warmed up", "MiB", 36),
    Row("rss_end", "memory (RSS), at the end", "MiB", 36),
    Row("rss_peak", "memory, peak", "MiB", 36),
    Row("calls", "driver calls a GPU and tick", "", 25),
    Row("read_every", "a GPU is read every", "s", compared=False),
    Row("first_answer", "first answer after exec", "s"),
    Row("first_readings", "first scrape with every GPU after exec", "s", 0.7),
    Row("series_gpu", "series a GPU, without processes", "", 150, compared=False),
    Row("series_processes", "series of processes", "", compared=False),
    Row("series", "series in all", "", compared=False),
    Row("body", "page, plain", "KiB"),
    Row("body_gzip", "page, gzip", "KiB"),
]
PRICES = [
    Row("priced_cpu", "CPU a GPU, scraped every 15 s", "% of a core", 0.1),
    Row("priced_driver", "of it, time in the driver, a GPU and minute", "ms"),
    Row("priced_private", "private memory", "MiB"),
    Row("priced_age", "age of what a scrape gets, p95", "s", 0.5),
]
FRESH = [
    Row("fresh_p50", "first scrape of a snapshot, gzip, p50", "ms"),
    Row("fresh_slowest", "first scrape of a snapshot, gzip, slowest", "ms"),
]
HALF_OPEN = [
    Row("half_open_p50", "scrape p50 beside 300 half-open clients", "ms"),
    Row("half_open_p99", "scrape p99 beside 300 half-open clients", "ms"),
    Row("half_open_failed", "scrapes that failed beside them", "", 0, compared=False),
]
MAIN = [*_scrapes(1.0, 5.0), *FRESH, *COSTS, *HALF_OPEN]
# At the other sizes; only the largest has a budget of its own for scrapes, and series a GPU must not grow.
OTHER = [
    *_scrapes(None, 25.0),
    *[
        Row(row.key, row.label, row.unit, 150 if row.key == "series_gpu" else None, row.compared)
        for row in COSTS
        if row.key not in {"cpu_scraped", "rss_warm"}
    ],
]
SOAK = [
    Row("soak_early", "memory (RSS) after a tenth of the ticks", "MiB", 36),
    Row("soak_late", "memory (RSS) after all ticks", "MiB", 36),
    # "Flat" in the budget; a page or two of the allocator's is no leak.
    Row("soak_growth", "growth between the two", "MiB", 1.0),
]


# --- tables -----------------------------------------------------------------------------------------------------------

Table = tuple[str, list[list[str]]]


def tables(results: Results) -> Iterator[Table]:
    """Title and cells, heads first."""
    for section in results.sections:
        if section.rows is not OTHER and section.rows is not PRICES:
            yield section.title, _exporters(section, results.ours)
    for section in results.sections:
        if section.rows is PRICES:
            yield section.title, _exporters(section, results.ours)
    if any(section.rows is OTHER for section in results.sections):
        yield _sizes(results)


def _exporters(section: Section, ours: str) -> list[list[str]]:
    """A line a figure, a column an exporter."""
    rivals = [target for target in section.figures if target != ours]
    head = ["", "unit", ours]
    for rival in rivals:
        head += [rival, "ratio"]
    lines = [[*head, "budget", ""]]
    mine = section.figures.get(ours, {})
    for row in section.rows:
        found = [section.figures[rival].get(row.key) for rival in rivals]
        if row.key in mine or any(value is not None for value in found):
            lines.append(_line(row, mine.get(row.key), found))
    return lines


def _sizes(results: Results) -> Table:
    """A line a figure, for each exporter a column a size: how it grows."""
    sections = sorted((section for section in results.sections if section.key.isdigit()), key=lambda s: int(s.key))
    largest = sections[-1]
    targets = [results.ours, *(target for target in largest.figures if target != results.ours)]
    head = ["", "unit"]
    for target in targets:
        head += [f"{target}: {section.key}" for section in sections]
        head += [f"ratio: {section.key}" for section in sections if target != results.ours]
    lines = [[*head, f"budget: {largest.key}", ""]]
    for row in OTHER:
        values = {target: [section.figures.get(target, {}).get(row.key) for section in sections] for target in targets}
        mine = values[results.ours]
        cells = []
        for target, found in values.items():
            cells += [_number(value) for value in found]
            if target != results.ours:
                cells += [_ratio(*pair) if row.compared else "" for pair in zip(mine, found, strict=True)]
        lines.append([row.label, row.unit, *cells, *_verdict(row, mine[-1])])
    return "How it grows: " + "; ".join(section.title for section in sections), lines


def _line(row: Row, mine: float | None, found: Sequence[float | None]) -> list[str]:
    cells = [row.label, row.unit, _number(mine)]
    for value in found:
        cells += [_number(value), _ratio(mine, value) if row.compared else ""]
    return [*cells, *_verdict(row, mine)]


def _verdict(row: Row, mine: float | None) -> list[str]:
    if row.budget is None or mine is None:
        return ["", ""]
    return [f"≤ {row.budget:g}", "ok" if mine <= row.budget else "OVER"]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _ratio(mine: float | None, theirs: float | None) -> str:
    """How many times ours theirs is: above 1, ours is less."""
    return f"{theirs / mine:.2f}x" if mine and theirs is not None else ""


def text(results: Results) -> str:
    parts = [f"{name}: {fact}" for name, fact in results.facts.items()]
    for title, lines in tables(results):
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        parts += ["", title, "-" * (sum(widths) + 2 * len(widths))]
        parts += [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
    return "\n".join([*parts, "", *_remarks(results)])


def markdown(results: Results) -> str:
    parts = ["<!-- Written by `python -m bench --write`; do not edit. -->", "# What it costs", ""]
    parts += [f"- **{name}**: {fact}" for name, fact in results.facts.items()]
    for title, lines in tables(results):
        head, *rest = (["", *line] for line in lines)
        parts += [
            "",
            f"## {title}",
            "",
            _markdown_line(head),
            _markdown_line(["", "---", "---", *["--:"] * (len(head) - 3)]),
        ]
        parts += [_markdown_line(line) for line in rest]
    return "\n".join([*parts, "", "## How to read it", "", *(f"- {remark}" for remark in _remarks(results)), ""])


def _markdown_line(cells: Sequence[str]) -> str:
    return " | ".join(cells).strip() + " |"


def _remarks(results: Results) -> list[str]:
    return [*results.notes, *(f"skipped: {name}: {why}" for name, why in results.skipped.items())]


def as_json(results: Results) -> str:
    document: dict[str, Any] = {
        "facts": dict(results.facts),
        "sections": {section.key: {"title": section.title, "figures": section.figures} for section in results.sections},
        "over_budget": over_budget(results),
        "skipped": results.skipped,
        "notes": list(results.notes),
    }
    return json.dumps(document, indent=1)


def over_budget(results: Results) -> list[str]:
    return [
        f"{section.key}.{row.key}"
        for section in results.sections
        for row in section.rows
        # The budget at other sizes is the largest machine's.
        if row.budget is not None
        and section.key != "1"
        and section.figures.get(results.ours, {}).get(row.key, 0.0) > row.budget
    ]
