"""Who uses, who wastes: rows by user, pod, namespace, Slurm job or GPU, worst first, and what they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from gpu_exporter.catalog.owner_kinds import OWNER_KINDS, OwnerKind, Rows
from gpu_exporter.catalog.simulated import SIMULATED, is_simulated, told_model
from gpu_exporter.report.history import OWNER_SECONDS, Gpu, GpuUsage, Grid, Hold
from gpu_exporter.report.slices import Key

CLASSES: Final = ("idle", "low", "normal", "high")
FIGURES: Final = ("held_hours", "used_hours", "idle_held_hours", "efficiency", "score", "energy_kwh")
COSTS: Final = ("held_cost", "idle_held_cost", "energy_cost")
NOBODY: Final = "(unknown)"
_HOUR: Final = 3600.0
_APART: Final = 60.0  # seconds
_KWH: Final = 3.6e6


class Accounts(Protocol):
    """What happened within a window, wherever it was kept; ``covered`` is seconds for which there is any data."""

    gpus: dict[Key, GpuUsage]
    holds: dict[Key, Hold]
    covered: float
    grid: Grid


@dataclass(frozen=True, slots=True)
class Prices:
    """In whatever currency; None is one that was not told."""

    kwh: float | None = None
    gpu_hour: float | None = None

    @property
    def costs(self) -> tuple[str, ...]:
        """What can be told of each row."""
        told = (self.gpu_hour is not None, self.gpu_hour is not None, self.kwh is not None)
        return tuple(name for name, known in zip(COSTS, told, strict=True) if known)


@dataclass(slots=True)
class Row:
    """One line of the report. Hours are GPU-hours; None is what nobody knows."""

    keys: dict[str, str]
    gpus: int = 0
    held_hours: float = 0.0
    used_hours: float = 0.0
    idle_held_hours: float = 0.0
    unknown_hours: float = 0.0
    free_hours: float = 0.0
    down_hours: float = 0.0
    energy_kwh: float | None = None
    score: float | None = None
    held_cost: float | None = None
    idle_held_cost: float | None = None
    energy_cost: float | None = None
    _of: set[Gpu] = field(default_factory=set)
    _score: float = 0.0
    _scored: float = 0.0

    @property
    def efficiency(self) -> float | None:
        """Used by held, of the time of which it is known whether it was used."""
        known = self.used_hours + self.idle_held_hours
        return self.used_hours / known if known > 0 else None

    @property
    def grade(self) -> str | None:
        """The score's class, as the recording rule instance_gpu:gpu_score:class has it."""
        if self.score is None:
            return None
        return CLASSES[(self.score >= 0.1) + (self.score >= 0.2) + (self.score >= 0.7)]

    def price(self, prices: Prices) -> None:
        """Say what it costs: the hours held, those of them in which nothing ran, and the energy."""
        if prices.gpu_hour is not None:
            self.held_cost = self.held_hours * prices.gpu_hour
            self.idle_held_cost = self.idle_held_hours * prices.gpu_hour
        if prices.kwh is not None and self.energy_kwh is not None:
            self.energy_cost = self.energy_kwh * prices.kwh

    def add(self, usage: GpuUsage | Hold) -> None:
        """Add one GPU's time."""
        hours = {state: seconds / _HOUR for state, seconds in usage.states.items()}
        used, idle, unknown = (hours.get(state, 0.0) for state in ("active", "idle_held", "unknown"))
        self.used_hours += used
        self.idle_held_hours += idle
        self.unknown_hours += unknown
        held_unknown = usage.unknown_held / _HOUR if isinstance(usage, GpuUsage) else unknown
        self.held_hours += used + idle + held_unknown
        self.free_hours += hours.get("idle_free", 0.0)
        self.down_hours += hours.get("down", 0.0)
        if usage.joules is not None:
            self.energy_kwh = (self.energy_kwh or 0.0) + usage.joules / _KWH
        self._of.add(usage.gpu)
        self.gpus = len(self._of)
        self._score += usage.score
        self._scored += usage.scored
        self.score = self._score / self._scored if self._scored > 0 else None


@dataclass(frozen=True, slots=True)
class Report:
    """All that is told. ``rest`` is the time of holders that are no row, such as pods in a report by user.

    ``simulated`` says where GPUs are not real, in words; empty where all are.
    """

    by: str
    grid: Grid
    covered: float
    rows: Sequence[Row]
    rest: Row | None
    total: Row
    fleet: Row
    low: Mapping[str, float | None]
    mean: Mapping[str, float | None]
    high: Mapping[str, float | None]
    classes: Mapping[str, int]
    warnings: Sequence[str]
    prices: Prices = Prices()
    simulated: str = ""

    @property
    def idle_held_share(self) -> float:
        """Of the held hours, those in which nothing ran."""
        return self.total.idle_held_hours / self.total.held_hours if self.total.held_hours > 0 else 0.0


_ROWS: Final[Mapping[str, tuple[OwnerKind, Rows]]] = {
    rows.by: (kind, rows) for kind in OWNER_KINDS for rows in kind.rows
}
WORDS: Final[Mapping[str, str]] = {**{by: rows.word for by, (_, rows) in _ROWS.items()}, "gpu": "GPU"}
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {  # what tells the rows apart
    **{by: ("cluster", *(title for title, _ in rows.columns)) for by, (_, rows) in _ROWS.items()},
    "gpu": ("cluster", "host", "gpu", "model", "uuid"),
}


