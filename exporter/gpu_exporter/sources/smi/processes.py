"""What runs on the GPUs, as ``--query-compute-apps`` lists it: what computes, and nothing that draws only."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from gpu_exporter.catalog.row import MIB
from gpu_exporter.config.parsers import shown
from gpu_exporter.model import Process
from gpu_exporter.sources.program import ProgramError, Run, Said
from gpu_exporter.sources.smi.failures import bus, of_cell, of_status
from gpu_exporter.sources.smi.fields import PROCESSES, known
from gpu_exporter.sources.smi.query import arguments, help_of
from gpu_exporter.sources.smi.table import Table, TableError, parse

log = logging.getLogger(__name__)

_OPTION: Final = "--query-compute-apps"
_PID: Final = re.compile("[0-9]{1,10}")
_MEMORY: Final = re.compile(r"([0-9]{1,12}) MiB")
_MIG: Final = "MIG-"


class ProcessList:
    """Lists what computes on all GPUs. The constructor raises SourceError where nvidia-smi cannot be run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        listed = known(help_of(run, "--help-query-compute-apps"))
        self._fields = [listed.get(name, name) for name in PROCESSES]
        self._blind = ""  # why they could not be listed

    def ask(self, *, timeout: float) -> Said:
        """What nvidia-smi says; ``timeout`` in seconds. Raises ProgramError."""
        return self._run(arguments(_OPTION, self._fields), timeout=timeout)

    def take(self, said: Said | Exception) -> Mapping[str, Sequence[Process]] | None:
        """The processes by the bus address of their GPU; None, and a line in the log, where they are not told."""
        try:
            found, why = self._read(said), ""
        except (ProgramError, TableError) as error:
            found, why = None, str(error)
        if why and why != self._blind:
            log.warning("processes cannot be listed", extra={"error": why})
        self._blind = why
        return found

    def _read(self, said: Said | Exception) -> Mapping[str, Sequence[Process]]:
        if isinstance(said, Exception):
            raise said
        if said.code:
            raise TableError(of_status(said).message)
        return processes_of(parse(said.out, self._fields))


def processes_of(table: Table) -> Mapping[str, Sequence[Process]]:
    """The processes by the bus address of their GPU. Raises TableError: a list that is not whole is none."""
    if table.broken:
        raise TableError("the list of processes is cut off")
    found: dict[str, list[Process]] = defaultdict(list)
    for row in table.rows:
        address, uuid, pid, memory = row.values()  # as fields.PROCESSES has them
        if of_cell(address) is not None:
            raise TableError(f"a process is on no GPU: '{shown(address, 40)}'")
        told = of_cell(pid) is None
        if told and not _PID.fullmatch(pid):
            raise TableError(f"'{shown(pid, 40)}' is no process number")
        size = _MEMORY.fullmatch(memory)
        if size is None and of_cell(memory) is None:
            raise TableError(f"'{shown(memory, 40)}' is no memory of a process")
        found[bus(address)].append(
            Process(
                int(pid) if told else 0,
                "compute",
                float(size[1]) * MIB if size else None,
                mig_uuid=uuid if uuid.startswith(_MIG) else "",
            )
        )
    return found
