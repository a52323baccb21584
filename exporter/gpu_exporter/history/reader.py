"""Reads a history file: series for charts, sums for results. Any number may read while one writes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from gpu_exporter.history.document import STATES
from gpu_exporter.history.file import HistoryError, explained, has_log, identity, open_reader, remove_empty_log
from gpu_exporter.history.schema import HOUR, MINUTES, OBSERVED, QUARTERS, Span

_MOST_POINTS: Final = 50_000
_ASK_AGAIN: Final = 0.05  # seconds until a question that was asked meanwhile is ended as well


class StoredGpu(NamedTuple):
    """A GPU that the file knows; ``number`` is its index. Times are Unix seconds; empty and None are not known."""

    id: int
    node: str
    number: int
    uuid: str
    model: str
    memory_total_bytes: int | None
    power_limit_watts: float | None
    first_seen: int
    last_seen: int


class StoredNode(NamedTuple):
    """A machine that the file knows; ``host`` is its own name for itself."""

    id: int
    alias: str
    host: str
    memory_total_bytes: int | None
    first_seen: int
    last_seen: int


@dataclass(frozen=True, slots=True)
class Series:
    """A metric every ``step`` seconds from ``start`` on: what stands at k is of [start + k·step, start + (k + 1)·step).

    None is a gap: nobody looked. ``highs`` are the highest samples, where the metric has them.
    """

    start: int
    step: int
    unit: str
    means: list[float | None]
    highs: list[float | None]


@dataclass(frozen=True, slots=True)
class _Column:
    """How a series is made of a table's columns: sum(value · weight) / sum(weight), or the sum itself."""

    value: str
    high: str
    unit: str
    weight: str = OBSERVED
    adds_up: bool = False


def _state(name: str) -> _Column:
    return _Column(f"{name}_s * 1.0 / ({OBSERVED} + down_s)", "NULL", "ratio", f"({OBSERVED} + down_s)")


# By the catalogue's name where it has one. Counters are told as what they grew by.
METRICS: Final[Mapping[str, _Column]] = {
    "gpu_utilization_ratio": _Column("utilization_pct / 100.0", "utilization_max_pct / 100.0", "ratio"),
    "gpu_memory_io_utilization_ratio": _Column("memory_io_pct / 100.0", "NULL", "ratio"),
    "gpu_memory_used_bytes": _Column("memory_mib * 1048576.0", "(memory_mib + memory_over_mib) * 1048576.0", "bytes"),
    "gpu_temperature_celsius": _Column("temperature_c * 1.0", "temperature_c + temperature_over_c * 1.0", "celsius"),
    "gpu_power_watts": _Column("power_dw / 10.0", "power_dw / 10.0 + power_over_w", "watts"),
    "gpu_energy_joules": _Column(f"power_dw / 10.0 * {OBSERVED}", "NULL", "joules", adds_up=True),
    "gpu_sm_clock_hertz": _Column("sm_clock_mhz * 1000000.0", "NULL", "hertz"),
    "gpu_score_ratio": _Column("score_pct / 100.0", "NULL", "ratio"),
    "gpu_slowed_ratio": _Column(f"min(1.0, slowed_s * 1.0 / {OBSERVED})", "NULL", "ratio"),
    "gpu_processes": _Column("processes * 1.0", "processes", "processes"),
    **{f"gpu_{name}_ratio": _state(name) for name in STATES},
}
HOST_METRICS: Final[Mapping[str, _Column]] = {
    "host_cpu_utilization_ratio": _Column("cpu_pct / 100.0", "cpu_max_pct / 100.0", "ratio", "seconds"),
    "host_memory_used_bytes": _Column(
        "memory_mib * 1048576.0", "(memory_mib + memory_over_mib) * 1048576.0", "bytes", "seconds"
    ),
    "host_load": _Column("load_hundredths / 100.0", "NULL", "tasks", "seconds"),
}


