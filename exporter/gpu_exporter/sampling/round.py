"""One round of readings: every device of the source, each against its deadline."""

from __future__ import annotations

from functools import partial

from gpu_exporter.model import Device, Failure, Reading
from gpu_exporter.sampling.poller import Outcome, Poller
from gpu_exporter.sampling.roster import Roster
from gpu_exporter.sources import Source


def read_all(source: Source, *, roster: Roster, poller: Poller, timeout: float) -> list[Reading]:
    """One reading a known device, in the order of indices: read, overrun, parked, or gone. Raises SourceError.

    A device whose call takes longer than ``timeout`` seconds is parked, and read again from the first round on that
    begins after its call has returned.
    """
    asked = roster.enlist(source.devices)

    def returned(position: int, outcome: Outcome[Reading]) -> None:
        """A late call came back; told on its own thread."""
        roster.returned(asked[position][1], outcome.result)

    calls = [partial(source.read, device) for device, _ in asked]
    outcomes = poller.run(calls, timeout=timeout, late=returned)
    answers = [(named, outcome) for (_, named), outcome in zip(asked, outcomes, strict=True)]
    # Overruns first: taking another's outcome may raise, and they must not be read a second time then.
    overran = [_overran(named, roster, timeout) for named, outcome in answers if outcome is None]
    read = [roster.recognise(named, outcome.get()) for named, outcome in answers if outcome is not None]
    readings = {reading.device.key: reading for reading in (*overran, *read)}
    readings |= {reading.device.key: reading for reading in roster.unread(readings)}
    return sorted(readings.values(), key=lambda reading: (reading.device.index, reading.device.uuid))


def _overran(device: Device, roster: Roster, timeout: float) -> Reading:
    roster.park(device)
    return Reading(device, failure=Failure("timeout", f"its driver call took longer than {timeout:g} s"))
