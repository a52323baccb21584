"""THE metric table: one row a series kind, with one column a source.

Pure data. The exposition, docs/METRICS.md, the fake source, the nvidia-smi query and the tests all derive from
``CATALOG``. To add a metric, add a row, regenerate the docs and goldens, and read the diff.
"""

from __future__ import annotations

from typing import Final

from gpu_exporter.columns import (
    KIB,
    MHZ,
    MIB,
    MICRO,
    MILLI,
    NANO,
    PERCENT,
    Call,
    Fans,
    Field,
    Limit,
    Links,
    Metric,
    Nvml,
    Samples,
    Smi,
)

_ON_OFF: Final = (("Enabled", 1.0), ("Disabled", 0.0))
_YES_NO: Final = (("Yes", 1.0), ("No", 0.0))
_ACTIVE: Final = (("Active", 1.0), ("Not Active", 0.0))
_FAILURES: Final = ("lost", "timeout", "reset_required", "permission", "unknown")


def _fan_out(label: str, rows: dict[str, dict[str, object]], **common: object) -> list[Metric]:
    """One family, one row for each value of ``label``."""
    return [Metric(**{**common, **row, "labels": ((label, value),)}) for value, row in rows.items()]  # type: ignore[arg-type]


def _gauge(name: str, group: str, text: str, *nvml: Nvml, **rest: object) -> Metric:
    return Metric(name, "gauge", text, group, nvml=nvml, **rest)  # type: ignore[arg-type]


def _counter(name: str, group: str, text: str, *nvml: Nvml, **rest: object) -> Metric:
    return Metric(name, "counter", text, group, nvml=nvml, **rest)  # type: ignore[arg-type]


# --- rows that code outside the table refers to -----------------------------------------------------------------------

GPU_INFO: Final = Metric(
    "gpu_info",
    "info",
    "Identity of the GPU, kept while it does not answer; always 1.",
    "identity",
    info=("architecture", "brand", "pci_bus_id", "serial", "vbios_version"),
)
DRIVER_INFO: Final = Metric(
    "gpu_driver_info",
    "info",
    "Versions of the driver, of the CUDA it supports and of NVML; always 1.",
    "identity",
    own="driver",
    info=("driver_version", "cuda_version", "nvml_version"),
)
GPU_UP: Final = Metric(
    "gpu_up",
    "gauge",
    "1 where the GPU answered the last reading, 0 where it is lost, hung or refuses; see gpu_read_errors_total.",
    "health",
)
READ_ERRORS: Final = {
    reason: Metric(
        "gpu_read_errors_total",
        "counter",
        "Readings of the GPU that failed, by what its driver answered.",
        "health",
        labels=(("reason", reason),),
    )
    for reason in _FAILURES
}
XID_ERRORS: Final = Metric(
    "gpu_xid_errors_total",
    "counter",
    "XID events of the GPU since the exporter started (NVML event set); appears with the first event.",
    "health",
    dynamic="xid",
)
XID_LAST: Final = Metric(
    "gpu_xid_last_timestamp_seconds",
    "gauge",
    "Unix time of the latest XID event of that number; appears with the first event.",
    "health",
    dynamic="xid",
)

# --- the device rows ----------------------------------------------------------------------------------------------------

_HEALTH: Final = [
    GPU_UP,
    *READ_ERRORS.values(),
    _gauge(
        "gpu_recovery_action",
        "health",
        "What the driver asks for: 0 nothing, 1 GPU reset, 2 node reboot, 3 drain P2P, 4 drain and reset, "
        "5 recover the IMEX domain, 6 bus reset, 7 system reboot.",
        Field("NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"),
        smi=Smi(
            "gpu_recovery_action",
            words=(("None", 0.0), ("Reset", 1.0), ("Reboot", 2.0), ("Drain P2P", 3.0), ("Drain and Reset", 4.0)),
        ),
        fake="recovery_action",
    ),
    XID_ERRORS,
    XID_LAST,
]

