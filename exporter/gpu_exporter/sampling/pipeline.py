"""What a reading goes through before it is published, in one place for daemon, demo and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpu_exporter.config import AccountingConfig, ProcessesConfig
from gpu_exporter.model import Event, GpuEvent, Reading
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.sampling.ledger import Ledger
from gpu_exporter.sampling.plausibility import Plausibility
from gpu_exporter.sampling.processes import ProcessTable


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

    def complete(self, readings: Sequence[Reading], now: float) -> tuple[Reading, ...]:
        """The readings with everything that a snapshot tells of them; ``now`` is monotonic seconds."""
        checked = [self._plausibility.check(reading, now=now) for reading in readings]
        return tuple(
            self._table.add_rows(self._ledger.account(reading, now=now))
            for reading in self._resolver.name_owners(checked)
        )

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

    def add_late(self, readings: Iterable[Reading], now: float) -> None:
        """Add the growth that readings tell which came too late to be served; ``now`` is monotonic seconds."""
        for reading in readings:
            self._ledger.add_increments(self._plausibility.check(reading, now=now))

    def interrupt(self) -> None:
        """Nobody looks for a while (the driver is closed): the time until the next reading is charged to nobody."""
        self._ledger.interrupt()
        self._plausibility.interrupt()

    def close(self) -> None:
        """Stop asking for owners."""
        self._resolver.close()
