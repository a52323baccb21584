"""Snapshot documents as they come from nodes, checked: what is not as it should be is as if it were absent.

Documents are those of /api/v1/snapshot, schema 1. A node may be of another version, ill, or lying.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from gpu_exporter.catalog.owner_kinds import KIND_LABELS
from gpu_exporter.model import Owner

STATES: Final = ("active", "idle_held", "idle_free", "unknown", "down")
HELD: Final = ("active", "idle_held", "unknown")  # those in which somebody can hold a GPU
# Counters that seldom grow; each growth is an event.
RARE: Final = ("gpu_xid_errors_total", "gpu_events_total", "gpu_ecc_errors_total", "gpu_nvlink_errors_total")
# All that is read of a GPU's metrics: a document may be without the others, and the hub does not unpack them.
READ: Final = (
    *RARE, "gpu_state_seconds_total", "gpu_owner_seconds_total", "gpu_clock_event_seconds_total", "gpu_clock_hertz",
    "gpu_processes", "gpu_busy_seconds_total", "gpu_memory_io_busy_seconds_total", "gpu_energy_joules_total",
    "gpu_score_seconds_total", "gpu_utilization_ratio", "gpu_memory_io_utilization_ratio", "gpu_memory_used_bytes",
    "gpu_memory_total_bytes", "gpu_temperature_celsius", "gpu_power_watts", "gpu_power_limit_watts",
)  # fmt: skip
# Slower than asked for because of heat or power trouble; the power cap is normal work.
_SLOWED: Final = frozenset({"hw_slowdown", "sw_thermal_slowdown"})

_MOST_GPUS: Final = 1024  # a node
_MOST_OWNERS: Final = 512  # a GPU, with states
_MOST_PROCESSES: Final = 4096  # a node
_MOST_DISKS: Final = 64
_MOST_RARE: Final = 256
_LONGEST: Final = 256  # characters of a name
_LARGEST: Final = 2.0**62  # what an integer of SQLite holds

RareKey = tuple[str, str]  # metric, and its labels as reason=thermal,unit=sm


class GpuName(NamedTuple):
    """What tells a GPU apart: its node, and its UUID, or its index while it tells none."""

    node: str
    uuid: str
    number: int


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment; counters and gauges in base units, None where they are absent."""

    name: GpuName
    model: str
    states: tuple[float, ...] | None  # seconds, in the order of STATES
    owners: Mapping[tuple[Owner, str], float]  # seconds by owner and state
    busy: float | None = None
    memory_io_busy: float | None = None
    energy: float | None = None
    score: float | None = None
    slowed: float | None = None
    utilization: float | None = None
    memory_io: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    sm_clock: float | None = None
    processes: float | None = None
    rare: Mapping[str, Any] = field(default_factory=dict)


class ProcessName(NamedTuple):
    """What tells a process on a GPU apart; ``labels`` as ``pod=x,namespace=y``."""

    gpu: GpuName
    pid: int
    type: str
    mig_uuid: str
    process: str
    user: str
    container: str
    labels: str


class DiskFacts(NamedTuple):
    """One file system; bytes."""

    mount: str
    device: str
    filesystem: str
    total: float
    used: float


@dataclass(frozen=True, slots=True)
class HostSample:
    """The machine at one moment; None where it is not told."""

    name: str
    cpu: float | None
    memory_used: float | None
    memory_total: float | None
    load: float | None
    disks: tuple[DiskFacts, ...]


@dataclass(frozen=True, slots=True)
class NodeSample:
    """One document. ``stamp`` tells one sample from the next; None where there is none. ``age`` in seconds."""

    stamp: float | None
    age: float
    interval: float
    simulated: bool
    host: HostSample
    gpus: tuple[GpuSample, ...]
    processes: Mapping[ProcessName, float | None]  # bytes


def read_document(node: str, document: Mapping[str, Any]) -> NodeSample | None:
    """What a document tells; None where it is none of schema 1."""
    if not isinstance(document, Mapping) or document.get("schema") != 1:
        return None
    exporter = _mapping(document.get("exporter"))
    gpus = tuple(
        sample
        for gpu in islice(_list(document.get("gpus")), _MOST_GPUS)
        if (sample := _gpu(node, _mapping(gpu))) is not None
    )
    return NodeSample(
        stamp=number(exporter.get("sample_timestamp_seconds")),
        age=min(number(exporter.get("sample_age_seconds")) or 0.0, 600.0),
        interval=min(max(number(exporter.get("interval_seconds")) or 5.0, 0.1), 3600.0),
        simulated=exporter.get("simulated") is True,
        host=_host(_mapping(document.get("host"))),
        gpus=gpus,
        processes=dict(_processes(document.get("processes"), {gpu.name.number: gpu.name for gpu in gpus})),
    )