_UTILIZATION: Final = [
    _gauge(
        "gpu_utilization_ratio",
        "utilization",
        "Share of the driver's last sample period (1/6 to 1 s) in which a kernel was running, 0 to 1; absent in MIG mode.",
        Call("nvmlDeviceGetUtilizationRates", part=("gpu",), scale=PERCENT),
        smi=Smi("utilization.gpu", PERCENT),
        fake="utilization",
    ),
    _gauge(
        "gpu_memory_io_utilization_ratio",
        "utilization",
        "Share of the driver's last sample period in which device memory was read or written, 0 to 1.",
        Call("nvmlDeviceGetUtilizationRates", part=("memory",), scale=PERCENT),
        smi=Smi("utilization.memory", PERCENT),
        fake="memory_io",
    ),
    *(
        _gauge(
            f"gpu_{unit}_utilization_ratio",
            "utilization",
            f"Utilization of the {text}, 0 to 1, over the driver's own sampling period.",
            Call(call, part=(0,), scale=PERCENT),
            smi=Smi(f"utilization.{unit}", PERCENT),
            fake=unit,
        )
        for unit, text, call in (
            ("encoder", "video encoder", "nvmlDeviceGetEncoderUtilization"),
            ("decoder", "video decoder", "nvmlDeviceGetDecoderUtilization"),
            ("jpeg", "JPEG engine", "nvmlDeviceGetJpgUtilization"),
            ("ofa", "optical flow accelerator", "nvmlDeviceGetOfaUtilization"),
        )
    ),
    _counter(
        "gpu_busy_seconds_total",
        "utilization",
        "Time in which a kernel was running, integrated from the driver's sample buffer; nothing is lost between scrapes.",
        Samples("NVML_GPU_UTILIZATION_SAMPLES", PERCENT),
        integral_of="gpu_utilization_ratio",
        fake="busy_seconds",
    ),
    _counter(
        "gpu_memory_io_busy_seconds_total",
        "utilization",
        "Time in which device memory was read or written, integrated from the driver's sample buffer.",
        Samples("NVML_MEMORY_UTILIZATION_SAMPLES", PERCENT),
        integral_of="gpu_memory_io_utilization_ratio",
        fake="memory_io_busy_seconds",
    ),
]

_MEMORY: Final = [
    *(
        _gauge(
            f"gpu_memory_{part}_bytes",
            "memory",
            text,
            Call("nvmlDeviceGetMemoryInfo", ("nvmlMemory_v2",), part=(part,)),
            # Version 1 of the call counts reserved memory as used, so it can stand in for the total and free only.
            *((Call("nvmlDeviceGetMemoryInfo", part=(part,)),) if part != "reserved" else ()),
            smi=Smi(f"memory.{part}", MIB),
            fake=f"memory_{part}",
        )
        for part, text in (
            ("total", "Device memory that is fitted."),
            (
                "used",
                "Device memory that processes have allocated; drivers before 510 count what the driver reserves as well.",
            ),
            ("free", "Device memory that can still be allocated."),
            ("reserved", "Device memory that the driver and firmware keep for themselves."),
        )
    ),
    *(
        _gauge(
            f"gpu_bar1_memory_{part}_bytes",
            "memory",
            text,
            Call("nvmlDeviceGetBAR1MemoryInfo", part=(f"bar1{part.capitalize()}",)),
            fake=f"bar1_{part}",
        )
        for part, text in (
            ("total", "Size of the BAR1 window through which the CPU and peers reach device memory."),
            ("used", "Part of the BAR1 window that is mapped."),
        )
    ),
]

_THERMALS: Final = [
    _gauge(
        "gpu_temperature_celsius",
        "thermals",
        "Temperature of the GPU core.",
        Call("nvmlDeviceGetTemperatureV", ("NVML_TEMPERATURE_GPU",)),
        Call("nvmlDeviceGetTemperature", ("NVML_TEMPERATURE_GPU",)),
        smi=Smi("temperature.gpu"),
        fake="temperature",
    ),
    _gauge(
        "gpu_memory_temperature_celsius",
        "thermals",
        "Temperature of the device memory (HBM; on some GDDR boards as well).",
        Field("NVML_FI_DEV_MEMORY_TEMP"),
        smi=Smi("temperature.memory"),
        fake="memory_temperature",
    ),
    *_fan_out(
        "limit",
        {
            limit: {
                "nvml": (
                    Call("nvmlDeviceGetTemperatureThreshold", (f"NVML_TEMPERATURE_THRESHOLD_{old}",), slow=True),
                    Limit(f"NVML_FI_DEV_TEMPERATURE_{new}_TLIMIT"),
                ),
                "fake": f"limit_{limit}",
            }
            for limit, old, new in (
                ("slowdown", "SLOWDOWN", "SLOWDOWN"),
                ("shutdown", "SHUTDOWN", "SHUTDOWN"),
                ("max_operating", "GPU_MAX", "GPU_MAX"),
                ("memory_max", "MEM_MAX", "MEM_MAX"),
            )
        },
        name="gpu_temperature_limit_celsius",
        kind="gauge",
        group="thermals",
        help="The device's own limits: where it slows down, shuts down, and the highest it should run at.",
    ),
    Metric(
        "gpu_fan_speed_ratio",
        "gauge",
        "Intended fan speed as a share of the maximum, 0 to 1; a blocked fan still tells the intended speed.",
        "thermals",
        dynamic="fan",
        nvml=(Fans(),),
        smi=Smi("fan.speed", PERCENT),
        fake="fan_speeds",
    ),
]

