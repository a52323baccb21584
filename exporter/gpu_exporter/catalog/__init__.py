"""THE metric table: one row a series kind, with one column a source.

Pure data. The exposition, docs/METRICS.md, the fake source, the nvidia-smi query and the tests all derive from
``CATALOG``. To add a metric, add a row, regenerate the docs and goldens, and read the diff.

Each row names the NVML call or field identifier of its number; ``scale`` turns the driver's unit into a base unit.
"""

from __future__ import annotations

from typing import Final

from gpu_exporter.catalog.owner_kinds import NAMESPACES_EXPLAINED, PROCESS_LABELS
from gpu_exporter.catalog.row import (
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
    Processes,
    Samples,
    Smi,
    counter,
    family,
    gauge,
    info,
)

_ON_OFF: Final = (("Enabled", 1.0), ("Disabled", 0.0))
_YES_NO: Final = (("Yes", 1.0), ("No", 0.0))
_ACTIVE: Final = (("Active", 1.0), ("Not Active", 0.0))
_ALL_LINKS: Final = 0xFFFFFFFF
_SRAM_STATUS: Final = "c_nvmlEccSramErrorStatus_v1_t"


# Not formatted by ruff: a row reads as one paragraph (what it is, where NVML has it, best first, where others have it).
# fmt: off

# --- rows that code outside the table refers to -----------------------------------------------------------------------

GPU_INFO: Final = info(
    "gpu_info", "identity", "Identity of the GPU, kept while it does not answer; always 1.",
    info=("architecture", "brand", "pci_bus_id", "serial", "vbios_version"))
DRIVER_INFO: Final = info(
    "gpu_driver_info", "identity", "Versions of the driver, of the CUDA it supports and of NVML; always 1.",
    own="driver", info=("driver_version", "cuda_version", "nvml_version"))
GPU_UP: Final = gauge(
    "gpu_up", "health",
    "1 where the GPU answered the last reading, 0 where it is lost, hung or refuses; see gpu_read_errors_total.")
READ_ERRORS: Final = {
    reason: counter(
        "gpu_read_errors_total", "health", "Readings of the GPU that failed, by what its driver answered.",
        labels=(("reason", reason),))
    for reason in ("lost", "timeout", "reset_required", "permission", "unknown")
}
XID_ERRORS: Final = counter(
    "gpu_xid_errors_total", "health",
    "XID events of the GPU since the exporter started (NVML event set); appears with the first event.",
    dynamic=("xid",))
XID_LAST: Final = gauge(
    "gpu_xid_last_timestamp_seconds", "health",
    "Unix time of the latest XID event of that number; appears with the first event.", dynamic=("xid",))

# --- the device rows --------------------------------------------------------------------------------------------------

_HEALTH: Final = [
    GPU_UP,
    *READ_ERRORS.values(),
    gauge("gpu_recovery_action", "health",
          "What the driver asks for: 0 nothing, 1 GPU reset, 2 node reboot, 3 drain P2P, 4 drain and reset, "
          "5 recover the IMEX domain, 6 bus reset, 7 system reboot.",
          Field("NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"), fake="recovery_action",
          smi=Smi("gpu_recovery_action", words=(
              ("None", 0.0), ("Reset", 1.0), ("Reboot", 2.0), ("Drain P2P", 3.0), ("Drain and Reset", 4.0)))),
    XID_ERRORS,
    XID_LAST,
]

