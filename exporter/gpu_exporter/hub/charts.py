"""Curves as pictures: drawn here for whoever has no JavaScript; with it, uPlot draws them anew from the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gpu_exporter.hub.archive import Curve
from gpu_exporter.hub.words import size

# Name: how far back (seconds), and how far apart the points are.
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "hour": (3600.0, 60.0),
    "day": (86400.0, 300.0),
    "week": (7 * 86400.0, 1800.0),
    "month": (30 * 86400.0, 7200.0),
}
_WIDTH: Final = 600
_HEIGHT: Final = 100
_LEAST_TOP: Final = {"ratio": 1.0, "celsius": 100.0}  # so that a quiet GPU looks quiet


@dataclass(frozen=True, slots=True)
class Chart:
    """One curve with its words: ``path`` draws it into a box of 600 by 100, ``dots`` what stands between gaps."""

    metric: str
    title: str
    unit: str
    path: str
    dots: str
    now: str
    highest: str

    @classmethod
    def of(cls, metric: str, title: str, curve: Curve) -> Chart:
        """The picture of a curve."""
        known = [value for value in curve.means if value is not None]
        highs = [value for value in curve.highs if value is not None] or known
        top = max([*known, _LEAST_TOP.get(curve.unit, 0.0)], default=0.0) or 1.0
        path, dots = _drawn(curve.means, top)
        return cls(
            metric=metric,
            title=title,
            unit=curve.unit,
            path=path,
            dots=dots,
            now=_worded(known[-1], curve.unit) if known else "",
            highest=_worded(max(highs), curve.unit) if highs else "",
        )


def _drawn(values: Sequence[float | None], top: float) -> tuple[str, str]:
    """SVG paths: lines, in which a gap stays a gap, and points that no line leads to."""
    wide = _WIDTH / max(len(values) - 1, 1)
    places = [
        None if value is None else f"M{place * wide:.1f} {_HEIGHT - min(value / top, 1.0) * _HEIGHT:.1f}"
        for place, value in enumerate(values)
    ]
    lines, dots = [], []
    for before, here, after in zip([None, *places], places, [*places[1:], None], strict=False):
        if here is None:
            continue
        if before is None and after is None:
            dots.append(f"{here}h0")  # without a length it is as large as its round ends
        else:
            lines.append(here if before is None else here.replace("M", "L"))
    return "".join(lines), "".join(dots)


def _worded(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"{value:.0%}".replace("%", " %")
    if unit == "bytes":
        return size(value)
    return f"{value:.0f} {({'celsius': '°C', 'watts': 'W'}).get(unit, unit)}"
