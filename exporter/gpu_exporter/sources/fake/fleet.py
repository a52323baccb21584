"""The simulated machine: its GPUs, the story that happens to them, and the driver that can come and go.

A fleet outlives the sources that are opened on it, as hardware outlives a driver: a ``FakeSource`` that the sampler
closes and opens again finds the same GPUs, counters and faults, and the scenario goes on where it was.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

from gpu_exporter.catalog import DEVICE_METRICS, WHOLE, by_name, told_together
from gpu_exporter.catalog.interconnect import NVLINK_LINK_ERRORS
from gpu_exporter.catalog.row import Board, Constant, Metric, scaled
from gpu_exporter.catalog.simulated import UUID_END
from gpu_exporter.model import Device, Driver, Failure, GpuEvent, Process, Reading, Reason, Xid, XidDetail
from gpu_exporter.sources import SourceChangedError, SourceError
from gpu_exporter.sources.fake.models import MODELS, GpuModel
from gpu_exporter.sources.fake.partitions import cut
from gpu_exporter.sources.fake.scenario import Event, Fleet, ScenarioFile
from gpu_exporter.sources.fake.simulation import Conditions, Simulation
from gpu_exporter.sources.fake.telling import Falsehoods, Telling, merged
from gpu_exporter.sources.fake.workloads import SimulatedProcess, assign, key

Wait: TypeAlias = Callable[[threading.Event, float], bool]

DRIVER: Final = Driver(driver_version="590.48.01", cuda_version="13.1", nvml_version="13.590.48.01")
_SIMULATED: Final = tuple((row, row.fake) for row in DEVICE_METRICS if isinstance(row.fake, str) and not row.dynamic)
_FANS: Final = by_name("gpu_fan_speed_ratio")
_RPMS: Final = by_name("gpu_fan_speed_rpm")
_LOOK_EVERY: Final = 1.0  # seconds of the clock between looks at the scenario file
_POLL: Final = 0.05  # seconds between looks of a hanging read at the story
_MOST_XIDS: Final = 4096  # kept until somebody asks
_FAILURES: Final[dict[str, tuple[Reason, str]]] = {
    "lost": ("lost", "GPU is lost: it has fallen off the bus"),
    "reset_required": ("reset_required", "GPU requires a reset"),
}


class FakeFleet:
    """Simulated GPUs of one machine, and what happens to them.

    ``owners`` tells as which kind of owner the work is done; None lists no processes. ``clock`` tells Unix time, by
    default that of the start and what passed since, whatever is done to the machine's clock. ``wait`` waits for an
    event at most so many seconds; it is how slow and hanging reads pass their time. Raises ConfigError where the
    scenario cannot be used.
    """

    def __init__(
        self,
        *,
        gpus: int,
        model: str,
        seed: int,
        scenario: Path | None = None,
        owners: str | None = "user",
        clock: Callable[[], float] | None = None,
        wait: Wait = threading.Event.wait,
    ) -> None:
        board = MODELS[model]
        self._fixed = _fixed(board)
        self._owners = owners
        self._clock = clock = clock or _steady()
        self._lock = threading.RLock()
        self._file = ScenarioFile(scenario, Fleet(gpus, board)) if scenario is not None else None
        self._start = self._looked = clock()
        self._simulations = tuple(
            Simulation(model=board, workload=workload, start=self._start) for workload in assign(gpus, seed)
        )
        self._active: tuple[dict[str, Event], ...] = tuple({} for _ in range(gpus))
        self._driver_gone: Event | None = None
        self._clock_steps: list[Event] = []
        self._xids: deque[Xid] = deque(maxlen=_MOST_XIDS)
        self.wait = wait
        self.devices = tuple(_identity(board, seed, index) for index in range(gpus))
        self.driver_generation = 0
        self._agenda = self._plan()

    def open(self) -> FakeSource:
        """Open a source, as the driver is opened. Raises SourceError while the driver is gone."""
        return FakeSource(fleet=self)

    def advance(self) -> float:
        """Let happen what is due by now; the Unix time reached."""
        with self._lock:
            now = self._clock()
            if self._file is not None and abs(now - self._looked) >= _LOOK_EVERY:
                self._looked = now
                if self._file.changed():
                    self._recover_all(now)
                    self._start = now
                    self._agenda = self._plan()
            while self._agenda and self._start + self._agenda[0][0] <= now:
                at, undo, event = self._agenda.popleft()
                self._happen(event, self._start + at, undo=undo)
            return now

    def driver_gone(self) -> bool:
        """True while no driver is loaded."""
        return self._driver_gone is not None

    def hanging(self, index: int) -> bool:
        """True while calls for this GPU do not return."""
        return "hang" in self._active[index]

    def delay(self, index: int) -> float:
        """Seconds that a call for this GPU takes longer than it should."""
        slow = self._active[index].get("slow")
        return slow.delay if slow is not None else 0.0

    def plugged(self) -> tuple[int, ...]:
        """The GPUs that are there."""
        return tuple(
            index
            for index, active in enumerate(self._active)
            if (event := active.get("hot_plug")) is None or event.plugged
        )

    def named(self, index: int, device: Device) -> Device:
        """The device as its board names itself now: a drift may have changed its VBIOS."""
        drift = self._active[index].get("drift")
        return device if drift is None or not drift.vbios else replace(device, vbios_version=drift.vbios)

    def falsehoods(self, index: int) -> Falsehoods:
        """What the driver does not tell of one GPU, or tells wrongly."""
        with self._lock:
            events = list(self._active[index].values())
        return merged([falsehood for event in events if (falsehood := _falsehood(event))])

    def reading(self, index: int, now: float) -> Reading:
        """What is so with one GPU at Unix time ``now``, with counters since it was started."""
        device = self.devices[index]
        with self._lock:
            failure = self._failure(index)
            if failure is not None:
                return Reading(device, failure=failure)
            simulation = self._simulations[index]
            simulation.advance(now)
            quantities = simulation.quantities()
            fans, rpms = simulation.fan_speeds(), simulation.fan_rpms()
            labelled = simulation.partitions()
            parts = simulation.conditions.parts
            processes = None if self._owners is None else tuple(self._processes(simulation.processes(), quantities))
        values = self._fixed | {row: quantities[name] for row, name in _SIMULATED if name in quantities}
        values |= {
            part: quantities[part.fake] for part in WHOLE if isinstance(part.fake, str) and part.fake in quantities
        }
        labelled |= told_together(values)
        for row, speeds in ((_FANS, fans), (_RPMS, rpms)):
            labelled |= {(row, (str(fan),)): speed for fan, speed in enumerate(speeds)}
        of_links = sorted(simulation.link_errors.items())
        labelled |= {(NVLINK_LINK_ERRORS, (str(link), kind)): count for (link, kind), count in of_links}
        return Reading(
            device,
            values,
            labelled=labelled,
            processes=processes,
            mig_uuids=tuple(part.uuid for part in parts or ()),
            mig_whole=parts is not None,
        )

    def _processes(self, simulated: Iterable[SimulatedProcess], quantities: Mapping[str, float]) -> Iterator[Process]:
        """As a driver lists them: only those that compute have utilization, and in MIG mode none has."""
        for process in simulated:
            busy = quantities.get("utilization") if process.job else None
            yield Process(
                pid=process.pid,
                type=process.type,
                memory_used=float(process.memory_used),
                utilization=busy or None,
                mig_uuid=process.mig_uuid,
                identity=process.identity(self._owners or ""),
            )

    def take_xids(self) -> tuple[Xid, ...]:
        """XIDs that nobody took yet."""
        with self._lock:
            xids = tuple(self._xids)
            self._xids.clear()
            return xids

    # --- the story --------------------------------------------------------------------------------------------------

    def _plan(self) -> deque[tuple[float, bool, Event]]:
        """What happens when: events of one moment in the file's order, then what ends at it."""
        events = self._file.events if self._file is not None else ()
        entries = [(0.0, False, event) for event in _absent_at_first(events)]
        entries += [(event.at, False, event) for event in events]
        entries += [(event.at + event.lasts, True, event) for event in events if event.lasts is not None]
        return deque(sorted(entries, key=lambda entry: entry[0]))

    def _happen(self, event: Event, when: float, *, undo: bool) -> None:
        if event.fault == "driver_gone":
            if not undo:
                self._driver_gone = event
                self.driver_generation += 1
            elif self._driver_gone is event:
                self._driver_gone = None
            return
        if event.fault == "clock_step":
            self._clock_steps = [step for step in self._clock_steps if step is not event] + [event] * (not undo)
            return
        if event.fault == "recover":
            if event.gpus:
                self._recover(event.gpus, when)
            else:
                self._recover_all(when)
            return
        for index in event.gpus:
            self._simulations[index].advance(when)
            if event.fault == "xid":
                stamp = when + sum(step.step for step in self._clock_steps)
                detail = XidDetail(event.word, event.unit, event.sub_code, event.link)
                self._xids.append(Xid(self.devices[index], event.xid, stamp, detail=detail))
                continue
            self._switch(index, event, on=not undo)
            self._simulations[index].change(self._conditions(index))

    def _switch(self, index: int, event: Event, *, on: bool) -> None:
        """A fault begins or ends on a GPU. One kind holds once; the later event replaces the earlier."""
        active, simulation = self._active[index], self._simulations[index]
        name = _slot(event)
        if not on:
            if active.get(name) is event:
                del active[name]
                if event.fault == "hot_plug" and event.plugged:
                    active[name] = replace(event, plugged=False)
            return
        if event.stop or (event.fault == "mig" and not event.enabled):
            active.pop(name, None)
            return
        active[name] = event
        if event.fault == "ecc":
            rows = event.count if event.remap in {"done", "pending"} else 0
            simulation.memory_errors.count(
                severity=event.severity, location=event.location, count=event.count, rows=rows
            )
        elif event.fault == "pcie":
            simulation.count_link_errors(pcie_replays=event.count)
        elif event.fault == "nvlink":
            simulation.count_link_errors(nvlink_errors=event.count)
        elif event.fault == "nvlink_link":
            kind = event.kind or simulation.model.nvlink_errors[-1]
            simulation.count_errors_of_link(event.link or 0, kind, event.count)
        elif event.fault == "remap_bank":
            simulation.memory_errors.wear(spare=event.spare, count=event.count)

    def _conditions(self, index: int) -> Conditions:
        return _conditions(self._active[index], self._simulations[index].model, self.devices[index])

    def _recover_all(self, when: float) -> None:
        self._recover(range(len(self.devices)), when)
        self._driver_gone = None
        self._clock_steps = []

    def _recover(self, indices: Sequence[int], when: float) -> None:
        """Clear everything that the scenario did to these GPUs, as a reset does."""
        for index in indices:
            self._simulations[index].advance(when)
            self._active[index].clear()
            self._simulations[index].change(Conditions())
            self._simulations[index].memory_errors.reset()

    def _failure(self, index: int) -> Failure | None:
        for fault, (reason, message) in _FAILURES.items():
            if fault in self._active[index]:
                return Failure(reason, message)
        return None


