"""A real Alertmanager."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from tools.lab import LOOPBACK
from tools.lab.ports import free_port
from tools.lab.programs import Program, Release, program
from tools.lab.wait import patience
from tools.lab.web import answers, ask

Labels = Mapping[str, str]
# What every rule of deploy/prometheus/rules gives its alerts: inhibitions touch no alert without it.
OURS: Labels = {"bundle": "gpu-exporter"}


def amtool(*arguments: str, release: Release = "debian") -> subprocess.CompletedProcess[str]:
    """Its command line, to its end."""
    command = [program("amtool", release), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=patience(), check=False)


class Alertmanager(Program):
    """One that talks to nobody else, on a free port of 127.0.0.1; a context manager that stops it."""

    def __init__(self, folder: Path, tree: Mapping[str, Any], release: Release = "debian") -> None:
        file = folder / "alertmanager.yml"
        file.write_text(yaml.safe_dump(dict(tree)))
        self.port = free_port()
        super().__init__(
            [
                program("alertmanager", release),
                f"--config.file={file}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={LOOPBACK}:{self.port}",
                "--web.external-url=http://alertmanager.test:9093",
                "--web.route-prefix=/",
                "--cluster.listen-address=",
            ],
            folder / "alertmanager.log",
        )
        self.wait(lambda: answers(self.port, "/-/ready"))

    def __enter__(self) -> Alertmanager:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def tell(self, alerts: Iterable[Labels], *, annotations: Labels | None = None, resolved: bool = False) -> None:
        """Let alerts fire, or end, as Prometheus would; ours, unless an alert has another ``bundle``."""
        now = time.time()
        times = {"startsAt": now - 60, "endsAt": now - 1 if resolved else now + 600}
        stamps = {name: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)) for name, when in times.items()}
        body = [{"labels": {**OURS, **alert}, "annotations": dict(annotations or {}), **stamps} for alert in alerts]
        told = ask(
            self.port,
            "/api/v2/alerts",
            method="POST",
            body=json.dumps(body),
            headers={"Content-Type": "application/json"},
        )
        assert told.status == 200, told.text

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert that stands, with its status."""
        answer = ask(self.port, "/api/v2/alerts")
        assert answer.status == 200, answer.text
        found: list[dict[str, Any]] = json.loads(answer.text)
        return found

    def inhibited(self, instance: str) -> set[str]:
        """The instance's alerts that another one silences: their names, with GPU and owner where there is one."""
        return {
            " ".join(alert["labels"][name] for name in ("alertname", "gpu", "owner") if name in alert["labels"])
            for alert in self.alerts()
            if alert["labels"].get("instance") == instance and alert["status"]["inhibitedBy"]
        }
