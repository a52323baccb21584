"""Who holds a GPU at one moment, and for how long each has held it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gpu_exporter.catalog import OWNER_MEMORY, OWNER_SECONDS
from gpu_exporter.catalog.owner_kinds import BY_KIND, OWNER_KINDS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Hold, Identity, Owner, Process, Reading, State

# An owner that has held nothing for so long leaves the exposition, and its sums with it.
FORGET_AFTER: Final = 3600.0
_MOST_OWNERS: Final = 256  # a GPU; a storm of short-lived pods ends the oldest idle ones first


def owner_of(identity: Identity) -> Owner:
    """The one whom a process's time is charged to: the most precise unit that a site bills."""
    labels, kind = identity.all_labels(), OWNER_KINDS[0]
    if identity.labels:
        kind = next((row for row in OWNER_KINDS[1:] if labels.get(row.labels[0])), kind)
    return Owner(kind.kind, labels.get(kind.name, ""), labels.get(kind.namespace, ""))


def merged(processes: Iterable[Process]) -> list[Process]:
    """Each process of each MIG device once: one that computes and draws is in both lists, with the same memory."""
    once: dict[tuple[int, str], Process] = {}
    for process in processes:
        other = once.setdefault((process.pid, process.mig_uuid), process)
        if other is not process:
            memories = [memory for memory in (other.memory_used, process.memory_used) if memory is not None]
            utilization = other.utilization if other.utilization is not None else process.utilization
            once[process.pid, process.mig_uuid] = replace(
                other, memory_used=max(memories, default=None), utilization=utilization
            )
    return list(once.values())


def holds(reading: Reading, *, more_than: float) -> tuple[Hold, ...]:
    """Who holds the GPU: with more than so many bytes in all, with memory that is not told, or by an allocation."""
    memory: dict[Owner, float] = {}
    untold: set[Owner] = set()
    for process in merged(reading.processes or ()):
        owner = owner_of(process.identity or Identity())
        memory[owner] = memory.get(owner, 0.0) + (process.memory_used or 0.0)
        if process.memory_used is None:
            untold.add(owner)
    allocated = {owner_of(identity) for identity in reading.allocations}
    holders = [owner for owner, held in memory.items() if held > more_than or owner in untold or owner in allocated]
    holders += [owner for owner in allocated if owner not in memory]
    nothing = None if reading.processes is None else 0.0
    return tuple(Hold(owner, None if owner in untold else memory.get(owner, nothing)) for owner in sorted(holders))


def holder_names(reading: Reading) -> list[str] | None:
    """Who has a process on it, or was given it, as a person would ask for them; those with the most memory first.

    An empty name is a holder that is not known. None tells that it is not known whether there is anybody.
    """
    if reading.processes is None and not reading.allocations:
        return None
    held: dict[str, float] = {}
    for process in merged(reading.processes or ()):
        name = _name(process.identity or Identity())
        held[name] = held.get(name, 0.0) + (process.memory_used or 0.0)
    for identity in reading.allocations:
        held.setdefault(_name(identity), 0.0)
    return sorted(held, key=lambda name: (-held[name], name))


def _name(identity: Identity) -> str:
    owner = owner_of(identity)
    name, kind = owner.name or identity.container, BY_KIND[owner.kind]
    return (kind.called if name else kind.nameless).format(name=name, namespace=owner.namespace)


@dataclass(slots=True)
class _Sums:
    seconds: dict[State, float] = field(default_factory=lambda: {"active": 0.0, "idle_held": 0.0})
    held_at: float = 0.0


class OwnerTimes:
    """Seconds by owner and state of one GPU."""

    def __init__(self) -> None:
        self._sums: dict[Owner, _Sums] = {}

    def charge(self, holds: Sequence[Hold], state: State, seconds: float) -> None:
        """Split the time among the owners, by memory held; equally where that is not known of all, or nothing."""
        memories = [hold.memory for hold in holds]
        known = [memory for memory in memories if memory is not None]
        total = sum(known) if len(known) == len(memories) else 0.0
        for hold in holds:
            share = (hold.memory or 0.0) / total if total else 1 / len(holds)
            sums = self._sums.setdefault(hold.owner, _Sums()).seconds
            sums[state] = sums.get(state, 0.0) + share * seconds

    def rows(self, holds: Sequence[Hold], now: float) -> dict[tuple[Metric, tuple[str, ...]], float]:
        """The rows to expose; those who have held nothing for an hour are forgotten here."""
        current: Mapping[Owner, Hold] = {hold.owner: hold for hold in holds}
        for owner in current:
            self._sums.setdefault(owner, _Sums()).held_at = now
        self._forget(current, now)
        rows: dict[tuple[Metric, tuple[str, ...]], float] = {}
        for owner, sums in sorted(self._sums.items()):
            for state, seconds in sums.seconds.items():
                rows[OWNER_SECONDS[state], owner] = seconds
            if owner in current and (memory := current[owner].memory) is not None:
                rows[OWNER_MEMORY, owner] = memory
        return rows

    def _forget(self, current: Mapping[Owner, Hold], now: float) -> None:
        for owner, sums in list(self._sums.items()):
            if now - sums.held_at > FORGET_AFTER:
                del self._sums[owner]
        if len(self._sums) > _MOST_OWNERS:
            idle = [owner for owner in self._sums if owner not in current]
            idle.sort(key=lambda owner: self._sums[owner].held_at)
            for owner in idle[: len(self._sums) - _MOST_OWNERS]:
                del self._sums[owner]
