"""GPU: everything about one GPU (or some), and what its own limits are."""

from __future__ import annotations

from typing import Final

from build.dashboard import Dashboard, Row, jump, xids
from build.looks import (
    BLUE,
    CLASSES,
    FULL,
    GOOD,
    GREEN,
    GREY,
    ORANGE,
    P_STATES,
    RECOVERY,
    RED,
    UP,
    USE,
    WARN_ABOVE_ZERO,
    YELLOW,
    Names,
)
from build.panels import Json, Panel, colored, limit, series, stat, timeline
from build.parts import ADDRESS, GPU_COLUMNS, SERIES_TO_NODE, alerts, per_gpu, processes
from build.promql import FIRING_GPU, GPU, GPU_LEGEND, gpus_by, host, in_state, power_share, share
from build.tables import Column, table

_REASONS: Final[Names] = {"0": ("no", GREY), "1": ("YES", ORANGE)}
STATES: Final = {
    "active": GREEN,
    "idle_held": ORANGE,
    "idle_free": BLUE,
    "unknown": GREY,
    "down": RED,
}

_STATE = [
    stat("State", "Whether the GPU answers its driver.", f"min(gpu_up{{{GPU}}})", values=UP, steps=GOOD, width=2),
    stat(
        "Asked for",
        "What the driver asks for to make the GPU well again; none is good.",
        f"max(gpu_recovery_action{{{GPU}}})",
        values=RECOVERY,
        steps=GOOD,
        width=3,
        links=[jump("gpu-health")],
    ),
    stat(
        "Alerts",
        "Alerts of these GPUs that fire now.",
        f"count({FIRING_GPU}) or 0 * count(gpu_up{{{GPU}}})",
        steps=WARN_ABOVE_ZERO,
        width=2,
        links=[jump("gpu-health")],
    ),
    stat(
        "Class of use",
        "The score (busy, memory I/O, memory used, power) as a class: idle below 10 %, low below 20 %, normal below "
        "70 %, high above. The lowest where there are several GPUs.",
        f"min(instance_gpu:gpu_score:class{{{GPU}}})",
        values=CLASSES,
        width=2,
        links=[jump("gpu-owners")],
    ),
    stat(
        "Busy",
        "Share of the last five minutes in which a kernel ran; absent in MIG mode.",
        f"avg(instance_gpu:gpu_busy:rate5m{{{GPU}}})",
        unit="percentunit",
        steps=USE,
        spark=True,
        decimals=0,
    ),
    stat(
        "Memory used",
        "Device memory in use, of what is fitted.",
        share(f"sum(gpu_memory_used_bytes{{{GPU}}})", f"sum(gpu_memory_total_bytes{{{GPU}}})"),
        unit="percentunit",
        steps=FULL,
        spark=True,
        decimals=0,
    ),
    stat(
        "Below slowdown",
        "Degrees left to the temperature at which the GPU slows itself down.",
        f'min(gpu_temperature_limit_celsius{{{GPU}, limit="slowdown"}} - ignoring (limit) '
        f"gpu_temperature_celsius{{{GPU}}})",
        unit="celsius",
        steps=((None, RED), (5, ORANGE), (10, YELLOW), (15, GREEN)),
        spark=True,
    ),
    stat(
        "Power, of its limit",
        "Power draw, of the limit in force. Near 100 % is normal under load.",
        power_share(GPU),
        unit="percentunit",
        spark=True,
        decimals=0,
    ),
    stat(
        "P-state",
        "Performance state: P0 is the fastest, P15 the slowest. The slowest where there are several GPUs.",
        f"max(gpu_performance_state{{{GPU}}})",
        values=P_STATES,
        width=3,
    ),
]

_IDENTITY = table(
    "Which GPU this is",
    "Identity, as the driver tells it: what a support case asks for.",
    {"info": host(f"gpu_info{{{GPU}}}")},
    {
        **GPU_COLUMNS,
        "architecture": Column(name="Architecture", width=110),
        "brand": Column(name="Brand", width=110),
        "pci_bus_id": Column(name="PCI bus", width=150),
        "serial": Column(name="Serial"),
        "uuid": Column(name="UUID", width=330),
        "vbios_version": Column(name="VBIOS"),
        "instance": ADDRESS,
    },
    sort="gpu",
    descending=False,
)


def _course(
    title: str,
    description: str,
    *queries: tuple[str, str],
    unit: str,
    highest: float | None = None,
    width: int = 12,
    overrides: tuple[Json, ...] = (),
) -> Panel:
    """A course over time whose legend tells the part, the host, the GPU and the model."""
    return series(
        title,
        description,
        *((expr, f"{GPU_LEGEND} {part}".rstrip()) for expr, part in queries),
        unit=unit,
        highest=highest,
        width=width,
        overrides=overrides,
        links=[SERIES_TO_NODE],
    )


