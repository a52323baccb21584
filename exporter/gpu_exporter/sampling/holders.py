"""Who holds one GPU, from one reading to the next: nobody who can be seen is not nobody."""

from __future__ import annotations

import logging
from typing import Final

from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.row import MIB
from gpu_exporter.model import Reading
from gpu_exporter.sampling.tenancy import NOBODY, Tenancy, holds, is_anybodys, merged

log = logging.getLogger(__name__)

_MEMORY_USED: Final = by_name("gpu_memory_used_bytes")
_MEMORY_TOTAL: Final = by_name("gpu_memory_total_bytes")
_MEMORY_RESERVED: Final = by_name("gpu_memory_reserved_bytes")
# What the driver takes for a process beside what it lists as the process's: 7 to 10 MiB on H100, H200 and L40S with
# drivers 580 to 595.
_BESIDE_A_PROCESS: Final = 16 * MIB
# What counts as used although it is reserved, where version 1 of nvmlDeviceGetMemoryInfo is all there is: 0.4 % (H200)
# to 1.8 % (RTX 4090) of the memory.
_RESERVED_SHARE: Final = 0.02


def unexplained_memory(reading: Reading, *, more_than: float) -> float | None:
    """Bytes in use that no process has which is listed by its pid; 0 where the driver may take them for itself.

    None is not known: the driver tells neither how much is used nor a pid that is none, or not what each process has.
    """
    listed = merged(reading.processes or ())
    if any(process.memory_used is None for process in listed):
        return None
    used = reading.values.get(_MEMORY_USED)
    explained = [process.memory_used or 0.0 for process in listed if not is_anybodys(process)]
    anybodys = sum(process.memory_used or 0.0 for process in listed if is_anybodys(process))
    if used is None and not anybodys:
        return None
    drivers = more_than + _BESIDE_A_PROCESS * len(explained)
    if _MEMORY_RESERVED not in reading.values:
        drivers += _RESERVED_SHARE * reading.values.get(_MEMORY_TOTAL, 0.0)
    memory = max((used or 0.0) - sum(explained), anybodys)
    return memory if memory > drivers else 0.0


class Holders:
    """Who holds one GPU. ``more_than`` is in bytes; without ``processes``, which are not listed then, allocations only.

    Memory and list are of one reading, but not of one instant: a process ends between the two, and the driver takes a
    moment to free what it had. What is unexplained at one reading only is therefore left to those who held the GPU at
    the reading before.
    """

    def __init__(self, *, more_than: float, processes: bool = True) -> None:
        self._more_than = more_than
        self._processes = processes
        self._unexplained = 0.0  # as of the latest reading that told it
        self._held: tuple[Tenancy, ...] = ()
        self._told = ""
        self.unaccounted: float | None = None

    def look(self, reading: Reading) -> tuple[Tenancy, ...]:
        """Who holds it at this reading; afterwards ``unaccounted`` is how much of its memory is nobody's, in bytes.

        Nobody's is what an owner without a name holds: no process has it that can be seen, and no allocation explains
        it. None where that cannot be known.
        """
        before, unexplained = self._unexplained, None
        if self._processes:
            unexplained = unexplained_memory(reading, more_than=self._more_than)
        # A reading that does not tell how much is used frees nothing.
        told = unexplained is not None or _MEMORY_USED in reading.values
        now = self._unexplained = (unexplained or 0.0) if told else before
        lasting = min(now, before) if self._held else now
        held = holds(reading, more_than=self._more_than, unexplained=lasting)
        if lasting < now:
            here = {hold.tenant for hold in held}
            held = (*held, *(hold for hold in self._held if hold.tenant not in here))
        self._held = held
        if unexplained is None or reading.processes is None:
            self.unaccounted = None
        else:
            self.unaccounted = sum(hold.memory or 0.0 for hold in held if hold.tenant == NOBODY)
        if any(hold.tenant == NOBODY for hold in held):
            self._tell(reading, lasting)
        return held

    def _tell(self, reading: Reading, unexplained: float) -> None:
        """Log once why the holder cannot be named, again where it is another reason."""
        listed = reading.processes
        if not unexplained:
            why = "a process that the driver lists cannot be seen from here"
        elif listed is None:
            why = "the driver does not tell which processes there are"
        elif not listed:
            why = "there is no process that could have its memory"
        elif any(is_anybodys(process) for process in listed):
            why = "the driver does not tell the pid of a process"
        else:
            why = "the processes that are there have less of its memory than is in use"
        if why != self._told:
            self._told = why
            device = reading.device
            log.log(
                logging.WARNING if unexplained else logging.INFO,  # of whom cannot be seen the resolver tells more
                "a GPU is held by nobody who can be named: %s",
                why,
                extra={"gpu": device.index, "uuid": device.uuid, "unexplained_bytes": int(unexplained)},
            )
