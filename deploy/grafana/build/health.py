"""Health: memory errors, links, XIDs, heat; worst first."""

from __future__ import annotations

from typing import Final

from build.dashboard import Dashboard, Row, xids
from build.looks import BAD_ABOVE_ZERO, GREEN, ORANGE, RECOVERY, RED, UP, WARN_ABOVE_ZERO, YELLOW, YES_NO
from build.panels import Panel, series, stat, timeline
from build.parts import ADDRESS, GPU_COLUMNS, SERIES_TO_DEVICE, alert_count, alerts, per_gpu
from build.promql import FIRING_GPU, GPU, GPU_LEGEND, host
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

_GPUS = table(
    "GPUs, worst first",
    "Uncorrected and corrected are ECC errors since the driver was loaded; remapped are rows of memory, and pending "
    "tells that one waits for a reset. n/a is what a board does not have, or what a GPU that is down cannot tell.",
    {
        "alerts": per_gpu(f"count by (cluster, instance, alias, gpu, model) ({FIRING_GPU}) or 0 * gpu_up{{{GPU}}}"),
        "up": per_gpu(f"gpu_up{{{GPU}}}"),
        "action": per_gpu(f"gpu_recovery_action{{{GPU}}}"),
        "uncorrected": per_gpu(f"sum without (location) ({_VOLATILE % 'uncorrected'})"),
        "corrected": per_gpu(f"sum without (location) ({_VOLATILE % 'corrected'})"),
        "remapped": per_gpu(f"sum without (severity) (gpu_remapped_rows{{{GPU}}})"),
        "pending": per_gpu(f"gpu_row_remap_pending{{{GPU}}}"),
        "links": per_gpu(f'gpu_nvlink_links{{{GPU}, state="inactive"}}'),
        "width": per_gpu(f"gpu_pcie_link_width{{{GPU}}} / gpu_pcie_link_width_max{{{GPU}}}"),
        "margin": per_gpu(_MARGIN),
    },
    {
        **GPU_COLUMNS,
        "alerts": Column(name="Alerts", steps=WARN_ABOVE_ZERO, show="tile", width=75),
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


def _lines(title: str, description: str, expr: str, legend: str, unit: str, *, bars: bool = False) -> Panel:
    """Errors over time of the GPUs that have some: a line at zero tells nothing."""
    return series(
        title,
        description,
        (expr, f"{GPU_LEGEND} {legend}".rstrip()),
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
        "max by (cluster, instance, alias, gpu, model) (rate(gpu_clock_event_seconds_total"
        f'{{{GPU}, reason=~"hw_thermal_slowdown|hw_power_brake_slowdown|sw_thermal_slowdown"}}[$__rate_interval])) > 0',
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
    "GPUs that were down within the chosen time: lost, hung, or waiting for a reset.",
    (f"gpu_up{{{GPU}}} and on (cluster, instance, gpu) min_over_time(gpu_up{{{GPU}}}[$__range]) == 0", GPU_LEGEND),
    values=UP,
    show="never",
    links=[SERIES_TO_DEVICE],
    empty="every GPU answered",
)

DASHBOARD: Final = Dashboard(
    uid="gpu-health",
    description="Memory errors, links, XIDs and heat of all GPUs, worst first. Red marks are XID errors.",
    annotations=[xids()],
    rows=[
        Row("What is wrong", [(4, _STATE), (7, [alerts('gpu=~"$gpu|"', width=24)]), (9, [_GPUS])]),
        Row("XID errors", [(7, [_XIDS])]),
        Row("Memory", [(8, _MEMORY)]),
        Row("Links", [(8, _LINKS)]),
        Row("Heat and silence", [(8, _HEAT), (5, [_UP])]),
    ],
)
