"""A real VictoriaMetrics."""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tools.lab import LOOPBACK
from tools.lab.ports import free_port
from tools.lab.programs import Program, program
from tools.lab.wait import patience
from tools.lab.web import answers

_LINES = 100_000  # of one request


class VictoriaMetrics(Program):
    """One on a free port of 127.0.0.1, which scrapes what its configuration says; a context manager that stops it."""

    def __init__(self, folder: Path, configuration: str = "", *, path: str | None = None) -> None:
        self.port = free_port()
        command = [
            path or program("victoria-metrics"),
            f"-storageDataPath={folder / 'victoria'}",
            f"-httpListenAddr={LOOPBACK}:{self.port}",
            "-search.latencyOffset=0s",  # what was scraped just now is told
        ]
        if configuration:
            file = folder / "victoria.yml"
            file.write_text(configuration)
            command.append(f"-promscrape.config={file}")
        super().__init__(command, folder / "victoria-metrics.log")
        self.wait(lambda: answers(self.port, "/health"))

    def __enter__(self) -> VictoriaMetrics:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    @property
    def url(self) -> str:
        """Up to what stands before /api/v1."""
        return f"http://{LOOPBACK}:{self.port}"

    def take(self, lines: Sequence[str]) -> None:
        """Samples of the past: exposition with times in milliseconds."""
        for first in range(0, len(lines), _LINES):
            self._post("/api/v1/import/prometheus", "".join(lines[first : first + _LINES]))
        self._post("/internal/force_flush", "")

    def _post(self, path: str, text: str) -> None:
        with urllib.request.urlopen(self.url + path, text.encode(), timeout=patience()) as response:  # noqa: S310
            response.read()
