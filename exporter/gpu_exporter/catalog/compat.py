"""dcgm-exporter's names for what we measure: one table, old names and those of 4.9 beside each other.

Names and units are those of its default-counters.csv, and of dcgm_fields.h of DCGM 4.6 and 4.7. In 4.9 fields carry
base units: clocks hertz, energy joules, utilization a ratio, memory bytes, throttling seconds.

All old names, all numbers that the source dcgm asks for, and 56 of the 67 new names stand in the header of DCGM 4.6.1;
the others (memory bytes, utilization of memory and of the codecs, throttling, NVLink's throughput) came with 4.7. The
label is ``hostname`` since dcgm-exporter's pull request 655.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gpu_exporter.catalog import CLOCK_EVENTS, XID_LAST, by_name
from gpu_exporter.catalog.mig import (
    MIG_DRAM_ACTIVE,
    MIG_MEMORY_TOTAL,
    MIG_MEMORY_USED,
    MIG_SM_ACTIVE,
    MIG_TENSOR_ACTIVE,
)
from gpu_exporter.catalog.row import Metric

GENERATIONS: Final = ("dcgm", "dcgm-4.9")
# By generation: the label that has the machine's name, and the one that has the driver's version.
LABELS: Final[Mapping[str, tuple[str, str]]] = {
    "dcgm": ("Hostname", "DCGM_FI_DRIVER_VERSION"),
    "dcgm-4.9": ("hostname", "DCGM_FI_SYSTEM_DRIVER_VERSION"),
}
# How a number comes about: the sum of the terms, or of their growth a second; the latest of the row's events, or of its
# parts the most.
How: TypeAlias = Literal["sum", "first", "rate", "latest", "most"]

_MHZ, _MIB, _PERCENT, _MILLI, _NANO, _MB = 1e-6, 2.0**-20, 100.0, 1e3, 1e9, 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of DCGM: its ``name``, and ``new`` in 4.9; each times its factor of what we have in base units.

    ``terms`` are our rows with a weight each. ``mig`` is the row that each MIG device has instead.
    """

    name: str
    new: str
    kind: Literal["gauge", "counter"]
    text: str
    terms: tuple[tuple[Metric, float], ...]
    factor: float = 1.0
    new_factor: float = 1.0
    how: How = "sum"
    mig: Metric | None = None

    def named(self, generation: str) -> tuple[str, float]:
        """Name and factor in that generation."""
        return (self.name, self.factor) if generation == "dcgm" else (self.new, self.new_factor)


def _of(*names: str, **labels: str) -> tuple[tuple[Metric, float], ...]:
    return tuple((by_name(name, **labels), 1.0) for name in names)


def _gauge(name: str, new: str, text: str, terms: tuple[tuple[Metric, float], ...], factor: float = 1.0) -> Field:
    return Field(name, new, "gauge", text, terms, factor)


def _ratio(name: str, new: str, text: str, metric: str, mig: Metric | None = None) -> Field:
    return Field(name, new, "gauge", text, _of(metric), mig=mig)


def _counter(name: str, new: str, text: str, terms: tuple[tuple[Metric, float], ...], factor: float = 1.0) -> Field:
    return Field(name, new, "counter", text, terms, factor)


def _rate(name: str, new: str, text: str, terms: tuple[tuple[Metric, float], ...], factor: float = 1.0) -> Field:
    return Field(name, new, "gauge", text, terms, factor, how="rate")


def _ecc(severity: str, lifetime: str) -> tuple[tuple[Metric, float], ...]:
    """All locations; those of a cache or register file are told by boards before Ampere, the SRAM's by all after."""
    places = ("dram", "sram", "l1_cache", "l2_cache", "register_file", "texture_memory")
    return tuple(
        term
        for place in places
        for term in _of("gpu_ecc_errors_total", lifetime=lifetime, location=place, severity=severity)
    )


def _throttled(*reasons: str) -> tuple[tuple[Metric, float], ...]:
    return tuple(term for reason in reasons for term in _of("gpu_clock_event_seconds_total", reason=reason))


