"""What is known of the machines as JSON and CSV; static/openapi.json describes it. What is not known is absent."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gpu_exporter.catalog.simulated import is_simulated, told_model
from gpu_exporter.hub.document import Disk, amount, share, shown
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.selection import Selection
from gpu_exporter.hub.state import Gpu, Holder, Looks, NodeState, Person
from gpu_exporter.hub.words import called

_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")


def nodes_document(fleet: Looks, selection: Selection, now: float) -> dict[str, Any]:
    """Every machine in the order of nodes.yml."""
    nodes = [_node(state) for state in fleet if selection.node(state)]
    return {**_head(fleet, now), "nodes": nodes}


def node_document(state: NodeState) -> dict[str, Any]:
    """One machine with its GPUs and processes."""
    return {
        **_node(state),
        "gpus": [gpu_document(gpu) for gpu in state.gpus],
        "processes": [process_document(state, process) for process in state.processes],
    }


def gpus_document(fleet: Looks, selection: Selection, now: float) -> dict[str, Any]:
    """The GPUs that were asked for."""
    return {**_head(fleet, now), "gpus": [gpu_document(gpu) for gpu in selection.gpus(fleet)]}


def processes_document(fleet: Looks, selection: Selection, now: float) -> dict[str, Any]:
    """The processes on the GPUs that were asked for; of a user, only their own."""
    found = []
    for state in fleet:
        if not selection.node(state):
            continue
        fits = {gpu.index for gpu in state.gpus if not selection.of_gpus or selection.gpu(gpu)}
        for process in state.processes:
            if process.get("gpu") not in fits:
                continue
            told = process_document(state, process)
            named = {told.get(key) for key in ("user", "pod", "namespace", "slurm_job")}
            if not selection.users or named & set(selection.users):
                found.append(told)
    return {**_head(fleet, now), "processes": found}


def summary(fleet: Fleet, now: float) -> dict[str, Any]:
    """The few numbers that every viewer is told at every interval."""
    states = [state.status for state in fleet]
    return {
        **_head(fleet, now),
        "generation": fleet.generation,
        "nodes": {status: states.count(status) for status in ("online", "offline", "starting")},
        "gpus": fleet.counts(),
    }


def gpu_document(gpu: Gpu) -> dict[str, Any]:
    """One GPU."""
    told: dict[str, Any] = {
        "node": gpu.node,
        "gpu": gpu.index,
        "uuid": gpu.uuid,
        "model": gpu.model,
        "simulated": is_simulated(gpu.uuid) or None,
        "state": gpu.state,
        "reason": gpu.why,
        "state_since_timestamp_seconds": gpu.since,
        "state_since_known": gpu.since_known,
        "utilization_ratio": gpu.utilization,
        "memory_used_bytes": gpu.memory_used,
        "memory_total_bytes": gpu.memory_total,
        "temperature_celsius": gpu.temperature,
        "temperature_limit_celsius": gpu.temperature_limit,
        "power_watts": gpu.power,
        "power_limit_watts": gpu.power_limit,
        "sm_active_ratio": gpu.sm_active,
        "fan_speed_ratio": gpu.fan,
        "mig_mode_enabled": gpu.mig or None,
        "xids": list(gpu.xids),
    }
    if gpu.holders is not None:
        told["holders"] = [_holder(holder) for holder in gpu.holders]
    return {name: value for name, value in told.items() if value is not None and value != ""}


def process_document(state: NodeState, process: Mapping[str, Any]) -> dict[str, Any]:
    """One process, as its exporter tells it; texts as they may be shown."""
    told = {
        shown(name): shown(value) if isinstance(value, str) else value
        for name, value in process.items()
        if isinstance(value, (str, int, float))
    }
    return {"node": state.node.name, **told}


def people_document(fleet: Fleet, now: float) -> dict[str, Any]:
    """Whoever holds something, those with most GPUs first."""
    return {**_head(fleet, now), "people": [_person(person) for person in fleet.people()]}


def _person(person: Person) -> dict[str, Any]:
    kind, name, namespace = person.key
    return {
        "owner_kind": kind,
        "owner": name,
        "namespace": namespace,
        "gpus": len(person.gpus),
        "idle": len(person.idle),
        "memory_used_bytes": person.memory,
        "nodes": sorted({gpu.node for gpu in person.gpus}),
    }


def as_csv(gpus: Iterable[Gpu], states: Mapping[str, NodeState]) -> str:
    """A table that LibreOffice and pandas open: units in the header, nothing that is taken for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(_CSV_HEAD)
    for gpu in gpus:
        node = states[gpu.node]
        row = (
            gpu.node,
            node.node.address,
            gpu.index,
            gpu.uuid,
            told_model(gpu.model, gpu.uuid),
            gpu.state,
            gpu.utilization,
            gpu.memory_used,
            gpu.memory_total,
            gpu.temperature,
            gpu.power,
            ", ".join(called(holder) for holder in gpu.holders or ()),
            gpu.why,
        )
        writer.writerow([_cell(value) for value in row])
    return text.getvalue()


