"""One round of readings: every device of the source, each against its deadline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from gpu_exporter.model import Device, Failure, Reading
from gpu_exporter.sampling.poller import NoThreadError, Outcome, Poller
from gpu_exporter.sampling.roster import Roster
from gpu_exporter.sources import BoundedSource, BufferedSource, Source, SourceError

log = logging.getLogger(__name__)

# Of a deadline, what all calls together may take in turn before the rest goes on side by side.
_IN_TURN: Final = 1 / 3
# Seconds that they may take in any case: all first readings, say, which make up what is asked for from then on. Side by
# side, these would need their memory all at once.
_IN_TURN_LEAST: Final = 0.25
# Of that, what a call may take that is made in turn again the next time.
_SLOW: Final = 1 / 2
# Seconds between the beginnings of two devices' readings that are spread, and over all of them.
_STEP: Final = 0.03
_SPREAD: Final = 0.24


class Round:
    """Asks every device once, again and again. Belongs to the sampler's thread.

    A device whose call overruns its deadline is parked, and asked again from the first round on that begins after its
    call has returned. Those that are slow within it are asked beside the others, so that a round takes little more than
    one deadline however many they are. ``clock`` stamps readings, and ``sleep`` waits between them.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        poller: Poller,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._sleep = sleep
        self._roster = roster
        self._poller = poller
        self._clock = clock
        self._slow: set[int] = set()  # indices
        self._failed: set[int] = set()  # indices of those whose latest reading was a failure
        self._bugs: set[tuple[int, type[BaseException]]] = set()  # those of the latest reading of each device

    def read_all(
        self, source: Source, *, timeout: float, ask: Callable[[Device], Reading] | None = None, spread: bool = False
    ) -> list[Reading]:
        """One reading a known device, in the order of indices: read, overrun, parked, or gone. Raises SourceError.

        Any other exception in one device's reading is that device's failure, and logged when it begins. ``timeout`` is
        in seconds. ``ask`` stands for ``source.read``, but for a device that failed: of what it told before nothing
        holds, so that it has to tell everything. With ``spread`` devices are read a moment apart, so that the driver's
        work for all of them makes no peak.
        """
        if isinstance(source, BoundedSource):
            source.bound(timeout)  # the settings may have changed since it was opened

        def asked(device: Device) -> Reading:
            return source.read(device) if ask is None or device.index in self._failed else ask(device)

        silent, read = self._ask_all(asked, source, timeout=timeout, spread=spread)
        now = self._clock()
        settled = self._roster.settle(read, silent)
        self._failed = {reading.device.index for reading in settled if reading.failure is not None}
        return [reading if reading.read_at is not None else replace(reading, read_at=now) for reading in settled]

    def read_buffers(self, source: BufferedSource, *, timeout: float) -> list[Reading]:
        """What the buffers of each device told that answered; one that hangs is parked. Raises SourceError."""
        _, read = self._ask_all(source.read_buffers, source, timeout=timeout)
        return [replace(reading, device=self._roster.named(reading.device)) for reading in read]

    def _ask_all(
        self, ask: Callable[[Device], Reading], source: Source, *, timeout: float, spread: bool = False
    ) -> tuple[list[Reading], list[Reading]]:
        """What came of each device that could be asked: failures of those that overran, and what the others told."""
        asked = self._roster.enlist(source.devices)

        def returned(position: int, outcome: Outcome[Reading]) -> None:
            """A late call came back; told on its own thread."""
            self._roster.returned(asked[position][1], outcome.result)

        in_turn = max(_IN_TURN * timeout, _IN_TURN_LEAST)
        took: dict[int, float] = {}
        step = min(_STEP, _SPREAD / len(asked), in_turn / 4 / len(asked)) if spread and asked else 0.0
        began = self._clock()
        calls = [
            partial(self._timed, ask, device, took, began + place * step if step else None)
            for place, (device, _) in enumerate(asked)
        ]
        apart = {position for position, (device, _) in enumerate(asked) if device.index in self._slow}
        told = self._poller.run(calls, timeout=timeout, late=returned, budget=in_turn, apart=apart)
        self._slow = {index for index, seconds in list(took.items()) if seconds > _SLOW * in_turn}
        outcomes = list(zip(asked, told, strict=True))
        # Overruns first: taking another's outcome may raise, and they must not be asked a second time then.
        silent = [self._overran(named, timeout) for (_, named), outcome in outcomes if outcome is None]
        return silent, [self._taken(device, outcome) for (device, _), outcome in outcomes if outcome is not None]

    def _timed(
        self, ask: Callable[[Device], Reading], device: Device, took: dict[int, float], at: float | None
    ) -> Reading:
        if at is not None and 0.0 < (wait := at - self._clock()) < _SPREAD:
            self._sleep(wait)
        began = self._clock()
        reading = ask(device)
        took[device.index] = self._clock() - began
        return replace(reading, read_at=began)

    def _overran(self, device: Device, timeout: float) -> Reading:
        self._roster.park(device)
        return Reading(device, failure=Failure("timeout", f"its driver call took longer than {timeout:g} s"))

    def _taken(self, device: Device, outcome: Outcome[Reading]) -> Reading:
        error = outcome.error
        if error is None or isinstance(error, SourceError):
            self._bugs -= {bug for bug in self._bugs if bug[0] == device.index}
            return outcome.get()
        if isinstance(error, NoThreadError):
            return Reading(device, failure=Failure("unknown", str(error)))
        if (device.index, type(error)) not in self._bugs:
            self._bugs.add((device.index, type(error)))
            log.error("a reading failed: this is a bug in gpu-exporter", extra={"gpu": device.index}, exc_info=error)
        return Reading(device, failure=Failure("unknown", f"the reading failed: {type(error).__name__}"))
