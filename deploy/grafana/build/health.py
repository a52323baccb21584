"""Health: memory errors, links, XIDs, heat; worst first."""

from __future__ import annotations

from typing import Final

from build.dashboard import Dashboard, Row, xids
from build.looks import (
    BAD_ABOVE_ZERO,
    GREEN,
    ORANGE,
    RECOVERY,
    RED,
    SEVERITY,
    UP,
    WARN_ABOVE_ZERO,
    YELLOW,
    YES_NO,
)
from build.panels import Panel, series, stat, timeline
from build.parts import ADDRESS, GPU_COLUMNS, SERIES_TO_DEVICE, alert_count, alerts, per_gpu
from build.promql import FIRING_GPU, GPU, GPU_LEGEND, HOST_LEGEND, NODE, beside, firing, host, most, severities
from build.tables import Column, table
from build.xid_table import actions, meanings

_MARGIN: Final = (
    f'gpu_temperature_limit_celsius{{{GPU}, limit="slowdown"}} - ignoring (limit) gpu_temperature_celsius{{{GPU}}}'
)
_VOLATILE: Final = f'gpu_ecc_errors_total{{{GPU}, severity="%s", lifetime="volatile"}}'
_MARGIN_STEPS: Final = ((None, RED), (5, ORANGE), (10, YELLOW), (15, GREEN))  # 5: GPUTemperatureNearSlowdown


def _count(title: str, description: str, condition: str, *, bad: bool = True) -> Panel:
    """How many GPUs a condition holds for; n/a where no GPU has such a reading."""
    return stat(
        title,
        description,
        f"sum(max by (cluster, instance, gpu) ({condition}))",
        steps=BAD_ABOVE_ZERO if bad else WARN_ABOVE_ZERO,
        width=3,
    )


def _twice(expression: str) -> str:
    """The label xid as two more columns, which are shown as meaning and as action."""
    return f'label_replace(label_replace({expression}, "meaning", "$1", "xid", "(.+)"), "action", "$1", "xid", "(.+)")'


_STATE = [
    alert_count("Critical alerts", "critical", width=3, steps=BAD_ABOVE_ZERO),
    alert_count("Warnings", "warning", width=3, steps=WARN_ABOVE_ZERO),
    _count("GPUs down", "GPUs that are lost, hang or wait for a reset.", f"1 - gpu_up{{{GPU}}}"),
    _count(
        "Action asked for",
        "GPUs for which the driver asks for a reset, a reboot or the like.",
        f"gpu_recovery_action{{{GPU}}} > bool 0",
    ),
    _count(
        "Uncorrected ECC",
        "GPUs with uncorrected memory errors since the driver was loaded or the GPU reset.",
        f"{_VOLATILE % 'uncorrected'} > bool 0",
    ),
    _count(
        "Remap failed",
        "GPUs with a memory row that could not be remapped: replace the board.",
        f"gpu_row_remap_failure{{{GPU}}}",
    ),
    _count(
        "Waiting for a reset",
        "GPUs with a memory row that is remapped by the next reset.",
        f"gpu_row_remap_pending{{{GPU}}}",
        bad=False,
    ),
    _count(
        "NVLink down",
        "GPUs with at least one inactive NVLink.",
        f'gpu_nvlink_links{{{GPU}, state="inactive"}} > bool 0',
    ),
]

# GPUs of which an alert tells, and those that are down: of a large fleet the others would be a thousand rows.
_ILL: Final = f"and on (cluster, instance, gpu) ({FIRING_GPU} or gpu_up{{{GPU}}} == 0)"


def _of_the_ill(expression: str) -> str:
    return per_gpu(f"({expression}) {_ILL}")


