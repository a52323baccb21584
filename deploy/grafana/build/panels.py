"""The kinds of panels. Each takes a title, a description, a unit and its queries, so that none goes without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from build.looks import GOOD, NEUTRAL, PLAIN, RED, Names, Steps

Json: TypeAlias = dict[str, Any]

PLUGIN_VERSION: Final = "10.0.0"  # the oldest Grafana that reads these panels without a migration
DATASOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}
NOT_THERE: Final = "n/a"
_WIDE: Final = 12  # columns from which a legend with values has its place beside the lines

# "alias|address …" becomes "alias …", or "address …" without its port where there is no alias.
TIDY: Final[tuple[Json, ...]] = (
    {
        "id": "renameByRegex",
        "options": {"regex": r"/^(?:([^|]+)\|\S+|\|(\S+?)(?::\d+)?)(?= |$)/", "renamePattern": "$1$2"},
    },
    {"id": "renameByRegex", "options": {"regex": r"/ NVIDIA /", "renamePattern": " "}},
)


@dataclass(frozen=True, kw_only=True)
class Query:
    """One PromQL expression. ``instant`` asks for the newest value, ``table`` for rows with the labels as columns."""

    expr: str
    legend: str = ""
    instant: bool = False
    table: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel without its place; ``width`` is in the grid's 24 columns."""

    type: str
    title: str
    description: str
    unit: str
    width: int
    queries: tuple[Query, ...]
    options: Json
    steps: Steps = PLAIN
    values: Names | None = None
    custom: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    overrides: tuple[Json, ...] = ()
    transformations: tuple[Json, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    empty: str = NOT_THERE
    max_points: int | None = None
    time_from: str | None = None

    def json(self, number: int, place: Json) -> Json:
        """The panel as Grafana reads it."""
        defaults: Json = {
            "unit": self.unit,
            "noValue": self.empty,
            "thresholds": thresholds(self.steps),
            "mappings": mappings(self.values),
            "custom": self.custom,
            **self.defaults,
        }
        if self.links:
            defaults["links"] = [{"title": title, "url": url} for title, url in self.links]
        panel: Json = {
            "id": number,
            "type": self.type,
            "title": self.title,
            "description": self.description,
            "gridPos": place,
            "datasource": DATASOURCE,
            "pluginVersion": PLUGIN_VERSION,
            "transparent": False,
            "targets": [self._target(query, position) for position, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": defaults, "overrides": list(self.overrides)},
            "options": self.options,
            "transformations": list(self.transformations),
        }
        optional = {"maxDataPoints": self.max_points, "timeFrom": self.time_from}
        return {**panel, **{key: value for key, value in optional.items() if value is not None}}

    @staticmethod
    def _target(query: Query, position: int) -> Json:
        return {
            "refId": chr(ord("A") + position),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "instant": query.instant,
            "range": not query.instant,
            "format": "table" if query.table else "time_series",
        }


def thresholds(steps: Steps) -> Json:
    """Threshold steps; the first has no value."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def mappings(values: Names | None) -> list[Json]:
    """Values that have a name and a colour."""
    if not values:
        return []
    options = {
        value: {"text": text, **({"color": color} if color else {}), "index": index}
        for index, (value, (text, color)) in enumerate(values.items())
    }
    return [{"type": "value", "options": options}]


def override(matcher: str, pattern: str, **properties: Any) -> Json:
    """Properties of the fields that match; a dot in a property's name is written as two underscores."""
    return {
        "matcher": {"id": matcher, "options": pattern},
        "properties": [{"id": name.replace("__", "."), "value": value} for name, value in properties.items()],
    }


def limit(pattern: str, color: str = RED) -> Json:
    """Series whose name ends so are limits: dashed, without a fill."""
    return override(
        "byRegexp",
        f"/{pattern}$/",
        custom__lineStyle={"fill": "dash", "dash": [8, 6]},
        custom__lineWidth=1,
        custom__fillOpacity=0,
        custom__stacking={"mode": "none", "group": "A"},
        color={"mode": "fixed", "fixedColor": color},
    )


def colored(name: str, color: str) -> Json:
    """A series of that name has that colour."""
    return override("byName", name, color={"mode": "fixed", "fixedColor": color})


def stat(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "none",
    steps: Steps = NEUTRAL,
    values: Names | None = None,
    width: int = 3,
    decimals: int | None = None,
    spark: bool = False,
    legend: str = "",
    tiles: bool = False,
    links: Sequence[tuple[str, str]] = (),
    empty: str = NOT_THERE,
    time_from: str | None = None,
) -> Panel:
    """One number, or with ``tiles`` one coloured tile a series; ``spark`` draws its course behind it."""
    defaults: Json = {"color": {"mode": "thresholds"}}
    if decimals is not None:
        defaults["decimals"] = decimals
    return Panel(
        type="stat",
        title=title,
        description=description,
        unit=unit,
        width=width,
        queries=(Query(expr=expr, legend=legend, instant=not spark),),
        steps=steps,
        values=values,
        defaults=defaults,
        links=tuple(links),
        empty=empty,
        time_from=time_from,
        transformations=TIDY if legend else (),
        options={
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
            "orientation": "auto",
            "textMode": "value_and_name" if tiles else "value",
            "colorMode": "background" if tiles else "value",
            "graphMode": "area" if spark else "none",
            "justifyMode": "auto",
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
            "wideLayout": not tiles,
            **({"text": {"titleSize": 13}} if tiles else {}),
        },
    )


def gauges(
    title: str,
    description: str,
    expr: str,
    *,
    legend: str,
    unit: str,
    steps: Steps,
    width: int,
    highest: float | None = None,
    decimals: int | None = None,
    links: Sequence[tuple[str, str]] = (),
    empty: str = NOT_THERE,
) -> Panel:
    """A horizontal bar a series."""
    defaults: Json = {"color": {"mode": "thresholds"}, "min": 0}
    if highest is not None:
        defaults["max"] = highest
    if decimals is not None:
        defaults["decimals"] = decimals
    return Panel(
        type="bargauge",
        title=title,
        description=description,
        unit=unit,
        width=width,
        queries=(Query(expr=expr, legend=legend, instant=True),),
        steps=steps,
        defaults=defaults,
        links=tuple(links),
        empty=empty,
        transformations=TIDY,
        options={
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
            "orientation": "horizontal",
            "displayMode": "basic",
            "valueMode": "color",
            "namePlacement": "top",
            "showUnfilled": True,
            "sizing": "auto",
            "minVizWidth": 8,
            "minVizHeight": 16,
            "maxVizHeight": 300,
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
        },
    )


def series(
    title: str,
    description: str,
    *queries: tuple[str, str],
    unit: str,
    width: int = 12,
    steps: Steps = GOOD,
    lines: bool = False,
    stacked: bool = False,
    bars: bool = False,
    lowest: float | None = 0,
    highest: float | None = None,
    overrides: Sequence[Json] = (),
    links: Sequence[tuple[str, str]] = (),
    calcs: Sequence[str] = ("lastNotNull", "max"),
    empty: str = NOT_THERE,
) -> Panel:
    """Lines over time; ``queries`` are (expression, legend).

    ``lines`` draws the thresholds. ``bars`` are for what happens seldom: a single point of a line cannot be seen.
    """
    wide = width >= _WIDE
    defaults: Json = {"color": {"mode": "palette-classic"}}
    if lowest is not None:
        defaults["min"] = lowest
    if highest is not None:
        defaults["max"] = highest
    return Panel(
        type="timeseries",
        title=title,
        description=description,
        unit=unit,
        width=width,
        queries=tuple(Query(expr=expr, legend=name) for expr, name in queries),
        steps=steps,
        defaults=defaults,
        links=tuple(links),
        empty=empty,
        overrides=tuple(overrides),
        transformations=TIDY,
        custom={
            "drawStyle": "bars" if bars else "line",
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "fillOpacity": 60 if stacked or bars else 5,
            "gradientMode": "none",
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if lines else "off"},
            "axisPlacement": "auto",
            "axisLabel": "",
        },
        options={
            "legend": {
                "showLegend": True,
                "displayMode": "table" if wide else "list",
                "placement": "right" if wide else "bottom",
                "calcs": list(calcs) if wide else [],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def timeline(
    title: str,
    description: str,
    *queries: tuple[str, str],
    values: Names | None = None,
    steps: Steps = GOOD,
    unit: str = "none",
    width: int = 24,
    show: str = "auto",
    links: Sequence[tuple[str, str]] = (),
    empty: str = NOT_THERE,
) -> Panel:
    """States over time, one strip a series."""
    return Panel(
        type="state-timeline",
        title=title,
        description=description,
        unit=unit,
        width=width,
        queries=tuple(Query(expr=expr, legend=name) for expr, name in queries),
        steps=steps,
        values=values,
        defaults={"color": {"mode": "thresholds"}},
        links=tuple(links),
        empty=empty,
        transformations=TIDY,
        custom={"fillOpacity": 80, "lineWidth": 0},
        options={
            "mergeValues": True,
            "showValue": show,
            "alignValue": "left",
            "rowHeight": 0.85,
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    )


def strip(
    title: str,
    description: str,
    expr: str,
    *,
    legend: str,
    unit: str,
    steps: Steps,
    width: int = 24,
    links: Sequence[tuple[str, str]] = (),
    empty: str = NOT_THERE,
) -> Panel:
    """A heat strip a series: colour tells the value."""
    return Panel(
        type="status-history",
        title=title,
        description=description,
        unit=unit,
        width=width,
        queries=(Query(expr=expr, legend=legend),),
        steps=steps,
        defaults={"color": {"mode": "thresholds"}},
        links=tuple(links),
        empty=empty,
        transformations=TIDY,
        max_points=120,
        custom={"fillOpacity": 90, "lineWidth": 0},
        options={
            "showValue": "never",
            "rowHeight": 0.9,
            "colWidth": 1,
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    )
