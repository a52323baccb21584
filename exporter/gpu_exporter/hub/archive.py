"""What was: the hub's own history file, or a Prometheus that scrapes the same machines. Asked on threads alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from gpu_exporter.history import HistoryError
from gpu_exporter.history.reader import METRICS, Reader
from gpu_exporter.history.usage import usage
from gpu_exporter.hub.settings import Weights
from gpu_exporter.hub.weighted import scores
from gpu_exporter.model import Owner
from gpu_exporter.report.client import Access, Client, ReportError
from gpu_exporter.report.history import Grid, History

CHARTS: Final[Mapping[str, str]] = {
    "gpu_utilization_ratio": "Utilization",
    "gpu_memory_used_bytes": "Memory",
    "gpu_temperature_celsius": "Temperature",
    "gpu_power_watts": "Power",
}
_MOST_POINTS: Final = 11_000  # what Prometheus answers at most


USUAL: Final = Weights()


class ArchiveError(Exception):
    """There is no answer; the message is one line for the person who asked."""


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

    def curve(self, gpu: GpuKey, metric: str, *, start: float, end: float, step: float) -> Curve:
        """One metric of METRICS of a GPU."""

    def totals(self, start: float, end: float) -> Totals:
        """What became of all GPUs' time."""

    def close(self) -> None:
        """Let go of it."""


class FileArchive:
    """The history file that this hub writes."""

    def __init__(self, path: Path, *, weights: Weights = USUAL) -> None:
        self.name = path.name
        self.weights = weights
        try:
            self._reader = Reader(path)
        except HistoryError as error:
            raise ArchiveError(str(error)) from None

    def curve(self, gpu: GpuKey, metric: str, *, start: float, end: float, step: float) -> Curve:
        """See Archive."""
        if metric not in METRICS:
            raise ArchiveError(f"metric: '{metric}' is not kept; write one of {', '.join(METRICS)}")
        try:
            found = [one for one in self._reader.gpus() if (one.node, one.number) == gpu[:2]]
            same = [one for one in found if one.uuid == gpu.uuid] or found
            if not same:
                raise ArchiveError("the history has nothing of this GPU yet")
            series = self._reader.series(same[0], metric, start=start, end=end, step=step)
        except HistoryError as error:
            raise ArchiveError(str(error)) from None
        except ValueError as error:
            raise ArchiveError(f"from, to, step: {error}") from None
        return Curve(series.start, series.step, series.unit, series.means, series.highs)

    def totals(self, start: float, end: float) -> Totals:
        """See Archive."""
        try:
            found = usage(self._reader, start=start, end=end)
            own = {} if self.weights == USUAL else scores(self._reader, self.weights, start=start, end=end)
        except HistoryError as error:
            raise ArchiveError(str(error)) from None
        usual = self.weights == USUAL
        whole = [
            Total(
                one.gpu.node, one.gpu.number, one.gpu.uuid, one.gpu.model, None, one.states, one.joules,
                _mean(one.score, one.scored) if usual else own.get((one.gpu.id, None)),
            )
            for one in found.gpus
        ]  # fmt: skip
        held = [
            Total(
                one.gpu.node, one.gpu.number, one.gpu.uuid, one.gpu.model, one.owner, one.states, one.joules,
                _mean(one.score, one.scored) if usual else own.get((one.gpu.id, one.owner)),
            )
            for one in found.holds
        ]  # fmt: skip
        return Totals(start, end, found.covered, (*whole, *held))

    def close(self) -> None:
        """See Archive."""
        self._reader.close()


class PrometheusArchive:
    """A Prometheus, or what speaks its API: Thanos, Mimir, VictoriaMetrics."""

    def __init__(self, access: Access) -> None:
        self.name = "Prometheus"
        self._client = Client(access)

    def curve(self, gpu: GpuKey, metric: str, *, start: float, end: float, step: float) -> Curve:
        """See Archive."""
        if metric not in CHARTS:
            raise ArchiveError(f"metric: '{metric}' cannot be asked for; write one of {', '.join(CHARTS)}")
        if not end > start or (end - start) / step > _MOST_POINTS:
            raise ArchiveError("from, to, step: ask for a later end, or a longer step")
        chosen = f'{metric}{{uuid="{_quoted(gpu.uuid)}",gpu="{gpu.number}"}}'
        window = f"[{max(round(step), 1)}s]"
        count = int((end - start) // step)
        columns = []
        for function in ("avg_over_time", "max_over_time"):
            try:
                # HA pairs and replicas tell the same GPU more than once.
                series = self._client.range(
                    f"max(max by (instance) ({function}({chosen}{window})))", start=start + step, end=end, step=step
                )
            except ReportError as error:
                raise ArchiveError(str(error)) from None
            points = {round((at - start) / step) - 1: value for one in series for at, value in one.points}
            columns.append([points.get(place) for place in range(count)])
        unit = metric.rpartition("_")[2]
        return Curve(start, step, unit, columns[0], columns[1])

    def totals(self, start: float, end: float) -> Totals:
        """See Archive."""
        try:
            found = History(self._client, Grid.of(end - start, end))
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


def _who(gpu: object, name: tuple[str, str]) -> tuple[str, int, str, str]:
    index = str(getattr(gpu, "gpu", ""))
    return name[0], int(index) if index.isascii() and index.isdecimal() else -1, str(getattr(gpu, "uuid", "")), name[1]


def _mean(score: float, scored: float) -> float | None:
    return score / scored if scored > 0 else None


def _quoted(text: str) -> str:
    """Text between the quotes of PromQL."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
