"""No panel shows more than all of something: every query in percent or GPUs, asked of a real Prometheus.

What it has was scraped on a bad day: counters of seconds run faster than the clock, as where the clocks of two machines
drift, scrapes are late and early, and boards draw more, clock higher and blow harder than they should.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from tools.lab.clock import Clock
from tools.lab.programs import program
from tools.lab.prometheus import Prometheus
from tools.lab.wait import wait_for

from dashboards import PrometheusApi, View, load, panels
from gpu_exporter.model import Build, Snapshot
from gpu_exporter.pages.exposition import Page
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources.fake import FakeFleet
from grafana_lab import RULES

pytestmark = pytest.mark.e2e

FAST = 1.28  # seconds that a counter grows by in a second
LENGTH = 600.0
# When it was scraped, in seconds: every fifteen, and up to six off.
SCRAPES = [15.0 * number + (-6.0, 0.0, 5.0, -2.0, 6.0)[number % 5] for number in range(1, 40)]
GPUS, HELD = 6.0, 4.0  # time by state or owner adds up to GPUs: at most all that there are, and all that are held
UNITS = {"percent": 100.0, "percentunit": 1.0}
NOT_SIMULATED = {("gpu-health", "Life left of power smoothing")}
HOST = {
    "node_filesystem_avail_bytes": 0.0, "node_filesystem_size_bytes": 1e12,
    "node_memory_MemAvailable_bytes": 1e11, "node_memory_MemTotal_bytes": 1e11,
}  # fmt: skip
Families = dict[str, list[tuple[str, float]]]  # by name: labels and value
# What each GPU of a machine does, as shares of its time.
STATES = {0: {"active": 0.5, "idle_held": 0.5}, 1: {"idle_held": 1.0}, 2: {"down": 1.0}}
ODD = 'gpu="1"'
# What a gauge is at its worst: so many times another of the same GPU.
BEYOND = {
    "gpu_power_watts": ("gpu_power_limit_watts", 1.3),
    "gpu_memory_used_bytes": ("gpu_memory_total_bytes", 1.0),
    "gpu_bar1_memory_used_bytes": ("gpu_bar1_memory_total_bytes", 1.0),
    "gpu_pcie_link_width": ("gpu_pcie_link_width_max", 2.0),
}


class Share(NamedTuple):
    """A query that is shown in percent, or as a number of GPUs; ``whole`` is the most that it can be."""

    uid: str
    title: str
    target: dict[str, Any]
    whole: float


def shares() -> Iterator[Share]:
    for uid, dashboard in load().items():
        for panel in panels(dashboard):
            config = panel["fieldConfig"]
            by_name = {
                override["matcher"]["options"]: entry["value"]
                for override in config["overrides"]
                for entry in override["properties"]
                if entry["id"] == "unit"
            }
            renamed: dict[str, str] = {}
            for step in panel.get("transformations", ()):
                renamed |= step["options"].get("renameByName", {}) if step["id"] == "organize" else {}
            for target in panel["targets"]:
                name = renamed.get(f"Value #{target['refId']}", "")
                unit = by_name.get(name, config["defaults"].get("unit", ""))
                title = f"{panel['title']}: {name}" if name else panel["title"]
                if unit in UNITS:
                    yield Share(uid, title, target, UNITS[unit])
                elif found := re.search(r"rate\(gpu_(state|owner)_seconds_total", target["expr"]):
                    yield Share(uid, title, target, HELD if found[1] == "owner" else GPUS)


def exposed(model: str, start: float) -> tuple[Families, set[str]]:
    """What one machine tells, and which of it are counters."""
    clock = Clock(start)
    source = FakeFleet(gpus=3, model=model, seed=1, clock=clock).open()
    pipeline = Pipeline(gap=1e9)
    for _ in range(3):
        clock.now += 5.0
        readings = pipeline.complete([source.read(device) for device in source.devices], now=clock.now)
    page = Page().body(Snapshot(Build("0", "3"), "fake", readings=readings, ok=True), openmetrics=True, gzip=False)
    families: Families = {"up": [("", 1.0)], "process_cpu_seconds_total": [("", 0.0)]}
    families |= {name: [("", value)] for name, value in HOST.items()}
    counters = {"process_cpu_seconds_total"}
    for line in page.decode().splitlines():
        if line.startswith("# TYPE") and line.endswith(" counter"):
            counters.add(f"{line.split(' ')[2]}_total")
        if not line.startswith("#"):
            head, _, value = line.rpartition(" ")
            name, _, labels = head.partition("{")
            families.setdefault(name, []).append((labels.rstrip("}"), float(value)))
    return families, counters


def worst(families: Families, name: str, labels: str, value: float) -> float:
    """What a gauge is on such a day."""
    if name in BEYOND:
        other, times = BEYOND[name]
        gpu = labels.partition('uuid="')[2].partition('"')[0]
        # One draws three times what its siblings do.
        times *= 3 if name == "gpu_power_watts" and ODD in labels else 1
        return times * next(number for text, number in families[other] if gpu in text)
    if name == "gpu_clock_hertz":
        return 1.1 * max(number for _, number in families["gpu_clock_max_hertz"])
    if name == "gpu_up":
        return float('gpu="2"' not in labels)
    if name.endswith("_ratio"):
        return 1.2 if name == "gpu_fan_speed_ratio" else 1.0
    return value


def _grows(labels: str) -> float:
    """By what share of the time a counter grows."""
    state = labels.partition('state="')[2].partition('"')[0]
    if not state:
        return 1.0
    return next((does.get(state, 0.0) for gpu, does in STATES.items() if f'gpu="{gpu}"' in labels), 0.0)


def scraped(instance: str, model: str, start: float) -> Iterator[str]:
    """OpenMetrics lines of one machine, family by family."""
    families, counters = exposed(model, start)
    place = f'instance="{instance}:9435",alias="{instance}",job="gpu-exporter"'
    for name, series in families.items():
        counter = name in counters
        yield f"# TYPE {name.removesuffix('_total') if counter else name} {'counter' if counter else 'unknown'}"
        for labels, value in series:
            if name == "gpu_power_limit_watts" and ODD in labels:
                continue  # it tells none
            where = f"{{{labels},{place}}}" if labels else f"{{{place}}}"
            for at in SCRAPES:
                told = FAST * at * _grows(labels) if counter else worst(families, name, labels, value)
                yield f"{name}{where} {told} {start + at:.3f}"


def test_no_share_is_above_all_of_it(tmp_path: Path) -> None:
    start = time.time() - LENGTH
    lines: dict[str, list[str]] = {}
    for instance, model in (("gpu-a", "h100"), ("ws-1", "rtx4090")):
        for line in scraped(instance, model, start):
            if line.startswith("#"):
                family = lines.setdefault(line, [])
            else:
                family.append(line)
    text = tmp_path / "scraped.txt"
    text.write_text("\n".join([*(line for head, rest in lines.items() for line in (head, *rest)), "# EOF\n"]))
    blocks = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(text), str(tmp_path / "tsdb")]
    subprocess.run(blocks, capture_output=True, check=True)
    for file in RULES.glob("*.yml"):
        # Every second; their windows are as they are deployed.
        rules = re.sub(r"^( +)interval: \S+\n", "", file.read_text("utf-8"), flags=re.MULTILINE)
        (tmp_path / f"rules-{file.name}").write_text(rules, "utf-8")
    config = {"global": {"evaluation_interval": "1s"}, "rule_files": [str(tmp_path / "rules-*.yml")]}
    asked = list(shares())
    assert len(asked) > 40
    with Prometheus(tmp_path, yaml.safe_dump(config)) as prometheus:
        api = PrometheusApi(prometheus.port)
        above: list[str] = []
        silent: list[tuple[str, str]] = []

        def all_tell() -> bool:
            """Rules made of rules need some evaluations."""
            above.clear()
            silent.clear()
            # Steps that do not fit the scrapes, so that ranges begin and end anywhere between them.
            view = View(start=start + 120, end=time.time(), step=7, rate_interval=60)
            chosen = {uid: api.choose(dashboard, view) for uid, dashboard in load().items()}
            for uid, title, target, whole in asked:
                series = api.range(view.fill(target["expr"], chosen[uid]), view)
                highest = max((float(value) for one in series for _, value in one["values"]), default=None)
                if highest is None:
                    silent.append((uid, title))
                elif highest > whole * (1 + 1e-9):
                    above.append(f"{uid}: {title}: {highest}")
            return set(silent) <= NOT_SIMULATED

        wait_for(all_tell, lambda: f"silent: {silent}", 60)
        assert above == []
        # Of what they are made it is true: a rate is above 1, and power above its limit.
        busy = prometheus.query(f"max_over_time(rate(gpu_busy_seconds_total[1m])[{LENGTH:.0f}s:7s])")
        assert max(value for _, value in busy) > 1.2
