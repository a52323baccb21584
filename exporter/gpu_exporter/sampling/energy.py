"""What one GPU drew between two readings, and what of that the board draws anyway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.mig import MIG_MEMORY_TOTAL, MIG_SM_ACTIVE
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Reading
from gpu_exporter.sampling.tenancy import Tenant, instances_of, workers

_ENERGY: Final = by_name("gpu_energy_joules_total")
_POWER: Final = by_name("gpu_power_watts")


class Drawn(NamedTuple):
    """Joules: what an idle board draws in that time, and what was drawn above that."""

    idle: float
    above: float


class Energy:
    """Follows one GPU's counter. Where that is briefly not told, power stands in, and is settled once it is back."""

    __slots__ = ("_ahead", "_idle", "_total")

    def __init__(self) -> None:
        self._total: float | None = None
        self._ahead = 0.0  # joules that were told of since the counter was
        self._idle: float | None = None  # watts, the least that was seen while the GPU was idle

    def interrupt(self) -> None:
        """What is drawn until the next reading is nobody's."""
        self._total = None
        self._ahead = 0.0

    def step(
        self, reading: Reading, *, before: Mapping[Metric, float] | None, now: Mapping[Metric, float], elapsed: float
    ) -> float | None:
        """Joules that were drawn in the seconds that end with a good reading; None where that is not told."""
        total, power = now.get(_ENERGY), reading.values.get(_POWER)
        old = self._total
        if total is not None:
            self._total = total
            if old is not None and total >= old:
                grown = total - old
                drawn = max(0.0, grown - self._ahead)
                self._ahead = max(0.0, self._ahead - grown)
                return drawn
            self._ahead = 0.0  # it begins anew
        if power is None or before is None:
            return None
        drawn = (before.get(_POWER, power) + power) / 2 * elapsed
        if total is None and old is not None:
            self._ahead += drawn
        return drawn

    def saw_idle(self, reading: Reading) -> None:
        """Remember what the board draws while nothing runs on it."""
        power = reading.values.get(_POWER)
        if power is not None and (self._idle is None or power < self._idle):
            self._idle = power

    def split(self, joules: float, elapsed: float) -> Drawn:
        """What of it an idle board draws anyway: nothing, until it was seen idle."""
        idle = min(joules, (self._idle or 0.0) * elapsed)
        return Drawn(idle, joules - idle)


def work_of(reading: Reading) -> Mapping[Tenant, float]:
    """How much each tenant works, in a unit of its own: multiprocessor time, as far as the driver tells it.

    Of a partitioned GPU that of its MIG devices, by their size; those who share one share its work.
    """
    if not reading.mig_uuids:
        return workers(reading)
    of_instance = {
        uuid: reading.labelled.get((MIG_SM_ACTIVE, (uuid,)), 0.0)
        * reading.labelled.get((MIG_MEMORY_TOTAL, (uuid,)), 0.0)
        for uuid in reading.mig_uuids
    }
    instances = instances_of(reading)
    work: dict[Tenant, float] = {}
    for uuid, amount in of_instance.items():
        there = [tenant for tenant, uuids in instances.items() if uuid in uuids]
        for tenant in there:
            work[tenant] = work.get(tenant, 0.0) + amount / len(there)
    return work
