"""The rules of deploy/prometheus as they are written: valid, named alike, of known metrics, in words that help."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from tools.lab.programs import Release

from gpu_exporter.catalog import CATALOG
from rules import (
    ALERTS,
    ALL,
    DEPLOY,
    FLEET,
    KNOWN,
    OF_MACHINES,
    RECORDS,
    RULES,
    Rule,
    assert_promtool,
    load,
    metrics,
    where,
)

RUNBOOK_URL = "https://github.com/gpu-exporter/gpu-exporter/blob/main/docs/runbooks/{}.md"
GRAFANA = "http://localhost:3000/d/"
DASHBOARDS = {"gpu-fleet", "gpu-node", "gpu-device", "gpu-owners", "gpu-health", "gpu-exporter"}

# How a description names the GPU and the machine.
GPU = "GPU {{ $labels.gpu }} ({{ $labels.model }})"
HOST = "{{ or $labels.alias $labels.instance }}"

# What a service that takes idle GPUs back is told as well (docs/MAIL.md).
MORE = {"GPUIdleHeld": {"state", "score"}, "GPUIdleHeldLong": {"state", "score"}}

# A verb that tells the reader what to do.
ACTION = re.compile(
    r"(?i)\b(drain|stop|compare|act|restart|reset|take it out|plan|reseat|upgrade|enable|check|look|ask|end|make|move|"
    r"run|raise|improve|correct|repair|is the host up|watch)\b"
)
alerts = pytest.mark.parametrize("rule", ALERTS, ids=[rule.name for rule in ALERTS])


def test_the_rules_are_valid_and_lint_clean(release: Release) -> None:
    assert_promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES, release=release)


def test_the_configuration_is_valid(release: Release) -> None:
    assert_promtool("check", "config", "--lint=all", "--lint-fatal", DEPLOY / "prometheus.yml", release=release)
    config = load(DEPLOY / "prometheus.yml")
    loaded = {Path(name).name for name in config["rule_files"]}
    assert loaded == {path.name for path in RULES} - {"alerts-optional.yml"}
    assert config["scrape_configs"][0]["job_name"] == "gpu-exporter"


def test_what_is_commented_out_can_be_taken_into_use(tmp_path: Path, release: Release) -> None:
    text = (DEPLOY / "prometheus.yml").read_text("utf-8")
    used = re.sub(r"^( *)#: ?", r"\1", text, flags=re.MULTILINE)
    assert used != text
    file = tmp_path / "prometheus.yml"
    file.write_text(used)
    (tmp_path / "rules").symlink_to(DEPLOY / "rules")
    config = load(file)
    assert len(config["remote_write"]) == 3
    assert {job["job_name"] for job in config["scrape_configs"]} >= {"gpu-exporter", "federate"}
    assert "rules/alerts-optional.yml" in config["rule_files"]
    assert_promtool("check", "config", "--syntax-only", file, release=release)


def test_federation_brings_what_the_dashboards_read() -> None:
    text = (DEPLOY / "prometheus.yml").read_text("utf-8")
    config = yaml.safe_load(re.sub(r"^( *)#: ?", r"\1", text, flags=re.MULTILINE))
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "federate")
    by_name = [found[1] for match in job["params"]["match[]"] if (found := re.search(r'__name__=~"([^"]+)"', match))]
    by_job = [match for match in job["params"]["match[]"] if match == '{job="gpu-exporter"}']
    assert by_job, "all that the exporters tell: metrics, up, what a scrape is told of"
    recorded = {record.name for record in RECORDS} | {"ALERTS"}
    missed = {name for name in recorded if not any(re.fullmatch(pattern, name) for pattern in by_name)}
    assert missed == set(), "recorded series keep no job"
    assert job["honor_labels"] is True


def test_alerts_of_a_pair_of_prometheus_are_one() -> None:
    config = load(DEPLOY / "prometheus.yml")
    (relabeling,) = config["alerting"]["alert_relabel_configs"]
    assert relabeling["action"] == "labeldrop"
    for label in ("replica", "prometheus_replica", "__replica__"):
        assert re.fullmatch(relabeling["regex"], label)
    kept = ("cluster", "instance", "alias", "rack", "gpu", "uuid", "model", "xid", "owner", "namespace", "severity")
    assert not [label for label in kept if re.fullmatch(relabeling["regex"], label)]


def test_what_is_recorded_seldom_is_read_over_a_range() -> None:
    """An instant selector looks back for five minutes, and in vmalert not to what the same evaluation recorded."""
    seldom = {
        rule["record"]
        for path in RULES
        for group in load(path)["groups"]
        for rule in group["rules"]
        if "record" in rule and group.get("interval", "30s") in {"5m", "15m", "1h"}
    }
    assert seldom
    bare = [
        f"{where(rule)}: {name}"
        for rule in ALL
        for name in seldom
        if re.search(rf"(?<![\w:]){re.escape(name)}(?![\w:])(?:\{{[^}}]*\}})?(?!\[|\{{)", rule.expr)
    ]
    assert bare == [], "write last_over_time(…[…]), longer than the group's interval"


def test_the_example_of_nodes_has_targets_and_aliases() -> None:
    for entry in load(DEPLOY / "nodes.yml"):
        assert all(re.fullmatch(r"\S+:9435", target) for target in entry["targets"])
        assert entry["labels"]["alias"]


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_groups_small() -> None:
    names = [rule.name for rule in ALL]
    assert len(names) == len(set(names))
    groups = [(group["name"], len(group["rules"])) for path in RULES for group in load(path)["groups"]]
    assert len(groups) == len({name for name, _ in groups})
    assert all(count <= 20 and len(name) <= 40 for name, count in groups), groups


@alerts
def test_alert_names_and_severities(rule: Rule) -> None:
    labels = dict(rule.body.get("labels", {}))
    assert labels.pop("bundle", "") == "gpu-exporter", f"{where(rule)}: write labels: {{…, bundle: gpu-exporter}}"
    if rule.name == "Watchdog":
        assert labels == {"severity": "none"}
        return
    assert re.fullmatch(r"GPU[A-Z]\w{,36}", rule.name), f"{where(rule)}: a name is GPU and words, 40 characters at most"
    severities = [{"severity": severity} for severity in ("critical", "warning", "info")]
    assert labels in severities, f"{where(rule)}: write labels: {{severity: critical|warning|info, bundle: …}}"


def test_recording_rules_are_named_level_metric_operations() -> None:
    level = r"(instance|cluster|owner|instance_gpu|instance_owner|instance_gpu_owner)"
    for rule in RECORDS:
        assert re.fullmatch(rf"{level}:gpu_[a-z_]+:[a-z0-9_]+", rule.name), rule.name
        assert not re.search(r"_total:rate", rule.name), "a rate is no total"


def test_metrics_are_found_in_expressions() -> None:
    expr = 'sum by (a, b) (rate(gpu_x_total{c=~"d|e"}[5m])) > 0.5e9 and on (f) i:gpu_y:sum unless time() - up == bool 1'
    assert metrics(expr) == {"gpu_x_total", "i:gpu_y:sum", "up"}


@pytest.mark.parametrize("rule", ALL, ids=[rule.name for rule in ALL])
def test_every_metric_exists(rule: Rule) -> None:
    unknown = sorted(metrics(rule.expr) - KNOWN)
    assert unknown == [], f"{where(rule)}: neither docs/METRICS.md nor a recording rule has {unknown}"


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
    here = where(rule)
    needed = {"summary", "description", "runbook_url", "dashboard_url", *MORE.get(rule.name, ())}
    assert set(rule.annotations) == needed, f"{here}: under annotations write {', '.join(sorted(needed))}"
    summary, description = rule.annotations["summary"], rule.annotations["description"]
    assert re.fullmatch(r"[A-Z][^{}]{,78}\.", summary), (
        f"{here}: summary is a sentence without templates, of 80 characters"
    )
    assert "{{ $value" in description, f"{here}: description tells the number: {{{{ $value }}}}"
    assert ACTION.search(re.sub(r"{{.*?}}", "", description)), f"{here}: description says what to do: {ACTION.pattern}"
    assert description.endswith((".", ").")), f"{here}: description ends with a full stop"
    expected = RUNBOOK_URL.format(rule.name)
    assert rule.annotations["runbook_url"] == expected, f"{here}: write runbook_url: {expected}"
    board = rule.annotations["dashboard_url"].partition("?")[0]
    boards = {GRAFANA + name for name in DASHBOARDS}
    assert board in boards, f"{here}: dashboard_url begins with one of {', '.join(sorted(boards))}"
    if rule.name not in FLEET:
        assert "$labels.instance" in description, f"{here}: description names the machine: {HOST}"
    if rule.file not in {"alerts-exporter.yml", "alerts-host.yml"} and rule.name not in {*FLEET, *OF_MACHINES}:
        assert GPU in description, f"{here}: description names the GPU: {GPU}"


@pytest.mark.parametrize("path", RULES, ids=[path.stem for path in RULES])
def test_a_comment_beside_every_alert_says_where_its_number_comes_from(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    bare = [
        f"deploy/prometheus/rules/{path.name}:{number}: {line.strip()}"
        for number, (before, line) in enumerate(pairwise(lines), 2)
        if "- alert:" in line and not before.lstrip().startswith("# ")
    ]
    assert bare == [], "write above it where threshold and wait come from: # NVML says …; # for: …; or: # Our choice."


def test_what_is_opt_in_is_not_loaded_by_default() -> None:
    loaded = {Path(name).name for name in load(DEPLOY / "prometheus.yml")["rule_files"]}
    assert {rule.file for rule in ALERTS if rule.name.startswith("GPUHbm")} == {"alerts-optional.yml"}
    assert {rule.file for rule in ALL} - loaded == {"alerts-optional.yml"}