_POWER: Final = [
    _gauge(
        "gpu_power_watts",
        "power",
        "Power draw of the board at this moment (on old devices and drivers: over the last second).",
        Field("NVML_FI_DEV_POWER_INSTANT", scale=MILLI),
        Call("nvmlDeviceGetPowerUsage", scale=MILLI),
        smi=Smi("power.draw.instant"),
        fake="power",
    ),
    _gauge(
        "gpu_power_average_watts",
        "power",
        "Power draw of the board averaged over the last second.",
        Field("NVML_FI_DEV_POWER_AVERAGE", scale=MILLI),
        smi=Smi("power.draw.average"),
        fake="power_average",
    ),
    _gauge(
        "gpu_power_limit_watts",
        "power",
        "Power limit in force, the lowest of all that apply.",
        Call("nvmlDeviceGetEnforcedPowerLimit", scale=MILLI, slow=True),
        smi=Smi("enforced.power.limit"),
        fake="power_limit",
    ),
    _gauge(
        "gpu_power_default_limit_watts",
        "power",
        "Power limit that the board starts with.",
        Call("nvmlDeviceGetPowerManagementDefaultLimit", scale=MILLI, slow=True),
        smi=Smi("power.default_limit"),
        fake="power_default_limit",
    ),
    _gauge(
        "gpu_power_min_limit_watts",
        "power",
        "Lowest power limit that can be set.",
        Call("nvmlDeviceGetPowerManagementLimitConstraints", part=(0,), scale=MILLI, slow=True),
        smi=Smi("power.min_limit"),
        fake="power_min_limit",
    ),
    _gauge(
        "gpu_power_max_limit_watts",
        "power",
        "Highest power limit that can be set.",
        Call("nvmlDeviceGetPowerManagementLimitConstraints", part=(1,), scale=MILLI, slow=True),
        smi=Smi("power.max_limit"),
        fake="power_max_limit",
    ),
    _counter(
        "gpu_energy_joules_total",
        "power",
        "Energy drawn: the driver's counter (Volta and newer), else integrated from its power samples.",
        Field("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", scale=MILLI),
        Call("nvmlDeviceGetTotalEnergyConsumption", scale=MILLI),
        Samples("NVML_TOTAL_POWER_SAMPLES", MILLI),
        integral_of="gpu_power_watts",
        fake="energy",
    ),
]

_CLOCK_NAMES: Final = {"sm": "SM", "graphics": "GRAPHICS", "memory": "MEM", "video": "VIDEO"}
_REASONS: Final = {
    # label: (bit of the mask, nvidia-smi's name)
    "gpu_idle": ("GpuIdle", "gpu_idle"),
    "applications_clocks_setting": ("ApplicationsClocksSetting", "applications_clocks_setting"),
    "sw_power_cap": ("SwPowerCap", "sw_power_cap"),
    "hw_slowdown": ("HwSlowdown", "hw_slowdown"),
    "sync_boost": ("SyncBoost", "sync_boost"),
    "sw_thermal_slowdown": ("SwThermalSlowdown", "sw_thermal_slowdown"),
    "hw_thermal_slowdown": ("HwThermalSlowdown", "hw_thermal_slowdown"),
    "hw_power_brake_slowdown": ("HwPowerBrakeSlowdown", "hw_power_brake_slowdown"),
    "display_clock_setting": ("DisplayClockSetting", None),
}
_REASON_COUNTERS: Final[dict[str, tuple[Field, ...]]] = {
    "sw_power_cap": (Field("NVML_FI_DEV_PERF_POLICY_POWER", scale=NANO),),
    "hw_slowdown": (),
    "sync_boost": (Field("NVML_FI_DEV_PERF_POLICY_SYNC_BOOST", scale=NANO),),
    # Drivers 575 to 580 number these 251 to 253; from 590 on those numbers belong to power smoothing.
    "sw_thermal_slowdown": (
        Field("NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN", scale=NANO, renumbered=((590, 269), (575, 251))),
    ),
    "hw_thermal_slowdown": (
        Field("NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN", scale=NANO, renumbered=((590, 270), (575, 252))),
    ),
    "hw_power_brake_slowdown": (
        Field(
            "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN", scale=NANO, renumbered=((590, 271), (575, 253))
        ),
    ),
}

