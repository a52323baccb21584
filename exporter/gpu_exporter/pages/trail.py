"""The last hour of every GPU's utilization, kept in memory for the status page."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gpu_exporter.catalog import by_name
from gpu_exporter.model import Device, Snapshot

MINUTES: Final = 60
_UTILIZATION: Final = by_name("gpu_utilization_ratio")


@dataclass(slots=True)
class _Hour:
    """Means of whole minutes, oldest first, and the sum of the minute that is not over."""

    minute: int
    total: float = 0.0
    count: int = 0
    means: deque[float | None] = field(default_factory=lambda: deque(maxlen=MINUTES))

    def to(self, minute: int) -> None:
        """Close the minutes before this one; those without a reading are gaps."""
        if not 0 <= minute - self.minute <= MINUTES:  # the clock was set
            self.means.clear()
            self.total, self.count = 0.0, 0
        else:
            while self.minute < minute:
                self.means.append(self.total / self.count if self.count else None)
                self.total, self.count = 0.0, 0
                self.minute += 1
        self.minute = minute


class Trail:
    """One thread adds snapshots; any thread may look."""

    def __init__(self) -> None:
        self._hours: dict[str, _Hour] = {}
        self._lock = threading.Lock()

    def add(self, snapshot: Snapshot) -> None:
        """Remember this reading; a GPU that was not read for an hour is forgotten."""
        if snapshot.timestamp is None or not snapshot.ok:
            return
        minute = int(snapshot.timestamp // 60)
        with self._lock:
            for reading in snapshot.readings:
                ratio = reading.values.get(_UTILIZATION)
                if ratio is not None:
                    hour = self._hours.setdefault(_key(reading.device), _Hour(minute))
                    hour.to(minute)
                    hour.total += ratio
                    hour.count += 1
            for key in [key for key, hour in self._hours.items() if abs(minute - hour.minute) > MINUTES]:
                del self._hours[key]

    def of(self, device: Device) -> Sequence[float | None]:
        """Means of the last minutes as ratios, oldest first, the last one unfinished; None is a gap."""
        with self._lock:
            hour = self._hours.get(_key(device))
            if hour is None:
                return ()
            return (*hour.means, hour.total / hour.count if hour.count else None)[-MINUTES:]


def _key(device: Device) -> str:
    return device.uuid or str(device.index)
