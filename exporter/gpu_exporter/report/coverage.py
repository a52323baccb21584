"""For how much of a report's window there is data: to the second where it begins and ends, not in whole chunks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gpu_exporter.report.slices import Key

# What may lie between the last scrape of a chunk and its end, though the chunk is seen whole (seconds).
_BETWEEN_SCRAPES: Final = 60.0


class Coverage:
    """Seconds of the window for which there is data, of each GPU and of any, by the accounts that grew.

    A chunk with data before it and behind it counts whole: what is missing in it is less than a chunk.
    """

    def __init__(self, step: float) -> None:
        self._step = step
        self._any: dict[int, float] = {}  # the most that is known of a chunk
        self._gpus: dict[Key, float] = {}
        # The latest chunk of each GPU, by how much its accounts grew, and whether there is data right before it.
        self._latest: dict[Key, tuple[int, float, bool]] = {}

    def add(self, gpu: Key, chunks: Iterable[tuple[int, float]]) -> None:
        """More of a GPU: in the order of time, chunks with data and the seconds by which its accounts grew in them."""
        for chunk, grown in chunks:
            before = self._latest.get(gpu)
            follows = before is not None and before[0] == chunk - 1
            self._close(gpu, followed=follows)
            self._latest[gpu] = (chunk, grown, follows)

    def close(self) -> tuple[dict[Key, float], float]:
        """The seconds of each GPU that has data, and of all together. Nothing may be added any more."""
        for gpu in self._latest:
            self._close(gpu, followed=False)
        known = self._any
        together = (
            self._step if chunk - 1 in known and chunk + 1 in known else seconds for chunk, seconds in known.items()
        )
        return self._gpus, sum(together)

    def _close(self, gpu: Key, *, followed: bool) -> None:
        chunk, grown, follows = self._latest.get(gpu, (0, 0.0, False))
        if chunk <= 0:  # before the window
            return
        whole = (follows and followed) or grown > self._step - _BETWEEN_SCRAPES
        seconds = self._step if whole else grown
        self._gpus[gpu] = self._gpus.get(gpu, 0.0) + seconds
        self._any[chunk] = max(self._any.get(chunk, 0.0), seconds)