_GPUS = table(
    "GPUs with something wrong, worst first",
    "GPUs of which an alert tells, by its severity, and those that are down. Uncorrected and corrected are ECC errors "
    "since the driver was loaded; remapped are rows of memory, and pending tells that one waits for a reset. n/a is "
    "what a board does not have, or what a GPU that is down cannot tell.",
    {
        "alerts": per_gpu(severities('gpu=~"$gpu"') + f"\nor 3 * (gpu_up{{{GPU}}} == bool 0) > 0"),
        "up": _of_the_ill(f"gpu_up{{{GPU}}}"),
        "action": _of_the_ill(f"gpu_recovery_action{{{GPU}}}"),
        "uncorrected": _of_the_ill(f"sum without (location) ({_VOLATILE % 'uncorrected'})"),
        "corrected": _of_the_ill(f"sum without (location) ({_VOLATILE % 'corrected'})"),
        "remapped": _of_the_ill(f"sum without (severity) (gpu_remapped_rows{{{GPU}}})"),
        "pending": _of_the_ill(f"gpu_row_remap_pending{{{GPU}}}"),
        "links": _of_the_ill(f'gpu_nvlink_links{{{GPU}, state="inactive"}}'),
        "width": _of_the_ill(f"gpu_pcie_link_width{{{GPU}}} / gpu_pcie_link_width_max{{{GPU}}}"),
        "margin": _of_the_ill(_MARGIN),
    },
    {
        **GPU_COLUMNS,
        "alerts": Column(name="Worst", values=SEVERITY, show="tile", width=85),
        "up": Column(name="State", values=UP, show="color", width=75),
        "action": Column(name="Asked for", values=RECOVERY, show="color", width=120),
        "uncorrected": Column(name="Uncorrected", steps=BAD_ABOVE_ZERO, show="color", width=110),
        "corrected": Column(name="Corrected", width=100),
        "remapped": Column(name="Remapped", steps=WARN_ABOVE_ZERO, show="color", width=100),
        "pending": Column(name="Pending", values=YES_NO, show="color", width=85),
        "links": Column(name="NVLinks down", steps=BAD_ABOVE_ZERO, show="color", width=120),
        "width": Column(
            name="PCIe width", unit="percentunit", steps=((None, ORANGE), (1, GREEN)), show="color", width=100
        ),
        "margin": Column(name="Below slowdown", unit="celsius", steps=_MARGIN_STEPS, show="color", width=135),
        "instance": ADDRESS,
    },
    sort="alerts",
    empty="nothing is wrong",
)

_XID_LABELS: Final = "cluster, instance, alias, gpu, model, xid"
_XIDS = table(
    "XID errors: what happened, and what to do",
    "XIDs since each exporter started, with NVIDIA's classes (docs/runbooks/XID.md tells more). Read the first of a "
    "burst; 45 and 154 only follow from another. XIDs without a meaning here have no action in NVIDIA's catalogue.",
    {
        "age": _twice(host(f"max by ({_XID_LABELS}) (time() - gpu_xid_last_timestamp_seconds{{{GPU}}})")),
        "count": _twice(host(f"max by ({_XID_LABELS}) (last_over_time(gpu_xid_errors_total{{{GPU}}}[$__range]))")),
    },
    {
        **GPU_COLUMNS,
        "xid": Column(name="XID", width=60),
        "age": Column(name="Ago", unit="dtdurations", steps=((None, RED), (3600, ORANGE), (86400, GREEN)), width=170),
        "meaning": Column(name="What happened", values=meanings()),
        "action": Column(name="What to do", values=actions(), show="color", width=190),
        "count": Column(name="Times", width=70),
        "instance": ADDRESS,
    },
    sort="age",
    descending=False,
    empty="no XID error",
)


_XIDS_OVER_TIME = series(
    "XIDs over time",
    "GPUs by the number of an XID that came within the last five minutes.",
    (most(f"count by (xid) (time() - gpu_xid_last_timestamp_seconds{{{GPU}}} < 300)"), "XID {{xid}}"),
    unit="none",
    bars=True,
    stacked=True,
    width=8,
    empty="no XID error",
)


def _lines(title: str, description: str, expr: str, legend: str, unit: str, *, bars: bool = False) -> Panel:
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


_MEMORY = [
    _lines(
        "ECC errors, uncorrected",
        "New uncorrected memory errors, of the GPUs that had some.",
        f"sum without (location) (increase({_VOLATILE % 'uncorrected'}[$__rate_interval])) > 0",
        "",
        "none",
        bars=True,
    ),
    _lines(
        "ECC errors, corrected",
        "Corrected memory errors in a second, of the GPUs that had some. They cost nothing; a flood of them announces "
        "worse.",
        f"sum without (location) (rate({_VOLATILE % 'corrected'}[$__rate_interval])) > 0",
        "",
        "cps",
        bars=True,
    ),
    _lines(
        "Rows remapped and pages retired",
        "Memory taken out of use over the life of the board, of the GPUs that have some. 512 rows: replace it.",
        f"gpu_remapped_rows{{{GPU}}} > 0 or gpu_retired_pages{{{GPU}}} > 0",
        "{{severity}}{{cause}}",
        "none",
    ),
]

