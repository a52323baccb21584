"""A real Prometheus."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import Any

from tools.lab import LOOPBACK
from tools.lab.ports import free_port
from tools.lab.programs import Program, Release, program
from tools.lab.web import answers, ask

# Scrapes one exporter every second.
SCRAPING = """\
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
  - job_name: gpu-exporter
    static_configs:
      - targets: ['127.0.0.1:{port}']
"""


class Prometheus(Program):
    """One with this configuration on a free port of 127.0.0.1; a context manager that stops it."""

    def __init__(
        self, folder: Path, configuration: str, release: Release = "debian", *, binary: str | None = None
    ) -> None:
        file = folder / "prometheus.yml"
        file.write_text(configuration)
        self.port = free_port()
        super().__init__(
            [
                binary or program("prometheus", release),
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={LOOPBACK}:{self.port}",
            ],
            folder / "prometheus.log",
        )
        self.wait(lambda: answers(self.port, "/-/ready"))

    def __enter__(self) -> Prometheus:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def get(self, path: str) -> Any:
        """The data of an answer of its interface."""
        status, _, text = ask(self.port, f"/api/v1/{path}")
        assert status == 200, text
        return json.loads(text)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector that the expression gives now."""
        found = self.get("query?" + urllib.parse.urlencode({"query": expression}))
        return [(item["metric"], float(item["value"][1])) for item in found["result"]]

    def number(self, expression: str) -> float | None:
        """The one value that the expression gives; None where it gives nothing."""
        vector = self.query(expression)
        assert len(vector) <= 1, vector
        return vector[0][1] if vector else None
