"""What deploy/ has, with the demo's addresses and less patience: what waits for a minute there waits for a second here.

Conditions and thresholds, routes, groups, inhibition and templates are the deployed ones, word for word. Links to a
Grafana, which there is none of here, lead to the hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tools.lab import LOOPBACK, ROOT

DEPLOY = ROOT / "deploy"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FASTER = 60
# Behind the hub's address: the page of the GPU, of the machine, or of all machines, by what the alert is about.
_PAGE = """{{ with $labels.alias }}machines/{{ . | urlquery }}{{ with $labels.gpu }}/gpus/{{ . }}{{ end }}{{ end }}"""


@dataclass(frozen=True)
class Machine:
    """One of the fleet: what runs there, and under which name mails and dashboards know it."""

    alias: str
    model: str
    gpus: int
    seed: int
    port: int

    @property
    def url(self) -> str:
        """Its status page."""
        return f"http://{LOOPBACK}:{self.port}/"


def sooner(duration: str) -> str:
    """A sixtieth of the duration, at least a second."""
    return f"{max(1, int(duration[:-1]) * _SECONDS[duration[-1]] // _FASTER)}s"


def write_rules(folder: Path, *, hub: str) -> list[Path]:
    """Copies of the rule files that the deployed prometheus.yml loads."""
    copies = []
    for name in _read(DEPLOY / "prometheus/prometheus.yml")["rule_files"]:
        tree = _read(DEPLOY / "prometheus" / name)
        for group in tree["groups"]:
            _hurry(group, ("interval",))
            for rule in group["rules"]:
                _hurry(rule, ("for", "keep_firing_for"))
                if "dashboard_url" in rule.get("annotations", {}):
                    rule["annotations"]["dashboard_url"] = f"{hub}{_PAGE}"
        copies.append(folder / Path(name).name)
        copies[-1].write_text(yaml.safe_dump(tree))
    return copies


def write_hub(folder: Path, machines: Sequence[Machine]) -> tuple[Path, Path]:
    """The machines as Prometheus and the hub read them, and a hub.yml that hurries."""
    config = folder / "hub.yml"
    config.write_text("interval: 2s\nschedule: 1m\n")
    return _write_nodes(folder, machines), config


def _write_nodes(folder: Path, machines: Sequence[Machine]) -> Path:
    nodes = folder / "nodes.json"
    nodes.write_text(
        json.dumps(
            [{"targets": [f"{LOOPBACK}:{machine.port}"], "labels": {"alias": machine.alias}} for machine in machines]
        )
    )
    return nodes


def write_prometheus(folder: Path, machines: Sequence[Machine], *, port: int, alertmanager: int, hub: str) -> Path:
    """A prometheus.yml beside its nodes.yml and rules."""
    tree = _read(DEPLOY / "prometheus/prometheus.yml")
    tree["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
    tree["rule_files"] = [str(path) for path in write_rules(folder, hub=hub)]
    nodes = _write_nodes(folder, machines)
    addresses = {"alertmanager:9093": f"{LOOPBACK}:{alertmanager}", "localhost:9090": f"{LOOPBACK}:{port}"}
    for job in tree["scrape_configs"]:
        job.pop("scrape_timeout", None)
        for discovery in job.get("file_sd_configs", ()):
            discovery["files"] = [str(nodes)]
        _readdress(job.get("static_configs", ()), addresses)
    for manager in tree["alerting"]["alertmanagers"]:
        _readdress(manager["static_configs"], addresses)
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(tree))
    return file


def write_alertmanager(folder: Path, *, smtp: int) -> Path:
    """An alertmanager.yml that mails to the local mailbox."""
    tree = _read(DEPLOY / "alertmanager/alertmanager.yml")
    mail = tree["global"]
    for login in ("smtp_auth_username", "smtp_auth_password_file"):
        del mail[login]
    mail |= {"smtp_smarthost": f"{LOOPBACK}:{smtp}", "smtp_require_tls": False}
    tree["templates"] = [str(DEPLOY / "alertmanager/templates/*.tmpl")]
    for route in (tree["route"], *tree["route"]["routes"]):
        _hurry(route, ("group_wait", "group_interval"))
    file = folder / "alertmanager.yml"
    file.write_text(yaml.safe_dump(tree))
    return file


def _read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(path.read_text())
    return tree


def _hurry(tree: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        if key in tree:
            tree[key] = sooner(tree[key])


def _readdress(groups: Sequence[dict[str, list[str]]], addresses: Mapping[str, str]) -> None:
    for group in groups:
        group["targets"] = [addresses[target] for target in group["targets"]]
