"""Selectors that follow the dashboards' variables, and legends that name host, GPU and model."""

from __future__ import annotations

from typing import Final

# Every series of one machine, and of one GPU. ``cluster`` and ``rack`` may be absent: their "All" is .*, which matches
# that as well.
NODE: Final = 'cluster=~"$cluster", job=~"$job", rack=~"$rack", instance=~"$instance"'
GPU: Final = f'{NODE}, gpu=~"$gpu"'
# Recording rules that sum up keep no job.
OWNER: Final = 'owner_kind=~"$owner_kind", owner=~"$owner"'

# What a GPU is joined on; see deploy/prometheus/rules.
DEVICE: Final = "cluster, instance, gpu, uuid"

# Host is the alias of nodes.yml or else the target's address; panels.TIDY makes one name of the two.
HOST_LEGEND: Final = "{{alias}}|{{instance}}"
GPU_LEGEND: Final = HOST_LEGEND + " GPU {{gpu}} {{model}}"


def host(expression: str) -> str:
    """The expression with a label ``host``: the alias where the target has one, else its address without the port."""
    return (
        f'label_replace(label_replace({expression}, "host", "$1", "instance", "(.+?)(?::[0-9]+)?"), '
        '"host", "$1", "alias", "(.+)")'
    )


def share(part: str, whole: str = "") -> str:
    """A part of a whole, or what is a share already: at most all of it.

    Scrape times and counters drift, a board draws more than its limit for a moment, a fan may turn faster than 100 %.
    """
    return f"clamp_max({f'{part} / {whole}' if whole else part}, 1)"


def in_state(state: str) -> str:
    """The chosen GPUs while they are in that state."""
    return f'{GPU}, state="{state}"'


def gpus_by(counter: str, selector: str) -> str:
    """A counter of seconds as shares of each second: their sum is a number of GPUs, at most those that there are.

    What a GPU did, and who held it, adds up to all of its time. Where its counters run faster than the clock, that time
    is what they add up to.
    """
    every = f"sum by ({DEVICE}) (rate(gpu_state_seconds_total{{{GPU}}}[$__rate_interval]))"
    part = f"rate({counter}{{{selector}}}[$__rate_interval])"
    return f"{part} / on ({DEVICE}) group_left () clamp_min({every}, 1)"


def power_share(selector: str) -> str:
    """Power of all GPUs that tell a limit, of that limit."""
    told = f"gpu_power_limit_watts{{{selector}}}"
    return share(f"sum(gpu_power_watts{{{selector}}} and on ({DEVICE}) {told})", f"sum({told})")


_HOST: Final = '"host", "$1", "instance", "(.+?)(?::[0-9]+)?"'


def beside(series: str, matchers: str, compared: str = "") -> str:
    """A series of node_exporter (or of what it reads) of the chosen machines, by host: it has a port of its own.

    ``compared`` follows the series, as in ``> 0`` or ``/ another``.
    """
    node = f'label_replace({series}{{cluster=~"$cluster", {matchers}}}{compared}, {_HOST})'
    return f"{node} and on (cluster, host) label_replace(gpu_exporter_last_sample_success{{{NODE}}}, {_HOST})"


# How many lines a panel of lines shows at once, of however many hosts, GPUs or owners.
MOST: Final = 20


def most(expression: str, count: int = MOST) -> str:
    """The largest of the series at each moment; a panel of hundreds of lines tells nothing."""
    return f"topk({count}, {expression})"


def firing(selector: str = "") -> str:
    """Our alerts that fire for what is chosen; those without an instance (about the fleet) as well."""
    more = f", {selector}" if selector else ""
    place = 'cluster=~"$cluster|", rack=~"$rack|", instance=~"$instance|"'
    return f'ALERTS{{alertstate="firing", alertname=~"GPU.+", {place}{more}}}'


# Alerts of the chosen GPUs; those of whole machines (no label gpu) are not among them.
FIRING_GPU: Final = firing('gpu=~"$gpu"')


def severities(selector: str = "") -> str:
    """Our alerts that fire, by how bad they are: 3 critical, 2 warning, 1 information."""
    more = f"{selector}, " if selector else ""
    ranks = ((3, "critical"), (2, "warning"), (1, "info"))
    return "\nor\n".join(f"{rank} * " + firing(f'{more}severity="{name}"') for rank, name in ranks)
