"""gpu-exporter report over the same day in a real VictoriaMetrics, whose PromQL differs in the details."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_exporter.report.client import Access, Client
from gpu_exporter.report.history import Grid, History
from harness import ROOT, wait_for
from report_day import DAY, Day

FETCHED = ROOT / ".build/debian/usr/bin/victoria-metrics"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A VictoriaMetrics on a free port, empty."""
    found = shutil.which("victoria-metrics") or (str(FETCHED) if FETCHED.exists() else None)
    if found is None:
        pytest.skip("victoria-metrics is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [found, f"-storageDataPath={tmp_path / 'data'}", f"-httpListenAddr={address}", "-search.latencyOffset=0s"],
            stdout=log,
            stderr=log,
        )

    def ready() -> bool:
        assert server.poll() is None, (tmp_path / "log").read_text("utf-8", "replace")
        try:
            return post(f"http://{address}/api/v1/import/prometheus", "") is not None
        except OSError:
            return False

    try:
        wait_for(ready, "VictoriaMetrics")
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(20)


def post(url: str, text: str) -> bytes:
    with urllib.request.urlopen(url, text.encode(), timeout=20) as response:  # noqa: S310 - our own server
        body: bytes = response.read()
        return body


def test_the_day_is_right_within_two_percent(url: str) -> None:
    day = Day(int(time.time()) // 5 * 5)
    lines = list(day.lines(times_of=1000))
    for first in range(0, len(lines), 100_000):
        post(f"{url}/api/v1/import/prometheus", "".join(lines[first : first + 100_000]))
    post(f"{url}/internal/force_flush", "")
    history = History(Client(Access(url)), Grid.of(DAY, day.end))
    told = {(one.gpu.instance, int(one.gpu.gpu), tuple(one.owner)): one for one in history.holds.values()}
    assert told.keys() == day.holders.keys()
    for key, truth in day.holders.items():
        assert {state: told[key].states[state] for state in truth.states} == pytest.approx(truth.states, rel=0.02)
        assert told[key].joules == pytest.approx(truth.joules, rel=0.02)
