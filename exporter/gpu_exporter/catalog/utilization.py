"""How busy a GPU is."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.row import PERCENT, Call, Dcgm, Metric, Samples, Smi, row

gauge: Final = partial(row, "gauge", "utilization")
counter: Final = partial(row, "counter", "utilization")

ROWS: Final[tuple[Metric, ...]] = (
    gauge(
        "gpu_utilization_ratio",
        "Share of the driver's last sample period (1/6 to 1 s) in which a kernel was running, 0 to 1; "
        "absent in MIG mode.",
        nvml=Call("nvmlDeviceGetUtilizationRates", part=("gpu",), scale=PERCENT),
        smi=Smi("utilization.gpu", PERCENT),
        dcgm=Dcgm(203, "DCGM_FI_DEV_GPU_UTIL", PERCENT),
        fake="utilization",
    ),
    gauge(
        "gpu_memory_io_utilization_ratio",
        "Share of the driver's last sample period in which device memory was read or written, 0 to 1.",
        nvml=Call("nvmlDeviceGetUtilizationRates", part=("memory",), scale=PERCENT),
        smi=Smi("utilization.memory", PERCENT),
        dcgm=Dcgm(204, "DCGM_FI_DEV_MEM_COPY_UTIL", PERCENT),
        fake="memory_io",
    ),
    gauge(
        "gpu_encoder_utilization_ratio",
        "Utilization of the video encoder, 0 to 1, over the driver's own sampling period.",
        nvml=Call("nvmlDeviceGetEncoderUtilization", part=(0,), scale=PERCENT),
        smi=Smi("utilization.encoder", PERCENT),
        dcgm=Dcgm(206, "DCGM_FI_DEV_ENC_UTIL", PERCENT),
        fake="encoder",
    ),
    gauge(
        "gpu_decoder_utilization_ratio",
        "Utilization of the video decoder, 0 to 1, over the driver's own sampling period.",
        nvml=Call("nvmlDeviceGetDecoderUtilization", part=(0,), scale=PERCENT),
        smi=Smi("utilization.decoder", PERCENT),
        dcgm=Dcgm(207, "DCGM_FI_DEV_DEC_UTIL", PERCENT),
        fake="decoder",
    ),
    gauge(
        "gpu_jpeg_utilization_ratio",
        "Utilization of the JPEG engine, 0 to 1, over the driver's own sampling period.",
        nvml=Call("nvmlDeviceGetJpgUtilization", part=(0,), scale=PERCENT),
        smi=Smi("utilization.jpeg", PERCENT),
        fake="jpeg",
    ),
    gauge(
        "gpu_ofa_utilization_ratio",
        "Utilization of the optical flow accelerator, 0 to 1, over the driver's own sampling period.",
        nvml=Call("nvmlDeviceGetOfaUtilization", part=(0,), scale=PERCENT),
        smi=Smi("utilization.ofa", PERCENT),
        fake="ofa",
    ),
    counter(
        "gpu_busy_seconds_total",
        "Time in which a kernel was running, integrated from the driver's sample buffer, and from "
        "gpu_utilization_ratio where that says nothing; nothing is lost between scrapes.",
        nvml=Samples("NVML_GPU_UTILIZATION_SAMPLES", PERCENT),
        integral_of="gpu_utilization_ratio",
        fake="busy_seconds",
    ),
    counter(
        "gpu_memory_io_busy_seconds_total",
        "Time in which device memory was read or written, integrated from the driver's sample buffer, and from "
        "gpu_memory_io_utilization_ratio where that says nothing.",
        nvml=Samples("NVML_MEMORY_UTILIZATION_SAMPLES", PERCENT),
        integral_of="gpu_memory_io_utilization_ratio",
        fake="memory_io_busy_seconds",
    ),
)
