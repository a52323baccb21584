"""The report against a story whose every GPU-hour is known: simulated GPUs, accounts, a real Prometheus, the report."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
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
DAY, AFTERNOON = 24 * HOUR, 18 * HOUR + 30
# The families that the report asks for; the others would make Prometheus's blocks ten times as large.
WANTED = ("gpu_owner_", "gpu_state_", "gpu_energy_", "gpu_busy_", "gpu_memory_", "gpu_power_", "gpu_utilization_",
          "gpu_score_", "gpu_sm_active_")  # fmt: skip
# What the recording rules made of five counters before the exporter integrated the score; {activity} was utilization's.
OLD_SCORE = """
0.5 * clamp_max(rate({activity}[5m]), 1)
+ 0.2 * clamp_max(rate(gpu_memory_io_busy_seconds_total[5m]), 1)
+ 0.2 * clamp_max(gpu_memory_used_bytes / (gpu_memory_total_bytes > 0), 1)
+ 0.1 * clamp_max(rate(gpu_energy_joules_total[5m]) / (gpu_power_limit_watts > 0), 1)
"""


def story(start: float, model: str, gpus: int = 4) -> tuple[list[str], str]:
    """OpenMetrics lines of six hours as they would have been scraped, family by family, and who serves on GPU 1."""
    clock = Clock(start)
    scenario = ROOT / "tests/scenarios/six-hours.yml"
    fleet = FakeFleet(gpus=gpus, model=model, seed=1, scenario=scenario, clock=clock)
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


class Kept(NamedTuple):
    """A Prometheus that has the six hours, their end, and who serves on GPU 1."""

    prometheus: Prometheus
    end: int
    user: str


@contextmanager
def kept(folder: Path, model: str) -> Iterator[Kept]:
    # The latest afternoon: by night a simulated server has so little to do that it is idle for minutes.
    # Half a minute off, so that no step of a minute falls on the very moment at which the story changes.
    end = int((time.time() - AFTERNOON) // DAY * DAY + AFTERNOON)
    lines, server = story(float(end - 6 * HOUR), model)
    text = folder / "story.txt"
    text.write_text("\n".join([*lines, "# EOF\n"]))
    blocks = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "tsdb")]
    subprocess.run(blocks, capture_output=True, check=True)
    with Prometheus(folder, "global: {scrape_interval: 15s}\n") as prometheus:
        yield Kept(prometheus, end, server)


@pytest.fixture(scope="module")
def h100(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with kept(tmp_path_factory.mktemp("truth"), "h100") as found:
        yield found


@pytest.fixture(scope="module")
def a100(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with kept(tmp_path_factory.mktemp("truth"), "a100") as found:
        yield found


@pytest.fixture(scope="module")
def told(h100: Kept) -> tuple[dict[str, dict[str, float]], dict[str, float], str]:
    """The report's rows by user, its sums over the fleet, and the user who serves on GPU 1."""
    url = f"--prometheus.url=http://127.0.0.1:{h100.prometheus.port}"
    done = run("report", url, "--window=6h", f"--end={h100.end}", "--format=json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    return {row["user"]: row for row in document["rows"]}, document["fleet"], h100.user


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


# --- the counters -----------------------------------------------------------------------------------------------------


def by_gpu(kept: Kept, expression: str) -> dict[str, float]:
    return {labels["gpu"]: value for labels, value in kept.prometheus.query(expression)}


def recorded(name: str) -> str:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/rules/recording.yml").read_text("utf-8"))["groups"]
    (expression,) = [rule["expr"] for group in groups for rule in group["rules"] if rule["record"] == name]
    return str(expression)


@pytest.mark.parametrize(
    ("model", "activity"), [("a100", "gpu_busy_seconds_total"), ("h100", "gpu_sm_active_seconds_total")]
)
def test_the_score_is_what_the_rules_made_of_its_parts(
    model: str, activity: str, request: pytest.FixtureRequest
) -> None:
    """Within 1 %, over the six hours and at every moment: the h100 has multiprocessors that tell, the a100 has not."""
    kept: Kept = request.getfixturevalue(model)
    old = OLD_SCORE.format(activity=activity)
    new = recorded("instance_gpu:gpu_score:ratio")
    # While a rate's five minutes are not all there (GPU 2 is lost for an hour), the gauges beside it are, or are not.
    whole = f"and on (gpu) count_over_time(gpu_memory_used_bytes[6m]) >= {360 // TICK}"
    means = [by_gpu(kept, f"avg_over_time((({each}) {whole})[6h:1m] @ {kept.end})") for each in (old, new)]
    assert means[1].keys() == {"0", "1", "2", "3"}
    assert means[1] == pytest.approx(means[0], rel=0.01)
    assert max(means[1].values()) > 0.2, "one of them works"
    # Memory is the mean of the five minutes now, and was that of a moment: at that of a change they differ.
    steady = "and on (gpu) changes(gpu_memory_used_bytes[6m]) == 0"
    worst = f"max_over_time((abs(({new}) / ({old}) - 1) {steady} {whole})[6h:1m] @ {kept.end})"
    assert {gpu for gpu, off in by_gpu(kept, worst).items() if off > 0.01} == set()


def test_the_owners_energy_is_what_was_drawn_while_they_held(h100: Kept) -> None:
    span = f"[6h] @ {h100.end}"
    drawn = by_gpu(h100, f"max_over_time(gpu_energy_joules_total{span}) - min_over_time(gpu_energy_joules_total{span})")
    owned = by_gpu(h100, f"sum by (gpu) (max_over_time(gpu_owner_energy_joules_total{span}))")
    held = {"0": 3 / 6, "1": 4 / 6, "2": 3 / 6, "3": 4 / 6}
    for gpu in ("0", "2", "3"):  # idle for all of the time: by the hours
        assert owned[gpu] == pytest.approx(drawn[gpu] * held[gpu], rel=0.05)
    assert 0.8 * drawn["1"] < owned["1"] < drawn["1"], "it works for those who hold it, and idles for nobody"
    shares = {
        labels["owner"]: value
        for labels, value in h100.prometheus.query(
            f'max by (owner) (max_over_time(gpu_owner_energy_joules_total{{gpu="3"}}{span}))'
        )
    }
    assert shares["peggy"] == pytest.approx(3 * shares["victor"], rel=0.01), "three parts of its memory to one"
