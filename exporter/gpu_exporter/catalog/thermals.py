"""Temperatures, the device's own limits of them, and fans."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.row import PERCENT, Board, Call, Dcgm, Fans, Field, Limit, Metric, Smi, row

gauge: Final = partial(row, "gauge", "thermals")

_LIMITS: Final[dict[str, tuple[str, tuple[Limit, ...]]]] = {  # label: suffix of the threshold, the margin before it
    "slowdown": ("SLOWDOWN", (Limit("NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT"),)),
    "shutdown": ("SHUTDOWN", (Limit("NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT"),)),
    "max_operating": ("GPU_MAX", (Limit("NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT"),)),
    # The memory's margin is counted from the core's temperature: it says nothing in degrees.
    "memory_max": ("MEM_MAX", ()),
}
_DCGM_LIMITS: Final = {
    "slowdown": Dcgm(158, "DCGM_FI_DEV_SLOWDOWN_TEMP"),
    "shutdown": Dcgm(159, "DCGM_FI_DEV_SHUTDOWN_TEMP"),
    "max_operating": Dcgm(152, "DCGM_FI_DEV_GPU_MAX_OP_TEMP"),
    "memory_max": Dcgm(151, "DCGM_FI_DEV_MEM_MAX_OP_TEMP"),
}

ROWS: Final[tuple[Metric, ...]] = (
    gauge(
        "gpu_temperature_celsius",
        "Temperature of the GPU core.",
        nvml=(
            Call("nvmlDeviceGetTemperatureV", ("NVML_TEMPERATURE_GPU",)),
            Call("nvmlDeviceGetTemperature", ("NVML_TEMPERATURE_GPU",)),
        ),
        smi=Smi("temperature.gpu"),
        dcgm=Dcgm(150, "DCGM_FI_DEV_GPU_TEMP"),
        fake="temperature",
    ),
    gauge(
        "gpu_memory_temperature_celsius",
        "Temperature of the device memory (HBM; on some GDDR boards as well).",
        nvml=Field("NVML_FI_DEV_MEMORY_TEMP"),
        smi=Smi("temperature.memory"),
        dcgm=Dcgm(140, "DCGM_FI_DEV_MEMORY_TEMP"),
        fake="memory_temperature",
    ),
    *(
        gauge(
            "gpu_temperature_limit_celsius",
            "The device's own limits: where it slows down, shuts down, and the highest it should run at.",
            labels={"limit": limit},
            nvml=(
                Call("nvmlDeviceGetTemperatureThreshold", (f"NVML_TEMPERATURE_THRESHOLD_{suffix}",)),
                *margin,
            ),
            dcgm=_DCGM_LIMITS[limit],
            fake=Board(limit),
        )
        for limit, (suffix, margin) in _LIMITS.items()
    ),
    gauge(
        "gpu_fan_speed_ratio",
        "Intended fan speed as a share of the maximum; a blocked fan still tells the intended speed.",
        dynamic=("fan",),
        plausible=(0.0, 1.2),  # nvml.h, nvmlDeviceGetFanSpeed_v2: "may exceed 100% in certain cases"
        nvml=Fans(),
        smi=Smi("fan.speed", PERCENT),
        dcgm=Dcgm(191, "DCGM_FI_DEV_FAN_SPEED", PERCENT),
        fake="fan_speeds",
    ),
)
