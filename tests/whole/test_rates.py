"""What a Prometheus computes from two scrapes is what the GPU did: rates of the counters beside known loads.

The daemon's own schedule reads them (in full just before each scrape, lightly in between), by a clock that is set; a
real Prometheus keeps what it would have scraped, and is asked.
"""

from __future__ import annotations

import subprocess
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tools.lab.programs import program
from tools.lab.prometheus import Prometheus

import h200_run
from gpu_exporter.model import Build, Reading, Snapshot
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.pages.exposition import Page
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sampling.rhythm import Rhythm
from gpu_exporter.sampling.schedule import Schedule
from gpu_exporter.sources.nvml import NvmlSource, library
from gpu_exporter.sources.nvml.taped import RecordedLibrary
from gpu_exporter.sources.tape import Playback
from gpu_exporter.sources.tape import load as load_recording

pytestmark = pytest.mark.e2e
ROWS = 14  # of the recording from one scrape to the next: 14.2 s. Full readings are 15 s apart where nobody scrapes.
INTERVAL = 5.0
KNOWN = 6  # scrapes before the first one here, by which the rhythm is known
COUNTERS = ("gpu_busy_seconds", "gpu_energy_joules", "gpu_state_seconds")
START = 1_790_000_000  # when the counters begin: any moment in the past


class Scraped:
    """Lines of OpenMetrics, family by family, as they were scraped from exporters."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def take(self, instance: str, readings: tuple[Reading, ...], at: float) -> None:
        """One scrape of one exporter, so many seconds after the start."""
        page = Page().body(Snapshot(Build("0", "3"), "nvml", readings=readings, ok=True), openmetrics=True, gzip=False)
        for line in page.decode().splitlines():
            name = line.split("{")[0].removeprefix("# TYPE ").split(" ")[0]
            if not name.startswith(COUNTERS) or line.startswith(("# HELP", "# UNIT")):
                continue
            lines = self._families.setdefault(name.removesuffix("_total"), [])
            if not line.startswith("#"):
                head, _, value = line.rpartition(" ")
                lines.append(f'{head[:-1]},instance="{instance}"}} {value} {START + at:.3f}')
            elif not lines:
                lines.append(line)

    def write(self, folder: Path) -> None:
        """Put them where a Prometheus keeps them."""
        text = folder / "scraped.txt"
        text.write_text("\n".join([*(line for lines in self._families.values() for line in lines), "# EOF\n"]))
        blocks = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "tsdb")]
        subprocess.run(blocks, capture_output=True, check=True)


def serve(
    source: NvmlSource, pipeline: Pipeline, scrapes: Sequence[float], go_to: Callable[[float], None]
) -> Iterator[tuple[float, tuple[Reading, ...]]]:
    """What each scrape gets of a source that is read as the daemon reads it; seconds since the start."""
    rhythm = Rhythm(interval=INTERVAL)
    period = (scrapes[-1] - scrapes[0]) / (len(scrapes) - 1)
    for number in range(KNOWN, 0, -1):
        rhythm.note("prometheus", scrapes[0] - number * period)
    plan = Schedule(interval=INTERVAL, now=0.0, rhythm=rhythm)
    readings, now = pipeline.complete([source.read(device) for device in source.devices], 0.0), 0.0
    for scrape in scrapes:
        while (due := plan.due(now, light=True)).at <= scrape:
            now = max(due.at, now)
            go_to(now)
            plan.began(due, now)
            if due.kind == "buffers":
                pipeline.add_late([source.read_buffers(device) for device in source.devices], now)
                continue
            ask = source.read if due.kind == "full" else partial(source.read_light, buffers=due.buffers)
            readings = pipeline.complete([ask(device) for device in source.devices], now)
        rhythm.note("prometheus", scrape)
        yield scrape, readings


def _rate(prometheus: Prometheus, expression: str, one: float, other: float) -> float:
    """The expression, where ``[scrape]`` is the time from one scrape to the next; it holds both, and no third."""
    asked = expression.replace("[scrape]", f"[{1000 * (other - one) + 20:.0f}ms]")
    found = prometheus.get(f"query?time={START + other + 0.01:.3f}&{urlencode({'query': asked})}")
    ((_, value),) = [item["value"] for item in found["result"]]
    return float(value)


# --- the H200's run ---------------------------------------------------------------------------------------------------


class Truth:
    """What the load really did, at seconds since the first reading of the run."""

    def __init__(self) -> None:
        self._rows = h200_run.rows()
        self._began = self._rows[0]["t"]
        self.times = [row["t"] - self._began for row in self._rows]

    def busy(self, until: float) -> float:
        """Seconds of work until then."""
        done = 0.0
        for segment in h200_run.truth():
            begin, end = segment["t0"] - self._began, segment["t1"] - self._began
            done += segment["busy"] * min(1.0, max(0.0, (until - begin) / (end - begin)))
        return done

    def joules(self, until: float) -> float:
        """The driver's own counter, between two rows as if the power stood still."""
        after = min(bisect_right(self.times, until), len(self.times) - 1)
        one, other = self._rows[after - 1], self._rows[after]
        share = (until - self.times[after - 1]) / (other["t"] - one["t"])
        return float(one["energy"] + share * (other["energy"] - one["energy"])) / 1000


def test_rates_of_the_h200s_run(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    h200_run.write(path)
    truth, scraped, pairs, off = Truth(), Scraped(), [], []
    for phase in range(1, ROWS, 2):
        now = [0.0]
        playback = Playback(load_recording(path), monotonic=lambda now=now: now[0])  # type: ignore[misc]
        playback.begin()
        library.insert(RecordedLibrary(playback))
        source = NvmlSource(processes=INTERVAL, light=True, monotonic=playback.monotonic, root=tmp_path)
        # A recording tells what stood at its nearest row: the full readings are to come at rows.
        scrapes = [at + 0.1 for at in truth.times[phase::ROWS]]
        try:
            for scrape, readings in serve(
                source, Pipeline(gap=15.0, resolver=Resolver()), scrapes, partial(now.__setitem__, 0)
            ):
                scraped.take(str(phase), readings, scrape)
        finally:
            source.close()
        pairs += [(phase, one, other) for one, other in pairwise(scrapes)]
    scraped.write(tmp_path)
    with Prometheus(tmp_path, "global: {scrape_interval: 15s}\n") as prometheus:
        for instance, one, other in pairs:
            seconds = other - one

            def rate(name: str, instance: int = instance, one: float = one, other: float = other) -> float:
                return _rate(prometheus, f'sum(rate({name}{{instance="{instance}"}}[scrape]))', one, other)

            where = (instance, round(one))
            busy = (truth.busy(other) - truth.busy(one)) / seconds
            off.append(abs(rate("gpu_busy_seconds_total") - busy))
            watts = (truth.joules(other) - truth.joules(one)) / seconds
            assert rate("gpu_energy_joules_total") == pytest.approx(watts, rel=0.03), where
            # In whatever state: a recording has what the multiprocessors did in the second before each of its rows.
            assert rate("gpu_state_seconds_total") == pytest.approx(1.0, abs=0.03), where
    assert len(off) > 30
    # Of the interval. Two in a hundred are the driver's own: it has 1 % less than the load did, and its samples are of
    # 0.2 s, the latest not told yet.
    assert max(off) < 0.035
    assert sum(off) / len(off) < 0.015
