"""Clocks, performance states, and what holds the clocks down."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.plausible import FLAG
from gpu_exporter.catalog.row import (
    ACTIVE,
    MHZ,
    MICRO,
    NANO,
    Board,
    Call,
    Constant,
    Dcgm,
    Fake,
    Field,
    Metric,
    Smi,
    row,
)

gauge: Final = partial(row, "gauge", "clocks")
counter: Final = partial(row, "counter", "clocks")

_CLOCKS: Final = {  # label: suffix of the domain, the simulated board's highest
    "sm": ("SM", "sm"),
    "graphics": ("GRAPHICS", "sm"),
    "memory": ("MEM", "memory_clock"),
    "video": ("VIDEO", "video"),
}
_REASONS: Final = {  # label, which is nvidia-smi's name as well: bit of the mask, from the lowest on
    "gpu_idle": "GpuIdle",
    "applications_clocks_setting": "ApplicationsClocksSetting",
    "sw_power_cap": "SwPowerCap",
    "hw_slowdown": "HwSlowdown",
    "sync_boost": "SyncBoost",
    "sw_thermal_slowdown": "SwThermalSlowdown",
    "hw_thermal_slowdown": "HwThermalSlowdown",
    "hw_power_brake_slowdown": "HwPowerBrakeSlowdown",
    "display_clock_setting": "DisplayClockSetting",
}


def _renumbered(name: str, now: int, before: int) -> Field:
    """Drivers before 580 number these 251 to 253; an H200 of 580.159 answers 269 to 271, and nothing for the others."""
    return Field(f"NVML_FI_DEV_CLOCKS_EVENT_REASON_{name}", scale=NANO, renumbered=((580, now), (575, before)))


def _smi_reason(reason: str) -> Smi:
    """Older drivers know the reasons by their older name only."""
    return Smi(f"clocks_event_reasons.{reason}", words=ACTIVE, others=(f"clocks_throttle_reasons.{reason}",))


def _simulated(quantity: str, reason: str) -> Fake:
    """What holds the clocks of the simulated GPUs down is heat, power and idleness."""
    never = reason in {"applications_clocks_setting", "sync_boost", "display_clock_setting"}
    return Constant(0.0) if never else f"{quantity}_{reason}"


_REASON_COUNTERS: Final[dict[str, tuple[Field, ...]]] = {
    "sw_power_cap": (Field("NVML_FI_DEV_PERF_POLICY_POWER", scale=NANO),),
    "hw_slowdown": (),
    "sync_boost": (Field("NVML_FI_DEV_PERF_POLICY_SYNC_BOOST", scale=NANO),),
    "sw_thermal_slowdown": (_renumbered("SW_THERM_SLOWDOWN", 269, 251),),
    "hw_thermal_slowdown": (_renumbered("HW_THERM_SLOWDOWN", 270, 252),),
    "hw_power_brake_slowdown": (_renumbered("HW_POWER_BRAKE_SLOWDOWN", 271, 253),),
}
_DCGM_CLOCKS: Final = {
    "sm": Dcgm(100, "DCGM_FI_DEV_SM_CLOCK", MHZ),
    "memory": Dcgm(101, "DCGM_FI_DEV_MEM_CLOCK", MHZ),
    "video": Dcgm(102, "DCGM_FI_DEV_VIDEO_CLOCK", MHZ),
}
_DCGM_MAX_CLOCKS: Final = {
    "sm": Dcgm(113, "DCGM_FI_DEV_MAX_SM_CLOCK", MHZ),
    "memory": Dcgm(114, "DCGM_FI_DEV_MAX_MEM_CLOCK", MHZ),
    "video": Dcgm(115, "DCGM_FI_DEV_MAX_VIDEO_CLOCK", MHZ),
}
_DCGM_REASON_COUNTERS: Final = {
    "sw_power_cap": Dcgm(1420, "DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP_NS", NANO),
    "sync_boost": Dcgm(1421, "DCGM_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST_NS", NANO),
    "sw_thermal_slowdown": Dcgm(1422, "DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS", NANO),
    "hw_thermal_slowdown": Dcgm(1423, "DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS", NANO),
    "hw_power_brake_slowdown": Dcgm(1424, "DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS", NANO),
}

CLOCK_EVENTS: Final = {
    reason: gauge(
        "gpu_clock_event_active",
        "1 while this reason holds the clocks below what they could be.",
        unitless=True,
        plausible=FLAG,
        labels={"reason": reason},
        nvml=(
            Call("nvmlDeviceGetCurrentClocksEventReasons", bit=f"nvmlClocksEventReason{bit}"),
            Call("nvmlDeviceGetCurrentClocksThrottleReasons", bit=f"nvmlClocksThrottleReason{bit}"),
        ),
        smi=_smi_reason(reason) if reason != "display_clock_setting" else None,
        dcgm=Dcgm(112, "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", bit=1 << place),
        fake=_simulated("reason", reason),
    )
    for place, (reason, bit) in enumerate(_REASONS.items())
}
ROWS: Final[tuple[Metric, ...]] = (
    *(
        gauge(
            "gpu_clock_hertz",
            "Clock at this moment.",
            labels={"clock": clock},
            nvml=Call("nvmlDeviceGetClockInfo", (f"NVML_CLOCK_{domain}",), scale=MHZ),
            smi=Smi(f"clocks.current.{clock}", MHZ),
            dcgm=_DCGM_CLOCKS.get(clock),
            fake=f"clock_{clock}",
        )
        for clock, (domain, _) in _CLOCKS.items()
    ),
    *(
        gauge(
            "gpu_clock_max_hertz",
            "Highest clock that the device can run at.",
            plausible=(1e6, 3e10),
            labels={"clock": clock},
            nvml=Call("nvmlDeviceGetMaxClockInfo", (f"NVML_CLOCK_{domain}",), scale=MHZ),
            smi=Smi(f"clocks.max.{clock}", MHZ) if clock != "video" else None,
            dcgm=_DCGM_MAX_CLOCKS.get(clock),
            fake=Board(highest, MHZ),
        )
        for clock, (domain, highest) in _CLOCKS.items()
    ),
    gauge(
        "gpu_performance_state",
        "Performance state: 0 is the fastest, 15 the slowest (P0 to P15).",
        unitless=True,
        plausible=(0.0, 15.0),
        nvml=Call("nvmlDeviceGetPerformanceState", absent=(32.0,)),
        smi=Smi("pstate", words=tuple((f"P{state}", float(state)) for state in range(16))),
        dcgm=Dcgm(190, "DCGM_FI_DEV_PSTATE"),
        fake="performance_state",
    ),
    *CLOCK_EVENTS.values(),
    *(
        counter(
            "gpu_clock_event_seconds_total",
            "Time for which this reason held the clocks down: the driver's counter, else integrated from the flag.",
            labels={"reason": reason},
            nvml=fields,
            smi=Smi(f"clocks_event_reasons_counters.{reason}", MICRO) if reason != "hw_slowdown" else None,
            dcgm=_DCGM_REASON_COUNTERS.get(reason),
            integral_of="gpu_clock_event_active",
            fake=_simulated("reason_seconds", reason),
        )
        for reason, fields in _REASON_COUNTERS.items()
    ),
)
