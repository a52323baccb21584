"""GPUs as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gpu_exporter.hub.client.trails import Trails
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu
from gpu_exporter.hub.words import STATE_WORDS, called, gib, short_model, span
from gpu_exporter.top.cells import width
from gpu_exporter.top.lines import Line, Pen, Span, Tone
from gpu_exporter.top.look import Look
from gpu_exporter.top.table import Cells, Column, Table, total

_NEAR: Final = 5.0  # °C below its limit from which a GPU is hot
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class GpuTable:
    """The columns that there is room for, and how a GPU is written into them."""

    pen: Pen
    table: Table

    @classmethod
    def of(cls, view: View, pen: Pen) -> GpuTable:
        """Made for what these GPUs have."""
        columns, gpus = pen.columns, [gpu for state in view if state.online for gpu in state.gpus]
        fixed = [Column("index", "GPU", 4, right=True)]
        model = min(24, max((width(short_model(gpu.model)) for gpu in gpus), default=0))
        if columns >= 72:
            fixed.append(Column("model", "MODEL", max(5, model if columns >= 100 else min(model, 14))))
        fixed.append(Column("util", "UTIL", 5, right=True))
        trend = 0 if columns < 72 else 8 if columns < 100 else min(60, 14 + (columns - 100) // 4)
        if trend:
            fixed.append(Column("trend", "", trend))
        if columns >= 90 and any(gpu.sm_active is not None for gpu in gpus):
            fixed.append(Column("sm", "SM", 5, right=True))
        fixed.append(Column("memory", "GiB" if columns < 60 else "MEM GiB", 7, right=True))
        if columns >= 100:
            fixed.append(Column("bar", "", min(30, 8 + (columns - 100) // 8)))
        fixed.append(Column("temp", "TEMP", 5, right=True) if columns >= 60 else Column("temp", "°C", 3, right=True))
        if columns >= 60:
            fixed.append(Column("power", "POWER W", 9 if columns >= 100 else 7, right=True))
        if columns >= 140 and any(gpu.fan is not None for gpu in gpus):
            fixed.append(Column("fan", "FAN", 5, right=True))
        return cls(pen, Table((*fixed, Column("state", "HELD BY", max(0, columns - total(fixed))))))

    def head(self, look: Look) -> Line:
        """The titles."""
        return self.table.head(self.pen, "" if look.gpu_order == "index" else look.gpu_order)

    def line(self, gpu: Gpu, trails: Trails | None, now: float) -> Line:
        """A GPU as a line; of one that is down, why."""
        subject = ("gpu", gpu.node, str(gpu.index))
        if gpu.state == "down":
            return self._down(gpu, subject, now)
        cells: Cells = {
            "index": (str(gpu.index), ""),
            "model": (short_model(gpu.model) or _UNKNOWN, "dim"),
            "util": (_percent(gpu.utilization), "busy" if gpu.utilization else "dim"),
            "trend": (self._trend(gpu, trails), "busy"),
            "sm": (_percent(gpu.sm_active), "" if gpu.sm_active else "dim"),
            "memory": (_of(gib(gpu.memory_used), gib(gpu.memory_total)), ""),
            "bar": (self._memory_bar(gpu), "bold"),
            "temp": self._temperature(gpu),
            "power": (_of(_whole(gpu.power), _whole(gpu.power_limit)), ""),
            "fan": (_percent(gpu.fan), "dim"),
            "state": held_by(gpu, now),
        }
        return self.table.row(self.pen, cells, subject)

    def _down(self, gpu: Gpu, subject: tuple[str, ...], now: float) -> Line:
        spans: list[Span] = []
        for column in self.table.columns:
            if column.key not in {"index", "model"}:
                break
            text = str(gpu.index) if column.key == "index" else short_model(gpu.model) or _UNKNOWN
            spans.append((self.pen.fit(text, column.width, right=column.right) + " ", "bad"))
        told = [f"down: {gpu.why}" if gpu.why else "down", lasting(gpu, now)]
        told += [f"XID {', '.join(gpu.xids)}"] if gpu.xids else []
        return self.pen.line([*spans, (" · ".join(filter(None, told)), "bad")], subject)

    def _trend(self, gpu: Gpu, trails: Trails | None) -> str:
        columns = next((column.width for column in self.table.columns if column.key == "trend"), 0)
        if trails is None:
            return self.pen.bar(gpu.utilization, columns)
        return self.pen.trend([point.utilization for point in trails.of(gpu)], columns)

    def _memory_bar(self, gpu: Gpu) -> str:
        columns = next((column.width for column in self.table.columns if column.key == "bar"), 0)
        share = gpu.memory_used / gpu.memory_total if gpu.memory_used is not None and gpu.memory_total else None
        return self.pen.bar(share, columns)

    def _temperature(self, gpu: Gpu) -> tuple[str, Tone]:
        now, limit = gpu.temperature, gpu.temperature_limit
        short = self.pen.columns < 60 or limit is None
        text = _whole(now) if short else _of(_whole(now), _whole(limit))
        if now is None or limit is None:
            return text, ""
        return text, "bad" if now >= limit else "warn" if now >= limit - _NEAR else ""


def held_by(gpu: Gpu, now: float) -> tuple[str, Tone]:
    """Who holds it, and for how long it has been free or idle: that first, names may be long."""
    names = ", ".join(dict.fromkeys(map(called, gpu.holders or ())))
    xids = f"XID {', '.join(gpu.xids)}" if gpu.xids else ""
    tone: Tone = ""
    state = ""
    if gpu.state in {"free", "idle"}:
        state, tone = f"{gpu.state} {lasting(gpu, now)}".rstrip(), "free" if gpu.state == "free" else "idle"
    elif gpu.state == "unknown":
        state, tone = f"{_UNKNOWN}{': ' if gpu.why else ''}{gpu.why}", "warn"
    elif not names:
        state = STATE_WORDS[gpu.state]
    return " · ".join(filter(None, ["MIG" if gpu.mig else "", state, names, xids])), tone


def lasting(gpu: Gpu, now: float) -> str:
    """For how long its state has lasted; at least, where its beginning was not seen."""
    if not gpu.since or now - gpu.since < 1:
        return ""
    return f"{'' if gpu.since_known else '>'}{span(now - gpu.since)}"


def ordered(gpus: Sequence[Gpu], look: Look) -> list[Gpu]:
    """The GPUs of a machine: those that are down first, then as it is wanted."""
    found = sorted(gpus, key=lambda gpu: gpu.index)
    found.sort(key=_ORDERS[look.gpu_order])
    if look.gpus_reversed:
        found.reverse()
    return sorted(found, key=lambda gpu: gpu.state != "down")


_STATES: Final = ("free", "idle", "unknown", "held", "down")
_ORDERS: Final[Mapping[str, Callable[[Gpu], Any]]] = {
    "index": lambda _: 0,
    "util": lambda gpu: -(gpu.utilization if gpu.utilization is not None else -1.0),
    "memory": lambda gpu: -(gpu.memory_used if gpu.memory_used is not None else -1.0),
    "temp": lambda gpu: -(gpu.temperature if gpu.temperature is not None else -1.0),
    "power": lambda gpu: -(gpu.power if gpu.power is not None else -1.0),
    "state": lambda gpu: _STATES.index(gpu.state),
}


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0%}"


def _whole(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0f}"


def _of(part: str, whole: str) -> str:
    return part if whole == "n/a" else f"{part}/{whole}"
