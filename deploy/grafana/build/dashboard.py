"""A whole dashboard: variables, links to its sisters, annotations, and panels laid out in rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from build.panels import DATASOURCE, Json, Panel
from build.promql import GPU, firing

# uid and title, in the order of the links. Alerts and mails link to these uids: see dashboard_url in the rules.
UIDS: Final = {
    "gpu-fleet": "Fleet",
    "gpu-node": "Node",
    "gpu-device": "GPU",
    "gpu-owners": "Owners & waste",
    "gpu-health": "Health",
    "gpu-exporter": "Exporter",
}
TAG: Final = "gpu-exporter"
_COLUMNS: Final = 24
_TARGETS: Final = 'up{cluster=~"$cluster", job=~"$job"}'  # those that are down as well


@dataclass(frozen=True)
class Row:
    """A heading and lines of panels below it; a line is its height (30 px each) and its panels."""

    title: str
    lines: Sequence[tuple[int, Sequence[Panel]]]


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """``uid`` is one of ``UIDS``; ``variables`` are those that only this dashboard has.

    ``single`` names variables without "All": the dashboard opens with the first host or GPU, and more may be chosen.
    """

    uid: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Json] = ()
    annotations: Sequence[Json] = ()
    since: str = "now-6h"
    single: Sequence[str] = ()

    def json(self) -> Json:
        """The dashboard as Grafana reads it (the classic schema, which 10 to 13 take)."""
        return {
            "uid": self.uid,
            "title": f"gpu-exporter / {UIDS[self.uid]}",
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": 38,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "timezone": "browser",
            "weekStart": "",
            "fiscalYearStartMonth": 0,
            "liveNow": False,
            "refresh": "30s",
            "time": {"from": self.since, "to": "now"},
            "timepicker": {},
            "links": [_link(uid, title) for uid, title in UIDS.items()],
            "templating": {"list": self._variables()},
            "annotations": {"list": [_builtin(), _alerts(), *self.annotations]},
            "panels": self._panels(),
        }

    def _variables(self) -> list[Json]:
        variables = [*_variables(), *self.variables]
        for variable in variables:
            if variable["name"] in self.single:
                variable["includeAll"] = False
                del variable["current"]
        return variables

    def _panels(self) -> list[Json]:
        """All panels, numbered, from top to bottom; raises ValueError where a line is not full."""
        placed: list[Json] = []
        top = 0
        for row in self.rows:
            place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
            heading = {"type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
            placed.append({"id": len(placed) + 1, **heading})
            top += 1
            for height, panels in row.lines:
                left = 0
                for panel in panels:
                    place = {"x": left, "y": top, "w": panel.width, "h": height}
                    placed.append(panel.json(len(placed) + 1, place))
                    left += panel.width
                if left != _COLUMNS:
                    raise ValueError(f"{self.uid}: {row.title}: a line is {left} columns wide, not {_COLUMNS}")
                top += height
        return placed


def _link(uid: str, title: str) -> Json:
    return {
        "type": "link",
        "title": title,
        "url": f"/d/{uid}",
        "tooltip": f"{title}, with this time range and these variables",
        "icon": "dashboard",
        "tags": [],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def jump(uid: str, **variables: str) -> tuple[str, str]:
    """A data link to a dashboard that keeps time, datasource and the variables that it does not set itself."""
    kept = {name: f"${{{name}:queryparam}}" for name in ("datasource", "cluster", "job", "instance", "rack")}
    kept |= {name: f"var-{name}={value}" for name, value in variables.items()}
    return f"Open {UIDS[uid]}", f"/d/{uid}?" + "&".join([*kept.values(), "${__url_time_range}"])


def query_variable(
    name: str,
    label: str,
    query: str,
    *,
    everything: str | None = ".+",
    regex: str = "",
    sort: int = 1,
    description: str = "",
) -> Json:
    """A variable whose values Prometheus tells; many may be chosen, and all are at first."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}"},
        "regex": regex,
        "sort": sort,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        **({"allValue": everything} if everything is not None else {}),
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "hide": 0,
        "skipUrlSync": False,
    }