_UTILIZATION: Final = [
    gauge("gpu_utilization_ratio", "utilization",
          "Share of the driver's last sample period (1/6 to 1 s) in which a kernel was running, 0 to 1; "
          "absent in MIG mode.",
          Call("nvmlDeviceGetUtilizationRates", part=("gpu",), scale=PERCENT),
          smi=Smi("utilization.gpu", PERCENT), fake="utilization"),
    gauge("gpu_memory_io_utilization_ratio", "utilization",
          "Share of the driver's last sample period in which device memory was read or written, 0 to 1.",
          Call("nvmlDeviceGetUtilizationRates", part=("memory",), scale=PERCENT),
          smi=Smi("utilization.memory", PERCENT), fake="memory_io"),
    *(
        gauge(f"gpu_{unit}_utilization_ratio", "utilization",
              f"Utilization of the {text}, 0 to 1, over the driver's own sampling period.",
              Call(call, part=(0,), scale=PERCENT), smi=Smi(f"utilization.{unit}", PERCENT), fake=unit)
        for unit, text, call in (
            ("encoder", "video encoder", "nvmlDeviceGetEncoderUtilization"),
            ("decoder", "video decoder", "nvmlDeviceGetDecoderUtilization"),
            ("jpeg", "JPEG engine", "nvmlDeviceGetJpgUtilization"),
            ("ofa", "optical flow accelerator", "nvmlDeviceGetOfaUtilization"),
        )
    ),
    counter("gpu_busy_seconds_total", "utilization",
            "Time in which a kernel was running, integrated from the driver's sample buffer; "
            "nothing is lost between scrapes.",
            Samples("NVML_GPU_UTILIZATION_SAMPLES", PERCENT),
            integral_of="gpu_utilization_ratio", fake="busy_seconds"),
    counter("gpu_memory_io_busy_seconds_total", "utilization",
            "Time in which device memory was read or written, integrated from the driver's sample buffer.",
            Samples("NVML_MEMORY_UTILIZATION_SAMPLES", PERCENT),
            integral_of="gpu_memory_io_utilization_ratio", fake="memory_io_busy_seconds"),
]

_MEMORY: Final = [
    *(
        # Version 1 of the call counts reserved memory as used; it stands in where a driver has no version 2.
        gauge(f"gpu_memory_{part}_bytes", "memory", text,
              Call("nvmlDeviceGetMemoryInfo", ("nvmlMemory_v2",), part=(part,)),
              *((Call("nvmlDeviceGetMemoryInfo", part=(part,)),) if part != "reserved" else ()),
              smi=Smi(f"memory.{part}", MIB), fake=f"memory_{part}")
        for part, text in {
            "total": "Device memory that is fitted.",
            "used": "Device memory that processes have allocated; "
                   "drivers before 510 count what the driver reserves as well.",
            "free": "Device memory that can still be allocated.",
            "reserved": "Device memory that the driver and firmware keep for themselves.",
        }.items()
    ),
    gauge("gpu_bar1_memory_total_bytes", "memory",
          "Size of the BAR1 window through which the CPU and peers reach device memory.",
          Call("nvmlDeviceGetBAR1MemoryInfo", part=("bar1Total",)), fake="bar1_total"),
    gauge("gpu_bar1_memory_used_bytes", "memory", "Part of the BAR1 window that is mapped.",
          Call("nvmlDeviceGetBAR1MemoryInfo", part=("bar1Used",)), fake="bar1_used"),
]

_THERMALS: Final = [
    gauge("gpu_temperature_celsius", "thermals", "Temperature of the GPU core.",
          Call("nvmlDeviceGetTemperatureV", ("NVML_TEMPERATURE_GPU",)),
          Call("nvmlDeviceGetTemperature", ("NVML_TEMPERATURE_GPU",)), smi=Smi("temperature.gpu"), fake="temperature"),
    gauge("gpu_memory_temperature_celsius", "thermals",
          "Temperature of the device memory (HBM; on some GDDR boards as well).",
          Field("NVML_FI_DEV_MEMORY_TEMP"), smi=Smi("temperature.memory"), fake="memory_temperature"),
    *family("gauge", "gpu_temperature_limit_celsius", "thermals",
            "The device's own limits: where it slows down, shuts down, and the highest it should run at.",
            limit={
                limit: ((Call("nvmlDeviceGetTemperatureThreshold", (f"NVML_TEMPERATURE_THRESHOLD_{name}",), slow=True),
                         *margin), None, f"limit_{limit}")
                for limit, name, margin in (
                    ("slowdown", "SLOWDOWN", (Limit("NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT"),)),
                    ("shutdown", "SHUTDOWN", (Limit("NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT"),)),
                    ("max_operating", "GPU_MAX", (Limit("NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT"),)),
                    # The memory's margin is counted from the core's temperature: it says nothing in degrees.
                    ("memory_max", "MEM_MAX", ()),
                )
            }),
    gauge("gpu_fan_speed_ratio", "thermals",
          "Intended fan speed as a share of the maximum, 0 to 1; a blocked fan still tells the intended speed.",
          Fans(), dynamic=("fan",), smi=Smi("fan.speed", PERCENT), fake="fan_speeds"),
]

