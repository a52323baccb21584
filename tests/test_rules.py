"""The rules of deploy/prometheus: promtool's cases, coverage, wording, runbooks, and a real Prometheus with them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpu_exporter.catalog import CATALOG
from harness import ROOT, Exporter, Prometheus, program, wait_for

DEPLOY = ROOT / "deploy/prometheus"
RULES = sorted((DEPLOY / "rules").glob("*.yml"))
CASES = sorted((DEPLOY / "tests").glob("*.yml"))
SINGLE = [path for path in CASES if path.stem != "clusters"]  # those that name no cluster
RUNBOOKS = ROOT / "docs/runbooks"
RUNBOOK_URL = "https://github.com/gpu-exporter/gpu-exporter/blob/main/docs/runbooks/{}.md"
GRAFANA = "http://localhost:3000/d/"
DASHBOARDS = {"gpu-fleet", "gpu-node", "gpu-device", "gpu-owners", "gpu-health", "gpu-exporter"}

# DESIGN section 4 has these; they are in the catalogue as soon as accounting is, and are deleted here then.
NOT_YET_IN_THE_CATALOGUE = {
    "gpu_owner_memory_used_bytes",
    "gpu_owner_seconds_total",
    "gpu_process_memory_used_bytes",
    "gpu_state_seconds_total",
}

# What Prometheus and Alertmanager tell about themselves.
FOREIGN = {"up", "alertmanager_notifications_total", "alertmanager_notifications_failed_total"}

# Alerts about the whole of what a Prometheus watches: no machine, no GPU, and (but for the skew) no cluster.
FLEET = {"GPUDriverVersionSkew", "GPUExporterAbsent", "Watchdog"}
WITHOUT_CLUSTER = {"GPUExporterAbsent", "Watchdog"}
# A verb that tells the reader what to do.
ACTION = re.compile(
    r"(?i)\b(drain|stop|compare|act|restart|reset|take it out|plan|reseat|upgrade|enable|check|look|ask|end|make|move|"
    r"run|raise|improve|correct|repair|is the host up|watch)\b"
)


@dataclass(frozen=True)
class Rule:
    file: str
    group: str
    name: str
    expr: str
    body: Mapping[str, Any]

    @property
    def alert(self) -> bool:
        return "alert" in self.body

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.body.get("annotations", {}))


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def _rules() -> list[Rule]:
    return [
        Rule(path.name, group["name"], rule.get("alert") or rule["record"], rule["expr"], rule)
        for path in RULES
        for group in _load(path)["groups"]
        for rule in group["rules"]
    ]


ALL = _rules()
ALERTS = [rule for rule in ALL if rule.alert]
RECORDS = [rule for rule in ALL if not rule.alert]
alerts = pytest.mark.parametrize("rule", ALERTS, ids=[rule.name for rule in ALERTS])


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- promtool ---------------------------------------------------------------------------------------------------------


def test_the_rules_are_valid_and_lint_clean() -> None:
    _promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_the_configuration_is_valid() -> None:
    _promtool("check", "config", "--lint=all", "--lint-fatal", DEPLOY / "prometheus.yml")
    config = _load(DEPLOY / "prometheus.yml")
    loaded = {Path(name).name for name in config["rule_files"]}
    assert loaded == {path.name for path in RULES} - {"alerts-optional.yml"}
    assert config["scrape_configs"][0]["job_name"] == "gpu-exporter"


def test_what_is_commented_out_can_be_taken_into_use(tmp_path: Path) -> None:
    text = (DEPLOY / "prometheus.yml").read_text("utf-8")
    used = re.sub(r"^( *)#: ?", r"\1", text, flags=re.MULTILINE)
    assert used != text
    file = tmp_path / "prometheus.yml"
    file.write_text(used)
    (tmp_path / "rules").symlink_to(DEPLOY / "rules")
    config = _load(file)
    assert len(config["remote_write"]) == 3
    assert {job["job_name"] for job in config["scrape_configs"]} >= {"gpu-exporter", "federate"}
    assert "rules/alerts-optional.yml" in config["rule_files"]
    _promtool("check", "config", "--syntax-only", file)


def test_the_example_of_nodes_has_targets_and_aliases() -> None:
    for entry in _load(DEPLOY / "nodes.yml"):
        assert all(re.fullmatch(r"\S+:9435", target) for target in entry["targets"])
        assert entry["labels"]["alias"]


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_the_cases_pass(path: Path) -> None:
    _promtool("test", "rules", path)


@pytest.mark.parametrize("path", SINGLE, ids=[path.stem for path in SINGLE])
def test_the_cases_pass_in_two_clusters_that_must_not_mix(path: Path, tmp_path: Path) -> None:
    """Every series and every expected sample twice: as they stand, and with cluster="east" and the same names."""
    cases = _load(path)
    for case in cases["tests"]:
        case["input_series"] += [{**item, "series": _in_cluster(item["series"])} for item in case["input_series"]]
        for check in case["promql_expr_test"]:
            if not any(f'"{name}"' in check["expr"] for name in WITHOUT_CLUSTER):
                check["exp_samples"] += [
                    {**sample, "labels": _in_cluster(sample["labels"])} for sample in check["exp_samples"]
                ]
    (tmp_path / "rules").symlink_to(DEPLOY / "rules")
    doubled = tmp_path / "tests" / path.name
    doubled.parent.mkdir()
    doubled.write_text(yaml.safe_dump(cases))
    _promtool("test", "rules", doubled)


def _in_cluster(series: str) -> str:
    name, brace, labels = series.partition("{")
    return f'{name}{{cluster="east",{labels}' if brace else f'{name}{{cluster="east"}}'


# --- coverage ---------------------------------------------------------------------------------------------------------


def _checks() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every check, with the case it stands in."""
    for path in CASES:
        for case in _load(path)["tests"]:
            for check in case["promql_expr_test"]:
                yield f"{path.stem}: {case['name']}", check


