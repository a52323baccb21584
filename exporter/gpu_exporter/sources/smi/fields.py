"""Which fields nvidia-smi is asked for: the catalogue's, as far as this nvidia-smi knows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from gpu_exporter.catalog import ASKED
from gpu_exporter.catalog.row import Metric, Smi

# Who a GPU is, and how it is told apart.
IDENTITY: Final = (
    "index",
    "uuid",
    "pci.bus_id",
    "name",
    "serial",
    "vbios_version",
    "driver_version",
    "compute_cap",
)
PROCESSES: Final = ("gpu_bus_id", "gpu_uuid", "pid", "used_gpu_memory")
COLUMNS: Final[Mapping[Metric, Smi]] = {row: row.smi for row in ASKED if row.smi is not None}

# A field and its other names stand at the beginning of a line: "power.draw.average" or "gpu.power.draw.average".
_LISTED: Final = re.compile(r'^"([A-Za-z0-9_.]+)"((?: or "[A-Za-z0-9_.]+")*)[ \t\r]*$', re.MULTILINE)
_NAME: Final = re.compile(r'"([A-Za-z0-9_.]+)"')
# What nvidia-smi says of one that it does not know, with status 2.
_REFUSED: Final = re.compile(r'Field "([A-Za-z0-9_.]+)" is not a valid field to query')


def known(help_text: str) -> dict[str, str]:
    """Every name that ``--help-query-…`` lists, with the one that its output goes by; empty where it lists none."""
    names = {}
    for first, others in _LISTED.findall(help_text):
        names[first] = first
        for other in _NAME.findall(others):
            names.setdefault(other, first)
    return names


def wanted(listed: Mapping[str, str]) -> list[str]:
    """The fields to ask for, each once; where it is not known what there is, those that a new nvidia-smi has."""
    if not listed:
        return [*IDENTITY, *dict.fromkeys(column.name for column in COLUMNS.values())]
    names = (*IDENTITY, *(name for column in COLUMNS.values() for name in column.names))
    return list(dict.fromkeys(listed[name] for name in names if name in listed))


def refused(lines: Iterable[str]) -> str | None:
    """The field that nvidia-smi has just said it does not know."""
    return next((match[1] for line in lines if (match := _REFUSED.search(line))), None)


def without(fields: Sequence[str], name: str) -> list[str]:
    """The fields without the one that was refused, and with what stands in for it."""
    others = [other for column in COLUMNS.values() if column.name == name for other in column.others]
    return list(dict.fromkeys(each for field in fields for each in (others if field == name else (field,))))
