"""Who is who: devices under the best name they ever had, and those whose driver call hangs."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import replace

from gpu_exporter.model import Device, Failure, Reading


class Roster:
    """Every device that the driver lists or has listed. Belongs to the sampler's thread, but for ``returned``.

    A device whose call overran its deadline is *parked*: it is not asked again until that call has returned.
    """

    def __init__(self) -> None:
        self._known: dict[str, Device] = {}
        self._lock = threading.Lock()
        self._parked: set[str] = set()
        self._returned_early: set[str] = set()  # between its deadline and the moment it was to be parked
        self._told: frozenset[str] = frozenset()  # parked ones whose failure was told before
        self._late: list[Reading] = []

    @property
    def hanging(self) -> int:
        """Devices whose call has not returned."""
        return len(self._parked)

    def enlist(self, devices: Iterable[Device]) -> list[tuple[Device, Device]]:
        """Note what the driver lists now; of those that may be read, the device as listed and under its best name."""
        listed = [(device, self._best_name(device)) for device in devices]
        self._known.update((named.key, named) for _, named in listed)
        return [(device, named) for device, named in listed if named.key not in self._parked]

    def recognise(self, device: Device, reading: Reading) -> Reading:
        """The reading under the device's best name: the one it just told, or the one it had before."""
        if reading.device.uuid:
            device = self._best_name(reading.device)
            self._known[device.key] = device
        return replace(reading, device=device)

    def unread(self, read: Collection[str]) -> list[Reading]:
        """A failure for each known device that is not among the keys of those that were ``read``: parked, or gone.

        To be called once a round that told something of every device that was asked.
        """
        unread = []
        for key, device in self._known.items():
            if key in read:
                continue
            if key in self._parked:
                why = "its driver call has not returned yet"
                failure = Failure("timeout", why, standing=key in self._told)
            else:
                failure = Failure("lost", "the driver does not list it any more")
            unread.append(Reading(device, failure=failure))
        with self._lock:
            self._told = frozenset(self._parked)
        return unread

    def park(self, device: Device) -> None:
        """Its call overran: leave it alone until ``returned``."""
        with self._lock:
            if device.key in self._returned_early:
                self._returned_early.discard(device.key)
            else:
                self._parked.add(device.key)

    def returned(self, device: Device, reading: Reading | None) -> None:
        """The late call came back, perhaps with a reading; called on that call's own thread."""
        with self._lock:
            if device.key in self._parked:
                self._parked.discard(device.key)
            else:
                self._returned_early.add(device.key)
            if reading is not None:
                self._late.append(reading)

    def late_readings(self) -> list[Reading]:
        """Readings that came too late to be served, since the previous call."""
        with self._lock:
            late, self._late = self._late, []
        return late

    def forget_but(self, devices: Iterable[Device]) -> None:
        """Drop what the driver does not list any more."""
        present = {device.key for device in devices}
        self._known = {key: device for key, device in self._known.items() if key in present}

    def _best_name(self, device: Device) -> Device:
        """A device that has not answered yet cannot tell its own name; it may have done so before."""
        if device.uuid:
            self._known.pop(replace(device, uuid="").key, None)
            return device
        return next((other for other in self._known.values() if other.uuid and other.index == device.index), device)
