"""What is kept of the past, and what is made of it: archive, results, control, and the schedule that drives them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from gpu_exporter.history import Recorder
from gpu_exporter.hub.archive import Archive, ArchiveError
from gpu_exporter.hub.control import Controller
from gpu_exporter.hub.document import kept
from gpu_exporter.hub.fetching import Access, Fetched
from gpu_exporter.hub.results import Analysis, Results
from gpu_exporter.hub.settings import HubConfig

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Past:
    """Everything about the past. ``recorder`` is None where a Prometheus keeps it."""

    archive: Archive
    results: Results
    controller: Controller
    config: HubConfig
    recorder: Recorder | None = None

    def heard(self, node: str, fetched: Fetched | None, at: float) -> None:
        """Keep what a machine has said; None is the same as before."""
        if self.recorder is None:
            return
        if fetched is None:
            self.recorder.add_unchanged(node, at)
        else:
            self.recorder.add(node, kept(fetched.body()), at)

    def use(self, config: HubConfig, control: Access) -> None:
        """Put changed settings into force; how long history is kept waits for a restart."""
        self.config = config
        if self.archive.weights != config.weights:
            self.archive.weights = config.weights
            self.results.forget()
        self.results.use(config.thresholds, config.window)
        self.controller.config, self.controller.access = config.control, control

    def trouble(self) -> str | None:
        """Why nothing is kept at the moment."""
        return None if self.recorder is None else self.recorder.trouble

    async def analyse(self, window: float | None = None) -> Analysis:
        """Work the results out anew, and tell the control service. Raises ArchiveError."""
        analysis = await self.results.of(window, anew=True)
        await self.controller.tell(analysis)
        return analysis

    async def keep_analysing(self) -> None:
        """On a schedule, for as long as the hub runs."""
        while True:
            await asyncio.sleep(self.config.schedule)
            try:
                await self.analyse()
            except ArchiveError:
                continue  # it stands in the results' log
            except Exception:  # the schedule must outlive a bug
                log.exception("working the results out failed: this is a bug in gpu-exporter")

    async def close(self) -> None:
        """Write what is left, and let go of everything."""
        await self.controller.close()
        await asyncio.to_thread(self.let_go)

    def let_go(self) -> None:
        """Write what is left. The writer goes last: only then SQLite moves its log into the file and removes it."""
        self.archive.close()
        if self.recorder is not None:
            self.recorder.close()
