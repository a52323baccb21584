"""Results: who used and who wasted the GPUs within a window, graded by the score; on a schedule, and when asked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from gpu_exporter.catalog.simulated import is_simulated
from gpu_exporter.history import AnalysisEntry, HistoryError, Journal
from gpu_exporter.hub.archive import Archive, ArchiveError, Total, Totals
from gpu_exporter.hub.document import shown
from gpu_exporter.hub.settings import Thresholds
from gpu_exporter.model import Owner

log = logging.getLogger(__name__)

Grade: TypeAlias = Literal["idle", "low", "normal", "high", "unknown"]
GRADES: Final[tuple[Grade, ...]] = ("idle", "low", "normal", "high", "unknown")
_HOUR: Final = 3600.0
_KWH: Final = 3.6e6
_LOGGED: Final = 200  # analyses that are remembered
_FRESH: Final = 60.0  # seconds for which a window that was worked out is not worked out again


@dataclass(frozen=True, slots=True)
class Result:
    """One owner's time on one GPU; without an owner, the whole GPU. Hours; None is what is not known."""

    node: str
    index: int
    uuid: str
    model: str
    owner: Owner | None
    grade: Grade
    score: float | None
    held_hours: float
    active_hours: float
    idle_hours: float
    unknown_hours: float
    free_hours: float
    down_hours: float
    energy_kwh: float | None


