"""GPUs as NVML shows them: numbers in NVML's own units, as recorded on real boards where that was possible.

What a model does not name, it does not support. A field that values.h and fields.c do not know is one line in FIELDS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

Setting: TypeAlias = int | str | Sequence[int]

MIB: Final = 1 << 20

_COMMON: Final[Mapping[str, Setting]] = {
    "compute_mode": 0,
    "display_mode": 0,
    "display_active": 0,
    "performance_state": 0,
    "recovery_action": 0,
    "jpeg_utilization": 0,
    "ofa_utilization": 0,
    "decoder_utilization": 0,
    "encoder_utilization": 0,
    "event_reasons": 0,
    "supported_event_reasons": 0x1FF,
    "reason_ns_power": 0,
    "reason_ns_thermal": 0,
    "reason_ns_sync_boost": 0,
    "reason_ns_board_limit": 0,
    "reason_ns_low_utilization": 0,
    "reason_ns_reliability": 0,
    "reason_ns_sw_thermal": 0,
    "reason_ns_hw_thermal": 0,
    "reason_ns_power_brake": 0,
    "energy": 1_234_567_890,
    "pci_domain": 0,
    "pci_device": 0,
    "pcie_counter_bits": 32,
    "pcie_tx_bytes": 5_000_000_000,
    "pcie_rx_bytes": 7_000_000_000,
    "pcie_throughput_tx": 12_000,
    "pcie_throughput_rx": 34_000,
    "pcie_throughput_ms": 20,
    "pcie_replays": 0,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "supported_events": 0x118F,
}

_ECC: Final[Mapping[str, Setting]] = {
    "ecc_enabled": 1,
    "ecc_pending": 1,
    **{
        f"ecc_{severity}_{lifetime}_dram": 0
        for severity in ("corrected", "uncorrected")
        for lifetime in ("volatile", "aggregate")
    },
    **{
        f"sram_{kind}_{lifetime}": 0
        for kind in ("corrected", "parity", "secded")
        for lifetime in ("volatile", "aggregate")
    },
    "sram_threshold_exceeded": 0,
    "remapped_corrected": 0,
    "remapped_uncorrected": 0,
    "remap_pending": 0,
    "remap_failure": 0,
    "remap_banks": (2560, 0, 0, 0, 0),
    "sram_bucket_l2": 0,
    "sram_bucket_sm": 0,
    "sram_bucket_pcie": 0,
    "sram_bucket_mcu": 0,
    "sram_bucket_other": 0,
    "repair_channel": 0,
    "repair_tpc": 0,
}


def _nvlink(generation: int, links: int) -> dict[str, Setting]:
    zeros = (0,) * links
    return {
        "nvlink_generation": generation,
        "nvlink_states": (1,) * links,
        "nvlink_tx": tuple(range(1 << 30, (1 << 30) + links * 1024, 1024)),
        "nvlink_rx": tuple(range(1 << 31, (1 << 31) + links * 1024, 1024)),
        **{f"nvlink_{kind}": zeros for kind in ("crc_flit", "crc_data", "replay", "recovery", "symbol")},
    }


def _power(draw: int, lowest: int, default: int, highest: int) -> dict[str, Setting]:
    return {
        "power_instant": draw,
        "power_average": draw,
        "power_usage": draw,
        "power_limit": default,
        "power_enforced_limit": default,
        "power_default_limit": default,
        "power_min_limit": lowest,
        "power_max_limit": highest,
    }


def _clocks(graphics: int, memory: int, video: int, graphics_max: int, video_max: int) -> dict[str, Setting]:
    return {
        "clock_graphics": graphics,
        "clock_sm": graphics,
        "clock_memory": memory,
        "clock_video": video,
        "clock_max_graphics": graphics_max,
        "clock_max_sm": graphics_max,
        "clock_max_memory": memory,
        "clock_max_video": video_max,
    }


_BOARDS: Final[dict[str, Mapping[str, Setting]]] = {
    "h100": {
        **_COMMON,
        **_ECC,
        **_nvlink(4, 18),
        **_power(631_950, 200_000, 700_000, 700_000),
        **_clocks(1980, 2619, 1545, 1980, 1545),
        "name": "NVIDIA H100 80GB HBM3",
        "serial": "16542230000{index:02d}",
        "vbios_version": "96.00.A5.00.01",
        "brand": 14,
        "architecture": 9,
        "compute_major": 9,
        "compute_minor": 0,
        "cores": 16896,
        "pci_device_id": 0x233010DE,
        "pci_subsystem_id": 0x16C110DE,
        "persistence_mode": 1,
        "mig_mode": 0,
        "max_mig_devices": 7,
        "utilization": 100,
        "memory_utilization": 11,
        "memory_total": 81559 * MIB,
        "memory_reserved": 479 * MIB,
        "memory_used": 19818 * MIB,
        "bar1_total": 131072 * MIB,
        "bar1_used": 5 * MIB,
        "temperature": 59,
        "temperature_margin": 26,
        "memory_temperature": 54,
        "tlimit_shutdown": -8,
        "tlimit_slowdown": -2,
        "tlimit_max_operating": 0,
        "tlimit_memory_max": 0,
        "pcie_generation": 5,
        "pcie_generation_max": 5,
        "fabric_state": 3,
        "fabric_status": 0,
        "fabric_health": 0xAA,
    },
    "a100": {
        **_COMMON,
        **_ECC,
        **_nvlink(3, 12),
        **_power(61_400, 100_000, 400_000, 400_000),
        **_clocks(1410, 1593, 1275, 1410, 1290),
        "name": "NVIDIA A100-SXM4-80GB",
        "serial": "15602210000{index:02d}",
        "vbios_version": "92.00.45.00.03",
        "brand": 14,
        "architecture": 7,
        "compute_major": 8,
        "compute_minor": 0,
        "cores": 6912,
        "pci_device_id": 0x20B210DE,
        "pci_subsystem_id": 0x147F10DE,
        "persistence_mode": 1,
        "mig_mode": 0,
        "max_mig_devices": 7,
        "utilization": 0,
        "memory_utilization": 0,
        "memory_total": 81920 * MIB,
        "memory_reserved": 616 * MIB,
        "memory_used": 7 * MIB,
        "bar1_total": 131072 * MIB,
        "bar1_used": 1 * MIB,
        "temperature": 31,
        "memory_temperature": 44,
        "limit_shutdown": 92,
        "limit_slowdown": 89,
        "limit_max_operating": 85,
        "limit_memory_max": 95,
        "pcie_generation": 4,
        "pcie_generation_max": 4,
    },
    "l40s": {
        **_COMMON,
        **_ECC,
        **_power(112_380, 100_000, 350_000, 350_000),
        **_clocks(2520, 9001, 1965, 2520, 1965),
        "name": "NVIDIA L40S",
        "serial": "13212240000{index:02d}",
        "vbios_version": "95.02.66.00.02",
        "brand": 14,
        "architecture": 8,
        "compute_major": 8,
        "compute_minor": 9,
        "cores": 18176,
        "pci_device_id": 0x26B910DE,
        "pci_subsystem_id": 0x185110DE,
        "persistence_mode": 0,
        "utilization": 9,
        "memory_utilization": 2,
        "encoder_utilization": 60,
        "memory_total": 46068 * MIB,
        "memory_reserved": 609 * MIB,
        "memory_used": 1235 * MIB,
        "bar1_total": 65536 * MIB,
        "bar1_used": 3 * MIB,
        "temperature": 54,
        "temperature_margin": 34,
        "tlimit_shutdown": -5,
        "tlimit_slowdown": -2,
        "tlimit_max_operating": 0,
        "reason_ns_power": 204_642_816_000,
        "pcie_generation": 4,
        "pcie_generation_max": 4,
    },
    "rtx4090": {
        **_COMMON,
        **_power(86_410, 10_000, 450_000, 600_000),
        **_clocks(2805, 10501, 2145, 3105, 2415),
        "name": "NVIDIA GeForce RTX 4090",
        "vbios_version": "95.02.3C.00.B2",
        "brand": 5,
        "architecture": 8,
        "compute_major": 8,
        "compute_minor": 9,
        "cores": 16384,
        "pci_device_id": 0x268410DE,
        "pci_subsystem_id": 0x51101462,
        "persistence_mode": 0,
        "display_active": 1,
        "performance_state": 2,
        "utilization": 7,
        "memory_utilization": 2,
        "memory_total": 24564 * MIB,
        "memory_reserved": 434 * MIB,
        "memory_used": 1474 * MIB,
        "bar1_total": 32768 * MIB,
        "bar1_used": 30 * MIB,
        "temperature": 46,
        "tlimit_shutdown": -7,
        "tlimit_slowdown": -2,
        "tlimit_max_operating": 0,
        "fan_speeds": (30, 31),
        "fan_rpms": (1010, 1043),
        "pcie_generation": 4,
        "pcie_generation_max": 4,
    },
}

MODELS: Final[Mapping[str, Mapping[str, Setting]]] = {
    **_BOARDS,
    "gh200": {
        **_BOARDS["h100"],
        "name": "NVIDIA GH200 480GB",
        "cores": 16896,
        "pci_device_id": 0x234210DE,
        "pci_subsystem_id": 0x16EB10DE,
        "memory_total": 97871 * MIB,
        "memory_reserved": 489 * MIB,
        "memory_used": 1 * MIB,
    },
    # The rows that only boards before Ampere have.
    "v100": {
        **_COMMON,
        **_power(42_300, 150_000, 300_000, 300_000),
        **_clocks(1290, 877, 1155, 1530, 1372),
        "name": "Tesla V100-SXM2-32GB",
        "serial": "03243190000{index:02d}",
        "vbios_version": "88.00.43.00.03",
        "brand": 2,
        "architecture": 5,
        "compute_major": 7,
        "compute_minor": 0,
        "cores": 5120,
        "pci_device_id": 0x1DB510DE,
        "pci_subsystem_id": 0x124910DE,
        "persistence_mode": 1,
        "utilization": 0,
        "memory_utilization": 0,
        "memory_total": 32768 * MIB,
        "memory_reserved": 271 * MIB,
        "memory_used": 1 * MIB,
        "bar1_total": 32768 * MIB,
        "bar1_used": 2 * MIB,
        "temperature": 33,
        "memory_temperature": 31,
        "limit_shutdown": 90,
        "limit_slowdown": 87,
        "limit_max_operating": 83,
        "limit_memory_max": 85,
        "pcie_generation": 3,
        "pcie_generation_max": 3,
        "ecc_enabled": 1,
        "ecc_pending": 1,
        "retired_sbe": 0,
        "retired_dbe": 0,
        "retired_pending": 0,
    },
}


class Answer(NamedTuple):
    """What a field answers: ``kind`` is NVML's type, NVML_VALUE_TYPE_...; ``error`` its code. A double is its bits."""

    value: int
    kind: int = 3
    error: int = 0


# Fields by their number, or by (number, scope), that no other setting stands for: {171: 1} or {171: Answer(1, kind=1)}.
FIELDS: Final[Mapping[str, Mapping[int | tuple[int, int], int | Answer]]] = {
    # C2C links, the state and the errors of each; PCIe's errors; kinds of errors of NVLink 5; what is left of power
    # smoothing, in percent.
    "gh200": {
        170: 10,
        171: 1,
        258: 97,
        **dict.fromkeys((231, 232, 233, 169, *range(173, 184), 206, 207, 208, 211, 212, 213, 214, 219), 0),
        **dict.fromkeys(range(235, 251), 0),
    },
}

# Profiling metrics (GPM) by NVML's number, in percent of the time in which the GPU is busy; Hopper and newer.
_HOPPER_GPM: Final = {1: 99.5, 2: 92.25, 3: 41.5, 5: 63.0, 10: 35.5, 11: 0.0, 12: 4.5, 13: 1.25}
GPM: Final[Mapping[str, Mapping[int, float]]] = {"h100": _HOPPER_GPM, "gh200": _HOPPER_GPM}
