"""From a snapshot to a verdict on each GPU and on the machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gpu_exporter.catalog.sxids import sxids
from gpu_exporter.model import Device, Failure, Reading, Reason, Snapshot
from gpu_exporter.pages.failures import WORDS
from gpu_exporter.verdict.criteria import CRITERIA, Told

Status: TypeAlias = Literal["healthy", "warning", "critical", "unknown"]

# Worst first: what is not known may be critical, so it never hides behind a warning.
_ORDER: Final[tuple[Status, ...]] = ("critical", "unknown", "warning", "healthy")
# As Nagios has them.
CODES: Final[dict[Status, int]] = {"healthy": 0, "warning": 1, "critical": 2, "unknown": 3}
# What fits a reason: pages/failures.py has the whole sentence.
_SHORT: Final[dict[Reason, str]] = {
    "lost": "lost",
    "timeout": "does not answer",
    "reset_required": "needs a reset",
    "permission": "no permission to read it",
    "unknown": "unknown driver error",
}
_FATAL: Final = frozenset(map(str, sxids("critical")))
_RUNBOOK: Final = "https://github.com/gpu-exporter/gpu-exporter/blob/main/docs/runbooks/{}.md"


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong. ``alert`` is the rule that says the same, empty where no rule does."""

    status: Status
    reason: str
    alert: str = ""
    advice: str = ""

    @property
    def runbook(self) -> str:
        """Where it says what to do; empty without an alert."""
        return _RUNBOOK.format(self.alert) if self.alert else ""


@dataclass(frozen=True, slots=True)
class GpuVerdict:
    """One GPU and what is wrong with it, worst first."""

    device: Device
    complaints: tuple[Complaint, ...] = ()

    @property
    def status(self) -> Status:
        """The worst of it."""
        return worst(complaint.status for complaint in self.complaints)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The machine: its GPUs, and ``complaints`` about the whole of it."""

    gpus: tuple[GpuVerdict, ...] = ()
    complaints: tuple[Complaint, ...] = ()
    source: str = ""
    simulated: bool = False
    driver_version: str = ""
    expected: int | None = None

    @property
    def status(self) -> Status:
        """The worst of the machine and all its GPUs."""
        return worst([*(complaint.status for complaint in self.complaints), *(gpu.status for gpu in self.gpus)])

    @property
    def reasons(self) -> tuple[tuple[Status, str], ...]:
        """Everything that is wrong, worst first, with the GPUs that it is about: what they share is told once.

        Of one status the worst of each GPU comes first, then what else it has.
        """
        told: dict[tuple[int, Status, str], list[int]] = {}
        for gpu in self.gpus:
            for rank, complaint in enumerate(gpu.complaints):
                told.setdefault((min(rank, 1), complaint.status, complaint.reason), []).append(gpu.device.index)
        reasons = [(complaint.status, complaint.reason) for complaint in self.complaints]
        for (_, status, reason), indices in sorted(told.items(), key=lambda item: item[0][0]):
            reasons.append((status, f"GPU {spans(indices)}: {reason}"))
        return tuple(sorted(reasons, key=lambda each: _ORDER.index(each[0])))


def spans(indices: Iterable[int]) -> str:
    """Indices as people write them: 0-3,7."""
    parts: list[list[int]] = []
    for index in sorted(set(indices)):
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of them; healthy where there is none."""
    return min(statuses, key=_ORDER.index, default="healthy")


def unknown(why: str) -> Verdict:
    """The verdict on a machine of which nothing could be read."""
    return Verdict(complaints=(Complaint("unknown", why),))


def judge(snapshot: Snapshot, trouble: str | None, *, expected: int | None, now: float) -> Verdict:
    """The verdict on one snapshot. ``trouble`` says why there is none, or none that is whole; ``now`` is Unix time."""
    gpus = tuple(_gpu(reading, snapshot, now) for reading in snapshot.readings)
    return Verdict(
        gpus=gpus,
        complaints=tuple(_machine(snapshot, trouble, expected)),
        source=snapshot.source,
        simulated=snapshot.simulated,
        driver_version=snapshot.driver.driver_version if snapshot.driver is not None else "",
        expected=expected,
    )


def _machine(snapshot: Snapshot, trouble: str | None, expected: int | None) -> Iterator[Complaint]:
    yield from _count(snapshot, trouble, expected)
    # A warning, as an XID of long ago: the log does not tell when the fabric was reset since.
    for (sxid, address), _ in sorted(snapshot.sxids.items()):
        if sxid in _FATAL:
            yield Complaint("warning", f"NVSwitch {address}: SXid {sxid}, and no reboot since")


def _count(snapshot: Snapshot, trouble: str | None, expected: int | None) -> Iterator[Complaint]:
    """Where the driver cannot be asked it is not known how many there are: fewer than expected is of those it lists."""
    found = snapshot.gpus_found
    if expected == 0 and not found:
        return
    if snapshot.driver is None and not found:
        yield Complaint("unknown", trouble or "the driver does not answer")
    elif expected is not None and found < expected:
        yield Complaint("critical", f"{found} of {expected} GPUs found", "GPUMissing")
    elif not found:
        yield Complaint("unknown", trouble or "the driver lists no GPU")


def _gpu(reading: Reading, snapshot: Snapshot, now: float) -> GpuVerdict:
    # Of a GPU that does not answer nothing is told but its XIDs, which may say why.
    complaints = [] if reading.failure is None else [_failed(reading, reading.failure, snapshot)]
    told = Told(reading, now)
    complaints += [
        Complaint(criterion.severity, words, criterion.alert)
        for criterion in CRITERIA
        for words in criterion.words(told)
    ]
    return GpuVerdict(reading.device, tuple(sorted(complaints, key=lambda each: _ORDER.index(each.status))))


def _failed(reading: Reading, failure: Failure, snapshot: Snapshot) -> Complaint:
    """A GPU that does not answer is lost, unless it is not the GPU: no permission, or a driver that hangs for all."""
    words = WORDS[failure.reason]
    advice = words.advice.format(gpu=reading.device.index)
    if failure.reason == "permission":
        return Complaint("unknown", _SHORT[failure.reason], "", advice)
    if failure.reason == "timeout" and all(
        each.failure is not None and each.failure.reason == "timeout" for each in snapshot.readings
    ):
        return Complaint("unknown", "the driver hangs", "GPUCollectionFailing", advice)
    return Complaint("critical", _SHORT[failure.reason], "GPULost", advice)