_UNPRICED: Final = Prices()


def _in_rows(rows: Rows) -> Mapping[str, OwnerKind]:
    """The kinds whose owners are in such rows."""
    needed = {label for _, label in rows.columns}
    return {row.kind: row for row in OWNER_KINDS if needed <= {row.name, row.namespace}}


def _keys(hold: Hold, kind: OwnerKind, rows: Rows) -> dict[str, str]:
    """What tells the row of a hold apart. An owner without a name is NOBODY, and a row without any word as well."""
    told = {kind.namespace: hold.owner.namespace, kind.name: hold.owner.name or NOBODY}
    alone = len(rows.columns) == 1
    return {title: told[label] or (NOBODY if alone else "") for title, label in rows.columns}


def _rest_name(kind: OwnerKind, inside: Mapping[str, OwnerKind]) -> str:
    """What is no row."""
    if kind.labels:
        return f"(not in {kind.plural})"
    return f"({', '.join(row.plural for row in OWNER_KINDS if row.kind not in inside)})"


def report(history: Accounts, *, by: str, grid: Grid, warnings: Sequence[str], prices: Prices = _UNPRICED) -> Report:
    """Make the report of what happened."""
    fleet = _sum(history.gpus.values())
    if by == "gpu":
        rows, rest, total = [_gpu(usage) for usage in history.gpus.values()], None, fleet
    else:
        total = _sum(history.holds.values())
        rows, rest = _group(history.holds.values(), by)
    rows.sort(key=lambda row: (-row.idle_held_hours, row.score if row.score is not None else 1.0, -row.held_hours))
    for row in (*rows, total, fleet, *((rest,) if rest else ())):
        row.price(prices)
    figures = (*FIGURES, *prices.costs)
    classes = Counter(row.grade for row in rows)
    return Report(
        by=by,
        grid=grid,
        covered=history.covered,
        rows=rows,
        rest=rest,
        total=total,
        fleet=fleet,
        low={name: min(values, default=None) for name, values in _figures(rows, figures)},
        mean={name: sum(values) / len(values) if values else None for name, values in _figures(rows, figures)},
        high={name: max(values, default=None) for name, values in _figures(rows, figures)},
        classes={name: classes[name] for name in CLASSES},
        warnings=[*warnings, *_doubts(history, fleet, _sum(history.holds.values()))],
        prices=prices,
        simulated=_simulated(history),
    )


def _simulated(history: Accounts) -> str:
    simulated = sum(is_simulated(usage.gpu.uuid) for usage in history.gpus.values())
    if simulated == len(history.gpus):
        return SIMULATED if simulated else ""
    return f"simulated data: {simulated} of {len(history.gpus)} GPUs are not real" if simulated else ""


def _gpu(usage: GpuUsage) -> Row:
    gpu, model = usage.gpu, told_model(usage.model, usage.gpu.uuid)
    row = Row({"cluster": gpu.cluster, "host": usage.host, "gpu": gpu.gpu, "model": model, "uuid": gpu.uuid})
    row.add(usage)
    return row


def _group(holds: Iterable[Hold], by: str) -> tuple[list[Row], Row | None]:
    """Rows of the owners that such rows are made of, and one of the rest. Names in two clusters are two holders."""
    kind, wanted = _ROWS[by]
    inside = _in_rows(wanted)
    rows: dict[tuple[str, ...], Row] = {}
    rest = Row({"cluster": "", COLUMNS[by][1]: _rest_name(kind, inside)})
    for hold in holds:
        found = inside.get(hold.owner.kind)
        if found is None:
            rest.add(hold)
        else:
            named = {"cluster": hold.gpu.cluster, **_keys(hold, found, wanted)}
            rows.setdefault(tuple(named.values()), Row(named)).add(hold)
    return [row for row in rows.values() if row.held_hours > 0], rest if rest.held_hours > 0 else None


def _sum(usages: Iterable[GpuUsage | Hold]) -> Row:
    row = Row({})
    for usage in usages:
        row.add(usage)
    return row


def _figures(rows: Sequence[Row], figures: Sequence[str]) -> Iterator[tuple[str, list[float]]]:
    for name in figures:
        yield name, [value for row in rows if (value := getattr(row, name)) is not None]


def _doubts(history: Accounts, fleet: Row, held: Row) -> Iterator[str]:
    """What the reader must know before believing the figures."""
    window = history.grid.window
    if history.covered < 0.98 * window:
        yield f"data covers {span(history.covered)} of {span(window)}"
    # Scrapes of two machines begin and end up to a minute apart.
    most = min(0.98 * history.covered, history.covered - _APART)
    partly = [usage.covered for usage in history.gpus.values() if usage.covered <= most]
    if partly:
        least = span(min(partly))
        yield f"{len(partly)} of {len(history.gpus)} GPUs have data for a part of that only, the least for {least}"
    if fleet.held_hours - held.held_hours > 0.02 * fleet.held_hours:
        yield f"of {fleet.held_hours:.1f} held GPU-hours only {held.held_hours:.1f} have a holder in {OWNER_SECONDS}"


def span(seconds: float) -> str:
    """A length of time for people: 3 h, 24 h, 7 d, 90 min."""
    hours = seconds / _HOUR
    if hours >= 72:
        return f"{hours / 24:.3g} d"
    return f"{hours:.3g} h" if hours >= 2 else f"{seconds / 60:.3g} min"
