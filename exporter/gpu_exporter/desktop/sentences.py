"""Machines and GPUs in a line each: what is drawn, what a screen reader says, and where a filter looks."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping

from gpu_exporter.desktop.severity import hot
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import STATES, Gpu, NodeState, disk_share
from gpu_exporter.hub.words import STATE_WORDS, called, clock, gib, percent, short_model, size, span


def machine_line(state: NodeState) -> str:
    """What a machine is up to, in a few words."""
    if state.status == "offline":
        return f"offline: {state.message or 'it does not answer'}"
    if state.status == "starting":
        return "asking it"
    if state.trouble:
        return state.trouble
    return counted(state.gpus) or "no GPU"


def machine_sentence(state: NodeState) -> str:
    """A machine, for whoever does not see the list."""
    since = f" since {clock(state.since, time.time())}" if state.status == "offline" and state.since else ""
    return f"{state.node.name}{since}, {machine_line(state)}"


def counted(gpus: tuple[Gpu, ...]) -> str:
    """How many GPUs are in each state."""
    found = {state: sum(gpu.state == state for gpu in gpus) for state in STATES}
    return " · ".join(f"{count} {STATE_WORDS[state]}" for state, count in found.items() if count)


def host_facts(state: NodeState) -> str:
    """The machine around the GPUs, as far as it is known now."""
    host, disk = state.host, state.disk
    share = None if disk is None else disk_share(disk)
    ip = state.address or next(iter(host.addresses), "")
    memory = host.memory_used_bytes is not None and host.memory_total_bytes
    facts = [
        state.node.address if state.node.port else "",
        ip if ip != state.node.host else "",
        f"driver {state.driver}" if state.driver else "",
        f"CPU {percent(host.cpu_utilization_ratio)}" if host.cpu_utilization_ratio is not None else "",
        f"memory {size(host.memory_used_bytes)} of {size(host.memory_total_bytes)}" if memory else "",
        f"disk {disk.mount} {percent(share)} full" if disk is not None and share is not None else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def gpu_line(gpu: Gpu) -> str:
    """What a GPU is up to, in a few words."""
    busy = f" {percent(gpu.utilization)}" if gpu.utilization is not None and gpu.state in {"held", "idle"} else ""
    heat = f"hot: {gpu.temperature:.0f} °C" if hot(gpu) else ""
    why = gpu.why if gpu.state in {"down", "unknown"} else ""
    return " · ".join(part for part in (STATE_WORDS[gpu.state] + busy, heat, why, holders(gpu)) if part)


def holders(gpu: Gpu, *, most: int = 3) -> str:
    """Who holds it; empty where nobody does, or nobody knows."""
    names = [called(holder) for holder in gpu.holders or ()]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def gpu_sentence(gpu: Gpu) -> str:
    """A GPU with all its numbers, for whoever does not see its card."""
    told = [f"{gpu.node} GPU {gpu.index}", short_model(gpu.model), gpu_line(gpu)]
    if gpu.memory_used is not None and gpu.memory_total:
        told.append(f"memory {gib(gpu.memory_used)} of {gib(gpu.memory_total)} GiB")
    if gpu.temperature is not None:
        limit = f" of {gpu.temperature_limit:.0f}" if gpu.temperature_limit else ""
        told.append(f"{gpu.temperature:.0f}{limit} °C")
    if gpu.power is not None:
        told.append(f"{gpu.power:.0f}{f' of {gpu.power_limit:.0f}' if gpu.power_limit else ''} W")
    if gpu.xids:
        told.append(f"XID {', '.join(gpu.xids)}")
    if gpu.since and gpu.since_known:
        told.append(f"for {span(time.time() - gpu.since)}")
    return ", ".join(part for part in told if part)


def fleet_line(view: View) -> str:
    """All machines in a line."""
    if not view.machines:
        return view.trouble or ("no machines" if view.taken else "asking the machines")
    offline = sum(state.status == "offline" for state in view)
    machines = f"{len(view)} machine{'' if len(view) == 1 else 's'}" + (f", {offline} offline" if offline else "")
    return " · ".join(part for part in (machines, counted(tuple(view.gpus()))) if part)


def searched(state: NodeState) -> str:
    """Where words are looked for in a machine."""
    labels: Mapping[str, str] = state.node.labels
    texts = (state.node.name, state.node.address, state.address, state.host.name, state.status, *labels.values())
    return " ".join(texts).casefold()


def searched_gpu(gpu: Gpu) -> str:
    """Where words are looked for in a GPU."""
    texts = [f"gpu {gpu.index}", gpu.model, gpu.uuid, gpu_line(gpu)]
    texts += [called(holder) for holder in gpu.holders or ()]
    return " ".join(texts).casefold()


def as_tip(text: str) -> str:
    """Text for a tool tip, which Qt would take for HTML where it looks like it."""
    return f"<p>{html.escape(text)}</p>"
