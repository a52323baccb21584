"""What adds up over time: counters that the exporter keeps, failures, XIDs, and the time in each state.

Outlives every reopening of the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from gpu_exporter.catalog import (
    DEVICE_METRICS,
    GPU_UP,
    MEMORY_UNACCOUNTED,
    READ_ERRORS,
    STATE_SECONDS,
    XID_ERRORS,
    XID_LAST,
    by_name,
)
from gpu_exporter.catalog.row import Metric
from gpu_exporter.config import AccountingConfig
from gpu_exporter.model import Reading, Reason, State, Xid
from gpu_exporter.sampling.holders import Holders
from gpu_exporter.sampling.tenancy import OwnerTimes

_COUNTERS: Final[Mapping[Metric, Metric]] = {
    counter: by_name(counter.integral_of, **dict(counter.labels))
    for counter in DEVICE_METRICS
    if counter.integral_of is not None
}
_BUSY: Final = by_name("gpu_busy_seconds_total")
_UTILIZATION: Final = by_name("gpu_utilization_ratio")
_MIG_MODE: Final = by_name("gpu_mig_mode_enabled")
_MEMORY_USED: Final = by_name("gpu_memory_used_bytes")


@dataclass(slots=True)
class _Account:
    """One device's sums."""

    holders: Holders
    owners: OwnerTimes
    totals: dict[Metric, float] = field(default_factory=dict)
    # Counters that the device (or the source) keeps itself: never integrated on top, not even while briefly absent.
    kept_elsewhere: set[Metric] = field(default_factory=set)
    errors: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(READ_ERRORS, 0))
    xids: dict[int, tuple[int, float]] = field(default_factory=dict)
    last: tuple[float, Mapping[Metric, float]] | None = None
    # For the time in each state: when the device was last looked at, whether it answered, its busy seconds by then.
    looked: float | None = None
    answered: bool = False
    busy: float | None = None
    states: dict[State, float] = field(default_factory=lambda: dict.fromkeys(STATE_SECONDS, 0.0))


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
        values = dict(reading.values)
        if reading.failure is not None and not reading.failure.standing:
            account.errors[reading.failure.reason] += 1
        if reading.failure is None:
            self._integrate(account, reading, now)
            values |= account.totals
        else:
            account.last = None
            values.clear()
        owned = self._charge(account, reading, values.get(_BUSY), now)
        if reading.failure is None and account.holders.unaccounted is not None:
            values[MEMORY_UNACCOUNTED] = account.holders.unaccounted
        values[GPU_UP] = float(reading.failure is None)
        values |= {READ_ERRORS[reason]: float(count) for reason, count in account.errors.items()}
        values |= {STATE_SECONDS[state]: seconds for state, seconds in account.states.items()}
        labelled = {**(reading.labelled if reading.failure is None else {}), **self._xids(account), **owned}
        return replace(reading, values=values, labelled=labelled, increments={})

    def count_xid(self, event: Xid) -> None:
        """One more XID event."""
        account = self._account(event.device.key)
        count, latest = account.xids.get(event.xid, (0, 0.0))
        account.xids[event.xid] = (count + 1, max(latest, event.timestamp))

    def add_increments(self, reading: Reading) -> None:
        """Growth told by a reading that came too late to be served: the time was observed all the same."""
        if reading.failure is None:
            account = self._account(reading.device.key)
            for metric, growth in reading.increments.items():
                account.totals[metric] = account.totals.get(metric, 0.0) + growth

    def interrupt(self) -> None:
        """Nobody looks for a while (the driver is closed): the time until the next reading is charged to nobody."""
        for account in self._accounts.values():
            account.last = account.looked = account.busy = None

    def _account(self, key: str) -> _Account:
        if key not in self._accounts:
            holders = Holders(more_than=self._accounting.held_bytes, processes=self._processes)
            self._accounts[key] = _Account(holders, OwnerTimes(user_name=self._user_name))
        return self._accounts[key]

    def _integrate(self, account: _Account, reading: Reading, now: float) -> None:
        for metric, growth in reading.increments.items():
            account.totals[metric] = account.totals.get(metric, 0.0) + growth
        previous, account.last = account.last, (now, reading.values)
        for counter, gauge in _COUNTERS.items():
            if counter in account.kept_elsewhere:
                continue
            if counter in reading.values or counter in reading.increments:
                account.kept_elsewhere.add(counter)
            elif (value := reading.values.get(gauge)) is not None:
                account.totals.setdefault(counter, 0.0)
                if previous is not None and 0 < now - previous[0] <= self.gap:
                    before = previous[1].get(gauge, value)
                    account.totals[counter] += (before + value) / 2 * (now - previous[0])

    def _charge(
        self, account: _Account, reading: Reading, busy: float | None, now: float
    ) -> dict[tuple[Metric, tuple[str, ...]], float]:
        """Charge the time since the previous look to what the GPU did and to who held it; the owners' rows."""
        up = reading.failure is None
        if not (up and _tells_activity(reading)):
            busy = None
        before, account.busy = account.busy, busy
        looked, account.looked = account.looked, now
        was_up, account.answered = account.answered, up
        elapsed = now - looked if looked is not None and 0 < now - looked <= self.gap else 0.0
        if not up:
            account.states["down"] += elapsed
            return account.owners.rows((), now)
        held = account.holders.look(reading)
        if elapsed and was_up:
            state = self._state(reading, before, busy, elapsed, held=bool(held))
            account.states[state] += elapsed
            account.owners.charge(held, state, elapsed)
        elif elapsed:  # it came back at some moment in between; it was not seen working
            account.states["down"] += elapsed
        return account.owners.rows(held, now)

    def _state(
        self, reading: Reading, before: float | None, busy: float | None, elapsed: float, *, held: bool
    ) -> State:
        share = reading.values.get(_UTILIZATION)
        if before is not None and busy is not None and busy >= before:
            share = (busy - before) / elapsed
        if not _tells_activity(reading) or share is None:
            return "unknown"
        if share >= self._accounting.active_ratio:
            return "active"
        if not held and reading.processes is None:
            # Who is there is not known, but somebody's memory is.
            held = reading.values.get(_MEMORY_USED, 0.0) > self._accounting.held_bytes
        return "idle_held" if held else "idle_free"

    @staticmethod
    def _xids(account: _Account) -> dict[tuple[Metric, tuple[str, ...]], float]:
        rows: dict[tuple[Metric, tuple[str, ...]], float] = {}
        for xid, (count, latest) in sorted(account.xids.items()):
            rows[XID_ERRORS, (str(xid),)] = float(count)
            rows[XID_LAST, (str(xid),)] = latest
        return rows


def _tells_activity(reading: Reading) -> bool:
    """Whether this very reading says how busy the GPU is. In MIG mode no utilization is told: that is not idleness."""
    if reading.values.get(_MIG_MODE):
        return False
    return _BUSY in reading.values or _BUSY in reading.increments or _UTILIZATION in reading.values
