"""THE XID policy: one row a number, with what happened, what to do, and how bad it is. Pure data.

The lists in the alert rules, docs/runbooks/XID.md, the dashboards' table and ``gpu-exporter check`` derive from it
(``make docs``). Sources: NVIDIA's XID catalogue (https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html),
nverror.h of open-gpu-kernel-modules 595 for 173 to 176, and the operational events of R620 for 177 and 185. Where the
driver tells a recovery action (gpu_recovery_action), that is its own verdict and wins over a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

Severity: TypeAlias = Literal["critical", "warning", "none"]


@dataclass(frozen=True, slots=True)
class XidClass:
    """What XIDs of one class have in common; ``action`` is its name: what to do, in a few words."""

    action: str
    means: str
    do: str


RESTART_MACHINE: Final = XidClass(
    "restart the machine",
    "The GPU is gone from the bus, or the bus did not answer",
    "Drain, power-cycle. Again: power cables, riser, slot, then the board ([GPULost](GPULost.md))",
)
RESET_GPU: Final = XidClass(
    "reset the GPU",
    "The GPU or its firmware cannot go on; its applications are lost",
    "Drain, end everything on it, `nvidia-smi --gpu-reset -i <gpu>` (all GPUs of an NVSwitch board together) or "
    "reboot. Save `nvidia-bug-report.sh` before. Again within weeks: replace it",
)
MEMORY_ERROR: Final = XidClass(
    "double-bit error",
    "Uncorrectable memory error",
    "With 63 or a contained error (94): restart the application, reset at the next window. Alone, or with 64 or 95: "
    "reset now ([GPUEccUncorrected](GPUEccUncorrected.md)). In SRAM (172) NVIDIA's threshold decides about a "
    "replacement ([GPUSramThresholdExceeded](GPUSramThresholdExceeded.md))",
)
REPLACE: Final = XidClass(
    "replace the GPU",
    "A faulty part could not be taken out of use, or is worn out",
    "Take it out of use, save `nvidia-bug-report.sh`, ask for a replacement "
    "([GPURowRemapFailure](GPURowRemapFailure.md)); a reset does not help",
)
NVLINK: Final = XidClass(
    "NVLink",
    "Errors on a link",
    "Look at `nvidia-smi nvlink -e`; reset the GPUs when the driver asks for it (154, "
    "[GPURecoveryActionRequired](GPURecoveryActionRequired.md)); again: bridge, module or cable",
)
MECHANICS: Final = XidClass(
    "mechanics",
    "A power plug is missing or loose",
    "Switch the machine off, check the auxiliary power cables",
)
UNDO_HARDWARE: Final = XidClass(
    "undo hardware changes",
    "The GPU's security processor found something that must not be",
    "Undo recent hardware changes, power the machine off and on; again: open a case",
)
SUPPORT: Final = XidClass(
    "support", "NVIDIA wants to see it", "Save `nvidia-bug-report.sh`, drain and reset at the next window, open a case"
)
RESTART_VM: Final = XidClass(
    "restart the VM",
    "The VM's protected session with the GPU broke (confidential computing)",
    "Restart the VM",
)
UPDATE: Final = XidClass(
    "update software", "Driver, firmware or licence do not fit", "Bring host and guest drivers to versions that fit"
)
RESTART_APPLICATION: Final = XidClass(
    "restart the application",
    "The application did something wrong, or lost its context",
    "Restart it; again with the same program: a bug there (`compute-sanitizer`). Again with other programs on the same "
    "GPU: test the GPU ([GPUXidRepeatedAcrossOwners](GPUXidRepeatedAcrossOwners.md))",
)
NOTHING: Final = XidClass(
    "nothing",
    "Housekeeping, or the echo of another",
    "Nothing; look at the other XID, or at the metric that tells more",
)
CLASSES: Final = (
    RESTART_MACHINE,
    RESET_GPU,
    MEMORY_ERROR,
    REPLACE,
    NVLINK,
    MECHANICS,
    UNDO_HARDWARE,
    SUPPORT,
    RESTART_VM,
    UPDATE,
    RESTART_APPLICATION,
    NOTHING,
)

_NVLINK5: Final = "NVLink 5: Blackwell and newer"
_C2C: Final = "Grace Hopper, Grace Blackwell"
_NOT_BLACKWELL: Final = "not Blackwell"
_SMOOTHING: Final = "GB200, GB300"
_MIG_ERA: Final = "Ampere and newer"
_CONFIDENTIAL: Final = "confidential computing"


@dataclass(frozen=True, slots=True)
class XidPolicy:
    """One number. ``severity`` is that of its alert, ``applies`` which GPUs have it ("": all that are in use).

    ``by_word`` marks numbers of which the kernel log tells in a word (Fatal, Nonfatal) how bad one event is.
    """

    number: int
    what: str
    of: XidClass
    severity: Severity = "none"
    applies: str = ""
    by_word: bool = False


def _engines(engine: str, *numbers: int) -> Iterator[XidPolicy]:
    """Faults of one engine that end a single application."""
    for number in numbers:
        yield XidPolicy(number, f"{engine} fault", RESTART_APPLICATION)


_ROWS: Final = (
    XidPolicy(8, "GPU stopped processing (idle timeout)", RESTART_APPLICATION),
    XidPolicy(11, "Corrupt command stream", RESTART_APPLICATION),
    XidPolicy(13, "Graphics engine exception: mostly an access out of bounds in a kernel", RESTART_APPLICATION),
    XidPolicy(14, "Made by a diagnostic, no fault", NOTHING),
    XidPolicy(25, "Illegal command stream", RESTART_APPLICATION),
    XidPolicy(31, "Page fault in GPU memory: mostly a bad pointer in a kernel", RESTART_APPLICATION),
    XidPolicy(32, "Corrupt command stream (DMA)", RESTART_APPLICATION),
    XidPolicy(37, "Driver firmware error", NOTHING),
    XidPolicy(38, "Driver firmware error", NOTHING),
    *_engines("Copy engine", 39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136)),
    XidPolicy(43, "GPU stopped processing; the application's channel was reset", NOTHING),
    XidPolicy(44, "Fault during a context switch", NOTHING),
    XidPolicy(45, "An application was cleaned up after an earlier error, or ended by its user", NOTHING),
    XidPolicy(46, "GPU stopped processing (timeout)", RESET_GPU, "critical"),
    XidPolicy(48, "Double-bit ECC error", MEMORY_ERROR, "critical"),
    XidPolicy(54, "Auxiliary power is not connected", MECHANICS, "critical", _NOT_BLACKWELL),
    *(XidPolicy(number, "Display or old engine fault", NOTHING, applies="Volta and older") for number in range(56, 60)),
    *_engines("Video or security engine", 60),
    XidPolicy(61, "An internal micro-controller stopped", NOTHING, applies="Volta and older"),
    XidPolicy(62, "An internal micro-controller halted", RESET_GPU, "critical"),
    XidPolicy(63, "A memory row or page was marked for remapping", NOTHING),
    XidPolicy(64, "Remapping of a memory row or page failed", REPLACE, "critical"),
    XidPolicy(65, "Video engine fault", NOTHING, applies="Volta and older"),
    XidPolicy(66, "Illegal access by the driver", NOTHING),
    XidPolicy(67, "Illegal access by the driver", NOTHING),
    *_engines("Video decoder", 68, 83, 84, 88, 89, 96, 97, 98),
    XidPolicy(69, "Graphics engine class error", RESTART_APPLICATION),
    XidPolicy(73, "Video engine fault", NOTHING, applies="Volta and older"),
    XidPolicy(74, "NVLink error", NVLINK, "critical", _NOT_BLACKWELL),
    XidPolicy(78, "A virtual GPU could not be started", UPDATE),
    XidPolicy(79, "The GPU has fallen off the bus", RESTART_MACHINE, "critical"),
    XidPolicy(80, "Corrupt data were sent to the GPU", RESTART_APPLICATION, applies=_NOT_BLACKWELL),
    XidPolicy(81, "Display fault", NOTHING, applies="Volta and older"),
    *_engines("JPEG engine", 82, *range(99, 106)),
    *_engines("Optical flow engine", 86, 139),
    XidPolicy(90, "Display fault", NOTHING, applies="Volta and older"),
    XidPolicy(92, "Many single-bit errors", NOTHING),
    XidPolicy(93, "Wear limit of the InfoROM exceeded, not fatal", NOTHING),
    XidPolicy(94, "Contained memory error: one application was ended", RESTART_APPLICATION, "warning", _MIG_ERA),
    XidPolicy(
        95, "Uncontained memory error: every application on the GPU is suspect", RESET_GPU, "critical", _MIG_ERA
    ),
    XidPolicy(106, "Test message of the management controller", NOTHING),
    XidPolicy(107, "Test message of the management controller, silent", NOTHING),
    XidPolicy(108, "Translation error of another GPU's access over NVLink: the fault is told there", NOTHING),
    XidPolicy(109, "Timeout of a context switch", RESET_GPU, "critical"),
    XidPolicy(110, "Security fault", UNDO_HARDWARE, "critical"),
    XidPolicy(119, "The GPU's system processor (GSP) did not answer", RESET_GPU, "critical"),
    XidPolicy(120, "Error in the GPU's system processor (GSP)", RESET_GPU, "critical"),
    XidPolicy(121, "Error on the chip-to-chip link, corrected", NOTHING, applies=_C2C),
    *(
        XidPolicy(number, "Firmware flash or board controller message", NOTHING, applies="Volta and older")
        for number in range(122, 126)
    ),
    XidPolicy(136, "Training of a link failed", RESET_GPU, "critical", _NOT_BLACKWELL),
    XidPolicy(137, "NVLink privilege error: mostly the echo of a fault of another GPU's application", NOTHING),
    XidPolicy(138, "Deep learning accelerator fault", RESTART_APPLICATION, applies="Jetson, DRIVE"),
    XidPolicy(140, "ECC error that was not recovered", RESET_GPU, "critical"),
    XidPolicy(141, "CUDA fast path error", NOTHING),
    XidPolicy(142, "Encoder fault", SUPPORT, "warning", "GB200"),
    XidPolicy(143, "The GPU could not be initialized", RESET_GPU, "critical"),
    XidPolicy(144, "NVLink 5, SAW unit", NVLINK, "warning", _NVLINK5, by_word=True),
    XidPolicy(145, "NVLink 5, RLW unit: mostly the echo of a link's fault elsewhere", NVLINK, "warning", _NVLINK5,
              by_word=True),
    XidPolicy(146, "NVLink 5, TLW unit", NVLINK, "warning", _NVLINK5, by_word=True),
    XidPolicy(147, "NVLink 5, TREX unit", NVLINK, "warning", _NVLINK5, by_word=True),
    XidPolicy(148, "NVLink 5, NVLPW control", NVLINK, "warning", _NVLINK5, by_word=True),
    XidPolicy(149, "NVLink 5, NETIR unit: a link went down", RESET_GPU, "critical", _NVLINK5, by_word=True),
    XidPolicy(150, "NVLink 5, MSE unit", RESET_GPU, "critical", _NVLINK5, by_word=True),
    XidPolicy(151, "Key rotation failed", RESTART_VM, "critical", _CONFIDENTIAL),
    XidPolicy(152, "Deep learning accelerator: memory fault", NOTHING, applies="Jetson, DRIVE"),
    XidPolicy(153, "Deep learning accelerator: timeout", NOTHING, applies="Jetson, DRIVE"),
    XidPolicy(154, "The recovery action changed: [GPURecoveryActionRequired](GPURecoveryActionRequired.md) tells which",
              NOTHING),
    XidPolicy(155, "NVLink error defined by software: also where a link is taken down on purpose", NVLINK, "warning",
              _NVLINK5),
    XidPolicy(156, "A resource of the GPU was retired", RESET_GPU, "critical"),
    XidPolicy(157, "A resource of the GPU could not be retired: none is left", REPLACE, "warning"),
    XidPolicy(158, "Fatal timeout", RESET_GPU, "critical"),
    XidPolicy(159, "Bus error of the coherent link: look for the one that comes with it", NOTHING, applies=_C2C),
    XidPolicy(160, "A memory channel was retired: gpu_repair_pending tells of the reset", NOTHING),
    XidPolicy(161, "A memory channel could not be retired: none is left", REPLACE, "warning"),
    XidPolicy(162, "Power smoothing is engaged again: ends 163", NOTHING, applies=_SMOOTHING),
    XidPolicy(163, "Power smoothing is disengaged, until 162", NOTHING, applies=_SMOOTHING),
    XidPolicy(164, "Power smoothing: its circuit is nearly worn out", REPLACE, "warning", _SMOOTHING),
    XidPolicy(165, "Power smoothing: its circuit is worn out", REPLACE, "warning", _SMOOTHING),
    XidPolicy(166, "NVLink traffic before its encryption was set up", NOTHING, applies=_CONFIDENTIAL),
    XidPolicy(167, "PCIe: fatal timeout", RESTART_MACHINE, "critical"),
    XidPolicy(168, "Less memory than there should be: errors in the protected region, ECC may be off", SUPPORT,
              "warning"),
    XidPolicy(169, "The security micro-controller (SEC2) halted", RESET_GPU, "critical"),
    XidPolicy(170, "NVLink interrupt under encryption", NOTHING, applies=_CONFIDENTIAL),
    XidPolicy(171, "Detail of 48: the error was in DRAM", NOTHING),
    XidPolicy(172, "Detail of 48: the error was in SRAM", NOTHING),
    XidPolicy(173, "The chip-to-chip link failed", RESET_GPU, "critical", _C2C),
    XidPolicy(174, "A channel was reset silently, its application ended", NOTHING),
    XidPolicy(175, "Error of the memory subsystem", RESET_GPU, "critical"),
    XidPolicy(176, "PCIe errors, corrected: gpu_pcie_aer_errors_total counts them", NOTHING),
    XidPolicy(177, "A memory bank was remapped: gpu_row_remap_banks tells what is left", NOTHING),
    XidPolicy(185, "A spare part took over for a faulty one", NOTHING),
)  # fmt: skip

XIDS: Final[Mapping[int, XidPolicy]] = MappingProxyType(
    {row.number: row for row in sorted(_ROWS, key=lambda row: row.number)}
)
# Bad programs raise these, and bad cards: who held the GPU tells them apart.
OF_PROGRAMS: Final = (13, 31, 43)
# These only follow from another of the same GPU, and never are the cause.
ONLY_FOLLOW: Final = (45, 154)
# A link that goes down is told at its one end, and its echo at every GPU that talked over it.
CAUSE_IN_CLIQUE, ECHO_IN_CLIQUE = 149, 145


def severity_of(number: int, *, word: str = "") -> Severity:
    """How bad an XID is; a number that nobody has listed is a warning.

    ``word`` is what the kernel log says of this one event (Fatal, Nonfatal), where it says anything.
    """
    row = XIDS.get(number)
    if row is None:
        return "warning"
    if row.by_word and word:
        return "critical" if word.lower() == "fatal" else "warning"
    return row.severity


def numbers(severity: Severity) -> tuple[int, ...]:
    """The numbers of one severity, in order."""
    return tuple(number for number, row in XIDS.items() if row.severity == severity)