# nvml.h, nvmlClocksEventReasons
_REASON_BITS: Final = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
}
_REASONS: Final = tuple((CLOCK_EVENTS[reason], float(bit)) for reason, bit in _REASON_BITS.items())

_DEV, _PROF = "DCGM_FI_DEV_", "DCGM_FI_PROF_"

FIELDS: Final[tuple[Field, ...]] = (
    *(
        _gauge(f"{_DEV}{name}", f"{_DEV}{new}", text, _of(metric, clock=clock), _MHZ)
        for name, new, text, metric, clock in (
            ("SM_CLOCK", "SM_CLOCK_HERTZ", "Clock of the multiprocessors", "gpu_clock_hertz", "sm"),
            ("MEM_CLOCK", "MEMORY_CLOCK_HERTZ", "Clock of the memory", "gpu_clock_hertz", "memory"),
            ("VIDEO_CLOCK", "VIDEO_CLOCK_HERTZ", "Clock of the video engines", "gpu_clock_hertz", "video"),
            ("MAX_SM_CLOCK", "SM_MAX_CLOCK_HERTZ", "Highest clock of the multiprocessors", "gpu_clock_max_hertz", "sm"),
            ("MAX_MEM_CLOCK", "MEMORY_MAX_CLOCK_HERTZ", "Highest clock of the memory", "gpu_clock_max_hertz", "memory"),
        )
    ),
    _gauge(
        f"{_DEV}MEMORY_TEMP", f"{_DEV}MEMORY_TEMP_CELSIUS", "Memory temperature", _of("gpu_memory_temperature_celsius")
    ),
    _gauge(f"{_DEV}GPU_TEMP", f"{_DEV}GPU_TEMP_CELSIUS", "GPU temperature", _of("gpu_temperature_celsius")),
    *(
        _gauge(f"{_DEV}{name}", f"{_DEV}{new}", text, _of("gpu_temperature_limit_celsius", limit=limit))
        for name, new, text, limit in (
            ("SLOWDOWN_TEMP", "GPU_TEMP_SLOWDOWN_CELSIUS", "Temperature at which it slows down", "slowdown"),
            ("SHUTDOWN_TEMP", "GPU_TEMP_SHUTDOWN_CELSIUS", "Temperature at which it shuts down", "shutdown"),
            ("GPU_MAX_OP_TEMP", "GPU_MAX_OP_TEMP_CELSIUS", "Highest temperature to run at", "max_operating"),
            ("MEM_MAX_OP_TEMP", "MEMORY_MAX_OP_TEMP_CELSIUS", "Highest temperature of the memory", "memory_max"),
        )
    ),
    Field(
        f"{_DEV}POWER_USAGE",
        f"{_DEV}BOARD_POWER_WATTS",
        "gauge",
        "Power draw",
        _of("gpu_power_average_watts", "gpu_power_watts"),
        how="first",
    ),
    _gauge(f"{_DEV}POWER_USAGE_INSTANT", f"{_DEV}BOARD_POWER_RAW_WATTS", "Power draw now", _of("gpu_power_watts")),
    *(
        _gauge(f"{_DEV}{name}", f"{_DEV}BOARD_POWER_LIMIT_{new}_WATTS", text, _of(metric))
        for name, new, text, metric in (
            ("ENFORCED_POWER_LIMIT", "ENFORCED", "Power limit in force", "gpu_power_limit_watts"),
            ("POWER_MGMT_LIMIT_MIN", "MIN", "Lowest power limit", "gpu_power_min_limit_watts"),
            ("POWER_MGMT_LIMIT_MAX", "MAX", "Highest power limit", "gpu_power_max_limit_watts"),
            ("POWER_MGMT_LIMIT_DEF", "DEFAULT", "Power limit at the start", "gpu_power_default_limit_watts"),
        )
    ),
    _counter(
        f"{_DEV}TOTAL_ENERGY_CONSUMPTION",
        f"{_DEV}GPU_ENERGY_JOULES_TOTAL",
        "Energy drawn",
        _of("gpu_energy_joules_total"),
        _MILLI,
    ),
    _counter(f"{_DEV}PCIE_REPLAY_COUNTER", f"{_DEV}PCIE_REPLAY_TOTAL", "PCIe retries", _of("gpu_pcie_replays_total")),
    *(
        _gauge(name := f"{_DEV}{field}", name, text, _of(metric))
        for field, text, metric in (
            ("PCIE_LINK_GEN", "PCIe generation of the link", "gpu_pcie_link_generation"),
            ("PCIE_LINK_WIDTH", "PCIe lanes in use", "gpu_pcie_link_width"),
            ("PCIE_MAX_LINK_GEN", "Highest PCIe generation", "gpu_pcie_link_generation_max"),
            ("PCIE_MAX_LINK_WIDTH", "Most PCIe lanes", "gpu_pcie_link_width_max"),
            ("MIG_MODE", "MIG mode", "gpu_mig_mode_enabled"),
            ("ROW_REMAP_PENDING", "Rows that wait to be remapped", "gpu_row_remap_pending"),
        )
    ),
    *(
        _gauge(f"{_DEV}{name}", f"{_DEV}{new}", text, _of(metric), _PERCENT)
        for name, new, text, metric in (
            ("GPU_UTIL", "GPU_UTIL_RATIO", "GPU utilization", "gpu_utilization_ratio"),
            ("MEM_COPY_UTIL", "MEMORY_UTIL_RATIO", "Memory utilization", "gpu_memory_io_utilization_ratio"),
            ("ENC_UTIL", "ENC_UTIL_RATIO", "Encoder utilization", "gpu_encoder_utilization_ratio"),
            ("DEC_UTIL", "DEC_UTIL_RATIO", "Decoder utilization", "gpu_decoder_utilization_ratio"),
        )
    ),
    Field(
        f"{_DEV}FAN_SPEED",
        f"{_DEV}FAN_SPEED_RATIO",
        "gauge",
        "Fan speed, of the fastest fan",
        _of("gpu_fan_speed_ratio"),
        _PERCENT,
        how="most",
    ),
    _gauge(f"{_DEV}PSTATE", f"{_DEV}GPU_PSTATE", "Performance state", _of("gpu_performance_state")),
    Field(
        f"{_DEV}XID_ERRORS",
        f"{_DEV}XID_ERROR",
        "gauge",
        "Number of the latest XID error, 0 before the first",
        ((XID_LAST, 1.0),),
        how="latest",
    ),
    _gauge(f"{_DEV}CLOCK_THROTTLE_REASONS", f"{_DEV}CLOCKS_EVENT_REASONS", "Mask of what holds clocks down", _REASONS),
    *(
        _counter(
            f"{_DEV}{name}_VIOLATION", f"{_DEV}GPU_{new}_THROTTLE_SECONDS_TOTAL", text, _throttled(*reasons), _NANO
        )
        for name, new, text, reasons in (
            ("POWER", "POWER", "Throttling by the power limit", ("sw_power_cap",)),
            ("THERMAL", "THERMAL", "Throttling by heat", ("sw_thermal_slowdown", "hw_thermal_slowdown")),
            ("SYNC_BOOST", "SYNC_BOOST", "Throttling by sync boost", ("sync_boost",)),
        )
    ),
    *(
        Field(f"{_DEV}FB_{name}", f"{_DEV}FB_{new}_BYTES", "gauge", text, _of(metric), _MIB, mig=part)
        for name, new, text, metric, part in (
            ("TOTAL", "CAPACITY", "Memory that is fitted", "gpu_memory_total_bytes", MIG_MEMORY_TOTAL),
            ("FREE", "FREE", "Memory that is free", "gpu_memory_free_bytes", None),
            ("USED", "USED", "Memory that is used", "gpu_memory_used_bytes", MIG_MEMORY_USED),
            ("RESERVED", "RESERVED", "Memory that is reserved", "gpu_memory_reserved_bytes", None),
        )
    ),
    *(
        _counter(
            name := f"{_DEV}ECC_{error}_{short}_TOTAL", name, f"{text} ECC errors, {lifetime}", _ecc(text, lifetime)
        )
        for error, text in (("SBE", "corrected"), ("DBE", "uncorrected"))
        for short, lifetime in (("VOL", "volatile"), ("AGG", "aggregate"))
    ),
    _counter(
        f"{_DEV}RETIRED_SBE",
        f"{_DEV}PAGE_RETIRED_SBE_TOTAL",
        "Pages retired for corrected errors",
        _of("gpu_retired_pages", cause="single_bit_ecc"),
    ),
    _counter(
        f"{_DEV}RETIRED_DBE",
        f"{_DEV}PAGE_RETIRED_DBE_TOTAL",
        "Pages retired for uncorrected errors",
        _of("gpu_retired_pages", cause="double_bit_ecc"),
    ),
    _counter(
        f"{_DEV}RETIRED_PENDING",
        f"{_DEV}PAGE_RETIRED_PENDING",
        "Whether pages wait to be retired",
        _of("gpu_retired_pages_pending"),
    ),
    _counter(
        f"{_DEV}UNCORRECTABLE_REMAPPED_ROWS",
        f"{_DEV}ROW_REMAP_UNCORRECTABLE_TOTAL",
        "Rows remapped for uncorrected errors",
        _of("gpu_remapped_rows", severity="uncorrected"),
    ),
    _counter(
        f"{_DEV}CORRECTABLE_REMAPPED_ROWS",
        f"{_DEV}ROW_REMAP_CORRECTABLE_TOTAL",
        "Rows remapped for corrected errors",
        _of("gpu_remapped_rows", severity="corrected"),
    ),
    _gauge(
        f"{_DEV}ROW_REMAP_FAILURE",
        f"{_DEV}ROW_REMAP_FAILED",
        "Whether a row could not be remapped",
        _of("gpu_row_remap_failure"),
    ),
    *(
        _counter(
            f"{_DEV}NVLINK_{kind.upper()}_ERROR_COUNT_TOTAL",
            f"{_DEV}NVLINK_{kind.upper()}_ERROR_TOTAL",
            f"NVLink errors of all links: {kind}",
            _of("gpu_nvlink_errors_total", kind=kind),
        )
        for kind in ("crc_flit", "crc_data", "replay", "recovery")
    ),
    _rate(
        f"{_DEV}NVLINK_BANDWIDTH_TOTAL",
        f"{_DEV}NVLINK_THROUGHPUT_BYTES_PER_SECOND",
        "NVLink traffic of all links, both ways",
        _of("gpu_nvlink_transmit_bytes_total", "gpu_nvlink_receive_bytes_total"),
        _MB,
    ),
    _ratio(f"{_PROF}GR_ENGINE_ACTIVE", f"{_PROF}GR_ENGINE_UTIL_RATIO", "Graphics engine", "gpu_graphics_active_ratio"),
    _ratio(f"{_PROF}SM_ACTIVE", f"{_PROF}SM_UTIL_RATIO", "Multiprocessors", "gpu_sm_active_ratio", MIG_SM_ACTIVE),
    _ratio(f"{_PROF}SM_OCCUPANCY", f"{_PROF}SM_OCCUPANCY_RATIO", "Warps held", "gpu_sm_occupancy_ratio"),
    _ratio(
        f"{_PROF}PIPE_TENSOR_ACTIVE",
        f"{_PROF}TENSOR_UTIL_RATIO",
        "Tensor cores",
        "gpu_tensor_active_ratio",
        MIG_TENSOR_ACTIVE,
    ),
    _ratio(
        f"{_PROF}DRAM_ACTIVE", f"{_PROF}DRAM_UTIL_RATIO", "Memory traffic", "gpu_dram_active_ratio", MIG_DRAM_ACTIVE
    ),
    *(
        _ratio(
            f"{_PROF}PIPE_{pipe}_ACTIVE",
            f"{_PROF}{pipe}_UTIL_RATIO",
            f"{pipe} pipe",
            f"gpu_{pipe.lower()}_active_ratio",
        )
        for pipe in ("FP64", "FP32", "FP16")
    ),
    *(
        _rate(
            name := f"{_PROF}{link.upper()}_{short}_BYTES",
            name,
            f"{text} a second",
            _of(f"gpu_{link}_{way}_bytes_total"),
        )
        for link in ("pcie", "nvlink")
        for short, way, text in (("TX", "transmit", "Bytes sent"), ("RX", "receive", "Bytes received"))
    ),
)
