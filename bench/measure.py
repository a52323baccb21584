"""The measurements. Each gives figures by key; the report knows what the keys mean."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tools.lab import ROOT

from bench.client import NotOfferedError, Scraper, percentile
from bench.machine import Machine, Size, machine
from bench.targets import Running, Target, UnavailableError, private_memory

Figures = dict[str, float]
_MS = 1000.0
_HOUR = 3600.0
_SCRAPE_EVERY = 15.0
_LEARNED = 6  # scrapes: the schedule knows the rhythm after four, and has settled one later
_ROUNDS = 4  # in which the exporters take turns, so that a disturbance does not hit one of them only


@dataclass(frozen=True)
class Effort:
    """How long and how often; ``quick`` is a look, not a measurement."""

    starts: int = 7
    warm_up: float = 12.0
    window: float = 60.0
    small_window: float = 30.0
    scrapes: int = 2000
    fresh: int = 20
    half_open: float = 10.0
    ticks: int = 10_000
    # A scrape of a slow exporter may take a second: it gets fewer, never more seconds than this a row.
    seconds_a_row: float = 10.0
    wait: float = 120.0


QUICK = Effort(
    starts=2,
    warm_up=5.0,
    window=10.0,
    small_window=10.0,
    scrapes=400,
    fresh=5,
    half_open=3.0,
    ticks=1000,
    seconds_a_row=1.0,
    wait=30.0,
)


class Bench:
    """One run: where its files lie, how hard it tries, and what it says meanwhile."""

    def __init__(self, folder: Path, effort: Effort) -> None:
        self._folder = folder
        self.effort = effort
        self._logs = 0

    def run(self, target: Target, computer: Machine) -> Running:
        self._logs += 1
        return Running(target, computer, self._folder / f"exporter{self._logs}.log")

    # --- one measurement each -----------------------------------------------------------------------------------------

    def starts(self, target: Target, size: Size, count: int) -> dict[str, Figures]:
        """From exec to the first answer, and to the first that has every GPU."""
        took = []
        with machine(size) as computer:
            # The first start reads the modules from disk; it is not counted.
            for number in range(count + 1):
                with self.run(target, computer) as running:
                    start = running.started(self.effort.wait)
                if number:
                    took.append(start)
        answers, readings = [start.answer for start in took], [start.readings for start in took]
        return {target.key: {"first_answer": median(answers), "first_readings": median(readings)}}

    def steady(self, runnings: Sequence[Running], window: float, *, scraped: bool) -> dict[str, Figures]:
        """CPU time and driver calls in a window; all exporters at once, so that they meet the same disturbances."""
        gpus = runnings[0].machine.size.gpus
        before = [(running.cpu_seconds(), running.machine.calls()) for running in runnings]
        began = time.monotonic()
        if scraped:
            self._scrape_as_prometheus(runnings, began + window)
        time.sleep(max(0.0, began + window - time.monotonic()))
        seconds = time.monotonic() - began
        figures: dict[str, Figures] = {}
        for running, (cpu, calls) in zip(runnings, before, strict=True):
            found = {f"cpu_{'scraped' if scraped else 'idle'}": (running.cpu_seconds() - cpu) / seconds * _HOUR}
            now = running.machine.calls()
            made = {name: count - calls.get(name, 0) for name, count in now.items()}
            if not scraped and (ticks := made.get(running.target.once_a_tick, 0)):
                found["calls"] = sum(made.values()) / ticks
                found["read_every"] = seconds * gpus / ticks
            figures[running.target.key] = found
        return figures

    def priced(self, target: Target, size: Size, window: float) -> dict[str, Figures]:
        """What it costs where the driver's calls do, once the rhythm of whoever scrapes every 15 s is known."""
        with machine(size, priced=True) as computer, self.run(target, computer) as running:
            running.started(self.effort.wait)
            self._scrape_and_look(running, _LEARNED * _SCRAPE_EVERY)
            began, cpu, driver = time.monotonic(), running.cpu_seconds(), computer.driver_seconds()
            ages = self._scrape_and_look(running, window)
            gpus, seconds = size.gpus, time.monotonic() - began
            found = {
                "priced_cpu": 100 * (running.cpu_seconds() - cpu) / seconds / gpus,
                "priced_driver": (computer.driver_seconds() - driver) / seconds * 60 / gpus * _MS,
                "priced_private": private_memory(running),
            }
            if ages:
                found["priced_age"] = percentile(ages, 95)
        return {target.key: found}

    @staticmethod
    def _scrape_and_look(running: Running, window: float) -> list[float]:
        """Scrape on a beat for so long, and end after a whole one; the age of each page by its own word."""
        ages = []
        for _ in range(round(window / _SCRAPE_EVERY)):
            # On one grid for all windows.
            time.sleep(_SCRAPE_EVERY - time.monotonic() % _SCRAPE_EVERY)
            with Scraper(running.port) as scraper:
                told, now = _timestamp(scraper.scrape().text()), time.time()
            if told:
                ages.append(now - float(told.split()[-1]))
        return ages

    def _scrape_as_prometheus(self, runnings: Sequence[Running], end: float) -> None:
        at = time.monotonic() + min(1.0, _SCRAPE_EVERY / 2)
        while at < end:
            time.sleep(max(0.0, at - time.monotonic()))
            for running in runnings:
                with Scraper(running.port) as scraper:
                    scraper.scrape()
            at += _SCRAPE_EVERY

    def latency(self, runnings: Sequence[Running], scrapes: int) -> dict[str, Figures]:
        """Back-to-back scrapes on a kept and on new connections, plain and gzip."""
        figures: dict[str, Figures] = {running.target.key: {} for running in runnings}
        for keep_alive in (True, False):
            for compressed in (False, True):
                key = f"{'kept' if keep_alive else 'new'}_{'gzip' if compressed else 'plain'}"
                times: dict[str, list[float]] = {running.target.key: [] for running in runnings}
                for _ in range(_ROUNDS):
                    for running in runnings:
                        with Scraper(running.port, compressed=compressed, keep_alive=keep_alive) as scraper:
                            times[running.target.key] += self._hammer(scraper, scrapes // _ROUNDS)
                for target, seconds in times.items():
                    figures[target] |= _distribution(key, seconds)
        return figures

    def _hammer(self, scraper: Scraper, count: int) -> list[float]:
        """Scrape times; none where connections are not kept."""
        times: list[float] = []
        end = time.monotonic() + self.effort.seconds_a_row / _ROUNDS
        with undisturbed():
            try:
                scraper.scrape()
                while len(times) < count and (time.monotonic() < end or len(times) < 3):
                    times.append(scraper.scrape().seconds)
            except NotOfferedError:
                return []
        return times

    def fresh(self, target: Target, size: Size, count: int) -> dict[str, Figures]:
        """The first scrape of each snapshot, as a single Prometheus meets it: the page is not rendered yet."""
        times: list[float] = []
        with machine(size) as computer, self.run(target, computer) as running:
            running.started(self.effort.wait)
            with Scraper(running.port) as scraper:
                stamp = ""
                while len(times) < count:
                    time.sleep(1.03 * target.interval)
                    with undisturbed():
                        answer = scraper.scrape()
                    told = _timestamp(answer.text())
                    if told != stamp or not told:
                        times.append(answer.seconds)
                    stamp = told
        return {target.key: {"fresh_p50": percentile(times, 50) * _MS, "fresh_slowest": max(times) * _MS}}

    def page(self, running: Running) -> Figures:
        """Body sizes and numbers of series."""
        with Scraper(running.port, compressed=False) as plain, Scraper(running.port) as compressed:
            body, packed = plain.scrape(), compressed.scrape()
        samples = [line for line in body.text().splitlines() if line and not line.startswith("#")]
        of_processes = [line for line in samples if 'pid="' in line]
        of_gpus = [line for line in samples if 'uuid="' in line and 'pid="' not in line]
        return {
            "body": len(body.wire) / 1024,
            "body_gzip": len(packed.wire) / 1024,
            "series": float(len(samples)),
            "series_gpu": len(of_gpus) / running.machine.size.gpus,
            "series_processes": float(len(of_processes)),
        }

    def half_open(self, running: Running, seconds: float, *, connections: int = 300) -> dict[str, Figures]:
        """Scrapes beside clients that never finish their request; what is evicted comes back."""
        crowd = subprocess.Popen(
            [sys.executable, "-m", "bench.half_open", str(running.port), str(connections)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        times: list[float] = []
        failed = 0
        # Leaving the block closes its standard input, which is what ends it.
        with crowd:
            try:
                if crowd.stdout is None or not crowd.stdout.readline():
                    raise UnavailableError("the half-open connections could not be opened")
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    try:
                        with Scraper(running.port) as scraper, undisturbed():
                            times.append(scraper.scrape().seconds)
                    except OSError:
                        failed += 1
                    time.sleep(0.02)
            finally:
                if crowd.stdin is not None:
                    crowd.stdin.close()
        return {running.target.key: {**_distribution("half_open", times), "half_open_failed": float(failed)}}

    def soak(self, name: str, size: Size, ticks: int) -> dict[str, Figures]:
        """Memory of a sampler and renderer that run at full speed, after a tenth of the ticks and at the end."""
        with machine(size) as computer:
            done = subprocess.run(
                [sys.executable, "-m", "bench.soak", str(ticks // 10), str(ticks)],
                cwd=ROOT,
                env={**_environment(), **computer.env()},
                stdout=subprocess.PIPE,
                timeout=300,
                text=True,
                check=False,
            )
        if done.returncode:
            raise UnavailableError(f"the sampler ended with status {done.returncode}")
        early, late = json.loads(done.stdout)
        return {name: {"soak_early": early, "soak_late": late, "soak_growth": late - early}}


@contextmanager
def machines(targets: Sequence[Target], size: Size) -> Iterator[dict[str, Machine]]:
    """A machine for each target, by the target's key."""
    with ExitStack() as stack:
        yield {target.key: stack.enter_context(machine(size)) for target in targets}


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep our own garbage collector out of what is timed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "exporter")}


def _distribution(key: str, seconds: Sequence[float]) -> Figures:
    if not seconds:
        return {}
    return {
        f"{key}_p50": percentile(seconds, 50) * _MS,
        f"{key}_p99": percentile(seconds, 99) * _MS,
        f"{key}_count": float(len(seconds)),
    }


def _timestamp(text: str) -> str:
    """When the snapshot was taken, by its own word; empty where the exporter does not tell."""
    name = "gpu_exporter_last_sample_timestamp_seconds "
    return next((line for line in text.splitlines() if line.startswith(name)), "")
