"""The physics of one GPU: power, heat, clocks and counters, integrated in steps.

The gauges of work (utilization, memory) are functions of the time; heat, fans and counters are integrated over steps of
at most six seconds, so that equal seeds and equal clock readings give equal results. Temperature is first order: it
decays towards ``inlet + resistance x power / air flow``. The governor solves each step for the power that keeps the
core at its highest operating temperature, as the firmware does; below a floor it cannot go, and at the slowdown limit
the hardware takes over.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from types import MappingProxyType
from typing import Final

from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.row import MHZ, MIB, Metric
from gpu_exporter.sources.fake.memory_errors import MemoryErrors
from gpu_exporter.sources.fake.models import GpuModel
from gpu_exporter.sources.fake.partitions import Part, rows
from gpu_exporter.sources.fake.workloads import DRAM_ACTIVE, Demand, Kind, SimulatedProcess, Workload, allocated, noise

_STEP: Final = 6.0
_LEAST_SPAN: Final = 1e-9  # a shorter one is left to the next: in it nothing changes by what a float can tell
_MOST_STEPS: Final = 64
_WARM_UP: Final = 240.0
_EPOCH: Final = 1735689600.0  # 2025-01-01T00:00:00Z: from here the simulated machines were rebooted every three weeks
_REBOOTS: Final = 21 * 86400.0
_LEAST_UPTIME: Final = 3 * 86400.0
_STALLED: Final = 0.2  # what is left of the air flow by convection
_SW_FLOOR: Final = 0.4  # shares of the span from idle to the limit that the governors can get down to
_HW_FLOOR: Final = 0.15
_BRAKE: Final = 0.3
_CLOCK_EXPONENT: Final = 0.45  # of the power share, for the clock that it pays for
_HIDDEN_BY_MIG: Final = (
    "utilization",
    "memory_io",
    "encoder",
    "decoder",
    "jpeg",
    "ofa",
    "busy_seconds",
    "memory_io_busy_seconds",
    "graphics_active",
    "sm_active",
    "sm_occupancy",
    "tensor_active",
    "dram_active",
    "fp64_active",
    "fp32_active",
    "fp16_active",
    "sm_active_seconds",
    "tensor_active_seconds",
    "dram_active_seconds",
)
_REASONS: Final = (
    "sw_power_cap",
    "hw_slowdown",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is wrong, or different, with a GPU at the moment."""

    overheat: float | None = None
    fans_stopped: bool = False
    fans_blocked: bool = False  # as well: they are told to turn, and do not
    power_brake: bool = False
    workload: Kind | None = None
    parts: tuple[Part, ...] | None = None  # in MIG mode
    pcie_width: int = 16
    pcie_generation: int | None = None  # the highest that the link trains to
    clock_ratio: float | None = None  # of the highest SM clock, where it is stuck
    power_limit: float | None = None  # watts, where it is not the default
    ecc_off: bool = False
    nvlinks_down: int = 0
    fabric: str = ""  # what is wrong with the fabric: FABRIC_FAULTS
    remap_pending: bool = False
    remap_failure: bool = False
    processes: tuple[SimulatedProcess, ...] = ()


_AER: Final = tuple(part.labels[0][1] for part in by_name("gpu_pcie_aer_errors_total").parts)
_REPLAYED: Final = frozenset({"correctable", "nak_received"})  # what a packet that is sent again counts as
HEALTHY: Final = Conditions()
_FABRIC_CONDITIONS: Final = (
    "degraded_bandwidth",
    "route_recovery",
    "route_unhealthy",
    "access_timeout_recovery",
    "incorrect_configuration",
)
_FABRIC_STATES: Final = {"not_started": 1.0, "in_progress": 2.0}
# Registration that does not begin, does not end, or fails; and the conditions of gpu_fabric_health.
FABRIC_FAULTS: Final = (*_FABRIC_STATES, "failed", *_FABRIC_CONDITIONS)
_FAILED: Final = 999.0  # NVML_ERROR_UNKNOWN