_CLOCKS: Final = [
    *_fan_out(
        "clock",
        {
            clock: {
                "nvml": (Call("nvmlDeviceGetClockInfo", (f"NVML_CLOCK_{name}",), scale=MHZ),),
                "smi": Smi(f"clocks.current.{clock}", MHZ),
                "fake": f"clock_{clock}",
            }
            for clock, name in _CLOCK_NAMES.items()
        },
        name="gpu_clock_hertz",
        kind="gauge",
        group="clocks",
        help="Clock at this moment.",
    ),
    *_fan_out(
        "clock",
        {
            clock: {
                "nvml": (Call("nvmlDeviceGetMaxClockInfo", (f"NVML_CLOCK_{name}",), scale=MHZ, slow=True),),
                "smi": None if clock == "video" else Smi(f"clocks.max.{clock}", MHZ),
                "fake": f"clock_max_{clock}",
            }
            for clock, name in _CLOCK_NAMES.items()
        },
        name="gpu_clock_max_hertz",
        kind="gauge",
        group="clocks",
        help="Highest clock that the device can run at.",
    ),
    _gauge(
        "gpu_performance_state",
        "clocks",
        "Performance state: 0 is the fastest, 15 the slowest (P0 to P15).",
        Call("nvmlDeviceGetPerformanceState", absent=(32.0,)),
        smi=Smi("pstate", words=tuple((f"P{state}", float(state)) for state in range(16))),
        fake="performance_state",
    ),
    *_fan_out(
        "reason",
        {
            reason: {
                "nvml": (
                    Call("nvmlDeviceGetCurrentClocksEventReasons", bit=f"nvmlClocksEventReason{bit}"),
                    Call("nvmlDeviceGetCurrentClocksThrottleReasons", bit=f"nvmlClocksThrottleReason{bit}"),
                ),
                "smi": None if smi is None else Smi(f"clocks_event_reasons.{smi}", words=_ACTIVE),
                "fake": f"reason_{reason}",
            }
            for reason, (bit, smi) in _REASONS.items()
        },
        name="gpu_clock_event_active",
        kind="gauge",
        group="clocks",
        help="1 while this reason holds the clocks below what they could be.",
    ),
    *_fan_out(
        "reason",
        {
            reason: {
                "nvml": counters,
                "smi": None if reason == "hw_slowdown" else Smi(f"clocks_event_reasons_counters.{reason}", MICRO),
                "fake": f"reason_seconds_{reason}",
            }
            for reason, counters in _REASON_COUNTERS.items()
        },
        name="gpu_clock_event_seconds_total",
        kind="counter",
        group="clocks",
        help="Time for which this reason held the clocks down: the driver's counter, else integrated from the flag.",
        integral_of="gpu_clock_event_active",
    ),
]

_LIFETIMES: Final = {"volatile": "VOL", "aggregate": "AGG"}
_SEVERITIES: Final = {"corrected": "SBE", "uncorrected": "DBE"}
_SRAM_PARTS: Final = {
    ("corrected", "volatile"): ("volatileCor",),
    ("corrected", "aggregate"): ("aggregateCor",),
    ("uncorrected", "volatile"): ("volatileUncParity", "volatileUncSecDed"),
    ("uncorrected", "aggregate"): ("aggregateUncParity", "aggregateUncSecDed"),
}
_ECC_LOCATIONS: Final = {
    "dram": "DEV",
    "sram": None,
    "l1_cache": "L1",
    "l2_cache": "L2",
    "register_file": "REG",
    "texture_memory": "TEX",
}


