"""``python -m tools.faults --seeds 1-10 --seconds 60 [--write FILE]``; the status is 1 where something broke."""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.faults.fleet import Fleet
from tools.faults.storm import Storm
from tools.faults.watch import Watch, descriptors, resident, threads
from tools.lab.exporter import Exporter
from tools.lab.nvml_stub import Stub, build
from tools.lab.wait import NeverCameError, patience, wait_for

_INTERVAL: Final = 1.0  # seconds
_GPUS: Final = 8
_SICK: Final = 4  # the first of them
_MOST_MIB: Final = (
    24.0  # that RSS may grow by, from the first seconds on: 1 000 processes, XIDs and pages have their room
)
_MOST_MORE: Final = 3  # threads and descriptors
_EXIT: Final = 2.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """What one seed came to."""

    seed: int
    faults: int
    scrapes: int
    slowest: float
    gap: float
    rss: tuple[float, float]
    threads: tuple[int, int]
    descriptors: tuple[int, int]
    exit: float
    hub: float  # MiB of RSS at its peak
    broken: tuple[str, ...]

    def row(self) -> str:
        """A line of the table."""
        said = "; ".join(self.broken[:3]) or "held"
        return (
            f"| {self.seed} | {self.faults} | {self.scrapes} | {self.slowest:.2f} | {self.gap:.1f} | "
            f"{self.rss[0]:.1f} → {self.rss[1]:.1f} | {self.threads[0]} → {self.threads[1]} | "
            f"{self.descriptors[0]} → {self.descriptors[1]} | {self.exit:.2f} | {self.hub:.0f} | {said} |"
        )


def soak(seed: int, seconds: float, folder: Path) -> Outcome:
    """One seed, so many seconds."""
    chance = random.Random(seed)  # noqa: S311 - the same storm for the same seed
    machine = Stub(folder / "machine", ["h100"] * _GPUS, live=True)
    library = build(Path(tempfile.gettempdir()) / f"gpu-exporter-nvml-stub-{os.getuid()}")
    config, jobs, kernel_log = folder / "exporter.yml", folder / "jobs", folder / "kmsg"
    kubelet = folder / "kubelet.sock"
    config.write_text("{}\n")
    jobs.mkdir()
    kernel_log.touch()
    arguments = (
        "--source=nvml", f"--collection.interval={_INTERVAL:g}s", "--collection.timeout=600ms",
        f"--config.file={config}", f"--owners.slurm-directory={jobs}", "--owners.procfs-nested",
        f"--collection.kernel-log={kernel_log}", "--owners.kubernetes", f"--owners.kubernetes-socket={kubelet}",
        "--owners.kubernetes-timeout=1s",
    )  # fmt: skip
    exporter = Exporter(folder, *arguments, extra=machine.env(library, count_calls=False))
    pid = exporter.process.pid
    fleet = None
    try:
        fleet = Fleet(folder / "fleet", chance)
        wait_for(lambda: exporter.value("gpu_up", gpu=_GPUS - 1) == 1, exporter.log)
        watch = Watch(exporter, healthy=tuple(range(_SICK, _GPUS)), interval=_INTERVAL)
        storm = Storm(
            exporter, machine, watch, chance=chance, sick=_SICK, config=config, jobs=jobs, kernel_log=kernel_log,
            kubelet=kubelet,
        )  # fmt: skip
        before = (resident(pid), threads(pid), descriptors(pid))
        watch.start()
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and exporter.process.poll() is None:
            storm.step()
            fleet.step()
            time.sleep(chance.random() * 0.3)
        storm.end()
        settled = _settled(exporter, before, watch)
        watch.close()
        fleet.end()
        broken = [*watch.broken, *fleet.broken]
        if "Traceback" in exporter.log():
            broken.append("the log has a traceback")
        if settled[0] > before[0] + _MOST_MIB:
            broken.append(f"RSS grew by {settled[0] - before[0]:.0f} MiB")
        for gpu in range(_SICK):
            if chance.random() < 0.5:
                machine.hang(gpu)
        time.sleep(chance.random() * _INTERVAL)
        began = time.monotonic()
        exporter.signal(signal.SIGTERM)
        status = exporter.process.wait(patience())
        took = time.monotonic() - began
        if status != 0 or took > max(_EXIT, patience(_EXIT)):
            broken.append(f"SIGTERM: status {status} after {took:.1f} s")
        return Outcome(
            seed=seed,
            faults=sum(storm.counts.values()),
            scrapes=watch.scrapes,
            slowest=watch.worst_late,
            gap=watch.worst_gap,
            rss=(before[0], settled[0]),
            threads=(before[1], settled[1]),
            descriptors=(before[2], settled[2]),
            exit=took,
            hub=fleet.peak,
            broken=tuple(broken),
        )
    finally:
        if fleet is not None:
            fleet.close()
        exporter.process.kill()
        exporter.process.wait()


def _settled(exporter: Exporter, before: tuple[float, int, int], watch: Watch) -> tuple[float, int, int]:
    """RSS, threads and descriptors once all GPUs are up and no client is left."""
    pid = exporter.process.pid

    def all_up() -> bool:
        return [exporter.value("gpu_up", gpu=gpu) for gpu in range(_GPUS)] == [1.0] * _GPUS

    def flat() -> bool:
        return threads(pid) <= before[1] + _MOST_MORE and descriptors(pid) <= before[2] + _MOST_MORE

    try:
        wait_for(all_up, "all GPUs are up again", timeout=120)
        wait_for(flat, lambda: f"flat: {threads(pid)} threads, {descriptors(pid)} descriptors")
    except (NeverCameError, AssertionError) as error:
        watch.broken.append(str(error)[:200])
    return resident(pid), threads(pid), descriptors(pid)


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> int:
    """Run the seeds, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=_range, default=range(1, 11), metavar="1-10")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each seed")
    parser.add_argument("--write", type=Path, help="put the table into this file, below its heading")
    given = parser.parse_args()
    head = (
        "| seed | faults | scrapes | slowest, s | gap, intervals | RSS, MiB | threads | files | exit, s | hub, MiB | |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    )
    print(*head, sep="\n")
    rows, failed = [], False
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            outcome = soak(seed, given.seconds, Path(scratch))
        rows.append(outcome.row())
        failed = failed or bool(outcome.broken)
        print(rows[-1], flush=True)
    if given.write:
        _write(given.write, (*head, *rows), given.seconds)
    return int(failed)


def _write(path: Path, lines: tuple[str, ...], seconds: float) -> None:
    mark = "<!-- make faults -->"
    kept = path.read_text().partition(mark)[0]
    about = (
        f"{seconds:g} s a seed, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.0f}), "
    )
    about += f"Python {platform.python_version()}."
    path.write_text("\n".join([kept + mark, "", about, "", *lines, ""]))


if __name__ == "__main__":
    sys.exit(main())
