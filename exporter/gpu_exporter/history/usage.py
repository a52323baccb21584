"""What became of the GPUs' time within a window: sums by GPU, and by GPU and holder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gpu_exporter.catalog.score import PARTS, USUAL, weighted
from gpu_exporter.history.document import HELD, STATES
from gpu_exporter.history.reader import Reader, StoredGpu
from gpu_exporter.history.schema import MINUTES, OBSERVED, QUARTERS, Span
from gpu_exporter.model import Owner


@dataclass(slots=True)
class Total:
    """What became of some time: seconds by state, joules, the score summed over the seconds that have one.

    ``parts`` are what the score is made of (PARTS, each a share from 0 to 1), summed in the same way; of a part that is
    not known there is none.
    """

    gpu: StoredGpu
    states: dict[str, float]
    joules: float | None = None
    score: float = 0.0
    scored: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """In all states together."""
        return sum(self.states.values())

    def weighted(self, weights: Mapping[str, float]) -> float | None:
        """The score with other weights of its parts, averaged; by utilization alone where another part is not known.

        None where there is no activity signal.
        """
        if self.scored <= 0 or "utilization" not in self.parts:
            return None
        if self.parts.keys() != set(PARTS):
            return min(1.0, self.parts["utilization"] / self.scored)
        return weighted({name: min(1.0, total / self.scored) for name, total in self.parts.items()}, weights)


@dataclass(slots=True)
class GpuTotal(Total):
    """What became of one GPU's time, looked at or down."""


@dataclass(slots=True)
class HoldTotal(Total):
    """What became of one owner's share of one GPU's time."""

    owner: Owner = Owner("", "", "")


@dataclass(frozen=True, slots=True)
class Usage:
    """The sums of a window. ``covered`` are the seconds of it in which anything was looked at."""

    start: float
    end: float
    covered: float
    gpus: tuple[GpuTotal, ...]
    holds: tuple[HoldTotal, ...]


_PARTS: Final = (  # by second; memory in bytes, power in watts
    "utilization_pct / 100.0",
    "memory_io_pct / 100.0",
    "memory_mib * 1048576.0",
    "power_dw / 10.0",
)
_JOULES: Final = f"power_dw / 10.0 * {OBSERVED}"
_SCORE: Final = f"score_pct / 100.0 * {OBSERVED}"
# Within :low and :high, which are keys; the hours (days) at the edges are cut to the window by time.
_ROWS: Final = "row.id >= :low AND row.id < :high AND {time} >= :start AND {time} < :end"
_LEAST: Final = "CREATE TEMP TABLE least (gpu INTEGER PRIMARY KEY, watts REAL, power_limit REAL)"
# A holder of a part of a row: the rest of the time the GPU was free, computed nothing and drew what it draws at least.
_DRAWN: Final = f"max(0.0, {_JOULES} - ({OBSERVED} - held) * least.watts)"
_IDLES: Final = f"coalesce({USUAL['power']} * least.watts / power_limit, 0.0)"
_WORKED: Final = f"min(1.0, max(0.0, ({_SCORE} - ({OBSERVED} - held) * {_IDLES}) / held))"


def usage(reader: Reader, *, start: float, end: float) -> Usage:
    """What became of the time from start to end (Unix seconds), to the minute, and to the quarter hour where it is old.

    Raises HistoryError.
    """
    gpus = {gpu.id: gpu for gpu in reader.gpus()}
    totals: dict[int, GpuTotal] = {}
    holds: dict[tuple[int, Owner], HoldTotal] = {}
    covered = 0.0
    with reader.asking() as connection:
        connection.execute("DROP TABLE IF EXISTS temp.least")
        connection.execute(_LEAST)
        for span in (MINUTES, QUARTERS):
            window = _window(span, start, end)
            for gpu, watts, *sums in connection.execute(_gpu_query(span), window):
                if gpu in gpus:
                    _add(totals.setdefault(gpu, GpuTotal(gpus[gpu], dict.fromkeys(STATES, 0.0))), STATES, sums)
                    connection.execute(
                        "INSERT INTO least VALUES (:gpu, :watts, :limit) "
                        "ON CONFLICT DO UPDATE SET watts = min(watts, :watts)",
                        {"gpu": gpu, "watts": watts or 0.0, "limit": gpus[gpu].power_limit_watts},
                    )
            covered += connection.execute(_covered_query(span), window).fetchone()[0] or 0.0
        for span in (MINUTES, QUARTERS):
            for query in (_sole_query(span), _share_query(span)):
                for gpu, kind, name, namespace, *sums in connection.execute(query, _window(span, start, end)):
                    owner = Owner(kind, name, namespace)
                    if gpu in gpus:
                        _add(
                            holds.setdefault((gpu, owner), HoldTotal(gpus[gpu], dict.fromkeys(HELD, 0.0), owner=owner)),
                            HELD,
                            sums,
                        )
    return Usage(start, end, covered, tuple(totals.values()), tuple(holds.values()))


