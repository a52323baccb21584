"""``python -m bench.history_cost``: how large a history gets, and how fast it is read and written.

A simulated fleet tells a snapshot document a minute to the real recorder for ``--days`` days; the file's rows are then
repeated up to 30 days, since what follows is more of the same. (A document every 5 s costs the same each; see
``--interval``.) Of the GPUs six in ten compute, two are held idle and two are free; those of one machine in eight are
shared by two owners. Jobs last from minutes to two days, and all numbers flicker. Times are CPU time, which
other programs hardly touch, and by the wall in brackets.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from gpu_exporter.history import METRICS, Reader, Recorder, Retention, usage
from gpu_exporter.history.schema import DAY

GPUS = 8  # a machine
START = 1_700_006_400  # midnight, UTC
DAYS = 30
SIZE = 150.0  # MB, the budget for 64 GPUs and 30 days
CHART = 100.0  # ms, the budget for a chart of 30 days
_OWNERS = [("user", f"user{number}", "") for number in range(40)] + [
    ("pod", f"train-{number}-{number * 7919 % 9973}", "ml") for number in range(200)
]


class Gpu:
    """One GPU's jobs and counters."""

    def __init__(self, dice: random.Random, *, shared: bool) -> None:
        self.dice = dice
        self.shared = shared
        self.left = 0.0
        self.owners: list[tuple[str, str, str]] = []
        self.state = "idle_free"
        self.states = dict.fromkeys(("active", "idle_held", "idle_free", "unknown", "down"), 0.0)
        self.held: dict[tuple[tuple[str, str, str], str], float] = {}
        self.busy = self.io = 0.0
        self.joules = 5e6
        self.pids: list[int] = []

    def live(self, seconds: float) -> None:
        dice = self.dice
        self.left -= seconds
        if self.left <= 0:
            self.left = dice.choice((600, 3600, 14_400, 50_000, 170_000))
            self.state = dice.choices(("active", "idle_held", "idle_free"), (6, 2, 2))[0]
            count = 0 if self.state == "idle_free" else 2 if self.shared else 1
            self.owners = dice.sample(_OWNERS, count)
            self.pids = [dice.randrange(1000, 4_000_000) for _ in self.owners]
        self.states[self.state] += seconds
        for owner in self.owners:
            key = (owner, self.state)
            self.held[key] = self.held.get(key, 0.0) + seconds / len(self.owners)
        if len(self.held) > 64:
            self.held.pop(next(iter(self.held)))
        active = self.state == "active"
        self.utilization = dice.uniform(0.3, 1.0) if active else 0.0
        self.busy += self.utilization * seconds
        self.io += self.utilization * dice.uniform(0.2, 0.8) * seconds
        self.watts = dice.uniform(250, 690) if active else dice.uniform(68, 75)
        self.joules += self.watts * seconds

    def document(self, index: int, node: str) -> dict[str, object]:
        dice, owners = self.dice, ("owner_kind", "owner", "namespace")
        memory = 0 if not self.owners else (60e9 if self.state == "active" else 20e9) + dice.uniform(0, 1e9)
        metrics = {
            "gpu_up": 1,
            "gpu_utilization_ratio": round(min(1.0, self.utilization * dice.uniform(0.9, 1.1)), 2),
            "gpu_busy_seconds_total": self.busy,
            "gpu_memory_io_busy_seconds_total": self.io,
            "gpu_memory_io_utilization_ratio": 0.3,
            "gpu_memory_used_bytes": int(memory),
            "gpu_memory_total_bytes": 85_520_809_984,
            "gpu_temperature_celsius": round(30 + self.watts / 20 + dice.uniform(-2, 2)),
            "gpu_power_watts": self.watts,
            "gpu_power_limit_watts": 700,
            "gpu_energy_joules_total": self.joules,
            "gpu_clock_hertz": [{"labels": {"clock": "sm"}, "value": dice.randrange(1400, 1980) * 1_000_000}],
            "gpu_processes": [{"labels": {"type": "compute"}, "value": len(self.pids)}],
            "gpu_clock_event_seconds_total": [],
            "gpu_state_seconds_total": [{"labels": {"state": name}, "value": at} for name, at in self.states.items()],
            "gpu_owner_seconds_total": [
                {"labels": {**dict(zip(owners, owner, strict=True)), "state": state}, "value": value}
                for (owner, state), value in self.held.items()
            ],
        }
        return {"gpu": index, "uuid": f"GPU-{node}-{index}", "model": "NVIDIA H100 80GB HBM3", "metrics": metrics}


class Machine:
    """One node's documents."""

    def __init__(self, number: int, dice: random.Random) -> None:
        self.name = f"gpu{number:02}.example.org"
        self.gpus = [Gpu(dice, shared=number % 8 == 7) for _ in range(GPUS)]
        self.dice = dice

    def document(self, at: float, seconds: float) -> dict[str, object]:
        for gpu in self.gpus:
            gpu.live(seconds)
        dice = self.dice
        processes = [
            {
                "gpu": index,
                "pid": pid,
                "type": "compute",
                "process": "python3",
                "user": owner[1],
                "memory_used_bytes": 10**10,
            }
            for index, gpu in enumerate(self.gpus)
            for owner, pid in zip(gpu.owners, gpu.pids, strict=True)
        ]
        disks = [
            {"mount": mount, "device": f"/dev/{mount}", "filesystem": "ext4", "total_bytes": 4 * 10**12,
             "used_bytes": int(dice.uniform(1e12, 3e12))}
            for mount in ("/", "/data", "/scratch")
        ]  # fmt: skip
        return {
            "schema": 1,
            "host": {
                "name": self.name, "cpu_utilization_ratio": dice.random(), "memory_used_bytes": dice.randrange(10**12),
                "memory_total_bytes": 10**12, "load": [dice.uniform(0, 64), 1, 1], "disks": disks,
            },
            "exporter": {"interval_seconds": seconds, "sample_timestamp_seconds": at, "sample_age_seconds": 0.0},
            "gpus": [gpu.document(index, self.name) for index, gpu in enumerate(self.gpus)],
            "processes": processes,
        }  # fmt: skip


