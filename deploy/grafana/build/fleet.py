"""Fleet: is anything broken, is anything wasted, which machine to look at."""

from __future__ import annotations

from typing import Final

from build.dashboard import Dashboard, Row, carbon, jump, price
from build.looks import (
    BAD_ABOVE_ZERO,
    CLASSES,
    FULL,
    GREEN,
    GREY,
    HEAT,
    ORANGE,
    PLAIN,
    RED,
    SEVERITY,
    UP,
    USE,
    WARN_ABOVE_ZERO,
    YELLOW,
)
from build.panels import NOT_THERE, colored, gauges, series, stat, strip
from build.parts import ADDRESS, ROW_TO_NODE, SERIES_TO_DEVICE, SERIES_TO_NODE, alert_count, alerts, idle_held, per_host
from build.promql import GPU_LEGEND, HOST_LEGEND, NODE, most, severities, share
from build.tables import Column, table

_MOST_TILES: Final = 256
_BY_HOST: Final = "by (cluster, instance, alias)"
_EXPECTED: Final = f'gpu_exporter_gpus{{{NODE}, state="expected"}}'
_FOUND: Final = f'gpu_exporter_gpus{{{NODE}, state="found"}}'

_STATE = [
    stat("Hosts up", "Exporters that Prometheus can scrape.", f"sum(up{{{NODE}}})", width=3),
    stat(
        "Hosts down",
        "Exporters that Prometheus cannot scrape: nobody watches their GPUs (GPUExporterDown).",
        f"count(up{{{NODE}}} == 0) or 0 * count(up{{{NODE}}})",
        steps=BAD_ABOVE_ZERO,
        width=3,
        links=[jump("gpu-exporter")],
    ),
    stat("GPUs up", "GPUs that answer their driver.", f"sum(gpu_up{{{NODE}}})", width=3),
    stat(
        "GPUs down",
        "GPUs that are lost, hang or wait for a reset, and those that a machine should have and does not list.",
        f"sum(1 - gpu_up{{{NODE}}})\n"
        f"+ (sum(clamp_min({_EXPECTED} - ignoring (state) {_FOUND}, 0)) or 0 * sum(gpu_up{{{NODE}}}))",
        steps=BAD_ABOVE_ZERO,
        width=3,
        links=[jump("gpu-health")],
    ),
    alert_count("Critical alerts", "critical", width=3, steps=BAD_ABOVE_ZERO),
    alert_count("Warnings", "warning", width=3, steps=WARN_ABOVE_ZERO),
    stat(
        "GPUs busy",
        "Share of the last five minutes in which a kernel ran: the mean over all GPUs that can tell (MIG cannot).",
        f"avg(instance_gpu:gpu_busy:rate5m{{{NODE}}})",
        unit="percentunit",
        steps=USE,
        width=3,
        decimals=0,
    ),
    stat(
        "Memory used",
        "Device memory in use, of all that is fitted.",
        share(f"sum(gpu_memory_used_bytes{{{NODE}}})", f"sum(gpu_memory_total_bytes{{{NODE}}})"),
        unit="percentunit",
        steps=FULL,
        width=3,
        decimals=0,
    ),
]

_SPENT = [
    stat(
        "Power now",
        "What all GPUs draw; their hosts draw more.",
        f"sum(gpu_power_watts{{{NODE}}})",
        unit="watt",
        spark=True,
        width=5,
    ),
    stat(
        "Energy today",
        "Energy that all GPUs drew since midnight.",
        f"sum(increase(gpu_energy_joules_total{{{NODE}}}[$__range])) / 3.6e6",
        unit="kwatth",
        width=5,
        decimals=2,
        time_from="now/d",
    ),
    stat(
        "CO₂ today",
        "What that energy emitted, at the grams of a kilowatt hour above.",
        f"sum(increase(gpu_energy_joules_total{{{NODE}}}[$__range])) / 3.6e6 * $carbon / 1000",
        unit="masskg",
        steps=PLAIN,
        width=4,
        decimals=1,
        time_from="now/d",
    ),
    idle_held(width=4),
    stat(
        "Idle cost today",
        "GPU hours since midnight in which a GPU was held and idle, at the price above.",
        f'sum(increase(gpu_state_seconds_total{{{NODE}, state="idle_held"}}[$__range])) / 3600 * $price',
        unit="currencyUSD",
        steps=PLAIN,
        width=6,
        decimals=2,
        time_from="now/d",
        links=[jump("gpu-owners")],
    ),
]

