"""Which GPU and which driver it is."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.row import Metric, row

info: Final = partial(row, "info", "identity")

GPU_INFO: Final = info(
    "gpu_info",
    "Identity of the GPU, kept while it does not answer; always 1. Where the platform tells: the NVLink fabric's "
    "cluster and clique, and the place in the rack.",
    info=(
        *("architecture", "brand", "pci_bus_id", "serial", "vbios_version"),
        *("cluster_uuid", "clique", "chassis", "slot", "tray", "host", "module"),
    ),
)
DRIVER_INFO: Final = info(
    "gpu_driver_info",
    "Versions of the driver, of the CUDA it supports and of NVML; always 1.",
    own="driver",
    info=("driver_version", "cuda_version", "nvml_version"),
)
ROWS: Final[tuple[Metric, ...]] = (GPU_INFO, DRIVER_INFO)
