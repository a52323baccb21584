"""Samples added up by minute, in memory: what the store writes once a minute is over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gpu_exporter.history.document import (
    HELD,
    STATES,
    GpuName,
    GpuSample,
    HostSample,
    NodeSample,
    ProcessName,
    RareKey,
    read_document,
)
from gpu_exporter.history.growth import Growth, growth
from gpu_exporter.model import Owner

MINUTE: Final = 60
# A silence of three intervals, and of a minute at least, is a gap: what the counters grew by meanwhile is nobody's.
_GAP_INTERVALS: Final = 3
_LEAST_GAP: Final = 60.0  # seconds
_FORGET_AFTER: Final = 600.0  # seconds until a node that is silent is no longer kept in memory


@dataclass(slots=True)
class Mean:
    """A gauge over time: its integral, the time it is known for, and the highest sample."""

    area: float = 0.0
    seconds: float = 0.0
    high: float | None = None

    def add(self, value: float | None, seconds: float) -> None:
        """The value stood for so many seconds."""
        if value is not None:
            self.area += value * seconds
            self.seconds += seconds

    def peak(self, value: float | None) -> None:
        """The value was seen."""
        if value is not None and (self.high is None or value > self.high):
            self.high = value

    @property
    def value(self) -> float | None:
        """The mean, or the one sample of a gauge that was just seen for the first time."""
        return self.area / self.seconds if self.seconds > 0 else self.high


@dataclass(slots=True)
class GpuMinute:
    """One GPU's minute, in base units. ``minute`` is Unix time divided by 60."""

    sample: GpuSample
    minute: int
    states: list[float] = field(default_factory=lambda: [0.0] * len(STATES))
    busy: float | None = None
    memory_io_busy: float | None = None
    joules: float | None = None
    score: float | None = None
    slowed: float | None = None
    utilization: Mean = field(default_factory=Mean)
    memory: Mean = field(default_factory=Mean)
    temperature: Mean = field(default_factory=Mean)
    power: Mean = field(default_factory=Mean)
    sm_clock: Mean = field(default_factory=Mean)
    processes: Mean = field(default_factory=Mean)
    owners: dict[tuple[Owner, str], float] = field(default_factory=dict)
    rare: dict[RareKey, float] = field(default_factory=dict)

    @property
    def observed(self) -> float:
        """Seconds in which the GPU answered."""
        return sum(self.states[:-1])

    def add(self, grown: Growth, part: float, sample: GpuSample, seconds: float) -> None:
        """Add a part of what was added between two samples, in which the second one's gauges stood."""
        for at, value in enumerate(grown.states):
            self.states[at] += value * part
        self.busy = _plus(self.busy, grown.busy, part)
        self.memory_io_busy = _plus(self.memory_io_busy, grown.memory_io_busy, part)
        self.joules = _plus(self.joules, grown.joules, part)
        self.score = _plus(self.score, grown.score, part)
        self.slowed = _plus(self.slowed, grown.slowed, part)
        self.memory.add(sample.memory_used, seconds)
        self.temperature.add(sample.temperature, seconds)
        self.sm_clock.add(sample.sm_clock, seconds)
        for key, value in grown.owners.items():
            self.owners[key] = self.owners.get(key, 0.0) + value * part

    def see(self, sample: GpuSample) -> None:
        """A sample fell into this minute."""
        self.sample = sample
        self.utilization.peak(sample.utilization)
        self.memory.peak(sample.memory_used)
        self.temperature.peak(sample.temperature)
        self.power.peak(sample.power)
        self.sm_clock.peak(sample.sm_clock)
        self.processes.peak(sample.processes)

    def shares(self) -> Mapping[Owner, tuple[float, ...]]:
        """Seconds by owner, in the order of HELD."""
        shares: dict[Owner, list[float]] = {}
        for (owner, state), seconds in self.owners.items():
            shares.setdefault(owner, [0.0] * len(HELD))[HELD.index(state)] += seconds
        return {owner: tuple(seconds) for owner, seconds in shares.items()}


@dataclass(slots=True)
class HostMinute:
    """One machine's minute; ``seconds`` are those in which it was heard of."""

    node: str
    minute: int
    sample: HostSample
    seconds: float = 0.0
    cpu: Mean = field(default_factory=Mean)
    memory: Mean = field(default_factory=Mean)
    load: Mean = field(default_factory=Mean)

    def see(self, sample: HostSample) -> None:
        """A sample fell into this minute."""
        self.sample = sample
        self.cpu.peak(sample.cpu)
        self.memory.peak(sample.memory_used)
        self.load.peak(sample.load)


@dataclass(slots=True)
class ProcessRun:
    """A process on a GPU, as far as it was seen; Unix seconds, bytes."""

    name: ProcessName
    first_seen: float
    last_seen: float
    memory_max: float | None
    written: bool = False


@dataclass(slots=True)
class Batch:
    """What is to be written, together or not at all."""

    gpus: list[GpuMinute] = field(default_factory=list)
    hosts: list[HostMinute] = field(default_factory=list)
    processes: list[ProcessRun] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.gpus) + len(self.hosts) + len(self.processes)

    def extend(self, later: Batch) -> None:
        """Add what came later."""
        self.gpus += later.gpus
        self.hosts += later.hosts
        self.processes += later.processes


@dataclass(slots=True)
class _Node:
    """What the newest document of a node told, and the minutes that are not over."""

    at: float  # when the document was taken
    sampled_at: float | None  # when its sample was, by our clock
    sample: NodeSample
    gpus: dict[GpuName, GpuSample]
    host: HostMinute
    open: dict[GpuName, GpuMinute] = field(default_factory=dict)
    runs: dict[ProcessName, ProcessRun] = field(default_factory=dict)


