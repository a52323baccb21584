"""Who holds a GPU at one moment, and for how long each has held it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from gpu_exporter.catalog import OWNER_MEMORY, OWNER_SECONDS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Owner, Process, Reading

# An owner that has held nothing for so long leaves the exposition, and its sums with it.
FORGET_AFTER: Final = 3600.0
_MOST_OWNERS: Final = 256  # a GPU; a storm of short-lived pods ends the oldest idle ones first


class Tenant(NamedTuple):
    """Whom time is charged to. Empty strings are what is not known.

    ``kind`` is pod, slurm or user; ``namespace`` is the pod's, of slurm the job's number, of a user empty.
    """

    kind: str
    owner: str
    namespace: str


class Hold(NamedTuple):
    """One tenant's hold of a GPU; ``memory`` in bytes, None where the driver does not tell."""

    tenant: Tenant
    memory: float | None


def tenant(owner: Owner) -> Tenant:
    """The one that an owner's time is charged to: the most precise unit that a site bills."""
    if owner.pod:
        return Tenant("pod", owner.pod, owner.namespace)
    if owner.slurm_job:
        return Tenant("slurm", owner.user, owner.slurm_job)
    return Tenant("user", owner.user, "")


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


def tenants(reading: Reading, *, more_than: float) -> tuple[Hold, ...]:
    """Who holds the GPU: with more than so many bytes in all, with memory that is not told, or by an allocation."""
    memory: dict[Tenant, float] = {}
    untold: set[Tenant] = set()
    for process in merged(reading.processes or ()):
        who = tenant(process.owner or Owner())
        memory[who] = memory.get(who, 0.0) + (process.memory_used or 0.0)
        if process.memory_used is None:
            untold.add(who)
    allocated = {tenant(owner) for owner in reading.allocations}
    holders = [who for who, held in memory.items() if held > more_than or who in untold or who in allocated]
    holders += [who for who in allocated if who not in memory]
    nothing = None if reading.processes is None else 0.0
    return tuple(Hold(who, None if who in untold else memory.get(who, nothing)) for who in sorted(holders))


def holder_names(reading: Reading) -> list[str] | None:
    """Who has a process on it, or was given it, as a person would ask for them; those with the most memory first.

    An empty name is a holder that is not known. None tells that it is not known whether there is anybody.
    """
    if reading.processes is None and not reading.allocations:
        return None
    held: dict[str, float] = {}
    for process in merged(reading.processes or ()):
        name = _name(process.owner or Owner())
        held[name] = held.get(name, 0.0) + (process.memory_used or 0.0)
    for owner in reading.allocations:
        held.setdefault(_name(owner), 0.0)
    return sorted(held, key=lambda name: (-held[name], name))


def _name(owner: Owner) -> str:
    if owner.pod:
        return f"{owner.namespace}/{owner.pod}"
    job = f"job {owner.slurm_job}" if owner.slurm_job else ""
    return ", ".join(filter(None, (owner.user or owner.container, job)))


@dataclass(slots=True)
class _Sums:
    seconds: dict[str, float] = field(default_factory=lambda: {"active": 0.0, "idle_held": 0.0})
    held_at: float = 0.0


class Tenancies:
    """Seconds by tenant and state of one GPU."""

    def __init__(self) -> None:
        self._sums: dict[Tenant, _Sums] = {}

    def charge(self, holders: Sequence[Hold], state: str, seconds: float) -> None:
        """Split the time among the holders, by memory held; equally where that is not known of all, or nothing."""
        memories = [hold.memory for hold in holders]
        known = [memory for memory in memories if memory is not None]
        total = sum(known) if len(known) == len(memories) else 0.0
        for hold in holders:
            share = (hold.memory or 0.0) / total if total else 1 / len(holders)
            sums = self._sums.setdefault(hold.tenant, _Sums()).seconds
            sums[state] = sums.get(state, 0.0) + share * seconds

    def rows(self, holders: Sequence[Hold], now: float) -> dict[tuple[Metric, tuple[str, ...]], float]:
        """The rows to expose; those who have held nothing for an hour are forgotten here."""
        current: Mapping[Tenant, Hold] = {hold.tenant: hold for hold in holders}
        for who in current:
            self._sums.setdefault(who, _Sums()).held_at = now
        self._forget(current, now)
        rows: dict[tuple[Metric, tuple[str, ...]], float] = {}
        for who, sums in sorted(self._sums.items()):
            for state, seconds in sums.seconds.items():
                rows[OWNER_SECONDS[state], who] = seconds
            if who in current and (memory := current[who].memory) is not None:
                rows[OWNER_MEMORY, who] = memory
        return rows

    def _forget(self, current: Mapping[Tenant, Hold], now: float) -> None:
        for who, sums in list(self._sums.items()):
            if now - sums.held_at > FORGET_AFTER:
                del self._sums[who]
        if len(self._sums) > _MOST_OWNERS:
            idle = sorted((who for who in self._sums if who not in current), key=lambda who: self._sums[who].held_at)
            for who in idle[: len(self._sums) - _MOST_OWNERS]:
                del self._sums[who]
