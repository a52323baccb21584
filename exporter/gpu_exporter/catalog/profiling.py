"""What the work does with a GPU, by its profiling counters (GPM; Hopper and newer).

Which metric is which was told by a recorded H200 under known loads (tests/catalog/recorded): a bf16 matrix product is
94 % of ANY_TENSOR, one in fp32 76 % of FP32, one in fp64 97 % of ANY_TENSOR and of no pipe, a copy 88 % of DRAM_BW.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.row import PERCENT, Dcgm, Gpm, Metric, row

gauge: Final = partial(row, "gauge", "profiling")
counter: Final = partial(row, "counter", "profiling")


def _percent(metric: str) -> Gpm:
    """Both counters of a share are read a moment apart: a GPU that never rests may show a little more than 100 %."""
    return Gpm(f"NVML_GPM_METRIC_{metric}", most=102.0, full=100.0, scale=PERCENT)


ROWS: Final[tuple[Metric, ...]] = (
    gauge(
        "gpu_graphics_active_ratio",
        "Share of the time since the previous reading in which the compute and graphics engine had work; copies by the "
        "copy engines alone are none.",
        nvml=_percent("GRAPHICS_UTIL"),
        dcgm=Dcgm(1001, "DCGM_FI_PROF_GR_ENGINE_ACTIVE"),
        fake="graphics_active",
    ),
    gauge(
        "gpu_sm_active_ratio",
        "Share of the multiprocessors' time since the previous reading in which they had a warp to run: one spinning "
        "block on an otherwise free GPU is 1 of its some hundred multiprocessors, whatever gpu_utilization_ratio says.",
        nvml=_percent("SM_UTIL"),
        dcgm=Dcgm(1002, "DCGM_FI_PROF_SM_ACTIVE"),
        fake="sm_active",
    ),
    gauge(
        "gpu_sm_occupancy_ratio",
        "Warps that the multiprocessors held, as a share of what they can, over the time since the previous reading.",
        nvml=_percent("SM_OCCUPANCY"),
        dcgm=Dcgm(1003, "DCGM_FI_PROF_SM_OCCUPANCY"),
        fake="sm_occupancy",
    ),
    gauge(
        "gpu_tensor_active_ratio",
        "Share of the time since the previous reading in which the tensor cores were busy, with numbers of any kind: "
        "also with FP64, whose matrix products run here and not on the FP64 pipe.",
        nvml=_percent("ANY_TENSOR_UTIL"),
        dcgm=Dcgm(1004, "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"),
        fake="tensor_active",
    ),
    gauge(
        "gpu_dram_active_ratio",
        "Share of what the device memory can carry that was read and written since the previous reading.",
        nvml=_percent("DRAM_BW_UTIL"),
        dcgm=Dcgm(1005, "DCGM_FI_PROF_DRAM_ACTIVE"),
        fake="dram_active",
    ),
    gauge(
        "gpu_fp64_active_ratio",
        "Share of the time since the previous reading in which the FP64 pipe was busy, without the tensor cores.",
        nvml=_percent("FP64_UTIL"),
        dcgm=Dcgm(1006, "DCGM_FI_PROF_PIPE_FP64_ACTIVE"),
        fake="fp64_active",
    ),
    gauge(
        "gpu_fp32_active_ratio",
        "Share of the time since the previous reading in which the FP32 pipe was busy, without the tensor cores.",
        nvml=_percent("FP32_UTIL"),
        dcgm=Dcgm(1007, "DCGM_FI_PROF_PIPE_FP32_ACTIVE"),
        fake="fp32_active",
    ),
    gauge(
        "gpu_fp16_active_ratio",
        "Share of the time since the previous reading in which the FP16 pipe was busy, without the tensor cores.",
        nvml=_percent("FP16_UTIL"),
        dcgm=Dcgm(1008, "DCGM_FI_PROF_PIPE_FP16_ACTIVE"),
        fake="fp16_active",
    ),
    counter(
        "gpu_sm_active_seconds_total",
        "Busy time of the multiprocessors, gpu_sm_active_ratio over time: a second of half of them is half a second. "
        "Nothing is lost between readings.",
        nvml=_percent("SM_UTIL"),
        fake="sm_active_seconds",
    ),
    counter(
        "gpu_tensor_active_seconds_total",
        "Busy time of the tensor cores, gpu_tensor_active_ratio over time; nothing is lost between readings.",
        nvml=_percent("ANY_TENSOR_UTIL"),
        fake="tensor_active_seconds",
    ),
    counter(
        "gpu_dram_active_seconds_total",
        "Busy time of the device memory, gpu_dram_active_ratio over time; nothing is lost between readings.",
        nvml=_percent("DRAM_BW_UTIL"),
        fake="dram_active_seconds",
    ),
)