class Reader:
    """Reads one file, or the one that has its place by then; any thread may ask. Raises HistoryError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._made_log = False
        self._identity: tuple[int, int] | None = None
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        self._made_log = not has_log(self._path)
        connection = open_reader(self._path)
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -16384")
        self._identity = identity(self._path)
        return connection

    def close(self) -> None:
        """Let go of the file, and leave nothing beside it that was not there before. What is being asked is ended."""
        while not self._lock.acquire(timeout=_ASK_AGAIN):
            with suppress(sqlite3.Error):  # it was closed, or another one has its place
                self._db.interrupt()
        try:
            self._db.close()
            if self._made_log:
                remove_empty_log(self._path)
        finally:
            self._lock.release()

    def nodes(self) -> list[StoredNode]:
        """The machines, by alias."""
        text = "SELECT id, alias, host, memory_total_bytes, first_seen, last_seen FROM node ORDER BY alias"
        return [StoredNode(*row) for row in self.rows(text)]

    def gpus(self) -> list[StoredGpu]:
        """The GPUs, by machine and index; one that was replaced is there beside the new one."""
        text = (
            "SELECT gpu.id, alias, idx, uuid, model, gpu.memory_total_bytes, power_limit_watts, gpu.first_seen, "
            "gpu.last_seen FROM gpu JOIN node ON node.id = gpu.node ORDER BY alias, idx, gpu.last_seen DESC"
        )
        return [StoredGpu(*row) for row in self.rows(text)]

    def series(self, gpu: StoredGpu, metric: str, *, start: float, end: float, step: float) -> Series:
        """One metric of METRICS. The step is a minute at least; a quarter of an hour where older rows are asked for.

        Raises KeyError for another metric, ValueError for a window without time in it, or with too many points.
        """
        return self._series("gpu", gpu.id, METRICS[metric], start=start, end=end, step=step)

    def host_series(self, node: StoredNode, metric: str, *, start: float, end: float, step: float) -> Series:
        """One metric of HOST_METRICS; otherwise as ``series``."""
        return self._series("host", node.id, HOST_METRICS[metric], start=start, end=end, step=step)

    def rows(self, text: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query. Raises HistoryError."""
        with self.asking() as connection:
            return list(connection.execute(text, values))

    def table(
        self, text: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The names of a query's columns, and its rows. Raises HistoryError."""
        with self.asking() as connection:
            found = connection.execute(text, values)
            return [column[0] for column in found.description], list(found)

    @contextmanager
    def asking(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; the file as it was at one moment. Raises HistoryError."""
        with self._lock:
            if self._identity is None or identity(self._path) != self._identity:  # another file has its place by now
                self._db.close()
                self._identity = None  # until one is open: a later file may get the number of one that was removed
                self._db = self._open()
            try:
                self._db.execute("BEGIN")
                try:
                    yield self._db
                finally:
                    self._db.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise HistoryError(f"{self._path}: {explained(error, self._path)}") from None

    def _series(self, kind: str, subject: int, column: _Column, *, start: float, end: float, step: float) -> Series:
        if not end > start:
            raise ValueError("the window ends before it begins")
        first, grain = int(start // MINUTES.grain * MINUTES.grain), max(int(step), MINUTES.grain)
        with self.asking() as connection:
            oldest, quarters = connection.execute(
                f"SELECT (SELECT min(id) FROM {kind}_minute), (SELECT min(id) FROM {kind}_quarter)"  # noqa: S608 - our names
            ).fetchone()
            # Before the oldest minute there may have been nothing at all.
            old = quarters is not None and (oldest is None or first < (int(oldest) >> MINUTES.shift) * HOUR)
            if old:
                grain = max(grain, QUARTERS.grain)
                first = first // QUARTERS.grain * QUARTERS.grain
            count = int(-(-(end - first) // grain))
            if count > _MOST_POINTS:
                raise ValueError(f"{count} points are too many; ask for a longer step")
            sums: dict[int, tuple[float, float, float | None]] = {}
            for span in (MINUTES, QUARTERS) if old else (MINUTES,):
                # However long the window is, only where there are rows is looked.
                table = f"{kind}_{span.suffix}"
                ends = connection.execute(
                    f"SELECT (SELECT min(id) FROM {table}), (SELECT max(id) FROM {table})"  # noqa: S608 - our names
                ).fetchone()
                if ends[0] is None:
                    continue
                keys = (
                    max(first // span.unit, int(ends[0]) >> span.shift),
                    min(int(end // span.unit), int(ends[1]) >> span.shift),
                )
                for slot, area, weight, high in connection.execute(
                    _series_query(kind, span, column),
                    {"first": first, "end": end, "step": grain, "subject": subject << span.low,
                     "low": keys[0], "high": keys[1]},
                ):  # fmt: skip
                    before = sums.get(slot, (0.0, 0.0, None))
                    highs = [value for value in (before[2], high) if value is not None]
                    sums[slot] = (before[0] + area, before[1] + weight, max(highs, default=None))
        means: list[float | None] = [None] * count
        highs_told: list[float | None] = [None] * count
        for slot, (area, weight, high) in sums.items():
            if 0 <= slot < count:
                means[slot] = area if column.adds_up else area / weight
                highs_told[slot] = high
        return Series(first, grain, column.unit, means, highs_told)


def _series_query(kind: str, span: Span, column: _Column) -> str:
    # A subject's rows of an hour (a day) lie together; what is between is skipped.
    return f"""
WITH RECURSIVE span (at) AS (VALUES (:low) UNION ALL SELECT at + 1 FROM span WHERE at < :high)
SELECT ({span.time} - :first) / :step AS slot,
    sum({column.value if column.adds_up else f"({column.value}) * {column.weight}"}),
    sum({column.weight}), max({column.high})
FROM span CROSS JOIN {kind}_{span.suffix} AS row
    ON row.id BETWEEN (at << {span.shift} | :subject) AND (at << {span.shift} | :subject | {(1 << span.low) - 1})
WHERE {span.time} >= :first AND {span.time} < :end AND {column.weight} > 0 AND ({column.value}) IS NOT NULL
GROUP BY slot
"""  # noqa: S608 - names of columns
