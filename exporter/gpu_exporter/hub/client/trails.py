"""The last hour of every GPU, kept in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu

GpuKey: TypeAlias = tuple[str, str]

_HOUR: Final = 3600.0  # seconds
_FINEST: Final = 2.0  # seconds between points: an hour of a GPU is 1 800 of them


@dataclass(frozen=True, slots=True)
class Point:
    """A GPU at one moment (Unix seconds): shares of 1, °C, watts. None is what was not known then."""

    at: float
    utilization: float | None
    memory: float | None
    temperature: float | None
    power: float | None
    sm_active: float | None


def key(gpu: Gpu) -> GpuKey:
    """Which GPU it is: its machine with its UUID, or with its index where it has none."""
    return gpu.node, gpu.uuid or str(gpu.index)


class Trails:
    """Points of an hour for every GPU that is there. One thread adds; others may read."""

    def __init__(self, *, span: float = _HOUR) -> None:
        self._span = span
        self._trails: dict[GpuKey, deque[Point]] = {}

    def add(self, view: View) -> None:
        """Remember this moment; GPUs that are gone from the list are forgotten."""
        before, self._trails = self._trails, {}
        for gpu in view.gpus():
            trail = before.get(key(gpu)) or deque()
            while trail and trail[-1].at > view.taken:  # the clock was set back
                trail.pop()
            while trail and trail[0].at < view.taken - self._span:
                trail.popleft()
            if not trail or view.taken - trail[-1].at >= _FINEST / 2:
                trail.append(_point(gpu, view.taken))
            self._trails[key(gpu)] = trail

    def of(self, gpu: Gpu) -> Sequence[Point]:
        """The GPU's points, oldest first."""
        trail = self._trails.get(key(gpu))
        return () if trail is None else tuple(trail)


def _point(gpu: Gpu, now: float) -> Point:
    memory = gpu.memory_used / gpu.memory_total if gpu.memory_used is not None and gpu.memory_total else None
    return Point(now, gpu.utilization, memory, gpu.temperature, gpu.power, gpu.sm_active)