def _rate(counter: str, more: str = "") -> str:
    return f"rate({counter}{{{GPU}{more}}}[$__rate_interval])"


_USE = [
    _course(
        "Busy over time",
        "Share of time in which a kernel ran, and in which memory was read or written: counters, so that nothing is "
        "lost between scrapes. Absent in MIG mode.",
        (f"clamp_max({_rate('gpu_busy_seconds_total')}, 1)", "kernels"),
        (f"clamp_max({_rate('gpu_memory_io_busy_seconds_total')}, 1)", "memory I/O"),
        unit="percentunit",
        highest=1,
    ),
    _course(
        "Memory",
        "Device memory in use; the dashed line is what is fitted.",
        (f"gpu_memory_used_bytes{{{GPU}}}", "used"),
        (f"gpu_memory_reserved_bytes{{{GPU}}}", "reserved by the driver"),
        (f"gpu_memory_total_bytes{{{GPU}}}", "fitted"),
        unit="bytes",
        overrides=(limit("fitted"),),
    ),
]

_HEAT = [
    _course(
        "Temperature and its limits",
        "Core and memory temperature. Dashed: the limits that this board tells of itself (slowdown, shutdown, highest "
        "for its memory).",
        (f"gpu_temperature_celsius{{{GPU}}}", "core"),
        (f"gpu_memory_temperature_celsius{{{GPU}}}", "memory"),
        (f'gpu_temperature_limit_celsius{{{GPU}, limit!="max_operating"}}', "{{limit}} limit"),
        unit="celsius",
        overrides=(limit(" limit"),),
    ),
    _course(
        "Power and its limits",
        "Power draw. Dashed: the limit in force and the board's default.",
        (f"gpu_power_watts{{{GPU}}}", "now"),
        (f"gpu_power_average_watts{{{GPU}}}", "average"),
        (f"gpu_power_limit_watts{{{GPU}}}", "limit"),
        (f"gpu_power_default_limit_watts{{{GPU}}}", "default limit"),
        unit="watt",
        overrides=(limit(" limit"),),
    ),
]

_CLOCKS = [
    _course(
        "Clocks",
        "Clocks of multiprocessors and memory. Dashed: the highest that the board can run at.",
        (f'gpu_clock_hertz{{{GPU}, clock=~"sm|memory"}}', "{{clock}}"),
        (f'gpu_clock_max_hertz{{{GPU}, clock=~"sm|memory"}}', "{{clock}} max"),
        unit="hertz",
        overrides=(limit(" max", BLUE),),
    ),
    _course(
        "Time held back, by reason",
        "Share of time for which each reason held the clocks down, from the driver's counters. sw_power_cap is the "
        "power limit and normal under load.",
        (f"clamp_max({_rate('gpu_clock_event_seconds_total')}, 1)", "{{reason}}"),
        unit="percentunit",
    ),
]

_REASONS_SHOWN: Final = (
    "sw_power_cap|hw_slowdown|sw_thermal_slowdown|hw_thermal_slowdown|hw_power_brake_slowdown|gpu_idle"
)
_TIMELINES = [
    timeline(
        "Why the clocks are low",
        "One strip a reason: orange while it holds the clocks below what they could be. gpu_idle and sw_power_cap are "
        "normal; thermal and power brake are not.",
        (f'gpu_clock_event_active{{{GPU}, reason=~"{_REASONS_SHOWN}"}}', f"{GPU_LEGEND} {{{{reason}}}}"),
        values=_REASONS,
        show="never",
    ),
    timeline(
        "Performance state",
        "P0 is the fastest. Data-centre boards stay in P0; others step down when idle.",
        (f"gpu_performance_state{{{GPU}}}", GPU_LEGEND),
        values=P_STATES,
        width=12,
    ),
    timeline(
        "Answered its driver",
        "Down is lost, hung, or waiting for a reset; a gap is an exporter that was not scraped.",
        (f"gpu_up{{{GPU}}}", GPU_LEGEND),
        values=UP,
        width=12,
    ),
]

