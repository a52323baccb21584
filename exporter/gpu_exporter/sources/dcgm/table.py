"""What dcgmi prints: the fields it knows, the GPUs it lists, and the rows of ``dmon``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from gpu_exporter.config.parsers import shown
from gpu_exporter.model import Device

_SHOWN: Final = 80
_HEADER: Final = re.compile(r"#[ ]?Entity\b")
_ENTITY: Final = re.compile(r"\s*(GPU|GPU-I|GPU-CI|vGPU|Switch|LINK|CPU|CPU Core|CX|UNKNOWN) ([0-9]{1,10})\b")
_LISTED: Final = re.compile(r"\s([0-9]{1,5})\s*$")
_CELLS: Final = re.compile(r"\|([^|]*)\|([^|]*)\|")
_NUMBER: Final = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,9})?")
# dcgm_structs.h: from these numbers on a value is blank, not found, not supported or not permissioned.
_BLANKS: Final = (0x7FFFFFFFFFFFFFF0, 0x7FFFFFF0)
_BLANK_FRACTION: Final = 140737488355328.0


class TableError(Exception):
    """It printed something else; the message is one line."""


@dataclass(frozen=True, slots=True)
class Entity:
    """One row's: what kind it is (GPU, GPU-I, GPU-CI, …), its number, and its cells in the order of the fields."""

    kind: str
    number: int
    cells: tuple[str, ...]


def rows(text: str, count: int) -> dict[tuple[str, int], Entity]:
    """The last row of each entity, with ``count`` cells. Raises TableError where there is no table of so many fields.

    Cells may be empty, so they are taken by where their columns begin. What was cut in its last line is left out.
    """
    lines = text.split("\n")
    starts: list[int] | None = None
    found: dict[tuple[str, int], Entity] = {}
    for line in lines[:-1]:
        header = _HEADER.match(line)
        if header is not None:
            starts = [match.start() for match in re.finditer(r"\S+", line)][len(header[0].split()) :]
            continue
        entity = _ENTITY.match(line)
        if entity is None or starts is None:
            continue
        if len(starts) != count:
            raise TableError(f"it printed {len(starts)} columns for {count} fields")
        cells = _cells(line, entity.end(), starts)
        if cells is not None:
            found[entity[1], int(entity[2])] = Entity(entity[1], int(entity[2]), cells)
    if starts is None:
        raise TableError(f"it printed no table: '{_first(lines)}'")
    return found


def number(cell: str) -> float | None:
    """The number of a cell; None for N/A, an empty one, a blank, and one that was too long to be printed."""
    if not _NUMBER.fullmatch(cell):
        return None
    value = float(cell)
    if "." in cell:
        return None if value >= _BLANK_FRACTION else value
    whole = int(cell)
    return None if whole >= _BLANKS[0] or 0 <= whole - _BLANKS[1] <= 0xF else value


def fields(text: str) -> frozenset[int]:
    """The numbers of the fields that ``dmon --list`` tells; empty where it tells none."""
    return frozenset(int(match[1]) for line in text.split("\n") if (match := _LISTED.search(line)))


def gpus(text: str) -> dict[int, Device]:
    """The GPUs that ``discovery --list`` tells, by DCGM's own number; their index is that number for now."""
    found: dict[int, dict[str, str]] = {}
    current: dict[str, str] | None = None
    of_gpus = False
    for line in text.split("\n"):
        match = _CELLS.match(line)
        if match is None:
            continue
        key, told = match[1].strip(), match[2].strip()
        if key.isdecimal() and len(key) <= 6:
            current = found.setdefault(int(key), {}) if of_gpus else None
        elif key:
            of_gpus, current = key == "GPU ID", None  # a table begins; CPUs have one as well
        if current is not None:
            name, _, value = told.partition(": ")
            current[name] = value.removesuffix(" (last known)")
    return {
        number: Device(
            index=number,
            uuid=told.get("Device UUID", ""),
            model=told.get("Name", ""),
            pci_bus_id=told.get("PCI Bus ID", ""),
        )
        for number, told in found.items()
        if told.keys() & {"Name", "Device UUID", "PCI Bus ID", "Error"}
    }


def _cells(line: str, end: int, starts: Sequence[int]) -> tuple[str, ...] | None:
    """The cells behind the entity; None where they stand across the columns."""
    words = line[end:].split()
    if len(words) == len(starts):
        return tuple(words)
    if len(words) > len(starts) or end > starts[0]:
        return None
    ends = [*starts[1:], len(line) + 1]
    cells = [line[begin:stop] for begin, stop in zip(starts, ends, strict=True)]
    if any(before[-1:].strip() and after[:1].strip() for before, after in pairwise(cells)):
        return None
    return tuple(cell.strip() for cell in cells)


def _first(lines: Sequence[str]) -> str:
    return shown(next((line.strip() for line in lines if line.strip()), ""), _SHOWN)
