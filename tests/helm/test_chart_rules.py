"""Rules and dashboards on their way through the chart: they arrive as they are in deploy/, but for what was asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.programs import Release

from helm.rendering import Rendered, named, render
from rules import ALERTS, RULES, load, promtool

DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
DEPLOYED: list[dict[str, Any]] = [group for path in RULES for group in load(path)["groups"]]


def _groups(rendered: Rendered) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rendered.one("PrometheusRule")["spec"]["groups"]
    return found


def _rules(rendered: Rendered) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in _groups(rendered) for rule in group["rules"] if "alert" in rule}


def test_without_changes_they_are_deploys() -> None:
    rendered = render({"prometheusRule": {"enabled": True}, "rules": {"disabledGroups": []}})
    assert _groups(rendered) == DEPLOYED
    assert any("{{ $value" in rule["annotations"]["description"] for rule in _rules(rendered).values())


def test_by_default_what_not_everybody_wants_is_left_out() -> None:
    found = _groups(render({"prometheusRule": {"enabled": True}}))
    assert found == [group for group in DEPLOYED if group["name"] != "gpu-optional"]
    stack = yaml.safe_load(named("stack").one("ConfigMap", "-prometheus")["data"]["rules.yml"])["groups"]
    assert stack == found, "Prometheus of the stack has the same"


@pytest.mark.parametrize("name", ["rules", "everything-else"])
def test_promtool_takes_them(name: str, tmp_path: Path, release: Release) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": _groups(named(name))}))
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", file, release=release)
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_pass_their_own_cases(tmp_path: Path, release: Release) -> None:
    """promtool's cases of deploy/, over the rules that the chart renders."""
    rendered = render({"prometheusRule": {"enabled": True}, "rules": {"disabledGroups": []}})
    (tmp_path / "rules").mkdir()
    for path in RULES:
        names = {group["name"] for group in load(path)["groups"]}
        groups = [group for group in _groups(rendered) if group["name"] in names]
        (tmp_path / "rules" / path.name).write_text(yaml.safe_dump({"groups": groups}))
    cases = tmp_path / "tests/alerts-exporter.yml"
    cases.parent.mkdir()
    cases.write_text((ROOT / "deploy/prometheus/tests/alerts-exporter.yml").read_text())
    done = promtool("test", "rules", cases, release=release)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_changed_is_changed_and_nothing_else() -> None:
    found, deployed = _rules(named("rules")), {rule.name: rule.body for rule in ALERTS}
    assert found["GPULost"]["for"] == "5m"
    assert found["GPULost"]["expr"] == deployed["GPULost"]["expr"]
    assert found["GPULost"]["labels"] == {**deployed["GPULost"]["labels"], "team": "hardware", "cluster": "lab"}
    assert found["GPULost"]["annotations"]["ticket"] == "{{ $labels.instance }}"
    assert found["GPULost"]["annotations"]["summary"] == deployed["GPULost"]["annotations"]["summary"]
    near = found["GPUTemperatureNearSlowdown"]
    assert (near["expr"], near["for"], near["keep_firing_for"]) == ("gpu_temperature_celsius > 80", "30m", "10m")
    assert "Watchdog" not in found
    assert found["GPUHbmHot"]["labels"]["severity"] == "info", "one alert of a group that is left out"
    groups = {group["name"]: group for group in _groups(named("rules"))}
    assert [rule["alert"] for rule in groups["gpu-optional"]["rules"]] == ["GPUHbmHot"]
    assert "gpu-jobs" not in groups
    assert groups["site"]["rules"] == [{"record": "site:gpu:count", "expr": "count(gpu_info)"}]


def test_links_lead_to_the_sites_own_pages() -> None:
    for name, rule in _rules(named("rules")).items():
        assert rule["annotations"]["dashboard_url"].startswith("https://grafana.example.com/d/gpu-"), name
        assert rule["annotations"]["runbook_url"] == f"https://wiki.example.com/gpu/{name}.md"
    stack = yaml.safe_load(named("stack-full").one("ConfigMap", "-prometheus")["data"]["rules.yml"])
    text = json.dumps(stack)
    assert "https://grafana.example.org/d/gpu-" in text
    assert "localhost" not in text


@pytest.mark.parametrize("path", DASHBOARDS, ids=[path.stem for path in DASHBOARDS])
def test_dashboards_are_deploys(path: Path) -> None:
    item = named("default").one("ConfigMap", f"-dashboard-{path.stem.removeprefix('gpu-')}")
    (text,) = item["data"].values()
    assert (list(item["data"]), json.loads(text)) == ([path.name], json.loads(path.read_text()))
    assert text.count("\n") == 1, "on one line"
    assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert item["metadata"]["annotations"] == {"grafana_folder": "GPU"}
    assert len(json.dumps(item)) < 150_000, "kubectl apply keeps a copy of it in an annotation, which may have 256 KiB"


def test_the_grafana_operator_reads_the_same_configmaps() -> None:
    rendered = named("dashboards-operator")
    assert len(rendered.all("GrafanaDashboard")) == len(DASHBOARDS) > 3
    for item in rendered.all("GrafanaDashboard"):
        reference = item["spec"]["configMapRef"]
        target = rendered.one("ConfigMap", reference["name"])
        assert reference["key"] in target["data"]
        assert target["metadata"]["namespace"] == item["metadata"]["namespace"] == "grafana"
        assert item["spec"]["instanceSelector"] == {"matchLabels": {"grafana": "main", "dashboards": "grafana"}}
        assert item["spec"]["folder"] == "GPU"
