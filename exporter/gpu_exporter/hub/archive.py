"""What was: the hub's own history file, or a Prometheus that scrapes the same machines. Asked on threads alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Final, NamedTuple, Protocol

from gpu_exporter.config.parsers import quoted
from gpu_exporter.history import HistoryError
from gpu_exporter.history.document import STATES
from gpu_exporter.history.reader import METRICS, Reader
from gpu_exporter.history.recorder import GRACE
from gpu_exporter.history.usage import usage
from gpu_exporter.hub.settings import Weights
from gpu_exporter.model import Owner
from gpu_exporter.report.client import Access, Client, ReportError
from gpu_exporter.report.history import Grid, History

CHARTS: Final[Mapping[str, str]] = {
    "gpu_utilization_ratio": "Utilization",
    "gpu_memory_used_bytes": "Memory",
    "gpu_temperature_celsius": "Temperature",
    "gpu_power_watts": "Power",
}
_WHEN: Final = f"a minute is written {GRACE:.0f} s after its end"
_AS_COUNTED: Final = Weights()
MOST_POINTS: Final = 11_000  # of a curve; what Prometheus answers at most


class ArchiveError(Exception):
    """There is no answer; the message is one line for the person who asked."""


class QuestionError(ArchiveError):
    """What was asked for cannot be told; the message has what is accepted."""


class NothingYetError(ArchiveError):
    """Nothing is known of this GPU."""


class GpuKey(NamedTuple):
    """What tells a GPU apart."""

    node: str
    number: int
    uuid: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric every ``step`` seconds from ``start`` on; None is a gap, in which nobody looked."""

    start: float
    step: float
    unit: str
    means: list[float | None]
    highs: list[float | None]


@dataclass(frozen=True, slots=True)
class Total:
    """What became of a GPU's time with one owner; None is the whole GPU. Seconds, joules; ``score`` is a mean."""

    node: str
    index: int
    uuid: str
    model: str
    owner: Owner | None
    states: Mapping[str, float]
    joules: float | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything of a window; ``covered`` are the seconds of it in which anything was looked at."""

    start: float
    end: float
    covered: float
    totals: tuple[Total, ...]


class Archive(Protocol):
    """Where history comes from. Every method may wait, from any thread, and raises ArchiveError."""

    name: str
    metrics: Collection[str]
    weights: Weights  # of the score in ``totals``

    def find(self, node: str, name: str) -> GpuKey | None:
        """A GPU that was there once, by UUID, or by its index on a machine; None where nothing is known of it."""

    def curve(self, gpu: GpuKey, metric: str, *, start: float, end: float, step: float) -> Curve:
        """One of ``metrics`` of a GPU. Raises QuestionError too, and NothingYetError."""

    def totals(self, start: float, end: float) -> Totals:
        """What became of all GPUs' time."""

    def close(self) -> None:
        """Let go of it."""


class FileArchive:
    """The history file that this hub writes."""

    metrics: Collection[str] = METRICS.keys()

    def __init__(self, path: Path, *, weights: Weights = _AS_COUNTED) -> None:
        self.name = path.name
        self.weights = weights
        try:
            self._reader = Reader(path)
        except HistoryError as error:
            raise ArchiveError(str(error)) from None

    def find(self, node: str, name: str) -> GpuKey | None:
        """See Archive."""
        try:
            known = self._reader.gpus()
        except HistoryError as error:
            raise ArchiveError(str(error)) from None
        for one in known:
            if (not node or one.node == node) and name in ((one.uuid, str(one.number)) if node else (one.uuid,)):
                return GpuKey(one.node, one.number, one.uuid)
        return None

    def seen(self) -> Mapping[str, float]:
        """When each machine answered last, to the minute (Unix time). Raises ArchiveError."""
        try:
            return {node.alias: float(node.last_seen) for node in self._reader.nodes()}
        except HistoryError as error:
            raise ArchiveError(str(error)) from None

    def curve(self, gpu: GpuKey, metric: str, *, start: float, end: float, step: float) -> Curve:
        """See Archive."""
        _check(self.metrics, metric, start, end, step)
        try:
            found = [one for one in self._reader.gpus() if (one.node, one.number) == gpu[:2]]
            same = [one for one in found if one.uuid == gpu.uuid] or found
            if not same:
                raise NothingYetError(f"the history has nothing of this GPU yet; {_WHEN}")
            series = self._reader.series(same[0], metric, start=start, end=end, step=step)
        except HistoryError as error:
            raise ArchiveError(str(error)) from None
        return Curve(series.start, series.step, series.unit, series.means, series.highs)

    def totals(self, start: float, end: float) -> Totals:
        """See Archive."""
        try:
            found = usage(self._reader, start=start, end=end)
        except HistoryError as error:
            raise ArchiveError(str(error)) from None
        own = _own(self.weights)
        whole = [
            Total(
                one.gpu.node, one.gpu.number, one.gpu.uuid, one.gpu.model, None, one.states, one.joules,
                _mean(one.score, one.scored) if own is None else one.weighted(own),
            )
            for one in found.gpus
        ]  # fmt: skip
        held = [
            Total(
                one.gpu.node, one.gpu.number, one.gpu.uuid, one.gpu.model, one.owner, one.states, one.joules,
                _mean(one.score, one.scored) if own is None else one.weighted(own),
            )
            for one in found.holds
        ]  # fmt: skip
        return Totals(start, end, found.covered, (*whole, *held))

    def close(self) -> None:
        """See Archive."""
        self._reader.close()


def _gauge(selector: str) -> tuple[str, str | None]:
    """Mean and maximum of a gauge over the step, of one scrape of the GPU."""
    return f"avg_over_time({selector}[$step])", f"max_over_time({selector}[$step])"


