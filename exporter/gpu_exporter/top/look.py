"""What somebody wants to see: order, filter, folding. Changed by keys, read by everything that is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from gpu_exporter.catalog.owner_kinds import OWNER_KINDS, PROCESS_LABELS
from gpu_exporter.hub.state import Gpu, Holder, NodeState
from gpu_exporter.hub.words import STATE_WORDS, called

GpuOrder: TypeAlias = Literal["index", "util", "memory", "temp", "power", "state"]
ProcessOrder: TypeAlias = Literal["memory", "util", "idle", "user", "pid", "gpu"]
GPU_ORDERS: Final[tuple[GpuOrder, ...]] = ("index", "util", "memory", "temp", "power", "state")
PROCESS_ORDERS: Final[tuple[ProcessOrder, ...]] = ("memory", "util", "idle", "user", "pid", "gpu")


@dataclass(slots=True)
class Look:
    """How the machines are looked at. ``folded`` has what was folded or unfolded by hand."""

    gpu_order: GpuOrder = "index"
    process_order: ProcessOrder = "memory"
    gpus_reversed: bool = False
    processes_reversed: bool = False
    words: str = ""
    user: str = ""
    grouped: bool = False
    all_folded: bool | None = None
    folded: dict[str, bool] = field(default_factory=dict)

    @property
    def filtering(self) -> bool:
        """Whether something is left out."""
        return bool(self.words or self.user)

    def gpu(self, state: NodeState, gpu: Gpu) -> bool:
        """Whether the GPU is wanted, on its machine."""
        holders = gpu.holders or ()
        if self.user and not any(self.user in {called(one), one.name} for one in holders):
            return False
        own = (gpu.model, gpu.uuid, gpu.why, STATE_WORDS[gpu.state], *map(called, holders), *_xids(gpu))
        return self._said((*_machine(state), *own))

    def machine(self, state: NodeState) -> bool:
        """Whether the machine itself is wanted, whatever its GPUs."""
        return not self.user and self._said((*_machine(state), state.message, state.trouble))

    def process(self, state: NodeState, process: Mapping[str, Any]) -> bool:
        """Whether the process is wanted."""
        owner = owner_of(process)
        name = called(owner)
        if self.user and self.user not in {name, owner.name, process.get("user")}:
            return False
        own = (str(process.get(label, "")) for label in (*PROCESS_LABELS, "mig_uuid"))
        return self._said((*_machine(state), name, *own))

    def person(self, holder: Holder, machines: Iterable[str]) -> bool:
        """Whether somebody is wanted."""
        name = called(holder)
        return (not self.user or self.user in {name, holder.name}) and self._said((name, *machines))

    def is_folded(self, name: str, *, default: bool) -> bool:
        """Whether only what is not well of the machine's GPUs is shown."""
        otherwise = default if self.all_folded is None else self.all_folded
        return self.folded.get(name, otherwise)

    def _said(self, texts: Iterable[str]) -> bool:
        if not self.words:
            return True
        text = " ".join(texts).casefold()
        return all(word in text for word in self.words.casefold().split())


def _machine(state: NodeState) -> tuple[str, ...]:
    node = state.node
    return node.name, node.address, state.address, state.host.name, state.status, *node.labels.values()


def _xids(gpu: Gpu) -> tuple[str, ...]:
    return tuple(f"XID {xid}" for xid in gpu.xids)


def owner_of(process: Mapping[str, Any]) -> Holder:
    """Whom the process is of, as the time of its GPU is charged."""
    told = {name: str(process.get(name, "")) for name in PROCESS_LABELS}
    row = next((row for row in OWNER_KINDS if row.labels and told[row.labels[0]]), OWNER_KINDS[0])
    memory = process.get("memory_used_bytes")
    return Holder(row.kind, told[row.name], told.get(row.namespace, ""), None if memory is None else float(memory))
