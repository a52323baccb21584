"""What an administrator has set."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.plausible import FLAG
from gpu_exporter.catalog.row import ON_OFF, Call, Constant, Dcgm, Metric, Smi, row

gauge: Final = partial(row, "gauge", "modes")

ROWS: Final[tuple[Metric, ...]] = (
    gauge(
        "gpu_mig_mode_enabled",
        "1 where the GPU is partitioned (MIG).",
        unitless=True,
        plausible=FLAG,
        nvml=Call("nvmlDeviceGetMigMode", part=(0,)),
        smi=Smi("mig.mode.current", words=ON_OFF),
        dcgm=Dcgm(67, "DCGM_FI_DEV_MIG_MODE"),
        fake="mig_mode",
    ),
    gauge(
        "gpu_persistence_mode_enabled",
        "1 where the driver stays loaded while nobody uses the GPU.",
        unitless=True,
        plausible=FLAG,
        nvml=Call("nvmlDeviceGetPersistenceMode"),
        smi=Smi("persistence_mode", words=ON_OFF),
        dcgm=Dcgm(66, "DCGM_FI_DEV_PERSISTENCE_MODE"),
        fake=Constant(1.0),
    ),
    gauge(
        "gpu_compute_mode",
        "Who may use the GPU: 0 default, 2 prohibited, 3 one process only.",
        unitless=True,
        plausible=(0.0, 3.0),
        nvml=Call("nvmlDeviceGetComputeMode"),
        smi=Smi("compute_mode", words=(("Default", 0.0), ("Prohibited", 2.0), ("Exclusive_Process", 3.0))),
        dcgm=Dcgm(65, "DCGM_FI_DEV_COMPUTE_MODE"),
        fake=Constant(0.0),
    ),
)
