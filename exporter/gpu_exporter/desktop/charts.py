"""Curves of a GPU: the last hour as it was seen, or what a hub keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeAlias

import pyqtgraph as graph
from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QColor, QResizeEvent
from PySide6.QtWidgets import QGridLayout, QWidget

from gpu_exporter.desktop.theme import Colours, colours
from gpu_exporter.hub.client.client import Curve
from gpu_exporter.hub.client.trails import Point
from gpu_exporter.hub.state import Gpu

Points: TypeAlias = Sequence[tuple[float, float | None]]

HOUR: Final = 3600.0  # seconds
_USUAL: Final = 60.0  # seconds between points, where there is one alone
_SMALLEST: Final = (200, 100)  # pixels of a chart
_BESIDE: Final = 560  # pixels from which on two stand beside one another
_SPACE: Final = 8  # pixels between them
_DOT: Final = 5  # pixels of a point that no line leads to
_GAP: Final = 3.0  # times the usual distance of points, from which on a line is broken


@dataclass(frozen=True, slots=True)
class Measure:
    """One chart: ``point`` takes its value from a trail, ``scale`` turns a hub's value into the unit that is drawn."""

    metric: str
    title: str
    unit: str
    point: Callable[[Point], float | None]
    scale: Callable[[float, Gpu], float]
    limit: Callable[[Gpu], float | None]
    top: float


def _share_of_memory(value: float, gpu: Gpu) -> float:
    return 100 * value / gpu.memory_total if gpu.memory_total else math.nan


MEASURES: Final = (
    Measure(
        "gpu_utilization_ratio", "Utilization", "%",
        lambda point: None if point.utilization is None else 100 * point.utilization,
        lambda value, _gpu: 100 * value, lambda _gpu: None, 100.0,
    ),
    Measure(
        "gpu_memory_used_bytes", "Memory", "%",
        lambda point: None if point.memory is None else 100 * point.memory,
        _share_of_memory, lambda _gpu: None, 100.0,
    ),
    Measure(
        "gpu_temperature_celsius", "Temperature", "°C",
        lambda point: point.temperature, lambda value, _gpu: value, lambda gpu: gpu.temperature_limit, 100.0,
    ),
    Measure(
        "gpu_power_watts", "Power", "W",
        lambda point: point.power, lambda value, _gpu: value, lambda gpu: gpu.power_limit, 50.0,
    ),
)  # fmt: skip


