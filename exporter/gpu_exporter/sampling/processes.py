"""Processes as series: bounded in number, with the labels that the site wants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

from gpu_exporter.catalog import PROCESS_MEMORY, PROCESS_UTILIZATION, PROCESSES, PROCESSES_DROPPED
from gpu_exporter.catalog.owner_kinds import PROCESS_LABELS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Identity, Process, Reading
from gpu_exporter.sampling.tenancy import merged

_Rows: TypeAlias = tuple[dict[Metric, float], dict[tuple[Metric, tuple[str, ...]], float]]


class ProcessTable:
    """Adds the rows of a reading's processes: at most ``most`` series of each name a GPU, largest memory first.

    ``labels`` are those to keep. Processes that the remaining labels do not tell apart share a series, which adds up.
    """

    def __init__(self, *, most: int, labels: Sequence[str]) -> None:
        self._most = most
        self._kept = tuple(label if label in labels else None for label in PROCESS_LABELS)
        self._before: dict[str, tuple[tuple[Process, ...], _Rows]] = {}

    def add_rows(self, reading: Reading) -> Reading:
        """The reading with its processes' rows; as it is where it is not known what runs on the device."""
        if reading.processes is None or reading.failure is not None:
            self._before.pop(reading.device.key, None)
            return reading
        before = self._before.get(reading.device.key)
        if before is None or before[0] is not reading.processes:
            rows = self._rows(reading.processes, reading.process_types)
            before = self._before[reading.device.key] = (reading.processes, rows)
        values, labelled = before[1]
        return replace(reading, values={**reading.values, **values}, labelled={**reading.labelled, **labelled})

    def _rows(self, listed: Sequence[Process], types: Collection[str]) -> _Rows:
        groups: dict[tuple[str, ...], list[Process]] = defaultdict(list)
        for process in merged(listed):
            groups[self._labels(process)].append(process)
        ranked = sorted(groups.items(), key=lambda item: (-(_total(item[1], "memory_used") or 0.0), item[0]))
        labelled: dict[tuple[Metric, tuple[str, ...]], float] = {}
        for labels, processes in ranked[: self._most]:
            self._put(labelled, PROCESS_MEMORY, labels, _total(processes, "memory_used"))
            self._put(labelled, PROCESS_UTILIZATION, labels, _total(processes, "utilization"))
        counts = {PROCESSES[kind]: _count(each for each in listed if each.type == kind) for kind in types}
        dropped = float(sum(len(processes) for _, processes in ranked[self._most :]))
        return {**counts, PROCESSES_DROPPED: dropped}, labelled

    def _labels(self, process: Process) -> tuple[str, ...]:
        told = {"pid": str(process.pid), **(process.identity or Identity()).all_labels()}
        return (*(told.get(label, "") if label else "" for label in self._kept), process.mig_uuid)

    @staticmethod
    def _put(
        labelled: dict[tuple[Metric, tuple[str, ...]], float],
        row: Metric,
        labels: tuple[str, ...],
        value: float | None,
    ) -> None:
        if value is not None:
            labelled[row, labels] = value


def _total(processes: Sequence[Process], name: str) -> float | None:
    told = [value for process in processes if (value := getattr(process, name)) is not None]
    return sum(told) if told else None


def _count(processes: Iterable[Process]) -> float:
    """Each process once, and each of those whose pid the driver cannot tell."""
    listed = list(processes)
    return float(len({each.pid for each in listed if each.has_pid}) + sum(not each.has_pid for each in listed))
