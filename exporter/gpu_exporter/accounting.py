"""What adds up over time: counters that the exporter keeps, failures, XIDs. Outlives every reopening of the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from gpu_exporter.catalog import DEVICE_METRICS, GPU_UP, READ_ERRORS, XID_ERRORS, XID_LAST
from gpu_exporter.columns import Metric
from gpu_exporter.model import Reading, Reason, Xid

_COUNTERS: Final[Mapping[Metric, Metric]] = {
    counter: gauge
    for counter in DEVICE_METRICS
    if counter.integral_of is not None
    for gauge in DEVICE_METRICS
    if gauge.name == counter.integral_of and gauge.labels == counter.labels
}


@dataclass(slots=True)
class _Account:
    """One device's sums."""

    totals: dict[Metric, float] = field(default_factory=dict)
    # Counters that the device (or the source) keeps itself: never integrated on top, not even while briefly absent.
    kept_elsewhere: set[Metric] = field(default_factory=set)
    errors: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(READ_ERRORS, 0))
    xids: dict[int, tuple[int, float]] = field(default_factory=dict)
    last: tuple[float, Mapping[Metric, float]] | None = None


class Ledger:
    """Completes readings with what adds up over time.

    ``gap`` (seconds) bounds what one reading can stand for: a longer silence was not observed and is added to nothing.
    """

    def __init__(self, *, gap: float) -> None:
        self.gap = gap
        self._accounts: dict[str, _Account] = {}

    def complete(self, reading: Reading, *, now: float) -> Reading:
        """The reading with gpu_up, failure counts, XIDs and integrated counters; ``now`` is monotonic seconds."""
        account = self._account(reading.device.key)
        if reading.failure is not None:
            account.last = None
            values = {GPU_UP: 0.0, **self._failures(account)}
            return replace(reading, values=values, labelled=self._xids(account), increments={})
        self._integrate(account, reading, now)
        values = {**reading.values, **account.totals, GPU_UP: 1.0, **self._failures(account)}
        return replace(reading, values=values, labelled={**reading.labelled, **self._xids(account)}, increments={})

    def count_failure(self, key: str, reason: Reason) -> None:
        """One more reading of the device that failed."""
        self._account(key).errors[reason] += 1

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

    def _account(self, key: str) -> _Account:
        return self._accounts.setdefault(key, _Account())

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

    @staticmethod
    def _failures(account: _Account) -> dict[Metric, float]:
        return {READ_ERRORS[reason]: float(count) for reason, count in account.errors.items()}

    @staticmethod
    def _xids(account: _Account) -> dict[tuple[Metric, str], float]:
        rows: dict[tuple[Metric, str], float] = {}
        for xid, (count, latest) in sorted(account.xids.items()):
            rows[XID_ERRORS, str(xid)] = float(count)
            rows[XID_LAST, str(xid)] = latest
        return rows
