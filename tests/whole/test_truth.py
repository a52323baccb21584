"""The report against a story whose every GPU-hour is known: simulated GPUs, accounts, a real Prometheus, the report."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from tools.lab import ROOT
from tools.lab.clock import Clock
from tools.lab.exporter import run
from tools.lab.programs import program
from tools.lab.prometheus import Prometheus

from gpu_exporter.model import Build, Snapshot
from gpu_exporter.pages.exposition import Page
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources.fake import FakeFleet

pytestmark = pytest.mark.e2e
HOUR, TICK = 3600, 15
# The families that the report asks for; the others would make Prometheus's blocks ten times as large.
WANTED = ("gpu_owner_", "gpu_state_", "gpu_energy_", "gpu_busy_", "gpu_memory_", "gpu_power_", "gpu_utilization_")


def story(start: float, gpus: int = 4) -> tuple[list[str], str]:
    """OpenMetrics lines of six hours as they would have been scraped, family by family, and who serves on GPU 1."""
    clock = Clock(start)
    scenario = ROOT / "tests/scenarios/six-hours.yml"
    fleet = FakeFleet(gpus=gpus, model="h100", seed=1, scenario=scenario, clock=clock)
    source, pipeline, page = fleet.open(), Pipeline(gap=3 * TICK), Page()
    families: dict[str, list[str]] = {}
    users: set[str] = set()
    while clock.now <= start + 6 * HOUR:
        readings = pipeline.complete([source.read(device) for device in source.devices], now=clock.now)
        users |= {process.identity.user for process in readings[1].processes or () if process.identity}
        snapshot = Snapshot(Build("0", "3"), "fake", readings=readings, ok=True)
        for line in page.body(snapshot, openmetrics=True, gzip=False).decode().splitlines():
            name = line.split("{")[0].removeprefix("# TYPE ").split(" ")[0]
            if not name.startswith(WANTED) or line.startswith("# HELP"):
                continue
            lines = families.setdefault(name.removesuffix("_total"), [])
            if not line.startswith("#"):
                head, _, value = line.rpartition(" ")
                lines.append(f'{head[:-1]},instance="node-1:9435",job="gpu-exporter"}} {value} {clock.now:.3f}')
            elif not lines:
                lines.append(line)
        clock.now += TICK
    (user,) = users
    return [line for lines in families.values() for line in lines], user


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, float]], dict[str, float], str]:
    """The report's rows by user, its sums over the fleet, and the user who serves on GPU 1."""
    folder = tmp_path_factory.mktemp("truth")
    end = int(time.time()) // TICK * TICK - 60
    lines, server = story(float(end - 6 * HOUR))
    text = folder / "story.txt"
    text.write_text("\n".join([*lines, "# EOF\n"]))
    blocks = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "tsdb")]
    subprocess.run(blocks, capture_output=True, check=True)
    with Prometheus(folder, "global: {scrape_interval: 15s}\n") as prometheus:
        url = f"--prometheus.url=http://127.0.0.1:{prometheus.port}"
        done = run("report", url, "--window=6h", f"--end={end}", "--format=json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    return {row["user"]: row for row in document["rows"]}, document["fleet"], server


@pytest.mark.parametrize(
    ("user", "held", "used"),
    [("mallory", 3.0, 0.0), ("eve", 3.0, 0.0), ("peggy", 3.0, 0.0), ("victor", 1.0, 0.0), ("the server", 4.0, 4.0)],
)
def test_gpu_hours_match_the_story(
    told: tuple[dict[str, dict[str, float]], dict[str, float], str], user: str, held: float, used: float
) -> None:
    rows, _, server = told
    row = rows[server if user == "the server" else user]
    assert row["held_hours"] == pytest.approx(held, rel=0.02)
    assert row["used_hours"] == pytest.approx(used, rel=0.02)
    assert row["idle_held_hours"] == pytest.approx(held - used, rel=0.02, abs=0.02)


def test_the_fleets_hours_match_the_story(
    told: tuple[dict[str, dict[str, float]], dict[str, float], str],
) -> None:
    rows, fleet, server = told
    assert rows.keys() == {"mallory", "eve", "peggy", "victor", server}
    assert fleet["used_hours"] == pytest.approx(4.0, rel=0.02)
    assert fleet["idle_held_hours"] == pytest.approx(10.0, rel=0.02)
    assert fleet["down_hours"] == pytest.approx(1.0, rel=0.02)
    assert fleet["free_hours"] == pytest.approx(24 - 4 - 10 - 1, rel=0.02)
