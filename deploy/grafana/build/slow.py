"""Courses of GPUs that are slow and report no error, and of what their machines and the network do."""

from __future__ import annotations

from typing import Final

from build.looks import GREEN, RED
from build.panels import Panel, series
from build.parts import SERIES_TO_DEVICE, error_lines
from build.promql import GPU, GPU_LEGEND, beside, most, share

_BUSY_GPU: Final = f"and on (cluster, instance, gpu) gpu_utilization_ratio{{{GPU}}} > 0.5"
_SM_CLOCK: Final = f'gpu_clock_hertz{{{GPU}, clock="sm"}}'
_SM_CLOCK_MAX: Final = f'gpu_clock_max_hertz{{{GPU}, clock="sm"}}'
_OF_SIBLINGS: Final = (
    f"(gpu_power_watts{{{GPU}}} {_BUSY_GPU}) / on (cluster, instance, model) group_left () "
    f"quantile by (cluster, instance, model) (0.5, gpu_power_watts{{{GPU}}} {_BUSY_GPU})"
)
SLOW = [
    error_lines(
        "PCIe generation too low under load",
        "The generation of links that could do better, of GPUs that work. Idle ones step down.",
        f"gpu_pcie_link_generation{{{GPU}}} < gpu_pcie_link_generation_max{{{GPU}}} {_BUSY_GPU}",
        "",
        "none",
    ),
    series(
        "SM clock of its highest, of busy GPUs",
        "The eight lowest. Below half without a reason the clock is stuck (GPUClockStuckLow).",
        (
            f"bottomk(8, {share(_SM_CLOCK, _SM_CLOCK_MAX)} {_BUSY_GPU})",
            GPU_LEGEND,
        ),
        unit="percentunit",
        steps=((None, RED), (0.5, GREEN)),
        lines=True,
        highest=1,
        width=8,
        links=[SERIES_TO_DEVICE],
    ),
    series(
        "Power beside its siblings, of busy GPUs",
        "Power draw as a share of the median of the machine's busy GPUs of the same model, at most all of it; the "
        "eight lowest. A hidden slow state shows here only.",
        (f"bottomk(8, {share(_OF_SIBLINGS)})", GPU_LEGEND),
        unit="percentunit",
        steps=((None, RED), (0.6, GREEN)),
        lines=True,
        width=8,
        links=[SERIES_TO_DEVICE],
    ),
]


def _of_hosts(title: str, description: str, expr: str, legend: str, unit: str) -> Panel:
    """From node_exporter, where it is scraped (docs/HOST.md)."""
    return series(
        title,
        description + " From node_exporter.",
        (most(expr), f"{{{{host}}}} {legend}".rstrip()),
        unit=unit,
        width=8,
        empty="none, or no node_exporter",
    )


_LOCAL: Final = 'fstype!~"tmpfs|ramfs|overlay|squashfs|iso9660|nfs.*|lustre|beegfs"'
HOSTS = [
    _of_hosts(
        "InfiniBand ports that are not active",
        "State of ports that are not active: 1 down, 2 being set up, 3 armed.",
        beside("node_infiniband_state_id", 'device=~".+"', " != 4"),
        "{{device}}/{{port}}",
        "none",
    ),
    _of_hosts(
        "InfiniBand links that were lost",
        "How often each port lost its link within the chosen time, of those that did.",
        beside("increase(node_infiniband_link_downed_total", 'device=~".+"', "[$__range]) > 0"),
        "{{device}}/{{port}}",
        "none",
    ),
    _of_hosts(
        "InfiniBand symbol errors",
        "Symbol errors in a second, of the ports that have some. More than ten are a bad cable or transceiver.",
        beside("rate(node_infiniband_symbol_error_total", 'device=~".+"', "[$__rate_interval]) > 0"),
        "{{device}}/{{port}}",
        "cps",
    ),
    _of_hosts(
        "Disks that are nearly full",
        "What is used of local disks of which less than a fifth is left.",
        beside("1 - node_filesystem_avail_bytes", _LOCAL, " / node_filesystem_size_bytes > 0.8"),
        "{{mountpoint}}",
        "percentunit",
    ),
    _of_hosts(
        "Memory that is left",
        "Of the machines that have least: below 5 % the kernel begins to end processes.",
        beside("node_memory_MemAvailable_bytes", 'job=~".+"', " / node_memory_MemTotal_bytes"),
        "",
        "percentunit",
    ),
    _of_hosts(
        "Clocks that are off",
        "What each machine's clock is off by.",
        beside("abs(node_timex_offset_seconds", 'job=~".+"', ")"),
        "",
        "s",
    ),
]
