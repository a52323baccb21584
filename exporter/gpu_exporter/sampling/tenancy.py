"""Who holds a GPU at one moment, and for how long each has held it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from gpu_exporter.catalog import MEMORY_UNACCOUNTED, OWNER_ENERGY, OWNER_MEMORY, OWNER_SCORE, OWNER_SECONDS
from gpu_exporter.catalog.owner_kinds import BY_KIND, OWNER_KINDS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Hold, Identity, Owner, Process, Reading, State

# An owner that has held nothing for so long leaves the exposition, and its sums with it.
FORGET_AFTER: Final = 3600.0
_MOST_OWNERS: Final = 256  # a GPU; a storm of short-lived pods ends the oldest idle ones first
_UNSEEN: Final = Identity()


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whom time is charged to, whatever the name is at the moment: it may come later than the first second, or change.

    ``key`` is the uid, or the name, as the kind tells its owners apart. ``owner`` is as it is called now.
    """

    kind: str
    key: int | str
    namespace: str
    owner: Owner = field(compare=False)
    uid: int | None = field(default=None, compare=False)


class Tenancy(NamedTuple):
    """A tenant's share of a GPU; ``memory`` in bytes, None where the driver does not tell. Told as a ``Hold``."""

    tenant: Tenant
    memory: float | None

    @property
    def owner(self) -> Owner:
        """The tenant, as it is called now."""
        return self.tenant.owner


def owner_of(identity: Identity) -> Owner:
    """The one whom a process's time is charged to: the most precise unit that a site bills."""
    labels, kind = identity.all_labels(), OWNER_KINDS[0]
    if identity.labels:
        kind = next((row for row in OWNER_KINDS[1:] if labels.get(row.labels[0])), kind)
    return Owner(kind.kind, labels.get(kind.name, ""), labels.get(kind.namespace, ""))


def tenant_of(identity: Identity) -> Tenant:
    """The same, apart from what it is called."""
    owner = owner_of(identity)
    told_by = BY_KIND[owner.kind].told_by
    # Who is named after another label than the user's is not the user.
    uid = identity.uid if BY_KIND[owner.kind].name == "user" else None
    key: int | str = owner.name
    if told_by == "namespace":
        key = ""
    elif told_by == "uid" and uid is not None:
        key = uid
    return Tenant(owner.kind, key, owner.namespace, owner, uid)


NOBODY: Final = tenant_of(_UNSEEN)


def merged(processes: Iterable[Process]) -> list[Process]:
    """Each process of each MIG device once: one that computes and draws is in both lists, with the same memory.

    Those whose pid the driver cannot tell are as many as the longer list has.
    """
    once: dict[tuple[int, str, int], Process] = {}
    nameless: Counter[tuple[int, str, str]] = Counter()
    for process in processes:
        number = 0
        if not process.has_pid:
            nameless[process.pid, process.mig_uuid, process.type] += 1
            number = nameless[process.pid, process.mig_uuid, process.type]
        key = (process.pid, process.mig_uuid, number)
        other = once.setdefault(key, process)
        if other is not process:
            memories = [memory for memory in (other.memory_used, process.memory_used) if memory is not None]
            utilization = other.utilization if other.utilization is not None else process.utilization
            once[key] = replace(other, memory_used=max(memories, default=None), utilization=utilization)
    return list(once.values())


def is_anybodys(process: Process) -> bool:
    """Whether the driver tells that there is a process, and no more: it explains nothing."""
    return not process.has_pid and _is_unseen(process)


def _is_unseen(process: Process) -> bool:
    return process.identity is None or process.identity == _UNSEEN


def only_holder(allocations: Iterable[Identity]) -> Identity | None:
    """The one whom a device was given to; None where that is nobody, or several."""
    only: Identity | None = None
    for identity in allocations:
        if only is not None and tenant_of(identity) != tenant_of(only):
            return None
        only = only or identity
    return only


