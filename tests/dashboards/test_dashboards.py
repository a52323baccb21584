"""The dashboards as files: generated, typed, laid out, linked, and what Grafana's dashboard-linter asks for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.programs import Release

from dashboards import GRAFANA, View, load, panels
from gpu_exporter.catalog import CATALOG
from rules import RECORDS, metrics, promtool

IMAGES = ROOT / "docs/images"
ALL = load()
dashboards = pytest.mark.parametrize("dashboard", ALL.values(), ids=ALL.keys())

# What Grafana 10 to 13 have and have not deprecated; everything else is refused.
PANELS = {"stat", "bargauge", "timeseries", "state-timeline", "status-history", "table"}
# Metrics of others: of a scrape, of the exporter's process, of Prometheus and Alertmanager.
FOREIGN = {
    "ALERTS",
    "alertmanager_notifications_failed_total",
    "alertmanager_notifications_total",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "node_infiniband_link_downed_total",
    "node_infiniband_state_id",
    "node_infiniband_symbol_error_total",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
    "node_timex_offset_seconds",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "prometheus_notifications_dropped_total",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "up",
}
# Without job or instance, because these series have none of the exporters'.
_OF_HOSTS = {"node_": "node_exporter has its own job and port: joined by host with the chosen machines"}
WITHOUT_JOB = {"ALERTS": "alerts keep what their rule kept", "owner:": "an owner is on no machine", **_OF_HOSTS}
WITHOUT_INSTANCE = {"owner:": "an owner is on no machine", **_OF_HOSTS}
OF_THE_ALERTING = ("alertmanager_", "prometheus_")
# Counters whose level is the message: errors since the driver was loaded, the count of an XID; and those that begin
# with their first error, of which a rate knows nothing.
LEVELS = {
    "gpu_ecc_errors_total",
    "gpu_xid_errors_total",
    "gpu_sram_uncorrected_errors_total",
    "gpu_nvlink_link_errors_total",
    "gpu_nvswitch_sxid_errors_total",
}

# Identifiers of Grafana's units; an unknown one is shown as plain text behind the number.
UNITS = {
    *("none", "percentunit", "celsius", "bytes", "watt", "hertz", "Bps", "s"),
    *("dtdurations", "cpm", "kwatth", "currencyUSD", "cps", "h", "masskg"),
}

_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{((?:[^}\"]|\"[^\"]*\")*)\}")
_FUNCTION = r"\b{}\s*\(\s*[a-zA-Z_:][\w:]*(?:\{{[^}}]*\}})?\[([^\]]+)\]"


def _expressions(dashboard: dict[str, Any], *, variables: bool = True) -> list[tuple[str, str]]:
    """Title and expression of every query: of panels, annotations and, mostly, variables."""
    found = [(panel["title"], target["expr"]) for panel in panels(dashboard) for target in panel["targets"]]
    found += [(each["name"], each["expr"]) for each in dashboard["annotations"]["list"] if "expr" in each]
    for variable in dashboard["templating"]["list"]:
        if variables and variable["type"] == "query":
            inner = re.fullmatch(r"(?:label_values\((.+), \w+\)|query_result\((.+)\))", variable["query"]["query"])
            assert inner, variable
            found.append((variable["name"], inner[1] or inner[2]))
    return found


def _properties(panel: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for override in panel["fieldConfig"]["overrides"] for each in override["properties"]]


def _filled(dashboard: dict[str, Any], expression: str) -> str:
    variables = {variable["name"]: ".+" for variable in dashboard["templating"]["list"]} | {
        "price": "2.00",
        "kwh": "0.30",
        "carbon": "400",
    }
    return View(start=0, end=3600, step=15, rate_interval=60).fill(expression, variables)


# --- generated --------------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_generator_makes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--check"], cwd=GRAFANA, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_was_edited_by_hand_is_noticed(tmp_path: Path) -> None:
    copy = tmp_path / "deploy/grafana"
    shutil.copytree(GRAFANA / "build", copy / "build", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(GRAFANA / "dashboards", copy / "dashboards")
    (tmp_path / "docs/runbooks").mkdir(parents=True)
    shutil.copy(ROOT / "docs/runbooks/XID.md", tmp_path / "docs/runbooks")
    edited = copy / "dashboards/gpu-node.json"
    edited.write_text(edited.read_text("utf-8").replace('"celsius"', '"fahrenheit"', 1), "utf-8")
    (copy / "dashboards/forgotten.json").write_text("{}")
    check = [sys.executable, "-m", "build", "--check"]
    done = subprocess.run(check, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["forgotten.json", "gpu-node.json"]
    subprocess.run(check[:-1], cwd=copy, check=True)
    assert subprocess.run(check, cwd=copy, check=False).returncode == 0


@dashboards
def test_identity(dashboard: dict[str, Any]) -> None:
    assert len(ALL) == 6
    assert ALL[dashboard["uid"]] is dashboard, "the file is named after the uid"
    assert dashboard["uid"].startswith("gpu-")
    assert len(dashboard["uid"]) <= 40
    assert dashboard["schemaVersion"] == 38, "what Grafana 10.0 writes; newer ones read it"
    assert "gpu-exporter" in dashboard["tags"]
    text = json.dumps(dashboard)
    assert "__inputs" not in text
    assert "DS_PROMETHEUS" not in text
    assert "NaN" not in text


def test_titles_are_unique() -> None:
    titles = [dashboard["title"] for dashboard in ALL.values()]
    assert len(set(titles)) == len(titles)


# --- laid out ---------------------------------------------------------------------------------------------------------


@dashboards
def test_panels_fill_the_grid_and_never_overlap(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["w"] > 0
        assert place["h"] > 0
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    bottom = max(y for _, y in taken) + 1
    assert set(taken) == {(x, y) for x in range(24) for y in range(bottom)}, "no hole, nothing beside the grid"


@dashboards
def test_panels_have_numbers_and_stand_below_a_heading(dashboard: dict[str, Any]) -> None:
    assert dashboard["panels"][0]["type"] == "row"
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert numbers == list(range(1, len(numbers) + 1))
    for one, other in pairwise(dashboard["panels"]):
        assert (one["type"], other["type"]) != ("row", "row"), f"{one['title']} is empty"


# --- what dashboard-linter checks -------------------------------------------------------------------------------------


@dashboards
def test_panels_say_what_they_show(dashboard: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(set(titles)) == len(titles), "panel titles are unique"
    for panel in panels(dashboard):
        assert panel["type"] in PANELS, panel["title"]
        assert panel["title"]
        assert re.fullmatch(r"[A-Z0-9].{15,}\.", panel["description"], re.DOTALL), (
            panel["title"],
            panel["description"],
        )
        defaults = panel["fieldConfig"]["defaults"]
        units = {each["value"] for each in _properties(panel) if each["id"] == "unit"}
        assert {defaults["unit"]} | units <= UNITS, panel["title"]
        assert defaults["noValue"], panel["title"]
        steps = defaults["thresholds"]["steps"]
        assert steps[0]["value"] is None
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values)
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"], panel["title"]
        assert [target["refId"] for target in panel["targets"]] == [*"ABCDEFGHIJKLM"][: len(panel["targets"])]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert target["instant"] != target["range"]
            assert (target["format"] == "table") == (panel["type"] == "table")


@dashboards
def test_the_dashboard_cannot_be_edited_by_accident_and_reads_live(dashboard: dict[str, Any]) -> None:
    assert dashboard["editable"] is False
    assert dashboard["refresh"] == "30s"
    assert dashboard["time"]["to"] == "now"
    assert dashboard["graphTooltip"] == 1, "a shared crosshair"


@dashboards
def test_variables(dashboard: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert list(variables)[:5] == ["datasource", "cluster", "job", "instance", "gpu"], (
        "in the order in which they depend"
    )
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name, variable in variables.items():
        assert variable["label"], name
        assert variable["description"], name
        if variable["type"] == "query":
            assert variable["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert variable["multi"] is True
            assert variable["refresh"] == 2, "as the time range changes"
    assert variables["instance"]["label"] == "Instance"
    assert variables["job"]["label"] == "Job"
    assert {variables[name]["allValue"] for name in ("cluster", "rack")} == {".*"}, "a missing label is matched as well"
    assert {variables[name]["allValue"] for name in ("instance", "gpu")} == {".+"}
    # dashboard-linter wants .+ here too; that would count the targets of every job (see the generator).
    assert "allValue" not in variables["job"]
    used = set(
        re.findall(r"\$\{?([a-z_]+)\b(?![^$]*queryparam)", " ".join(text for _, text in _expressions(dashboard)))
    )
    assert used - {"__range", "__rate_interval"} <= set(variables)
    assert set(variables) - used <= {"datasource", "gpu"}, "every variable does something"


@dashboards
def test_queries_follow_the_variables(dashboard: dict[str, Any]) -> None:
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for title, expression in _expressions(dashboard):
        if title in variables or any(f"{name}_notifications" in expression for name in ("alertmanager", "prometheus")):
            continue
        for metric, matchers in _SELECTOR.findall(expression):
            where = (title, metric)
            assert 'cluster=~"$cluster' in matchers, where
            if not metric.startswith(tuple(WITHOUT_INSTANCE)):
                assert 'instance=~"$instance' in matchers, where
            if not metric.startswith(tuple(WITHOUT_JOB)):
                assert 'job=~"$job"' in matchers, where


@dashboards
def test_counters_are_read_as_rates(dashboard: dict[str, Any]) -> None:
    for title, expression in _expressions(dashboard, variables=False):
        for function in ("rate", "irate"):
            for window in re.findall(_FUNCTION.format(function), expression):
                assert window == "$__rate_interval", (title, "a rate follows the zoom")
        for window in re.findall(_FUNCTION.format("increase"), expression):
            assert window in {"$__range", "$__rate_interval"}, title
        for metric, _ in _SELECTOR.findall(expression):
            if metric.endswith("_total") and metric not in LEVELS:
                selected = rf"(rate|increase)\(\s*{metric}(\{{[^}}]*\}})?\["
                assert re.search(selected, expression), (title, metric)


@dashboards
def test_every_metric_exists(dashboard: dict[str, Any]) -> None:
    known = {metric.name for metric in CATALOG} | {rule.name for rule in RECORDS} | FOREIGN
    for title, expression in _expressions(dashboard):
        named = {name for name, _ in _SELECTOR.findall(expression)}
        named |= {expression} & {metric.name for metric in CATALOG}  # a variable's label_values
        named |= set(re.findall(r"([a-zA-Z_:][\w:]*)\[", re.sub(r'"[^"]*"', "", expression)))
        assert named, title
        assert named <= known, (title, named - known)
        bare = metrics(_filled(dashboard, expression)) - {
            "label_join",
            "bottomk",
            "clamp_min",
            "min_over_time",
            "sort_desc",
            "topk",
        }
        assert bare <= known, (title, "a name without a selector", bare - known)


def test_promtool_reads_every_expression(tmp_path: Path, release: Release) -> None:
    rules = [
        {"record": "x:y:z", "expr": _filled(dashboard, expression), "labels": {"panel": f"{uid} {title} {number}"}}
        for uid, dashboard in ALL.items()
        for number, (title, expression) in enumerate(_expressions(dashboard))
    ]
    file = tmp_path / "expressions.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    done = promtool("check", "rules", file, release=release)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


# --- linked -----------------------------------------------------------------------------------------------------------


def _links(node: Any) -> list[str]:
    """Every url in the dashboard."""
    if isinstance(node, dict):
        return [value for key, value in node.items() if key == "url"] + [
            url for value in node.values() for url in _links(value)
        ]
    return [url for each in node for url in _links(each)] if isinstance(node, list) else []


@dashboards
def test_links_lead_to_dashboards_and_keep_time_and_variables(dashboard: dict[str, Any]) -> None:
    assert [link["url"] for link in dashboard["links"]] == [
        f"/d/{uid}" for uid in ("gpu-fleet", "gpu-node", "gpu-device", "gpu-owners", "gpu-health", "gpu-exporter")
    ]
    assert all(link["keepTime"] and link["includeVars"] for link in dashboard["links"])
    inner = _links(dashboard["panels"])
    assert inner, "there is a way on"
    for url in inner:
        target, _, query = url.removeprefix("/d/").partition("?")
        names = {variable["name"] for variable in ALL[target]["templating"]["list"]}
        assert "${__url_time_range}" in query
        assert "${datasource:queryparam}" in query
        kept = set(re.findall(r"\$\{(\w+):queryparam\}", query)) | set(re.findall(r"var-(\w+)=", query))
        assert kept >= {"datasource", "cluster", "job", "instance"}
        assert kept <= names, f"{target} has no variable {kept - names}"


def test_alerts_link_to_dashboards_and_variables_that_exist() -> None:
    found = 0
    for file in (ROOT / "deploy").rglob("*"):
        if file.suffix not in {".yml", ".tmpl", ".json"} or "dashboards" in file.parts:
            continue
        for uid, query in re.findall(r"localhost:3000/d/([\w-]+)(\?[^'\"]*)?", file.read_text("utf-8")):
            names = {variable["name"] for variable in ALL[uid]["templating"]["list"]}
            assert set(re.findall(r"var-(\w+)=", query)) <= names, (file.name, uid, query)
            found += 1
    assert found >= 40


@dashboards
def test_alerts_are_marked(dashboard: dict[str, Any]) -> None:
    marks = {each["name"]: each for each in dashboard["annotations"]["list"]}
    assert "ALERTS" in marks["Firing alerts"]["expr"]
    assert ("XID errors" in marks) == (dashboard["uid"] in {"gpu-device", "gpu-health"})


def test_the_xid_table_knows_every_number_of_the_page() -> None:
    page = (ROOT / "docs/runbooks/XID.md").read_text("utf-8")
    numbers = set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE))
    assert len(numbers) > 40
    (table,) = (panel for panel in panels(ALL["gpu-health"]) if panel["title"].startswith("XID errors"))
    for heading in ("What happened", "What to do"):
        (override,) = (each for each in table["fieldConfig"]["overrides"] if each["matcher"]["options"] == heading)
        (mapped,) = (each["value"] for each in override["properties"] if each["id"] == "mappings")
        assert set(mapped[0]["options"]) == numbers
        assert all(each["text"] for each in mapped[0]["options"].values())


# --- provisioning and pictures ----------------------------------------------------------------------------------------


def test_provisioning_names_what_the_dashboards_ask_for() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["isDefault"] is True
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape, "$__rate_interval is made of it"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/gpu-exporter.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].startswith("/")


def test_every_dashboard_has_a_page_and_a_picture() -> None:
    page = (ROOT / "docs/DASHBOARDS.md").read_text("utf-8")
    for uid in ALL:
        name = f"dashboard-{uid.removeprefix('gpu-')}.png"
        assert f"images/{name}" in page
        assert f"`{uid}`" in page
        picture = IMAGES / name
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert 20_000 < picture.stat().st_size <= 300_000, name