_LINKS = [
    _lines(
        "NVLink errors",
        "NVLink errors in a second by kind, of the GPUs that had some.",
        f"rate(gpu_nvlink_errors_total{{{GPU}}}[$__rate_interval]) > 0",
        "{{kind}}",
        "cps",
        bars=True,
    ),
    _lines(
        "PCIe replays",
        "PCIe packets that had to be sent again, in a minute, of the GPUs that had some. Above 16 a minute (Gen 4, 16 "
        "lanes) the link is bad.",
        f"60 * rate(gpu_pcie_replays_total{{{GPU}}}[$__rate_interval]) > 0",
        "",
        "cpm",
        bars=True,
    ),
    _lines(
        "PCIe lanes in use",
        "Lanes of the GPUs that use fewer than GPU and slot could: dust, a bad riser or slot.",
        f"gpu_pcie_link_width{{{GPU}}} < gpu_pcie_link_width_max{{{GPU}}}",
        "",
        "none",
    ),
]

_HEAT = [
    series(
        "Degrees below slowdown",
        "What is left to the temperature at which each GPU slows itself down; the eight that came closest.",
        (f"bottomk(8, {_MARGIN})", GPU_LEGEND),
        unit="celsius",
        steps=_MARGIN_STEPS,
        lines=True,
        width=8,
        calcs=("lastNotNull", "min"),
        links=[SERIES_TO_DEVICE],
    ),
    _lines(
        "Held back by heat or power supply",
        "Share of time, of the GPUs that were.",
        "clamp_max(max by (cluster, instance, alias, gpu, model) (rate(gpu_clock_event_seconds_total"
        f'{{{GPU}, reason=~"hw_.+|sw_thermal_slowdown"}}[$__rate_interval])), 1) > 0',
        "",
        "percentunit",
    ),
    _lines(
        "Failed readings",
        "Readings of GPUs that failed, in a minute and by what the driver answered.",
        f"60 * rate(gpu_read_errors_total{{{GPU}}}[$__rate_interval]) > 0",
        "{{reason}}",
        "cpm",
        bars=True,
    ),
]

_UP = timeline(
    "GPUs that did not answer",
    "GPUs that were down within the chosen time: lost, hung, or waiting for a reset. The thirty that were longest.",
    (
        f"gpu_up{{{GPU}}} and on (cluster, instance, gpu) bottomk(30, avg_over_time(gpu_up{{{GPU}}}[$__range]) < 1)",
        GPU_LEGEND,
    ),
    values=UP,
    show="never",
    links=[SERIES_TO_DEVICE],
    empty="every GPU answered",
)

_WEAR = [
    _lines(
        "Few spare rows, and repairs that wait for a reset",
        "Banks of memory with few or no spare rows left (told in MIG mode too), and memory channels or processor "
        "clusters that the next reset puts out of use, of the GPUs that have some.",
        f'sum without (spare) (gpu_row_remap_banks{{{GPU}, spare=~"low|none"}}) > 0 or gpu_repair_pending{{{GPU}}} > 0',
        "{{kind}}",
        "none",
    ),
    _lines(
        "Uncorrected SRAM errors by unit",
        "Over the life of the board, by the unit of the chip that they were in, of the GPUs that had some.",
        f"gpu_sram_uncorrected_errors_total{{{GPU}}} > 0",
        "{{unit}}",
        "none",
    ),
    series(
        "Life left of power smoothing",
        "GB200 and GB300: what is left of the life of the circuit that smooths power, of the eight that have least. "
        "XID 164 comes when it is nearly used up.",
        (f"bottomk(8, gpu_power_smoothing_lifetime_ratio{{{GPU}}})", GPU_LEGEND),
        unit="percentunit",
        steps=((None, RED), (0.1, GREEN)),
        lines=True,
        width=8,
        links=[SERIES_TO_DEVICE],
    ),
]

