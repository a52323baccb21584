"""What the simulated driver tells of what is so: by sample buffers, as the real one does, and as a story falsifies it.

A fleet's reading is the truth; ``Telling.of`` makes of it what the driver answers, in the form that the real source
gives to the same answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from gpu_exporter.catalog import DEVICE_METRICS, PROCESS_MEMORY, PROCESS_UTILIZATION, PROCESSES, by_name, mig
from gpu_exporter.catalog.row import Board, Constant, Metric, Samples
from gpu_exporter.config.parsers import RefusedError, quoted
from gpu_exporter.model import Device, Failure, Process, Reading
from gpu_exporter.sources.fake.models import MODELS, GpuModel
from gpu_exporter.sources.fake.simulation import Simulation
from gpu_exporter.sources.fake.workloads import assign

# Counters that a driver tells by samples of their gauge only: the growth since the last look, never a total.
_SAMPLED: Final = frozenset(
    row for row in DEVICE_METRICS if row.fake and row.nvml and all(isinstance(column, Samples) for column in row.nvml)
)
_FANS: Final = frozenset({by_name("gpu_fan_speed_ratio"), by_name("gpu_fan_speed_rpm")})
_OF_MIG: Final = frozenset(mig.ROWS)
_OF_PROCESSES: Final = (PROCESS_MEMORY, PROCESS_UTILIZATION)
# They come from the very lists: without the answer it is not known what runs there.
_LISTS: Final = frozenset(PROCESSES.values())


@dataclass(frozen=True, slots=True)
class Falsehoods:
    """What the driver does not tell of one GPU, or tells wrongly. ``only`` is what still answers where most fails."""

    silent: frozenset[Metric] = frozenset()
    values: Mapping[Metric, float] = field(default_factory=dict)
    only: frozenset[Metric] | None = None

    def silences(self, row: Metric) -> bool:
        """Whether a row is not told."""
        return row in self.silent or (self.only is not None and row not in self.only)


HONEST: Final = Falsehoods()


class Telling:
    """What one open source tells; it remembers of each GPU how far it has read the sample buffers.

    Readings of one GPU never overlap; those of several may.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, Metric], tuple[float, float]] = {}

    def of(self, truth: Reading, device: Device, now: float, falsehoods: Falsehoods) -> Reading:
        """What the driver answers of ``truth`` at Unix time ``now``; ``device`` is how this source calls the GPU."""
        if truth.failure is not None:
            return replace(truth, device=device)
        values = dict(truth.values)
        labelled = dict(truth.labelled)
        if falsehoods is not HONEST:
            values = {row: value for row, value in values.items() if not falsehoods.silences(row)}
            values |= {row: value for row, value in falsehoods.values.items() if not row.dynamic}
            labelled = {
                (row, labels): falsehoods.values.get(row, value)
                for (row, labels), value in labelled.items()
                if not falsehoods.silences(row)
            }
        missing = len(truth.values.keys() - values.keys())
        if missing and not (values or labelled):
            return Reading(device, failure=Failure("unknown", "not one of its calls gives a value"))
        increments: dict[Metric, float] = {}
        covered: dict[Metric, float | None] = {}
        refused: list[tuple[Metric, float]] = []
        for row in _SAMPLED:
            values.pop(row, None)
            if row not in truth.values:  # in MIG mode
                continue
            amount, seconds = self._grown(device, row, truth.values[row], now)
            sample = falsehoods.values.get(row)
            if falsehoods.silences(row):
                amount, seconds = 0.0, None
            elif sample is not None and seconds is not None:
                low, high = _gauge_of(row).plausible
                if low <= sample <= high:
                    amount = sample * seconds
                else:  # the buffer is full of what cannot be: it says nothing of the time
                    amount, seconds = 0.0, None
                    refused.append((row, sample))
            increments[row], covered[row] = amount, seconds
        return replace(
            truth,
            device=device,
            values=values,
            increments=increments,
            covered=covered,
            labelled=labelled,
            refused=tuple(refused),
            processes=_listed(truth.processes, falsehoods),
            # As the NVML source judges: a GPU that tells less than it refuses is not whole.
            partial=f"{missing} of its values are refused and {len(values)} told" if missing > len(values) else "",
        )

    def _grown(self, device: Device, row: Metric, total: float, now: float) -> tuple[float, float | None]:
        """What the buffer tells since the last look, and of how many seconds; the first look tells nothing."""
        seen = self._seen.get((device.uuid, row))
        self._seen[device.uuid, row] = (total, now)
        if seen is None:
            return 0.0, None
        return max(0.0, total - seen[0]), max(0.0, now - seen[1])


