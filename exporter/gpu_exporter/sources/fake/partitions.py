"""The MIG devices of a simulated GPU: how it is cut, and what each part does."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gpu_exporter.catalog.mig import ROWS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.sources.fake.models import GpuModel
from gpu_exporter.sources.fake.workloads import key

MOST: Final = 7
_SLICES: Final = (1, 2, 3, 7)
# For so many devices of equal size: the slices of each, and the number of its first GPU instance, as on an H100.
_CUTS: Final[Mapping[int, tuple[int, int]]] = {
    1: (7, 0),
    2: (3, 1),
    3: (2, 3),
    **dict.fromkeys((4, 5, 6, 7), (1, 7)),
}
_BY_COLUMN: Final = {row.fake: row for row in ROWS}


@dataclass(frozen=True, slots=True)
class Part:
    """One MIG device; ``memory_total`` in bytes."""

    uuid: str
    gpu_instance: int
    profile: str
    memory_total: int


def cut(model: GpuModel, device: str, count: int) -> tuple[Part, ...]:
    """So many MIG devices of the GPU with that UUID; the same again for the same cut."""
    if not count:
        return ()
    slices, first = _CUTS[count]
    size = model.mig_sizes[_SLICES.index(slices)]
    return tuple(
        Part(
            uuid=f"MIG-{uuid.UUID(int=key(device, slices, number) << 64 | key(number, slices, device), version=4)}",
            gpu_instance=first + number,
            profile=f"{slices}g.{size}gb",
            # In eighths of the memory: three and seven slices have four and all of it.
            memory_total=model.usable_bytes * {1: 1, 2: 2, 3: 4, 7: 8}[slices] // 8,
        )
        for number in range(count)
    )


def rows(
    parts: Sequence[Part], used: Mapping[str, int], quantities: Mapping[str, float]
) -> dict[tuple[Metric, tuple[str, ...]], float]:
    """What the driver tells of the parts: the first does the GPU's work, ``used`` is memory by UUID, in bytes."""
    told: dict[tuple[Metric, tuple[str, ...]], float] = {}
    for number, part in enumerate(parts):
        told[_BY_COLUMN["mig_info"], (part.uuid, str(part.gpu_instance), "0", part.profile)] = 1.0
        told[_BY_COLUMN["mig_memory_total"], (part.uuid,)] = float(part.memory_total)
        told[_BY_COLUMN["mig_memory_used"], (part.uuid,)] = float(used.get(part.uuid, 0))
        for what in ("sm_active", "tensor_active", "dram_active"):
            if what in quantities:
                told[_BY_COLUMN[f"mig_{what}"], (part.uuid,)] = 0.0 if number else quantities[what]
    return told