_POWER: Final = [
    gauge("gpu_power_watts", "power",
          "Power draw of the board at this moment (on old devices and drivers: over the last second).",
          Field("NVML_FI_DEV_POWER_INSTANT", scale=MILLI), Call("nvmlDeviceGetPowerUsage", scale=MILLI),
          smi=Smi("power.draw.instant"), fake="power"),
    gauge("gpu_power_average_watts", "power", "Power draw of the board averaged over the last second.",
          Field("NVML_FI_DEV_POWER_AVERAGE", scale=MILLI), smi=Smi("power.draw.average"), fake="power_average"),
    gauge("gpu_power_limit_watts", "power", "Power limit in force, the lowest of all that apply.",
          Call("nvmlDeviceGetEnforcedPowerLimit", scale=MILLI, slow=True),
          smi=Smi("enforced.power.limit"), fake="power_limit"),
    gauge("gpu_power_default_limit_watts", "power", "Power limit that the board starts with.",
          Call("nvmlDeviceGetPowerManagementDefaultLimit", scale=MILLI, slow=True),
          smi=Smi("power.default_limit"), fake="power_default_limit"),
    gauge("gpu_power_min_limit_watts", "power", "Lowest power limit that can be set.",
          Call("nvmlDeviceGetPowerManagementLimitConstraints", part=(0,), scale=MILLI, slow=True),
          smi=Smi("power.min_limit"), fake="power_min_limit"),
    gauge("gpu_power_max_limit_watts", "power", "Highest power limit that can be set.",
          Call("nvmlDeviceGetPowerManagementLimitConstraints", part=(1,), scale=MILLI, slow=True),
          smi=Smi("power.max_limit"), fake="power_max_limit"),
    counter("gpu_energy_joules_total", "power",
            "Energy drawn: the driver's counter (Volta and newer), else integrated from its power samples.",
            Field("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", scale=MILLI),
            Call("nvmlDeviceGetTotalEnergyConsumption", scale=MILLI), Samples("NVML_TOTAL_POWER_SAMPLES", MILLI),
            integral_of="gpu_power_watts", fake="energy"),
]

_CLOCK_NAMES: Final = {"sm": "SM", "graphics": "GRAPHICS", "memory": "MEM", "video": "VIDEO"}
_REASONS: Final = {  # label, which is nvidia-smi's name as well: bit of the mask
    "gpu_idle": "GpuIdle", "applications_clocks_setting": "ApplicationsClocksSetting", "sw_power_cap": "SwPowerCap",
    "hw_slowdown": "HwSlowdown", "sync_boost": "SyncBoost", "sw_thermal_slowdown": "SwThermalSlowdown",
    "hw_thermal_slowdown": "HwThermalSlowdown", "hw_power_brake_slowdown": "HwPowerBrakeSlowdown",
    "display_clock_setting": "DisplayClockSetting",
}


def _reason_field(name: str, now: int, before: int) -> Field:
    """Drivers 575 to 580 number these 251 to 253; from 590 on those numbers belong to power smoothing."""
    return Field(f"NVML_FI_DEV_CLOCKS_EVENT_REASON_{name}", scale=NANO, renumbered=((590, now), (575, before)))


_REASON_COUNTERS: Final[dict[str, tuple[Field, ...]]] = {
    "sw_power_cap": (Field("NVML_FI_DEV_PERF_POLICY_POWER", scale=NANO),),
    "hw_slowdown": (),
    "sync_boost": (Field("NVML_FI_DEV_PERF_POLICY_SYNC_BOOST", scale=NANO),),
    "sw_thermal_slowdown": (_reason_field("SW_THERM_SLOWDOWN", 269, 251),),
    "hw_thermal_slowdown": (_reason_field("HW_THERM_SLOWDOWN", 270, 252),),
    "hw_power_brake_slowdown": (_reason_field("HW_POWER_BRAKE_SLOWDOWN", 271, 253),),
}