_CSV_HEAD: Final = (
    "node", "address", "gpu", "uuid", "model", "state", "utilization_ratio", "memory_used_bytes",
    "memory_total_bytes", "temperature_celsius", "power_watts", "held_by", "reason",
)  # fmt: skip


def _head(fleet: Looks, now: float) -> dict[str, Any]:
    return {"timestamp_seconds": round(now, 3), "simulated": fleet.simulated()}


def _node(state: NodeState) -> dict[str, Any]:
    node, host, exporter = state.node, state.host, state.exporter
    told: dict[str, Any] = {
        "name": node.name,
        "address": node.address,
        "labels": dict(node.labels),
        "ip": state.address,
        "state": state.status,
        "since_timestamp_seconds": state.since,
        "reason": state.reason if not state.online else "",
        "message": state.message if not state.online else state.trouble,
        "last_seen_timestamp_seconds": state.seen,
        "driver_version": state.driver if state.online else "",
        "gpu_states": {name: count for name, count in _counts(state.gpus).items() if count},
        "gpu_count": len(state.gpus),
        "held_by": sorted({called(holder) for gpu in state.gpus for holder in gpu.holders or ()}),
    }
    if state.online:
        told["host"] = {
            "name": shown(host.name),
            "addresses": [shown(address) for address in host.addresses[:64]],
            "os": shown(host.os),
            "kernel": shown(host.kernel),
            "boot_timestamp_seconds": amount(host.boot_timestamp_seconds),
            "cpus": host.cpus,
            "cpu_utilization_ratio": share(host.cpu_utilization_ratio),
            "memory_total_bytes": amount(host.memory_total_bytes),
            "memory_used_bytes": amount(host.memory_used_bytes),
            "load": list(host.load[:3]),
            "disks": [_disk(disk) for disk in host.disks[:64]],
        }
        told["host"] = {name: value for name, value in told["host"].items() if value not in (None, "", [])}
    if exporter is not None:
        told["exporter"] = {
            "version": shown(exporter.version),
            "source": shown(exporter.source),
            "simulated": exporter.simulated,
            "sample_success": exporter.sample_success,
            "paused": exporter.paused,
        }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _counts(gpus: Sequence[Gpu]) -> dict[str, int]:
    found: dict[str, int] = {}
    for gpu in gpus:
        found[gpu.state] = found.get(gpu.state, 0) + 1
    return found


def _disk(disk: Disk) -> dict[str, Any]:
    told = {
        "mount": shown(disk.mount),
        "device": shown(disk.device),
        "filesystem": shown(disk.filesystem),
        "total_bytes": amount(disk.total_bytes),
        "used_bytes": amount(disk.used_bytes),
        "free_bytes": amount(disk.free_bytes),
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _holder(holder: Holder) -> dict[str, Any]:
    told = {
        "owner_kind": holder.kind,
        "owner": holder.name,
        "namespace": holder.namespace,
        "memory_used_bytes": holder.memory,
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(_FORMULAS):
        return f"'{value}"
    return value