def _steady() -> Callable[[], float]:
    """A clock that shows Unix time as long as nobody sets the machine's, and that goes on when somebody does."""
    ahead = time.time() - time.monotonic()
    return lambda: ahead + time.monotonic()


class FakeSource:
    """The Source over a fleet, from opening to ``close``. Raises SourceError while the driver is gone."""

    name = "fake"
    simulated = True

    def __init__(self, *, fleet: FakeFleet) -> None:
        fleet.advance()
        if fleet.driver_gone():
            raise SourceError("the simulated driver is not loaded (scenario: driver_gone)")
        self.driver = DRIVER
        self._fleet = fleet
        self._generation = fleet.driver_generation
        self._plugged = fleet.plugged()
        # As NVML does, which counts those that it finds when it is opened.
        self._devices = tuple(
            replace(fleet.devices[index], index=position) for position, index in enumerate(self._plugged)
        )
        self._telling = Telling()
        self._closed = threading.Event()

    @property
    def devices(self) -> Sequence[Device]:
        """Every GPU that was there when the source was opened, the lost ones as well."""
        return self._devices

    def read(self, device: Device) -> Reading:
        """One GPU now. Blocks while the scenario lets it hang; ``close`` and recovery release it."""
        fleet, index = self._fleet, self._plugged[device.index]
        now = self._alive()
        delay = fleet.delay(index)
        if delay:
            fleet.wait(self._closed, delay)
            now = self._alive()
        while fleet.hanging(index):
            fleet.wait(self._closed, _POLL)
            now = self._alive()
        named = fleet.named(index, self._devices[device.index])
        return self._telling.of(fleet.reading(index, now), named, now, fleet.falsehoods(index))

    def events(self) -> Sequence[Xid]:
        """XIDs since the previous call."""
        self._fleet.advance()
        if self._closed.is_set() or self._fleet.driver_gone():
            return ()
        named = {device.uuid: device for device in self._devices}
        return tuple(replace(xid, device=named.get(xid.device.uuid, xid.device)) for xid in self._fleet.take_xids())

    @property
    def hears(self) -> bool:
        """Its driver always tells."""
        return not self._closed.is_set()

    def could_tell(self) -> Sequence[GpuEvent]:
        """None: its XIDs are all that it tells."""
        return ()

    def close(self, *, hung: bool = False) -> None:
        """Let go of the driver; reads that hang or are slow end with SourceError, so ``hung`` changes nothing."""
        self._closed.set()

    def _alive(self) -> float:
        """Unix time, with the story brought up to it. Handles of an unloaded driver stay dead when it is back."""
        now = self._fleet.advance()
        if self._closed.is_set():
            raise SourceError("the simulated driver was closed")
        if self._fleet.driver_gone():
            raise SourceError("the simulated driver is not loaded (scenario: driver_gone)")
        if self._generation != self._fleet.driver_generation:
            raise SourceError("the simulated driver was loaded anew; open it again")
        if self._plugged != self._fleet.plugged():
            raise SourceChangedError("GPUs have come or gone (scenario: hot_plug)")
        return now


