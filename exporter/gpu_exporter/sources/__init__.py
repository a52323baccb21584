"""Where readings come from. ``open_source`` picks the module; each source is one file or folder beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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
        """Every device found, the lost ones as well; the same objects until the source is closed."""

    def read(self, device: Device) -> Reading:
        """Read one device. Its own failure is in the reading; SourceError means the whole source failed."""

    def events(self) -> Sequence[Xid]:
        """XID events since the previous call; never blocks."""

    def close(self) -> None:
        """Let go of the driver."""
