"""A sampler at full speed: ``python -m bench.soak TICKS TICKS`` writes its MiB after so many ticks, as JSON.

The NVML source, the sampler, and the renderer that every tenth tick makes the page that a scraper gets.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from gpu_exporter.config import CollectionConfig
from gpu_exporter.model import Build, Event
from gpu_exporter.pages.exposition import Page
from gpu_exporter.sampling.sampler import Sampler
from gpu_exporter.sources.nvml import NvmlSource

_PAGE_EVERY = 10
_INTERVAL = 0.004
_PAGE = os.sysconf("SC_PAGE_SIZE")


class CountingSource(NvmlSource):
    """Counts cycles: the sampler asks for events once in each."""

    def __init__(self, marks: list[int]) -> None:
        super().__init__()
        self._marks = marks
        self._ticks = 0
        self.memory: list[float] = []
        self.render = threading.Event()
        self.done = threading.Event()

    def events(self) -> Sequence[Event]:
        self._ticks += 1
        if self._ticks % _PAGE_EVERY == 0:
            self.render.set()
        if self._marks and self._ticks == self._marks[0]:
            del self._marks[0]
            self.memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 2**20)
            if not self._marks:
                self.done.set()
                self.render.set()
        return super().events()


def main() -> None:
    logging.disable(logging.CRITICAL)
    source = CountingSource([int(mark) for mark in sys.argv[1:]])
    sampler = Sampler(
        open_source=lambda: source,
        source_name="nvml",
        # Finer than the configuration accepts; a little more than a cycle, as a snapshot older than three is withheld.
        collection=CollectionConfig(interval=_INTERVAL),
        build=Build(version="bench", python_version=""),
    )
    page = Page()
    sampler.start()
    while not source.done.is_set():
        source.render.wait()
        source.render.clear()
        snapshot = sampler.latest()
        for openmetrics in (False, True):
            page.body(snapshot, openmetrics=openmetrics, gzip=True)
    sampler.close()
    print(json.dumps(source.memory))


if __name__ == "__main__":
    main()