def _share(selector: str) -> tuple[str, str | None]:
    """The share of the time that a counter of seconds grew by."""
    return f"sum by (instance) (rate({selector}[$rate]))", None


# Of what a history file keeps: PromQL for the mean and the highest. $gpu are the GPU's matchers, $step is the step, and
# $rate no shorter than what has two scrapes in it for certain.
_QUERIES: Final[Mapping[str, tuple[str, str | None]]] = {
    "gpu_utilization_ratio": _gauge("gpu_utilization_ratio{$gpu}"),
    "gpu_memory_io_utilization_ratio": _gauge("gpu_memory_io_utilization_ratio{$gpu}"),
    "gpu_memory_used_bytes": _gauge("gpu_memory_used_bytes{$gpu}"),
    "gpu_temperature_celsius": _gauge("gpu_temperature_celsius{$gpu}"),
    "gpu_power_watts": _gauge("gpu_power_watts{$gpu}"),
    "gpu_energy_joules": ("rate(gpu_energy_joules_total{$gpu}[$rate]) * $seconds", None),
    "gpu_sm_clock_hertz": _gauge('gpu_clock_hertz{clock="sm",$gpu}'),
    "gpu_slowed_ratio": _share('gpu_clock_event_seconds_total{reason=~"hw_slowdown|sw_thermal_slowdown",$gpu}'),
    "gpu_score_ratio": (
        "rate(gpu_score_seconds_total{$gpu}[$rate]) or avg_over_time(instance_gpu:gpu_score:ratio{$gpu}[$rate])",
        None,
    ),
    "gpu_processes": ("sum by (instance) (avg_over_time(gpu_processes{$gpu}[$step]))", None),
    **{f"gpu_{state}_ratio": _share(f'gpu_state_seconds_total{{state="{state}",$gpu}}') for state in STATES},
}
_SHORTEST_RATE: Final = 300  # seconds, as in the rules


class PrometheusArchive:
    """A Prometheus, or what speaks its API."""

    metrics: Collection[str] = _QUERIES.keys()

    def __init__(self, access: Access, *, weights: Weights = _AS_COUNTED) -> None:
        self.name = "Prometheus"
        self.weights = weights
        self._client = Client(access)

    def find(self, node: str, name: str) -> GpuKey | None:
        """See Archive. A Prometheus is asked by UUID and index alone, which are not known of a GPU that is gone."""
        return None

    def curve(self, gpu: GpuKey, metric: str, *, start: float, end: float, step: float) -> Curve:
        """See Archive."""
        _check(self.metrics, metric, start, end, step)
        # On a grid that VictoriaMetrics does not move: it moves others, to cache them.
        count, start = int((end - start) // step), start // step * step
        seconds = max(round(step), 1)
        words = {
            "gpu": f'uuid="{_quoted(gpu.uuid)}",gpu="{gpu.number}"',
            "step": f"{seconds}s",
            "rate": f"{max(seconds, _SHORTEST_RATE)}s",
            "seconds": str(seconds),
        }
        columns: list[list[float | None]] = []
        for query in _QUERIES[metric]:
            if query is None:
                columns.append([None] * count)
                continue
            # HA pairs and replicas tell the same GPU more than once.
            asked = f"max(max by (instance) ({Template(query).substitute(words)}))"
            try:
                series = self._client.range(asked, start=start + step, end=start + count * step, step=step)
            except ReportError as error:
                raise ArchiveError(str(error)) from None
            points = {round((at - start) / step) - 1: value for one in series for at, value in one.points}
            columns.append([points.get(place) for place in range(count)])
        return Curve(start, step, METRICS[metric].unit, columns[0], columns[1])

    def totals(self, start: float, end: float) -> Totals:
        """See Archive."""
        try:
            found = History(self._client, Grid.of(end - start, end), weights=_own(self.weights))
        except ReportError as error:
            raise ArchiveError(str(error)) from None
        names = {key: (one.host or one.gpu.instance, one.model) for key, one in found.gpus.items()}
        whole = [
            Total(*_who(one.gpu, names[key]), None, one.states, one.joules, _mean(one.score, one.scored))
            for key, one in found.gpus.items()
        ]
        held = [
            Total(
                *_who(one.gpu, names.get(key[:4], (one.gpu.instance, ""))), one.owner, one.states, one.joules,
                _mean(one.score, one.scored),
            )
            for key, one in found.holds.items()
        ]  # fmt: skip
        return Totals(start, end, found.covered, (*whole, *held))

    def close(self) -> None:
        """See Archive."""


def _check(metrics: Collection[str], metric: str, start: float, end: float, step: float) -> None:
    """Raise QuestionError for a curve that nobody can draw."""
    if metric not in metrics:
        raise QuestionError(f"metric: {quoted(metric)} is not kept; write one of {', '.join(metrics)}")
    if not end > start:
        raise QuestionError("from, to: the window ends before it begins; write an earlier from, or a later to")
    if (end - start) / step > MOST_POINTS:
        least = f"{math.ceil((end - start) / MOST_POINTS / 60)}m"
        raise QuestionError(
            f"step: {(end - start) / step:.0f} points are too many; write {least} or longer, or a shorter window"
        )


def _who(gpu: object, name: tuple[str, str]) -> tuple[str, int, str, str]:
    index = str(getattr(gpu, "gpu", ""))
    return name[0], int(index) if index.isascii() and index.isdecimal() else -1, str(getattr(gpu, "uuid", "")), name[1]


def _own(weights: Weights) -> Mapping[str, float] | None:
    """Weights that are not those of the score that the exporter counts; None where they are."""
    return None if weights == _AS_COUNTED else asdict(weights)


def _mean(score: float, scored: float) -> float | None:
    return score / scored if scored > 0 else None


def _quoted(text: str) -> str:
    """Text between the quotes of PromQL."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
