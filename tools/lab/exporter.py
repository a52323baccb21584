"""The exporter as a user runs it, and what its page says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tools.lab import LOOPBACK, ROOT
from tools.lab.programs import Program
from tools.lab.wait import patience, wait_for
from tools.lab.web import Answer, ask

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def command() -> list[str]:
    """The installed gpu-exporter, or the module where only the source tree is on the path."""
    script = Path(sys.executable).with_name("gpu-exporter")
    return [str(script)] if script.exists() else [sys.executable, "-m", "gpu_exporter"]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The surroundings of a program under test: ours, without what a developer, or pytest-xdist, may have exported."""
    terminal = {"COLUMNS", "LINES"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GPU_EXPORTER_") and name not in terminal
    }
    return {**kept, "PYTHONPATH": str(ROOT / "exporter"), "PYTHONWARNINGS": "error", **(extra or {})}


def run(*arguments: str, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The exporter's command line, to its end."""
    return subprocess.run(
        [*command(), *arguments],
        env=environment(extra),
        capture_output=True,
        text=True,
        timeout=patience(),
        check=False,
    )


class Exporter(Program):
    """``gpu-exporter serve`` on a free port of 127.0.0.1; a context manager that stops it."""

    def __init__(self, folder: Path, *arguments: str, extra: Mapping[str, str] | None = None) -> None:
        super().__init__(
            [*command(), f"--web.listen-address={LOOPBACK}:0", *arguments],
            folder / "exporter.log",
            env=environment(extra),
        )
        self.port = int(self.wait(self._listening))

    def _listening(self) -> str | None:
        listening = re.search(r"msg=listening address=127\.0\.0\.1:(\d+)", self.log())
        return listening[1] if listening else None

    def __enter__(self) -> Exporter:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Status, headers and text of a page."""
        return ask(self.port, path, headers=headers)

    def status(self, path: str) -> int:
        return self.get(path).status

    def samples(self) -> Samples:
        """What /metrics tells now."""
        status, _, text = self.get("/metrics")
        assert status == 200
        return parse(text)

    def value(self, name: str, **labels: object) -> float | None:
        """The one sample of that name with (at least) these labels; None where there is none."""
        return pick(self.samples(), name, **labels)

    def wait_value(self, expected: float | None, name: str, **labels: object) -> None:
        """Wait until the sample has the value; None waits until it is absent."""
        wait_for(lambda: self.value(name, **labels) == expected, lambda: (name, labels, self.value(name, **labels)))


def parse(text: str) -> Samples:
    """Samples of the classic text format by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def pick(samples: Samples, name: str, **labels: object) -> float | None:
    """The one sample of that name with (at least) these labels; None where there is none."""
    wanted = {(label, str(value)) for label, value in labels.items()}
    found = [value for (sample, pairs), value in samples.items() if sample == name and wanted <= pairs]
    assert len(found) <= 1, f"{name}{labels} is ambiguous"
    return found[0] if found else None
