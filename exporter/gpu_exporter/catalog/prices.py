"""What NVML's calls cost, and how often each is made because of that.

The driver spins while it waits for the GPU's firmware, so a call's time is CPU time. Numbers are microseconds as an
H200 answered under driver 580.159.04 (tools/lab/nvml_stub/h200-prices.json has the whole recording; an idle GPU's
firmware takes up to twice as long). NVML answers a second question within some 0.3 s from a cache of its own.

A reading is *light* or *full*. A light one, between full ones, asks for what tells life, heat and holders: the cheap
calls listed here, and the processes. A full one asks for everything but what is asked once a minute, or once an hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

Pace: TypeAlias = Literal["light", "full", "minute", "hour", "never"]

MINUTE: Final = 60.0  # seconds
HOUR: Final = 3600.0


class Price(NamedTuple):
    """How often a call is made, and the microseconds that it takes."""

    pace: Pace
    microseconds: int


# By the name of an NVML call, field or buffer. What is not listed costs little and is asked in full readings.
PRICES: Final[Mapping[str, Price]] = {
    # Life, heat, holders; the lists of processes are asked in light readings as well.
    "nvmlDeviceGetUtilizationRates": Price("light", 14),
    "nvmlDeviceGetMemoryInfo": Price("light", 33),
    "nvmlDeviceGetTemperatureV": Price("light", 60),
    "nvmlDeviceGetTemperature": Price("light", 7),
    "NVML_FI_DEV_MEMORY_TEMP": Price("light", 5),
    "NVML_FI_DEV_POWER_INSTANT": Price("light", 4),
    "NVML_FI_DEV_POWER_AVERAGE": Price("light", 6),
    "nvmlDeviceGetPowerUsage": Price("light", 6),
    "nvmlDeviceGetPerformanceState": Price("light", 15),
    "nvmlDeviceGetCurrentClocksEventReasons": Price("light", 243),
    "nvmlDeviceGetCurrentClocksThrottleReasons": Price("light", 5),
    "nvmlDeviceGetSramEccErrorStatus": Price("light", 33),
    "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": Price("light", 11),
    # The dear ones. They grow, or are means since the reading before: nothing is lost between two of them, but for the
    # buffers, which are read apart where the next full reading comes too late (sampling/schedule.py).
    "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION": Price("full", 2759),
    "nvmlDeviceGetTotalEnergyConsumption": Price("full", 2812),
    "NVML_GPU_UTILIZATION_SAMPLES": Price("full", 2480),
    "NVML_MEMORY_UTILIZATION_SAMPLES": Price("full", 2458),
    "NVML_TOTAL_POWER_SAMPLES": Price("full", 335),
    "nvmlGpmSampleGet": Price("full", 240),
    "nvmlGpmMetricsGet": Price("full", 1360),
    "nvmlDeviceGetProcessUtilization": Price("full", 1200),  # at most every processes.interval
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN": Price("full", 554),
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN": Price("full", 432),
    "NVML_FI_DEV_PERF_POLICY_POWER": Price("full", 201),
    "NVML_FI_DEV_PCIE_REPLAY_COUNTER": Price("full", 912),
    "nvmlDeviceGetPcieReplayCounter": Price("full", 199),
    # Errors that are rare, and a window that hardly moves.
    "nvmlDeviceGetBAR1MemoryInfo": Price("minute", 226),
    "NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS": Price("minute", 163),
    "NVML_FI_DEV_PCIE_COUNT_NAKS_RECEIVED": Price("minute", 87),
    "NVML_FI_DEV_PCIE_COUNT_RECEIVER_ERROR": Price("minute", 92),
    "NVML_FI_DEV_PCIE_COUNT_BAD_TLP": Price("minute", 88),
    "NVML_FI_DEV_PCIE_COUNT_NAKS_SENT": Price("minute", 87),
    "NVML_FI_DEV_PCIE_COUNT_BAD_DLLP": Price("minute", 89),
    "NVML_FI_DEV_PCIE_COUNT_NON_FATAL_ERROR": Price("minute", 173),
    "NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR": Price("minute", 88),
    "NVML_FI_DEV_PCIE_COUNT_UNSUPPORTED_REQ": Price("minute", 84),
    "NVML_FI_DEV_PCIE_COUNT_LCRC_ERROR": Price("minute", 85),
    "NVML_FI_DEV_PCIE_COUNT_LANE_ERROR": Price("minute", 84),
    "NVML_FI_DEV_PCIE_L0_TO_RECOVERY_COUNTER": Price("minute", 204),
    # What changes only by an administrator's hand.
    "nvmlDeviceGetEnforcedPowerLimit": Price("minute", 691),
    "nvmlDeviceGetPowerManagementDefaultLimit": Price("minute", 7),
    "nvmlDeviceGetPowerManagementLimitConstraints": Price("minute", 7),
    "nvmlDeviceGetMaxPcieLinkGeneration": Price("minute", 8),
    "nvmlDeviceGetMaxPcieLinkWidth": Price("minute", 79),
    "nvmlDeviceGetEccMode": Price("minute", 177),
    "nvmlDeviceGetMigMode": Price("minute", 201),
    "nvmlDeviceGetPersistenceMode": Price("minute", 23),
    "nvmlDeviceGetComputeMode": Price("minute", 10),
    "nvmlDeviceGetRowRemapperHistogram": Price("minute", 14),
    "nvmlDeviceGetRepairStatus": Price("minute", 198),
    "nvmlDeviceGetNvLinkState": Price("minute", 17),  # a link
    "nvmlDeviceGetMarginTemperature": Price("minute", 1017),  # until the limits that are told by it are known
    # What no hand changes.
    "nvmlDeviceGetMaxClockInfo": Price("hour", 1043),  # a clock
    "nvmlDeviceGetTemperatureThreshold": Price("hour", 592),  # a threshold
    # What no metric is worth.
    "nvmlDeviceGetPcieThroughput": Price("never", 20600),
    "nvmlDeviceGetPerformanceModes": Price("never", 9000),
    "nvmlDeviceGetInforomConfigurationChecksum": Price("never", 70000),
}


def pace_of(name: str) -> Pace:
    """How often the NVML call, field or buffer of that name is asked."""
    price = PRICES.get(name)
    return "full" if price is None else price.pace
