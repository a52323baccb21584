"""What nvidia-smi is asked in one round: all GPUs by one call, and each alone where one keeps it from answering."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from gpu_exporter.model import Device, Failure, Process
from gpu_exporter.sources.program import Said, SlowProgramError, concurrently
from gpu_exporter.sources.smi.failures import bus, of_remarks, of_status
from gpu_exporter.sources.smi.finding import Row
from gpu_exporter.sources.smi.processes import ProcessList
from gpu_exporter.sources.smi.query import Query
from gpu_exporter.sources.smi.rows import index_of, same
from gpu_exporter.sources.smi.table import Table, TableError

log = logging.getLogger(__name__)

_APART: Final = 60.0  # seconds for which each GPU is asked alone after it helped


@dataclass(slots=True)
class Answers:
    """What one round told, by the device's index.

    ``processes`` are by bus address, None where it is not known what runs anywhere; ``listed_at`` is CLOCK_BOOTTIME in
    seconds. ``whole`` says that every GPU was asked for and had its row: a device that is not in it has gone.
    """

    rows: dict[int, Row] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    processes: Mapping[str, Sequence[Process]] | None = None
    listed_at: float | None = None
    whole: bool = False


class Asking:
    """Asks nvidia-smi, round by round. Belongs to one thread at a time.

    ``timeout`` is for one round, in seconds; it may be set anew.
    """

    def __init__(
        self, query: Query, processes: ProcessList | None, *, timeout: float, monotonic: Callable[[], float]
    ) -> None:
        self._query = query
        self._processes = processes
        self.timeout = timeout
        self._monotonic = monotonic
        self._apart_until = 0.0
        self._complaint = ""  # what was said beside a table that had every row

    def ask(self, devices: Sequence[Device]) -> Answers:
        """One round. Raises SourceError where nothing can be asked.

        Half of the time is for all GPUs together; what is not told by then is asked for apart.
        """
        began = self._monotonic()
        answers = Answers()
        if began >= self._apart_until:
            self._ask_all(devices, answers, timeout=self.timeout / 2)
        missing = [each for each in devices if each.index not in answers.rows and each.index not in answers.failures]
        if missing and not answers.whole:
            left = max(self.timeout - (self._monotonic() - began), self.timeout / 4)
            self._ask_each(missing, answers, timeout=left, helps=missing == list(devices))
        return answers

    # --- all by one call ----------------------------------------------------------------------------------------------

    def _ask_all(self, devices: Sequence[Device], answers: Answers, *, timeout: float) -> None:
        said = self._with_processes([partial(self._query, timeout=timeout)], answers, timeout=timeout)[0]
        if isinstance(said, SlowProgramError):
            log.debug("nvidia-smi does not answer for all GPUs together", extra={"error": str(said)})
            return
        if isinstance(said, Exception):
            raise said
        try:
            table = self._query.table(said)
        except TableError as error:
            if not said.code:
                answers.failures = {each.index: Failure("unknown", f"nvidia-smi: {error}") for each in devices}
                return
            table = Table(remarks=said.lines)
        self._take_rows(table, answers)
        self._take_remarks([*table.remarks, *said.err.splitlines()], devices, answers)
        missing = [each for each in devices if each.index not in answers.rows]
        self._tell_complaint(said, missing)
        if said.code == 0 and table.broken:
            for each in missing:
                answers.failures.setdefault(each.index, _cut(table.broken, each))
        answers.whole = said.code == 0 and not table.broken and not answers.failures

    def _with_processes(
        self, calls: Sequence[Callable[[], Said]], answers: Answers, *, timeout: float
    ) -> Sequence[Said | Exception]:
        """Make the calls, and list the processes at the same time."""
        if self._processes is None:
            return concurrently(calls)
        ask_all: list[Callable[[], Said]] = [*calls, partial(self._processes.ask, timeout=timeout)]
        *results, listed = concurrently(ask_all)
        answers.processes = self._processes.take(listed)
        answers.listed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        return results

    @staticmethod
    def _take_rows(table: Table, answers: Answers) -> None:
        twice: set[int] = set()
        for row in table.rows:
            index = index_of(row)
            if index is None:
                table.broken.append(row)
            elif index in answers.rows:
                twice.add(index)
            else:
                answers.rows[index] = row
        for index in twice:
            del answers.rows[index]
            answers.failures[index] = Failure("unknown", "nvidia-smi: it has several rows")

    @staticmethod
    def _take_remarks(remarks: Sequence[str], devices: Sequence[Device], answers: Answers) -> None:
        told_of = dict(of_remarks(remarks))
        for each in devices:
            failure = told_of.get(bus(each.pci_bus_id)) if each.pci_bus_id else None
            if failure is not None and each.index not in answers.rows:
                answers.failures.setdefault(each.index, failure)

    def _tell_complaint(self, said: Said, missing: Sequence[Device]) -> None:
        """Log once what is said of GPUs that all have their rows, as of an infoROM that is corrupted."""
        complaint = of_status(said).message if said.code and not missing else ""
        if complaint and complaint != self._complaint:
            log.warning("nvidia-smi complains", extra={"error": complaint})
        self._complaint = complaint

    # --- each alone ---------------------------------------------------------------------------------------------------

    def _ask_each(self, devices: Sequence[Device], answers: Answers, *, timeout: float, helps: bool) -> None:
        """Ask for each of them by a call of its own, all at once: one that hangs keeps none of the others waiting.

        ``helps`` says that all together nothing was told: it is not tried again for a while.
        """
        calls: list[Callable[[], Said]] = [partial(self._query, "-i", _name(each), timeout=timeout) for each in devices]
        listed = answers.processes is not None
        results = concurrently(calls) if listed else self._with_processes(calls, answers, timeout=timeout)
        for each, said in zip(devices, results, strict=True):
            self._take_one(each, said, answers)
        if helps and len(devices) > 1 and answers.rows and self._monotonic() >= self._apart_until:
            self._apart_until = self._monotonic() + _APART

    def _take_one(self, device: Device, said: Said | Exception, answers: Answers) -> None:
        if isinstance(said, SlowProgramError):
            answers.failures[device.index] = Failure("timeout", str(said))
            return
        if isinstance(said, Exception):
            raise said
        try:
            rows = [row for row in self._query.table(said).rows if same(row, device)]
        except TableError as error:
            rows, why = [], str(error)
        else:
            why = "it has no row"
        if len(rows) == 1:
            answers.rows[device.index] = rows[0]
        elif said.code:
            answers.failures[device.index] = of_status(said)
        else:
            answers.failures[device.index] = Failure("unknown", f"nvidia-smi: {why}")


def _name(device: Device) -> str:
    """What nvidia-smi finds it by: its place on the bus stays its own, its index moves up where another has gone."""
    return device.pci_bus_id or str(device.index)


def _cut(broken: Sequence[Row], device: Device) -> Failure:
    mine = next((row for row in broken if index_of(row) == device.index), None)
    which = f"its row ends after {len(mine)} fields" if mine else "a row is not whole"
    return Failure("unknown", f"nvidia-smi: {which}")
