"""What the faults of NVSwitches (SXids) are, and how bad: one table, from which rules and docs/runbooks/XID.md derive.

Numbers, names and classes are those of NVIDIA's fabric manager user guide, "NVSwitch SXid errors" (DU-09883-001): not
fatal, fatal, always fatal, other notable ones. No number is told of a GPU: an NVSwitch has its own PCI address.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gpu_exporter.catalog.xids import Severity


@dataclass(frozen=True, slots=True)
class SxidClass:
    """Numbers that mean alike, and what to do about them."""

    means: str
    do: str
    severity: Severity
    numbers: tuple[int, ...]


SXID_CLASSES: Final = (
    SxidClass(
        "Fatal to the whole fabric of the machine",
        "Drain the machine and restart it: GPUs and NVSwitches are reset together. Again: replace the baseboard",
        "critical",
        (10001, 10002, 10003, 12020, 22003, 22011, *range(23001, 23018)),
    ),
    SxidClass(
        "Fatal to a port: the GPUs behind it lose NVLink, and mostly report XID 74",
        "Drain the machine, reset all GPUs of the baseboard together or restart it. Again on the same port: replace "
        "the GPU or the baseboard",
        "critical",
        (
            *(11001, 11009, 11013, 11018, 11019, 11020, 12001, 12002, 12022, 12024, 12025, 12026, 12027, 12030, 12031),
            *(12032, 14017, 15001, 15006, 15009, 15010, 15012, 15013, 19047, 19048, 19054, 19056, 19058, 19060, 19061),
            *(19063, 19064, 19066, 19067, 19069, 19070, 20034, 24004, 24005, 24006, 24007),
        ),
    ),
    SxidClass(
        "A connection that is broken or slow, or traffic that stalls",
        "Look at the GPUs of that machine for XIDs and at `nvidia-smi nvlink -e`; drain it where jobs hang",
        "warning",
        (10004, 11004, 12028, 19084, 20001, 20009, 20012, 22012),
    ),
    SxidClass(
        "Corrected, or over",
        "Nothing",
        "none",
        (
            *(10005, 11012, 11021, 11022, 11023, 12021, 12023, 15008, 15011, 19049, 19055, 19057, 19059, 19062),
            *(19065, 19068, 19071, 22013, 24001, 24002, 24003),
        ),
    ),
)


def sxids(severity: Severity) -> Iterator[int]:
    """The numbers of one severity; those that no class has are warnings as well."""
    yield from sorted(number for each in SXID_CLASSES if each.severity == severity for number in each.numbers)
