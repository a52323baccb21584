"""What nvidia-smi prints with ``--format=csv``, read strictly: a row that is not whole is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gpu_exporter.config.parsers import shown

_SHOWN: Final = 80


@dataclass(slots=True)
class Table:
    """``rows`` by field; ``remarks`` are lines that are no row, as errors are printed among them.

    ``broken`` tells, of each row that is not whole, what of it was read for certain: the fields before the break.
    """

    rows: list[dict[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    broken: list[dict[str, str]] = field(default_factory=list)


class TableError(Exception):
    """It is no table of these fields; the message is one line."""


def parse(text: str, fields: Sequence[str]) -> Table:
    """The table of these fields, which has their names as its header. Raises TableError.

    nvidia-smi quotes nothing, so a comma ends a cell wherever it stands.
    """
    table = Table()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    head = next((place for place, line in enumerate(lines) if _is_header(line, fields)), None)
    if head is None:
        first = shown(lines[0], _SHOWN) if lines else ""
        raise TableError(f"it printed no table of the {len(fields)} fields that it was asked for: '{first}'")
    table.remarks += lines[:head]
    for line in lines[head + 1 :]:
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(fields):
            table.rows.append(dict(zip(fields, cells, strict=True)))
        elif len(cells) == 1:
            table.remarks.append(line)
        else:
            table.broken.append(dict(zip(fields, cells[:-1], strict=False)) if len(cells) < len(fields) else {})
    # The last line was cut where the program was: its last cell may be half a number.
    if table.rows and text[-1:] not in {"\n", "\r"} and lines[-1].count(",") == len(fields) - 1:
        table.broken.append(dict(list(table.rows.pop().items())[:-1]))
    return table


def _is_header(line: str, fields: Sequence[str]) -> bool:
    """Whether the line has the fields' names, each perhaps with its unit: ``memory.used [MiB]``."""
    names = [cell.strip().partition(" [")[0] for cell in line.split(",")]
    return names == list(fields)
