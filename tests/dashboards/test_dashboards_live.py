"""Every query of every dashboard, asked of a real Prometheus that scrapes a simulated fleet on a bad day."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.programs import Release
from tools.lab.prometheus import Prometheus
from tools.lab.wait import wait_for

from dashboards import PrometheusApi, View, load, panels
from grafana_lab import MACHINES, fleet

pytestmark = pytest.mark.e2e
# What brings no data here, and why. An entry that brings data after all is a mistake, too.
_NO_NODE_EXPORTER = "no node_exporter runs here"
_NOT_SIMULATED = "simulated GPUs have none"
EMPTY: Mapping[tuple[str, str], str] = {
    ("gpu-health", "Life left of power smoothing A"): _NOT_SIMULATED,
    ("gpu-health", "C2C errors A"): _NOT_SIMULATED,
    ("gpu-health", "Events of the driver over time A"): _NOT_SIMULATED,
    ("gpu-device", "Events and fabric A"): _NOT_SIMULATED,
    ("gpu-health", "Faults of NVSwitches A"): "no kernel log is read",
    ("gpu-health", "InfiniBand ports that are not active A"): _NO_NODE_EXPORTER,
    ("gpu-health", "InfiniBand links that were lost A"): _NO_NODE_EXPORTER,
    ("gpu-health", "InfiniBand symbol errors A"): _NO_NODE_EXPORTER,
    ("gpu-health", "Disks that are nearly full A"): _NO_NODE_EXPORTER,
    ("gpu-health", "Memory that is left A"): _NO_NODE_EXPORTER,
    ("gpu-health", "Clocks that are off A"): _NO_NODE_EXPORTER,
}
# Legends of totals over everything chosen; no host, GPU or model is left in them.
_LABELS = {"instance": r"\{\{(alias|instance)\}\}", "gpu": r"\{\{gpu\}\}", "model": r"\{\{model\}\}"}
_SERIES = {"timeseries", "state-timeline", "status-history", "bargauge"}


def test_every_query_brings_data(tmp_path: Path, release: Release) -> None:
    # One test, because one fleet serves it all.
    started = time.time()
    with fleet(tmp_path, release=release) as prometheus:
        api = PrometheusApi(prometheus.port)
        silent: dict[tuple[str, str], str] = {}

        def seen() -> View | None:
            """The view in which nothing is silent any more: what comes last needs a second scrape, or the rules."""
            nonlocal silent
            view = View(start=started, end=time.time(), step=1, rate_interval=5)
            silent = {where: query for where, query in _silent(api, view).items() if where not in EMPTY}
            return None if silent else view

        view = wait_for(seen, lambda: "\n".join(f"{uid}: {what}: {query}" for (uid, what), query in silent.items()), 60)
        assert set(EMPTY) <= set(_silent(api, view)), "these bring data: take them off the list"
        legends: list[str] = []
        for uid, dashboard in load().items():
            chosen = _variables(api, dashboard, view)
            for panel in panels(dashboard):
                legends += _legends(api, uid, panel, view, chosen)
    assert not legends, "\n".join(legends)


# Of Prometheus and Alertmanager themselves, which federation leaves below.
BELOW = re.compile(r"alertmanager_|prometheus_")


@pytest.mark.slow
def test_the_dashboards_work_on_a_prometheus_above(tmp_path: Path, release: Release) -> None:
    """Federation as deploy/prometheus/prometheus.yml has it, taken into use."""
    text = (ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8")
    config = yaml.safe_load(re.sub(r"^( *)#: ?", r"\1", text, flags=re.MULTILINE))
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "federate")
    with fleet(tmp_path, release=release) as below:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{below.port}"]}]
        (tmp_path / "above").mkdir()
        pace = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        with Prometheus(
            tmp_path / "above", yaml.safe_dump({"global": pace, "scrape_configs": [job]}), release
        ) as above:
            wait_for(lambda: above.number("count(gpu_up)") == below.number("count(gpu_up)"))
            started = time.time()  # what only happened before was seen below alone
            missed: dict[tuple[str, str], str] = {}

            def seen() -> bool:
                nonlocal missed
                if time.time() < started + 10:
                    return False
                view = View(start=started, end=time.time(), step=1, rate_interval=5)
                silent = [_silent(PrometheusApi(each.port), view) for each in (above, below)]
                missed = {where: query for where, query in silent[0].items() if where not in silent[1]}
                missed = {where: query for where, query in missed.items() if not BELOW.search(query)}
                return not missed

            wait_for(seen, lambda: "\n".join(f"{uid}: {what}: {query}" for (uid, what), query in missed.items()), 60)
            view = View(start=started, end=time.time(), step=1, rate_interval=5)
            silent, asked = _silent(PrometheusApi(above.port), view), sum(map(_asks, load().values()))
            told = [f"{uid}: {what}: {query}" for (uid, what), query in silent.items()]
            assert len(silent) < asked / 3, "\n".join([f"{len(silent)} of {asked} show nothing:", *told])


def _asks(dashboard: dict[str, Any]) -> int:
    return sum(len(panel["targets"]) for panel in panels(dashboard))


def _silent(api: PrometheusApi, view: View) -> dict[tuple[str, str], str]:
    """The queries of all dashboards that bring nothing."""
    silent: dict[tuple[str, str], str] = {}
    for uid, dashboard in load().items():
        chosen = api.choose(dashboard, view)
        for panel in panels(dashboard):
            silent |= {
                (uid, f"{panel['title']} {target['refId']}"): view.fill(target["expr"], chosen)
                for target in panel["targets"]
                if not api.target(target, view, chosen)
            }
        silent |= {
            (uid, each["name"]): each["expr"]
            for each in dashboard["annotations"]["list"]
            if "expr" in each and not api.range(view.fill(each["expr"], chosen), view)
        }
    return silent


def _legends(api: PrometheusApi, uid: str, panel: dict[str, Any], view: View, chosen: Mapping[str, str]) -> list[str]:
    """Series of one host or GPU whose legend does not say so, and series that share a legend."""
    if panel["type"] not in _SERIES and not any(target["legendFormat"] != "__auto" for target in panel["targets"]):
        return []
    wrong = []
    names: list[str] = []
    for target in panel["targets"]:
        answer = api.target(target, view, chosen)
        legend = target["legendFormat"]
        wrong += [
            f"{uid}: {panel['title']}: legend {legend!r} hides {label}"
            for label, told in _LABELS.items()
            if any(label in series["metric"] for series in answer) and not re.search(told, legend)
        ]
        names += [
            re.sub(r"\{\{(\w+)\}\}", lambda label, metric=series["metric"]: metric.get(label[1], ""), legend)  # type: ignore[misc]
            for series in answer
        ]
    twice = {name for name in names if names.count(name) > 1}
    return wrong + [f"{uid}: {panel['title']}: several series are named {name!r}" for name in sorted(twice)]


def _variable(dashboard: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in dashboard["templating"]["list"] if each["name"] == name)
    return found


def _variables(api: PrometheusApi, dashboard: dict[str, Any], view: View) -> dict[str, str]:
    """Everything chosen; every variable offers what there is."""
    chosen = api.choose(dashboard, view)
    offered = {
        variable["name"]: api.variable(variable, view, chosen)
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    }
    assert set(offered["cluster"]) == {"lab"}
    for cluster, hosts in {"lab": {"ws-1"}, "": {"gpu-a", "gpu-b", "gpu-c", "inf-1"}}.items():
        # An alert's link tells an empty cluster where the series have no such label.
        found = api.variable(_variable(dashboard, "instance"), view, {**chosen, "cluster": cluster})
        assert set(found.values()) == hosts
    assert set(offered["job"]) == {"gpu-exporter"}
    assert set(offered["instance"].values()) == {"gpu-c", *(machine.alias for machine in MACHINES)}, "by alias"
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", value) for value in offered["instance"])
    assert offered["gpu"]
    assert all(text.startswith(f"{value}, ") for value, text in offered["gpu"].items())
    if "owner" in offered:
        assert {"user", "pod", "slurm"} <= set(offered["owner_kind"])
        assert {"mallory", "bert-0"} <= set(offered["owner"])
    return chosen
