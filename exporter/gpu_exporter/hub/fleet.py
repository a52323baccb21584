"""What is known of every machine now. Belongs to the event loop's one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from gpu_exporter.hub import document
from gpu_exporter.hub.document import Disk, Document, Exporter, Host, shown
from gpu_exporter.hub.fetching import Fetched, FetchError
from gpu_exporter.hub.nodes import Node, Nodes

NodeStatus: TypeAlias = Literal["starting", "online", "offline"]
# What a person asks of a GPU. ``held`` is held and at work, ``idle`` is held and does nothing.
GpuState: TypeAlias = Literal["free", "held", "idle", "down", "unknown"]
STATES: Final[tuple[GpuState, ...]] = ("free", "held", "idle", "down", "unknown")

_STATES: Final[Mapping[str, GpuState]] = {
    "active": "held",
    "idle_held": "idle",
    "idle_free": "free",
    "down": "down",
    "unknown": "unknown",
}
_FAILURES: Final = 2  # in a row, for a machine that has answered before: one lost packet is no news
_STALE: Final = 3.0  # intervals, the exporter's and ours, after which readings that stay the same are old
_FAILED_WORDS: Final = {
    "lost": "lost: the driver cannot reach it",
    "timeout": "the driver does not answer for it",
    "reset_required": "it needs a reset",
    "permission": "its exporter may not read it",
    "unknown": "the driver reports an unknown error",
}


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody's share of a GPU; ``memory`` in bytes, None where it is not known. An empty name is not known."""

    kind: str
    name: str
    namespace: str
    memory: float | None

    @property
    def key(self) -> tuple[str, str, str]:
        """Who it is, wherever."""
        return self.kind, self.name, self.namespace


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU now. None is what is not known; ``since`` is when its state began, or when we began to look."""

    node: str
    index: int
    uuid: str
    model: str
    state: GpuState
    why: str = ""
    since: float = 0.0
    since_known: bool = False
    utilization: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    temperature: float | None = None
    temperature_limit: float | None = None
    power: float | None = None
    power_limit: float | None = None
    xids: tuple[str, ...] = ()
    holders: tuple[Holder, ...] | None = None


@dataclass(slots=True)
class NodeState:
    """One machine now. ``since`` is Unix time of the change to ``status``; ``reason`` and ``message`` are why.

    What the exporter told is there while the machine is online, and its GPUs' identities stay when it is not.
    """

    node: Node
    status: NodeStatus = "starting"
    since: float = 0.0
    reason: str = ""
    message: str = ""
    failures: int = 0
    seen: float | None = None
    address: str = ""
    host: Host = field(default_factory=Host)
    exporter: Exporter | None = None
    driver: str = ""
    gpus: tuple[Gpu, ...] = ()
    processes: tuple[Mapping[str, Any], ...] = ()
    trouble: str = ""
    fetched: Fetched | None = None
    sampled: tuple[float | None, float] = (None, 0.0)  # the sample's time by its clock, and when by ours it came first

    @property
    def online(self) -> bool:
        """Whether what is told of it is of now."""
        return self.status == "online"

    @property
    def disk(self) -> Disk | None:
        """The fullest of its disks."""
        known = [disk for disk in self.host.disks if disk_share(disk) is not None]
        return max(known, key=lambda disk: disk_share(disk) or 0.0, default=None)


@dataclass(frozen=True, slots=True)
class Person:
    """Whoever holds GPUs, with all of them."""

    key: tuple[str, str, str]
    gpus: tuple[Gpu, ...]
    memory: float

    @property
    def idle(self) -> tuple[Gpu, ...]:
        """Those that do nothing."""
        return tuple(gpu for gpu in self.gpus if gpu.state == "idle")


class Fleet:
    """All machines in the order of nodes.yml. ``generation`` grows with every change."""

    def __init__(self, *, interval: float, clock: Callable[[], float] = time.time) -> None:
        self.interval = interval
        self.began = clock()
        self.generation = 0
        self.polls = {"answered": 0, "failed": 0}
        self.notes: tuple[str, ...] = ()
        self.complaint = ""  # why a changed nodes.yml or hub.yml was not taken
        self._clock = clock
        self._states: dict[str, NodeState] = {}
        self._since: dict[tuple[str, str], tuple[GpuState, tuple[Any, ...], float, bool]] = {}

    # --- changes ------------------------------------------------------------------------------------------------------

    def replace(self, nodes: Nodes) -> None:
        """Look at these machines; what is known of those that stay is kept."""
        self.notes = nodes.notes
        old, self._states = self._states, {}
        for node in nodes.nodes:
            before = old.get(node.name)
            same = before is not None and (before.node.address, before.node.scheme) == (node.address, node.scheme)
            state = before if same and before is not None else NodeState(node, since=self._clock())
            state.node = node
            self._states[node.name] = state
        for key in [key for key in self._since if key[0] not in self._states]:
            del self._since[key]
        self.generation += 1

    def answered(self, name: str, fetched: Fetched | None) -> None:
        """A machine has answered; None means with the same as before."""
        state = self._states.get(name)
        if state is None:
            return
        now = self._clock()
        fresh = fetched or state.fetched
        if fresh is None:
            return
        self.polls["answered"] += 1
        if not state.online:
            state.status, state.since = "online", now
        state.seen, state.failures, state.reason, state.message = now, 0, "", ""
        state.fetched = fresh
        if fetched is not None:
            state.address = fetched.address or state.address
        self._take(state, fresh.document, now)
        self.generation += 1

    def failed(self, name: str, error: FetchError) -> None:
        """A machine could not be asked."""
        state = self._states.get(name)
        if state is None:
            return
        self.polls["failed"] += 1
        state.failures += 1
        state.reason, state.message = error.reason, str(error)
        if state.status == "offline" or (state.status == "online" and state.failures < _FAILURES):
            self.generation += 1
            return
        # It was last known to be well when it last answered.
        state.status, state.since = "offline", state.seen if state.seen is not None else self.began
        state.exporter, state.host, state.processes, state.fetched, state.trouble = None, Host(), (), None, ""
        state.gpus = tuple(_unseen(gpu, "its machine is offline", state.since) for gpu in state.gpus)
        for gpu in state.gpus:
            self._since.pop((name, gpu.uuid or str(gpu.index)), None)
        self.generation += 1

    def complain(self, complaint: str) -> None:
        """Tell, or stop telling, that a changed file was not taken."""
        if complaint != self.complaint:
            self.complaint = complaint
            self.generation += 1

    def _take(self, state: NodeState, told: Document, now: float) -> None:
        state.exporter, state.host = told.exporter, told.host
        state.driver = shown(told.driver.get("driver_version", ""))
        state.processes = told.processes
        state.trouble = shown(told.exporter.live or told.exporter.ready or "")
        sampled = told.exporter.sample_timestamp_seconds
        if sampled != state.sampled[0]:
            state.sampled = (sampled, now)
        beat = (document.amount(told.exporter.interval_seconds, 86400.0) or self.interval) + self.interval
        stuck = not state.trouble and sampled is not None and now - state.sampled[1] > _STALE * beat
        if stuck:
            state.trouble = "its readings do not change any more"
        name = state.node.name
        gpus = [self._gpu(name, gpu, now) for gpu in told.gpus]
        if state.trouble and (stuck or not told.exporter.sample_success):
            gpus = [_unseen(gpu, state.trouble, now) for gpu in gpus]
        state.gpus = tuple(gpus)

    def _gpu(self, node: str, told: document.Gpu, now: float) -> Gpu:
        holders = None if told.holders is None else tuple(
            Holder(
                shown(one.owner_kind), shown(one.owner), shown(one.namespace), document.amount(one.memory_used_bytes)
            )
            for one in told.holders
        )  # fmt: skip
        state = _STATES[told.state] if told.up else "down"
        if state == "free" and holders != ():
            state = "unknown" if holders is None else "idle"
        since, known = self._state_since(node, told, state, holders, now)
        if not told.up:
            why = _FAILED_WORDS.get(told.failure or "", shown(told.failure or ""))
            return Gpu(node, told.gpu, shown(told.uuid), shown(told.model), "down", why, since, known, xids=_xids(told))
        metrics = told.metrics
        total = document.amount(metrics.gpu_memory_total_bytes)
        return Gpu(
            node=node,
            index=told.gpu,
            uuid=shown(told.uuid),
            model=shown(told.model),
            state=state,
            why="it is not known what it does" if state == "unknown" else "",
            since=since,
            since_known=known,
            utilization=document.share(metrics.gpu_utilization_ratio),
            memory_used=document.within(metrics.gpu_memory_used_bytes, total),
            memory_total=total,
            temperature=document.celsius(metrics.gpu_temperature_celsius),
            temperature_limit=_hottest(metrics),
            power=document.watts(metrics.gpu_power_watts),
            power_limit=document.watts(metrics.gpu_power_limit_watts),
            xids=_xids(told),
            holders=holders,
        )

    def _state_since(
        self, node: str, told: document.Gpu, state: GpuState, holders: tuple[Holder, ...] | None, now: float
    ) -> tuple[float, bool]:
        """When this state with these holders began, and whether that was seen."""
        key = (node, shown(told.uuid) or str(told.gpu))
        who = tuple(sorted(holder.key for holder in holders or ()))
        before = self._since.get(key)
        if before is not None and before[:2] == (state, who):
            return before[2], before[3]
        # The first look tells what is, not since when.
        self._since[key] = (state, who, now, before is not None)
        return now, before is not None

    # --- looks --------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[NodeState]:
        return iter(self._states.values())

    def get(self, name: str) -> NodeState | None:
        """A machine by its name."""
        return self._states.get(name)

    def gpus(self) -> Iterator[Gpu]:
        """Every GPU, in the order of the machines."""
        for state in self._states.values():
            yield from state.gpus

    def people(self) -> tuple[Person, ...]:
        """Who holds GPUs: those with the most first."""
        held: dict[tuple[str, str, str], list[tuple[Gpu, Holder]]] = {}
        for gpu in self.gpus():
            for holder in gpu.holders or ():
                held.setdefault(holder.key, []).append((gpu, holder))
        people = [
            Person(key, tuple(gpu for gpu, _ in shares), sum(holder.memory or 0.0 for _, holder in shares))
            for key, shares in held.items()
        ]
        return tuple(sorted(people, key=lambda person: (-len(person.gpus), person.key)))

    def counts(self, gpus: Sequence[Gpu] | None = None) -> dict[GpuState, int]:
        """How many GPUs are in each state."""
        found = dict.fromkeys(STATES, 0)
        for gpu in self.gpus() if gpus is None else gpus:
            found[gpu.state] += 1
        return found

    def simulated(self) -> bool:
        """Whether any machine's GPUs are simulated."""
        return any(state.exporter is not None and state.exporter.simulated for state in self._states.values())


def disk_share(disk: Disk) -> float | None:
    """The share of a disk that is used, as df(1) counts it."""
    used, free = document.amount(disk.used_bytes), document.amount(disk.free_bytes)
    total = document.amount(disk.total_bytes)
    if used is None or (free is None and total is None):
        return None
    whole = used + free if free is not None else total or 0.0
    return min(used / whole, 1.0) if whole > 0 else None


def _unseen(gpu: Gpu, why: str, since: float) -> Gpu:
    """A GPU of which nothing is known now but that it was there."""
    return replace(Gpu(gpu.node, gpu.index, gpu.uuid, gpu.model, "unknown"), why=why, since=since, since_known=True)


def _xids(told: document.Gpu) -> tuple[str, ...]:
    return tuple(shown(one.labels.get("xid", "")) for one in told.metrics.gpu_xid_errors_total if one.value)


def _hottest(metrics: document.Metrics) -> float | None:
    """The temperature at which it slows down; where that is not told, at which it is shut down."""
    limits = {one.labels.get("limit", ""): document.celsius(one.value) for one in metrics.gpu_temperature_limit_celsius}
    return limits.get("slowdown") or limits.get("shutdown")
