"""Everything that is known of one GPU, for whoever chose it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpu_exporter.hub.client.trails import Point, Trails
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu, NodeState
from gpu_exporter.hub.words import STATE_WORDS, called, percent, size, span
from gpu_exporter.top.gpus import lasting
from gpu_exporter.top.lines import Line, Pen, Tone

_LABEL = 13
_WORDS = 16


def detail(view: View, node: str, index: int, trails: Trails, pen: Pen) -> list[Line]:
    """Identity, state, holders, and the last hour as far as it was seen."""
    for state in view:
        if state.node.name == node:
            for gpu in state.gpus:
                if gpu.index == index:
                    return [pen.line(line) for line in _lines(state, gpu, trails.of(gpu), pen, view.taken)]
    return [pen.line([("it is not there any more", "bad")])]


def _lines(
    state: NodeState, gpu: Gpu, points: Sequence[Point], pen: Pen, now: float
) -> Iterator[list[tuple[str, Tone]]]:
    yield [(f"GPU {gpu.index} of {state.node.name}", "bold")]
    yield _fact("model", gpu.model or "unknown")
    yield _fact("UUID", gpu.uuid or "unknown")
    if state.driver:
        yield _fact("driver", state.driver)
    told = " ".join(filter(None, [STATE_WORDS[gpu.state], lasting(gpu, now)]))
    tone: Tone = "bad" if gpu.state == "down" else "warn" if gpu.state == "unknown" else ""
    yield _fact("state", f"{told}: {gpu.why}" if gpu.why else told, tone)
    if gpu.mig:
        yield _fact("MIG", "partitioned: nobody gets the whole of it")
    if gpu.xids:
        yield _fact("XIDs", f"{', '.join(gpu.xids)} (docs/runbooks/XID.md)", "warn")
    for number, holder in enumerate(gpu.holders or ()):
        yield _fact("held by" if not number else "", f"{called(holder)}  {size(holder.memory)}")
    yield []
    room = pen.columns - _LABEL - _WORDS - 1
    heat = gpu.temperature_limit or 100.0
    most = gpu.power_limit or max((point.power or 0.0 for point in points), default=0.0) or 1.0
    used = None if gpu.memory_used is None else f"{size(gpu.memory_used)}"
    limit = "" if gpu.temperature_limit is None else f" of {gpu.temperature_limit:.0f}"
    cap = "" if gpu.power_limit is None else f" of {gpu.power_limit:.0f}"
    for name, words, shares in (
        ("utilization", percent(gpu.utilization), [point.utilization for point in points]),
        ("SM active", percent(gpu.sm_active), [point.sm_active for point in points]),
        ("memory", used, [point.memory for point in points]),
        (
            "temperature",
            None if gpu.temperature is None else f"{gpu.temperature:.0f}{limit} °C",
            [_share(point.temperature, heat) for point in points],
        ),
        (
            "power",
            None if gpu.power is None else f"{gpu.power:.0f}{cap} W",
            [_share(point.power, most) for point in points],
        ),
    ):
        if any(share is not None for share in shares):
            trend = pen.trend(shares, max(0, room))
            yield [
                (pen.fit(name, _LABEL), "dim"),
                (pen.fit(words or "n/a", _WORDS, right=True) + " ", ""),
                (trend, "busy"),
            ]
    if points:
        yield [(pen.fit("", _LABEL), ""), (f"the last {span(now - points[max(0, len(points) - room)].at)}", "dim")]


def _fact(name: str, text: str, tone: Tone = "") -> list[tuple[str, Tone]]:
    return [(name.ljust(_LABEL), "dim"), (text, tone)]


def _share(value: float | None, whole: float) -> float | None:
    return None if value is None else min(1.0, value / whole)
