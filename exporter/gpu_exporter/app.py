"""The parts put together: a sampler over the configured source, and what the pages ask of it."""

from __future__ import annotations

import platform
from typing import Final

from gpu_exporter import __version__
from gpu_exporter.config import Config
from gpu_exporter.model import Build, Snapshot
from gpu_exporter.owners.resolver import resolver
from gpu_exporter.pages.exposition import Page
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
        resolver=resolver(config),
        processes=config.processes,
        accounting=config.accounting,
    )


class Site:
    """What the web application asks for: the sampler's newest snapshot, rendered once."""

    def __init__(self, source: Sampler) -> None:
        self._sampler = source
        self._page = Page()

    def exposition(self, *, openmetrics: bool, gzip: bool) -> bytes:
        """The newest snapshot's bytes."""
        return self._page.body(self._sampler.latest(), openmetrics=openmetrics, gzip=gzip)

    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return self._sampler.latest()

    def live(self) -> str | None:
        """See Sampler.live."""
        return self._sampler.live()

    def ready(self) -> str | None:
        """See Sampler.ready."""
        return self._sampler.ready()
