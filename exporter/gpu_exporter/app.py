"""The parts put together: a sampler over the configured source, and what the pages ask of it."""

from __future__ import annotations

import platform
import threading
from typing import Final

from gpu_exporter import __version__
from gpu_exporter.config import Config
from gpu_exporter.model import Build, Snapshot
from gpu_exporter.owners.factory import open_resolver
from gpu_exporter.pages.exposition import Page, Renderer
from gpu_exporter.sampling.sampler import Sampler
from gpu_exporter.sources import opener

# Opening takes 1 to 2 s a GPU without persistence mode; see the sampler.
OPENING: Final = 75.0  # seconds


def sampler(config: Config) -> Sampler:
    """A sampler over the configured source, not yet started. Raises ConfigError."""
    name, open_source = opener(config)
    return Sampler(
        open_source=open_source,
        source_name=name,
        collection=config.collection,
        build=Build(version=__version__, python_version=platform.python_version()),
        resolver=open_resolver(config),
        processes=config.processes,
        accounting=config.accounting,
    )


class Site:
    """What the web application asks for: the sampler's newest snapshot, rendered once."""

    def __init__(self, source: Sampler) -> None:
        self._sampler = source
        self._renderer = Renderer()
        self._lock = threading.Lock()
        self._page: tuple[Snapshot, Page] | None = None

    def exposition(self, *, openmetrics: bool, gzip: bool) -> bytes:
        """The newest snapshot's bytes."""
        snapshot = self._sampler.latest()
        with self._lock:
            if self._page is None or self._page[0] is not snapshot:
                self._page = (snapshot, self._renderer.page(snapshot))
            page = self._page[1]
        return page.body(openmetrics=openmetrics, gzip=gzip)

    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return self._sampler.latest()

    def live(self) -> str | None:
        """See Sampler.live."""
        return self._sampler.live()

    def ready(self) -> str | None:
        """See Sampler.ready."""
        return self._sampler.ready()