def _listed(processes: tuple[Process, ...] | None, falsehoods: Falsehoods) -> tuple[Process, ...] | None:
    if processes is None or falsehoods.only is not None or falsehoods.silent & _LISTS:
        return None
    memory, utilization = (falsehoods.values.get(row) for row in _OF_PROCESSES)
    silent = falsehoods.silent
    if memory is utilization is None and not silent.intersection(_OF_PROCESSES):
        return processes
    return tuple(
        replace(
            process,
            memory_used=None if PROCESS_MEMORY in silent else process.memory_used if memory is None else memory,
            utilization=None
            if PROCESS_UTILIZATION in silent
            else process.utilization
            if utilization is None
            else utilization,
        )
        for process in processes
    )


def _gauge_of(counter: Metric) -> Metric:
    return by_name(counter.integral_of or counter.name, **dict(counter.labels))


# --- what a story may name --------------------------------------------------------------------------------------------


def metrics(value: Any, *, board: str, lists: bool) -> tuple[Metric, ...]:
    """Rows that the driver tells of the board, from a name or a list: ``gpu_clock_hertz`` or one row of its rows.

    ``lists`` accepts the lists of processes as well. Raises RefusedError.
    """
    names = value if isinstance(value, list) else [value]
    told = dict(_told(board))
    if lists:
        told |= {repr(row): row for row in _LISTS}
    found: list[Metric] = []
    for each in names:
        rows = [row for written, row in told.items() if each in (written, row.name)]
        if not rows:
            near = get_close_matches(str(each), [*told, *{row.name for row in told.values()}], n=1)
            hint = f"did you mean {near[0]}?" if near else "write one such as gpu_utilization_ratio (docs/METRICS.md)"
            raise RefusedError(f"{quoted(each)} is not a metric that the driver tells of {board}; {hint}")
        found += rows
    if not found:
        raise RefusedError(f"{quoted(value)} names no metric; write one such as gpu_utilization_ratio")
    return tuple(dict.fromkeys(found))


@cache
def _told(board: str) -> Mapping[str, Metric]:
    """Every row that the simulated driver has of a board, by how it is written in /metrics."""
    return MappingProxyType({repr(row): row for row in _rows(board)})


def _rows(board: str) -> Iterator[Metric]:
    model = MODELS[board]
    simulation = Simulation(model=model, workload=assign(1, 0)[0], start=0.0)
    quantities: Collection[str] = simulation.quantities()
    for row in DEVICE_METRICS:
        column = row.fake
        if row in _OF_PROCESSES or isinstance(column, Constant):
            yield row
        elif isinstance(column, Board):
            if getattr(model, column.attribute) is not None:
                yield row
        elif column in quantities or (row in _FANS and model.fans) or (row in _OF_MIG and _has_of_mig(model, row)):
            yield row


def _has_of_mig(model: GpuModel, row: Metric) -> bool:
    """Whether the board has the row in MIG mode: identity and memory, and activity where it has profiling counters."""
    return model.mig and (model.gpm or row.unit != "ratio")


def merged(events: Sequence[Falsehoods]) -> Falsehoods:
    """What several falsehoods of one GPU come to; of two values of a row the later holds."""
    if not events:
        return HONEST
    only = [event.only for event in events if event.only is not None]
    return Falsehoods(
        silent=frozenset().union(*(event.silent for event in events)),
        values={row: value for event in events for row, value in event.values.items()},
        only=frozenset.intersection(*only) if only else None,
    )