def _ecc_sources(severity: str, lifetime: str, location: str, suffix: str | None) -> tuple[Nvml, ...]:
    place = {"dram": "DEVICE_MEMORY", "sram": "SRAM"}.get(location)
    kind = "CORRECTED" if severity == "corrected" else "UNCORRECTED"
    period = "VOLATILE" if lifetime == "volatile" else "AGGREGATE"
    counter = Call(
        "nvmlDeviceGetMemoryErrorCounter",
        (f"NVML_MEMORY_ERROR_TYPE_{kind}", f"NVML_{period}_ECC", f"NVML_MEMORY_LOCATION_{place}"),
    )
    if suffix is None:
        parts = _SRAM_PARTS[severity, lifetime]
        status = Call("nvmlDeviceGetSramEccErrorStatus", struct="c_nvmlEccSramErrorStatus_v1_t", part=parts)
        return (status, counter)
    value = Field(f"NVML_FI_DEV_ECC_{_SEVERITIES[severity]}_{_LIFETIMES[lifetime]}_{suffix}")
    return (value, counter) if place else (value,)


_MEMORY_ERRORS: Final = [
    _gauge(
        "gpu_ecc_enabled",
        "memory errors",
        "1 where ECC is in force, 0 where it is switched off.",
        Call("nvmlDeviceGetEccMode", part=(0,), slow=True),
        smi=Smi("ecc.mode.current", words=_ON_OFF),
        fake="ecc_enabled",
    ),
    *(
        _counter(
            "gpu_ecc_errors_total",
            "memory errors",
            "ECC errors: volatile since the driver was loaded or the GPU reset, aggregate over the board's life.",
            *_ecc_sources(severity, lifetime, location, suffix),
            labels=(("lifetime", lifetime), ("location", location), ("severity", severity)),
            smi=Smi(f"ecc.errors.{severity}.{lifetime}.{location}"),
            fake=f"ecc_{severity}_{lifetime}_{location}",
        )
        for severity in _SEVERITIES
        for lifetime in _LIFETIMES
        for location, suffix in _ECC_LOCATIONS.items()
    ),
    _gauge(
        "gpu_ecc_sram_threshold_exceeded",
        "memory errors",
        "1 where uncorrected SRAM errors passed NVIDIA's threshold for replacing the board.",
        Call("nvmlDeviceGetSramEccErrorStatus", struct="c_nvmlEccSramErrorStatus_v1_t", part=("bThresholdExceeded",)),
        smi=Smi("ecc.errors.uncorrected.aggregate.sram.thresholdExceeded", words=_YES_NO),
        fake="sram_threshold_exceeded",
    ),
    *_fan_out(
        "severity",
        {
            severity: {
                "nvml": (Field(f"NVML_FI_DEV_REMAPPED_{suffix}"),),
                "smi": Smi(f"remapped_rows.{name}"),
                "fake": f"remapped_{severity}",
            }
            for severity, suffix, name in (
                ("corrected", "COR", "correctable"),
                ("uncorrected", "UNC", "uncorrectable"),
            )
        },
        name="gpu_remapped_rows",
        kind="gauge",
        group="memory errors",
        help="Rows of device memory that were remapped to spare ones, by the kind of error (Ampere and newer).",
    ),
    _gauge(
        "gpu_row_remap_pending",
        "memory errors",
        "1 where a row waits for a GPU reset to be remapped.",
        Field("NVML_FI_DEV_REMAPPED_PENDING"),
        smi=Smi("remapped_rows.pending", words=_YES_NO),
        fake="remap_pending",
    ),
    _gauge(
        "gpu_row_remap_failure",
        "memory errors",
        "1 where a row could not be remapped: NVIDIA's criterion for replacing the board.",
        Field("NVML_FI_DEV_REMAPPED_FAILURE"),
        smi=Smi("remapped_rows.failure", words=_YES_NO),
        fake="remap_failure",
    ),
    *_fan_out(
        "cause",
        {
            cause: {
                "nvml": (Field(f"NVML_FI_DEV_RETIRED_{suffix}"),),
                "smi": Smi(name),
                "fake": f"retired_{cause}",
            }
            for cause, suffix, name in (
                ("single_bit_ecc", "SBE", "retired_pages.single_bit_ecc.count"),
                ("double_bit_ecc", "DBE", "retired_pages.double_bit.count"),
            )
        },
        name="gpu_retired_pages",
        kind="gauge",
        group="memory errors",
        help="Pages of device memory taken out of use, by cause (before Ampere).",
    ),
    _gauge(
        "gpu_retired_pages_pending",
        "memory errors",
        "1 where a page waits for a reboot to be retired.",
        Field("NVML_FI_DEV_RETIRED_PENDING"),
        smi=Smi("retired_pages.pending", words=_YES_NO),
        fake="retired_pending",
    ),
]

