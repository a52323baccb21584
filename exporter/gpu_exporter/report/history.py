"""What happened within the window: time held, energy and score by GPU and holder, from a Prometheus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from gpu_exporter.catalog.score import USUAL
from gpu_exporter.model import Owner
from gpu_exporter.report.client import Client, ReportError, Series
from gpu_exporter.report.coverage import Coverage
from gpu_exporter.report.growth import Meter, Point, Raw
from gpu_exporter.report.slices import Key, PerChunk, Slice

STATE_SECONDS: Final = "gpu_state_seconds_total"
OWNER_SECONDS: Final = "gpu_owner_seconds_total"
ENERGY: Final = "gpu_energy_joules_total"
MEMORY_USED: Final = ("gpu_memory_used_bytes", "gpu_memory_total_bytes")
POWER_LIMIT: Final = "gpu_power_limit_watts"
# What the exporter has integrated itself; older ones have not.
SCORE: Final = "gpu_score_seconds_total"
OWNER_SCORE: Final = "gpu_owner_score_seconds_total"
OWNER_ENERGY: Final = "gpu_owner_energy_joules_total"
_OWNER: Final = ("owner_kind", "owner", "namespace")
# What a counter is the integral of; the gauge stands in for a GPU without the counter.
GAUGES: Final = {
    "gpu_busy_seconds_total": "gpu_utilization_ratio",
    "gpu_memory_io_busy_seconds_total": "gpu_memory_io_utilization_ratio",
    ENERGY: "gpu_power_watts",
}
# VictoriaMetrics moves the grid of an answer with 50 points or more, to cache it.
_SLICE: Final = 48


@dataclass(frozen=True, slots=True)
class Grid:
    """The window, cut into ``count`` chunks of ``step`` seconds that end at ``end`` (unix seconds).

    Chunk k ends at ``time(k)``; chunk 0 lies before the window, and tells the values to start from.
    """

    end: float
    step: float
    count: int

    @classmethod
    def of(cls, window: float, end: float) -> Grid:
        """Chunks of 2 to 15 minutes, 288 of them where that fits (24 h: 5 min)."""
        step = min(max(window / 288, 120.0), 900.0)
        count = max(round(window / step), 1)
        return cls(end, round(window / count, 3), count)

    @property
    def window(self) -> float:
        """Seconds."""
        return self.step * self.count

    def time(self, chunk: int) -> float:
        """Where the chunk ends, in unix seconds."""
        return self.end - (self.count - chunk) * self.step

    def chunk(self, time: float) -> int:
        """The chunk that ends nearest to that time."""
        return self.count - round((self.end - time) / self.step)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the scrapes name it."""

    cluster: str
    instance: str
    gpu: str
    uuid: str


@dataclass(slots=True)
class GpuUsage:
    """What became of one GPU's time. Seconds by state; joules; the score summed over scored seconds.

    ``covered`` is seconds for which there is data.
    """

    gpu: Gpu
    host: str
    model: str
    states: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    joules: float | None = None
    score: float = 0.0
    scored: float = 0.0
    covered: float = 0.0
    # Of the seconds in state "unknown", those in which it is known who held the GPU.
    unknown_held: float = 0.0


@dataclass(slots=True)
class Hold:
    """One owner's share of one GPU; otherwise as GpuUsage."""

    gpu: Gpu
    owner: Owner
    states: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    joules: float | None = None
    score: float = 0.0
    scored: float = 0.0


