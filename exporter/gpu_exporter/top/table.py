"""Columns of a table, one blank between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from gpu_exporter.top.cells import width
from gpu_exporter.top.lines import Line, Pen, Span, Subject, Tone

Cells: TypeAlias = Mapping[str, tuple[str, Tone]]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: ``key`` is what it is of and ordered by, ``title`` what stands above it.

    ``name`` is one whose text tells one row from another.
    """

    key: str
    title: str
    width: int
    right: bool = False
    name: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns from left to right."""

    columns: tuple[Column, ...]

    def head(self, pen: Pen, ordered_by: str) -> Line:
        """The titles, the one that rows are ordered by marked."""
        spans: list[Span] = []
        for column in self.columns:
            marked = column.key == ordered_by
            title = f"{column.title}{'▼' if marked and width(column.title) < column.width else ''}"
            spans += [(pen.fit(title, column.width, right=column.right), "bold" if marked else "head"), (" ", "head")]
        return pen.line([*spans, (" " * pen.columns, "head")], ("head",))

    def row(self, pen: Pen, cells: Cells, subject: Subject) -> Line:
        """One row; a column without a cell is blank."""
        *columns, end = self.columns
        spans: list[Span] = []
        for column in columns:
            text, tone = cells.get(column.key, ("", ""))
            if column.name:
                text = pen.name(text, column.width)
            spans += [(pen.fit(text, max(column.width, width(text) if column.name else 0), right=column.right), tone)]
            spans.append((" ", ""))
        text, tone = cells.get(end.key, ("", ""))
        line = pen.line([*spans, (pen.last(text, end.width), tone), (" ", "")], subject)
        return replace(line, indent=total(columns))

    def at(self, x: int) -> str:
        """Which column stands there; empty where none does."""
        start = 0
        for column in self.columns:
            if start <= x <= start + column.width:
                return column.key
            start += column.width + 1
        return ""


def total(columns: Sequence[Column]) -> int:
    """What columns take with the blanks between and behind them."""
    return sum(column.width + 1 for column in columns)
