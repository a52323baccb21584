"""Power draw, its limits, and energy."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.plausible import FLAG
from gpu_exporter.catalog.row import MILLI, Board, Call, Dcgm, Field, Kernel, Metric, Samples, Smi, row

gauge: Final = partial(row, "gauge", "power")
counter: Final = partial(row, "counter", "power")

SUSPENDED: Final = gauge(
    "gpu_suspended",
    "1 while the kernel has the GPU asleep (runtime power management): it is not woken to be asked, and nothing else "
    "is told of it; 0 while it is awake, absent where the kernel does not tell.",
    unitless=True,
    plausible=FLAG,
    nvml=Kernel("power/runtime_status"),
    fake_absent="no simulated board sleeps",
)

ROWS: Final[tuple[Metric, ...]] = (
    SUSPENDED,
    gauge(
        "gpu_power_watts",
        "Power draw of the board at this moment (on old devices and drivers: over the last second).",
        nvml=(Field("NVML_FI_DEV_POWER_INSTANT", scale=MILLI), Call("nvmlDeviceGetPowerUsage", scale=MILLI)),
        smi=Smi("power.draw.instant", others=("power.draw",)),
        dcgm=Dcgm(157, "DCGM_FI_DEV_POWER_USAGE_INSTANT", others=(155,)),
        fake="power",
    ),
    gauge(
        "gpu_power_average_watts",
        "Power draw of the board averaged over the last second.",
        nvml=Field("NVML_FI_DEV_POWER_AVERAGE", scale=MILLI),
        smi=Smi("power.draw.average"),
        dcgm=Dcgm(155, "DCGM_FI_DEV_POWER_USAGE"),
        fake="power_average",
    ),
    gauge(
        "gpu_power_limit_watts",
        "Power limit in force, the lowest of all that apply.",
        nvml=Call("nvmlDeviceGetEnforcedPowerLimit", scale=MILLI),
        smi=Smi("enforced.power.limit"),
        dcgm=Dcgm(164, "DCGM_FI_DEV_ENFORCED_POWER_LIMIT"),
        fake="power_limit",
    ),
    gauge(
        "gpu_power_default_limit_watts",
        "Power limit that the board starts with.",
        nvml=Call("nvmlDeviceGetPowerManagementDefaultLimit", scale=MILLI),
        smi=Smi("power.default_limit"),
        dcgm=Dcgm(163, "DCGM_FI_DEV_POWER_MGMT_LIMIT_DEF"),
        fake=Board("power"),
    ),
    gauge(
        "gpu_power_min_limit_watts",
        "Lowest power limit that can be set.",
        nvml=Call("nvmlDeviceGetPowerManagementLimitConstraints", part=(0,), scale=MILLI),
        smi=Smi("power.min_limit"),
        dcgm=Dcgm(161, "DCGM_FI_DEV_POWER_MGMT_LIMIT_MIN"),
        fake=Board("power_min"),
    ),
    gauge(
        "gpu_power_max_limit_watts",
        "Highest power limit that can be set.",
        nvml=Call("nvmlDeviceGetPowerManagementLimitConstraints", part=(1,), scale=MILLI),
        smi=Smi("power.max_limit"),
        dcgm=Dcgm(162, "DCGM_FI_DEV_POWER_MGMT_LIMIT_MAX"),
        fake=Board("power_max"),
    ),
    counter(
        "gpu_energy_joules_total",
        "Energy drawn: the driver's counter (Volta and newer), else integrated from its power samples, whose buffer "
        "holds 2.4 s, and over the rest of the time from gpu_power_watts.",
        nvml=(
            Field("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", scale=MILLI),
            Call("nvmlDeviceGetTotalEnergyConsumption", scale=MILLI),
            Samples("NVML_TOTAL_POWER_SAMPLES", MILLI),
        ),
        dcgm=Dcgm(156, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", MILLI),
        integral_of="gpu_power_watts",
        fake="energy",
    ),
)
