"""What adds up over time: counters that the exporter keeps, failures, XIDs, and the time in each state.

Outlives every reopening of the source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from gpu_exporter.catalog import (
    DEVICE_METRICS,
    EVENT_LAST,
    EVENTS_TOTAL,
    GPU_UP,
    MEMORY_UNACCOUNTED,
    READ_ERRORS,
    SCORE_SECONDS,
    STATE_SECONDS,
    XID_ERRORS,
    XID_LAST,
    by_name,
)
from gpu_exporter.catalog.health import EVENTS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.config import AccountingConfig
from gpu_exporter.model import OTHER_XID, Failure, GpuEvent, Hold, Reading, Reason, State, Told, Xid
from gpu_exporter.sampling.activity import BUSY, Activeness, Activity, is_partitioned, of_instances
from gpu_exporter.sampling.energy import Energy, work_of
from gpu_exporter.sampling.holders import Holders
from gpu_exporter.sampling.integral import NOTHING, Integral
from gpu_exporter.sampling.score import Score
from gpu_exporter.sampling.tenancy import Charge, OwnerTimes, Tenancy, Tenant, instances_of

# The counters that are kept here, and the gauge that each is the integral of.
_COUNTERS: Final[Mapping[Metric, Metric]] = {
    counter: by_name(counter.integral_of, **dict(counter.labels))
    for counter in DEVICE_METRICS
    if counter.integral_of is not None
}
_ENERGY: Final = by_name("gpu_energy_joules_total")
_MEMORY_USED: Final = by_name("gpu_memory_used_bytes")
_UTILIZATION: Final = by_name("gpu_utilization_ratio")
_Rows: TypeAlias = dict[tuple[Metric, tuple[str, ...]], float]
# NVIDIA's XID catalogue ends below 200. A driver that tells random numbers must not make a series of each.
_XIDS: Final = 255
_STRANGE_XIDS: Final = 32


@dataclass(slots=True)
class _Account:
    """One device's sums."""

    holders: Holders
    owners: OwnerTimes
    totals: dict[Metric, float] = field(default_factory=dict)
    integrals: dict[Metric, Integral] = field(default_factory=dict)
    # Counters that the device (or the source) keeps itself: never integrated on top, not even while briefly absent.
    kept_elsewhere: set[Metric] = field(default_factory=set)
    errors: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(READ_ERRORS, 0))
    xids: dict[int, Told] = field(default_factory=dict)
    events: dict[str, Told] = field(default_factory=dict)  # of other kinds
    looked: float | None = None  # when, whether it answered or not
    latest: Mapping[Metric, float] | None = None  # what it answered then
    counted: Mapping[Metric, float] | None = None  # the same, with the counters that are kept here
    activity: Activity = field(default_factory=Activity)
    score: Score = field(default_factory=Score)
    energy: Energy = field(default_factory=Energy)
    # What the latest look saw it do, and who held it.
    state: State = "unknown"
    holds: tuple[Hold, ...] | None = None
    states: dict[State, float] = field(default_factory=lambda: dict.fromkeys(STATE_SECONDS, 0.0))
    # Since the latest full reading: seconds that are not charged yet, each with who held it at their end.
    pending: list[tuple[float, tuple[Tenancy, ...]]] = field(default_factory=list)
    activeness: Activeness = "unknown"
    kept: Mapping[Metric, float] = field(default_factory=dict)  # the counters that are kept here, as told then

    def integral(self, counter: Metric) -> Integral:
        """The sum of a counter's gauge over time."""
        if counter not in self.integrals:
            # Seconds in which something was so: the gauge is a share, or a switch.
            self.integrals[counter] = Integral(ratio=counter.unit == "seconds")
        return self.integrals[counter]

    def fail(self) -> None:
        """It does not answer: what it told before says nothing of the time until it does."""
        self.latest = self.counted = None
        self.activity.interrupt()
        self.energy.interrupt()

    def interrupt(self) -> None:
        """Nobody looks: the time until the next reading was not observed."""
        self.looked = None
        self.pending.clear()
        self.fail()
        for integral in self.integrals.values():
            integral.interrupt()