class Minutes:
    """Adds up documents. Belongs to one thread, or to one lock; times are Unix seconds of our own clock."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._done = Batch()

    def add(self, alias: str, document: Mapping[str, Any], at: float) -> bool:
        """Add a node's document, taken at that time; False where it is none that can be read."""
        sample = read_document(alias, document)
        if sample is None:
            return False
        known = self._nodes.get(alias)
        if known is None:
            minute = _minute(at)
            known = self._nodes[alias] = _Node(at, None, sample, {}, HostMinute(alias, minute, sample.host))
            known.host.see(sample.host)
        else:
            self._add_host(known, sample, at)
        if sample.stamp is not None and (known.sampled_at is None or sample.stamp != known.sample.stamp):
            self._add_gpus(known, sample, at - sample.age)
        known.at, known.sample = at, sample
        return True

    def add_unchanged(self, alias: str, at: float) -> bool:
        """A node has answered with its newest document once more; False where there is none."""
        known = self._nodes.get(alias)
        if known is None:
            return False
        self._add_host(known, known.sample, at)
        known.at = at
        return True

    def take(self, before: float) -> Batch:
        """What is over by that time: it is told once."""
        minute = _minute(before)
        for alias, node in list(self._nodes.items()):
            if node.host.minute < minute:
                self._done.hosts.append(node.host)
                node.host = HostMinute(node.host.node, minute, node.host.sample)
            for name, entry in list(node.open.items()):
                if entry.minute < minute:
                    self._done.gpus.append(node.open.pop(name))
            self._take_processes(node)
            if before - node.at > max(_gap(node.sample), _FORGET_AFTER):  # if it comes back, it begins anew
                del self._nodes[alias]
        done, self._done = self._done, Batch()
        done.hosts = [host for host in done.hosts if host.seconds > 0]
        done.gpus = [gpu for gpu in done.gpus if sum(gpu.states) > 0 or gpu.rare]
        return done

    def take_all(self) -> Batch:
        """Everything, as the end is near: the minute that is not over as well."""
        latest = max((max(node.at, node.sampled_at or 0.0) for node in self._nodes.values()), default=0.0)
        return self.take(latest + MINUTE)

    def _take_processes(self, node: _Node) -> None:
        """Those that were seen since they were told last; those that have ended are told for the last time."""
        for run in node.runs.values():
            if not run.written:
                self._done.processes.append(replace(run))
                run.written = True
        node.runs = {name: run for name, run in node.runs.items() if run.last_seen == node.sampled_at}

    def _add_host(self, node: _Node, sample: NodeSample, at: float) -> None:
        elapsed = at - node.at
        for minute, seconds in _split(node.at, at) if 0 < elapsed <= _gap(sample) else ():
            entry = self._host(node, minute)
            entry.seconds += seconds
            entry.cpu.add(sample.host.cpu, seconds)
            entry.memory.add(sample.host.memory_used, seconds)
            entry.load.add(sample.host.load, seconds)
        self._host(node, _minute(at)).see(sample.host)

    def _host(self, node: _Node, minute: int) -> HostMinute:
        if node.host.minute != minute:
            self._done.hosts.append(node.host)
            node.host = HostMinute(node.host.node, minute, node.host.sample)
        return node.host

    def _add_gpus(self, node: _Node, sample: NodeSample, at: float) -> None:
        before, node.sampled_at = node.sampled_at, at
        elapsed = at - before if before is not None else 0.0
        parts = list(_split(before, at)) if before is not None and 0 < elapsed <= _gap(sample) else []
        last = {gpu.name: gpu for gpu in sample.gpus}
        for name, gpu in last.items():
            old = node.gpus.get(name)
            grown = growth(old, gpu, elapsed) if parts and old is not None else None
            if grown is not None:
                for minute, seconds in parts:
                    self._gpu(node, gpu, minute).add(grown, seconds / elapsed, gpu, seconds)
            entry = self._gpu(node, gpu, _minute(at))
            entry.see(gpu)
            if grown is not None:
                for key, count in grown.rare.items():
                    entry.rare[key] = entry.rare.get(key, 0.0) + count
        node.gpus = last
        self._add_processes(node, sample, at)

    def _gpu(self, node: _Node, sample: GpuSample, minute: int) -> GpuMinute:
        entry = node.open.get(sample.name)
        if entry is None or entry.minute != minute:
            if entry is not None:
                self._done.gpus.append(entry)
            entry = node.open[sample.name] = GpuMinute(sample, minute)
        return entry

    def _add_processes(self, node: _Node, sample: NodeSample, at: float) -> None:
        for name, memory in sample.processes.items():
            run = node.runs.get(name)
            if run is None:
                node.runs[name] = ProcessRun(name, at, at, memory)
            else:
                run.last_seen, run.written = at, False
                if memory is not None:
                    run.memory_max = max(memory, run.memory_max or 0.0)


def _gap(sample: NodeSample) -> float:
    return max(_GAP_INTERVALS * sample.interval, _LEAST_GAP)


def _minute(at: float) -> int:
    return int(at // MINUTE)


def _split(start: float, end: float) -> Iterator[tuple[int, float]]:
    """The minutes that a span of time touches, and the seconds in each."""
    minute = _minute(start)
    while start < end:
        stop = min(end, (minute + 1) * MINUTE)
        if stop > start:
            yield minute, stop - start
        start, minute = max(start, stop), minute + 1


def _plus(total: float | None, more: float | None, part: float) -> float | None:
    return total if more is None else (total or 0.0) + more * part
