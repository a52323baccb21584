"""The exporter itself."""

from __future__ import annotations

from functools import partial
from typing import Final

from gpu_exporter.catalog.plausible import FLAG
from gpu_exporter.catalog.row import Metric, row

info: Final = partial(row, "info", "exporter")
gauge: Final = partial(row, "gauge", "exporter")
counter: Final = partial(row, "counter", "exporter")
histogram: Final = partial(row, "histogram", "exporter")

ROWS: Final[tuple[Metric, ...]] = (
    info(
        "gpu_exporter_build_info",
        "Version of the exporter and of the Python that runs it; always 1.",
        own="build",
        info=("version", "python_version"),
    ),
    info(
        "gpu_exporter_source_info",
        'Where the readings come from; always 1. Data that is not of this machine says source="fake" or "replay".',
        own="source",
        info=("source",),
    ),
    gauge(
        "gpu_exporter_last_sample_success",
        "1 where the latest reading reached the driver and at least one GPU answered.",
        unitless=True,
        plausible=FLAG,
        own="ok",
    ),
    gauge(
        "gpu_exporter_last_sample_timestamp_seconds",
        "Unix time at which the latest successful full reading began, of the GPU whose reading is the oldest: nothing "
        "that is told of a GPU is older. Absent before the first.",
        own="timestamp",
    ),
    histogram(
        "gpu_exporter_sample_age_seconds",
        "How old the full readings were that scrapes got, when they got them; a scraper that comes regularly is "
        "expected, and the GPUs are read just before.",
        own="ages",
    ),
    gauge(
        "gpu_exporter_sample_duration_seconds",
        "How long the latest full reading of all GPUs took.",
        own="duration",
    ),
    counter(
        "gpu_exporter_sample_overruns_total",
        "Readings that were skipped because the one before took longer than collection.interval.",
        own="overruns",
    ),
    counter(
        "gpu_exporter_reading_seconds_total",
        "Time that readings of all GPUs took, by their kind: full ones, and light ones in between, which ask what is "
        "cheap, or only for the driver's buffers.",
        dynamic=("kind",),
        own="reading_seconds",
    ),
    counter(
        "gpu_exporter_implausible_values_total",
        "Values that the driver told and that cannot be (-1, NaN, 0 °C, more memory used than fitted), by the metric "
        "that is absent instead; appears with the first.",
        dynamic=("metric",),
        own="implausible",
    ),
    gauge(
        "gpu_exporter_event_source_up",
        "1 where XIDs and other events are heard from this source, 0 where not: nvml is the driver's library, "
        "kernel_log /dev/kmsg or systemd's journal, which tells XIDs that NVML does not.",
        dynamic=("source",),
        unitless=True,
        plausible=FLAG,
        own="event_sources",
    ),
    counter(
        "gpu_nvswitch_sxid_errors_total",
        "Faults of the machine's NVSwitches since the boot, by number (SXid) and address, as the kernel log tells "
        "them; appears with the first.",
        dynamic=("sxid", "pci_bus_id"),
        own="sxids",
    ),
    gauge(
        "gpu_nvswitch_sxid_last_timestamp_seconds",
        "Unix time of the latest fault of an NVSwitch of that number (SXid) and address; appears with the first.",
        dynamic=("sxid", "pci_bus_id"),
        own="sxids_latest",
    ),
    gauge(
        "gpu_exporter_stuck_reads",
        "Driver calls that have not returned within collection.timeout and still hang.",
        unitless=True,
        own="stuck",
    ),
    gauge(
        "gpu_exporter_paused",
        "1 while SIGUSR1 holds the driver closed.",
        unitless=True,
        plausible=FLAG,
        own="paused",
    ),
    *(
        gauge(
            "gpu_exporter_gpus",
            "GPUs by state; expected only where configured.",
            unitless=True,
            labels={"state": state},
            own=f"gpus_{state}",
        )
        for state in ("found", "up", "expected")
    ),
    gauge(
        "gpu_exporter_config_reload_success",
        "1 where the latest reading of the configuration file succeeded, 0 where the last good one is still in force.",
        unitless=True,
        plausible=FLAG,
        own="config_ok",
    ),
)
