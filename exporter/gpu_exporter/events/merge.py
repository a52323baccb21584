"""What happened to GPUs, from all who hear of it: the driver's events and the kernel log. Each event counts once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gpu_exporter.events.kernel_log import Heard, KernelLog
from gpu_exporter.events.lines import address
from gpu_exporter.model import Device, Event, GpuEvent, Told, Xid

log = logging.getLogger(__name__)

# What two tell within so many seconds is one event: the driver is asked once a second, at a reading every few seconds.
WINDOW: Final = 15.0
_MOST_KEPT: Final = 4096
_MOST_WAITING: Final = 256
_MOST_SXIDS: Final = 256
_MOST_LINES: Final = 20  # of our own log, a reading
_PATIENCE: Final = 0.3  # seconds that the first reading waits for what the kernel log already has


@dataclass(slots=True)
class _Hearsay:
    """How many events of one GPU and number each has told since they began to come; ``counted`` is the most of them."""

    latest: float
    by: dict[str, int] = field(default_factory=dict)
    counted: int = 0


class Merger:
    """Counts what several tell of the same events as often as the one who told most."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, int], _Hearsay] = {}

    def new(self, event: Xid) -> int:
        """How many of these nobody else has told."""
        key = (event.device.key, event.xid)
        told = self._told.get(key)
        if told is not None and event.timestamp < told.latest - WINDOW:
            return event.count  # from before all that: the ring of the kernel log
        if told is None or event.timestamp > told.latest + WINDOW:
            self._told.pop(key, None)
            told = self._told[key] = _Hearsay(event.timestamp)
            if len(self._told) > _MOST_KEPT:
                del self._told[next(iter(self._told))]
        told.latest = max(told.latest, event.timestamp)
        told.by[event.by] = told.by.get(event.by, 0) + event.count
        new = max(told.by.values()) - told.counted
        told.counted += new
        return new


class EventLog:
    """All that is heard, for the sampler's thread. It owns the kernel log's thread, if there is one."""

    def __init__(self, kernel_log: KernelLog | None = None) -> None:
        self._kernel_log = kernel_log
        self._merger = Merger()
        self._waiting: list[Heard] = []  # of GPUs that the driver has not listed
        self._sxids: dict[tuple[str, str], Told] = {}
        self._looked = False

    def start(self) -> None:
        """Begin to read the kernel log."""
        if self._kernel_log is not None:
            self._kernel_log.start()

    def close(self) -> None:
        """Stop reading it."""
        if self._kernel_log is not None:
            self._kernel_log.close()

    @property
    def sxids(self) -> Mapping[tuple[str, str], int]:
        """Faults of NVSwitches by number and PCI address."""
        return {key: told.count for key, told in self._sxids.items()}

    @property
    def sxids_latest(self) -> Mapping[tuple[str, str], float]:
        """Unix time of the latest of each."""
        return {key: told.timestamp for key, told in self._sxids.items()}

    def sources(self, *, nvml: bool) -> Mapping[str, float]:
        """1 for each way of hearing that works, 0 for each that does not."""
        return {"kernel_log": float(self._kernel_log is not None and self._kernel_log.up), "nvml": float(nvml)}

    def take(self, told: Iterable[Event], devices: Sequence[Device]) -> list[Event]:
        """What is new: ``told`` is what the source heard, ``devices`` are those that the kernel log may mean."""
        events = [*told, *self._from_the_kernel(devices)]
        new: list[Event] = []
        for event in events:
            if isinstance(event, GpuEvent):
                new.append(event)
            elif count := self._merger.new(event):
                new.append(replace(event, count=count))
        return new

    def _from_the_kernel(self, devices: Sequence[Device]) -> list[Xid]:
        if self._kernel_log is None:
            return []
        if not self._looked:  # what was before the first reading is told by it
            self._looked = True
            self._kernel_log.wait_first(_PATIENCE)
        heard, sxids = self._kernel_log.drain()
        for number, ((at, sxid), told) in enumerate(sxids.items()):
            self._count_sxid(str(sxid), at, told, log_it=number < _MOST_LINES)
        if not heard and not self._waiting:
            return []
        by_address = {address(device.pci_bus_id): device for device in devices if device.pci_bus_id}
        known, waiting = [], []
        for each in [*self._waiting, *heard]:
            device = by_address.get(each.address)
            if device is not None:
                known.append(each.of(device))
            else:
                waiting.append(each)
        for each in [each for each in heard if each.address not in by_address][:_MOST_LINES]:
            log.warning("XID of a GPU that the driver does not list", extra={"address": each.address, "xid": each.xid})
        self._waiting = waiting[-_MOST_WAITING:]
        return known

    def _count_sxid(self, sxid: str, at: str, told: Told, *, log_it: bool) -> None:
        key = (sxid, at)
        if key not in self._sxids and len(self._sxids) >= _MOST_SXIDS:
            key = ("other", "")
        self._sxids[key] = told.after(self._sxids.get(key))
        if log_it:
            often = {"count": told.count} if told.count > 1 else {}
            log.warning("NVSwitch fault", extra={"sxid": sxid, "address": at, **often})
