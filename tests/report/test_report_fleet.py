"""The whole path: simulated GPUs with holders, the exporter's accounts, a real Prometheus, the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter, run
from tools.lab.prometheus import SCRAPING, Prometheus
from tools.lab.wait import wait_for

from fleets import eight_at_work

pytestmark = pytest.mark.e2e


def test_the_report_of_a_fleet_that_has_just_begun(tmp_path: Path) -> None:
    seed, workloads = eight_at_work()
    holder = {workload.kind: workload.user for workload in workloads}
    fake = "--source=fake", "--fake.gpus=8", f"--fake.seed={seed}"
    with (
        Exporter(tmp_path, *fake, "--collection.interval=250ms") as exporter,
        Prometheus(tmp_path, SCRAPING.format(port=exporter.port)) as prometheus,
    ):

        def ask(expression: str) -> float:
            return prometheus.number(expression) or 0.0

        wait_for(lambda: ask("min(sum by (gpu) (gpu_state_seconds_total))") >= 4, "four seconds of accounts")
        holders = {
            labels["owner"]: value
            for labels, value in prometheus.query("count by (owner) (count by (owner, gpu) (gpu_owner_seconds_total))")
        }
        url = f"--prometheus.url=http://127.0.0.1:{prometheus.port}"
        before = ask("sum(gpu_state_seconds_total)")
        done = run("report", url, "--window=10m", "--format=json")
        after = ask("sum(gpu_state_seconds_total)")
    assert done.returncode == 0, done.stderr
    assert "of 10 min" in done.stderr, "it tells for how much of the window there is data"
    document = json.loads(done.stdout)
    fleet = document["fleet"]
    seen = 3600 * sum(fleet[f"{state}_hours"] for state in ("used", "idle_held", "unknown", "free", "down"))
    assert before * 0.98 <= seen <= after * 1.02
    users = {row["user"]: row for row in document["rows"]}
    assert users.keys() == holders.keys() != set()
    for name, count in holders.items():
        assert users[name]["gpus"] == count
        assert users[name]["held_hours"] * 3600 == pytest.approx(count * seen / 8, rel=0.02)
        assert users[name]["score"] is not None
        assert users[name]["energy_kwh"] > 0
    assert users[holder["held"]]["efficiency"] == 0, "holds memory and runs nothing"
    assert users[holder["training"]]["efficiency"] == 1, "trains"
