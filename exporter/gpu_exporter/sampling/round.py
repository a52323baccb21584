"""One round of readings: every device of the source, each against its deadline."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gpu_exporter.model import Device, Failure, Reading
from gpu_exporter.sampling.poller import Outcome, Poller
from gpu_exporter.sampling.roster import Roster
from gpu_exporter.sources import BufferedSource, Source, SourceError

log = logging.getLogger(__name__)


class Round:
    """Asks every device once, again and again. Belongs to the sampler's thread.

    A device whose call overruns its deadline is parked, and asked again from the first round on that begins after its
    call has returned.
    """

    def __init__(self, *, roster: Roster, poller: Poller) -> None:
        self._roster = roster
        self._poller = poller
        self._bugs: set[tuple[int, type[BaseException]]] = set()  # those of the latest reading of each device

    def read_all(self, source: Source, *, timeout: float) -> list[Reading]:
        """One reading a known device, in the order of indices: read, overrun, parked, or gone. Raises SourceError.

        Any other exception in one device's reading is that device's failure, and logged when it begins. ``timeout`` is
        in seconds.
        """
        silent, read = self._ask_all(source.read, source, timeout=timeout)
        return self._roster.settle(read, silent)

    def read_buffers(self, source: BufferedSource, *, timeout: float) -> list[Reading]:
        """What the buffers of each device told that answered; one that hangs is parked. Raises SourceError."""
        _, read = self._ask_all(source.read_buffers, source, timeout=timeout)
        return [replace(reading, device=self._roster.named(reading.device)) for reading in read]

    def _ask_all(
        self, ask: Callable[[Device], Reading], source: Source, *, timeout: float
    ) -> tuple[list[Reading], list[Reading]]:
        """What came of each device that could be asked: failures of those that overran, and what the others told."""
        asked = self._roster.enlist(source.devices)

        def returned(position: int, outcome: Outcome[Reading]) -> None:
            """A late call came back; told on its own thread."""
            self._roster.returned(asked[position][1], outcome.result)

        calls = [partial(ask, device) for device, _ in asked]
        outcomes = list(zip(asked, self._poller.run(calls, timeout=timeout, late=returned), strict=True))
        # Overruns first: taking another's outcome may raise, and they must not be asked a second time then.
        silent = [self._overran(named, timeout) for (_, named), outcome in outcomes if outcome is None]
        return silent, [self._taken(device, outcome) for (device, _), outcome in outcomes if outcome is not None]

    def _overran(self, device: Device, timeout: float) -> Reading:
        self._roster.park(device)
        return Reading(device, failure=Failure("timeout", f"its driver call took longer than {timeout:g} s"))

    def _taken(self, device: Device, outcome: Outcome[Reading]) -> Reading:
        error = outcome.error
        if error is None or isinstance(error, SourceError):
            self._bugs -= {bug for bug in self._bugs if bug[0] == device.index}
            return outcome.get()
        if (device.index, type(error)) not in self._bugs:
            self._bugs.add((device.index, type(error)))
            log.error("a reading failed: this is a bug in gpu-exporter", extra={"gpu": device.index}, exc_info=error)
        return Reading(device, failure=Failure("unknown", f"the reading failed: {type(error).__name__}"))
