"""Owners and waste: who holds GPUs, who uses what they hold, and what idleness costs."""

from __future__ import annotations

from typing import Final

from build.dashboard import Dashboard, Row, carbon, jump, price, price_of_energy, query_variable
from build.device import STATES
from build.looks import COLD, COOL, GREEN, ORANGE, PLAIN, RED, USE, YELLOW
from build.panels import colored, gauges, series, stat
from build.parts import ADDRESS, GPU_COLUMNS, SERIES_TO_DEVICE, idle_held, processes
from build.promql import GPU, GPU_LEGEND, NODE, OWNER, gpus_by, host, in_state, most, share
from build.tables import Column, table

_OWNED: Final = f"{GPU}, {OWNER}"
_OWNED_IDLE: Final = f'{_OWNED}, state="idle_held"'
# As the exporter charges it: idle power by hold, the rest by work.
_ENERGY: Final = (
    f"sum by (owner_kind, owner, namespace) (increase(gpu_owner_energy_joules_total{{{_OWNED}}}[$__range])) / 3.6e6"
)
_SCORED: Final = f'cluster=~"$cluster", {OWNER}'  # recorded over all machines
_BY_OWNER: Final = "by (owner_kind, owner, namespace)"
_SCORE: Final = f"sum {_BY_OWNER} (owner:gpu_score:sum{{{_SCORED}}})"
_SCORED_TIME: Final = f"(sum {_BY_OWNER} (owner:gpu_scored:sum{{{_SCORED}}}) > 0)"
_LEGEND: Final = "{{owner_kind}} {{namespace}} {{owner}}"
_TO_OWNER: Final = jump("gpu-owners", owner="${__field.labels.owner}")
_IDLE_SHARE: Final = ((None, GREEN), (0.2, YELLOW), (0.5, ORANGE), (0.8, RED))


def _hours(state: str) -> str:
    """GPU hours of each owner over the chosen time."""
    matcher = f', state="{state}"' if state else ""
    return f"sum {_BY_OWNER} (increase(gpu_owner_seconds_total{{{_OWNED}{matcher}}}[$__range])) / 3600"


def _spent(state: str) -> str:
    """GPU hours of all owners over the chosen time."""
    return f'sum(increase(gpu_owner_seconds_total{{{_OWNED}, state="{state}"}}[$__range])) / 3600'


_STATE = [
    stat(
        "GPUs held",
        "GPUs whose memory somebody holds, or which were given to a pod or job; 0.5 is half of a shared GPU.",
        f"sum({gpus_by('gpu_owner_seconds_total', _OWNED)})",
        spark=True,
        decimals=1,
    ),
    idle_held(width=3),
    stat(
        "Free GPUs",
        "GPUs that answer and that nobody holds.",
        f"sum({gpus_by('gpu_state_seconds_total', in_state('idle_free'))})",
        spark=True,
        decimals=1,
    ),
    stat(
        "GPU hours at work",
        "GPU hours of these owners, over the time chosen above, in which something ran.",
        _spent("active"),
        unit="h",
        steps=((None, GREEN),),
        decimals=1,
    ),
    stat(
        "GPU hours held idle",
        "GPU hours of these owners, over the time chosen above, in which they held a GPU and nothing ran.",
        _spent("idle_held"),
        unit="h",
        steps=((None, ORANGE),),
        decimals=1,
    ),
    stat(
        "Cost of idleness",
        "The hours beside, at the price above.",
        f"{_spent('idle_held')} * $price",
        unit="currencyUSD",
        steps=PLAIN,
        decimals=2,
    ),
    stat(
        "Idle share",
        "Held idle, of all that was held over the time chosen above.",
        f'sum(increase(gpu_owner_seconds_total{{{_OWNED}, state="idle_held"}}[$__range]))\n'
        f"/ (sum(increase(gpu_owner_seconds_total{{{_OWNED}}}[$__range])) > 0)",
        unit="percentunit",
        steps=_IDLE_SHARE,
        decimals=0,
    ),
    stat(
        "Memory held",
        "Device memory that owners hold now.",
        f"sum(gpu_owner_memory_used_bytes{{{_OWNED}}})",
        unit="bytes",
    ),
]

