"""GPUs and their holders in the groups that people think of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gpu_exporter.hub.state import Gpu, Holder, NodeState


def by_node(gpus: Iterable[Gpu]) -> list[tuple[str, list[Gpu]]]:
    """By machine, those with most of them first."""
    found: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        found.setdefault(gpu.node, []).append(gpu)
    return sorted(found.items(), key=lambda entry: -len(entry[1]))


def by_holder(gpus: Iterable[Gpu]) -> list[list[Gpu]]:
    """Those of one machine and the same holders together, in the order of their numbers; the oldest first."""
    found: dict[tuple[str, str, tuple[Holder, ...]], list[Gpu]] = {}
    for gpu in gpus:
        who = tuple(sorted((replace(holder, memory=None) for holder in gpu.holders or ()), key=lambda one: one.key))
        found.setdefault((gpu.node, gpu.model, who), []).append(gpu)
    return sorted(found.values(), key=lambda same: min(gpu.since for gpu in same))


def holders(state: NodeState) -> list[tuple[Holder, int]]:
    """Who holds GPUs of a machine, and how many: those with most first."""
    counts: dict[tuple[str, str, str], list[Holder]] = {}
    for gpu in state.gpus:
        for holder in gpu.holders or ():
            counts.setdefault(holder.key, []).append(holder)
    return sorted(((held[0], len(held)) for held in counts.values()), key=lambda entry: (-entry[1], entry[0].key))


def oldest_idle(gpus: Sequence[Gpu]) -> Gpu | None:
    """The one that has done nothing for longest."""
    return min((gpu for gpu in gpus if gpu.state == "idle"), key=lambda gpu: gpu.since, default=None)
