"""Device memory, and the window through which it is reached."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.row import MIB, Board, Call, Dcgm, Metric, Smi, row

gauge: Final = partial(row, "gauge", "memory")


def _part(name: str) -> tuple[Call, ...]:
    """Version 1 of the call counts reserved memory as used; it stands in where a driver has no version 2."""
    newer = Call("nvmlDeviceGetMemoryInfo", ("nvmlMemory_v2",), part=(name,))
    return (newer,) if name == "reserved" else (newer, Call("nvmlDeviceGetMemoryInfo", part=(name,)))


ROWS: Final[tuple[Metric, ...]] = (
    gauge(
        "gpu_memory_total_bytes",
        "Device memory that is fitted.",
        plausible=(2.0**24, 2.0**46),  # a board without any answers 0
        nvml=_part("total"),
        smi=Smi("memory.total", MIB),
        dcgm=Dcgm(250, "DCGM_FI_DEV_FB_TOTAL", MIB),
        fake=Board("total_bytes"),
    ),
    gauge(
        "gpu_memory_used_bytes",
        "Device memory that processes have allocated; drivers before 510 count what the driver reserves as well.",
        nvml=_part("used"),
        smi=Smi("memory.used", MIB),
        dcgm=Dcgm(252, "DCGM_FI_DEV_FB_USED", MIB),
        fake="memory_used",
    ),
    gauge(
        "gpu_memory_free_bytes",
        "Device memory that can still be allocated.",
        nvml=_part("free"),
        smi=Smi("memory.free", MIB),
        dcgm=Dcgm(251, "DCGM_FI_DEV_FB_FREE", MIB),
        fake="memory_free",
    ),
    gauge(
        "gpu_memory_reserved_bytes",
        "Device memory that the driver and firmware keep for themselves.",
        nvml=_part("reserved"),
        smi=Smi("memory.reserved", MIB),
        dcgm=Dcgm(253, "DCGM_FI_DEV_FB_RESERVED", MIB),
        fake=Board("reserved", MIB),
    ),
    gauge(
        "gpu_bar1_memory_total_bytes",
        "Size of the BAR1 window through which the CPU and peers reach device memory.",
        plausible=(2.0**16, 2.0**46),
        nvml=Call("nvmlDeviceGetBAR1MemoryInfo", part=("bar1Total",)),
        fake=Board("bar1", MIB),
    ),
    gauge(
        "gpu_bar1_memory_used_bytes",
        "Part of the BAR1 window that is mapped.",
        nvml=Call("nvmlDeviceGetBAR1MemoryInfo", part=("bar1Used",)),
        fake="bar1_used",
    ),
)
