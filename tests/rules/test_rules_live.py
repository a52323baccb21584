"""The rules in a real Prometheus that watches simulated GPUs: evaluated, silent on healthy ones, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from tools.lab.exporter import Exporter
from tools.lab.programs import Release
from tools.lab.prometheus import Prometheus
from tools.lab.wait import wait_for

from fleets import eight_at_work
from rules import ALERTS, ALL, FLEET, RULES

CONFIGURATION = """\
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: ['{folder}/*.yml']
scrape_configs:
  - job_name: gpu-exporter
    static_configs: [{{targets: ['127.0.0.1:{port}'], labels: {{alias: gpu-a}}}}]
"""
FULL = {
    "alias": "gpu-a", "cluster": "lab 1", "condition": "route_unhealthy", "fan": "0", "gpu": "3",
    "instance": "10.0.1.7:9435", "integration": "email",
    "kind": "crc_flit", "location": "dram", "model": "NVIDIA H100 80GB HBM3", "namespace": "ml", "owner": "ann & bob",
    "owner_kind": "pod", "uuid": "GPU-1", "was": "GPUHbmHot", "xid": "79",
    "event": "poison", "sxid": "20034", "pci_bus_id": "0000:c4:00.0",
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
def prometheus(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Iterator[Prometheus]:
    """A Prometheus with all rules, without their waits, that watches eight healthy simulated GPUs."""
    folder = tmp_path_factory.mktemp("rules")
    (folder / "rules").mkdir()
    for path in RULES:
        (folder / "rules" / path.name).write_text(_impatient(path.read_text("utf-8")))
    for name, labels in (("full", FULL), ("bare", BARE)):
        (folder / "rules" / f"said-{name}.yml").write_text(yaml.safe_dump(_spoken(labels, name)))
    seed, _ = eight_at_work()
    fake = "--source=fake", "--fake.gpus=8", f"--fake.seed={seed}"
    with Exporter(folder, *fake, "--collection.interval=500ms") as exporter:
        configuration = CONFIGURATION.format(folder=folder / "rules", port=exporter.port)
        with Prometheus(folder, configuration, release) as server:
            wait_for(lambda: server.number("sum(cluster:gpu_score:class_count)") == 8, "scores")
            wait_for(
                lambda: server.number('count_over_time(ALERTS{alertname="Watchdog",said=""}[1h]) >= 20'),
                "evaluations",
            )
            yield server


def test_a_real_prometheus_evaluates_every_rule(prometheus: Prometheus) -> None:
    groups = prometheus.get("rules")["groups"]
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
        for alert in prometheus.get("alerts")["alerts"]
        if "said" in alert["labels"]
    }
    assert {name for name, _ in said} == {rule.name for rule in ALERTS}
    for (name, labels), words in said.items():
        everything = " ".join(filter(None, words.values()))
        for trouble in ("<error", "<no value>", "%!", "{{", "()", "  "):
            assert trouble not in everything, f"{name}: {everything}"
        description, url = words["description"], words["dashboard_url"]
        assert words.get("state") == ("idle_held" if name.startswith("GPUIdleHeld") else None)
        assert not words.get("score"), "of a GPU that is not there"
        assert " " not in url
        if name not in FLEET:
            host = "gpu-a" if labels == "full" and not name.startswith("GPUAlertmanager") else "10.0.1.7:9435"
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