_WORST = [
    alerts(width=14),
    gauges(
        "Closest to slowing down",
        "The six GPUs with the least margin to the temperature at which they slow themselves down.",
        f'bottomk(6, gpu_temperature_limit_celsius{{{NODE}, limit="slowdown"}} - ignoring (limit) '
        f"gpu_temperature_celsius{{{NODE}}})",
        legend=GPU_LEGEND,
        unit="celsius",
        steps=((None, RED), (5, ORANGE), (10, YELLOW), (15, GREEN)),  # 5: GPUTemperatureNearSlowdown
        width=10,
        highest=60,
        decimals=0,
        links=[SERIES_TO_DEVICE],
    ),
]

_HOSTS = table(
    "Hosts",
    "One row a machine; its name leads to its dashboard. Busy and memory are of all its GPUs, the temperature is that "
    "of the hottest.",
    {
        "alerts": per_host(f"max {_BY_HOST} (\n{severities()}\n) or 0 * up{{{NODE}}}"),
        "scraped": per_host(f"up{{{NODE}}}"),
        "gpus": per_host(f"sum {_BY_HOST} (gpu_up{{{NODE}}})"),
        "down": per_host(f"sum {_BY_HOST} (1 - gpu_up{{{NODE}}})"),
        "busy": per_host(f"avg {_BY_HOST} (instance_gpu:gpu_busy:rate5m{{{NODE}}})"),
        "memory": per_host(
            share(
                f"sum {_BY_HOST} (gpu_memory_used_bytes{{{NODE}}})",
                f"sum {_BY_HOST} (gpu_memory_total_bytes{{{NODE}}})",
            )
        ),
        "hottest": per_host(f"gpu_temperature_celsius{{{NODE}}}"),
        "power": per_host(f"sum {_BY_HOST} (gpu_power_watts{{{NODE}}})"),
        "held": per_host(
            "count by (cluster, instance, alias) (count by (cluster, instance, alias, gpu)"
            f" (instance_gpu_owner:gpu_idle_held:rate5m{{{NODE}}})) or 0 * up{{{NODE}}}"
        ),
    },
    {
        "host": Column(name="Host", link=ROW_TO_NODE, width=160),
        "scraped": Column(name="Exporter", values=UP, show="color", width=90),
        "alerts": Column(name="Worst alert", values={"0": ("none", GREY), **SEVERITY}, show="tile", width=105),
        "gpus": Column(name="GPUs up", width=90),
        "down": Column(name="GPUs down", steps=BAD_ABOVE_ZERO, show="tile", width=100),
        "busy": Column(name="Busy", unit="percentunit", steps=USE, show="gauge", highest=1, decimals=0),
        "memory": Column(name="Memory used", unit="percentunit", steps=FULL, show="gauge", highest=1, decimals=0),
        "hottest": Column(name="Hottest GPU", unit="celsius", steps=HEAT, show="color", width=115),
        "power": Column(name="Power", unit="watt", decimals=1, width=100),
        "held": Column(name="Idle but held", steps=WARN_ABOVE_ZERO, show="color", width=120),
        "instance": ADDRESS,
    },
    sort="alerts",
)