_CLOCKS: Final = [
    *family("gauge", "gpu_clock_hertz", "clocks", "Clock at this moment.", clock={
        clock: ((Call("nvmlDeviceGetClockInfo", (f"NVML_CLOCK_{name}",), scale=MHZ),),
               Smi(f"clocks.current.{clock}", MHZ), f"clock_{clock}")
        for clock, name in _CLOCK_NAMES.items()
    }),
    *family("gauge", "gpu_clock_max_hertz", "clocks", "Highest clock that the device can run at.", clock={
        clock: ((Call("nvmlDeviceGetMaxClockInfo", (f"NVML_CLOCK_{name}",), scale=MHZ, slow=True),),
               None if clock == "video" else Smi(f"clocks.max.{clock}", MHZ), f"clock_max_{clock}")
        for clock, name in _CLOCK_NAMES.items()
    }),
    gauge("gpu_performance_state", "clocks", "Performance state: 0 is the fastest, 15 the slowest (P0 to P15).",
          Call("nvmlDeviceGetPerformanceState", absent=(32.0,)), fake="performance_state",
          smi=Smi("pstate", words=tuple((f"P{state}", float(state)) for state in range(16)))),
    *family("gauge", "gpu_clock_event_active", "clocks",
            "1 while this reason holds the clocks below what they could be.",
            reason={
                reason: ((Call("nvmlDeviceGetCurrentClocksEventReasons", bit=f"nvmlClocksEventReason{bit}"),
                          Call("nvmlDeviceGetCurrentClocksThrottleReasons", bit=f"nvmlClocksThrottleReason{bit}")),
                         None if reason == "display_clock_setting"
                         else Smi(f"clocks_event_reasons.{reason}", words=_ACTIVE),
                         f"reason_{reason}")
                for reason, bit in _REASONS.items()
            }),
    *family("counter", "gpu_clock_event_seconds_total", "clocks",
            "Time for which this reason held the clocks down: the driver's counter, else integrated from the flag.",
            integral_of="gpu_clock_event_active",
            reason={
                reason: (counters,
                         None if reason == "hw_slowdown" else Smi(f"clocks_event_reasons_counters.{reason}", MICRO),
                         f"reason_seconds_{reason}")
                for reason, counters in _REASON_COUNTERS.items()
            }),
]

_SRAM_PARTS: Final = {
    ("corrected", "volatile"): ("volatileCor",),
    ("corrected", "aggregate"): ("aggregateCor",),
    ("uncorrected", "volatile"): ("volatileUncParity", "volatileUncSecDed"),
    ("uncorrected", "aggregate"): ("aggregateUncParity", "aggregateUncSecDed"),
}
_ECC_LOCATIONS: Final = {  # label: (suffix of the field, suffix of the memory location)
    "dram": ("DEV", "DEVICE_MEMORY"), "sram": (None, "SRAM"), "l1_cache": ("L1", None), "l2_cache": ("L2", None),
    "register_file": ("REG", None), "texture_memory": ("TEX", None),
}


def _ecc_sources(severity: str, lifetime: str, location: str) -> tuple[Nvml, ...]:
    suffix, place = _ECC_LOCATIONS[location]
    error = "SBE" if severity == "corrected" else "DBE"
    best: Nvml = (
        Field(f"NVML_FI_DEV_ECC_{error}_{lifetime[:3].upper()}_{suffix}") if suffix else
        Call("nvmlDeviceGetSramEccErrorStatus", struct=_SRAM_STATUS, part=_SRAM_PARTS[severity, lifetime]))
    if place is None:
        return (best,)
    return (best, Call("nvmlDeviceGetMemoryErrorCounter", (
        f"NVML_MEMORY_ERROR_TYPE_{severity.upper()}", f"NVML_{lifetime.upper()}_ECC", f"NVML_MEMORY_LOCATION_{place}")))