def holds(reading: Reading, *, more_than: float, unexplained: float = 0.0) -> tuple[Tenancy, ...]:
    """Who holds the GPU: with more than so many bytes in all, with memory that is not told, or by an allocation.

    What cannot be seen is of the only one whom the device was given to, else of nobody that can be named: processes
    without an identity, and memory that is ``unexplained``.
    """
    tenants: dict[Tenant, Tenant] = {}  # of those that are equal, the one whose name counts
    memory: dict[Tenant, float] = defaultdict(float)
    untold: set[Tenant] = set()
    for identity in reading.allocations:
        tenants.setdefault(tenant_of(identity), tenant_of(identity))
    allocated = set(tenants)
    for process in merged(reading.processes or ()):
        if is_anybodys(process) and process.memory_used is not None:
            continue  # it is part of what is unexplained
        tenant = tenant_of(_whose(process, reading))
        if not tenants.setdefault(tenant, tenant).owner.name:
            tenants[tenant] = tenant  # a prolog may tell the job alone
        memory[tenant] += process.memory_used or 0.0
        if process.memory_used is None:
            untold.add(tenant)
    if unexplained:
        tenant = tenant_of(only_holder(reading.allocations) or _UNSEEN)
        tenants.setdefault(tenant, tenant)
        memory[tenant] += unexplained
    nothing = None if reading.processes is None else 0.0
    return tuple(
        Tenancy(called, None if tenant in untold else memory.get(tenant, nothing))
        for tenant, called in sorted(tenants.items(), key=lambda item: (item[1].owner, str(item[0].key)))
        if memory.get(tenant, 0.0) > more_than or tenant in untold or tenant in allocated
    )


def instances_of(reading: Reading) -> Mapping[Tenant, set[str]]:
    """The UUIDs of the MIG devices that each tenant runs on, or was given."""
    found: dict[Tenant, set[str]] = {}
    for process in merged(reading.processes or ()):
        if process.mig_uuid and not (is_anybodys(process) and process.memory_used is not None):
            found.setdefault(tenant_of(_whose(process, reading)), set()).add(process.mig_uuid)
    for uuid, allocations in reading.mig_allocations.items():
        for identity in allocations:
            found.setdefault(tenant_of(identity), set()).add(uuid)
    return found


def workers(reading: Reading) -> Mapping[Tenant, float]:
    """The share of the multiprocessors' time that each tenant's processes took, of those of which it is told."""
    found: dict[Tenant, float] = {}
    for process in merged(reading.processes or ()):
        if process.utilization is not None:
            tenant = tenant_of(_whose(process, reading))
            found[tenant] = found.get(tenant, 0.0) + process.utilization
    return found


def _whose(process: Process, reading: Reading) -> Identity:
    """Who the process is; one that cannot be seen is of the only one whom its device was given to."""
    if process.identity is not None and not _is_unseen(process):
        return process.identity
    return only_holder(reading.mig_allocations.get(process.mig_uuid) or reading.allocations) or _UNSEEN


def holder_names(reading: Reading) -> list[str] | None:
    """The names of ``holder_memory``, those with the most memory first."""
    held = holder_memory(reading)
    return None if held is None else [name for name, _ in held]


def holder_memory(reading: Reading) -> list[tuple[str, float]] | None:
    """Who has a process on it, or was given it, as a person would ask for them, with bytes of memory, the most first.

    An empty name is a holder that is not known; 0 bytes may be not known. None tells that it is not known whether there
    is anybody.
    """
    if reading.processes is None and not reading.allocations:
        return None
    held: dict[str, float] = {}
    for process in merged(reading.processes or ()):
        name = _name(_whose(process, reading))
        held[name] = held.get(name, 0.0) + (process.memory_used or 0.0)
    for identity in reading.allocations:
        held.setdefault(_name(identity), 0.0)
    if unaccounted := reading.values.get(MEMORY_UNACCOUNTED):
        held[""] = unaccounted
    return sorted(held.items(), key=lambda item: (-item[1], item[0]))


