"""Which GPUs are asked for: the same words in the API, on the pages and in their links."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gpu_exporter.config.parsers import quoted
from gpu_exporter.hub.state import STATES, Gpu, Looks, NodeState

_MOST: Final = 100  # values of one key


class SelectionError(ValueError):
    """What was asked for is not known; the message is for the one who asked."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Empty is everything; what is given must all fit, of several values of one key any."""

    states: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    words: str = ""

    @property
    def of_gpus(self) -> bool:
        """Whether something is asked of GPUs, not of machines alone."""
        return bool(self.states or self.users or self.models)

    def node(self, state: NodeState) -> bool:
        """Whether the machine fits, as far as its GPUs do not matter."""
        if self.nodes and state.node.name not in self.nodes:
            return False
        wanted: dict[str, set[str]] = {}
        for name, value in self.labels:
            wanted.setdefault(name, set()).add(value)
        if any(state.node.labels.get(name) not in values for name, values in wanted.items()):
            return False
        return not self.words or self.words.casefold() in _text(state)

    def gpu(self, gpu: Gpu) -> bool:
        """Whether the GPU fits, on a machine that does."""
        if self.states and gpu.state not in self.states:
            return False
        if self.models and gpu.model not in self.models:
            return False
        if not self.users:
            return True
        return any(name in self.users for holder in gpu.holders or () for name in (holder.name, holder.namespace))

    def gpus(self, fleet: Looks) -> Iterator[Gpu]:
        """The GPUs that fit, in the order of the machines."""
        for state in fleet:
            if self.node(state):
                yield from filter(self.gpu, state.gpus)


def parse(query: Iterable[tuple[str, str]]) -> Selection:
    """What the query of a URL asks for; empty values ask for nothing. Raises SelectionError."""
    found: dict[str, list[str]] = {}
    for key, value in query:
        found.setdefault(key, []).append(value)
    states = _several(found, "state", commas=True)
    for state in states:
        if state not in STATES:
            raise SelectionError(f"state: {quoted(state)} is not known; write some of {', '.join(STATES)}")
    return Selection(
        states=states,
        users=_several(found, "user"),
        models=_several(found, "model"),
        nodes=_several(found, "node"),
        labels=tuple(_label(text) for text in _several(found, "label")),
        words=found.get("q", [""])[-1][:200].strip(),
    )


def models(fleet: Looks) -> Sequence[str]:
    """Every model there is."""
    return sorted({gpu.model for gpu in fleet.gpus() if gpu.model})


def users(fleet: Looks) -> Sequence[str]:
    """Everybody who holds something, by the name that is asked for."""
    return sorted({holder.name for gpu in fleet.gpus() for holder in gpu.holders or () if holder.name})


def labels(fleet: Looks) -> Sequence[str]:
    """Every label of nodes.yml with each of its values."""
    return sorted({f"{name}={value}" for state in fleet for name, value in state.node.labels.items()})


def _several(found: Mapping[str, list[str]], key: str, *, commas: bool = False) -> tuple[str, ...]:
    values = found.get(key, [])
    if commas:
        values = [piece.strip() for value in values for piece in value.split(",")]
    if len(values) > _MOST:
        raise SelectionError(f"{key}: is there {len(values)} times; write it at most {_MOST} times")
    return tuple(dict.fromkeys(filter(None, values)))


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise SelectionError(f"label: {quoted(text)} is not a label; write rack=R12")
    return name, value


def _text(state: NodeState) -> str:
    """Where words are looked for."""
    node = state.node
    return " ".join((node.name, node.address, state.address, state.host.name, *node.labels.values())).casefold()