_TRAFFIC = [
    _course(
        "PCIe",
        "Bytes over PCIe; most GPUs older than Hopper cannot tell.",
        (_rate("gpu_pcie_transmit_bytes_total"), "sent"),
        (_rate("gpu_pcie_receive_bytes_total"), "received"),
        unit="Bps",
        width=6,
    ),
    _course(
        "NVLink",
        "Payload over all NVLinks of the GPU.",
        (_rate("gpu_nvlink_transmit_bytes_total"), "sent"),
        (_rate("gpu_nvlink_receive_bytes_total"), "received"),
        unit="Bps",
        width=6,
    ),
    _course(
        "Video and image engines",
        "Utilization of encoder, decoder, JPEG engine and optical flow accelerator.",
        *((f"gpu_{engine}_utilization_ratio{{{GPU}}}", engine) for engine in ("encoder", "decoder", "jpeg", "ofa")),
        unit="percentunit",
        highest=1,
        width=6,
    ),
    _course(
        "Fans",
        "Intended speed of each fan; boards that the chassis cools have none.",
        (share(f"gpu_fan_speed_ratio{{{GPU}}}"), "fan {{fan}}"),
        unit="percentunit",
        highest=1,
        width=6,
    ),
]

_ON: Final[Names] = {"0": ("off", GREY), "1": ("on", BLUE)}
_MODES = table(
    "Modes and links",
    "How the GPU is set up, and how it is connected now. Idle GPUs step down to a lower PCIe generation.",
    {
        "ecc": per_gpu(f"gpu_ecc_enabled{{{GPU}}}"),
        "mig": per_gpu(f"gpu_mig_mode_enabled{{{GPU}}}"),
        "persistence": per_gpu(f"gpu_persistence_mode_enabled{{{GPU}}}"),
        "compute": per_gpu(f"gpu_compute_mode{{{GPU}}}"),
        "generation": per_gpu(f"gpu_pcie_link_generation{{{GPU}}}"),
        "width": per_gpu(f"gpu_pcie_link_width{{{GPU}}}"),
        "lanes": per_gpu(f"gpu_pcie_link_width_max{{{GPU}}}"),
        "nvlinks": per_gpu(f'gpu_nvlink_links{{{GPU}, state="active"}}'),
        "fabric": per_gpu(f"gpu_fabric_state{{{GPU}}}"),
        "bar": per_gpu(share(f"gpu_bar1_memory_used_bytes{{{GPU}}}", f"gpu_bar1_memory_total_bytes{{{GPU}}}")),
    },
    {
        **GPU_COLUMNS,
        "ecc": Column(name="ECC", values=_ON, show="color", width=70),
        "mig": Column(name="MIG", values=_ON, show="color", width=70),
        "persistence": Column(name="Persistence", values=_ON, show="color", width=110),
        "compute": Column(
            name="Compute mode",
            values={"0": ("default", BLUE), "2": ("prohibited", ORANGE), "3": ("one process", BLUE)},
            show="color",
            width=130,
        ),
        "generation": Column(name="PCIe generation", width=140),
        "width": Column(name="PCIe lanes", width=100),
        "lanes": Column(name="Lanes possible", width=130),
        "nvlinks": Column(name="NVLinks active", width=130),
        "fabric": Column(
            name="Fabric",
            values={"1": ("not started", ORANGE), "2": ("in progress", YELLOW), "3": ("completed", GREEN)},
            show="color",
            width=110,
        ),
        "bar": Column(name="BAR1 used", unit="percentunit", decimals=0),
    },
    sort="gpu",
    descending=False,
)

_OWNERS = [
    series(
        "Who held it",
        "GPUs held by each owner, split by memory where they share one. 1 is one whole GPU.",
        (
            f"sum by (owner_kind, owner, namespace) ({gpus_by('gpu_owner_seconds_total', GPU)})",
            "{{owner_kind}} {{namespace}} {{owner}}",
        ),
        unit="none",
        stacked=True,
        links=[jump("gpu-owners", owner="${__field.labels.owner}")],
    ),
    series(
        "What it did",
        "Active: something ran. Idle held: somebody holds its memory, or was given it, and nothing ran. Unknown: MIG "
        "mode, where the driver does not tell.",
        *((f"sum({gpus_by('gpu_state_seconds_total', in_state(state))})", state) for state in STATES),
        unit="none",
        stacked=True,
        overrides=[colored(state, color) for state, color in STATES.items()],
    ),
]

