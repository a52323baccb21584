"""Health: memory errors, links, XIDs, heat; worst first."""

from __future__ import annotations

from typing import Final

from build.dashboard import Dashboard, Row, xids
from build.hardware import FABRIC, HEAT, LINKS, MARGIN, MARGIN_STEPS, MEMORY, SILENT, VOLATILE, WEAR
from build.looks import (
    BAD_ABOVE_ZERO,
    GREEN,
    ORANGE,
    RECOVERY,
    RED,
    SEVERITY,
    UP,
    WARN_ABOVE_ZERO,
    YES_NO,
)
from build.panels import Panel, series, stat
from build.parts import ADDRESS, GPU_COLUMNS, alert_count, alerts, error_lines, per_gpu
from build.promql import FIRING_GPU, GPU, firing, host, most, severities, share
from build.slow import HOSTS, SLOW
from build.tables import Column, table
from build.xid_table import actions, meanings


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
        f"{VOLATILE % 'uncorrected'} > bool 0",
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
        "uncorrected": _of_the_ill(f"sum without (location) ({VOLATILE % 'uncorrected'})"),
        "corrected": _of_the_ill(f"sum without (location) ({VOLATILE % 'corrected'})"),
        "remapped": _of_the_ill(f"sum without (severity) (gpu_remapped_rows{{{GPU}}})"),
        "pending": _of_the_ill(f"gpu_row_remap_pending{{{GPU}}}"),
        "links": _of_the_ill(f'gpu_nvlink_links{{{GPU}, state="inactive"}}'),
        "width": _of_the_ill(share(f"gpu_pcie_link_width{{{GPU}}}", f"gpu_pcie_link_width_max{{{GPU}}}")),
        "margin": _of_the_ill(MARGIN),
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
        "margin": Column(name="Below slowdown", unit="celsius", steps=MARGIN_STEPS, show="color", width=135),
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


_EVENTS = error_lines(
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
        Row("Memory and wear", [(8, MEMORY), (8, WEAR)]),
        Row("Links and fabric", [(8, LINKS), (8, FABRIC[:3]), (8, FABRIC[3:])]),
        Row("Slow without an error", [(8, SLOW)]),
        Row("Heat and silence", [(8, HEAT), (5, [SILENT])]),
        Row("Host and network", [(8, HOSTS[:3]), (8, HOSTS[3:])]),
    ],
)
