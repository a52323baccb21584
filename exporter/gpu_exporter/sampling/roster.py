"""Who is who: devices under the best name they ever had, and those whose driver call hangs."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final

from gpu_exporter.model import Device, Failure, Reading

log = logging.getLogger(__name__)

# Calls of one device that may hang at once: the second only to find out who is at its index now.
_MOST_HANGING: Final = 2


class Roster:
    """Every device that the driver lists or has listed. Belongs to the sampler's thread, but for ``returned``.

    A device whose call overran its deadline is *parked*: it is not asked again until that call has returned. A device
    that has not answered since the source was opened goes by the name of the latest one at its index; it may turn out
    to be another. A board that is found at another index has *moved*, and what is known of it goes with it.
    """

    def __init__(self) -> None:
        self._known: dict[str, Device] = {}
        self._latest: dict[int, Device] = {}  # by index
        self._listed = 0
        self._moves: list[tuple[str, str]] = []
        self._twins_told: set[str] = set()
        self._lock = threading.Lock()
        self._parked: Counter[str] = Counter()
        self._parked_of: dict[str, int] = {}  # how many devices were listed then
        self._returned_early: set[str] = set()  # between its deadline and the moment it was to be parked
        self._told: frozenset[str] = frozenset()  # parked ones whose failure was told before
        self._late: list[Reading] = []

    @property
    def hanging(self) -> int:
        """Calls that have not returned."""
        return self._parked.total()

    def enlist(self, devices: Sequence[Device]) -> list[tuple[Device, Device]]:
        """Note what the driver lists now; of those that may be read, the device as listed and under its best name."""
        self._listed = len(devices)
        self._note([device for device in devices if device.uuid])
        listed = [(device, self.named(device)) for device in devices]
        for _, named in listed:
            self._known.setdefault(named.key, named)
        return [(device, named) for device, named in listed if self._may_be_read(device, named)]

    def named(self, device: Device) -> Device:
        """The device under its best name: one that has not answered yet may have told it before."""
        return device if device.uuid else self._latest.get(device.index, device)

    def settle(self, read: Iterable[Reading], silent: Iterable[Reading]) -> list[Reading]:
        """The round's readings, each under its device's best name: the one it just told, or the one it had before.

        ``silent`` are failures of devices that could not say who they are. Adds one for each known device that is in
        neither: parked, or gone.
        """
        read = list(read)
        moved = self._note([reading.device for reading in read if reading.device.uuid])
        read = [replace(reading, device=self.named(reading.device)) for reading in read]
        # A board that has moved away is not the one that is silent at its former index.
        silent = [
            replace(each, device=Device(each.device.index, "", "")) if each.device.key in moved else each
            for each in silent
        ]
        told = {reading.device.key: reading for reading in (*silent, *read)}
        self._known.update((key, reading.device) for key, reading in told.items())
        told |= {key: self._unread(device) for key, device in self._known.items() if key not in told}
        with self._lock:
            self._told = frozenset(self._parked)
        return sorted(told.values(), key=lambda reading: (reading.device.index, reading.device.uuid))

    def moves(self) -> list[tuple[str, str]]:
        """Devices that got another key since the previous call: the key before, and the one of now."""
        moves, self._moves = self._moves, []
        return moves

    def park(self, device: Device) -> None:
        """Its call overran: leave it alone until ``returned``."""
        with self._lock:
            if device.key in self._returned_early:
                self._returned_early.discard(device.key)
            else:
                self._parked[device.key] += 1
                self._parked_of[device.key] = self._listed

    def returned(self, device: Device, reading: Reading | None) -> None:
        """The late call came back, perhaps with a reading; called on that call's own thread."""
        with self._lock:
            if device.key in self._parked:
                self._parked[device.key] -= 1
                self._parked += Counter()  # without those of which none hangs
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
        present = {self.named(device).key for device in devices}
        self._known = {key: device for key, device in self._known.items() if key in present}
        self._latest = {index: device for index, device in self._latest.items() if device.key in present}

    def _note(self, devices: Sequence[Device]) -> set[str]:
        """Enter devices that told their UUID; the keys of those that have moved, before they did."""
        present = {device.key for device in devices}
        moved = set()
        for device in devices:
            if device.key not in self._known and (before := self._moved_from(device, present)) is not None:
                moved.add(before.key)
                self._move(before, device)
                log.warning("a GPU has moved", extra={"uuid": device.uuid, "gpu": device.index, "from": before.index})
            nameless = self._known.get(Device(device.index, "", "").key)
            if nameless is not None:
                self._move(nameless, device)
            self._known[device.key] = self._latest[device.index] = device
        self._tell_twins(devices)
        return moved

    def _moved_from(self, device: Device, present: Collection[str]) -> Device | None:
        """The same board where it was before; None where there is none, or it is there still."""
        same = (other for other in self._known.values() if other.uuid and other.board == device.board)
        return next((other for other in same if other.key not in present), None)

    def _move(self, before: Device, device: Device) -> None:
        self._known.pop(before.key)
        self._moves.append((before.key, device.key))
        if before.index != device.index and self._latest.get(before.index) == before:
            del self._latest[before.index]

    def _tell_twins(self, devices: Sequence[Device]) -> None:
        boards = Counter(device.board for device in devices)
        for device in devices:
            if boards[device.board] > 1 and device.board not in self._twins_told:
                self._twins_told.add(device.board)
                log.warning("GPUs with the same UUID: told apart by their index", extra={"uuid": device.uuid})

    def _may_be_read(self, device: Device, named: Device) -> bool:
        hanging = self._parked.get(named.key, 0)
        if not hanging:
            return True
        # Another number of devices is listed than when it was parked: somebody else may be at its index now.
        shifted = not device.uuid and self._parked_of[named.key] != self._listed
        return shifted and hanging < _MOST_HANGING

    def _unread(self, device: Device) -> Reading:
        if device.key in self._parked:
            why = "its driver call has not returned yet"
            return Reading(device, failure=Failure("timeout", why, standing=device.key in self._told))
        return Reading(device, failure=Failure("lost", "the driver does not list it any more"))