class Ledger:
    """Adds to readings what adds up over time.

    ``gap`` (seconds) bounds what one reading can stand for: a longer silence was not observed and is added to nothing.
    A GPU is active where it was busy for ``accounting.active_ratio`` of the time since its previous reading, and held
    by whoever has more than ``accounting.held_bytes`` of its memory, or was allocated it. Where ``processes`` are not
    listed, allocations only tell by whom. ``user_name`` tells a uid's name, or the uid as text.
    """

    def __init__(
        self,
        *,
        gap: float,
        accounting: AccountingConfig | None = None,
        processes: bool = True,
        user_name: Callable[[int], str] = str,
    ) -> None:
        self.gap = gap
        self._accounting = accounting or AccountingConfig()
        self._processes = processes
        self._user_name = user_name
        self._accounts: dict[str, _Account] = {}

    def account(self, reading: Reading, *, now: float) -> Reading:
        """The reading with gpu_up, failure counts, XIDs, integrated counters, times; ``now`` is monotonic seconds."""
        account = self._account(reading.device.key)
        elapsed = self._elapsed(account, now)
        values: dict[Metric, float] = {}
        if reading.failure is not None:
            owned = self._account_failure(account, reading.failure, elapsed, now)
        elif reading.only is not None:
            values, owned = self._account_light(account, reading, elapsed, now)
        else:
            values, owned = self._account_full(account, reading, elapsed, now)
        values[GPU_UP] = float(reading.failure is None)
        values |= {READ_ERRORS[reason]: float(count) for reason, count in account.errors.items()}
        values |= {STATE_SECONDS[state]: seconds for state, seconds in account.states.items()}
        labelled = {**(reading.labelled if reading.failure is None else {}), **_xids(account), **owned}
        labelled |= {(EVENTS_TOTAL, (kind,)): float(told.count) for kind, told in account.events.items()}
        labelled |= {(EVENT_LAST, (kind,)): told.timestamp for kind, told in account.events.items() if told.count}
        return replace(
            reading,
            values=values,
            labelled=labelled,
            increments={},
            covered={},
            state=account.state,
            holds=account.holds,
        )

    def _account_full(
        self, account: _Account, reading: Reading, elapsed: float, now: float
    ) -> tuple[dict[Metric, float], _Rows]:
        """The values with the counters that are kept here, and the owners' rows."""
        if reading.partial:
            account.errors["partial"] += 1
        values = dict(reading.values)
        self.add_increments(reading)
        whole = elapsed + sum(seconds for seconds, _ in account.pending)
        account.activeness = self._integrate(account, reading, elapsed, whole)
        # One that is not told any more (MIG mode) is absent: standing still, it would tell of idleness.
        values |= {row: total for row, total in account.totals.items() if row in reading.increments}
        values |= {
            counter: integral.total
            for counter, integral in account.integrals.items()
            if not is_partitioned(reading) or counter in reading.increments or _COUNTERS[counter] in values
        }
        owned = self._charge(account, reading, values, elapsed=elapsed, whole=whole, now=now)
        account.pending.clear()
        account.counted = dict(values)
        told = reading.values
        account.kept = {row: value for row, value in values.items() if value != told.get(row)}
        if account.holders.unaccounted is not None:
            values[MEMORY_UNACCOUNTED] = account.holders.unaccounted
        account.latest = reading.values
        return values, owned

    def _account_light(
        self, account: _Account, reading: Reading, elapsed: float, now: float
    ) -> tuple[dict[Metric, float], _Rows]:
        """The same of a light reading: it tells who holds the GPU; what they did is told by the next full one."""
        self.add_increments(reading)
        if account.latest is None:  # it came back at some moment in between; it was not seen working
            for integral in account.integrals.values():
                integral.skip(elapsed)
            account.states["down"] += elapsed
            elapsed = 0.0
        before = account.latest or {}
        for counter, integral in account.integrals.items():
            gauge = _COUNTERS[counter]
            integral.defer(elapsed, before=before.get(gauge), value=reading.values.get(gauge))
        values = {**reading.values, **account.kept}
        held = account.holders.look(reading)
        if elapsed:
            account.pending.append((elapsed, held))
        account.holds = account.owners.named(held) if held or reading.processes is not None else None
        activeness = account.activeness
        if activeness == "idle" and self._works_by(reading.values) and not self._works_by(account.counted or {}):
            activeness = "unknown"  # it began since the full reading, or utilization is wrong: the next full one says
        account.state = self._state(reading, activeness, held=bool(held))
        account.owners.born(held, scored=SCORE_SECONDS in account.kept, metered=_ENERGY in values)
        if account.holders.unaccounted is not None:
            values[MEMORY_UNACCOUNTED] = account.holders.unaccounted
        account.latest = reading.values
        return values, account.owners.rows(held, now)

    def _account_failure(self, account: _Account, failure: Failure, elapsed: float, now: float) -> _Rows:
        """The owners' rows of a device that cannot be read."""
        if not failure.standing:
            account.errors[failure.reason] += 1
        for integral in account.integrals.values():
            integral.skip(elapsed)
        # It was there, and nobody can tell any more what it did.
        for seconds, held in account.pending:
            account.states["unknown"] += seconds
            account.owners.charge(held, Charge(state="unknown", seconds=seconds))
        account.pending.clear()
        account.fail()
        account.state, account.holds = "down", None
        account.states["down"] += elapsed
        return account.owners.rows((), now)

    def count_xid(self, event: Xid) -> None:
        """XID events of one number; numbers beyond NVIDIA's are told apart for the first few only."""
        account = self._account(event.device.key)
        xid = event.xid
        strange = sum(not 0 <= other <= _XIDS for other in account.xids)
        if not 0 <= xid <= _XIDS and xid not in account.xids and strange >= _STRANGE_XIDS:
            xid = OTHER_XID
        account.xids[xid] = Told(event.count, event.timestamp, event.earlier).after(account.xids.get(xid))

    def count_event(self, event: GpuEvent) -> None:
        """Events of another kind."""
        if event.event in EVENTS:
            events = self._account(event.device.key).events
            before = events.setdefault(event.event, Told(0, 0.0))
            if event.count:
                events[event.event] = Told(event.count, event.timestamp).after(before)

    def add_increments(self, reading: Reading) -> None:
        """Growth that is told apart from a reading that is served: by one that came too late, or of buffers only."""
        if reading.failure is not None:
            return
        account = self._account(reading.device.key)
        for metric, growth in reading.increments.items():
            if metric in _COUNTERS:
                covered = reading.covered.get(metric, math.inf)
                account.integral(metric).tell(growth, 0.0 if covered is None else covered)
            elif growth > 0.0 or metric not in account.totals:
                account.totals[metric] = account.totals.get(metric, 0.0) + growth

    def interrupt(self) -> None:
        """Nobody looks for a while (the driver is closed): the time until the next reading is charged to nobody."""
        for account in self._accounts.values():
            account.interrupt()

    def move(self, before: str, now: str) -> None:
        """A device got another key: its account goes with it, unless it has one there already."""
        account = self._accounts.pop(before, None)
        if account is not None:
            self._accounts.setdefault(now, account)

    def _account(self, key: str) -> _Account:
        if key not in self._accounts:
            holders = Holders(more_than=self._accounting.held_bytes, processes=self._processes)
            self._accounts[key] = _Account(holders, OwnerTimes(user_name=self._user_name))
        return self._accounts[key]

    def _elapsed(self, account: _Account, now: float) -> float:
        """Seconds since the device was looked at; 0 where that was too long ago to say anything of the time between."""
        looked, account.looked = account.looked, now
        if looked is None or 0.0 < now - looked <= self.gap:
            return 0.0 if looked is None else now - looked
        if now > looked:
            account.interrupt()
            account.looked = now
        return 0.0

    def _integrate(self, account: _Account, reading: Reading, elapsed: float, whole: float) -> Activeness:
        """Add a good reading's time to the counters, and judge what the GPU did with it.

        ``elapsed`` is since the latest reading, ``whole`` since the latest full one.
        """
        before, busy = account.latest, NOTHING
        refused = {metric for metric, _ in reading.refused} - reading.covered.keys()
        for counter, gauge in _COUNTERS.items():
            own, value = reading.values.get(counter), reading.values.get(gauge)
            if counter not in account.integrals:
                if own is not None or counter in refused:
                    account.kept_elsewhere.add(counter)
                if value is None or counter in account.kept_elsewhere:
                    continue
            elif own is not None and before is not None and counter in before:
                # The device's own appeared after we had begun: the sum goes on by what that grows.
                account.integral(counter).tell(own - before[counter], math.inf)
            told = counter in reading.increments and reading.covered.get(counter, math.inf) is not None
            grown = account.integral(counter).step(
                elapsed,
                before=None if before is None else before.get(gauge),
                value=value,
                told=told or own is not None,
                unbroken=before is not None,
            )
            if counter is BUSY:
                busy = grown
        return account.activity.judge(reading, busy, whole, active_ratio=self._accounting.active_ratio)

    def _charge(
        self,
        account: _Account,
        reading: Reading,
        values: dict[Metric, float],
        *,
        elapsed: float,
        whole: float,
        now: float,
    ) -> _Rows:
        """Charge the time since the previous full reading to what the GPU did and to who held it; the owners' rows.

        ``values`` are those of the reading with its counters; the score's is added to them.
        """
        activeness = account.activeness
        held = account.holders.look(reading)
        account.holds = account.owners.named(held) if held or reading.processes is not None else None
        account.state = self._state(reading, activeness, held=bool(held))
        joules = account.energy.step(reading, before=account.counted, now=values, elapsed=whole)
        score = account.score.step(reading, before=account.counted, now=values, joules=joules, elapsed=whole)
        if score is not None:
            values[SCORE_SECONDS] = account.score.total
        if activeness == "idle":
            account.energy.saw_idle(reading)
        if whole and account.latest is not None:
            idle, above = (None, None) if joules is None else account.energy.split(joules, whole)
            pieces = [*account.pending, (elapsed, held)]
            charge = Charge(
                state=account.state,
                seconds=whole,
                of_their_own=_of_tenants(reading, self._accounting.active_ratio),
                score=score,
                idle_joules=idle,
                joules=above,
                work=work_of(reading) if any(len(holders) > 1 for _, holders in pieces) else {},
            )
            for seconds, holders in pieces:
                state = self._state(reading, activeness, held=bool(holders))
                account.states[state] += seconds
                account.owners.charge(holders, charge.part(seconds, state=state))
        elif whole:  # it came back at some moment in between; it was not seen working
            account.states["down"] += whole
        account.owners.born(held, scored=score is not None, metered=_ENERGY in values)
        return account.owners.rows(held, now)

    def _works_by(self, values: Mapping[Metric, float]) -> bool:
        return values.get(_UTILIZATION, 0.0) >= self._accounting.active_ratio

    def _state(self, reading: Reading, activeness: Activeness, *, held: bool) -> State:
        if activeness != "idle":
            return activeness
        if not held and reading.processes is None:
            # Who is there is not known, but somebody's memory is.
            held = reading.values.get(_MEMORY_USED, 0.0) > self._accounting.held_bytes
        return "idle_held" if held else "idle_free"


def _of_tenants(reading: Reading, active_ratio: float) -> Mapping[Tenant, State]:
    """Of a partitioned GPU: what the MIG devices did that each tenant has, whatever its neighbours did."""
    if not reading.mig_uuids:
        return {}
    did = of_instances(reading, active_ratio=active_ratio)
    states: dict[Tenant, State] = {}
    for tenant, uuids in instances_of(reading).items():
        told = {did.get(uuid, "unknown") for uuid in uuids}
        states[tenant] = "active" if "active" in told else "unknown" if "unknown" in told else "idle_held"
    return states


def _xids(account: _Account) -> dict[tuple[Metric, tuple[str, ...]], float]:
    rows: dict[tuple[Metric, tuple[str, ...]], float] = {}
    for xid, told in sorted(account.xids.items()):
        number = "other" if xid == OTHER_XID else str(xid)
        rows[XID_ERRORS, (number,)] = float(told.count)
        rows[XID_LAST, (number,)] = told.timestamp
    return rows
