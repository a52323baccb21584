"""A simulated fleet with every fault that the dashboards show, and a real Prometheus with the rules of deploy/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tools.lab import ROOT
from tools.lab.alertmanager import Alertmanager
from tools.lab.exporter import Exporter
from tools.lab.programs import Release
from tools.lab.prometheus import Prometheus
from tools.lab.wait import wait_for

RULES = ROOT / "deploy/prometheus/rules"
_GIB = {"memory": "20GiB", "name": "jupyter-lab", "user": "mallory"}

Event = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """``story`` is in seconds at pace 1."""

    alias: str
    model: str
    gpus: int
    story: tuple[Event, ...]
    cluster: str = ""


MACHINES = (
    Machine(
        "gpu-a",
        "h100",
        8,
        (
            {"at": 2, "gpu": 0, "fault": "overheat", "target": 94},
            {"at": 2, "gpu": 1, "fault": "ecc", "severity": "corrected", "count": 240, "remap": "done"},
            {"at": 4, "gpu": 1, "fault": "ecc", "severity": "uncorrected", "count": 2},
            {"at": 4, "gpu": 1, "fault": "xid", "xid": 94},
            {"at": 4, "gpu": 1, "fault": "ecc", "severity": "uncorrected", "location": "sram", "count": 3},
            {"at": 3, "gpu": 1, "fault": "remap_bank", "spare": "low", "count": 2},
            {"at": 3, "gpu": 2, "fault": "fabric", "fabric": "degraded_bandwidth"},
            {"at": 3, "gpu": 5, "fault": "nvlink_link", "link": 14, "kind": "recovery", "count": 505},
            {"at": 3, "gpu": 2, "fault": "power_brake"},
            {"at": 3, "gpu": 4, "fault": "pcie", "width": 8, "count": 150},
            {"at": 3, "gpu": 5, "fault": "nvlink", "links": 2, "count": 40},
            {"at": 2, "gpu": "6-7", "fault": "workload", "workload": "held"},
            {"at": 3, "gpu": 6, "fault": "dead_pid", "memory": "8GiB"},
            {"at": 3, "gpu": 7, "fault": "process", "process": {"pid": 4242, "slurm_job": "811", **_GIB}},
            {"at": 5, "gpu": 3, "fault": "xid", "xid": 13},
            {"at": 7, "gpu": 3, "fault": "xid", "xid": 79},
            {"at": 7, "gpu": 3, "fault": "lost"},
        ),
    ),
    Machine(
        "gpu-b",
        "a100",
        8,
        (
            {"at": 2, "gpu": 3, "fault": "mig"},
            {"at": 2, "gpu": "5-7", "fault": "workload", "workload": "training"},
            {"at": 2, "gpu": 6, "fault": "slow_pcie", "generation": 1},
            {
                "at": 3,
                "gpu": 5,
                "fault": "process",
                "process": {"pid": 77, "pod": "bert-0", "namespace": "nlp", **_GIB},
            },
            {"at": 5, "gpu": 2, "fault": "slow", "delay": "300ms"},
        ),
    ),
    Machine(
        "inf-1",
        "l40s",
        4,
        ({"at": 3, "gpu": 0, "fault": "ecc", "severity": "uncorrected", "remap": "done"},),
    ),
    Machine("ws-1", "rtx4090", 2, ({"at": 2, "gpu": 0, "fault": "fan_stop"},), cluster="lab"),
)
_LAST = 7  # seconds


def _rules(folder: Path, *, fast: bool) -> None:
    """The rules of deploy/; ``fast`` makes seconds of minutes: no own interval, no waiting, short windows."""
    (folder / "rules").mkdir()
    for file in RULES.glob("*.yml"):
        text = file.read_text("utf-8")
        if fast:
            text = re.sub(r"^( +)interval: \S+\n", "", text, flags=re.MULTILINE)
            text = re.sub(r"^( +for:) \S+$", r"\1 1s", text, flags=re.MULTILINE)
            text = text.replace("[5m]", "[10s]")
        (folder / "rules" / file.name).write_text(text, "utf-8")


@contextmanager
def fleet(
    folder: Path, *, pace: float = 1.0, interval: float = 1.0, fast: bool = True, release: Release = "debian"
) -> Iterator[Prometheus]:
    """Start everything, wait until the story was told and the rules saw it, and stop everything.

    ``pace`` stretches the story; ``interval`` (seconds) is the one of sampling, scraping and evaluation.
    """
    with ExitStack() as stack:
        targets = [{"targets": ["127.0.0.1:1"], "labels": {"alias": "gpu-c"}}]  # a host that is down
        for machine in MACHINES:
            home = folder / machine.alias
            home.mkdir()
            (home / "story.yaml").write_text("events: []\n")
            exporter = stack.enter_context(
                Exporter(
                    home,
                    "--source=fake",
                    f"--fake.model={machine.model}",
                    f"--fake.gpus={machine.gpus}",
                    f"--fake.scenario={home / 'story.yaml'}",
                    f"--collection.interval={interval:g}s",
                    f"--collection.timeout={interval * 0.6:g}s",
                )
            )
            labels = {"alias": machine.alias, **({"cluster": machine.cluster} if machine.cluster else {})}
            targets.append({"targets": [f"127.0.0.1:{exporter.port}"], "labels": labels})
        nobody = {"receiver": "nobody"}
        mail = stack.enter_context(Alertmanager(folder, {"route": nobody, "receivers": [{"name": "nobody"}]}, release))
        _rules(folder, fast=fast)
        config = {
            "global": {"scrape_interval": f"{interval:g}s", "evaluation_interval": f"{interval:g}s"},
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{mail.port}"]}]}]},
            "rule_files": [str(folder / "rules" / "*.yml")],
            "scrape_configs": [
                {"job_name": "gpu-exporter", "scrape_timeout": f"{interval:g}s", "static_configs": targets},
                {"job_name": "prometheus", "file_sd_configs": [{"files": [str(folder / "itself.json")]}]},
                {"job_name": "alertmanager", "static_configs": [{"targets": [f"127.0.0.1:{mail.port}"]}]},
            ],
        }
        prometheus = stack.enter_context(Prometheus(folder, yaml.safe_dump(config), release))
        (folder / "itself.json").write_text(json.dumps([{"targets": [f"127.0.0.1:{prometheus.port}"]}]))
        # The story begins once everything was scraped, so that counters are seen to jump.
        wait_for(lambda: prometheus.number("count(count_over_time(gpu_exporter_build_info[1m]) > 1) == 4"), "scrapes")
        for machine in MACHINES:
            events = [{**event, "at": f"{pace * event['at']:g}s"} for event in machine.story]
            (folder / machine.alias / "story.yaml").write_text(yaml.safe_dump({"events": events}))
        patience = pace * _LAST + 30 * interval + 30
        wait_for(lambda: prometheus.number('count(gpu_xid_last_timestamp_seconds{xid="79"})'), "the story", patience)
        for told in (
            'count(ALERTS{alertstate="firing", alertname="GPULost"})' if fast else "vector(1)",
            "count(instance_gpu:gpu_score:class == 3)" if fast else "vector(1)",
            "count(owner:gpu_score:class)",
            "count(instance_gpu_owner:gpu_owner_memory_used_bytes:idle_held)",
            "count(increase(gpu_owner_seconds_total[1m]) > 0)",
        ):
            wait_for(lambda told=told: prometheus.number(told), told, patience)  # type: ignore[misc]
        yield prometheus
