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
    "XID events of the GPU since the exporter started (NVML event set); appears with the first event.",
    dynamic=("xid",),
)
XID_LAST: Final = gauge(
    "gpu_xid_last_timestamp_seconds",
    "Unix time of the latest XID event of that number; appears with the first event.",
    dynamic=("xid",),
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
            words=(("None", 0.0), ("Reset", 1.0), ("Reboot", 2.0), ("Drain P2P", 3.0), ("Drain and Reset", 4.0)),
        ),
        dcgm=Dcgm(1523, "DCGM_FI_DEV_GPU_RECOVERY_ACTION"),
        fake="recovery_action",
    ),
    XID_ERRORS,
    XID_LAST,
)
