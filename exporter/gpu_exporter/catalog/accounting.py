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
SCORE_SECONDS: Final = counter(
    "gpu_score_seconds_total",
    "The score over time, so that its rate is the score: 0.5 x activity + 0.2 x memory I/O + 0.2 x memory used + 0.1 x "
    "power by its limit, each 0 to 1. Activity is that of the multiprocessors where they are told "
    "(gpu_sm_active_seconds_total), else utilization, which is the whole score while another part is not told; absent "
    "without it and in MIG mode.",
)
OWNER_SCORE: Final = counter(
    "gpu_owner_score_seconds_total",
    "The owner's part of gpu_score_seconds_total while it was known whether the GPU was active, split as "
    "gpu_owner_seconds_total is: its growth by that of the states active and idle_held is the owner's score.",
    dynamic=("owner_kind", "owner", "namespace"),
)
OWNER_ENERGY: Final = counter(
    "gpu_owner_energy_joules_total",
    "Energy that the GPU drew while the owner held it: what the board draws when idle is split as "
    "gpu_owner_seconds_total is, the rest by the work of each owner's processes where the driver tells it. Over all "
    "owners it is what gpu_energy_joules_total grew by while the GPU was held.",
    dynamic=("owner_kind", "owner", "namespace"),
)
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
ROWS: Final[tuple[Metric, ...]] = (
    *STATE_SECONDS.values(),
    SCORE_SECONDS,
    *OWNER_SECONDS.values(),
    OWNER_SCORE,
    OWNER_ENERGY,
    OWNER_MEMORY,
    MEMORY_UNACCOUNTED,
)
