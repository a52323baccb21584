"""The six hours of tests/scenarios/six-hours.yml, as an exporter tells them: snapshots, tick by tick."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tools.lab import ROOT
from tools.lab.clock import Clock

from gpu_exporter.history import Recorder
from gpu_exporter.model import Build, Host, Snapshot
from gpu_exporter.pages.documents import snapshot_document
from gpu_exporter.pages.exposition import Page
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources.fake import FakeFleet

HOUR, TICK = 3600, 15
INSTANCE = "node-1:9435"


def snapshots(start: float) -> Iterator[Snapshot]:
    """Four GPUs from ``start`` (Unix seconds) on."""
    # The fleet's own time: by night a simulated server has so little to do that it is idle for minutes.
    noon = start // (24 * HOUR) * 24 * HOUR + 12 * HOUR
    clock = Clock(noon)
    fleet = FakeFleet(gpus=4, model="h100", seed=1, scenario=ROOT / "tests/scenarios/six-hours.yml", clock=clock)
    source, pipeline = fleet.open(), Pipeline(gap=3 * TICK)
    while clock.now <= noon + 6 * HOUR:
        readings = pipeline.complete([source.read(device) for device in source.devices], now=clock.now)
        yield Snapshot(Build("0", "3"), "fake", readings=readings, ok=True, timestamp=clock.now - noon + start)
        clock.now += TICK


@dataclass(slots=True)
class Scraped:
    """What a Prometheus would have: samples by family, with their labels and times."""

    types: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[tuple[str, str, float]]] = field(default_factory=dict)

    def scrape(self, page: Page, snapshot: Snapshot) -> None:
        """One scrape, at the time of the snapshot."""
        for line in page.body(snapshot, openmetrics=True, gzip=False).decode().splitlines():
            if line.startswith("# TYPE gpu_"):
                self.types.setdefault(line.split(" ")[2], line)
            elif line.startswith("gpu_") and not line.startswith("gpu_exporter_"):
                head, _, value = line.rpartition(" ")
                family = head.partition("{")[0].removesuffix("_total")
                labels = f'{head[:-1]},instance="{INSTANCE}",job="gpu-exporter"}}'
                self.samples.setdefault(family, []).append((labels, value, snapshot.timestamp or 0.0))

    def lines(self, *, times_of: int = 1) -> Iterator[str]:
        """OpenMetrics, with times in seconds; VictoriaMetrics takes the same with milliseconds (1000)."""
        for family, samples in self.samples.items():
            if family in self.types:
                yield self.types[family] + "\n"
            for labels, value, at in samples:
                yield f"{labels} {value} {at * times_of:.0f}\n"
        yield "# EOF\n"


def live(start: float, history: Path) -> Scraped:
    """Live through it: what a Prometheus has scraped, while a recorder has written the history file."""
    scraped, page, now = Scraped(), Page(), start
    with closing(Recorder(history, clock=lambda: now)) as recorder:
        for snapshot in snapshots(start):
            now = snapshot.timestamp or now
            scraped.scrape(page, snapshot)
            recorder.add(
                "node-1",
                snapshot_document(
                    snapshot, host=Host(name="node-1"), labels=(), interval=float(TICK), ready=None, live=None
                ),
                now,
            )
            if (now - start) % HOUR == 0:
                recorder.flush(now)
    return scraped
