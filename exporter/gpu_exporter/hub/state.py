"""Machines, GPUs and whoever holds them, as everything that shows them sees them: the same words for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from gpu_exporter.hub.document import Disk, Exporter, Host, amount
from gpu_exporter.hub.fetching import Fetched
from gpu_exporter.hub.nodes import Node

NodeStatus: TypeAlias = Literal["starting", "online", "offline"]
# What a person asks of a GPU. ``held`` is held and at work, ``idle`` is held and does nothing.
GpuState: TypeAlias = Literal["free", "held", "idle", "down", "unknown"]
STATES: Final[tuple[GpuState, ...]] = ("free", "held", "idle", "down", "unknown")


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
    sm_active: float | None = None
    fan: float | None = None
    mig: bool = False  # partitioned: nobody gets the whole of it
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


class Looks(ABC):
    """What can be asked of machines, wherever they come from; a subclass gives them in their order."""

    @abstractmethod
    def __iter__(self) -> Iterator[NodeState]: ...

    def gpus(self) -> Iterator[Gpu]:
        """Every GPU, in the order of the machines."""
        for state in self:
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
        return any(state.exporter is not None and state.exporter.simulated for state in self)


def disk_share(disk: Disk) -> float | None:
    """The share of a disk that is used, as df(1) counts it."""
    used, free = amount(disk.used_bytes), amount(disk.free_bytes)
    total = amount(disk.total_bytes)
    if used is None or (free is None and total is None):
        return None
    whole = used + free if free is not None else total or 0.0
    return min(used / whole, 1.0) if whole > 0 else None


def unseen(gpu: Gpu, why: str, since: float) -> Gpu:
    """A GPU of which nothing is known now but that it was there."""
    return replace(Gpu(gpu.node, gpu.index, gpu.uuid, gpu.model, "unknown"), why=why, since=since, since_known=True)