_MEMORY_ERRORS: Final = [
    gauge("gpu_ecc_enabled", "memory errors", "1 where ECC is in force, 0 where it is switched off.",
          Call("nvmlDeviceGetEccMode", part=(0,), slow=True),
          smi=Smi("ecc.mode.current", words=_ON_OFF), fake="ecc_enabled"),
    *(
        counter("gpu_ecc_errors_total", "memory errors",
                "ECC errors: volatile since the driver was loaded or the GPU reset, aggregate over the board's life.",
                *_ecc_sources(severity, lifetime, location),
                labels=(("lifetime", lifetime), ("location", location), ("severity", severity)),
                smi=Smi(f"ecc.errors.{severity}.{lifetime}.{location}"), fake=f"ecc_{severity}_{lifetime}_{location}")
        for severity, lifetime in _SRAM_PARTS
        for location in _ECC_LOCATIONS
    ),
    gauge("gpu_ecc_sram_threshold_exceeded", "memory errors",
          "1 where uncorrected SRAM errors passed NVIDIA's threshold for replacing the board.",
          Call("nvmlDeviceGetSramEccErrorStatus", struct=_SRAM_STATUS, part=("bThresholdExceeded",)),
          smi=Smi("ecc.errors.uncorrected.aggregate.sram.thresholdExceeded", words=_YES_NO),
          fake="sram_threshold_exceeded"),
    *family("gauge", "gpu_remapped_rows", "memory errors",
            "Rows of device memory that were remapped to spare ones, by the kind of error (Ampere and newer).",
            severity={
                f"{error}ed": ((Field(f"NVML_FI_DEV_REMAPPED_{suffix}"),),
                               Smi(f"remapped_rows.{error}able"), f"remapped_{error}ed")
                for error, suffix in (("correct", "COR"), ("uncorrect", "UNC"))
            }),
    gauge("gpu_row_remap_pending", "memory errors", "1 where a row waits for a GPU reset to be remapped.",
          Field("NVML_FI_DEV_REMAPPED_PENDING"),
          smi=Smi("remapped_rows.pending", words=_YES_NO), fake="remap_pending"),
    gauge("gpu_row_remap_failure", "memory errors",
          "1 where a row could not be remapped: NVIDIA's criterion for replacing the board.",
          Field("NVML_FI_DEV_REMAPPED_FAILURE"),
          smi=Smi("remapped_rows.failure", words=_YES_NO), fake="remap_failure"),
    *family("gauge", "gpu_retired_pages", "memory errors",
            "Pages of device memory taken out of use, by cause (before Ampere).",
            cause={
                "single_bit_ecc": ((Field("NVML_FI_DEV_RETIRED_SBE"),),
                                   Smi("retired_pages.single_bit_ecc.count"), "retired_single_bit_ecc"),
                "double_bit_ecc": ((Field("NVML_FI_DEV_RETIRED_DBE"),),
                                   Smi("retired_pages.double_bit.count"), "retired_double_bit_ecc"),
            }),
    gauge("gpu_retired_pages_pending", "memory errors", "1 where a page waits for a reboot to be retired.",
          Field("NVML_FI_DEV_RETIRED_PENDING"),
          smi=Smi("retired_pages.pending", words=_YES_NO), fake="retired_pending"),
]