_LEADERS = table(
    "Owners over the chosen time",
    "GPU hours and their price by owner. Score as on the other dashboards: idle below 10 %, low below 20 %, normal "
    "below 70 %, high above. Unknown: MIG mode, where the driver does not tell whether anything runs.",
    {
        "idle": _hours("idle_held"),
        "active": _hours("active"),
        "unknown": _hours("unknown"),
        "share": f'sum {_BY_OWNER} (increase(gpu_owner_seconds_total{{{_OWNED}, state="idle_held"}}[$__range]))\n'
        f"/ (sum {_BY_OWNER} (increase(gpu_owner_seconds_total{{{_OWNED}}}[$__range])) > 0)",
        "cost": f"{_hours('')} * $price",
        "wasted": f"{_hours('idle_held')} * $price",
        "energy": _ENERGY,
        "power": f"{_ENERGY} * $kwh",
        "carbon": f"{_ENERGY} * $carbon / 1000",
        "memory": f"sum {_BY_OWNER} (gpu_owner_memory_used_bytes{{{_OWNED}}})",
        "score": share(
            f"sum {_BY_OWNER} (sum_over_time(owner:gpu_score:sum{{{_SCORED}}}[$__range]))\n",
            f"(sum {_BY_OWNER} (sum_over_time(owner:gpu_scored:sum{{{_SCORED}}}[$__range])) > 0)",
        ),
    },
    {
        "owner": Column(name="Owner", link=jump("gpu-owners", owner="${__data.fields.owner}")),
        "owner_kind": Column(name="Kind", width=80),
        "namespace": Column(name="Namespace or job"),
        "active": Column(name="Worked", unit="h", decimals=1, width=100),
        "idle": Column(name="Held idle", unit="h", decimals=1, width=100),
        "unknown": Column(name="Unknown", unit="h", decimals=1, width=100),
        "share": Column(name="Idle share", unit="percentunit", steps=_IDLE_SHARE, show="gauge", highest=1, decimals=0),
        "cost": Column(name="Cost", unit="currencyUSD", decimals=2, width=100),
        "wasted": Column(name="Of that idle", unit="currencyUSD", decimals=2, width=110),
        "energy": Column(name="Energy", unit="kwatth", decimals=1, width=100),
        "power": Column(name="Its price", unit="currencyUSD", decimals=2, width=100),
        "carbon": Column(name="CO₂", unit="masskg", decimals=1, width=90),
        "memory": Column(name="Memory now", unit="bytes", decimals=1, width=110),
        "score": Column(name="Score", unit="percentunit", steps=USE, show="color", decimals=0, width=80),
    },
    sort="idle",
    empty="nobody held a GPU",
)

_LABELS: Final = "cluster, instance, alias, gpu, model, owner_kind, owner, namespace"
_IDLE = table(
    "Held, and nothing runs",
    "GPUs that can be asked back now. Memory 0: the GPU was given to a pod or job that runs nothing on it. Hours are "
    "over the time chosen above.",
    {
        "memory": host(f"max by ({_LABELS}) (instance_gpu_owner:gpu_owner_memory_used_bytes:idle_held{{{_OWNED}}})"),
        "hours": host(
            f'max by ({_LABELS}) (increase(gpu_owner_seconds_total{{{_OWNED}, state="idle_held"}}[$__range]) / 3600\n'
            f"and on (cluster, instance, gpu, owner_kind, owner, namespace)"
            f" instance_gpu_owner:gpu_idle_held:rate5m{{{_OWNED}}})"
        ),
    },
    {
        **GPU_COLUMNS,
        "owner": Column(name="Owner", width=110),
        "owner_kind": Column(name="Kind", width=80),
        "namespace": Column(name="Namespace or job"),
        "memory": Column(name="Memory held", unit="bytes", decimals=1, width=120),
        "hours": Column(name="Held idle", unit="h", decimals=1, width=100),
        "instance": ADDRESS,
    },
    sort="hours",
    width=17,
    empty="nobody holds an idle GPU",
)