_ALL_LINKS: Final = 0xFFFFFFFF

_INTERCONNECT: Final = [
    *(
        _counter(
            f"gpu_pcie_{direction}_bytes_total",
            "PCIe, NVLink",
            text,
            Field(f"NVML_FI_DEV_PCIE_COUNT_{suffix}_BYTES", wraps=True),
            fake=f"pcie_{direction}_bytes",
        )
        for direction, suffix, text in (
            ("transmit", "TX", "Bytes that the GPU sent over PCIe (the driver's counter)."),
            ("receive", "RX", "Bytes that the GPU received over PCIe (the driver's counter)."),
        )
    ),
    _counter(
        "gpu_pcie_replays_total",
        "PCIe, NVLink",
        "PCIe packets that had to be sent again.",
        Field("NVML_FI_DEV_PCIE_REPLAY_COUNTER"),
        Call("nvmlDeviceGetPcieReplayCounter"),
        fake="pcie_replays",
    ),
    *(
        _gauge(name, "PCIe, NVLink", text, Call(call, slow=slow), smi=Smi(smi), fake=fake)
        for name, call, slow, smi, fake, text in (
            (
                "gpu_pcie_link_generation",
                "nvmlDeviceGetCurrPcieLinkGeneration",
                False,
                "pcie.link.gen.current",
                "pcie_generation",
                "PCIe generation of the link now; idle GPUs step down to save power.",
            ),
            (
                "gpu_pcie_link_generation_max",
                "nvmlDeviceGetMaxPcieLinkGeneration",
                True,
                "pcie.link.gen.max",
                "pcie_generation_max",
                "Highest PCIe generation that GPU and slot share.",
            ),
            (
                "gpu_pcie_link_width",
                "nvmlDeviceGetCurrPcieLinkWidth",
                False,
                "pcie.link.width.current",
                "pcie_width",
                "PCIe lanes in use.",
            ),
            (
                "gpu_pcie_link_width_max",
                "nvmlDeviceGetMaxPcieLinkWidth",
                True,
                "pcie.link.width.max",
                "pcie_width_max",
                "PCIe lanes that GPU and slot share.",
            ),
        )
    ),
    *_fan_out(
        "state",
        {
            state: {"nvml": (Links(active=state == "active"),), "fake": f"nvlinks_{state}"}
            for state in ("active", "inactive")
        },
        name="gpu_nvlink_links",
        kind="gauge",
        group="PCIe, NVLink",
        help="NVLinks of the GPU by state; a link that sleeps to save power counts as active.",
    ),
    *(
        _counter(
            f"gpu_nvlink_{direction}_bytes_total",
            "PCIe, NVLink",
            text,
            Field(f"NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_{suffix}", scope=_ALL_LINKS, scale=KIB),
            Field(f"NVML_FI_DEV_NVLINK_COUNT_{newer}_BYTES", scope="links"),
            fake=f"nvlink_{direction}_bytes",
        )
        for direction, suffix, newer, text in (
            ("transmit", "TX", "XMIT", "Payload bytes sent over all NVLinks of the GPU."),
            ("receive", "RX", "RCV", "Payload bytes received over all NVLinks of the GPU."),
        )
    ),
    *_fan_out(
        "kind",
        {
            kind: {"nvml": fields, "fake": f"nvlink_errors_{kind}"}
            for kind, fields in {
                "crc_flit": (
                    Field("NVML_FI_DEV_NVLINK_ERROR_DL_CRC", scope="links"),
                    Field("NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL"),
                ),
                "crc_data": (Field("NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL"),),
                "replay": (
                    Field("NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY", scope="links"),
                    Field("NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL"),
                ),
                "recovery": (
                    Field("NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY", scope="links"),
                    Field("NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL"),
                    Field("NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS", scope="links"),
                ),
                "symbol": (Field("NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS", scope="links"),),
            }.items()
        },
        name="gpu_nvlink_errors_total",
        kind="counter",
        group="PCIe, NVLink",
        help="NVLink errors over all links of the GPU, by kind.",
    ),
    _gauge(
        "gpu_fabric_state",
        "PCIe, NVLink",
        "Registration with the NVLink fabric manager: 1 not started, 2 in progress, 3 completed.",
        Call("nvmlDeviceGetGpuFabricInfoV", struct="c_nvmlGpuFabricInfoV_t", part=("state",), absent=(0.0,)),
        smi=Smi("fabric.state", words=(("Not Started", 1.0), ("In Progress", 2.0), ("Completed", 3.0))),
        fake="fabric_state",
    ),
]

