"""One round of readings: every device of the source, each against its deadline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gpu_exporter.model import Device, Failure, Reading
from gpu_exporter.sampling.poller import Outcome, Poller
from gpu_exporter.sampling.roster import Roster
from gpu_exporter.sources import BufferedSource, Source


def read_all(source: Source, *, roster: Roster, poller: Poller, timeout: float) -> list[Reading]:
    """One reading a known device, in the order of indices: read, overrun, parked, or gone. Raises SourceError.

    A device whose call takes longer than ``timeout`` seconds is parked, and read again from the first round on that
    begins after its call has returned.
    """
    told = _ask_all(source.read, source, roster=roster, poller=poller, timeout=timeout)
    readings = {reading.device.key: reading for reading in told}
    readings |= {reading.device.key: reading for reading in roster.unread(readings)}
    return sorted(readings.values(), key=lambda reading: (reading.device.index, reading.device.uuid))


def read_buffers(source: BufferedSource, *, roster: Roster, poller: Poller, timeout: float) -> list[Reading]:
    """What the buffers of each device told that answered; one that hangs is parked. Raises SourceError."""
    return _ask_all(source.read_buffers, source, roster=roster, poller=poller, timeout=timeout)


def _ask_all(
    ask: Callable[[Device], Reading], source: Source, *, roster: Roster, poller: Poller, timeout: float
) -> list[Reading]:
    """What came of each device that could be asked: overruns first, then what was told."""
    asked = roster.enlist(source.devices)

    def returned(position: int, outcome: Outcome[Reading]) -> None:
        """A late call came back; told on its own thread."""
        roster.returned(asked[position][1], outcome.result)

    outcomes = poller.run([partial(ask, device) for device, _ in asked], timeout=timeout, late=returned)
    answers = [(named, outcome) for (_, named), outcome in zip(asked, outcomes, strict=True)]
    # Overruns first: taking another's outcome may raise, and they must not be read a second time then.
    overran = [_overran(named, roster, timeout) for named, outcome in answers if outcome is None]
    return overran + [roster.recognise(named, outcome.get()) for named, outcome in answers if outcome is not None]


def _overran(device: Device, roster: Roster, timeout: float) -> Reading:
    roster.park(device)
    return Reading(device, failure=Failure("timeout", f"its driver call took longer than {timeout:g} s"))
