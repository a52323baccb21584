"""What is deployed for Alertmanager, with short times and local addresses; and what its templates make of alerts."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tools.lab import ROOT
from tools.lab.alertmanager import amtool
from tools.lab.programs import Release

DEPLOYED = ROOT / "deploy/alertmanager"
CONFIGURATION = DEPLOYED / "alertmanager.yml"
TEMPLATES = DEPLOYED / "templates/*.tmpl"
PASSWORD = "from a file"  # noqa: S105 - the test's own
Told = dict[str, Any]


# --- what is deployed, for a test -----------------------------------------------------------------------------------


def replaced(tree: Any, path: Sequence[str | int], value: object) -> None:
    """Set what is there already: a key that the deployed file does not have is a mistake of the test or of the file."""
    place = tree
    for step in path[:-1]:
        place = place[step]
    place[path[-1]]  # KeyError where it is missing
    place[path[-1]] = value


def with_holders() -> str:
    """The deployed alertmanager.yml with the mails to those who hold GPUs switched on, as its comment says."""
    text = CONFIGURATION.read_text()
    assert "#holders: " in text
    return text.replace("#holders: ", "")


def configuration(
    folder: Path, *, smtp_port: int, wait: str = "1s", never: str = "", holders: bool = False
) -> dict[str, Any]:
    """The deployed alertmanager.yml with short waits, a local mail server; time intervals are always or ``never``.

    With ``never="office-hours"`` their switch is taken into use, with ``holders`` the mails to those who hold GPUs.
    """
    text = with_holders() if holders else CONFIGURATION.read_text()
    if never == "office-hours":
        text = text.replace("#: active_time_intervals: [office-hours]", "active_time_intervals: [office-hours]")
    tree: dict[str, Any] = copy.deepcopy(yaml.safe_load(text))
    (folder / "smtp-password").write_text(PASSWORD)
    replaced(tree, ("global", "smtp_smarthost"), f"127.0.0.1:{smtp_port}")
    replaced(tree, ("global", "smtp_auth_password_file"), str(folder / "smtp-password"))
    replaced(tree, ("global", "smtp_require_tls"), False)
    replaced(tree, ("templates",), [str(TEMPLATES)])
    for route in [tree["route"], *tree["route"]["routes"]]:
        replaced(route, ("group_wait",), wait)
        replaced(route, ("group_interval",), "2s")
        replaced(route, ("repeat_interval",), "1h")
    assert never in {"", *(interval["name"] for interval in tree["time_intervals"])}
    for interval in tree["time_intervals"]:
        when: dict[str, object] = {"times": [{"start_time": "00:00", "end_time": "24:00"}]}
        if interval["name"] == never:
            when["years"] = ["2001"]
        replaced(interval, ("time_intervals",), [when])
    return tree


# --- the templates --------------------------------------------------------------------------------------------------


def told(labels: Mapping[str, str], annotations: Mapping[str, str] | None = None, *, ended: bool = False) -> Told:
    times = {"startsAt": "2026-11-20T10:23:41Z", "endsAt": "2026-11-20T10:53:41Z"}
    return {
        "status": "resolved" if ended else "firing",
        "labels": dict(labels),
        "annotations": dict(annotations or {}),
        **times,
    }


def render(
    folder: Path,
    template: str,
    *alerts: Mapping[str, Any],
    kind: str = "text",
    release: Release = "debian",
    templates: Path = TEMPLATES,
) -> str:
    """What amtool makes of a named template for a group of alerts."""
    shared = [found["labels"] for found in alerts]
    data = {
        "receiver": "oncall",
        "status": "firing" if any(found["status"] == "firing" for found in alerts) else "resolved",
        "alerts": alerts,
        "groupLabels": {name: shared[0][name] for name in ("cluster", "instance") if name in shared[0]},
        "commonLabels": dict(set.intersection(*(set(labels.items()) for labels in shared))),
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.test:9093",
    }  # fmt: skip
    (folder / "data.json").write_text(json.dumps(data))
    done = amtool(
        "template", "render", f"--template.glob={templates}", f"--template.data={folder / 'data.json'}",
        f"--template.type={kind}", f'--template.text={{{{ template "{template}" . }}}}', release=release,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- examples of alerts ----------------------------------------------------------------------------------------------

HOST = {"instance": "10.0.0.7:9435", "alias": "gpu-node-7"}
GPU = {**HOST, "gpu": "3", "uuid": "GPU-7b8bace7-f031-48d1-9451-c1fcd4f8ad29", "model": "NVIDIA H100 80GB HBM3"}
HELD = {**GPU, "owner_kind": "user", "owner": "alice"}


def hot(gpu: int, **labels: str) -> Told:
    return told({"alertname": "GPUTemperatureNearSlowdown", "severity": "warning", **GPU, "gpu": str(gpu), **labels})


def xid(gpu: int, number: int) -> Told:
    return told({"alertname": "GPUXidCritical", "severity": "critical", **GPU, "gpu": str(gpu), "xid": str(number)})


def other(name: str, **labels: str) -> Told:
    return told({"alertname": name, **labels})


def ill(gpu: int, name: str = "GPUTemperatureNearSlowdown", host: int = 7, **labels: str) -> Told:
    """As long as such an alert is: a description of 400 characters, an owner."""
    where = {"instance": f"10.0.0.{host}:9435", "alias": f"gpu-node-{host}"}
    words = f"GPU {gpu} of gpu-node-{host} is ill. " + "It has 91 °C, and somebody should look at its fans. " * 8
    notes = {
        "summary": f"What {name} says in a sentence of its own.",
        "description": words,
        "runbook_url": f"https://github.com/gpu-exporter/gpu-exporter/blob/main/docs/runbooks/{name}.md",
        "dashboard_url": "http://localhost:3000/d/gpu-device?var-cluster=&var-instance=10.0.0.7%3A9435&var-gpu=3",
    }
    uuid = f"GPU-7b8bace7-f031-48d1-9451-{host:06d}{gpu:06d}"
    return told(
        {"alertname": name, "severity": "warning", **GPU, **where, "gpu": str(gpu), "uuid": uuid, **labels}, notes
    )


# --- the rules ------------------------------------------------------------------------------------------------------


def deploy_rules(folder: Path) -> None:
    """The deployed rule files with every second an evaluation, and less patience: 1m is 1 s, 1h is 10 s.

    Simulated GPUs heat up as slowly as real ones, so the alert on heat gets a margin that is reached within seconds.
    They cool down as slowly, so that those whose work just ended are hotter than their siblings for longer than 10 s.
    What fires before Prometheus has found its Alertmanager, 5 s, is told only a minute later: Watchdog waits for that.
    """
    sources = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
    assert sources
    for source in sources:
        if source.name == "alerts-optional.yml":  # not loaded by the deployed prometheus.yml either
            continue
        tree = yaml.safe_load(source.read_text())
        for group in tree["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                for patience in {"for", "keep_firing_for"} & set(rule):
                    number, unit = int(rule[patience][:-1]), rule[patience][-1]
                    rule[patience] = f"{number * {'s': 0, 'm': 1, 'h': 10, 'd': 240}[unit]}s"
                if rule.get("alert") == "GPUHotterThanSiblings":
                    rule["for"] = "5m"
                if rule.get("alert") == "Watchdog":
                    rule["for"] = "12s"
                if rule.get("alert") == "GPUTemperatureNearSlowdown":
                    shorter = rule["expr"].replace("<= 5", "<= 22")
                    assert shorter != rule["expr"], "the rule has changed"
                    rule["expr"] = shorter
        (folder / source.name).write_text(yaml.safe_dump(tree))
