"""The programs under test as a user runs them: the installed exporter and a real Prometheus."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
# For a Prometheus that scrapes one exporter every second.
SCRAPING = """\
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
  - job_name: gpu-exporter
    static_configs:
      - targets: ['127.0.0.1:{port}']
"""
# Of Prometheus and Alertmanager: Debian's, the oldest that the files of deploy/ are for, and what is shipped with them.
Release = Literal["debian", "shipped"]
T = TypeVar("T")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def wait_for(condition: Callable[[], T | None], what: object = "it", timeout: float = 20.0) -> T:
    """What the condition answers as soon as it is true."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        shown = what() if callable(what) else what
        assert time.monotonic() < deadline, f"never came within {timeout:g} s: {shown}"
        time.sleep(0.01)
    return answer


def found(name: str, release: Release = "debian") -> str | None:
    """Where a program is: what tools/shipped built, or from PATH or what tools/setup unpacked; None where it is not."""
    if release == "shipped":
        built = ROOT / ".build/shipped" / name
        return str(built) if built.exists() else None
    names = (name, "prometheus-alertmanager") if name == "alertmanager" else (name,)  # as Debian calls it
    unpacked = [ROOT / ".build/debian/usr/bin" / each for each in names]
    return next(filter(None, map(shutil.which, names)), None) or next(
        (str(path) for path in unpacked if path.exists()), None
    )


def program(name: str, release: Release = "debian") -> str:
    """Where a program is; where it is missing, the test is skipped (CI: fails, but for builds that need a newer Go)."""
    path = found(name, release)
    if path is not None:
        return path
    missing = ROOT / ".build/shipped/missing"
    if release == "shipped" and missing.exists():
        pytest.skip(missing.read_text().strip())
    reason = f"{name} is not installed and tools/setup could not fetch it"
    if release == "shipped":
        reason = f"{name} of deploy/versions.env is not there: run tools/shipped"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def command() -> list[str]:
    """The installed gpu-exporter, or the module where only the source tree is on the path."""
    script = Path(sys.executable).with_name("gpu-exporter")
    return [str(script)] if script.exists() else [sys.executable, "-m", "gpu_exporter"]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The surroundings of a program under test: ours, without settings that a developer may have exported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GPU_EXPORTER_")}
    return {**kept, "PYTHONPATH": str(ROOT / "exporter"), "PYTHONWARNINGS": "error", **(extra or {})}


def run(
    *arguments: str, extra: Mapping[str, str] | None = None, timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    """The exporter's command line, to its end."""
    return subprocess.run(
        [*command(), *arguments], env=environment(extra), capture_output=True, text=True, timeout=timeout, check=False
    )


class Exporter:
    """``gpu-exporter serve`` on a free port of 127.0.0.1; a context manager that stops it."""

    def __init__(self, folder: Path, *arguments: str, extra: Mapping[str, str] | None = None) -> None:
        self._log = folder / "exporter.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command(), "--web.listen-address=127.0.0.1:0", *arguments],
                env=environment(extra),
                stdout=log,
                stderr=log,
            )
        self.port = int(wait_for(self._listening, self.log))

    def _listening(self) -> str | None:
        assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.log()}"
        found = re.search(r"msg=listening address=127\.0\.0\.1:(\d+)", self.log())
        return found[1] if found else None

    def __enter__(self) -> Exporter:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, str], str]:
        """Status, headers and text of a page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode()
        finally:
            connection.close()

    def status(self, path: str) -> int:
        return self.get(path)[0]

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


class Prometheus:
    """A real Prometheus with a configuration of the test's; a context manager that stops it."""

    def __init__(self, folder: Path, configuration: str, release: Release = "debian") -> None:
        self._log = folder / "prometheus.log"
        file = folder / "prometheus.yml"
        file.write_text(configuration)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus", release),
                    f"--config.file={file}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )
        wait_for(self._ready, lambda: self._log.read_text("utf-8", "replace"))

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text("utf-8", "replace")
        try:
            return self._get("/-/ready")[0] == 200
        except OSError:
            return False

    def __enter__(self) -> Prometheus:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector that the expression gives now."""
        status, body = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        answer: dict[str, Any] = json.loads(body)
        assert status == 200, answer
        return [(item["metric"], float(item["value"][1])) for item in answer["data"]["result"]]

    def number(self, expression: str) -> float | None:
        """The one value that the expression gives; None where it gives nothing."""
        vector = self.query(expression)
        assert len(vector) <= 1, vector
        return vector[0][1] if vector else None
