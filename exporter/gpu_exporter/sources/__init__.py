"""Where readings come from. ``opener`` picks the module; each source is one file or folder beside this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from gpu_exporter.config import Config
from gpu_exporter.model import Device, Driver, Reading, Xid


class SourceError(Exception):
    """The whole source cannot be used (no driver, library mismatch, …); the message says what to do."""


class Source(Protocol):
    """An open source. The constructor opens it and raises SourceError where that fails.

    ``read`` may block for as long as the driver does; calls for different devices may overlap, calls for one never do.
    """

    name: str
    driver: Driver

    @property
    def devices(self) -> Sequence[Device]:
        """Every device found, in index order. One that has not answered yet may have no UUID."""

    def read(self, device: Device) -> Reading:
        """Read one device. Its own failure is in the reading; SourceError means the whole source failed.

        The reading's device is the best identity known by then.
        """

    def events(self) -> Sequence[Xid]:
        """XID events since the previous call; never blocks."""

    def close(self, *, hung: bool = False) -> None:
        """Let go of the driver; with ``hung``, a call still hangs inside and the driver must not be shut down."""


def opener(config: Config) -> tuple[str, Callable[[], Source]]:
    """The configured source's name, and what opens it (again and again, should it fail).

    Modules are imported here, so that a simulated fleet needs no driver binding and the other way round.
    """
    if config.source == "fake":
        from gpu_exporter.sources.fake import FakeFleet  # noqa: PLC0415

        fake = config.fake
        fleet = FakeFleet(
            gpus=fake.gpus,
            model=fake.model,
            seed=fake.seed,
            scenario=fake.scenario,
            owners=fake.owners if config.processes.enabled else None,
        )
        return "fake", fleet.open
    from gpu_exporter.sources.nvml import NvmlSource  # noqa: PLC0415

    processes = config.processes.interval if config.processes.enabled else None
    return "nvml", partial(NvmlSource, processes=processes)
