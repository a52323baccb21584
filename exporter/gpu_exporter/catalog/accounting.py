"""What a GPU's time is charged to."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.owner_kinds import NAMESPACES_EXPLAINED
from gpu_exporter.catalog.row import Metric, row

gauge: Final = partial(row, "gauge", "accounting")
counter: Final = partial(row, "counter", "accounting")

STATE_SECONDS: Final = {
    state: counter(
        "gpu_state_seconds_total",
        "Observed time by what the GPU did: active (busy for accounting.active_ratio or more), idle_held (idle while a "
        "process, an allocation or memory that nobody explains holds it), idle_free, unknown (nothing tells how busy "
        "it was, or what tells it disagrees), down.",
        labels={"state": state},
    )
    for state in ("active", "idle_held", "idle_free", "unknown", "down")
}
OWNER_SECONDS: Final = {
    state: counter(
        "gpu_owner_seconds_total",
        "Observed time that the owner held the GPU, by what the GPU did; on a shared GPU split by memory held. "
        f"{NAMESPACES_EXPLAINED}An owner without a name is one that cannot be seen. Who holds nothing for an hour is "
        "left out.",
        labels={"state": state},
        dynamic=("owner_kind", "owner", "namespace"),
    )
    for state in ("active", "idle_held", "unknown")
}
OWNER_MEMORY: Final = gauge(
    "gpu_owner_memory_used_bytes",
    "Device memory that the owner's processes have allocated; 0 for an allocation on which nothing runs.",
    dynamic=("owner_kind", "owner", "namespace"),
)
MEMORY_UNACCOUNTED: Final = gauge(
    "gpu_memory_unaccounted_bytes",
    "Device memory in use that no process has which can be seen, and that no allocation explains, where it is more "
    "than the driver itself takes (accounting.held_bytes), else 0; absent where it cannot be known, as where the "
    "driver does not tell what processes have.",
)
ROWS: Final[tuple[Metric, ...]] = (*STATE_SECONDS.values(), *OWNER_SECONDS.values(), OWNER_MEMORY, MEMORY_UNACCOUNTED)
