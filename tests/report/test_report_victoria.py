"""gpu-exporter report over the same day in a real VictoriaMetrics, whose PromQL differs in the details."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.lab.ports import free_port
from tools.lab.programs import Program, program
from tools.lab.wait import patience
from tools.lab.web import answers

from gpu_exporter.report.client import Access, Client
from gpu_exporter.report.history import Grid, History
from report_day import DAY, Day

pytestmark = pytest.mark.e2e


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A VictoriaMetrics on a free port, empty."""
    binary = program("victoria-metrics")
    port = free_port()
    command = [binary, f"-storageDataPath={tmp_path / 'data'}", f"-httpListenAddr=127.0.0.1:{port}"]
    with Program([*command, "-search.latencyOffset=0s"], tmp_path / "victoria-metrics.log") as server:
        server.wait(lambda: answers(port, "/health"))
        yield f"http://127.0.0.1:{port}"


def post(url: str, text: str) -> bytes:
    with urllib.request.urlopen(url, text.encode(), timeout=patience()) as response:  # noqa: S310 - our own server
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
