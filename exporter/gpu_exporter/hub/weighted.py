"""The score with weights of one's own, from the minutes of a history file.

The exporter integrates the usual score, and the history keeps that. Other weights are laid over what the minutes have:
The exporter integrates the usual score, and the history keeps that. Other weights are laid over what minutes have:
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gpu_exporter.history.reader import Reader
from gpu_exporter.history.schema import MINUTES, OBSERVED, QUARTERS, Span
from gpu_exporter.hub.settings import Weights
from gpu_exporter.model import Owner

_SCORE: Final = (
    "(:utilization * utilization_pct / 100.0 + :memory_io * memory_io_pct / 100.0 "
    "+ :memory_used * min(1.0, memory_mib * 1048576.0 / gpu.memory_total_bytes) "
    "+ :power * min(1.0, power_dw / 10.0 / gpu.power_limit_watts))"
)
_WITHIN: Final = "row.id >= :low AND row.id < :high AND {time} >= :start AND {time} < :end"


def scores(reader: Reader, weights: Weights, *, start: float, end: float) -> Mapping[tuple[int, Owner | None], float]:
    """The mean score by GPU (its id in the file) and owner; None is the whole GPU. What lacks a part has no score.

    Raises HistoryError.
    """
    sums: dict[tuple[int, Owner | None], tuple[float, float]] = {}
    for span in (MINUTES, QUARTERS):
        values = {
            "utilization": weights.utilization,
            "memory_io": weights.memory_io,
            "memory_used": weights.memory_used,
            "power": weights.power,
            "low": int(start) // span.unit << span.shift,
            "high": int(end) // span.unit + 1 << span.shift,
            "start": start,
            "end": end,
        }
        for gpu, area, seconds in reader.rows(_of_gpus(span), values):
            _add(sums, (gpu, None), area, seconds)
        for gpu, kind, name, namespace, area, seconds in reader.rows(_of_owners(span), values):
            _add(sums, (gpu, Owner(kind, name, namespace)), area, seconds)
    return {key: area / seconds for key, (area, seconds) in sums.items() if seconds > 0}


def _add(
    sums: dict[tuple[int, Owner | None], tuple[float, float]],
    key: tuple[int, Owner | None],
    area: float,
    seconds: float,
) -> None:
    before = sums.get(key, (0.0, 0.0))
    sums[key] = (before[0] + (area or 0.0), before[1] + (seconds or 0.0))


def _of_gpus(span: Span) -> str:
    return f"""
SELECT gpu.id, sum({_SCORE} * {OBSERVED}), sum(CASE WHEN {_SCORE} IS NOT NULL THEN {OBSERVED} END)
FROM gpu_{span.suffix} AS row JOIN gpu ON gpu.id = {span.subject}
WHERE {_WITHIN.format(time=span.time)} GROUP BY gpu.id
"""  # noqa: S608 - names of columns, here and below


def _of_owners(span: Span) -> str:
    table = f"gpu_{span.suffix}"
    return f"""
SELECT gpu.id, owner.kind, owner.name, owner.namespace,
    sum({_SCORE} * held), sum(CASE WHEN {_SCORE} IS NOT NULL THEN held END)
FROM (
    SELECT id AS part, owner AS who, active_s + idle_held_s AS held FROM {table}
    WHERE id >= :low AND id < :high AND owner IS NOT NULL
    UNION ALL
    SELECT id, owner, active_s + idle_held_s FROM {table}_owner WHERE id >= :low AND id < :high
) JOIN {table} AS row ON row.id = part JOIN gpu ON gpu.id = {span.subject} JOIN owner ON owner.id = who
WHERE {_WITHIN.format(time=span.time)} GROUP BY gpu.id, who
"""  # noqa: S608