_NOT_JOINED: Final = (
    f"count(gpu_fabric_state{{{GPU}}} > 0 < 3 or gpu_fabric_status{{{GPU}}} > 0) or 0 * count(gpu_up{{{GPU}}})"
)
_FABRIC = [
    series(
        "GPUs that are not joined to their fabric",
        "GPUs of NVSwitch boards whose registration with the fabric manager is not complete, or was without success: "
        "CUDA fails there, or has no NVLink.",
        (_NOT_JOINED, "GPUs"),
        unit="none",
        steps=BAD_ABOVE_ZERO,
        width=8,
    ),
    _lines(
        "What is wrong with the fabric",
        "Conditions of the NVLink fabric that are faults, of the GPUs that have some: 1 while it is so.",
        f"gpu_fabric_health{{{GPU}}} == 1",
        "{{condition}}",
        "none",
    ),
    _lines(
        "NVLink errors by link",
        "Errors of single links since the driver counts, of the links that had some. One link that stands out is a "
        "cable, a module or a port.",
        f"gpu_nvlink_link_errors_total{{{GPU}}} > 0",
        "link {{link}} {{kind}}",
        "none",
    ),
    _lines(
        "PCIe errors by kind",
        "Errors of the PCIe link in a minute as the GPU counts them (AER), of the GPUs that had some. fatal and "
        "non_fatal were not corrected.",
        f"60 * rate(gpu_pcie_aer_errors_total{{{GPU}}}[$__rate_interval]) > 0",
        "{{kind}}",
        "cpm",
        bars=True,
    ),
    _lines(
        "C2C errors",
        "Errors in a minute of the links to the CPU of the module (Grace), of the GPUs that had some.",
        f"60 * rate(gpu_c2c_errors_total{{{GPU}}}[$__rate_interval]) > 0",
        "{{kind}}",
        "cpm",
        bars=True,
    ),
    series(
        "Faults of NVSwitches",
        "SXids of each machine since its boot, from the kernel log (docs/EVENTS.md). XID.md of the runbooks has them.",
        (most(f"gpu_nvswitch_sxid_errors_total{{{NODE}}}"), f"{HOST_LEGEND} {{{{pci_bus_id}}}} SXid {{{{sxid}}}}"),
        unit="none",
        width=8,
        empty="none, or no kernel log",
    ),
]

_BUSY_GPU: Final = f"and on (cluster, instance, gpu) gpu_utilization_ratio{{{GPU}}} > 0.5"
_OF_SIBLINGS: Final = (
    f"(gpu_power_watts{{{GPU}}} {_BUSY_GPU}) / on (cluster, instance, model) group_left () "
    f"quantile by (cluster, instance, model) (0.5, gpu_power_watts{{{GPU}}} {_BUSY_GPU})"
)
_SLOW = [
    _lines(
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
            f'bottomk(8, gpu_clock_hertz{{{GPU}, clock="sm"}} / gpu_clock_max_hertz{{{GPU}, clock="sm"}} {_BUSY_GPU})',
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
        "Power draw as a share of the median of the machine's busy GPUs of the same model; the eight lowest. A hidden "
        "slow state shows here only.",
        (f"bottomk(8, {_OF_SIBLINGS})", GPU_LEGEND),
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
_HOSTS = [
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

_EVENTS = _lines(
    "Events of the driver over time",
    "Events that have no XID number, of the GPUs that had some; docs/runbooks/XID.md tells what each means.",
    f"increase(gpu_events_total{{{GPU}}}[$__rate_interval]) > 0",
    "{{event}}",
    "none",
    bars=True,
)

_MORE = [
    _EVENTS,
    series(
        "Alerts over time",
        "Our alerts that fired, by name; the twenty with the most machines and GPUs.",
        (most(f"count by (alertname) ({firing()})"), "{{alertname}}"),
        unit="none",
        stacked=True,
        width=8,
        empty="nothing fired",
    ),
]

DASHBOARD: Final = Dashboard(
    uid="gpu-health",
    description="Memory errors, links, XIDs and heat of GPUs and their hosts, worst first. Red marks are XID errors.",
    annotations=[xids()],
    rows=[
        Row("What is wrong", [(4, _STATE), (7, [alerts('gpu=~"$gpu|"', width=24)]), (9, [_GPUS])]),
        Row("XID errors and events", [(7, [_XIDS]), (8, [_XIDS_OVER_TIME, *_MORE])]),
        Row("Memory and wear", [(8, _MEMORY), (8, _WEAR)]),
        Row("Links and fabric", [(8, _LINKS), (8, _FABRIC[:3]), (8, _FABRIC[3:])]),
        Row("Slow without an error", [(8, _SLOW)]),
        Row("Heat and silence", [(8, _HEAT), (5, [_UP])]),
        Row("Host and network", [(8, _HOSTS[:3]), (8, _HOSTS[3:])]),
    ],
)
