"""A machine that lives at the pace of a test: its snapshot documents, and counters that begin anew at a restart."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_exporter.history import Recorder
from gpu_exporter.history.document import STATES

START = 1_700_000_040.0  # a full minute
GIB = 1024**3
Document = dict[str, Any]


class Machine:
    """One node with GPUs; every ``step`` lets them live for some seconds, and tells it as a document."""

    def __init__(self, alias: str = "gpu1", *, gpus: int = 1, at: float = START, interval: float = 5.0) -> None:
        self.alias = alias
        self.at = at
        self.interval = interval
        self.processes: list[Document] = []
        self.host: Document = {"name": f"{alias}.lab", "cpu_utilization_ratio": 0.25, "memory_used_bytes": 8 * GIB,
                               "memory_total_bytes": 64 * GIB, "load": [1.5, 1.0, 0.5], "disks": []}  # fmt: skip
        self.gpus = [Gpu(f"GPU-{alias}-{index}") for index in range(gpus)]

    def step(self, seconds: float = 5.0, **life: Any) -> Document:
        """So many seconds later; ``life`` is that of every GPU (Gpu.live)."""
        self.at += seconds
        for gpu in self.gpus:
            gpu.live(seconds, **life)
        return self.document()

    def restart(self) -> None:
        """The exporter begins anew: what it counts itself does too."""
        for gpu in self.gpus:
            gpu.restart()

    def document(self) -> Document:
        """What /api/v1/snapshot would tell now."""
        return {
            "schema": 1,
            "host": copy.deepcopy(self.host),
            "exporter": {
                "version": "1", "source": "nvml", "simulated": False, "interval_seconds": self.interval,
                "sample_success": True, "sample_timestamp_seconds": self.at, "sample_age_seconds": 0.0,
                "paused": False, "ready": None, "live": None,
            },
            "gpus": [gpu.document(index) for index, gpu in enumerate(self.gpus)],
            "processes": copy.deepcopy(self.processes),
        }  # fmt: skip


class Gpu:
    """One GPU's counters and gauges."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.joules = 5e6
        self.gauges: dict[str, float] = {}
        self.rare: dict[str, list[Document]] = {}
        self.restart()

    def restart(self) -> None:
        self.states = dict.fromkeys(STATES, 0.0)
        self.busy = self.memory_io = 0.0
        self.owners: dict[tuple[str, str, str, str], float] = {}

    def live(
        self,
        seconds: float,
        *,
        state: str = "active",
        owners: Mapping[tuple[str, str, str], float] | None = None,
        utilization: float = 0.5,
        memory_io: float = 0.25,
        watts: float = 350.0,
        memory: float = 40 * GIB,
        celsius: float = 60.0,
    ) -> None:
        """So many seconds in a state; ``owners`` share them by (kind, name, namespace)."""
        self.states[state] += seconds
        self.joules += watts * seconds
        if state == "down":
            self.gauges = {}
            return
        self.busy += utilization * seconds
        self.memory_io += memory_io * seconds
        for owner, share in (owners or {}).items():
            key = (*owner, state)
            self.owners[key] = self.owners.get(key, 0.0) + seconds * share
        self.gauges = {
            "gpu_utilization_ratio": utilization, "gpu_memory_io_utilization_ratio": memory_io,
            "gpu_memory_used_bytes": memory, "gpu_memory_total_bytes": 80 * GIB, "gpu_power_watts": watts,
            "gpu_power_limit_watts": 700.0, "gpu_temperature_celsius": celsius,
        }  # fmt: skip

    def document(self, index: int) -> Document:
        kept: Document = {}
        if self.gauges:
            kept = {
                "gpu_busy_seconds_total": self.busy,
                "gpu_memory_io_busy_seconds_total": self.memory_io,
                "gpu_energy_joules_total": self.joules,
                "gpu_clock_hertz": [{"labels": {"clock": "sm"}, "value": 1.5e9}],
                "gpu_processes": [{"labels": {"type": "compute"}, "value": 1}],
            }
        names = ("owner_kind", "owner", "namespace", "state")
        metrics = {
            "gpu_up": int(bool(self.gauges)),
            **self.gauges,
            **kept,
            **copy.deepcopy(self.rare),
            "gpu_state_seconds_total": [
                {"labels": {"state": state}, "value": value} for state, value in self.states.items()
            ],
            "gpu_owner_seconds_total": [
                {"labels": {name: text for name, text in zip(names, key, strict=True) if text}, "value": value}
                for key, value in self.owners.items()
            ],
        }
        return {"gpu": index, "uuid": self.uuid, "model": "NVIDIA H100", "up": bool(self.gauges), "failure": None,
                "metrics": metrics}  # fmt: skip


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def recorder(path: Path, clock: Clock, **rest: Any) -> Recorder:
    """A recorder without its thread: a test flushes it."""
    return Recorder(path, clock=clock, monotonic=clock, **rest)


def writing(path: Path, *, after: float, steps: int) -> Recorder:
    """One that has so many steps of "gpu1" in its log, from ``after`` seconds on, and goes on."""
    machine, clock = Machine(at=START + after), Clock()
    made = recorder(path, clock)
    made.add("gpu1", machine.document(), machine.at)
    for _ in range(steps):
        made.add("gpu1", machine.step(), machine.at)
    clock.now = machine.at + 60
    made.flush()
    return made


def record(path: Path, machine: Machine, steps: int, seconds: float = 5.0, **life: Any) -> None:
    """Record so many steps of a machine's life, minute by minute, to the end."""
    clock = Clock(machine.at)
    made = recorder(path, clock)
    made.add(machine.alias, machine.document(), machine.at)
    for _ in range(steps):
        made.add(machine.alias, machine.step(seconds, **life), machine.at)
        if machine.at >= clock.now + 60:
            clock.now = machine.at
            made.flush()
    clock.now = machine.at
    made.close()