_MODES: Final = [
    _gauge(
        "gpu_mig_mode_enabled",
        "modes",
        "1 where the GPU is partitioned (MIG).",
        Call("nvmlDeviceGetMigMode", part=(0,), slow=True),
        smi=Smi("mig.mode.current", words=_ON_OFF),
        fake="mig_mode",
    ),
    _gauge(
        "gpu_persistence_mode_enabled",
        "modes",
        "1 where the driver stays loaded while nobody uses the GPU.",
        Call("nvmlDeviceGetPersistenceMode", slow=True),
        smi=Smi("persistence_mode", words=_ON_OFF),
        fake="persistence_mode",
    ),
    _gauge(
        "gpu_compute_mode",
        "modes",
        "Who may use the GPU: 0 default, 2 prohibited, 3 one process only.",
        Call("nvmlDeviceGetComputeMode", slow=True),
        smi=Smi("compute_mode", words=(("Default", 0.0), ("Prohibited", 2.0), ("Exclusive_Process", 3.0))),
        fake="compute_mode",
    ),
]

# --- the exporter's own rows --------------------------------------------------------------------------------------------


def _own(name: str, kind: str, text: str, attribute: str, *labels: tuple[str, str]) -> Metric:
    return Metric(name, kind, text, "exporter", labels=labels, own=attribute)  # type: ignore[arg-type]


_EXPORTER: Final = [
    Metric(
        "gpu_exporter_build_info",
        "info",
        "Version of the exporter and of the Python that runs it; always 1.",
        "exporter",
        own="build",
        info=("version", "python_version"),
    ),
    Metric(
        "gpu_exporter_source_info",
        "info",
        'Where the readings come from; always 1. Simulated data says source="fake".',
        "exporter",
        own="source",
        info=("source",),
    ),
    _own(
        "gpu_exporter_last_sample_success",
        "gauge",
        "1 where the latest reading reached the driver and at least one GPU answered.",
        "ok",
    ),
    _own(
        "gpu_exporter_last_sample_timestamp_seconds",
        "gauge",
        "Unix time at which the latest successful reading ended; absent before the first.",
        "timestamp",
    ),
    _own("gpu_exporter_sample_duration_seconds", "gauge", "How long the latest reading of all GPUs took.", "duration"),
    _own(
        "gpu_exporter_sample_overruns_total",
        "counter",
        "Readings that took longer than collection.interval, so that one or more were skipped.",
        "overruns",
    ),
    _own(
        "gpu_exporter_stuck_reads",
        "gauge",
        "Driver calls that have not returned within collection.timeout and still hang.",
        "stuck",
    ),
    _own("gpu_exporter_paused", "gauge", "1 while SIGUSR1 holds the driver closed.", "paused"),
    *(
        _own(
            "gpu_exporter_gpus",
            "gauge",
            "GPUs by state; expected only where configured.",
            f"gpus_{state}",
            ("state", state),
        )
        for state in ("found", "up", "expected")
    ),
    _own(
        "gpu_exporter_config_reload_success",
        "gauge",
        "1 where the latest reading of the configuration file succeeded, 0 where the last good one is still in force.",
        "config_ok",
    ),
]

CATALOG: Final[tuple[Metric, ...]] = (
    GPU_INFO,
    DRIVER_INFO,
    *_HEALTH,
    *_UTILIZATION,
    *_MEMORY,
    *_THERMALS,
    *_POWER,
    *_CLOCKS,
    *_MEMORY_ERRORS,
    *_INTERCONNECT,
    *_MODES,
    *_EXPORTER,
)
DEVICE_METRICS: Final = tuple(metric for metric in CATALOG if metric.own is None)