class History:
    """Reads the window slice by slice; ``gpus``, ``holds`` and ``covered`` (seconds with any data) are the result.

    ``match`` narrows every query (PromQL label matchers without braces). The score is the one that the exporter counts
    or, with ``weights`` of its parts (catalog/score.py), made anew of what it counts of each. Raises ReportError.
    """

    def __init__(
        self, client: Client, grid: Grid, *, match: str = "", weights: Mapping[str, float] | None = None
    ) -> None:
        self.gpus: dict[Key, GpuUsage] = {}
        self.holds: dict[Key, Hold] = {}
        self.grid = grid
        self._client, self._match, self._weights = client, match, weights
        self._meters: defaultdict[tuple[str, Key], Meter] = defaultdict(Meter)
        # When each GPU was first seen, and for how long its exporter had counted by then.
        self._first: dict[Key, tuple[int, float]] = {}
        self._latest: dict[Key, int] = {}
        self._least: dict[Key, float] = {}
        self._was_down: set[Key] = set()  # since its own counters were seen last
        self._coverage = Coverage(grid.step)
        for first in range(0, grid.count + 1, _SLICE):
            self._read(first, min(first + _SLICE - 1, grid.count))
        seconds, self.covered = self._coverage.close()
        self.gpus = {key: usage for key, usage in self.gpus.items() if key in seconds}
        for key, usage in self.gpus.items():
            usage.covered = seconds[key]
        if not self.gpus:
            where = f"{{{match}}}" if match else ""
            raise ReportError(
                f"{client.url}: has no {STATE_SECONDS}{where} within the window; "
                "is the exporter scraped, and does it keep accounts?"
            )

    # --- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, expression: str, first: int, last: int) -> list[Series]:
        grid = self.grid
        return self._client.range(expression, start=grid.time(first), end=grid.time(last), step=grid.step)

    def _over(self, function: str, name: str, offset: str = "") -> str:
        selector = f"{name}{{{self._match}}}" if self._match else name
        return f"{function}({selector}[{round(self.grid.step * 1000)}ms]{offset})"

    def _points(self, name: str, labels: tuple[str, ...], first: int, last: int, *, exact: bool) -> _Found:
        """What every series of the counter did; ``exact`` asks where it fell or began, too."""
        final = self._over("last_over_time", name)
        series = self._ask(final, first, last)
        if not exact:
            return self._gather(series, labels, {}, {})
        # Both answers are short: they hold the chunks only in which something fell or began.
        low = self._over("min_over_time", name)
        before = self._over("last_over_time", name, f" offset {round(self.grid.step * 1000)}ms")
        highs = self._ask(f"{self._over('max_over_time', name)} > {final}", first, last)
        lows = self._ask(f"{low} unless ({low} >= {before})", first, last)
        return self._gather(series, labels, self._by_raw(highs), self._by_raw(lows))

    def _by_raw(self, series: Iterable[Series]) -> dict[Raw, dict[int, float]]:
        chunk = self.grid.chunk
        return {frozenset(one.labels.items()): {chunk(at): value for at, value in one.points} for one in series}

    def _gather(
        self,
        series: Iterable[Series],
        labels: tuple[str, ...],
        highs: Mapping[Raw, Mapping[int, float]],
        lows: Mapping[Raw, Mapping[int, float]],
    ) -> _Found:
        found: _Found = defaultdict(lambda: defaultdict(dict))
        for one in series:
            raw = frozenset(one.labels.items())
            high, low = highs.get(raw, {}), lows.get(raw, {})
            chunks = found[_key(one.labels, labels)]
            for at, value in one.points:
                chunk = self.grid.chunk(at)
                chunks[chunk][raw] = Point(value, high.get(chunk), low.get(chunk))
        return found

    def _mean(self, expression: str, first: int, last: int) -> PerChunk:
        """A gauge by GPU and chunk."""
        result: PerChunk = defaultdict(dict)
        for one in self._ask(expression, first, last):
            chunks = result[_key(one.labels, ())]
            chunks.update((self.grid.chunk(at), value) for at, value in one.points)
        return result

    # --- adding up ----------------------------------------------------------------------------------------------------

    def _read(self, first: int, last: int) -> None:
        """Add one slice."""
        found = self._points(STATE_SECONDS, ("state",), first, last, exact=True)
        present, gaps = self._note_gpus(found)
        counted: PerChunk = {gpu: dict.fromkeys(chunks, 0.0) for gpu, chunks in present.items()}
        observed: PerChunk = defaultdict(lambda: defaultdict(float))
        used: PerChunk = defaultdict(lambda: defaultdict(float))
        down: PerChunk = defaultdict(dict)
        for key, chunk, growth in self._grown(STATE_SECONDS, found, exact=True):
            self.gpus[key[:4]].states[key[4]] += growth
            counted[key[:4]][chunk] += growth
            if key[4] != "down":
                observed[key[:4]][chunk] += growth
            elif growth:
                down[key[:4]][chunk] = growth
            if key[4] in {"active", "idle_held"}:
                used[key[:4]][chunk] += growth
        for gpu, chunks in counted.items():
            self._coverage.add(gpu, sorted(chunks.items()))
        part = self._slice(observed, down, gaps, first, last)
        for key, usage in self.gpus.items():
            for chunk, seconds in observed[key].items():
                _add(usage, seconds, part.score(key, chunk, seconds), part.joules[key].get(chunk))
        self._add_holds(part, used, first, last)

    def _slice(self, observed: PerChunk, down: PerChunk, gaps: PerChunk, first: int, last: int) -> Slice:
        used, total = (self._over("avg_over_time", name) for name in MEMORY_USED)
        joules = self._quantity(ENERGY, observed, first, last, down=down)
        for gpu, chunks in joules.items():
            watts = [drawn / observed[gpu][chunk] for chunk, drawn in chunks.items() if observed[gpu].get(chunk, 0) > 0]
            self._least[gpu] = min([*watts, self._least.get(gpu, float("inf"))])
        scores: PerChunk = defaultdict(dict)
        if self._weights is None:
            points = self._points(SCORE, (), first, last, exact=False)
            for gpu, chunk, growth in self._grown(SCORE, points, exact=False):
                scores[gpu][chunk] = growth
        # The parts are asked for where they are needed: of exporters that do not count the score as it is wanted.
        old = {gpu: chunks for gpu, chunks in observed.items() if not scores[gpu]}
        nothing: PerChunk = defaultdict(dict)
        return Slice(
            observed=observed,
            gaps=gaps,
            scores=scores,
            busy=self._quantity("gpu_busy_seconds_total", old, first, last) if old else nothing,
            memory_io=self._quantity("gpu_memory_io_busy_seconds_total", old, first, last) if old else nothing,
            memory=self._mean(f"{used} / {total}", first, last) if old else nothing,
            joules=joules,
            limits=self._mean(self._over("avg_over_time", POWER_LIMIT), first, last) if old else nothing,
            least_watts=self._least,
            weights=self._weights or USUAL,
        )

    def _note_gpus(self, found: _Found) -> tuple[PerChunk, PerChunk]:
        """Remember which GPUs there are and since when; what each has counted by when, and the gaps."""
        present: PerChunk = defaultdict(lambda: defaultdict(float))
        gaps: PerChunk = defaultdict(dict)
        for key, chunks in found.items():
            for chunk, series in chunks.items():
                present[key[:4]][chunk] += max(point.last for point in series.values())
            newest = dict(next(iter(chunks[max(chunks)])))
            usage = self.gpus.setdefault(key[:4], GpuUsage(Gpu(*key[:4]), "", ""))
            usage.host, usage.model = newest.get("alias") or key[1], newest.get("model", "")
        for gpu, counted in present.items():
            self._first.setdefault(gpu, (min(counted), counted[min(counted)]))
            for chunk in sorted(counted):
                before = self._latest.get(gpu, chunk)
                if chunk - before > 1:
                    gaps[gpu][chunk] = (chunk - before) * self.grid.step
                self._latest[gpu] = chunk
        return present, gaps

    def _grew_within(self, gpu: Key, chunk: int) -> bool:
        """Whether what a counter holds when it is first seen grew within the window.

        It did where the GPU was seen before without that counter, and where the exporter itself is that young.
        """
        first, age = self._first.get(gpu, (chunk, float("inf")))
        return first < chunk or age <= chunk * self.grid.step

    def _grown(self, name: str, found: _Found, *, exact: bool) -> Iterator[tuple[Key, int, float]]:
        """Growth by key and chunk of the window.

        The exporter's own counters begin with it, at zero, and count seconds: those grow no faster than time.
        """
        own, bounded = name != ENERGY, name not in {ENERGY, OWNER_ENERGY}
        for key, chunks in found.items():
            meter = self._meters[name, key]
            for chunk in sorted(chunks):
                fresh, since = meter.value is None, max(meter.chunk, 0)
                counts = fresh and own and self._grew_within(key[:4], chunk)
                growth = meter.advance(chunk, chunks[chunk], counts=counts)
                if chunk > 0 and (exact or counts or not fresh):
                    yield key, chunk, min(growth, (chunk - since + 1) * self.grid.step) if bounded else growth

    def _quantity(
        self, name: str, observed: PerChunk, first: int, last: int, *, down: PerChunk | None = None
    ) -> PerChunk:
        """Growth of a GPU's counter by chunk; where there is none, its gauge times the observed seconds.

        A device's own counter goes on while the GPU is lost: what it grew by over time ``down`` is not told, either.
        """
        result: PerChunk = defaultdict(dict)
        for key, chunk, growth in self._grown(name, self._points(name, (), first, last, exact=False), exact=False):
            result[key][chunk] = growth
        for gpu, chunk in self._lost(result, down or {}):
            del result[gpu][chunk]
        missing = {
            (gpu, chunk): seconds
            for gpu, chunks in observed.items()
            for chunk, seconds in chunks.items()
            if seconds > 0 and chunk not in result[gpu]
        }
        if missing:
            means = self._mean(self._over("avg_over_time", GAUGES[name]), first, last)
            for (gpu, chunk), seconds in missing.items():
                if (value := means[gpu].get(chunk)) is not None:
                    result[gpu][chunk] = value * seconds
        return result

    def _lost(self, grown: PerChunk, down: PerChunk) -> set[tuple[Key, int]]:
        """The chunks whose growth holds time in which the GPU was down."""
        lost = set()
        for gpu in self._was_down | down.keys():
            was_down = gpu in self._was_down
            for chunk in sorted(grown.get(gpu, {}).keys() | down.get(gpu, {}).keys()):
                was_down = was_down or chunk in down.get(gpu, {})
                if was_down and chunk in grown.get(gpu, {}):
                    lost.add((gpu, chunk))
                    was_down = False
            (self._was_down.add if was_down else self._was_down.discard)(gpu)
        return lost

    def _add_holds(self, part: Slice, used: PerChunk, first: int, last: int) -> None:
        """Add the holders' share of the slice."""
        found = self._points(OWNER_SECONDS, (*_OWNER, "state"), first, last, exact=True)
        grown = [row for row in self._grown(OWNER_SECONDS, found, exact=True) if row[0][:4] in self.gpus and row[2]]
        joules = self._of_owners(OWNER_ENERGY, first, last)
        scores: PerChunk = defaultdict(dict)
        if self._weights is None:
            scores = self._of_owners(OWNER_SCORE, first, last)
        together: PerChunk = defaultdict(lambda: defaultdict(float))
        for key, chunk, growth in grown:
            together[key[:4]][chunk] += growth
        for key, chunk, growth in grown:
            gpu, owner, state = key[:4], Owner(*key[4:7]), key[7]
            hold = self.holds.setdefault(key[:7], Hold(Gpu(*gpu), owner))
            hold.states[state] += growth
            if state == "unknown":
                self.gpus[gpu].unknown_held += growth
            # Somebody without a name may have held it as well.
            held = max(together[gpu][chunk], used[gpu].get(chunk, 0.0))
            if chunk not in joules[key[:7]] and (energy := part.energy(gpu, chunk, held)) is not None:
                _add(hold, growth, None, energy * growth / held)
            if state in {"active", "idle_held"}:
                if chunk in scores[key[:7]]:
                    hold.scored += growth
                else:
                    _add(hold, growth, part.score(gpu, chunk, held), None)
        for key, chunks in scores.items():
            if key in self.holds:
                self.holds[key].score += sum(chunks.values())
        for key, chunks in joules.items():
            if key in self.holds and chunks:
                _add(self.holds[key], 0.0, None, sum(chunks.values()))

    def _of_owners(self, name: str, first: int, last: int) -> PerChunk:
        """Growth of a counter that the exporter keeps of each owner."""
        result: PerChunk = defaultdict(dict)
        for key, chunk, growth in self._grown(name, self._points(name, _OWNER, first, last, exact=True), exact=True):
            result[key][chunk] = growth
        return result


_Found = defaultdict[Key, defaultdict[int, dict[Raw, Point]]]


def _key(labels: Mapping[str, str], names: tuple[str, ...]) -> Key:
    return tuple(labels.get(name, "") for name in ("cluster", "instance", "gpu", "uuid", *names))


def _add(usage: GpuUsage | Hold, seconds: float, score: float | None, joules: float | None) -> None:
    if score is not None:
        usage.score += score * seconds
        usage.scored += seconds
    if joules is not None:
        usage.joules = (usage.joules or 0.0) + joules
