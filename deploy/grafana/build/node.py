"""Node: the GPUs of one machine (or of some) beside each other."""

from __future__ import annotations

from typing import Final

from build.dashboard import Dashboard, Row, jump
from build.looks import BAD_ABOVE_ZERO, CLASSES, FULL, GOOD, HEAT, P_STATES, UP, USE, WARN_ABOVE_ZERO, Steps
from build.panels import Panel, series, stat, strip, timeline
from build.parts import ADDRESS, GPU_COLUMNS, SERIES_TO_DEVICE, alert_count, alerts, idle_held, per_gpu, processes
from build.promql import DEVICE, FIRING_GPU, GPU, GPU_LEGEND, NODE, host, power_share, share
from build.tables import Column, table

_STATE = [
    stat(
        "Exporters",
        "Whether Prometheus can scrape the chosen machines: down where one of them does not answer.",
        f"min(up{{{NODE}}})",
        values=UP,
        steps=GOOD,
        width=2,
        links=[jump("gpu-exporter")],
    ),
    stat("GPUs up", "GPUs that answer their driver.", f"sum(gpu_up{{{GPU}}})", width=2),
    stat(
        "GPUs down",
        "GPUs that are lost, hang or wait for a reset.",
        f"sum(1 - gpu_up{{{GPU}}})",
        steps=BAD_ABOVE_ZERO,
        width=2,
        links=[jump("gpu-health")],
    ),
    alert_count("Critical alerts", "critical", width=2, steps=BAD_ABOVE_ZERO),
    alert_count("Warnings", "warning", width=2, steps=WARN_ABOVE_ZERO),
    stat(
        "Busy",
        "Share of the last five minutes in which a kernel ran: the mean over the GPUs.",
        f"avg(instance_gpu:gpu_busy:rate5m{{{GPU}}})",
        unit="percentunit",
        steps=USE,
        spark=True,
        width=3,
        decimals=0,
    ),
    stat(
        "Memory used",
        "Device memory in use, of all that is fitted.",
        share(f"sum(gpu_memory_used_bytes{{{GPU}}})", f"sum(gpu_memory_total_bytes{{{GPU}}})"),
        unit="percentunit",
        steps=FULL,
        spark=True,
        width=3,
        decimals=0,
    ),
    stat(
        "Power, of its limit",
        "What the GPUs draw, of what they may. Near 100 % is normal under load.",
        power_share(GPU),
        unit="percentunit",
        spark=True,
        width=3,
        decimals=0,
    ),
    stat(
        "Hottest GPU",
        "Core temperature of the hottest GPU.",
        f"max(gpu_temperature_celsius{{{GPU}}})",
        unit="celsius",
        steps=HEAT,
        spark=True,
        width=3,
    ),
    idle_held(width=2),
]

_GPUS = table(
    "GPUs",
    "One row a GPU; its number leads to its dashboard. A GPU that is down has no readings; empty cells are what a "
    "board does not have.",
    {
        "up": per_gpu(f"gpu_up{{{GPU}}}"),
        "alerts": per_gpu(f"count by (cluster, instance, alias, gpu, model) ({FIRING_GPU}) or 0 * gpu_up{{{GPU}}}"),
        "busy": per_gpu(f"instance_gpu:gpu_busy:rate5m{{{GPU}}}"),
        "memory": per_gpu(share(f"gpu_memory_used_bytes{{{GPU}}}", f"gpu_memory_total_bytes{{{GPU}}}")),
        "temperature": per_gpu(f"gpu_temperature_celsius{{{GPU}}}"),
        "power": per_gpu(f"gpu_power_watts{{{GPU}}}"),
        "state": per_gpu(f"gpu_performance_state{{{GPU}}}"),
        "class": per_gpu(f"instance_gpu:gpu_score:class{{{GPU}}}"),
        "held": per_gpu(f"count by ({DEVICE}, alias, model) (gpu_owner_memory_used_bytes{{{GPU}}})"),
    },
    {
        **GPU_COLUMNS,
        "up": Column(name="State", values=UP, show="color", width=80),
        "alerts": Column(name="Alerts", steps=WARN_ABOVE_ZERO, show="tile", width=80),
        "busy": Column(name="Busy", unit="percentunit", steps=USE, show="gauge", highest=1, decimals=0),
        "memory": Column(name="Memory used", unit="percentunit", steps=FULL, show="gauge", highest=1, decimals=0),
        "temperature": Column(name="Temperature", unit="celsius", steps=HEAT, show="color", width=115),
        "power": Column(name="Power", unit="watt", decimals=0, width=90),
        "state": Column(name="P-state", values=P_STATES, show="color", width=80),
        "class": Column(name="Class of use", values=CLASSES, show="color", width=115),
        "held": Column(name="Owners", width=80),
        "instance": ADDRESS,
    },
    sort="alerts",
)

