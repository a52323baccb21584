"""What a reading goes through before it is published, in one place for daemon, demo and tests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from gpu_exporter.config import AccountingConfig, ProcessesConfig
from gpu_exporter.model import Event, Failure, GpuEvent, Reading
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.sampling.ledger import Ledger
from gpu_exporter.sampling.plausibility import Plausibility
from gpu_exporter.sampling.processes import ProcessTable

log = logging.getLogger(__name__)


class Pipeline:
    """Refuses what cannot be, names the owners of a reading's processes, adds what adds up over time, and makes series.

    Belongs to the sampler's thread and outlives every reopening of the source. ``gap`` (seconds) bounds the time that
    one reading can stand for.
    """

    def __init__(
        self,
        *,
        gap: float,
        resolver: Resolver | None = None,
        processes: ProcessesConfig | None = None,
        accounting: AccountingConfig | None = None,
    ) -> None:
        processes = processes or ProcessesConfig()
        self._plausibility = Plausibility()
        self._resolver = resolver or Resolver()
        self._ledger = Ledger(
            gap=gap, accounting=accounting, processes=processes.enabled, user_name=self._resolver.user_name
        )
        self._table = ProcessTable(most=processes.max, labels=processes.labels)
        self._bugs: set[tuple[str, type[Exception]]] = set()
        self._full: dict[str, Reading] = {}  # the latest full one of each device, as checked

    @property
    def gap(self) -> float:
        """Seconds that one reading can stand for at most."""
        return self._ledger.gap

    @gap.setter
    def gap(self, seconds: float) -> None:
        self._ledger.gap = seconds

    @property
    def implausible(self) -> Mapping[str, int]:
        """How many values were refused so far, by the name of their metric."""
        return self._plausibility.counts

    def complete(
        self,
        readings: Sequence[Reading],
        now: float,
        *,
        name_owners: Callable[[Sequence[Reading]], Sequence[Reading]] | None = None,
    ) -> tuple[Reading, ...]:
        """The readings with everything that a snapshot tells of them; ``now`` is monotonic seconds.

        One that cannot be completed is its device's failure, and none of the others'. ``name_owners`` stands for the
        method of that name.
        """
        checked = [
            self._survived(reading, lambda each: self._whole(self._plausibility.check(each, now=now)))
            or _failed(reading)
            for reading in readings
        ]
        completed = []
        for reading in (name_owners or self.name_owners)(checked):
            for tried in (reading, _failed(reading)):
                told = self._survived(tried, lambda each: self._table.add_rows(self._ledger.account(each, now=now)))
                if told is not None:
                    completed.append(told)
                    break
        return tuple(completed)

    def name_owners(self, readings: Sequence[Reading]) -> Sequence[Reading]:
        """See Resolver.name_owners, which may take as long as file systems do."""
        return self._resolver.name_owners(readings)

    def count_events(self, events: Iterable[Event]) -> None:
        """Count XIDs and other events; they are told from the next reading on."""
        for event in events:
            if isinstance(event, GpuEvent):
                self._ledger.count_event(event)
            else:
                self._ledger.count_xid(event)

    def move(self, moves: Iterable[tuple[str, str]]) -> None:
        """Devices got other keys, by (before, now): what is known of each goes with it."""
        for before, now in moves:
            self._ledger.move(before, now)
            self._full.pop(before, None)

    def add_late(self, readings: Iterable[Reading], now: float) -> None:
        """Add the growth that readings tell which came too late to be served; ``now`` is monotonic seconds."""

        def add(reading: Reading) -> Reading:
            self._ledger.add_increments(self._plausibility.check(reading, now=now))
            return reading

        for reading in readings:
            self._survived(reading, add)

    def interrupt(self) -> None:
        """Nobody looks for a while (the driver is closed): the time until the next reading is charged to nobody."""
        self._ledger.interrupt()
        self._plausibility.interrupt()
        self._full.clear()

    def close(self) -> None:
        """Stop asking for owners."""
        self._resolver.close()

    def _whole(self, reading: Reading) -> Reading:
        """A light reading with what the full one before it told of all the rest."""
        key = reading.device.key
        if reading.only is None or reading.failure is not None:
            self._full[key] = reading
            return replace(reading, full_at=reading.read_at)
        full = self._full.get(key)
        if full is None or full.failure is not None:
            return replace(reading, full_at=reading.read_at)
        only = reading.only
        return replace(
            reading,
            values={**{row: value for row, value in full.values.items() if row not in only}, **reading.values},
            labelled={**{at: value for at, value in full.labelled.items() if at[0] not in only}, **reading.labelled},
            partial=full.partial,
            full_at=full.read_at,
        )

    def _survived(self, reading: Reading, step: Callable[[Reading], Reading]) -> Reading | None:
        """What the step makes of the reading; None, and a line in the log the first time, where it fails."""
        try:
            return step(reading)
        except Exception as error:  # whatever is wrong with one device's reading, the others are told
            bug = (reading.device.key, type(error))
            if bug not in self._bugs:
                self._bugs.add(bug)
                gpu = reading.device.index
                log.exception("a reading failed: this is a bug in gpu-exporter", extra={"gpu": gpu})
            return None


def _failed(reading: Reading) -> Reading:
    """What is told of a device whose reading cannot be completed."""
    return Reading(
        reading.device, failure=reading.failure or Failure("unknown", "the reading failed"), read_at=reading.read_at
    )