@dataclass(slots=True)
class _Totals:
    """Counters since the machine was started, in seconds, joules, bytes and counts."""

    busy: float = 0.0
    memory_io: float = 0.0
    sm_active: float = 0.0
    tensor_active: float = 0.0
    dram_active: float = 0.0
    energy: float = 0.0
    pcie_transmit: float = 0.0
    pcie_receive: float = 0.0
    nvlink: float = 0.0
    pcie_replays: float = 0.0
    nvlink_errors: float = 0.0
    reasons: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_REASONS, 0.0))


class Simulation:
    """One GPU. ``advance`` brings it to a moment; ``quantities`` tells what a driver would then answer."""

    __slots__ = (
        "_ambient",
        "_decay",
        "_demand",
        "_fan",
        "_flags",
        "_heat",
        "_hot",
        "_now",
        "_power",
        "_ratio",
        "_temperature",
        "_totals",
        "_workload",
        "conditions",
        "link_errors",
        "memory_errors",
        "model",
    )

    def __init__(self, *, model: GpuModel, workload: Workload, start: float) -> None:
        self.model = model
        self.conditions = HEALTHY
        self._workload = workload
        self._ambient = 26.0 + 5.0 * noise(workload.own, -1)
        self._demand = workload.demand(start - _WARM_UP)
        self._power = self._wanted(self._demand)
        self._ratio = 1.0
        self._hot = False
        self._fan = 0.5 if model.fans and self._demand.utilization else 0.0
        self._heat = self._demand.memory_io
        self._flags = dict.fromkeys(_REASONS, False)
        self.memory_errors = MemoryErrors(model)
        self.link_errors: dict[tuple[int, str], float] = {}
        flow = 1.0 if not model.fans else 0.7
        settled = self._ambient + model.thermal_resistance / flow * min(self._power, model.power)
        self._temperature = min(settled, model.max_operating)
        self._decay = (0.0, 1.0)
        self._totals = self._since_boot(start - _WARM_UP)
        self._now = start - _WARM_UP
        self.advance(start)

    def advance(self, now: float) -> None:
        """Integrate up to Unix time ``now``; a clock that went back changes nothing."""
        span = now - self._now
        if span < _LEAST_SPAN:
            return
        steps = min(_MOST_STEPS, math.ceil(span / _STEP))
        for step in range(1, steps):
            self._step(self._now + span * step / steps, span / steps)
        self._step(now, span / steps)
        self._now = now

    def change(self, conditions: Conditions) -> None:
        """Other conditions hold from the moment reached; what they do to heat shows with the next step."""
        self.conditions = conditions
        self._demand = self.workload().demand(self._now)

    def workload(self) -> Workload:
        """What runs now: the fleet's assignment, unless the scenario says otherwise."""
        kind = self.conditions.workload
        own = self._workload
        if self.conditions.parts == ():
            kind = "idle"  # there is nothing to run on
        return own if kind is None else replace(own, kind=kind)

    def processes(self) -> tuple[SimulatedProcess, ...]:
        """Who holds memory, the workload first; a process gets no more than what the ones before it left."""
        usable, parts = self.model.usable_bytes, self.conditions.parts
        left = {"": usable} if parts is None else {part.uuid: part.memory_total for part in parts}
        processes = []
        running = (*self.workload().processes(self._now, usable), *self.conditions.processes)
        # In MIG mode each MIG device in turn gets one.
        for process, uuid in zip(running, cycle(left), strict=False):
            memory_used = min(process.memory_used, left[uuid])
            left[uuid] -= memory_used
            processes.append(replace(process, memory_used=memory_used, mig_uuid=uuid))
        return tuple(processes)

    def partitions(self) -> dict[tuple[Metric, tuple[str, ...]], float]:
        """What the driver tells of the MIG devices; nothing of a GPU that is not partitioned."""
        used: Counter[str] = Counter()
        for process in self.processes():
            used[process.mig_uuid] += process.memory_used
        return rows(self.conditions.parts or (), used, self._profiled() if self.model.gpm else {})

    def count_errors_of_link(self, link: int, kind: str, count: int) -> None:
        """One link had errors."""
        self.link_errors[link, kind] = self.link_errors.get((link, kind), 0.0) + count

    def count_link_errors(self, *, pcie_replays: int = 0, nvlink_errors: int = 0) -> None:
        """Packets had to be repeated."""
        self._totals.pcie_replays += pcie_replays
        self._totals.nvlink_errors += nvlink_errors

    # --- physics ----------------------------------------------------------------------------------------------------

    def _wanted(self, demand: Demand) -> float:
        """Watts without any limit. A context that only holds memory costs a little as well."""
        model = self.model
        if demand.utilization <= 0.0:
            return model.power_idle * (1.25 if demand.memory > 0.0 else 1.0)
        share = 0.06 + 0.94 * demand.utilization * demand.intensity
        return model.power_idle + (model.power - model.power_idle) * share

    def _since_boot(self, now: float) -> _Totals:
        """Counters as they would stand: the means of the past day times the uptime."""
        uptime = (now - _EPOCH) % _REBOOTS + _LEAST_UPTIME
        hours = [self._workload.demand(now - 3600.0 * hour) for hour in range(24)]
        each = uptime / len(hours)
        model = self.model
        totals = _Totals(
            busy=each * sum(hour.utilization for hour in hours),
            memory_io=each * sum(hour.memory_io for hour in hours),
            energy=each * sum(min(model.power, self._wanted(hour)) for hour in hours),
            pcie_transmit=each * model.pcie_bandwidth * sum(hour.pcie_transmit for hour in hours),
            pcie_receive=each * model.pcie_bandwidth * sum(hour.pcie_receive for hour in hours),
            nvlink=each * model.nvlink_bandwidth * sum(hour.nvlink for hour in hours),
        )
        profile = self._workload.profile()
        totals.sm_active = totals.busy * profile.sm_active
        totals.tensor_active = totals.busy * profile.tensor_active
        totals.dram_active = totals.memory_io * DRAM_ACTIVE
        totals.reasons["sw_power_cap"] = each * sum(self._wanted(hour) > model.power for hour in hours)
        return totals

    def _step(self, when: float, seconds: float) -> None:
        model, conditions, totals = self.model, self.conditions, self._totals
        demand = self._demand = self.workload().demand(when)
        if self._decay[0] != seconds:
            self._decay = (seconds, -math.expm1(-seconds / model.time_constant))
        gain = self._decay[1]
        limit = self._limit()
        idle, span = model.power_idle, limit - model.power_idle
        resistance = model.thermal_resistance / self._air_flow(seconds)
        floor = idle + _SW_FLOOR * span

        wanted = self._wanted(demand)
        stuck = conditions.clock_ratio
        if stuck is not None:
            wanted = min(wanted, idle + (wanted - idle) * stuck ** (1 / _CLOCK_EXPONENT))
        capped = wanted > limit
        power = min(wanted, limit)
        if conditions.power_brake:
            power = min(power, idle + _BRAKE * span)
        inlet = self._inlet(resistance, power, floor)
        headroom = model.max_operating - self._temperature
        bearable = (self._temperature + headroom / gain - inlet) / resistance
        warm = power > bearable or headroom <= 0.0
        if power > bearable:
            power = max(min(power, floor), bearable)
        self._hot = self._too_hot()
        if self._hot:
            power = min(power, idle + _HW_FLOOR * span)
        settled = self._inlet(resistance, power, floor) + resistance * power
        self._temperature += (settled - self._temperature) * gain
        self._temperature = min(self._temperature, model.shutdown - 1.0)
        self._heat += (demand.memory_io - self._heat) * gain
        self._power = power
        self._ratio = 1.0 if power >= wanted else max(0.2, ((power - idle) / (wanted - idle)) ** _CLOCK_EXPONENT)
        if stuck is not None:
            self._ratio *= stuck
        slowed = self._hot
        self._hot = self._too_hot()
        slowed = slowed or self._hot

        flags = self._flags
        flags["sw_power_cap"] = capped and not warm
        flags["sw_thermal_slowdown"] = warm
        flags["hw_thermal_slowdown"] = slowed
        flags["hw_power_brake_slowdown"] = conditions.power_brake
        flags["hw_slowdown"] = slowed or conditions.power_brake
        for reason in _REASONS:
            if flags[reason]:
                totals.reasons[reason] += seconds
        totals.busy += demand.utilization * seconds
        totals.memory_io += demand.memory_io * seconds
        profile = self.workload().profile()
        totals.sm_active += demand.utilization * profile.sm_active * seconds
        totals.tensor_active += demand.utilization * profile.tensor_active * seconds
        totals.dram_active += demand.memory_io * DRAM_ACTIVE * seconds
        totals.energy += power * seconds
        pcie = model.pcie_bandwidth * seconds * conditions.pcie_width / 16
        pcie *= 2.0 ** (self._pcie_generation(busy=True) - model.pcie)
        totals.pcie_transmit += demand.pcie_transmit * pcie
        totals.pcie_receive += demand.pcie_receive * pcie
        if model.nvlinks:
            share = 1.0 - conditions.nvlinks_down / model.nvlinks
            totals.nvlink += demand.nvlink * model.nvlink_bandwidth * share * seconds

    def _limit(self) -> float:
        """The power limit in force, in watts."""
        limit = self.conditions.power_limit
        return self.model.power if limit is None else limit

    def _pcie_generation(self, *, busy: bool) -> int:
        generation = self.model.pcie if busy else self.model.pcie_idle
        most = self.conditions.pcie_generation
        return generation if most is None else min(generation, most)

    def _too_hot(self) -> bool:
        """The hardware slows down from its limit on, and until it is 2 K below."""
        return self._temperature >= self.model.slowdown - (2.0 if self._hot else 0.0)

    def _inlet(self, resistance: float, power: float, floor: float) -> float:
        """The air that arrives; an overheat fault warms it until even a throttled GPU ends at the target."""
        target = self.conditions.overheat
        if target is None:
            return self._ambient
        return max(self._ambient, target - resistance * min(power, floor))

    def _air_flow(self, seconds: float) -> float:
        """Share of the full air flow. Fans stand still when cool, then follow the temperature within seconds."""
        stopped, blocked = self.conditions.fans_stopped, self.conditions.fans_blocked
        if stopped and not blocked:
            self._fan = 0.0
        if stopped and not (blocked and self.model.fans):
            return _STALLED
        if not self.model.fans:
            return 1.0
        share = (self._temperature - 50.0) / (self.model.max_operating - 6.0 - 50.0)
        wanted = 0.0 if self._temperature < 48.0 else min(1.0, max(0.3, 0.3 + 0.7 * share))
        self._fan += (wanted - self._fan) * (1.0 - math.exp(-seconds / 8.0))
        return _STALLED if blocked else 0.35 + 0.65 * self._fan

    # --- what the driver answers ------------------------------------------------------------------------------------

    def fan_speeds(self) -> Sequence[float]:
        """The quantity ``fan_speeds``: one share of the maximum for each fan, in steps of 1 %."""
        return (round(self._fan, 2),) * self.model.fans

    def fan_rpms(self) -> Sequence[float]:
        """The quantity ``fan_rpms``: what is measured of each fan."""
        turning = 0.0 if self.conditions.fans_blocked else round(self._fan, 2)
        return (float(round(turning * self.model.fan_rpm)),) * self.model.fans

    def quantities(self) -> Mapping[str, float]:
        """What the catalogue's ``fake`` columns name, worked out: base units, rounded as NVML does."""
        model, demand, totals, conditions = self.model, self._demand, self._totals, self.conditions
        busy = demand.utilization >= 0.005
        state = model.busy_state if busy else model.idle_state
        used = allocated(demand.memory, model.usable_bytes)
        used = min(model.usable_bytes, used + sum(process.memory_used for process in conditions.processes))
        if conditions.parts is not None:
            used = sum(process.memory_used for process in self.processes())
        slow = 15 * MHZ
        sm = (model.sm * self._ratio // 15 * slow) if busy else model.sm_idle * MHZ
        swing = 1.0 + 0.02 * (noise(self._workload.own, int(self._now)) - 0.5)
        quantities = {
            "recovery_action": 1.0 if conditions.remap_pending else 0.0,
            "utilization": round(demand.utilization, 2),
            "memory_io": round(demand.memory_io, 2),
            "busy_seconds": totals.busy,
            "memory_io_busy_seconds": totals.memory_io,
            "memory_used": float(used),
            "memory_free": float(model.usable_bytes - used),
            "bar1_used": 2.0 * MIB if used else MIB,
            "temperature": float(round(self._temperature)),
            "power": round(min(self._power * swing, model.power_max), 3),
            "power_average": round(self._power, 3),
            "power_limit": self._limit(),
            "energy": round(totals.energy, 3),
            "clock_sm": sm,
            "clock_graphics": sm,
            "clock_memory": (model.memory_clock if busy else model.memory_clock_idle) * MHZ,
            "clock_video": (model.video if busy else model.video_idle) * MHZ,
            "performance_state": float(state),
            "reason_gpu_idle": 0.0 if busy else 1.0,
            "pcie_replays": totals.pcie_replays,
            "pcie_generation": float(self._pcie_generation(busy=busy)),
            "pcie_width": float(conditions.pcie_width),
            **{f"pcie_aer_{kind}": totals.pcie_replays if kind in _REPLAYED else 0.0 for kind in _AER},
        }
        for reason in _REASONS:
            quantities[f"reason_{reason}"] = 1.0 if self._flags[reason] else 0.0
            quantities[f"reason_seconds_{reason}"] = totals.reasons[reason]
        for engine in model.engines:
            quantities[engine] = round(getattr(demand, engine), 2)
        if model.ecc_enabled is not None:
            quantities["ecc_enabled"] = 0.0 if conditions.ecc_off else model.ecc_enabled
        if model.memory_max is not None:
            memory_heat = 33.0 + 0.35 * self._temperature + 14.0 * self._heat
            quantities["memory_temperature"] = float(round(min(memory_heat, model.memory_max)))
        if model.gpm:
            quantities["pcie_transmit_bytes"] = float(int(totals.pcie_transmit))
            quantities["pcie_receive_bytes"] = float(int(totals.pcie_receive))
            quantities |= self._profiled()
        if model.nvlinks:
            quantities["nvlinks_active"] = float(model.nvlinks - conditions.nvlinks_down)
            quantities["nvlinks_inactive"] = float(conditions.nvlinks_down)
            quantities["nvlink_transmit_bytes"] = quantities["nvlink_receive_bytes"] = float(int(totals.nvlink))
            for kind in model.nvlink_errors:
                of_links = sum(count for (_, each), count in self.link_errors.items() if each == kind)
                quantities[f"nvlink_errors_{kind}"] = totals.nvlink_errors + of_links
        if model.fabric:
            quantities["fabric_state"] = _FABRIC_STATES.get(conditions.fabric, 3.0)
            if conditions.fabric not in _FABRIC_STATES:
                quantities["fabric_status"] = _FAILED if conditions.fabric == "failed" else 0.0
            for condition in _FABRIC_CONDITIONS:
                quantities[f"fabric_{condition}"] = float(conditions.fabric == condition)
        if model.mig:
            quantities["mig_mode"] = float(conditions.parts is not None)
        quantities |= self.memory_errors.quantities(
            remap_pending=conditions.remap_pending, remap_failure=conditions.remap_failure
        )
        if conditions.parts is not None:
            for name in _HIDDEN_BY_MIG:
                quantities.pop(name, None)
        return MappingProxyType(quantities)

    def _profiled(self) -> Mapping[str, float]:
        """What the profiling counters tell of the work, beside what utilization says of it."""
        demand, totals, profile = self._demand, self._totals, self.workload().profile()
        shares = {name: demand.utilization * share for name, share in profile._asdict().items()}
        shares |= {"graphics_active": demand.utilization, "dram_active": demand.memory_io * DRAM_ACTIVE}
        return {
            **{name: round(share, 6) for name, share in shares.items()},
            "sm_active_seconds": totals.sm_active,
            "tensor_active_seconds": totals.tensor_active,
            "dram_active_seconds": totals.dram_active,
        }
