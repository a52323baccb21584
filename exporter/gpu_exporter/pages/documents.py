"""A snapshot as JSON documents; openapi.json describes their shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from gpu_exporter.catalog import CATALOG, GPU_UP
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Disk, Host, Identity, Reading, Snapshot

# The shape of /api/v1/snapshot: raised when a reader of the older one would misunderstand it.
SCHEMA: Final = 1
# The names that tell several rows apart are lists in the JSON, whatever rows a GPU happens to have.
_LISTED: Final = frozenset(metric.name for metric in CATALOG if metric.labels or metric.dynamic)


def gpus_document(snapshot: Snapshot, *, host: str) -> dict[str, Any]:
    """The whole snapshot: the machine's name, its source, the driver, and every GPU."""
    body: dict[str, Any] = {
        **({"host": {"name": host}} if host else {}),
        "source": snapshot.source,
        "simulated": snapshot.simulated,
        "sample_success": snapshot.ok,
    }
    if snapshot.timestamp is not None:
        body["sample_timestamp_seconds"] = snapshot.timestamp
    if snapshot.driver is not None:
        body["driver"] = _told(asdict(snapshot.driver))
    body["gpus"] = [gpu_document(reading) for reading in _by_index(snapshot)]
    return body


def snapshot_document(
    snapshot: Snapshot,
    *,
    host: Host,
    labels: Sequence[str],
    interval: float,
    ready: str | None,
    live: str | None,
) -> dict[str, Any]:
    """Everything about the machine in one document, but for the sample's age, which is no fact of the snapshot.

    ``labels`` are those of processes that the site wants; ``interval`` is in seconds; ``ready`` and ``live`` tell what
    is wrong. What is not known is absent.
    """
    exporter = {
        "version": snapshot.build.version,
        "source": snapshot.source,
        "simulated": snapshot.simulated,
        "interval_seconds": interval,
        "sample_success": snapshot.ok,
        "paused": snapshot.paused,
        "ready": ready,
        "live": live,
    }
    if snapshot.timestamp is not None:
        exporter["sample_timestamp_seconds"] = snapshot.timestamp
    body: dict[str, Any] = {"schema": SCHEMA, "host": host_document(host)}
    if snapshot.driver is not None:
        body["driver"] = _told(asdict(snapshot.driver))
    body["gpus"] = [{**gpu_document(reading), **_accounted(reading)} for reading in _by_index(snapshot)]
    body["processes"] = processes_document(snapshot, labels)["processes"]
    return {**body, "exporter": exporter}


def host_document(host: Host) -> dict[str, Any]:
    """The machine: names with their units, as everywhere in the JSON."""
    return _told(
        {
            "name": host.name,
            "addresses": list(host.addresses),
            "os": host.os,
            "kernel": host.kernel,
            "boot_timestamp_seconds": host.boot_timestamp,
            "cpus": host.cpus,
            "cpu_utilization_ratio": host.cpu_utilization,
            "memory_total_bytes": host.memory_total,
            "memory_used_bytes": host.memory_used,
            "load": None if host.load is None else list(host.load),
        }
    ) | ({} if host.disks is None else {"disks": [_disk(disk) for disk in host.disks]})


def _disk(disk: Disk) -> dict[str, Any]:
    return {
        "mount": disk.mount,
        "device": disk.device,
        "filesystem": disk.filesystem,
        "total_bytes": disk.total,
        "used_bytes": disk.used,
        "free_bytes": disk.free,
    }


def _accounted(reading: Reading) -> dict[str, Any]:
    """What the GPU's time is being charged to, and to whom."""
    told: dict[str, Any] = {} if reading.state is None else {"state": reading.state}
    if reading.holds is not None:
        told["holders"] = [
            _told(
                {
                    "owner_kind": owner.kind,
                    "owner": owner.name,
                    "namespace": owner.namespace,
                    "memory_used_bytes": None if memory is None else int(memory),
                }
            )
            for owner, memory in reading.holds
        ]
    return told


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Less what is not known."""
    return {name: value for name, value in facts.items() if value not in (None, "", [])}


def _by_index(snapshot: Snapshot) -> list[Reading]:
    return sorted(snapshot.readings, key=lambda reading: reading.device.index)


def gpu_document(reading: Reading) -> dict[str, Any]:
    """One GPU: identity, state, and its metrics under their own names; what it does not have is absent."""
    device = reading.device
    identity = {name: value for name, value in asdict(device).items() if value and name != "index"}
    up = reading.failure is None
    metrics: dict[str, Any] = {GPU_UP.name: int(up)}
    rows = [(row, dict(row.labels), reading.values.get(row)) for row in CATALOG if row is not GPU_UP]
    rows += [
        (row, {**dict(row.labels), **{k: v for k, v in zip(row.dynamic, texts, strict=True) if v}}, value)
        for (row, texts), value in _labelled(reading)
    ]
    for row, labels, value in rows:
        if value is None or not math.isfinite(value):  # JSON has no word for infinity
            continue
        number = int(value) if float(value).is_integer() and abs(value) < 2**53 else value
        if row.name in _LISTED:
            metrics.setdefault(row.name, []).append({"labels": labels, "value": number})
        else:
            metrics[row.name] = number
    # The failure's own words are for the log: they may hold what must not leave by HTTP.
    partial = "partial" if reading.partial else None
    failure = partial if reading.failure is None else reading.failure.reason
    return {"gpu": device.index, **identity, "up": up, "failure": failure, "metrics": metrics}


def processes_document(snapshot: Snapshot, labels: Sequence[str]) -> dict[str, Any]:
    """Every process on every GPU; what is not known, and the labels that the site does not want, are absent."""
    entries = []
    for reading in _by_index(snapshot):
        for process in reading.processes or ():
            facts = {"pid": process.pid, **(process.identity or Identity()).all_labels()}
            entry = {"gpu": reading.device.index, "uuid": reading.device.uuid, "mig_uuid": process.mig_uuid}
            entry |= {"type": process.type, **{name: facts.get(name, "") for name in labels}}
            if process.memory_used is not None:
                entry["memory_used_bytes"] = int(process.memory_used)
            if process.utilization is not None:
                entry["utilization_ratio"] = process.utilization
            entries.append({name: value for name, value in entry.items() if value != ""})
    return {"source": snapshot.source, "simulated": snapshot.simulated, "processes": entries}


def _labelled(reading: Reading) -> list[tuple[tuple[Metric, tuple[str, ...]], float]]:
    """Rows with labels valued at run time; 2 stands before 10."""
    return sorted(
        reading.labelled.items(), key=lambda item: (item[0][0].name, [(len(text), text) for text in item[0][1]])
    )
