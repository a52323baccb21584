"""Processes on a GPU."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.owner_kinds import PROCESS_LABELS
from gpu_exporter.catalog.row import Metric, Processes, row

gauge: Final = partial(row, "gauge", "processes")

PROCESSES: Final = {
    kind: gauge(
        "gpu_processes",
        "Processes on the GPU, by what they asked of it; clients of MPS compute, and some are in both.",
        unitless=True,
        labels={"type": kind},
        nvml=Processes(call),
    )
    for kind, call in (
        ("compute", "nvmlDeviceGetComputeRunningProcesses_v3"),
        ("graphics", "nvmlDeviceGetGraphicsRunningProcesses_v3"),
    )
}
PROCESSES_DROPPED: Final = gauge(
    "gpu_processes_dropped",
    "Processes beyond processes.max, which have no series of their own.",
    unitless=True,
    nvml=Processes("nvmlDeviceGetComputeRunningProcesses_v3"),
)
# In MIG mode a process has the label mig_uuid as well. A label whose value is not known is left out.
PROCESS_MEMORY: Final = gauge(
    "gpu_process_memory_used_bytes",
    "Device memory that the process has allocated; absent where the driver does not tell (Windows, WSL).",
    dynamic=(*PROCESS_LABELS, "mig_uuid"),
    nvml=Processes("nvmlDeviceGetComputeRunningProcesses_v3"),
)
PROCESS_UTILIZATION: Final = gauge(
    "gpu_process_utilization_ratio",
    "Share of the multiprocessors' time that the process took, 0 to 1, in the driver's latest sample of it; absent "
    "while there is none, as of a process that idles, and in MIG mode.",
    dynamic=(*PROCESS_LABELS, "mig_uuid"),
    nvml=Processes("nvmlDeviceGetProcessUtilization"),
)
ROWS: Final[tuple[Metric, ...]] = (*PROCESSES.values(), PROCESSES_DROPPED, PROCESS_MEMORY, PROCESS_UTILIZATION)
