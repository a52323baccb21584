"""Whether a GPU answers, and what its driver says is wrong with it."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.plausible import FLAG
from gpu_exporter.catalog.row import Dcgm, Field, Metric, Smi, row

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
# Events of NVML that are no XIDs: the bit that they are registered by, and what they say.
EVENTS: Final = {
    "ecc_storm": ("nvmlEventTypeSingleBitEccErrorStorm", "many corrected memory errors"),
    "dram_retirement": ("nvmlEventTypeDramRetirementEvent", "memory was marked to be taken out of use"),
    "dram_retirement_failure": ("nvmlEventTypeDramRetirementFailure", "memory could not be taken out of use"),
    "poison": ("nvmlEventTypeNonFatalPoisonError", "corrupt data were used, one application ends"),
    "fatal_poison": ("nvmlEventTypeFatalPoisonError", "corrupt data were used, the GPU cannot go on"),
    "gpu_unavailable": ("nvmlEventTypeGpuUnavailableError", "the GPU is lost"),
    "recovery_action": ("nvmlEventTypeGpuRecoveryAction", "the recovery action changed"),
    "mig_change": ("nvmlEventMigConfigChange", "MIG devices were made or destroyed"),
}
EVENTS_TOTAL: Final = counter(
    "gpu_events_total",
    "Events that the driver told since the exporter started, by kind: "
    + "; ".join(f"{each} {says}" for each, (_, says) in EVENTS.items())
    + ". Kinds that it cannot tell of this GPU are absent.",
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
)
