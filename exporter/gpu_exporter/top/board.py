"""All machines with their GPUs as lines: what is not well on top, machines folded where there is no room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gpu_exporter.hub.client.trails import Trails
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import STATES, Gpu, NodeState, disk_share
from gpu_exporter.hub.words import STATE_WORDS, called, percent, short_model, span
from gpu_exporter.top.gpus import GpuTable, ordered
from gpu_exporter.top.lines import Line, Pen, Span, Tone
from gpu_exporter.top.look import Look

_FULL: Final = 0.9  # of a disk from which it is told
_NAMES: Final = 3  # of holders that are told of a folded machine
_TONES: Final[dict[str, Tone]] = {"free": "free", "held": "busy", "idle": "idle", "down": "bad", "unknown": "warn"}


@dataclass(frozen=True, slots=True)
class Board:
    """The upper table: its heading, its lines, and which machines of it can be folded, with whether they are."""

    table: GpuTable
    head: Line
    lines: list[Line]
    folded: dict[str, bool]


def board(view: View, look: Look, pen: Pen, *, trails: Trails | None, room: int | None = None) -> Board:
    """The machines that are wanted; they are folded by themselves where they need more lines than ``room``."""
    table = GpuTable.of(view, pen)
    wanted = [(state, gpus) for state in view if (gpus := _wanted(state, look)) is not None]
    wanted.sort(key=lambda found: _health(found[0]))
    alone = len(view) == 1
    needed = sum(1 + len(gpus) if state.online else 1 for state, gpus in wanted)
    crowded = room is not None and not alone and needed > room
    lines: list[Line] = []
    folds: dict[str, bool] = {}
    for state, gpus in wanted:
        foldable = not alone and state.online and bool(gpus)
        folded = foldable and look.is_folded(state.node.name, default=crowded)
        if foldable:
            folds[state.node.name] = folded
        if not alone or not state.online or state.trouble:
            lines.append(_machine(state, gpus, pen, view.taken, folded=folded if foldable else None))
        if state.online:
            shown = [gpu for gpu in gpus if gpu.state == "down"] if folded else gpus
            lines += [table.line(gpu, trails, view.taken) for gpu in ordered(shown, look)]
    return Board(table, table.head(look), lines, folds)


def title(view: View, pen: Pen, *, now: float, clock: str, interval: float) -> list[Line]:
    """What is looked at, how it stands there, and how old that is; then what is wrong with the looking."""
    counts = view.counts()
    gpus = sum(counts.values())
    # Of a file its name will do; the counts need the room.
    spans: list[Span] = [(view.origin if "://" in view.origin else view.origin.rpartition("/")[2], "bold")]
    if view.simulated():
        spans += [(" · ", "dim"), ("simulated", "warn")]
    if len(view) > 1:
        online = sum(state.online for state in view)
        away = len(view) - online
        machines = f"{len(view)} machines"
        spans += [(f" · {machines}", "")] if view.origin != machines else []
        spans += [(f", {away} offline", "bad")] if away and view.complete else []
    if gpus:
        spans.append((f" · {gpus} GPU{'s' if gpus > 1 else ''}: ", ""))
        shown = [state for state in STATES if counts[state]]
        for number, state in enumerate(shown):
            tone = _TONES[state] if state != "held" else ""
            comma = ", " if number + 1 < len(shown) else ""
            spans += [(f"{counts[state]} {STATE_WORDS[state].replace(',', '')}", tone), (comma, "")]
    age = now - view.taken
    stale = view.taken > 0 and age > 3 * interval + 2
    right: Span = (f"no news for {span(age)}", "bad") if stale else (clock, "dim")
    lines = [pen.ends(spans, right)]
    if view.trouble:
        lines.append(pen.line([(view.trouble, "bad")]))
    lines += [pen.line([(note, "warn")]) for note in view.notes[:2]]
    if not view.taken:
        lines.append(pen.line([("asking …", "dim")]))
    elif not gpus and not view.trouble and all(state.online and not state.trouble for state in view):
        lines.append(
            pen.line([("there is no machine to look at" if not len(view) else "the driver lists no GPU", "warn")])
        )
    return lines


def _wanted(state: NodeState, look: Look) -> Sequence[Gpu] | None:
    """The machine's GPUs that are wanted; None where neither they nor itself are."""
    if not look.filtering:
        return state.gpus
    gpus = [gpu for gpu in state.gpus if look.gpu(state, gpu)]
    return gpus if gpus or look.machine(state) else None


def _health(state: NodeState) -> int:
    """Machines that are offline first, then those with something that is not well."""
    if state.status == "offline":
        return 0
    if state.trouble or any(gpu.state == "down" for gpu in state.gpus):
        return 1
    return 2


def _machine(state: NodeState, gpus: Sequence[Gpu], pen: Pen, now: float, *, folded: bool | None) -> Line:
    mark = "  " if folded is None else "▸ " if folded else "▾ "
    spans: list[Span] = [(mark, "dim"), (pen.name(state.node.name, pen.columns // 2), "bold")]
    if state.status == "offline":
        since = f" for {span(now - state.since)}" if state.since and now - state.since >= 1 else ""
        held = f", {len(state.gpus)} GPU{'s' if len(state.gpus) > 1 else ''}" if state.gpus else ""
        spans.append((f" offline{since}{held}: {state.message or state.reason}", "bad"))
    elif state.status == "starting":
        spans.append((" asking …", "dim"))
    else:
        spans += _online(state, gpus, pen, folded=bool(folded))
    return pen.line(spans, ("machine", state.node.name))


def _online(state: NodeState, gpus: Sequence[Gpu], pen: Pen, *, folded: bool) -> Iterator[Span]:
    if state.trouble:
        yield f" {state.trouble}", "warn"
    if folded:
        yield " [", "dim"
        for gpu in sorted(gpus, key=lambda gpu: gpu.index):
            yield pen.tile(gpu.state, gpu.utilization), _TONES[gpu.state]
        yield "]", "dim"
        free = sum(gpu.state == "free" for gpu in gpus)
        idle = sum(gpu.state == "idle" for gpu in gpus)
        if free:
            yield f" {free} free", "free"
        if idle:
            yield f" {idle} idle", "idle"
    models = dict.fromkeys(short_model(gpu.model) for gpu in gpus if gpu.model)
    if models:
        yield f"  {len(gpus)} {', '.join(models)}", "dim"
    if folded:
        names = list(dict.fromkeys(called(holder) for gpu in gpus for holder in gpu.holders or ()))
        more = f" +{len(names) - _NAMES}" if len(names) > _NAMES else ""
        if names:
            yield f"  {', '.join(names[:_NAMES])}{more}", ""
    disk = state.disk
    full = disk_share(disk) if disk is not None else None
    if disk is not None and full is not None and full >= _FULL:
        yield f"  {disk.mount} {percent(full)} full", "warn"