_TILES = stat(
    "Every GPU: busy share of the last five minutes",
    "One tile a GPU, which leads to its dashboard. Grey-blue is idle (below 10 %), light blue is low (below 20 %), "
    f"green works, red is down. Above {_MOST_TILES} GPUs this stays empty: choose a cluster or some instances.",
    f"(\n  (gpu_up{{{NODE}}} == 0) - 1\n  or instance_gpu:gpu_busy:rate5m{{{NODE}}}\n  or 0 * gpu_up{{{NODE}}} - 2\n)\n"
    f"and on () count(gpu_up{{{NODE}}}) <= {_MOST_TILES}",
    legend=GPU_LEGEND,
    unit="percentunit",
    steps=USE,
    values={"-1": ("down", RED), "-2": (NOT_THERE, GREY)},
    tiles=True,
    decimals=0,
    width=24,
    links=[SERIES_TO_DEVICE],
    empty=f"no reading, or more than {_MOST_TILES} GPUs: choose fewer",
)

_BUSY = strip(
    "Busy by host",
    "Mean over the GPUs of each host, in the colours above; of a large fleet the thirty that are least busy. A gap: "
    "nothing was scraped.",
    f"bottomk(30, clamp_max(avg {_BY_HOST} (rate(gpu_busy_seconds_total{{{NODE}}}[$__rate_interval])), 1))",
    legend=HOST_LEGEND,
    unit="percentunit",
    steps=USE,
    links=[SERIES_TO_NODE],
)

_MOST_POWER: Final = most(f"sum {_BY_HOST} (gpu_power_watts{{{NODE}}})")
_COURSE = [
    series(
        "GPUs by class of use",
        "GPUs by score (busy, memory I/O, memory used, power): idle below 10 %, low below 20 %, normal below 70 %, "
        "high above. A GPU that does not answer, or cannot tell (MIG), is in no class.",
        *((f"count(instance_gpu:gpu_score:class{{{NODE}}} == {value})", name) for value, (name, _) in CLASSES.items()),
        unit="none",
        stacked=True,
        width=8,
        calcs=("lastNotNull",),
        overrides=[colored(name, color) for name, color in CLASSES.values()],
    ),
    series(
        "Power by host",
        "What the GPUs of each host draw: the twenty that draw most, and all others together.",
        (_MOST_POWER, HOST_LEGEND),
        (f"(sum(gpu_power_watts{{{NODE}}}) - sum({_MOST_POWER})) > 0\nor 0 * sum(gpu_power_watts{{{NODE}}})", "others"),
        unit="watt",
        stacked=True,
        width=8,
        links=[SERIES_TO_NODE],
    ),
    series(
        "Hottest GPU by host",
        "Core temperature of the hottest GPU of each host, of the twenty hottest; the lines are typical limits.",
        (most(f"max {_BY_HOST} (gpu_temperature_celsius{{{NODE}}})"), HOST_LEGEND),
        unit="celsius",
        steps=HEAT,
        lines=True,
        lowest=None,
        width=8,
        links=[SERIES_TO_NODE],
    ),
]


def _named(expression: str) -> str:
    """Machines without the label stand together, and are told to have none."""
    return f'label_replace({expression}, "rack", "(none)", "rack", "")'


_RACKS = [
    strip(
        "Hottest GPU by rack",
        "The label rack of nodes.yml, a strip each: a row that turns warm together is the room, not a board.",
        most(_named(f"max by (cluster, rack) (gpu_temperature_celsius{{{NODE}}})"), 40),
        legend="{{cluster}} rack {{rack}}",
        unit="celsius",
        steps=HEAT,
        width=12,
    ),
    series(
        "Power by rack",
        "What the GPUs of each rack draw; their hosts draw more. The twenty racks that draw most.",
        (most(_named(f"sum by (cluster, rack) (gpu_power_watts{{{NODE}}})")), "{{cluster}} rack {{rack}}"),
        unit="watt",
        stacked=True,
        width=12,
    ),
]

DASHBOARD: Final = Dashboard(
    uid="gpu-fleet",
    description="All hosts and GPUs: what is down, what is wasted, where to look next.",
    variables=[price(), carbon()],
    rows=[
        Row("Is everything well?", [(4, _STATE), (3, _SPENT), (8, _WORST)]),
        Row("Hosts and GPUs", [(7, [_HOSTS]), (8, [_TILES]), (5, [_BUSY])]),
        Row("Over time", [(9, _COURSE)]),
        Row("Racks", [(7, _RACKS)]),
    ],
)
