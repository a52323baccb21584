"""A snapshot under dcgm-exporter's names and labels, so that dashboards and alerts made for it go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from gpu_exporter.catalog.compat import FIELDS, LABELS, Field
from gpu_exporter.catalog.mig import MIG_INFO
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Identity, Reading, Snapshot
from gpu_exporter.pages.lines import go_number, sample_head

_Labels = dict[str, str]


class Family(NamedTuple):
    """What stands above the samples of a name, in either format.

    OpenMetrics wants counters that end in _total; dcgm-exporter's do not, and are of no type there.
    """

    text: str
    openmetrics: str


class _Entry(NamedTuple):
    name: str
    factor: float
    field: Field
    generation: str
    family: Family


class Compat:
    """Writes the samples of these generations. For one thread at a time.

    What dcgm-exporter tells as a rate is the mean since the snapshot that was written before. ``hostname`` is the
    machine's name.
    """

    def __init__(self, generations: Sequence[str], *, hostname: str) -> None:
        self._hostname = hostname
        entries: dict[str, _Entry] = {}
        for generation in generations:
            for field in FIELDS:
                name, factor = field.named(generation)
                # A name that both generations have is told once, with the labels of the older.
                entries.setdefault(name, _Entry(name, factor, field, generation, _family(name, field)))
        self._entries: Final = tuple(entries.values())
        self._before: dict[tuple[str, Metric], tuple[float, float]] = {}  # value and monotonic seconds
        self._now: dict[tuple[str, Metric], tuple[float, float]] = {}

    def samples(self, snapshot: Snapshot) -> list[tuple[Family, str]]:
        """The families that have samples, with their sample lines."""
        self._now = {}
        lines: dict[str, list[str]] = {entry.name: [] for entry in self._entries}
        for reading in sorted(snapshot.readings, key=lambda reading: reading.device.index):
            if reading.failure is None:
                self._write(lines, snapshot, reading)
        self._before = self._now
        return [(entry.family, "".join(lines[entry.name])) for entry in self._entries if lines[entry.name]]

    def _write(self, lines: Mapping[str, list[str]], snapshot: Snapshot, reading: Reading) -> None:
        version = snapshot.driver.driver_version if snapshot.driver is not None else ""
        device = reading.device
        gpu = {
            "gpu": str(device.index),
            "UUID": device.uuid,
            "pci_bus_id": device.pci_bus_id,
            "device": f"nvidia{device.index}",
            "modelName": device.model,
        }
        whole = gpu | _pod(reading.allocations)
        parts = dict(_parts(reading, gpu))
        for entry in self._entries:
            host, driver = LABELS[entry.generation]
            common = {host: self._hostname, driver: version}
            if parts and entry.field.mig is not None:
                told = [(parts[uuid], value) for uuid, value in _of(reading, entry.field.mig) if uuid in parts]
            else:
                value = self._value(
                    entry.field, reading, snapshot.monotonic if reading.read_at is None else reading.read_at
                )
                told = [] if value is None else [(whole, value)]
            for labels, value in told:
                named = {name: text for name, text in (labels | common).items() if text}
                lines[entry.name].append(f"{sample_head(entry.name, named)}{go_number(value * entry.factor)}\n")

    def _value(self, field: Field, reading: Reading, now: float) -> float | None:
        """In our own units; None where it is not told."""
        values = reading.values
        if field.how == "latest":
            events = [(at, xid) for xid, at in _of(reading, field.terms[0][0])]
            number = max(events)[1] if events else "0"
            return float(number) if number.isdigit() else None
        if field.how == "most":
            return max((value for _, value in _of(reading, field.terms[0][0])), default=None)
        if field.how == "rate":
            growths = [self._growth(reading.device.key, row, values.get(row), now) for row, _ in field.terms]
            return None if any(growth is None for growth in growths) else sum(growth or 0.0 for growth in growths)
        told = [values[row] * weight for row, weight in field.terms if row in values]
        if not told:
            return None
        return told[0] if field.how == "first" else sum(told)

    def _growth(self, key: str, row: Metric, value: float | None, now: float) -> float | None:
        if value is None:
            return None
        self._now[key, row] = (value, now)
        before, at = self._before.get((key, row), (value, now))
        return (value - before) / (now - at) if now > at and value >= before else None


def _pod(allocations: Sequence[Identity]) -> _Labels:
    """Of the one pod that the device was given to; several share it, and none of them has it."""
    labels = [identity.labels for identity in allocations if "pod" in identity.labels]
    pods = {(told.get("namespace", ""), told["pod"]) for told in labels}
    if len(pods) != 1:
        return {}
    containers = {identity.container for identity in allocations}
    ((namespace, pod),) = pods
    return {"container": containers.pop() if len(containers) == 1 else "", "namespace": namespace, "pod": pod}


def _parts(reading: Reading, gpu: _Labels) -> Iterator[tuple[str, _Labels]]:
    """The labels of each MIG device, by its UUID."""
    for row, labels in reading.labelled:
        if row is MIG_INFO:
            uuid, instance, _, profile = labels
            which = {"GPU_I_ID": instance, "GPU_I_PROFILE": profile}
            yield uuid, gpu | which | _pod(reading.mig_allocations.get(uuid, ()))


def _of(reading: Reading, wanted: Metric) -> Iterator[tuple[str, float]]:
    """The row's values by its label."""
    return ((labels[0], value) for (row, labels), value in reading.labelled.items() if row is wanted)


def _family(name: str, field: Field) -> Family:
    text = f"{field.text}, as dcgm-exporter names it (docs/MIGRATING.md)."
    kind = "unknown" if field.kind == "counter" else "gauge"
    return Family(
        f"# HELP {name} {text}\n# TYPE {name} {field.kind}\n", f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    )