_ERRORS = table(
    "Errors and wear",
    "Since the driver was loaded; n/a is what a board does not have. Pending rows wait for a reset; a remap that "
    "failed means: replace the board.",
    {
        "uncorrected": per_gpu(
            f'sum without (location) (gpu_ecc_errors_total{{{GPU}, severity="uncorrected", lifetime="volatile"}})'
        ),
        "corrected": per_gpu(
            f'sum without (location) (gpu_ecc_errors_total{{{GPU}, severity="corrected", lifetime="volatile"}})'
        ),
        "remapped": per_gpu(f"sum without (severity) (gpu_remapped_rows{{{GPU}}})"),
        "pending": per_gpu(f"gpu_row_remap_pending{{{GPU}}}"),
        "failure": per_gpu(f"gpu_row_remap_failure{{{GPU}}}"),
        "replays": per_gpu(f"increase(gpu_pcie_replays_total{{{GPU}}}[$__range])"),
        "inactive": per_gpu(f'gpu_nvlink_links{{{GPU}, state="inactive"}}'),
        "banks": per_gpu(f'sum without (spare) (gpu_row_remap_banks{{{GPU}, spare=~"low|none"}})'),
        "repair": per_gpu(f"sum without (kind) (gpu_repair_pending{{{GPU}}})"),
        "fabric": per_gpu(f"sum without (condition) (gpu_fabric_health{{{GPU}}})"),
        "aer": per_gpu(
            f'sum without (kind) (increase(gpu_pcie_aer_errors_total{{{GPU}, kind=~"fatal|non_fatal"}}[$__range]))'
        ),
        "read": per_gpu(f"sum without (reason) (increase(gpu_read_errors_total{{{GPU}}}[$__range]))"),
    },
    {
        **GPU_COLUMNS,
        "uncorrected": Column(name="ECC uncorrected", width=145, steps=((None, GREEN), (1, RED)), show="color"),
        "corrected": Column(name="ECC corrected", width=125),
        "remapped": Column(name="Rows remapped", width=130, steps=WARN_ABOVE_ZERO, show="color"),
        "pending": Column(name="Remap pending", width=130, steps=WARN_ABOVE_ZERO, show="color"),
        "failure": Column(name="Remap failed", width=120, steps=((None, GREEN), (1, RED)), show="color"),
        "replays": Column(name="PCIe replays", width=110, decimals=0),
        "inactive": Column(name="NVLinks down", width=125, steps=((None, GREEN), (1, RED)), show="color"),
        "banks": Column(name="Few spare rows", width=130, steps=WARN_ABOVE_ZERO, show="color"),
        "repair": Column(name="Repairs pending", width=130, steps=WARN_ABOVE_ZERO, show="color"),
        "fabric": Column(name="Fabric faults", width=115, steps=((None, GREEN), (1, RED)), show="color"),
        "aer": Column(name="PCIe uncorrected", width=135, steps=WARN_ABOVE_ZERO, show="color", decimals=0),
        "read": Column(name="Failed readings", decimals=0),
    },
    sort="uncorrected",
)

_WEAR = [
    _course(
        "Banks of memory by spare rows",
        "Banks that have lost spare rows, by how many are left; the others have all of them.",
        (f'gpu_row_remap_banks{{{GPU}, spare!="max"}}', "{{spare}}"),
        unit="none",
        width=6,
    ),
    _course(
        "NVLink errors by link and kind",
        "Since the driver counts, of the links that had some.",
        (f"gpu_nvlink_link_errors_total{{{GPU}}}", "link {{link}} {{kind}}"),
        unit="none",
        width=6,
    ),
    _course(
        "PCIe errors",
        "Errors in a second as the GPU counts them (AER), by kind; fatal and non_fatal were not corrected.",
        (_rate("gpu_pcie_aer_errors_total"), "{{kind}}"),
        unit="cps",
        width=6,
    ),
    _course(
        "Events and fabric",
        "Events of the driver that have no XID number, by kind, and conditions of the NVLink fabric that are faults.",
        (f"increase(gpu_events_total{{{GPU}}}[$__rate_interval])", "{{event}}"),
        (f"gpu_fabric_health{{{GPU}}} == 1", "{{condition}}"),
        unit="none",
        width=6,
    ),
]

DASHBOARD: Final = Dashboard(
    uid="gpu-device",
    single=("instance", "gpu"),
    description="Everything about one GPU; choose it above, or come from a table. Red marks are its XID errors.",
    annotations=[xids()],
    rows=[
        Row("State", [(5, _STATE), (4, [_IDENTITY])]),
        Row("Use and memory", [(9, _USE)]),
        Row("Heat, power, clocks", [(9, _HEAT), (9, _CLOCKS), (7, _TIMELINES[:1]), (4, _TIMELINES[1:])]),
        Row("Who holds it", [(8, _OWNERS), (7, [processes()])]),
        Row("Links, engines, fans", [(8, _TRAFFIC), (4, [_MODES])]),
        Row("Health", [(5, [_ERRORS]), (8, _WEAR), (6, [alerts('gpu=~"$gpu"', width=24)])]),
    ],
)
