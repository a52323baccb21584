"""Whether a GPU answers, and what its driver says is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from gpu_exporter.catalog.plausible import FLAG
from gpu_exporter.catalog.row import Dcgm, Field, Metric, Smi, row
from gpu_exporter.catalog.xids import Severity

gauge: Final = partial(row, "gauge", "health")
counter: Final = partial(row, "counter", "health")

GPU_UP: Final = gauge(
    "gpu_up",
    "1 where the GPU answered the last reading, 0 where it is lost, hung or refuses; see gpu_read_errors_total.",
    unitless=True,
    plausible=FLAG,
)
READ_ERRORS: Final = {
    reason: counter(
        "gpu_read_errors_total",
        "Readings of the GPU that failed, by what its driver answered; partial: it is up, but most calls failed.",
        labels={"reason": reason},
    )
    for reason in ("lost", "timeout", "reset_required", "permission", "unknown", "partial")
}
XID_ERRORS: Final = counter(
    "gpu_xid_errors_total",
    "XID events of the GPU since the exporter started, and since the boot where the kernel log can be read; what both "
    "tell counts once. Appears with the first event.",
    dynamic=("xid",),
)
XID_LAST: Final = gauge(
    "gpu_xid_last_timestamp_seconds",
    "Unix time of the latest XID event of that number; appears with the first event.",
    dynamic=("xid",),
)


@dataclass(frozen=True, slots=True)
class EventKind:
    """An event of NVML that is no XID: the bit that it is registered by, what it says, and what to do.

    ``severity`` is that of its alert; the rules and docs/runbooks/XID.md derive from it (``make docs``).
    """

    bit: str
    says: str
    severity: Severity
    do: str


# The XIDs that come with most of them, and their severities, are those of NVIDIA's catalogue.
EVENTS: Final = {
    "ecc_storm": EventKind(
        "nvmlEventTypeSingleBitEccErrorStorm",
        "many corrected memory errors",
        "warning",
        "As for XID 92 in such numbers ([GPUEccCorrectedStorm](GPUEccCorrectedStorm.md))",
    ),
    "dram_retirement": EventKind(
        "nvmlEventTypeDramRetirementEvent",
        "memory was marked to be taken out of use",
        "none",
        "As for XID 63: `gpu_row_remap_pending` and `gpu_row_remap_banks` tell what is left",
    ),
    "dram_retirement_failure": EventKind(
        "nvmlEventTypeDramRetirementFailure",
        "memory could not be taken out of use",
        "critical",
        "As for XID 64 ([GPURowRemapFailure](GPURowRemapFailure.md))",
    ),
    "poison": EventKind(
        "nvmlEventTypeNonFatalPoisonError",
        "corrupt data were used, one application ends",
        "warning",
        "As for XID 94: restart the application",
    ),
    "fatal_poison": EventKind(
        "nvmlEventTypeFatalPoisonError",
        "corrupt data were used, the GPU cannot go on",
        "critical",
        "As for XID 95: reset the GPU, all that ran there is suspect",
    ),
    "gpu_unavailable": EventKind(
        "nvmlEventTypeGpuUnavailableError",
        "the GPU is lost",
        "critical",
        "As for XID 79 and 119 ([GPULost](GPULost.md))",
    ),
    "recovery_action": EventKind(
        "nvmlEventTypeGpuRecoveryAction",
        "the recovery action changed",
        "none",
        "`gpu_recovery_action` tells which it is ([GPURecoveryActionRequired](GPURecoveryActionRequired.md))",
    ),
    "mig_change": EventKind("nvmlEventMigConfigChange", "MIG devices were made or destroyed", "none", "Nothing"),
}
EVENTS_TOTAL: Final = counter(
    "gpu_events_total",
    "Events that the driver told since the exporter started, by kind: "
    + "; ".join(f"{name} {each.says}" for name, each in EVENTS.items())
    + ". Kinds that it cannot tell of this GPU are absent.",
    dynamic=("event",),
)
EVENT_LAST: Final = gauge(
    "gpu_event_last_timestamp_seconds",
    "Unix time of the latest event of that kind; appears with the first event.",
    dynamic=("event",),
)
ROWS: Final[tuple[Metric, ...]] = (
    GPU_UP,
    *READ_ERRORS.values(),
    gauge(
        "gpu_recovery_action",
        "What the driver asks for: 0 nothing, 1 GPU reset, 2 node reboot, 3 drain P2P, 4 drain and reset, "
        "5 recover the IMEX domain, 6 bus reset, 7 system reboot.",
        unitless=True,
        plausible=(0.0, 7.0),
        nvml=Field("NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"),
        smi=Smi(
            "gpu_recovery_action",
            words=(
                ("None", 0.0),
                ("Reset", 1.0),
                ("Reboot", 2.0),
                ("Drain P2P", 3.0),
                ("Drain and Reset", 4.0),
                ("Recover IMEX Domain", 5.0),
                ("IMEX Domain Recovery", 5.0),
                ("Bus Reset", 6.0),
                ("System Reboot", 7.0),
            ),
        ),
        dcgm=Dcgm(1523, "DCGM_FI_DEV_GPU_RECOVERY_ACTION"),
        fake="recovery_action",
    ),
    XID_ERRORS,
    XID_LAST,
    EVENTS_TOTAL,
    EVENT_LAST,
)
