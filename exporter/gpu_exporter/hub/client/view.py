"""What is known of all machines at one moment; may be handed to any thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpu_exporter.hub.state import Looks, NodeState, unseen


@dataclass(frozen=True)
class View(Looks):
    """All machines in their order, as of ``taken`` (Unix seconds); ``taken`` is 0 before the first look.

    ``origin`` names where they come from, as a title would. ``trouble`` is why it cannot be asked now, or empty.
    """

    origin: str
    taken: float = 0.0
    machines: tuple[NodeState, ...] = ()
    trouble: str = ""
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[NodeState]:
        return iter(self.machines)

    def __len__(self) -> int:
        return len(self.machines)

    @property
    def complete(self) -> bool:
        """Whether every machine has answered, or has failed to."""
        return bool(self.trouble) or (self.taken > 0 and all(state.status != "starting" for state in self.machines))

    @property
    def undecided(self) -> bool:
        """Whether a GPU that answers has told once only: what it does is known from two readings on."""
        return any(gpu.state == "unknown" for state in self.machines if state.online for gpu in state.gpus)

    def blind(self, trouble: str, now: float) -> View:
        """The same machines, of which nothing is known any more since this view, because of ``trouble``."""
        return replace(self, taken=now, trouble=trouble, machines=tuple(_lost(state, trouble) for state in self))


def _lost(state: NodeState, trouble: str) -> NodeState:
    if not state.online:
        return state
    since = state.seen or state.since
    gone = NodeState(state.node, "offline", since, "error", trouble, seen=state.seen, address=state.address)
    gone.gpus = tuple(unseen(gpu, trouble, since) for gpu in state.gpus)
    return gone
