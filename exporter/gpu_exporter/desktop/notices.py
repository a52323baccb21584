"""When somebody is told: a GPU of mine gets hot, is lost, or comes free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from gpu_exporter.desktop.severity import hot
from gpu_exporter.hub.client.trails import GpuKey, key
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu, NodeState
from gpu_exporter.hub.words import short_model

Kind: TypeAlias = Literal["hot", "lost", "free"]
KINDS: Final[Mapping[Kind, str]] = {"hot": "gets hot", "lost": "is lost", "free": "comes free"}
_HARMLESS: Final = str.maketrans({"<": "‹", ">": "›", "&": "＆"})  # noqa: RUF001 - they are meant


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to be told."""

    kind: Kind
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class _Known:
    """What was last known of a GPU."""

    gpu: Gpu
    mine: bool = False
    hot: bool = False
    lost: bool = False


def harmless(text: str) -> str:
    """Text without what a notification service, or a tray, may take for markup; not all of them say what they take."""
    return text.translate(_HARMLESS)


def parse_names(text: str) -> frozenset[str]:
    """Names that are written with commas."""
    return frozenset(name.strip() for name in text.split(",") if name.strip())


class Watcher:
    """Compares each view with those before. A GPU is mine if one of ``names`` held it when that was last known."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names) - {""}
        self._known: dict[GpuKey, _Known] = {}

    def rename(self, names: Iterable[str]) -> None:
        """From now on mine is what these hold; they are user names, pods or namespaces."""
        self._names = frozenset(names) - {""}
        self._known = {key: replace(known, mine=self._mine(known.gpu, known)) for key, known in self._known.items()}

    def mine(self, gpu: Gpu) -> bool:
        """Whether the GPU is mine now."""
        return self._mine(gpu, self._known.get(key(gpu)))

    def look(self, view: View) -> tuple[Notice, ...]:
        """What is news; nothing is where nobody can be asked. GPUs of one machine are told together."""
        if view.trouble:
            return ()
        news: dict[tuple[str, Kind], list[Gpu]] = {}
        states = {state.node.name: state for state in view}
        before, self._known = self._known, {}
        for state in view:
            for gpu in state.gpus:
                last, now = before.get(key(gpu)), self._now(state, gpu, before.get(key(gpu)))
                self._known[key(gpu)] = now
                for kind in _kinds(last, now):
                    news.setdefault((state.node.name, kind), []).append(gpu)
        for gone, last in before.items():
            listed = states.get(gone[0])
            if gone in self._known or listed is None or not last.mine:
                continue
            # An exporter that starts anew has no GPUs for a moment: only one that reads well can miss one.
            lost = last.lost or (listed.online and not listed.trouble)
            self._known[gone] = replace(last, lost=lost)
            if lost and not last.lost:
                why = replace(last.gpu, state="down", why="the machine does not list it any more")
                news.setdefault((gone[0], "lost"), []).append(why)
        return tuple(_notice(states[node], kind, gpus) for (node, kind), gpus in news.items())

    def _now(self, state: NodeState, gpu: Gpu, last: _Known | None) -> _Known:
        was_hot = last is not None and last.hot
        warm = was_hot if gpu.temperature is None else hot(gpu, before=was_hot)
        return _Known(
            gpu,
            mine=self._mine(gpu, last),
            hot=warm,
            lost=gpu.state == "down" or state.status == "offline",
        )

    def _mine(self, gpu: Gpu, last: _Known | None) -> bool:
        if gpu.holders is None or gpu.state == "down":  # nobody knows: what was known goes on
            return last is not None and last.mine
        return any({holder.name, holder.namespace} & self._names for holder in gpu.holders)


def _kinds(last: _Known | None, now: _Known) -> Iterator[Kind]:
    if now.mine and now.lost and not (last is not None and last.lost):
        yield "lost"
    elif now.mine and now.hot and not (last is not None and last.hot):
        yield "hot"
    if last is not None and last.mine and not now.mine and now.gpu.state == "free":
        yield "free"


def _notice(state: NodeState, kind: Kind, gpus: list[Gpu]) -> Notice:
    name = state.node.name
    numbers = ", ".join(str(gpu.index) for gpu in gpus)
    which, verb = (f"GPUs {numbers}", "are") if len(gpus) > 1 else (f"GPU {numbers}", "is")
    if kind == "lost" and state.status == "offline":
        return Notice(kind, f"{name} is offline", f"{state.message or 'it does not answer'}. Yours there: {which}")
    texts = {
        "hot": [f"GPU {gpu.index}: {gpu.temperature:.0f} °C, its limit {gpu.temperature_limit:.0f} °C" for gpu in gpus]
        if kind == "hot"
        else [],
        "lost": [f"GPU {gpu.index}: {gpu.why or 'down'}" for gpu in gpus],
        "free": [f"GPU {gpu.index} ({short_model(gpu.model)}): nobody holds it any more" for gpu in gpus],
    }
    words = {"hot": "hot", "lost": "lost", "free": "free again"}
    return Notice(kind, f"{name}: {which} {verb} {words[kind]}", "\n".join(texts[kind]))