def _window(span: Span, start: float, end: float) -> dict[str, Any]:
    low, high = int(start) // span.unit << span.shift, int(end) // span.unit + 1 << span.shift
    return {"low": low, "high": high, "start": start, "end": end}


def _add(total: Total, states: tuple[str, ...], sums: list[Any]) -> None:
    seconds, (joules, score, scored, *parts) = sums[: len(states)], sums[len(states) :]
    for state, value in zip(states, seconds, strict=True):
        total.states[state] += value or 0.0
    if joules is not None:
        total.joules = (total.joules or 0.0) + joules
    total.score += score or 0.0
    total.scored += scored or 0.0
    whole = (1.0, 1.0, total.gpu.memory_total_bytes, total.gpu.power_limit_watts)
    for name, part, most in zip(PARTS, parts, whole, strict=True):
        if part is not None and most:
            total.parts[name] = total.parts.get(name, 0.0) + part / most


def _gpu_query(span: Span) -> str:
    return f"""
SELECT {span.subject} AS gpu, min(CASE WHEN {OBSERVED} > 0 THEN power_dw / 10.0 END),
    sum(active_s), sum(idle_held_s), sum(idle_free_s), sum(unknown_s), sum(down_s),
    sum({_JOULES}), sum({_SCORE}), sum(CASE WHEN score_pct IS NOT NULL THEN {OBSERVED} END),
    {", ".join(f"sum({part} * {OBSERVED})" for part in _PARTS)}
FROM gpu_{span.suffix} AS row WHERE {_ROWS.format(time=span.time)} GROUP BY gpu
"""  # noqa: S608 - names of columns, here and below


def _covered_query(span: Span) -> str:
    """Seconds that any row stands for."""
    return f"""
SELECT count(*) * {span.grain} FROM (
    SELECT DISTINCT {span.time} FROM gpu_{span.suffix} AS row WHERE {_ROWS.format(time=span.time)}
)"""  # noqa: S608


def _sole_query(span: Span) -> str:
    rows = f"""
SELECT row.*, active_s + idle_held_s + unknown_s AS held, active_s AS active, idle_held_s AS idle, unknown_s AS unknown
FROM gpu_{span.suffix} AS row WHERE {_ROWS.format(time=span.time)} AND owner IS NOT NULL
"""  # noqa: S608
    return _held_query(span, rows)


def _share_query(span: Span) -> str:
    """Of rows that several owners have a share in; ``held`` is what they have together."""
    shares = f"gpu_{span.suffix}_owner"
    rows = f"""
SELECT part.owner, part.active_s AS active, part.idle_held_s AS idle, part.unknown_s AS unknown,
    max(together.held, row.active_s + row.idle_held_s) AS held, {", ".join(f"row.{name}" for name in _NEEDED)}
FROM {shares} AS part JOIN gpu_{span.suffix} AS row ON row.id = part.id
JOIN (
    SELECT id, sum(active_s + idle_held_s + unknown_s) AS held FROM {shares} WHERE id >= :low AND id < :high GROUP BY id
) AS together ON together.id = part.id
WHERE {_ROWS.format(time=span.time)}
"""  # noqa: S608
    return _held_query(span, rows)


_NEEDED: Final = (
    "id", "active_s", "idle_held_s", "idle_free_s", "unknown_s", "power_dw", "score_pct", "utilization_pct",
    "memory_io_pct", "memory_mib",
)  # fmt: skip


def _held_query(span: Span, rows: str) -> str:
    """Sums by GPU and owner of rows that tell what an owner had (active, idle, unknown) of what was held."""
    return f"""
SELECT {span.subject} AS subject, kind, name, namespace, sum(active), sum(idle), sum(row.unknown),
    sum({_DRAWN} * (active + idle + row.unknown) / held), sum({_WORKED} * (active + idle)),
    sum(CASE WHEN score_pct IS NOT NULL THEN active + idle END),
    {", ".join(f"sum({part} * {OBSERVED} * (active + idle) / held)" for part in _PARTS[:-1])},
    sum({_DRAWN} * (active + idle) / held)
FROM ({rows}) AS row JOIN owner ON owner.id = row.owner JOIN least ON least.gpu = {span.subject}
WHERE held > 0 GROUP BY subject, row.owner
"""  # noqa: S608
