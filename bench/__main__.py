"""``python -m bench``: what the exporter costs, beside nvitop-exporter, on one machine in one run."""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import TimeoutExpired
from typing import NoReturn

from bench import report
from bench.machine import Size, Surroundings
from bench.measure import QUICK, Bench, Effort, machines
from bench.report import Figures, Results, Row, Section
from bench.results import RESULTS, write_exporter
from bench.targets import Running, Target, UnavailableError, nvidia_gpu_exporter, nvitop, ours

SIZES = (Size(1, 2), Size(8, 2), Size(64, 64))
NOTES = (
    "A ratio is theirs divided by ours: above 1, ours is less. Times are of this machine on this day; compare ratios.",
    (
        "All exporters talk to the same stand-in for libnvidia-ml: H100s that answer at once, except "
        "nvmlDeviceGetPcieThroughput, which takes 20 ms as on a real board; nvitop-exporter asks it twice a GPU and "
        "tick, gpu-exporter does not."
    ),
    (
        "Both read processes: nvitop-exporter at every tick, gpu-exporter every 15 s (one that ends is dropped at the "
        "next tick). Among the 64 GPUs, the same 64 processes are on every GPU."
    ),
    (
        "nvitop-exporter renders at each scrape and closes each connection; gpu-exporter renders a snapshot once. "
        "With one Prometheus every scrape is the first of its snapshot: see those rows."
    ),
    "CPU time is utime + stime of /proc/PID/stat, in steps of 10 ms: ± 0.6 s/h in a window of 60 s.",
    (
        "Half-open clients that are cut come back after a second, all at once: gpu-exporter keeps 64 connections and "
        "cuts the rest, nvitop-exporter keeps a thread for each of the 300."
    ),
    (
        "Real prices: each call keeps a CPU busy for what an H200 of driver 580 took "
        "(tools/lab/nvml_stub/h200-prices.json), as the driver does while its firmware answers; calls that were not "
        "recorded are free."
    ),
    (
        "nvidia_gpu_exporter is measured where it is on PATH, or with --nvidia-gpu-exporter FOLDER of its source (Go's "
        "module proxy does not hand it out); it reads at each scrape, so that its age is none."
    ),
)


def main() -> NoReturn:
    arguments = _arguments()
    if reason := _impossible():
        print(f"bench: {reason}", file=sys.stderr)
        sys.exit(2)
    # Blocks are left in order, and so everything that runs is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        results = _measure(QUICK if arguments.quick else Effort(), arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    print(report.as_json(results) if arguments.json else report.text(results))
    if arguments.write:
        write_exporter(report.markdown(results))
    sys.exit(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look in about a minute; noisy")
    parser.add_argument("--json", action="store_true", help="write JSON instead of a table")
    parser.add_argument("--prices", action="store_true", help="only with real prices")
    parser.add_argument(
        "--nvidia-gpu-exporter", type=Path, metavar="FOLDER", help="its source, to be built and measured"
    )
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name} beside this program")
    return parser.parse_args()


def _impossible() -> str | None:
    if sys.platform != "linux":
        return "it reads /proc: run it on Linux"
    if shutil.which("gcc") is None:
        return "gcc is not installed: the stand-in for the driver's library cannot be compiled"
    return None


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def _measure(effort: Effort, arguments: argparse.Namespace) -> Results:
    surroundings = Surroundings()
    results = Results(ours=ours().key, notes=NOTES)
    with tempfile.TemporaryDirectory(prefix="gpu-exporter-bench-logs-") as folder:
        run = _Run(Bench(Path(folder), effort), effort, results)
        others = [nvidia_gpu_exporter(arguments.nvidia_gpu_exporter, Path(folder))]
        run.prices([nvitop(ours().interval), *others])
        if not arguments.prices:
            run.everything()
    results.facts = surroundings.finish(shlex.join(["python", "-m", "bench", *sys.argv[1:]]))
    return results