def _slot(event: Event) -> str:
    """What a later event of the same kind replaces."""
    if event.process is not None:
        return f"process {event.process.pid}"
    if event.fault == "ecc":
        return f"ecc {event.place}"
    if event.fault in {"silent_sensor", "impossible_value"}:  # several sensors may lie, each in its own way
        return f"{event.fault} {event.metrics}"
    return event.fault


def _absent_at_first(events: Iterable[Event]) -> Iterator[Event]:
    """A GPU of which the story tells first that it is plugged in was not there before."""
    told: set[int] = set()
    for event in sorted(events, key=lambda event: event.at):
        if event.fault == "hot_plug":
            if event.plugged:
                yield replace(event, gpus=tuple(index for index in event.gpus if index not in told), plugged=False)
            told.update(event.gpus)


def _falsehood(event: Event) -> Falsehoods | None:
    """What an event falsifies."""
    if event.fault == "silent_sensor":
        return Falsehoods(silent=frozenset(event.metrics))
    if event.fault == "impossible_value":
        return Falsehoods(values=dict.fromkeys(event.metrics, event.value))
    if event.fault == "partial":
        return Falsehoods(only=frozenset(event.metrics))
    return None


def _conditions(active: Mapping[str, Event], model: GpuModel, device: Device) -> Conditions:
    """What the active faults of a GPU amount to."""
    events = active.values()
    mig = active.get("mig")
    return Conditions(
        overheat=next((event.target for event in events if event.fault == "overheat"), None),
        fans_stopped="fan_stop" in active,
        fans_blocked=any(event.blocked for event in events if event.fault == "fan_stop"),
        power_brake="power_brake" in active,
        workload=next((event.workload for event in events if event.fault == "workload"), None),
        parts=None if mig is None else cut(model, device.uuid, mig.instances),
        pcie_width=next((event.width for event in events if event.fault == "pcie"), 16),
        pcie_generation=next((event.generation for event in events if event.fault == "slow_pcie"), None),
        clock_ratio=next((event.ratio for event in events if event.fault == "clock_stuck"), None),
        power_limit=next((event.power_limit for event in events if event.fault == "drift"), None),
        ecc_off=any(not event.ecc for event in events if event.fault == "drift"),
        nvlinks_down=next((event.links for event in events if event.fault == "nvlink"), 0),
        fabric=next((event.fabric for event in events if event.fault == "fabric"), ""),
        remap_pending=any(event.remap == "pending" for event in events),
        remap_failure=any(event.remap == "failure" for event in events),
        processes=tuple(event.process for event in events if event.process is not None),
    )


def _fixed(model: GpuModel) -> dict[Metric, float]:
    """What never changes on a board."""
    values: dict[Metric, float] = {}
    for row in DEVICE_METRICS:
        if isinstance(row.fake, Constant):
            values[row] = row.fake.value
        elif isinstance(row.fake, Board):
            value = getattr(model, row.fake.attribute)
            if value is not None:
                values[row] = float(scaled(value, row.fake.scale))
    return values


def _identity(model: GpuModel, seed: int, index: int) -> Device:
    """Names that the same seed gives again; eight GPUs a PCI domain. The UUID says that it is simulated."""
    node, slot = divmod(index, len(model.buses))
    drawn = key(seed, model.name, "uuid", index) << 64 | key(seed, model.name, "uuid low", index)
    unique = uuid.UUID(int=drawn >> 48 << 48 | int(UUID_END, 16), version=4)
    serial = f"165{key(seed, model.name, 'serial', index) % 10**10:010d}" if model.serial else ""
    return Device(
        index=index,
        uuid=f"GPU-{unique}",
        model=model.product,
        architecture=model.architecture,
        brand=model.brand,
        pci_bus_id=f"{node:08X}:{model.buses[slot]}:00.0",
        serial=serial,
        vbios_version=model.vbios,
    )
