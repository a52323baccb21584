"""What GPUs did in one slice of a report's window, and what of it is whose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpu_exporter.catalog.score import PARTS, weighted

Key = tuple[str, ...]  # the labels that tell one GPU, or one hold, apart
PerChunk = dict[Key, dict[int, float]]


@dataclass(frozen=True, slots=True)
class Slice:
    """What GPUs did in one slice of the window, by GPU and chunk: seconds, joules, ratios, watts.

    Where a GPU was held for a part of a chunk only, what it did is its holders': a free GPU computes nothing, keeps
    nothing in memory, and draws what it draws at its least.
    """

    observed: PerChunk
    gaps: PerChunk
    scores: PerChunk  # as the exporter counts it; seconds
    busy: PerChunk
    memory_io: PerChunk
    memory: PerChunk
    joules: PerChunk
    limits: PerChunk
    least_watts: Mapping[Key, float]
    weights: Mapping[str, float]

    def energy(self, gpu: Key, chunk: int, seconds: float) -> float | None:
        """The energy of so many seconds of the chunk, the others being free."""
        drawn = self.joules[gpu].get(chunk)
        if drawn is None:
            return None
        observed = self.observed[gpu].get(chunk, 0.0)
        if gap := self.gaps[gpu].get(chunk):
            # The device's counter goes on while there is no exporter; nobody is charged for that time.
            drawn *= min(observed / gap, 1.0)
        return drawn - min(max(observed - seconds, 0.0) * self.least_watts.get(gpu, 0.0), drawn)

    def score(self, gpu: Key, chunk: int, seconds: float) -> float | None:
        """The score of so many seconds of the chunk: counted, or made of the parts that the exporter counts.

        By utilization alone where another part is not known.
        """
        if seconds > 0 and (counted := self.scores[gpu].get(chunk)) is not None:
            return min(counted / seconds, 1.0)
        worked = self.busy[gpu].get(chunk)
        if worked is None or seconds <= 0:
            return None
        utilization = min(worked / seconds, 1.0)
        io, filled = self.memory_io[gpu].get(chunk), self.memory[gpu].get(chunk)
        drawn, limit = self.energy(gpu, chunk, seconds), self.limits[gpu].get(chunk)
        if io is None or filled is None or drawn is None or not limit:
            return utilization
        filled = min(filled * max(self.observed[gpu][chunk] / seconds, 1.0), 1.0)
        power = min(drawn / seconds / limit, 1.0)
        parts = dict(zip(PARTS, (utilization, min(io / seconds, 1.0), filled, power), strict=True))
        return weighted(parts, self.weights)
