"""THE metric table: one row a series kind, with one column a source; one module a group.

Pure data. The exposition, docs/METRICS.md, the sources' queries and the tests all derive from ``CATALOG``. To add a
metric, add a row to its group, run ``make docs goldens``, and read the diff.

Each row names the NVML call or field identifier of its number; ``scale`` turns the driver's unit into a base unit.
"""

from __future__ import annotations

from typing import Final

from gpu_exporter.catalog import (
    accounting,
    clocks,
    exporter,
    health,
    identity,
    interconnect,
    memory,
    memory_errors,
    mig,
    modes,
    power,
    processes,
    profiling,
    thermals,
    utilization,
)
from gpu_exporter.catalog.accounting import (
    MEMORY_UNACCOUNTED,
    OWNER_ENERGY,
    OWNER_MEMORY,
    OWNER_SCORE,
    OWNER_SECONDS,
    SCORE_SECONDS,
    STATE_SECONDS,
)
from gpu_exporter.catalog.clocks import CLOCK_EVENTS
from gpu_exporter.catalog.health import EVENT_LAST, EVENTS_TOTAL, GPU_UP, READ_ERRORS, XID_ERRORS, XID_LAST
from gpu_exporter.catalog.identity import DRIVER_INFO, GPU_INFO
from gpu_exporter.catalog.processes import (
    PROCESS_MEMORY,
    PROCESS_UTILIZATION,
    PROCESSES,
    PROCESSES_DROPPED,
)
from gpu_exporter.catalog.row import Metric

__all__ = [
    "ASKED",
    "CATALOG",
    "CLOCK_EVENTS",
    "DEVICE_METRICS",
    "DRIVER_INFO",
    "EVENTS_TOTAL",
    "EVENT_LAST",
    "GPU_INFO",
    "GPU_UP",
    "MEMORY_UNACCOUNTED",
    "OWNER_ENERGY",
    "OWNER_MEMORY",
    "OWNER_SCORE",
    "OWNER_SECONDS",
    "PROCESSES",
    "PROCESSES_DROPPED",
    "PROCESS_MEMORY",
    "PROCESS_UTILIZATION",
    "READ_ERRORS",
    "SCORE_SECONDS",
    "STATE_SECONDS",
    "WHOLE",
    "XID_ERRORS",
    "XID_LAST",
    "by_name",
    "told_together",
]

# In the order of /metrics and docs/METRICS.md.
CATALOG: Final[tuple[Metric, ...]] = tuple(
    row
    for group in (
        identity,
        health,
        utilization,
        profiling,
        memory,
        thermals,
        power,
        clocks,
        memory_errors,
        interconnect,
        modes,
        mig,
        processes,
        accounting,
        exporter,
    )
    for row in group.ROWS
)
DEVICE_METRICS: Final = tuple(row for row in CATALOG if row.own is None)
# What is asked for one by one: the rows, and the parts of those that are told together.
ASKED: Final = tuple(part for row in DEVICE_METRICS for part in row.parts or (row,))
WHOLE: Final = {part: row for row in DEVICE_METRICS for part in row.parts}
_SELDOM: Final = frozenset(row for row in ASKED if row.above_zero)
_BY_NAME: Final = {(row.name, frozenset(row.labels)): row for row in CATALOG}


def told_together(values: dict[Metric, float]) -> dict[tuple[Metric, tuple[str, ...]], float]:
    """Takes the parts out of ``values``, as rows with their label; and leaves out what is told above 0 only."""
    for row in values.keys() & _SELDOM:
        if values[row] == 0:
            del values[row]
    return {(WHOLE[part], (part.labels[0][1],)): values.pop(part) for part in values.keys() & WHOLE.keys()}


def by_name(name: str, /, **labels: str) -> Metric:
    """The row of a name and, where a name has several rows, its fixed labels. Raises LookupError."""
    found = _BY_NAME.get((name, frozenset(labels.items())))
    if found is not None:
        return found
    asked = f"{name}{_braced(labels)}"
    rows = [_braced(dict(row.labels)) or "no labels" for row in CATALOG if row.name == name]
    if not rows:
        raise LookupError(f"{asked}: the catalogue has no metric of that name; see docs/METRICS.md")
    raise LookupError(f"{asked}: the catalogue has that name with {' or '.join(rows)} only")


def _braced(labels: dict[str, str]) -> str:
    return f"{{{', '.join(f'{name}={value!r}' for name, value in labels.items())}}}" if labels else ""