def fill(path: Path, gpus: int, days: int, interval: float) -> float:
    """Record so many days; CPU seconds of the recorder alone."""
    dice = random.Random(1)
    machines = [Machine(number, dice) for number in range(gpus // GPUS)]
    recorder, spent, at = Recorder(path, retention=Retention(minutes=400 * DAY)), 0.0, float(START)
    while at < START + days * DAY:
        documents = [machine.document(at, interval) for machine in machines]
        began = time.process_time()
        for machine, document in zip(machines, documents, strict=True):
            recorder.add(machine.name, document, at)
        if at % 60 == 0:
            recorder.flush(at)
        spent += time.process_time() - began
        at += interval
    recorder.close()
    return spent


def repeat(path: Path, days: int) -> None:
    """Make 30 days of these, a day at a time as they would have come."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        keyed = ("gpu_minute", "gpu_minute_owner", "host_minute", "disk_hour")
        for day in range(days, DAYS):
            connection.execute("BEGIN")
            for table in keyed:
                names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")][1:]
                low = (START // 3600 + day % days * 24) << 22
                connection.execute(
                    f"INSERT INTO {table} SELECT id + (? << 22), {', '.join(names)} FROM {table} "
                    "WHERE id >= ? AND id < ? ORDER BY id",
                    ((day - day % days) * 24, low, low + (24 << 22)),
                )
            shift = (day - day % days) * DAY
            connection.execute(
                "INSERT INTO process SELECT NULL, gpu, pid, type, mig_uuid, process, user, container, labels, "
                "first_seen + ?, last_seen + ?, memory_max_bytes FROM process WHERE first_seen >= ? AND first_seen < ?",
                (shift, shift, START + day % days * DAY, START + (day % days + 1) * DAY),
            )
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def charts(path: Path) -> dict[str, tuple[float, float]]:
    """Milliseconds of a chart of 30 days by metric, CPU and wall: the median GPU's, of a fresh reader each."""
    end, times = START + DAYS * DAY, {}
    with closing(Reader(path)) as reader:
        gpus = reader.gpus()
    for metric in METRICS:
        took = []
        for gpu in gpus[:: max(1, len(gpus) // 8)]:
            with closing(Reader(path)) as reader:
                began, cpu = time.perf_counter(), time.thread_time()
                series = reader.series(gpu, metric, start=START, end=end, step=3600)
                took.append(((time.thread_time() - cpu) * 1000, (time.perf_counter() - began) * 1000))
                if len(series.means) != DAYS * 24:
                    raise RuntimeError("the chart is not whole")
        times[metric] = (statistics.median(cpu for cpu, _ in took), statistics.median(wall for _, wall in took))
    return times


def parts(path: Path) -> str:
    """The largest tables in MB, and bytes a row."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT count(*) FROM gpu_minute").fetchone()[0]
        each = f"{path.stat().st_size / rows:.1f} bytes a GPU and minute in all"
        try:
            largest = connection.execute(
                "SELECT name, sum(pgsize) / 1e6 AS size FROM dbstat GROUP BY name ORDER BY size DESC LIMIT 4"
            ).fetchall()
        except sqlite3.Error:  # this SQLite was built without dbstat
            return each
    return f"{each}; MB: {', '.join(f'{table} {size:.1f}' for table, size in largest)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.history_cost", description=__doc__)
    parser.add_argument("--gpus", type=int, default=64, help="a multiple of eight")
    parser.add_argument("--days", type=int, default=3, help="that are recorded; they are repeated up to 30")
    parser.add_argument("--interval", type=float, default=60.0, help="seconds between two documents of a machine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpu-exporter-history-") as name:
        path = Path(name) / "history.db"
        spent = fill(path, arguments.gpus, arguments.days, arguments.interval)
        each = spent / (arguments.days * DAY / arguments.interval * arguments.gpus)
        repeat(path, arguments.days)
        size, budget = path.stat().st_size / 1e6, SIZE * arguments.gpus / 64
        times = charts(path)
        slowest = max(times, key=lambda metric: times[metric])
        cpu, wall = times[slowest]
        with closing(Reader(path)) as reader:
            began = time.thread_time()
            found = usage(reader, start=START, end=START + DAYS * DAY)
            took = time.thread_time() - began
        print(
            f"size         {size:.1f} MB, {arguments.gpus} GPUs, {DAYS} days; budget {budget:g}: {_kept(size, budget)}"
        )
        print(f"             {parts(path)}")
        print(
            f"chart        {cpu:.1f} ms ({wall:.1f}), {DAYS} days of {slowest}; budget {CHART:g}: {_kept(cpu, CHART)}"
        )
        print(f"             {statistics.median(cpu for cpu, _ in times.values()):.1f} ms in the median of all metrics")
        print(f"sums         {took:.2f} s for {DAYS} days of {len(found.gpus)} GPUs and {len(found.holds)} holds")
        print(
            f"recording    {each * 1e6:.0f} us a GPU and document; {each * 8000 / 5:.3f} of a core for 8 000 every 5 s"
        )
        print(f"load         {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        return 0 if size <= budget and cpu <= CHART else 1


def _kept(value: float, budget: float) -> str:
    return "kept" if value <= budget else "EXCEEDED"


if __name__ == "__main__":
    sys.exit(main())
