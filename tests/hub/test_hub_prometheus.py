"""The past from a real Prometheus, or from VictoriaMetrics, instead of a file of the hub's own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter
from tools.lab.hub import Hub, write_nodes
from tools.lab.prometheus import SCRAPING, Prometheus
from tools.lab.victoria import VictoriaMetrics
from tools.lab.wait import wait_for
from tools.lab.web import ask

from gpu_exporter.hub.archive import CHARTS

pytestmark = pytest.mark.e2e


def curve(hub: Hub, metric: str) -> list[float | None]:
    """A curve of the last hour; none where nothing is known of it."""
    told = hub.json(f"/api/v1/history?node=gpu-a&gpu=0&metric={metric}")
    assert len(told["means"]) == len(told["highs"])
    return list(told["means"]) if any(value is not None for value in told["means"]) else []


@pytest.mark.parametrize("kind", [Prometheus, VictoriaMetrics])
def test_charts_and_results_come_from_there(tmp_path: Path, kind: type[Prometheus | VictoriaMetrics]) -> None:
    options = ("--source=fake", "--fake.gpus=2", "--collection.interval=1s", "--collection.timeout=1s")
    with (
        Exporter(tmp_path, *options) as machine,
        kind(tmp_path, SCRAPING.format(port=machine.port)) as server,
    ):
        url = f"http://127.0.0.1:{server.port}"
        nodes = write_nodes(tmp_path / "nodes.json", {"gpu-a": machine.port})
        with Hub(tmp_path, nodes, f"--prometheus.url={url}") as hub:
            hub.wait_states(**{"gpu-a": "online"})
            hub.wait(lambda: hub.get("/api/v1/results?window=10m").status == 200)
            rows = hub.json("/api/v1/results?window=10m")["results"]
            assert {row["uuid"] for row in rows} == {gpu["uuid"] for gpu in hub.json("/api/v1/gpus")["gpus"]}
            for metric in CHARTS:
                wait_for(partial(curve, hub, metric))
                assert len(curve(hub, metric)) == 60
            assert hub.get("/waste").status == 200
            assert "nothing yet" not in hub.get("/machines/gpu-a/gpus/0").text
            for metric in ("gpu_idle_free_ratio", "gpu_score_ratio", "gpu_processes", "gpu_energy_joules"):
                assert hub.json(f"/api/v1/history?node=gpu-a&gpu=0&metric={metric}")["metric"] == metric
            server.stop()
            error = json.loads(ask(hub.port, "/api/v1/results?window=20m").text)["error"]
            assert error.startswith(f"{url}: ")
            assert hub.get("/waste?window=24h").status == 200, "the page says why, and stays"
            assert hub.get("/machines/gpu-a/gpus/0").status == 200
            wait_for(lambda: hub.states() == {"gpu-a": "online"})
