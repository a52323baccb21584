"""Which GPUs there are, as the source is opened: also those that cannot be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from gpu_exporter.model import Device
from gpu_exporter.sources import SourceError
from gpu_exporter.sources.program import Said, SlowProgramError
from gpu_exporter.sources.smi import rows
from gpu_exporter.sources.smi.failures import bus, finds_none, of_remarks, of_status
from gpu_exporter.sources.smi.query import OPENING, Query
from gpu_exporter.sources.smi.table import TableError

_MOST_GPUS: Final = 64
_FELL_OFF: Final = 15
Row: TypeAlias = Mapping[str, str]


def find_gpus(query: Query, root: Path) -> list[tuple[Device, Row]]:
    """Every GPU with the row that it was found by, in index order. Raises SourceError.

    A GPU without a row, of which nvidia-smi complains, has the first index that no other one has.
    """
    try:
        said = query(timeout=OPENING)
    except SlowProgramError as error:
        return _from_kernel(error, root)
    try:
        table = query.table(said)
    except TableError as error:
        if said.code:
            return _one_by_one(query, said)
        raise SourceError(f"nvidia-smi: {error}") from None
    found: dict[int, Row] = {}
    for row in table.rows:
        index = rows.index_of(row)
        if index is not None:
            found.setdefault(index, row)
    known = {bus(rows.told(row, "pci.bus_id")) for row in found.values()}
    sick = sorted({address for address, _ in of_remarks([*table.remarks, *said.err.splitlines()])} - known)
    if not found and said.code and not finds_none(said):
        return _one_by_one(query, said)
    free = (index for index in range(len(found) + len(sick) + max(found, default=0) + 1) if index not in found)
    found |= {index: {"pci.bus_id": address} for index, address in zip(free, sick, strict=False)}
    return [(rows.device(found[index], index), found[index]) for index in sorted(found)]


def _one_by_one(query: Query, said: Said) -> list[tuple[Device, Row]]:
    """Where one GPU keeps nvidia-smi from listing any: ask for each number in turn, until there is none of it."""
    found: list[tuple[Device, Row]] = []
    for index in range(_MOST_GPUS):
        try:
            one = query("-i", str(index), timeout=OPENING)
        except SlowProgramError:
            found.append((Device(index, "", ""), {}))
            continue
        try:
            listed = query.table(one).rows
        except TableError:
            listed = []
        complaints = dict(of_remarks(one.lines))
        if listed:
            found.append((rows.device(listed[0], index), listed[0]))
        elif finds_none(one) or not (complaints or one.code == _FELL_OFF):
            break
        else:
            found.append((Device(index, "", "", pci_bus_id=next(iter(complaints), "")), {}))
    if not any(row for _, row in found):
        raise SourceError(f"nvidia-smi lists no GPU: {of_status(said).message}", restart_may_help=True)
    return found


def _from_kernel(error: SlowProgramError, root: Path) -> list[tuple[Device, Row]]:
    """The GPUs as the kernel driver lists them, where one that hangs keeps nvidia-smi from telling anything.

    Both number them in the order of their bus addresses.
    """
    addresses = sorted(path.name for path in root.glob("proc/driver/nvidia/gpus/*"))
    if not addresses:
        raise SourceError(str(error))
    return [(Device(index, "", "", pci_bus_id=address), {}) for index, address in enumerate(addresses)]
