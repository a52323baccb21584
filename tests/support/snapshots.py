"""Made-up snapshots for tests of what is served."""

from __future__ import annotations

from typing import Any

from gpu_exporter.catalog import GPU_UP, XID_ERRORS, by_name
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Build, Device, Reading, Snapshot

NASTY = '<script>alert("1")</script>\n\\&\''
BUILD = Build("1.2.3", "3.11.7")


def row(name: str, *labels: tuple[str, str]) -> Metric:
    return by_name(name, **dict(labels))


def reading(index: int = 0, values: dict[Metric, float] | None = None, **rest: Any) -> Reading:
    return Reading(Device(index, f"GPU-{index}", "NVIDIA H100"), {GPU_UP: 1.0, **(values or {})}, **rest)


def snapshot(*readings: Reading, **rest: Any) -> Snapshot:
    made: dict[str, Any] = {"source": "nvml", "ok": True, "timestamp": 1000.0, **rest}
    return Snapshot(build=BUILD, readings=readings, **made)


FULL = reading(
    3,
    {
        row("gpu_temperature_celsius"): 41.0,
        row("gpu_utilization_ratio"): 0.5,
        row("gpu_memory_used_bytes"): 1.5 * 2**30,
        row("gpu_memory_total_bytes"): 80.0 * 2**30,
        row("gpu_power_watts"): 123.4,
        row("gpu_power_limit_watts"): 700.0,
        row("gpu_clock_hertz", ("clock", "sm")): 1.98e9,
        row("gpu_clock_event_active", ("reason", "gpu_idle")): 1.0,
        row("gpu_clock_event_active", ("reason", "sw_power_cap")): 1.0,
        row("gpu_clock_event_active", ("reason", "hw_slowdown")): 0.0,
    },
    labelled={(XID_ERRORS, ("79",)): 2.0, (XID_ERRORS, ("8",)): 1.0},
)
