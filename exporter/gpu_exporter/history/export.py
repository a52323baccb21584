"""A history as CSV: a header whose names have the units, times in ISO 8601 (UTC), nothing that a spreadsheet runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, Final

from gpu_exporter.catalog.simulated import told_model
from gpu_exporter.history.reader import Reader
from gpu_exporter.history.schema import MINUTES, QUARTERS, Span

TABLES: Final = ("gpus", "owners", "processes", "hosts")
# A cell that begins so is a formula to a spreadsheet (OWASP, CSV injection); a leading ' makes it text.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - wide ones are read alike
_VIEWS: Final = {"gpus": "gpu_{}s", "owners": "gpu_{}_owners", "hosts": "host_{}s"}
_ORDER: Final = {
    "gpus": "time, node, gpu",
    "owners": "time, node, gpu, owner_kind, owner, namespace",
    "hosts": "time, node",
}
_SUBJECT_TABLE: Final = {"gpus": "gpu_{}", "owners": "gpu_{}", "hosts": "host_{}"}
_PROCESSES: Final = """
SELECT process.first_seen, process.last_seen, alias AS node, idx AS gpu, uuid, pid, type, mig_uuid, process, user,
    container, labels, memory_max_bytes
FROM process JOIN gpu ON gpu.id = process.gpu JOIN node ON node.id = gpu.node
WHERE process.last_seen >= :start AND process.first_seen < :end ORDER BY process.first_seen, node, gpu, pid
"""


def csv_lines(reader: Reader, table: str, *, start: float, end: float) -> Iterator[str]:
    """The rows of one of TABLES from start to end (Unix seconds), a line each; minutes, and quarter hours where old.

    ``resolution_seconds`` tells which. Raises HistoryError.
    """
    if table == "processes":
        names, rows = reader.table(_PROCESSES, {"start": start, "end": end})
        yield _line(names)
        yield from map(_line, _cells(rows, times=2))
        return
    header: Sequence[str] | None = None
    for span in (QUARTERS, MINUTES):  # what is older first
        for low, high in _windows(reader, table, span, start, end):
            names, rows = reader.table(_query(table, span), {"start": low, "end": high, "grain": span.grain})
            if header is None:
                header = names
                yield _line(names)
            yield from map(_line, _cells(_told(names, rows), times=1))
    if header is None:
        names, _ = reader.table(_query(table, MINUTES), {"start": 0, "end": 0, "grain": 0})
        yield _line(names)


def _windows(reader: Reader, table: str, span: Span, start: float, end: float) -> Iterator[tuple[float, float]]:
    """The part of the window for which there are rows, cut so that no piece is large: an hour, or a day."""
    name = _SUBJECT_TABLE[table].format(span.suffix)
    low, high = reader.rows(f"SELECT min(id) >> {span.shift}, max(id) >> {span.shift} FROM {name}")[0]  # noqa: S608
    if low is None:
        return
    for piece in range(max(int(low), int(start) // span.unit), min(int(high), int(end) // span.unit) + 1):
        begin, stop = max(start, piece * span.unit), min(end, (piece + 1) * span.unit)
        if stop > begin:
            yield begin, stop


def _query(table: str, span: Span) -> str:
    view = _VIEWS[table].format(span.suffix)
    low, high = (f"(cast(:{name} AS INTEGER) / {span.unit})" for name in ("start", "end"))
    # The view's key is bounded too: its time is worked out and has no index.
    return f"""
SELECT time, :grain AS resolution_seconds, {_columns(table)} FROM {view}
WHERE id >= {low} << {span.shift} AND id < ({high} + 1) << {span.shift} AND time >= :start AND time < :end
ORDER BY {_ORDER[table]}
"""  # noqa: S608 - our own names


def _columns(table: str) -> str:
    return {"gpus": _GPUS, "owners": _OWNERS, "hosts": _HOSTS}[table]


_GPUS: Final = """node, gpu, uuid, model, active_seconds, idle_held_seconds, idle_free_seconds, unknown_seconds,
    down_seconds, utilization_ratio, utilization_ratio_max, memory_io_utilization_ratio, memory_used_bytes,
    memory_used_bytes_max, temperature_celsius, temperature_celsius_max, power_watts, power_watts_max, energy_joules,
    score_ratio, sm_clock_hertz, slowed_seconds, processes"""
_OWNERS: Final = """node, gpu, uuid, owner_kind, owner, namespace, active_seconds, idle_held_seconds, unknown_seconds"""
_HOSTS: Final = """node, seconds, cpu_utilization_ratio, cpu_utilization_ratio_max, memory_used_bytes,
    memory_used_bytes_max, load"""


def _told(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[Sequence[Any]]:
    """The rows, with a word in the model's cell where there is no such GPU."""
    if "model" not in names:
        return rows
    model, uuid = names.index("model"), names.index("uuid")
    return ((*row[:model], told_model(row[model], row[uuid]), *row[model + 1 :]) for row in rows)


def _cells(rows: Iterable[Sequence[Any]], *, times: int) -> Iterator[list[Any]]:
    """Cells as they are written; the first ``times`` of a row are Unix seconds."""
    for row in rows:
        yield [*map(_when, row[:times]), *(harmless(cell) for cell in row[times:])]


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def harmless(cell: Any) -> Any:
    """The cell such that no spreadsheet takes it for a formula, nor a reader for the end of the file or line."""
    if isinstance(cell, str):
        # Python's csv writes these as they are, and readers stop at the one, or take the other for the line's end.
        cell = cell.replace("\0", "").replace("\r", "\n")
        return f"'{cell}" if cell.startswith(_FORMULA) else cell
    return round(cell, 6) if isinstance(cell, float) else cell


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