def number(value: Any) -> float | None:
    """A number from 0 on that SQLite can hold; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LARGEST:
        return float(value)
    return None


def rare_counts(listed: Any) -> dict[str, float]:
    """A counter with labels: labels as text -> value."""
    return {
        ",".join(f"{name}={text}" for name, text in sorted(labels.items())): value
        for labels, value in islice(_series(listed), _MOST_RARE)
    }


def _gpu(node: str, gpu: Mapping[str, Any]) -> GpuSample | None:
    index = number(gpu.get("gpu"))
    if index is None or index >= 2**31:
        return None
    metrics = _mapping(gpu.get("metrics"))
    seconds = {labels.get("state"): value for labels, value in _series(metrics.get("gpu_state_seconds_total"))}
    owners: dict[tuple[Owner, str], float] = {}
    for labels, value in islice(_series(metrics.get("gpu_owner_seconds_total")), _MOST_OWNERS):
        state = labels.get("state", "")
        if state in HELD:
            owner = Owner(labels.get("owner_kind", ""), labels.get("owner", ""), labels.get("namespace", ""))
            owners[owner, state] = value
    slowed = [
        value
        for labels, value in _series(metrics.get("gpu_clock_event_seconds_total"))
        if labels.get("reason") in _SLOWED
    ]
    clocks = (value for labels, value in _series(metrics.get("gpu_clock_hertz")) if labels.get("clock") == "sm")
    processes = [value for _, value in _series(metrics.get("gpu_processes"))]
    told = metrics.get
    return GpuSample(
        name=GpuName(node, _text(gpu.get("uuid")), int(index)),
        model=_text(gpu.get("model")),
        states=tuple(seconds.get(state, 0.0) for state in STATES) if seconds else None,
        owners=owners,
        busy=number(told("gpu_busy_seconds_total")),
        memory_io_busy=number(told("gpu_memory_io_busy_seconds_total")),
        energy=number(told("gpu_energy_joules_total")),
        score=number(told("gpu_score_seconds_total")),
        slowed=sum(slowed) if slowed else None,
        utilization=_ratio(told("gpu_utilization_ratio")),
        memory_io=_ratio(told("gpu_memory_io_utilization_ratio")),
        memory_used=number(told("gpu_memory_used_bytes")),
        memory_total=number(told("gpu_memory_total_bytes")),
        temperature=number(told("gpu_temperature_celsius")),
        power=number(told("gpu_power_watts")),
        power_limit=number(told("gpu_power_limit_watts")),
        sm_clock=next(clocks, None),
        processes=sum(processes) if processes else None,
        rare={name: metrics[name] for name in RARE if name in metrics},
    )


def _host(host: Mapping[str, Any]) -> HostSample:
    load = _list(host.get("load"))
    disks = []
    for entry in islice(_list(host.get("disks")), _MOST_DISKS):
        disk = _mapping(entry)
        total, used = number(disk.get("total_bytes")), number(disk.get("used_bytes"))
        if (mount := _text(disk.get("mount"))) and total is not None and used is not None:
            disks.append(DiskFacts(mount, _text(disk.get("device")), _text(disk.get("filesystem")), total, used))
    return HostSample(
        name=_text(host.get("name")),
        cpu=_ratio(host.get("cpu_utilization_ratio")),
        memory_used=number(host.get("memory_used_bytes")),
        memory_total=number(host.get("memory_total_bytes")),
        load=number(load[0]) if load else None,
        disks=tuple(disks),
    )


def _processes(listed: Any, gpus: Mapping[int, GpuName]) -> Iterator[tuple[ProcessName, float | None]]:
    for entry in islice(_list(listed), _MOST_PROCESSES):
        process = _mapping(entry)
        index, pid = number(process.get("gpu")), number(process.get("pid", 0))
        if index is not None and pid is not None and (gpu := gpus.get(int(index))) is not None:
            told = {label: _text(process.get(label)) for label in KIND_LABELS}
            name = ProcessName(
                gpu=gpu,
                pid=int(pid),
                type=_text(process.get("type")),
                mig_uuid=_text(process.get("mig_uuid")),
                process=_text(process.get("process")),
                user=_text(process.get("user")),
                container=_text(process.get("container")),
                labels=",".join(f"{label}={text}" for label, text in told.items() if text),
            )
            yield name, number(process.get("memory_used_bytes"))


def _series(listed: Any) -> Iterator[tuple[dict[str, str], float]]:
    """The series of a metric with labels."""
    for entry in _list(listed):
        if isinstance(entry, dict) and isinstance(labels := entry.get("labels"), dict):
            value = number(entry.get("value"))
            told = _labels(labels)
            if value is not None and told is not None:
                yield told, value


def _labels(labels: dict[str, Any]) -> dict[str, str] | None:
    """The labels, cut where they are too long; None where one is no text."""
    for text in labels.values():
        if not isinstance(text, str):
            return None
        if len(text) > _LONGEST:
            return {name: str(text)[:_LONGEST] for name, text in labels.items()}
    return labels


def _ratio(value: Any) -> float | None:
    told = number(value)
    return None if told is None or told > 1 else told


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value[:_LONGEST]
    # A lone surrogate, which JSON can write, is no text that can be stored.
    return value[:_LONGEST].encode("utf-8", "replace").decode()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