@dataclass
class _Run:
    """The order of measurements, and what happens when one is not possible: the others go on."""

    bench: Bench
    effort: Effort
    results: Results

    def everything(self) -> None:
        rivals = self._rivals()
        quick = self.effort is QUICK
        self._eight_gpus(rivals)
        if not quick:
            for size in (SIZES[0], SIZES[2]):
                self._other_size(size, rivals[:1])
        self._soak()

    def prices(self, rivals: Sequence[Target]) -> None:
        """Where the driver's calls cost what a real one's do: everybody with eight GPUs, and how we grow."""
        sizes = (Size(8, 2),) if self.effort is QUICK else (Size(8, 2), Size(1, 2), Size(16, 2), Size(64, 64))
        for size in sizes:
            section = Section(f"priced {size.gpus}", f"{size.name}, real prices", report.PRICES)
            self.results.sections.append(section)
            for target in (ours(), *(rivals if size.gpus == 8 else ())):
                name = f"{size.name}, real prices: {target.name}"
                self._attempt(name, section, partial(self.bench.priced, target, size, self.effort.window))

    def _rivals(self) -> list[Target]:
        rivals = [nvitop(), nvitop(ours().interval)]
        try:
            for rival in rivals:
                rival.available()
        except UnavailableError as error:
            self.results.skipped["nvitop-exporter"] = str(error)
            return []
        return rivals

    def _attempt(self, name: str, section: Section, measure: Callable[[], Mapping[str, Figures]]) -> None:
        """A measurement that fails is named and left out."""
        _say(name)
        try:
            section.add(measure())
        except (UnavailableError, OSError, ArithmeticError, ValueError, TimeoutExpired) as error:
            self.results.skipped[name] = f"{type(error).__name__}: {error}"
            _say(f"left out: {error}")

    def _eight_gpus(self, rivals: Sequence[Target]) -> None:
        size, effort, bench = SIZES[1], self.effort, self.bench
        section = self._section(size, report.MAIN)
        targets = [ours(), *rivals]
        for target in targets[:2]:
            self._attempt(f"{target.name}: starts", section, partial(bench.starts, target, size, effort.starts))
        with ExitStack() as stack:
            runnings = self._start(stack, targets, size, section)
            if not runnings:
                return
            time.sleep(effort.warm_up)
            section.add({running.target.key: {"rss_warm": running.memory()} for running in runnings})
            for scraped in (False, True):
                name = "steady state" + (", scraped" if scraped else "")
                self._attempt(name, section, partial(bench.steady, runnings, effort.window, scraped=scraped))
            self._attempt("scrapes", section, partial(bench.latency, runnings[:2], effort.scrapes))
            self._finish(section, runnings)
            for running in runnings[:2]:
                name = f"{running.target.name}: half-open clients"
                self._attempt(name, section, partial(bench.half_open, running, effort.half_open))
        # Ours faster than by default, which makes no difference to a single snapshot.
        for target in (ours(0.5), *rivals[:1]):
            self._attempt(f"{target.name}: first scrapes", section, partial(bench.fresh, target, size, effort.fresh))

    def _other_size(self, size: Size, rivals: Sequence[Target]) -> None:
        """One exporter after the other: at 64 GPUs, a slow one would disturb the others."""
        section = self._section(size, report.OTHER)
        for target in (ours(), *rivals):
            name = f"{size.name}: {target.name}"
            # The slow one takes its time to start; once has to do.
            if target.key == self.results.ours or size.gpus == 1:
                self._attempt(f"{name}: starts", section, partial(self.bench.starts, target, size, 3))
            with ExitStack() as stack:
                runnings = self._start(stack, [target], size, section)
                if runnings:
                    time.sleep(self.effort.warm_up / 2)
                    window = self.effort.small_window
                    self._attempt(name, section, partial(self.bench.steady, runnings, window, scraped=False))
                    scrapes = self.effort.scrapes // 2
                    self._attempt(f"{name}: scrapes", section, partial(self.bench.latency, runnings, scrapes))
                    self._finish(section, runnings)

    def _soak(self) -> None:
        size, ticks = Size(4, 2), self.effort.ticks
        section = Section("soak", f"{ticks} ticks of 4 GPUs at full speed, a page every tenth", report.SOAK)
        self.results.sections.append(section)
        self._attempt(f"{ticks} ticks", section, partial(self.bench.soak, self.results.ours, size, ticks))

    def _section(self, size: Size, rows: Sequence[Row]) -> Section:
        section = Section(str(size.gpus), size.name, rows)
        self.results.sections.append(section)
        return section

    def _start(self, stack: ExitStack, targets: Sequence[Target], size: Size, section: Section) -> list[Running]:
        """Those of the targets that come up."""
        runnings = []
        computers = stack.enter_context(machines(targets, size))
        for target in targets:
            running = stack.enter_context(self.bench.run(target, computers[target.key]))
            try:
                start = running.started(self.effort.wait)
            except UnavailableError as error:
                self.results.skipped[f"{size.name}: {target.name}"] = str(error)
                continue
            # One start is a poor measurement, taken where there is no better one.
            if section.rows is report.OTHER and "first_readings" not in section.figures.get(target.key, {}):
                section.add({target.key: {"first_answer": start.answer, "first_readings": start.readings}})
            runnings.append(running)
        return runnings

    def _finish(self, section: Section, runnings: list[Running]) -> None:
        """What is read off once an exporter has worked for a while."""
        self._attempt("pages", section, lambda: {running.target.key: self.bench.page(running) for running in runnings})
        section.add(
            {
                running.target.key: {"rss_end": running.memory(), "rss_peak": running.memory("VmHWM")}
                for running in runnings
            }
        )


if __name__ == "__main__":
    main()
