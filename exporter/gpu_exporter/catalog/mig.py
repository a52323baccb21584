"""The parts of a partitioned GPU: its MIG devices."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.row import Metric, Mig, row

info: Final = partial(row, "info", "MIG")
gauge: Final = partial(row, "gauge", "MIG")

MIG_INFO: Final = info(
    "gpu_mig_info",
    "Identity of each MIG device of the GPU: its instances, and what NVIDIA calls its size (1g.10gb); always 1.",
    dynamic=("mig_uuid", "gpu_instance_id", "compute_instance_id", "profile"),
    nvml=Mig("nvmlDeviceGetMigDeviceHandleByIndex"),
    fake="mig_info",
)
MIG_MEMORY_TOTAL: Final = gauge(
    "gpu_mig_memory_total_bytes",
    "Memory of the MIG device; compute instances of one GPU instance share it, and each tells all of it.",
    dynamic=("mig_uuid",),
    plausible=(2.0**24, 2.0**46),
    nvml=Mig("nvmlDeviceGetMemoryInfo"),
    fake="mig_memory_total",
)
MIG_MEMORY_USED: Final = gauge(
    "gpu_mig_memory_used_bytes",
    "Memory of the MIG device that processes have allocated.",
    dynamic=("mig_uuid",),
    nvml=Mig("nvmlDeviceGetMemoryInfo"),
    fake="mig_memory_used",
)
MIG_SM_ACTIVE: Final = gauge(
    "gpu_mig_sm_active_ratio",
    "As gpu_sm_active_ratio, of the multiprocessors of the GPU instance (Hopper and newer); compute instances of one "
    "GPU instance tell the same.",
    dynamic=("mig_uuid",),
    nvml=Mig("NVML_GPM_METRIC_SM_UTIL"),
    fake="mig_sm_active",
)
MIG_TENSOR_ACTIVE: Final = gauge(
    "gpu_mig_tensor_active_ratio",
    "As gpu_tensor_active_ratio, of the GPU instance.",
    dynamic=("mig_uuid",),
    nvml=Mig("NVML_GPM_METRIC_ANY_TENSOR_UTIL"),
    fake="mig_tensor_active",
)
MIG_DRAM_ACTIVE: Final = gauge(
    "gpu_mig_dram_active_ratio",
    "As gpu_dram_active_ratio, of the GPU instance.",
    dynamic=("mig_uuid",),
    nvml=Mig("NVML_GPM_METRIC_DRAM_BW_UTIL"),
    fake="mig_dram_active",
)
ROWS: Final[tuple[Metric, ...]] = (
    MIG_INFO,
    MIG_MEMORY_TOTAL,
    MIG_MEMORY_USED,
    MIG_SM_ACTIVE,
    MIG_TENSOR_ACTIVE,
    MIG_DRAM_ACTIVE,
)