_WASTERS = gauges(
    "GPU hours held idle, by owner",
    "The ten owners with the most GPU hours, over the time chosen above, in which they held a GPU and nothing ran.",
    f"sort_desc(topk(10, {_hours('idle_held')}))",
    legend=_LEGEND,
    unit="h",
    steps=((None, ORANGE),),
    decimals=1,
    width=24,
    links=[_TO_OWNER],
    empty="nobody held a GPU idle",
)

_LOWEST = gauges(
    "Least used GPUs",
    "The lowest mean score over the time chosen above; idle is below 10 %, low below 20 %.",
    f"bottomk(6, avg_over_time(instance_gpu:gpu_score:ratio{{{GPU}}}[$__range]))",
    legend=GPU_LEGEND,
    unit="percentunit",
    steps=USE,
    highest=1,
    decimals=0,
    width=7,
    links=[SERIES_TO_DEVICE],
)

_COURSE = [
    series(
        "Who holds GPUs",
        "GPUs held by each owner, of the twenty that hold most; 0.5 is half of a shared GPU.",
        (most(f"sum {_BY_OWNER} ({gpus_by('gpu_owner_seconds_total', _OWNED)})"), _LEGEND),
        unit="none",
        stacked=True,
        links=[_TO_OWNER],
    ),
    series(
        "Who holds GPUs idle",
        "GPUs that each owner holds while nothing runs on them, of the twenty that hold most so.",
        (
            most(f"sum {_BY_OWNER} ({gpus_by('gpu_owner_seconds_total', _OWNED_IDLE)}) > 0"),
            _LEGEND,
        ),
        unit="none",
        stacked=True,
        links=[_TO_OWNER],
        empty="nobody holds an idle GPU",
    ),
    series(
        "What the GPUs do",
        "GPUs by what they do. Idle free: nobody holds them. Unknown: MIG mode. Down: they do not answer.",
        *((f"sum({gpus_by('gpu_state_seconds_total', in_state(state))})", state) for state in STATES),
        unit="none",
        stacked=True,
        overrides=[colored(state, color) for state, color in STATES.items()],
    ),
    series(
        "Score by owner",
        "Score of the GPUs of each owner, weighed by how long the owner held each; the twenty lowest.",
        (
            f"bottomk(20, {share(_SCORE, _SCORED_TIME)})",
            _LEGEND,
        ),
        unit="percentunit",
        steps=((None, COLD), (0.1, COOL), (0.2, GREEN)),
        lines=True,
        highest=1,
        links=[_TO_OWNER],
    ),
]

_UNACCOUNTED = series(
    "Memory that nobody has",
    "Device memory in use that no process has which the driver lists, and no allocation explains. The GPU counts as "
    "held, by an owner without a name; the runbook of GPUMemoryUnaccounted tells what to do.",
    (f"gpu_memory_unaccounted_bytes{{{GPU}}} > 0", GPU_LEGEND),
    unit="bytes",
    stacked=True,
    links=[SERIES_TO_DEVICE],
    empty="all memory in use is somebody's",
    width=24,
)

DASHBOARD: Final = Dashboard(
    uid="gpu-owners",
    description="Who holds GPUs, who uses what they hold, and what idleness costs.",
    since="now-24h",
    variables=[
        query_variable(
            "owner_kind",
            "Kind of owner",
            f"label_values(gpu_owner_seconds_total{{{NODE}}}, owner_kind)",
            description="User, pod or Slurm job",
        ),
        query_variable(
            "owner",
            "Owner",
            f'label_values(gpu_owner_seconds_total{{{NODE}, owner_kind=~"$owner_kind"}}, owner)',
            everything=".*",  # one who cannot be seen has no name
            sort=5,
            description="Whoever held a GPU",
        ),
        price(),
        price_of_energy(),
        carbon(),
    ],
    rows=[
        Row("Now, and over the chosen time", [(5, _STATE), (9, [_LEADERS])]),
        Row("What can be had back", [(8, [_IDLE, _LOWEST])]),
        Row("Over time", [(9, _COURSE[:2]), (9, _COURSE[2:]), (7, [_UNACCOUNTED])]),
        Row("Who wastes most", [(9, [_WASTERS])]),
        Row("Processes", [(9, [processes()])]),
    ],
)