def price() -> Json:
    """What an hour of a GPU costs; it may be written over on the dashboard."""
    return {
        "type": "textbox",
        "name": "price",
        "label": "Price of a GPU hour",
        "description": "US dollars that an hour of one GPU costs you; a number",
        "query": "2.00",
        "current": {"selected": True, "text": "2.00", "value": "2.00"},
        "options": [{"selected": True, "text": "2.00", "value": "2.00"}],
        "hide": 0,
        "skipUrlSync": False,
    }


def price_of_energy() -> Json:
    """What a kilowatt hour costs; it may be written over on the dashboard."""
    return {
        **price(),
        "name": "kwh",
        "label": "Price of a kWh",
        "description": "US dollars that a kilowatt hour costs you, with cooling; a number",
        "query": "0.30",
        "current": {"selected": True, "text": "0.30", "value": "0.30"},
        "options": [{"selected": True, "text": "0.30", "value": "0.30"}],
    }


def carbon() -> Json:
    """What a kilowatt hour emits; it may be written over on the dashboard."""
    return {
        **price(),
        "name": "carbon",
        "label": "CO₂ of a kWh",
        "description": "Grams of CO₂ that a kilowatt hour emits where your machines are; a number",
        "query": "400",
        "current": {"selected": True, "text": "400", "value": "400"},
        "options": [{"selected": True, "text": "400", "value": "400"}],
    }


def _variables() -> list[Json]:
    return [
        {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "description": "The Prometheus that scrapes the exporters",
            "query": "prometheus",
            "regex": "",
            "options": [],
            "refresh": 1,
            "multi": False,
            "includeAll": False,
            "hide": 0,
            "skipUrlSync": False,
        },
        query_variable(
            "cluster",
            "Cluster",
            "label_values(gpu_exporter_build_info, cluster)",
            everything=".*",
            description="Empty where the series have no label cluster",
        ),
        query_variable(
            "job",
            "Job",
            'label_values(gpu_exporter_build_info{cluster=~"$cluster"}, job)',
            # "All" is the jobs that have exporters; .+ would be every job, and count the targets of all of them.
            everything=None,
            description="The scrape job of the exporters",
        ),
        query_variable(
            "instance",
            "Instance",
            f"query_result(max by (alias, instance) ({_TARGETS}))",
            regex=r'/\{(?:alias="(?<text>[^"]+)", ?)?instance="(?<value>[^"]+)"/',
            sort=5,
            description="The machine: its alias, or the exporter's address where it has none",
        ),
        query_variable(
            "gpu",
            "GPU",
            'query_result(max by (gpu, name) (label_join(gpu_up{cluster=~"$cluster", job=~"$job", '
            'instance=~"$instance"}, "name", ", ", "gpu", "model")))',
            regex=r'/gpu="(?<value>[^"]+)", ?name="(?<text>[^"]+)"/',
            sort=3,
            description="Index and model of the GPU, as nvidia-smi numbers them",
        ),
        query_variable(
            "rack",
            "Rack",
            f"label_values({_TARGETS}, rack)",
            everything=".*",
            description="The label rack of nodes.yml; empty where machines have none",
        ),
    ]


def _builtin() -> Json:
    return {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }


def annotation(
    name: str, expr: str, *, title: str, text: str, tags: str, color: str, value_is_time: bool = False
) -> Json:
    """Marks in every panel over time; with ``value_is_time`` the value is the moment, in milliseconds."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expr,
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": tags,
        "useValueForTime": value_is_time,
        "step": "30s",
    }


def _alerts() -> Json:
    return annotation(
        "Firing alerts",
        firing('gpu=~"$gpu|"'),
        title="{{alertname}}",
        text="{{alias}} {{instance}} GPU {{gpu}} {{model}}",
        tags="severity",
        color="orange",
    )


def xids() -> Json:
    """XID events at their own time."""
    return annotation(
        "XID errors",
        f"1000 * gpu_xid_last_timestamp_seconds{{{GPU}}}",
        title="XID {{xid}}",
        text="{{alias}} {{instance}} GPU {{gpu}} {{model}}: see the XID table of Health",
        tags="xid",
        color="red",
        value_is_time=True,
    )