def joined(*parts: Points) -> tuple[list[float], list[float]]:
    """Times and values; where nothing was known, or nothing was seen for long, the line is broken (by NaN).

    Each part has a distance of points that is usual in it.
    """
    times: list[float] = []
    values: list[float] = []
    for points in parts:
        steps = sorted(later[0] - earlier[0] for earlier, later in pairwise(points))
        usual = steps[len(steps) // 2] if steps else _USUAL
        for at, value in points:
            if times and at - times[-1] > _GAP * max(usual, 1.0):
                times.append(times[-1])
                values.append(math.nan)
            times.append(at)
            values.append(math.nan if value is None else value)
    return times, values


def alone(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Those of such a line's points that nothing is drawn to, as nothing is known before and after them."""
    around = [math.nan, *values, math.nan]
    found = [
        place
        for place, value in enumerate(values)
        if not math.isnan(value) and math.isnan(around[place]) and math.isnan(around[place + 2])
    ]
    return [times[place] for place in found], [values[place] for place in found]


class _Chart(graph.PlotWidget):  # type: ignore[misc]
    """One of them. Its words are ours alone: pyqtgraph would take them for HTML."""

    def __init__(self, measure: Measure) -> None:
        super().__init__(axisItems={"bottom": graph.DateAxisItem()})
        self._measure = measure
        self._told = ""
        item = self.getPlotItem()
        item.hideButtons()
        item.setMenuEnabled(False)
        item.setMouseEnabled(x=False, y=False)
        item.showGrid(y=True, alpha=0.15)
        item.getAxis("left").setWidth(44)
        self._line = item.plot(connect="finite")
        self._dots = graph.ScatterPlotItem(size=_DOT, pen=None)
        item.addItem(self._dots)
        self._limit = graph.InfiniteLine(angle=0)
        self._limit.hide()
        item.addItem(self._limit)
        self.setMinimumHeight(_SMALLEST[1])
        self.setAccessibleName(measure.title)
        for part in (self, self.viewport()):  # there is nothing in it that keys could do
            part.setFocusPolicy(Qt.FocusPolicy.NoFocus)

    def wheelEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Let the wheel scroll what lies around."""
        event.ignore()

    def draw(self, kept: Points, own: Points, gpu: Gpu | None, span: tuple[float, float]) -> None:
        """Draw what a hub kept, then what was seen here, of that time (Unix seconds)."""
        times, values = joined(kept, own)
        self._line.setData(times, values)
        self._dots.setData(*alone(times, values))
        known = [value for value in values if not math.isnan(value)]
        limit = None if gpu is None else self._measure.limit(gpu)
        self._limit.setVisible(limit is not None)
        if limit is not None:
            self._limit.setValue(limit)
        item = self.getPlotItem()
        item.setXRange(*span, padding=0)
        item.setYRange(0, max([self._measure.top, *known, *([] if limit is None else [limit])]) * 1.05, padding=0)
        unit = self._measure.unit
        now = "n/a" if not own or own[-1][1] is None else f"{own[-1][1]:.0f} {unit}"
        most = f", highest {max(known):.0f} {unit}" if known else ""
        bound = f", limit {limit:.0f} {unit}" if limit is not None else ""
        self._told = f"{self._measure.title}: {now}{most}{bound}"
        item.setTitle(self._told, size="9pt", color=self._ink)
        self.setAccessibleDescription(self._told)

    def use(self, theme: Colours) -> None:
        """Draw in these colours."""
        self._ink = theme.text
        self.setBackground(QColor(theme.panel))
        self._line.setPen(graph.mkPen(theme.fill, width=1.6))
        self._dots.setBrush(graph.mkBrush(theme.fill))
        self._limit.setPen(graph.mkPen(theme.severities["critical"], width=1.2, style=Qt.PenStyle.DashLine))
        item = self.getPlotItem()
        for side in ("left", "bottom"):
            item.getAxis(side).setPen(graph.mkPen(theme.line))
            item.getAxis(side).setTextPen(graph.mkPen(theme.dim))
        item.setTitle(self._told, size="9pt", color=self._ink)


class Charts(QWidget):
    """Four curves of one GPU, or as many of them as there is room for; those that come first are asked for most."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._charts = {measure.metric: _Chart(measure) for measure in MEASURES}
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(_SPACE)
        self.setMinimumSize(*_SMALLEST)
        self._arrange(QSize(2 * _BESIDE, 2 * _BESIDE))
        self.retheme(colours(self.palette()))

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """See Qt."""
        super().resizeEvent(event)
        self._arrange(event.size())

    def _arrange(self, room: QSize) -> None:
        """Two beside one another where that leaves their titles whole, and as many rows as fit."""
        columns = 2 if room.width() >= _BESIDE else 1
        rows = max(1, (room.height() + _SPACE) // (_SMALLEST[1] + _SPACE))
        for number, chart in enumerate(self._charts.values()):
            self._grid.addWidget(chart, number // columns, number % columns)
            chart.setVisible(number < columns * rows)

    def retheme(self, theme: Colours) -> None:
        """Draw in these colours from now on."""
        for chart in self._charts.values():
            chart.use(theme)

    def draw(
        self, gpu: Gpu | None, trail: Sequence[Point], history: dict[str, Curve], *, start: float, end: float
    ) -> None:
        """Draw what a hub kept until our own trail begins, and the trail; of a longer time, what the hub kept alone."""
        for measure in MEASURES:
            seen = [(point.at, measure.point(point)) for point in trail]
            own = [(at, value) for at, value in seen if at >= start] if end - start <= HOUR else seen[-1:]
            curve = history.get(measure.metric)
            until = own[0][0] if own else math.inf
            kept: list[tuple[float, float | None]] = []
            if curve is not None and gpu is not None:
                for place, mean in enumerate(curve.means):
                    at = curve.start + (place + 0.5) * curve.step
                    if start <= at < until:
                        kept.append((at, None if mean is None else measure.scale(mean, gpu)))
            self._charts[measure.metric].draw(kept, own, gpu, (start, end))
