"""What a GPU did with the time since its previous reading. Idleness needs evidence: silence is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.mig import MIG_SM_ACTIVE
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Reading
from gpu_exporter.sampling.integral import PATIENCE, Grown

BUSY: Final = by_name("gpu_busy_seconds_total")
_UTILIZATION: Final = by_name("gpu_utilization_ratio")
_SUSPENDED: Final = by_name("gpu_suspended")
_SM_ACTIVE: Final = by_name("gpu_sm_active_ratio")
_GRAPHICS_ACTIVE: Final = by_name("gpu_graphics_active_ratio")
_MIG_MODE: Final = by_name("gpu_mig_mode_enabled")
# Work that is no kernel. Not memory_io: the picture on a screen is read from the memory of an idle GPU.
_ENGINES: Final = tuple(by_name(f"gpu_{engine}_utilization_ratio") for engine in ("encoder", "decoder", "jpeg", "ofa"))
_POWER: Final = by_name("gpu_power_watts")
_POWER_LIMIT: Final = by_name("gpu_power_limit_watts")
# Idle boards that hold a context draw up to 0.9 of the lowest limit that they can be given (L40S: 86 W of 100 W).
_AT_LIMIT: Final = 0.95

Activeness: TypeAlias = Literal["active", "idle", "unknown"]


class Activity:
    """Judges one GPU, reading by reading. Times are seconds."""

    __slots__ = ("_against", "_own")

    def __init__(self) -> None:
        self._own: float | None = None  # busy seconds that the source keeps itself, at the previous reading
        self._against = 0.0  # for how long the buffer has told of work that the rate knows nothing of

    def interrupt(self) -> None:
        """What was told before says nothing of the time that comes."""
        self._own = None
        self._against = 0.0

    def judge(self, reading: Reading, busy: Grown, elapsed: float, *, active_ratio: float) -> Activeness:
        """What a good reading says of the ``elapsed`` seconds before it; ``busy`` is what they added to the counter."""
        if reading.values.get(_SUSPENDED) == 1:  # the kernel puts no GPU to sleep that works
            self.interrupt()
            return "idle"
        told = self._by_utilization(reading, busy, elapsed, active_ratio)
        if is_partitioned(reading):
            return self._of_all(reading, elapsed, active_ratio)
        work = share_of(reading, _SM_ACTIVE) if elapsed else None
        if told is not None and work is not None:
            told = _by_profiling(reading, work, told, active_ratio)
        if told == "idle" and _works_otherwise(reading, active_ratio):
            return "unknown"
        return told or "unknown"

    @staticmethod
    def _of_all(reading: Reading, elapsed: float, active_ratio: float) -> Activeness:
        """A partitioned GPU: no utilization is told of it, or 0, and that is not idleness; its MIG devices tell."""
        if not elapsed:
            return "unknown"
        told = set(of_instances(reading, active_ratio=active_ratio).values())
        if "active" in told:
            return "active"
        if "unknown" in told or not reading.mig_whole or _works_otherwise(reading, active_ratio):
            return "unknown"
        return "idle"  # also of one that has no MIG device yet: there is nothing to run on

    def _by_utilization(self, reading: Reading, busy: Grown, elapsed: float, active_ratio: float) -> Activeness | None:
        """What utilization says; None where it is not told."""
        share, rate = self._share(reading, busy, elapsed, active_ratio), share_of(reading, _UTILIZATION)
        steady = share is not None and share >= 1.0 - active_ratio
        if not (steady and rate is not None and rate < active_ratio):
            self._against = 0.0
        else:
            before, self._against = self._against, self._against + elapsed
            if before > 0.0 and self._against > PATIENCE:
                return "unknown"
        if share is not None and share >= active_ratio:
            return "active"
        if share is None and rate is None:
            return None
        if rate is not None and rate >= active_ratio:
            return "active" if share is None else "unknown"
        return "idle"

    def _share(self, reading: Reading, busy: Grown, elapsed: float, active_ratio: float) -> float | None:
        """Share of the time that it was busy; None where too little of the time was told of to say."""
        before, self._own = self._own, reading.values.get(BUSY)
        if not elapsed:
            return None
        if self._own is not None:
            return None if before is None or self._own < before else (self._own - before) / elapsed
        if busy.seconds >= elapsed / 2:
            return busy.amount / busy.seconds
        least = busy.amount / elapsed
        return least if least >= active_ratio else None


def of_instances(reading: Reading, *, active_ratio: float) -> Mapping[str, Activeness]:
    """What each MIG device did since the previous reading, by its UUID: its multiprocessors tell, else nothing does."""
    told: dict[str, Activeness] = {}
    for uuid in reading.mig_uuids:
        share = reading.labelled.get((MIG_SM_ACTIVE, (uuid,)))
        told[uuid] = "unknown" if share is None else "active" if share >= active_ratio else "idle"
    return told


def is_partitioned(reading: Reading) -> bool:
    """Whether it is in MIG mode, with MIG devices or without."""
    return bool(reading.mig_whole or reading.mig_uuids or reading.values.get(_MIG_MODE))


def share_of(reading: Reading, row: Metric) -> float | None:
    """A share; None where it is not told, or impossible."""
    share = reading.values.get(row)
    return share if share is not None and 0.0 <= share <= 1.0 else None


def _by_profiling(reading: Reading, work: float, utilization: Activeness, active_ratio: float) -> Activeness:
    """What the share of busy multiprocessors says, beside what utilization says.

    Utilization calls a kernel of one block busy that keeps one multiprocessor of a hundred, and copies that keep none.
    The former is idleness, of a GPU that is as good as unused; of the latter profiling sees nothing, so that it is not
    known. Where multiprocessors are busy that utilization knows nothing of, one of the two is wrong. A driver that
    tells no utilization at all outside of MIG mode is not whole: what is left of it is not believed alone.
    """
    if work >= active_ratio:
        return "unknown" if utilization == "idle" else "active"
    if utilization == "idle":
        return "idle"
    resident = share_of(reading, _GRAPHICS_ACTIVE)
    return "idle" if resident is not None and resident >= active_ratio else "unknown"


def _works_otherwise(reading: Reading, active_ratio: float) -> bool:
    """Whether a GPU whose multiprocessors seem idle does other work, or draws what no idle board does."""
    values = reading.values
    if any(values.get(engine, 0.0) >= active_ratio for engine in _ENGINES):
        return True
    power, limit = values.get(_POWER), values.get(_POWER_LIMIT)
    return power is not None and limit is not None and power >= _AT_LIMIT * limit