_STRIP = strip(
    "Busy by GPU",
    "Share of time in which a kernel ran: grey-blue is idle, light blue low, green works. A gap: no reading.",
    f"clamp_max(rate(gpu_busy_seconds_total{{{GPU}}}[$__rate_interval]), 1)",
    legend=GPU_LEGEND,
    unit="percentunit",
    steps=USE,
    links=[SERIES_TO_DEVICE],
)

_UP = timeline(
    "Which GPU answered",
    "1 where a GPU answered its driver; down is lost, hung, or waiting for a reset.",
    (f"gpu_up{{{GPU}}}", GPU_LEGEND),
    values=UP,
    show="never",
    links=[SERIES_TO_DEVICE],
)


def _lines(
    title: str, description: str, expr: str, unit: str, *, highest: float | None = None, steps: Steps = GOOD
) -> Panel:
    """One line a GPU; thresholds, where there are some, are drawn."""
    return series(
        title,
        description,
        (expr, GPU_LEGEND),
        unit=unit,
        width=12,
        highest=highest,
        steps=steps,
        lines=steps != GOOD,
        links=[SERIES_TO_DEVICE],
    )


_USE = [
    _lines(
        "Busy over time",
        "Share of time in which a kernel ran, from the driver's own sample buffer; nothing is lost between scrapes.",
        f"clamp_max(rate(gpu_busy_seconds_total{{{GPU}}}[$__rate_interval]), 1)",
        "percentunit",
        highest=1,
    ),
    _lines(
        "Memory over time", "Device memory that processes have allocated.", f"gpu_memory_used_bytes{{{GPU}}}", "bytes"
    ),
]

_HEAT = [
    _lines(
        "Temperature",
        "Core temperature; the lines are typical limits, each GPU's own ones are on its dashboard.",
        f"gpu_temperature_celsius{{{GPU}}}",
        "celsius",
        steps=HEAT,
    ),
    _lines("Power", "Power draw of the boards.", f"gpu_power_watts{{{GPU}}}", "watt"),
    _lines(
        "SM clock",
        "Clock of the multiprocessors. Lower than its siblings under load: see throttling.",
        f'gpu_clock_hertz{{{GPU}, clock="sm"}}',
        "hertz",
    ),
    _lines(
        "Held back by heat or power supply",
        "Share of time in which hardware or software lowered the clocks because of heat, or because the power supply "
        "asked for it. Reaching the power limit is normal and not counted.",
        "clamp_max(max by (cluster, instance, alias, gpu, model) (rate(gpu_clock_event_seconds_total"
        f'{{{GPU}, reason=~"hw_.+|sw_thermal_slowdown"}}[$__rate_interval])), 1)',
        "percentunit",
    ),
]

_LINKS = [
    _lines(
        "PCIe traffic",
        "Bytes that each GPU sent and received over PCIe; most GPUs older than Hopper cannot tell.",
        f"rate(gpu_pcie_transmit_bytes_total{{{GPU}}}[$__rate_interval])\n"
        f"+ rate(gpu_pcie_receive_bytes_total{{{GPU}}}[$__rate_interval])",
        "Bps",
    ),
    _lines(
        "NVLink traffic",
        "Payload that each GPU sent and received over all its NVLinks.",
        f"rate(gpu_nvlink_transmit_bytes_total{{{GPU}}}[$__rate_interval])\n"
        f"+ rate(gpu_nvlink_receive_bytes_total{{{GPU}}}[$__rate_interval])",
        "Bps",
    ),
]

_VERSIONS = table(
    "Driver",
    "What the driver of each machine tells about itself.",
    {"driver": host(f"gpu_driver_info{{{NODE}}}")},
    {
        "host": Column(name="Host"),
        "driver_version": Column(name="Driver"),
        "cuda_version": Column(name="CUDA"),
        "nvml_version": Column(name="NVML"),
    },
    sort="host",
    descending=False,
    width=10,
)

DASHBOARD: Final = Dashboard(
    uid="gpu-node",
    single=("instance",),
    description="The GPUs of one machine beside each other: state, use, heat, power, links, processes.",
    rows=[
        Row("State", [(5, _STATE), (9, [_GPUS]), (6, [alerts('gpu=~"$gpu|"', width=14), _VERSIONS])]),
        Row("Use", [(8, [_STRIP]), (6, [_UP]), (10, _USE)]),
        Row("Heat, power, clocks", [(10, _HEAT[:2]), (10, _HEAT[2:])]),
        Row("PCIe and NVLink", [(10, _LINKS)]),
        Row("Processes", [(8, [processes()])]),
    ],
)