def _name(identity: Identity) -> str:
    owner = owner_of(identity)
    name, kind = owner.name or identity.container, BY_KIND[owner.kind]
    return (kind.called if name else kind.nameless).format(name=name, namespace=owner.namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Seconds of a GPU, and what came of them, for those who held it.

    ``of_their_own`` are the states of those who have a part of the GPU to themselves. ``score`` is in seconds and None
    where the GPU has none. Joules are None where they are not told: of ``idle_joules`` everybody has a part by what is
    held, of ``joules`` above them by ``work`` (whose unit does not matter) where it is told.
    """

    state: State
    seconds: float
    of_their_own: Mapping[Tenant, State] = field(default_factory=dict)
    score: float | None = None
    idle_joules: float | None = None
    joules: float | None = None
    work: Mapping[Tenant, float] = field(default_factory=dict)

    def part(self, seconds: float, *, state: State) -> Charge:
        """So many of the seconds, with what came of all of them spread evenly."""
        if seconds == self.seconds and state == self.state:
            return self
        share = seconds / self.seconds
        return replace(
            self,
            state=state,
            seconds=seconds,
            score=None if self.score is None else self.score * share,
            idle_joules=None if self.idle_joules is None else self.idle_joules * share,
            joules=None if self.joules is None else self.joules * share,
        )


@dataclass(slots=True)
class _Sums:
    tenant: Tenant
    seconds: dict[State, float] = field(default_factory=lambda: {"active": 0.0, "idle_held": 0.0})
    score: float | None = None
    joules: float | None = None
    held_at: float = 0.0


class OwnerTimes:
    """Seconds by owner and state of one GPU, with the score and the energy of them.

    Charged by tenant and named as they are told: ``user_name`` tells a uid's name, or the uid as text.
    """

    def __init__(self, *, user_name: Callable[[int], str] = str) -> None:
        self._user_name = user_name
        self._sums: dict[Tenant, _Sums] = {}

    def born(self, holds: Sequence[Tenancy], *, scored: bool, metered: bool) -> None:
        """Those who hold the GPU have an account from now on; counters begin at zero."""
        for hold in holds:
            sums = self._sums_of(hold.tenant)
            if scored and sums.score is None:
                sums.score = 0.0
            if metered and sums.joules is None:
                sums.joules = 0.0

    def charge(self, holds: Sequence[Tenancy], charge: Charge) -> None:
        """Split it among the owners, by memory held; equally where that is not known of all, or nothing."""
        memories = [hold.memory for hold in holds]
        known = [memory for memory in memories if memory is not None]
        total = sum(known) if len(known) == len(memories) else 0.0
        shares = [(hold.memory or 0.0) / total if total else 1 / len(holds) for hold in holds]
        worked = [charge.work.get(hold.tenant, 0.0) for hold in holds]
        work = sum(worked)
        for hold, share, mine in zip(holds, shares, worked, strict=True):
            sums = self._sums_of(hold.tenant)
            own = charge.of_their_own.get(hold.tenant, charge.state)
            sums.seconds[own] = sums.seconds.get(own, 0.0) + share * charge.seconds
            if charge.score is not None and own in {"active", "idle_held"}:
                sums.score = (sums.score or 0.0) + share * charge.score
            if charge.joules is not None and charge.idle_joules is not None:
                drawn = share * charge.idle_joules + (mine / work if work > 0 else share) * charge.joules
                sums.joules = (sums.joules or 0.0) + drawn

    def named(self, holds: Sequence[Tenancy]) -> tuple[Hold, ...]:
        """Who holds the GPU, as they are called now; two of one name are one owner."""
        memories: dict[Owner, list[float | None]] = defaultdict(list)
        for hold in holds:
            memories[self._called(hold.tenant)].append(hold.memory)
        return tuple(
            Hold(owner, None if None in told else sum(memory for memory in told if memory is not None))
            for owner, told in sorted(memories.items())
        )

    def rows(self, holds: Sequence[Tenancy], now: float) -> dict[tuple[Metric, tuple[str, ...]], float]:
        """The rows to expose; those who have held nothing for an hour are forgotten here."""
        for hold in holds:
            self._sums_of(hold.tenant).held_at = now
        named: dict[Owner, list[_Sums]] = defaultdict(list)
        for sums in self._sums.values():
            named[self._called(sums.tenant)].append(sums)
        self._forget(named, {hold.tenant for hold in holds}, now)
        rows: dict[tuple[Metric, tuple[str, ...]], float] = {}
        for owner, same in sorted(named.items()):
            for sums in same:
                for state, seconds in sums.seconds.items():
                    row = (OWNER_SECONDS[state], owner)
                    rows[row] = rows.get(row, 0.0) + seconds
                for metric, amount in ((OWNER_SCORE, sums.score), (OWNER_ENERGY, sums.joules)):
                    if amount is not None:
                        rows[metric, owner] = rows.get((metric, owner), 0.0) + amount
        rows |= {(OWNER_MEMORY, owner): memory for owner, memory in self.named(holds) if memory is not None}
        return rows

    def _sums_of(self, tenant: Tenant) -> _Sums:
        sums = self._sums.setdefault(tenant, _Sums(tenant))
        sums.tenant = tenant  # as it is called now
        return sums

    def _called(self, tenant: Tenant) -> Owner:
        """Two uids with one name are one owner, as everywhere else."""
        if tenant.uid is None:
            return tenant.owner
        name = self._user_name(tenant.uid)
        return tenant.owner if name == str(tenant.uid) else tenant.owner._replace(name=name)

    def _forget(self, named: dict[Owner, list[_Sums]], current: Collection[Tenant], now: float) -> None:
        """Whole owners at a time, so that what is told of one never falls."""
        held_at = {owner: max(sums.held_at for sums in same) for owner, same in named.items()}
        idle = [owner for owner, same in named.items() if not any(sums.tenant in current for sums in same)]
        idle.sort(key=lambda owner: held_at[owner])
        for owner in idle:
            if now - held_at[owner] > FORGET_AFTER or len(self._sums) > _MOST_OWNERS:
                for sums in named.pop(owner):
                    del self._sums[sums.tenant]