_INTERCONNECT: Final = [
    *(
        counter(f"gpu_pcie_{way}_bytes_total", "PCIe, NVLink",
                f"Bytes that the GPU {verb} over PCIe (the driver's counter).",
                Field(f"NVML_FI_DEV_PCIE_COUNT_{suffix}_BYTES", wraps=True), fake=f"pcie_{way}_bytes")
        for way, verb, suffix in (("transmit", "sent", "TX"), ("receive", "received", "RX"))
    ),
    counter("gpu_pcie_replays_total", "PCIe, NVLink", "PCIe packets that had to be sent again.",
            Field("NVML_FI_DEV_PCIE_REPLAY_COUNTER"), Call("nvmlDeviceGetPcieReplayCounter"), fake="pcie_replays"),
    gauge("gpu_pcie_link_generation", "PCIe, NVLink",
          "PCIe generation of the link now; idle GPUs step down to save power.",
          Call("nvmlDeviceGetCurrPcieLinkGeneration"), smi=Smi("pcie.link.gen.current"), fake="pcie_generation"),
    gauge("gpu_pcie_link_generation_max", "PCIe, NVLink", "Highest PCIe generation that GPU and slot share.",
          Call("nvmlDeviceGetMaxPcieLinkGeneration", slow=True),
          smi=Smi("pcie.link.gen.max"), fake="pcie_generation_max"),
    gauge("gpu_pcie_link_width", "PCIe, NVLink", "PCIe lanes in use.",
          Call("nvmlDeviceGetCurrPcieLinkWidth"), smi=Smi("pcie.link.width.current"), fake="pcie_width"),
    gauge("gpu_pcie_link_width_max", "PCIe, NVLink", "PCIe lanes that GPU and slot share.",
          Call("nvmlDeviceGetMaxPcieLinkWidth", slow=True), smi=Smi("pcie.link.width.max"), fake="pcie_width_max"),
    *family("gauge", "gpu_nvlink_links", "PCIe, NVLink",
            "NVLinks of the GPU by state; a link that sleeps to save power counts as active.",
            state={
                state: ((Links(active=active), Links(active=active, per_link=True)), None, f"nvlinks_{state}")
                for state, active in (("active", True), ("inactive", False))
            }),
    *(
        counter(f"gpu_nvlink_{way}_bytes_total", "PCIe, NVLink", f"Payload bytes {verb} over all NVLinks of the GPU.",
                Field(f"NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_{suffix}", scope=_ALL_LINKS, scale=KIB),
                Field(f"NVML_FI_DEV_NVLINK_COUNT_{newer}_BYTES", scope="links"), fake=f"nvlink_{way}_bytes")
        for way, verb, suffix, newer in (("transmit", "sent", "TX", "XMIT"), ("receive", "received", "RX", "RCV"))
    ),
    *family("counter", "gpu_nvlink_errors_total", "PCIe, NVLink", "NVLink errors over all links of the GPU, by kind.",
            kind={
                kind: (fields, None, f"nvlink_errors_{kind}")
                for kind, fields in {
                    "crc_flit": (Field("NVML_FI_DEV_NVLINK_ERROR_DL_CRC", scope="links"),
                                 Field("NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL")),
                    "crc_data": (Field("NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL"),),
                    "replay": (Field("NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY", scope="links"),
                               Field("NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL")),
                    "recovery": (Field("NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY", scope="links"),
                                 Field("NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL"),
                                 Field("NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS", scope="links")),
                    "symbol": (Field("NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS", scope="links"),),
                }.items()
            }),
    gauge("gpu_fabric_state", "PCIe, NVLink",
          "Registration with the NVLink fabric manager: 1 not started, 2 in progress, 3 completed.",
          Call("nvmlDeviceGetGpuFabricInfoV", struct="c_nvmlGpuFabricInfoV_t", part=("state",), absent=(0.0,)),
          smi=Smi("fabric.state", words=(("Not Started", 1.0), ("In Progress", 2.0), ("Completed", 3.0))),
          fake="fabric_state"),
]

_MODES: Final = [
    gauge("gpu_mig_mode_enabled", "modes", "1 where the GPU is partitioned (MIG).",
          Call("nvmlDeviceGetMigMode", part=(0,), slow=True),
          smi=Smi("mig.mode.current", words=_ON_OFF), fake="mig_mode"),
    gauge("gpu_persistence_mode_enabled", "modes", "1 where the driver stays loaded while nobody uses the GPU.",
          Call("nvmlDeviceGetPersistenceMode", slow=True),
          smi=Smi("persistence_mode", words=_ON_OFF), fake="persistence_mode"),
    gauge("gpu_compute_mode", "modes", "Who may use the GPU: 0 default, 2 prohibited, 3 one process only.",
          Call("nvmlDeviceGetComputeMode", slow=True), fake="compute_mode",
          smi=Smi("compute_mode", words=(("Default", 0.0), ("Prohibited", 2.0), ("Exclusive_Process", 3.0)))),
]

PROCESSES: Final = {
    kind: gauge("gpu_processes", "processes", "Processes on the GPU, by what they asked of it; some are in both.",
                Processes(f"nvmlDeviceGet{kind.capitalize()}RunningProcesses_v3"), labels=(("type", kind),))
    for kind in ("compute", "graphics")
}
PROCESSES_DROPPED: Final = gauge(
    "gpu_processes_dropped", "processes", "Processes beyond processes.max, which have no series of their own.",
    Processes("nvmlDeviceGetComputeRunningProcesses_v3"))