@dataclass(frozen=True, slots=True)
class Waster:
    """One owner, with all GPUs."""

    owner: Owner
    results: tuple[Result, ...]
    held_hours: float
    idle_hours: float
    score: float | None
    grade: Grade


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a window showed; ``holds`` are by GPU and owner, ``gpus`` whole GPUs: those that idled longest first."""

    made: float
    start: float
    end: float
    covered: float
    source: str
    holds: tuple[Result, ...]
    gpus: tuple[Result, ...]

    @property
    def low(self) -> tuple[Result, ...]:
        """What is held and hardly used."""
        return tuple(result for result in self.holds if result.grade in {"idle", "low"})

    def wasters(self, thresholds: Thresholds) -> list[Waster]:
        """By owner, those who let most hours pass first."""
        found: dict[Owner, list[Result]] = {}
        for result in self.holds:
            if result.owner is not None:
                found.setdefault(result.owner, []).append(result)
        wasters = []
        for owner, results in found.items():
            held = sum(one.held_hours for one in results)
            scored = [(one.score, one.held_hours) for one in results if one.score is not None]
            weight = sum(hours for _, hours in scored)
            score = sum(value * hours for value, hours in scored) / weight if weight > 0 else None
            idle = sum(one.idle_hours for one in results)
            wasters.append(Waster(owner, tuple(results), held, idle, score, grade(score, thresholds)))
        return sorted(wasters, key=lambda one: (-one.idle_hours, one.score if one.score is not None else 1.0))


def grade(score: float | None, thresholds: Thresholds) -> Grade:
    """What a score counts as."""
    if score is None:
        return "unknown"
    for name, limit in (("idle", thresholds.idle), ("low", thresholds.low), ("normal", thresholds.normal)):
        if score < limit:
            return name  # type: ignore[return-value] # they are Grades
    return "high"


def analyse(found: Totals, thresholds: Thresholds, *, made: float, source: str) -> Analysis:
    """Grade the sums of a window."""
    results = [_result(total, thresholds) for total in found.totals]
    results.sort(key=lambda one: (-one.idle_hours, one.score if one.score is not None else 1.0, -one.held_hours))
    return Analysis(
        made=made,
        start=found.start,
        end=found.end,
        covered=found.covered,
        source=source,
        holds=tuple(one for one in results if one.owner is not None and one.held_hours > 0),
        gpus=tuple(one for one in results if one.owner is None),
    )


def _result(total: Total, thresholds: Thresholds) -> Result:
    hours = {state: seconds / _HOUR for state, seconds in total.states.items()}
    active, idle, unknown = (hours.get(state, 0.0) for state in ("active", "idle_held", "unknown"))
    held = active + idle + (unknown if total.owner is not None else 0.0)
    return Result(
        node=total.node,
        index=total.index,
        uuid=shown(total.uuid),
        model=shown(total.model),
        owner=None if total.owner is None else Owner(*map(shown, total.owner)),
        grade=grade(total.score, thresholds),
        score=total.score,
        held_hours=held,
        active_hours=active,
        idle_hours=idle,
        unknown_hours=unknown,
        free_hours=hours.get("idle_free", 0.0),
        down_hours=hours.get("down", 0.0),
        energy_kwh=None if total.joules is None else total.joules / _KWH,
    )


class Logged(NamedTuple):
    """One analysis, as the log tells it."""

    at: float
    window: float
    seconds: float
    gpus: int
    low: int
    error: str = ""


@dataclass(slots=True)
class Results:
    """Works results out, one at a time, and keeps those of windows that were asked for lately."""

    archive: Archive
    thresholds: Thresholds
    window: float
    clock: Callable[[], float] = time.time
    journal: Journal | None = None
    log: deque[Logged] = field(default_factory=lambda: deque(maxlen=_LOGGED))
    _kept: dict[float, Analysis] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        if self.journal is None:
            return
        try:
            self.log.extend(Logged(*entry) for entry in self.journal.analyses())
        except HistoryError as error:
            log.warning("what was worked out before is not known: %s", error)

    def use(self, thresholds: Thresholds, window: float) -> None:
        """Grade by these from now on."""
        if (thresholds, window) != (self.thresholds, self.window):
            self.thresholds, self.window = thresholds, window
            self.forget()

    def forget(self) -> None:
        """Work everything out anew when it is asked for."""
        self._kept.clear()

    async def of(self, window: float | None = None, *, anew: bool = False) -> Analysis:
        """The results of a window that ends now, or a minute ago unless ``anew``. Raises ArchiveError."""
        length = window or self.window
        async with self._lock:
            now = self.clock()
            kept = self._kept.get(length)
            if kept is not None and not anew and 0 <= now - kept.made < _FRESH:
                return kept
            began = time.monotonic()
            try:
                totals = await asyncio.to_thread(self.archive.totals, now - length, now)
            except ArchiveError as error:
                await self._note(Logged(now, length, time.monotonic() - began, 0, 0, str(error)))
                raise
            made = analyse(totals, self.thresholds, made=now, source=self.archive.name)
            while len(self._kept) >= 16:
                del self._kept[next(iter(self._kept))]
            self._kept[length] = made
            await self._note(Logged(now, length, time.monotonic() - began, len(made.gpus), len(made.low)))
            return made

    async def _note(self, entry: Logged) -> None:
        self.log.append(entry)
        if self.journal is not None:
            try:
                await asyncio.to_thread(self.journal.add_analysis, AnalysisEntry(*entry))
            except HistoryError as error:
                log.warning("what was worked out is not written down: %s", error)
        log.info(
            "results worked out" if not entry.error else "results could not be worked out",
            extra={
                "window_seconds": round(entry.window),
                "gpus": entry.gpus,
                "low": entry.low,
                **({"why": entry.error} if entry.error else {}),
            },
        )


# --- documents --------------------------------------------------------------------------------------------------------


def result_document(result: Result) -> dict[str, Any]:
    """One row; what is not known is absent."""
    told: dict[str, Any] = {
        "node": result.node,
        "gpu": result.index,
        "uuid": result.uuid,
        "model": result.model,
        "simulated": is_simulated(result.uuid) or None,
        "status": result.grade,
        "score": _rounded(result.score),
        "held_hours": round(result.held_hours, 4),
        "active_hours": round(result.active_hours, 4),
        "idle_hours": round(result.idle_hours, 4),
        "unknown_hours": round(result.unknown_hours, 4),
        "free_hours": round(result.free_hours, 4),
        "down_hours": round(result.down_hours, 4),
        "energy_kilowatt_hours": _rounded(result.energy_kwh),
    }
    if result.owner is not None:
        told |= dict(zip(("owner_kind", "owner", "namespace"), result.owner, strict=True))
    return {name: value for name, value in told.items() if value is not None and value != ""}


def results_document(analysis: Analysis, results: Sequence[Result]) -> dict[str, Any]:
    """The window, and these rows."""
    return {**_window(analysis), "results": [result_document(one) for one in results]}


def stats_document(analysis: Analysis, *, price: float | None, currency: str) -> dict[str, Any]:
    """What it all adds up to; a price makes it money."""
    scores = [one.score for one in analysis.gpus if one.score is not None]
    idle = sum(one.idle_hours for one in analysis.holds)
    told: dict[str, Any] = {
        **_window(analysis),
        "gpus": len(analysis.gpus),
        "holds": len(analysis.holds),
        "statuses": {name: sum(one.grade == name for one in analysis.holds) for name in GRADES},
        "score": {
            "min": _rounded(min(scores, default=None)),
            "mean": _rounded(sum(scores) / len(scores)) if scores else None,
            "max": _rounded(max(scores, default=None)),
        },
        "held_hours": round(sum(one.held_hours for one in analysis.holds), 4),
        "active_hours": round(sum(one.active_hours for one in analysis.holds), 4),
        "idle_hours": round(idle, 4),
        "free_hours": round(sum(one.free_hours for one in analysis.gpus), 4),
        "down_hours": round(sum(one.down_hours for one in analysis.gpus), 4),
    }
    if price is not None:
        told |= {"idle_cost": round(idle * price, 2), "currency": currency}
    return told


def log_document(results: Results) -> dict[str, Any]:
    """Which analyses there were, the newest first."""
    entries = [
        {
            "timestamp_seconds": round(one.at, 3),
            "window_seconds": one.window,
            "duration_seconds": round(one.seconds, 3),
            "gpus": one.gpus,
            "low": one.low,
            **({"error": one.error} if one.error else {}),
        }
        for one in reversed(results.log)
    ]
    return {"log": entries}


def _window(analysis: Analysis) -> dict[str, Any]:
    return {
        "timestamp_seconds": round(analysis.made, 3),
        "start_timestamp_seconds": round(analysis.start, 3),
        "end_timestamp_seconds": round(analysis.end, 3),
        "covered_seconds": round(analysis.covered, 1),
        "source": analysis.source,
        "simulated": any(is_simulated(one.uuid) for one in analysis.gpus),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
