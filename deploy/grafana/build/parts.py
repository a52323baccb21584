"""What several dashboards have: ways to each other, and tables of alerts and processes."""

from __future__ import annotations

from typing import Final

from build.dashboard import jump
from build.looks import SEVERITY, WARN_ABOVE_ZERO
from build.panels import Panel, series, stat
from build.promql import GPU, GPU_LEGEND, NODE, firing, host, most, severities
from build.tables import Column, table

# From a cell of a table, and from a series.
ROW_TO_NODE: Final = jump("gpu-node", instance="${__data.fields.instance}")
ROW_TO_DEVICE: Final = jump("gpu-device", instance="${__data.fields.instance}", gpu="${__data.fields.gpu}")
SERIES_TO_NODE: Final = jump("gpu-node", instance="${__field.labels.instance}")
SERIES_TO_DEVICE: Final = jump("gpu-device", instance="${__field.labels.instance}", gpu="${__field.labels.gpu}")

# Labels of one GPU as the first columns of a table.
GPU_COLUMNS: Final = {
    "host": Column(name="Host", link=ROW_TO_NODE, width=140),
    "gpu": Column(name="GPU", link=ROW_TO_DEVICE, width=60),
    "model": Column(name="Model", width=205),
}
ADDRESS: Final = Column(name="Address", width=150)


def per_host(expression: str) -> str:
    """The largest value a machine, with the labels that a row of a table of machines is made of."""
    return host(f"max by (cluster, instance, alias) ({expression})")


def per_gpu(expression: str) -> str:
    """The largest value a GPU, with the labels that a row of a table of GPUs is made of."""
    return host(f"max by (cluster, instance, alias, gpu, model) ({expression})")


def alerts(selector: str = "", *, width: int) -> Panel:
    """What fires, worst first, with a way to the GPU."""
    ranked = severities(selector)
    return table(
        "Firing alerts, worst first",
        "Every alert that fires for what is chosen above. docs/runbooks has a page for each.",
        {"severity": host(f"max by (cluster, alertname, instance, alias, gpu, model) (\n{ranked}\n)")},
        {
            "severity": Column(name="Severity", values=SEVERITY, show="tile", width=90),
            "alertname": Column(name="Alert", link=jump("gpu-health"), width=230),
            **GPU_COLUMNS,
            "model": Column(name="Model"),
            "instance": ADDRESS,
        },
        sort="severity",
        width=width,
        empty="nothing fires",
    )


def alert_count(title: str, severity: str, *, width: int, steps: tuple[tuple[float | None, str], ...]) -> Panel:
    """How many alerts of a severity fire; 0 where the exporters answer and none does."""
    selected = firing(f'severity="{severity}"')
    return stat(
        title,
        f"Alerts of severity {severity} that fire now.",
        f"count({selected}) or 0 * count(up{{{NODE}}})",
        steps=steps,
        width=width,
        links=[jump("gpu-health")],
    )


def idle_held(*, width: int) -> Panel:
    """GPUs that are held by somebody who does not use them."""
    return stat(
        "Idle but held",
        "GPUs whose memory somebody holds, or which a pod or job was given, and on which nothing ran for five minutes.",
        f"count(count by (cluster, instance, gpu) (instance_gpu_owner:gpu_idle_held:rate5m{{{GPU}}}))"
        f" or 0 * count(up{{{NODE}}})",
        steps=WARN_ABOVE_ZERO,
        width=width,
        links=[jump("gpu-owners")],
    )


def processes() -> Panel:
    """The processes on the chosen GPUs, largest first."""
    labels = "cluster, instance, alias, gpu, model, pid, process, user, container, namespace, pod, slurm_job"
    return table(
        "Processes",
        "Processes that hold memory of the chosen GPUs. The exporter tells the executable's name, never its arguments; "
        "columns without a value are not known on that machine (docs/OWNERS.md).",
        {
            "memory": host(f"max by ({labels}) (gpu_process_memory_used_bytes{{{GPU}}})"),
            "utilization": host(f"max by ({labels}) (gpu_process_utilization_ratio{{{GPU}}})"),
        },
        {
            **GPU_COLUMNS,
            "pid": Column(name="PID", width=90),
            "process": Column(name="Process", width=120),
            "user": Column(name="User", width=110),
            "slurm_job": Column(name="Slurm job", width=100),
            "namespace": Column(name="Namespace", width=110),
            "pod": Column(name="Pod"),
            "container": Column(name="Container", width=120),
            "memory": Column(name="Memory", unit="bytes", decimals=1, width=110),
            "utilization": Column(name="Utilization", unit="percentunit", decimals=0, width=110),
            "instance": ADDRESS,
        },
        sort="memory",
        empty="no process holds memory",
    )


def error_lines(title: str, description: str, expr: str, legend: str, unit: str, *, bars: bool = False) -> Panel:
    """Errors over time of the GPUs that have some: a line at zero tells nothing."""
    return series(
        title,
        description,
        (most(expr), f"{GPU_LEGEND} {legend}".rstrip()),
        unit=unit,
        bars=bars,
        width=8,
        links=[SERIES_TO_DEVICE],
        empty="none in this time",
    )