def _minutes(time: str) -> float:
    found = re.fullmatch(r"(\d+)m", time)
    assert found, f"{time}: write minutes, so that times compare"
    return float(found[1])


def _missing_cases(rules: list[Rule], checks: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """What no case shows of which rule."""
    missing = []
    for rule in rules:
        if not rule.alert:
            pattern = re.compile(rf"(?<![\w:]){re.escape(rule.name)}(?![\w:])")
            if not any(pattern.search(check["expr"]) and check["exp_samples"] for _, check in checks):
                missing.append(f"{rule.name}: a value")
            continue
        mine = [(case, check) for case, check in checks if f'alertname="{rule.name}"' in check["expr"]]
        fired = [(case, _minutes(check["eval_time"]), len(check["exp_samples"])) for case, check in mine]
        if not any(count for _, _, count in fired):
            missing.append(f"{rule.name}: fires")
        if rule.name == "Watchdog":
            continue
        if not any(
            case == other and when < later and more > fewer
            for case, when, more in fired
            for other, later, fewer in fired
        ):
            missing.append(f"{rule.name}: resolves")
        if "for" in rule.body and not any(
            case == other and when < later and fewer < more
            for case, when, fewer in fired
            for other, later, more in fired
        ):
            missing.append(f"{rule.name}: waits for {rule.body['for']}")
    return missing


def test_every_rule_has_cases() -> None:
    assert _missing_cases(ALL, list(_checks())) == []


def test_a_rule_without_cases_is_found() -> None:
    new = Rule("x.yml", "x", "GPUNew", "gpu_up == 2", {"alert": "GPUNew", "for": "5m"})
    record = Rule("x.yml", "x", "instance:gpu_new:sum", "sum(gpu_up)", {"record": "instance:gpu_new:sum"})
    found = _missing_cases([new, record], list(_checks()))
    assert found == ["GPUNew: fires", "GPUNew: resolves", "GPUNew: waits for 5m", "instance:gpu_new:sum: a value"]


def test_cases_name_only_rules_that_exist() -> None:
    names = {rule.name for rule in ALERTS}
    named = {name for _, check in _checks() for name in re.findall(r'alertname="(\w+)"', check["expr"])}
    assert named == names


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_groups_small() -> None:
    names = [rule.name for rule in ALL]
    assert len(names) == len(set(names))
    groups = [(group["name"], len(group["rules"])) for path in RULES for group in _load(path)["groups"]]
    assert len(groups) == len({name for name, _ in groups})
    assert all(count <= 20 and len(name) <= 40 for name, count in groups), groups


@alerts
def test_alert_names_and_severities(rule: Rule) -> None:
    if rule.name == "Watchdog":
        assert rule.body["labels"]["severity"] == "none"
        return
    assert re.fullmatch(r"GPU[A-Z]\w*", rule.name)
    assert len(rule.name) <= 40
    assert rule.body["labels"] == {"severity": rule.body["labels"]["severity"]}
    assert rule.body["labels"]["severity"] in {"critical", "warning", "info"}


def test_recording_rules_are_named_level_metric_operations() -> None:
    level = r"(instance|cluster|model|owner|instance_gpu|instance_owner|instance_gpu_owner)"
    for rule in RECORDS:
        assert re.fullmatch(rf"{level}:gpu_[a-z_]+:[a-z0-9_]+", rule.name), rule.name
        assert not re.search(r"_total:rate", rule.name), "a rate is no total"


_WORDS = re.compile(r"[a-zA-Z_:][\w:]*")
_LANGUAGE = set(
    re.findall(
        r"\w+",
        """
        and or unless by on ignoring without group_left group_right bool offset sum count avg min max quantile rate
        increase time vector absent clamp_max ceil floor label_replace
        count_values deriv avg_over_time count_over_time last_over_time max_over_time
        """,
    )
)


def _metrics(expr: str) -> set[str]:
    """The metric names of an expression: words that are no label, function, keyword, string or duration."""
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", r"\1", bare)
    bare = re.sub(r"(?<![\w:])\d[\w.]*", "", bare)
    return set(_WORDS.findall(bare)) - _LANGUAGE


def test_metrics_are_found_in_expressions() -> None:
    expr = 'sum by (a, b) (rate(gpu_x_total{c=~"d|e"}[5m])) > 0.5e9 and on (f) i:gpu_y:sum unless time() - up == bool 1'
    assert _metrics(expr) == {"gpu_x_total", "i:gpu_y:sum", "up"}


@pytest.mark.parametrize("rule", ALL, ids=[rule.name for rule in ALL])
def test_every_metric_exists(rule: Rule) -> None:
    known = {metric.name for metric in CATALOG} | {record.name for record in RECORDS} | FOREIGN
    assert _metrics(rule.expr) - known - NOT_YET_IN_THE_CATALOGUE == set()


def test_labels_of_the_catalogue_have_the_values_that_rules_ask_for() -> None:
    """A matcher on a value that nobody exports (reason="hw_thermal") would never fire."""
    values: dict[tuple[str, str], set[str]] = {}
    for metric in CATALOG:
        for label, value in metric.labels:
            values.setdefault((metric.name, label), set()).add(value)
    for rule in ALL:
        for name, matchers in re.findall(r"\b(gpu_\w+)\{([^}]*)\}", rule.expr):
            for label, operator, text in re.findall(r'(\w+)\s*(=~|=)\s*"([^"]*)"', matchers):
                known = values.get((name, label))
                if known is not None:
                    found = {
                        value for value in known if re.fullmatch(text if operator == "=~" else re.escape(text), value)
                    }
                    assert found, f"{rule.name}: {name} has no {label}{operator}{text}"


# --- wording ----------------------------------------------------------------------------------------------------------


@alerts
def test_annotations(rule: Rule) -> None:
    assert set(rule.annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    summary, description = rule.annotations["summary"], rule.annotations["description"]
    assert re.fullmatch(r"[A-Z][^{}]*\.", summary), "a static sentence"
    assert len(summary) <= 80
    assert "{{ $value" in description
    assert ACTION.search(re.sub(r"{{.*?}}", "", description)), "what to do"
    assert description.endswith((".", ")."))
    assert rule.annotations["runbook_url"] == RUNBOOK_URL.format(rule.name)
    url = rule.annotations["dashboard_url"]
    assert url.startswith(GRAFANA)
    assert url.removeprefix(GRAFANA).partition("?")[0] in DASHBOARDS
    if rule.name not in FLEET:
        assert "$labels.instance" in description
    if not rule.file.startswith("alerts-exporter") and rule.name not in {*FLEET, "GPUMissing"}:
        assert "GPU {{ $labels.gpu }} ({{ $labels.model }})" in description


@alerts
def test_runbooks(rule: Rule) -> None:
    text = (RUNBOOKS / f"{rule.name}.md").read_text("utf-8")
    assert text.startswith(f"# {rule.name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
    sections = dict(re.findall(r"^## (\w+)\n+(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert all(len(section.strip()) >= 40 for section in sections.values()), "no empty section"
    assert "```" in sections["Diagnosis"], "commands"
    for target in re.findall(r"\]\(([\w./-]+\.md)", text):
        assert (RUNBOOKS / target).exists(), target


@alerts
def test_queries_of_runbooks(rule: Rule) -> None:
    text = (RUNBOOKS / f"{rule.name}.md").read_text("utf-8")
    queries = [line for block in re.findall(r"```promql\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    known = {metric.name for metric in CATALOG} | {record.name for record in RECORDS} | FOREIGN
    known |= NOT_YET_IN_THE_CATALOGUE | {"ALERTS", "process_cpu_seconds_total"}
    assert {name for query in queries for name in _metrics(query)} - known == set()


def test_there_is_no_runbook_without_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {rule.name for rule in ALERTS} | {"README", "XID"}


def test_the_list_of_runbooks_is_complete() -> None:
    text = (RUNBOOKS / "README.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| (\w+) \|", text, re.MULTILINE))
    assert listed == {rule.name: rule.body["labels"]["severity"] for rule in ALERTS}


def test_the_page_of_xids_and_the_rules_agree() -> None:
    table = re.findall(
        r"^\| (\d+) \|.*\| (critical|warning|none) \|$", (RUNBOOKS / "XID.md").read_text("utf-8"), re.MULTILINE
    )
    for severity, alert in (("critical", "GPUXidCritical"), ("warning", "GPUXidWarning")):
        expr = next(rule.expr for rule in ALERTS if rule.name == alert)
        matcher = re.search(r'xid=~"([\d|]+)"', expr)
        assert matcher
        assert {xid for xid, of in table if of == severity} == set(matcher[1].split("|"))
    assert {"13", "31", "43", "45", "63", "92"} <= {xid for xid, of in table if of == "none"}


# --- a real Prometheus ------------------------------------------------------------------------------------------------

CONFIGURATION = """\
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: ['{folder}/*.yml']
scrape_configs:
  - job_name: gpu-exporter
    static_configs: [{{targets: ['127.0.0.1:{port}'], labels: {{alias: gpu-a}}}}]
"""
FULL = {
    "alias": "gpu-a", "cluster": "lab 1", "fan": "0", "gpu": "3", "instance": "10.0.1.7:9435", "integration": "email",
    "kind": "crc_flit", "location": "dram", "model": "NVIDIA H100 80GB HBM3", "namespace": "ml", "owner": "ann & bob",
    "owner_kind": "pod", "uuid": "GPU-1", "xid": "79",
}  # fmt: skip
BARE = {name: value for name, value in FULL.items() if name not in {"alias", "cluster", "namespace"}}


def _impatient(text: str) -> str:
    """The rules without their waits, with minutes as seconds."""
    text = re.sub(
        r"^ +(for|keep_firing_for): .*\n", "", re.sub(r"interval: \w+", "interval: 500ms", text), flags=re.MULTILINE
    )
    return re.sub(r"\[(\d+)m\]", r"[\1s]", text)


def _spoken(labels: Mapping[str, str], name: str) -> Any:
    """Every alert, firing at once with these labels: what do its words become?"""
    expr = "vector(0.37)"
    for label, value in labels.items():
        expr = f'label_replace({expr}, "{label}", "{value}", "", "")'
    rules = [{**rule.body, "expr": expr, "labels": {"said": name}} for rule in ALERTS]
    for rule in rules:
        rule.pop("for", None)
        rule.pop("keep_firing_for", None)
    return {"groups": [{"name": f"said-{name}", "rules": rules}]}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus with all rules, without their waits, that watches eight healthy simulated GPUs."""
    folder = tmp_path_factory.mktemp("rules")
    (folder / "rules").mkdir()
    for path in RULES:
        (folder / "rules" / path.name).write_text(_impatient(path.read_text("utf-8")))
    for name, labels in (("full", FULL), ("bare", BARE)):
        (folder / "rules" / f"said-{name}.yml").write_text(yaml.safe_dump(_spoken(labels, name)))
    with Exporter(folder, "--source=fake", "--fake.gpus=8", "--collection.interval=500ms") as exporter:
        configuration = CONFIGURATION.format(folder=folder / "rules", port=exporter.port)
        with Prometheus(folder, configuration) as server:
            wait_for(lambda: server.number("sum(cluster:gpu_score:class_count)") == 8, "scores", 30)
            wait_for(
                lambda: server.number('count_over_time(ALERTS{alertname="Watchdog",said=""}[1h]) >= 20'),
                "evaluations",
                30,
            )
            yield server


def _api(server: Prometheus, path: str) -> Any:
    status, body = server._get(path)
    assert status == 200
    return json.loads(body)["data"]


def test_a_real_prometheus_evaluates_every_rule(prometheus: Prometheus) -> None:
    groups = _api(prometheus, "/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"] if not group["name"].startswith("said-")]
    assert len(rules) == len(ALL)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_a_healthy_fleet_is_silent(prometheus: Prometheus) -> None:
    firing = {
        (labels["alertname"], labels["severity"])
        for labels, _ in prometheus.query('max_over_time(ALERTS{alertstate="firing",said=""}[2s])')
    }
    assert ("Watchdog", "none") in firing
    assert firing - {("Watchdog", "none"), ("GPUIdleHeld", "info"), ("GPUIdleHeldLong", "warning")} == set()


def test_recorded_values_of_the_fake_fleet(prometheus: Prometheus) -> None:
    ask = prometheus.number
    assert ask('cluster:gpu_exporter_gpus:sum{state="up"}') == 8
    assert ask("sum(cluster:gpu_score:class_count)") == 8
    assert ask("max(instance_gpu:gpu_score:ratio) <= 1") is not None
    assert ask("min(instance_gpu:gpu_score:class)") == 0, "one of the eight is idle"
    assert ask("max(instance_gpu:gpu_score:class)") == 3, "four of the eight train"


def test_what_alerts_say(prometheus: Prometheus) -> None:
    """Templates, as Prometheus fills them in, with all labels and with only those that are always there."""
    said = {
        (alert["labels"]["alertname"], alert["labels"]["said"]): alert["annotations"]
        for alert in _api(prometheus, "/api/v1/alerts")["alerts"]
        if "said" in alert["labels"]
    }
    assert {name for name, _ in said} == {rule.name for rule in ALERTS}
    for (name, labels), words in said.items():
        everything = " ".join(words.values())
        for trouble in ("<error", "<no value>", "%!", "{{", "()", "  "):
            assert trouble not in everything, f"{name}: {everything}"
        description, url = words["description"], words["dashboard_url"]
        assert " " not in url
        if name not in FLEET:
            host = "gpu-a" if labels == "full" and name != "GPUAlertmanagerMailFailing" else "10.0.1.7:9435"
            assert host in description
        if "var-instance" in url:
            assert "var-instance=10.0.1.7%3A9435" in url
        if "var-owner" in url:
            assert "var-owner=ann+%26+bob" in url
    assert said["GPULost", "full"]["description"].startswith(
        "GPU 3 (NVIDIA H100 80GB HBM3) of gpu-a has not answered for a minute"
    )
    assert said["GPUXidCritical", "bare"]["description"].startswith(
        "GPU 3 (NVIDIA H100 80GB HBM3) of 10.0.1.7:9435 reported XID 79 "
    )
    assert "37% of the last five minutes" in said["GPUThermalSlowdown", "full"]["description"]
    assert said["GPUIdleHeld", "full"]["description"].startswith("ann & bob (ml) holds GPU 3 ")
    assert said["GPUIdleHeld", "bare"]["description"].startswith("ann & bob holds GPU 3 ")
