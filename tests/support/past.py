"""A past that never was: hours of a lab, written by the real recorder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_exporter.history import Recorder

HOUR = 3600.0
_STEP = 30.0
_STATES = ("active", "idle_held", "idle_free", "unknown", "down")


class Gpu:
    """A GPU that does one thing all the time; its counters go up as a real one's.

    ``seen`` are the seconds of the past within which it is there; None is always.
    """

    def __init__(
        self,
        index: int,
        state: str,
        owner: str = "",
        *,
        busy: float = 0.0,
        kind: str = "user",
        seen: tuple[float, float] | None = None,
    ) -> None:
        self.index, self.state, self.owner, self.busy, self.kind = index, state, owner, busy, kind
        self._seen = seen

    def is_there(self, seconds: float) -> bool:
        """Whether it is listed after so many seconds."""
        return self._seen is None or self._seen[0] <= seconds < self._seen[1]

    def document(self, seconds: float) -> dict[str, Any]:
        """What it tells after so many seconds."""
        states = [{"labels": {"state": name}, "value": seconds * (name == self.state)} for name in _STATES]
        owner = {"owner_kind": self.kind, "owner": self.owner, "namespace": ""}
        owners = [{"labels": {**owner, "state": self.state}, "value": seconds}] if self.owner else []
        metrics = {
            "gpu_up": 1,
            "gpu_state_seconds_total": states,
            "gpu_owner_seconds_total": owners,
            "gpu_score_seconds_total": seconds * self.busy,
            "gpu_busy_seconds_total": seconds * self.busy,
            "gpu_memory_io_busy_seconds_total": seconds * self.busy,
            "gpu_energy_joules_total": seconds * 100,
            "gpu_utilization_ratio": self.busy,
            "gpu_memory_used_bytes": 2**30 if self.owner else 0,
            "gpu_memory_total_bytes": 2**36,
            "gpu_temperature_celsius": 40 + self.index,
            "gpu_power_watts": 100,
            "gpu_power_limit_watts": 700,
        }
        held = {"idle_held": "idle_held", "active": "active"}.get(self.state, "idle_free")
        return {
            "gpu": self.index,
            "uuid": f"GPU-{self.index}",
            "model": "NVIDIA H100",
            "up": True,
            "state": held,
            "holders": [owner] if self.owner else [],
            "metrics": metrics,
        }


def write(path: Path, machines: dict[str, list[Gpu]], *, start: float, hours: float) -> None:
    """The history of these machines."""
    now = start
    recorder = Recorder(path, clock=lambda: now)
    while now <= start + hours * HOUR:
        for alias, gpus in machines.items():
            recorder.add(
                alias,
                {
                    "schema": 1,
                    "exporter": {
                        "sample_success": True,
                        "sample_timestamp_seconds": now,
                        "interval_seconds": _STEP,
                        "sample_age_seconds": 0,
                    },
                    "host": {"name": f"{alias}.example.org"},
                    "gpus": [gpu.document(now - start) for gpu in gpus if gpu.is_there(now - start)],
                },
                now,
            )
        if (now - start) % HOUR < _STEP:
            recorder.flush(now)
        now += _STEP
    recorder.close()