# In MIG mode a process has the label mig_uuid as well. A label whose value is not known is left out.
PROCESS_MEMORY: Final = gauge(
    "gpu_process_memory_used_bytes", "processes",
    "Device memory that the process has allocated; absent where the driver does not tell (Windows, WSL).",
    Processes("nvmlDeviceGetComputeRunningProcesses_v3"), dynamic=(*PROCESS_LABELS, "mig_uuid"))
PROCESS_UTILIZATION: Final = gauge(
    "gpu_process_utilization_ratio", "processes",
    "Share of the multiprocessors' time that the process took, 0 to 1, in the driver's latest sample of it; absent "
    "while there is none, as of a process that idles, and in MIG mode.",
    Processes("nvmlDeviceGetProcessUtilization"), dynamic=(*PROCESS_LABELS, "mig_uuid"))
STATE_SECONDS: Final = {
    state: counter(
        "gpu_state_seconds_total", "accounting",
        "Observed time by what the GPU did: active (busy for accounting.active_ratio or more), idle_held (idle while a "
        "process or an allocation holds it), idle_free, unknown (nothing tells how busy it was), down.",
        labels=(("state", state),))
    for state in ("active", "idle_held", "idle_free", "unknown", "down")
}
OWNER_SECONDS: Final = {
    state: counter(
        "gpu_owner_seconds_total", "accounting",
        "Observed time that the owner held the GPU, by what the GPU did; on a shared GPU split by memory held. "
        f"{NAMESPACES_EXPLAINED}An owner that holds nothing for an hour is left out.",
        labels=(("state", state),), dynamic=("owner_kind", "owner", "namespace"))
    for state in ("active", "idle_held", "unknown")
}
OWNER_MEMORY: Final = gauge(
    "gpu_owner_memory_used_bytes", "accounting",
    "Device memory that the owner's processes have allocated; 0 for an allocation on which nothing runs.",
    dynamic=("owner_kind", "owner", "namespace"))
_HOLDERS: Final = [
    *PROCESSES.values(), PROCESSES_DROPPED, PROCESS_MEMORY, PROCESS_UTILIZATION,
    *STATE_SECONDS.values(), *OWNER_SECONDS.values(), OWNER_MEMORY,
]

# --- the exporter's own rows ------------------------------------------------------------------------------------------

_EXPORTER: Final = [
    info("gpu_exporter_build_info", "exporter", "Version of the exporter and of the Python that runs it; always 1.",
         own="build", info=("version", "python_version")),
    info("gpu_exporter_source_info", "exporter",
         'Where the readings come from; always 1. Simulated data says source="fake".', own="source", info=("source",)),
    gauge("gpu_exporter_last_sample_success", "exporter",
          "1 where the latest reading reached the driver and at least one GPU answered.", own="ok"),
    gauge("gpu_exporter_last_sample_timestamp_seconds", "exporter",
          "Unix time at which the latest successful reading ended; absent before the first.", own="timestamp"),
    gauge("gpu_exporter_sample_duration_seconds", "exporter", "How long the latest reading of all GPUs took.",
          own="duration"),
    counter("gpu_exporter_sample_overruns_total", "exporter",
            "Readings that were skipped because the one before took longer than collection.interval.", own="overruns"),
    gauge("gpu_exporter_stuck_reads", "exporter",
          "Driver calls that have not returned within collection.timeout and still hang.", own="stuck"),
    gauge("gpu_exporter_paused", "exporter", "1 while SIGUSR1 holds the driver closed.", own="paused"),
    *(
        gauge("gpu_exporter_gpus", "exporter", "GPUs by state; expected only where configured.",
              own=f"gpus_{state}", labels=(("state", state),))
        for state in ("found", "up", "expected")
    ),
    gauge("gpu_exporter_config_reload_success", "exporter",
          "1 where the latest reading of the configuration file succeeded, 0 where the last good one is still in "
          "force.", own="config_ok"),
]
CATALOG: Final[tuple[Metric, ...]] = (
    GPU_INFO, DRIVER_INFO, *_HEALTH, *_UTILIZATION, *_MEMORY, *_THERMALS, *_POWER, *_CLOCKS, *_MEMORY_ERRORS,
    *_INTERCONNECT, *_MODES, *_HOLDERS, *_EXPORTER,
)
DEVICE_METRICS: Final = tuple(metric for metric in CATALOG if metric.own is None)
