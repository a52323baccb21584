"""What must hold of the sums whatever drivers, clocks and buffers do: random stories through buffer and ledger."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gpu_exporter.catalog import OWNER_ENERGY, OWNER_SCORE, OWNER_SECONDS, SCORE_SECONDS, STATE_SECONDS, by_name
from gpu_exporter.catalog.row import PERCENT, Metric
from gpu_exporter.model import Device, Failure, Identity, Process, Reading
from gpu_exporter.sampling.integral import PATIENCE
from gpu_exporter.sampling.ledger import Ledger
from gpu_exporter.sampling.tenancy import holds
from gpu_exporter.sources.nvml.samples import Seen

DEVICE = Device(0, "GPU-0", "H100")
BUSY, RATE, MIG = (
    by_name(name) for name in ("gpu_busy_seconds_total", "gpu_utilization_ratio", "gpu_mig_mode_enabled")
)
ENERGY, POWER = by_name("gpu_energy_joules_total"), by_name("gpu_power_watts")
IDLE = [STATE_SECONDS["idle_held"], STATE_SECONDS["idle_free"]]
GAP, ACTIVE, PERIOD, HELD = 15.0, 0.05, 0.2, 256 * 1024**2
KEPT = 70  # samples in the buffer

# Mostly such as the ledger believes; idle and busy for long, so that a law that breaks is seen to.
spans = st.sampled_from([0.05, 0.2, 0.7, 1.0, 2.5, 5.0, 5.0, 5.0, 13.0, 15.0, 15.1, 40.0])
utilizations = st.sampled_from([0, 0, 3, 50, 100, 100, 100])
steps = st.sampled_from([-86400.0, -3600.0, -7.3, -0.4, 0.4, 7.3, 3600.0, 86400.0])
TRUE = "true"
rates = st.sampled_from([*[TRUE] * 8, None, 0.0, 0.6, 1.0, 8.08, -1.0, 42949672.94, float("nan")])
stamps = st.one_of(st.sampled_from([0, 1, 2**63, 2**64 - 1]), st.integers(0, 4_000_000_000_000_000))
values = st.sampled_from([0, 50, 100, 101, 808, 0xFFFFFFFE, 0xFFFFFFFF])
people = st.lists(
    st.tuples(st.sampled_from(["alice", "bob", ""]), st.sampled_from([None, 0.1, 10.0, 70.0])), max_size=3
)


class Story(RuleBasedStateMachine):
    """One GPU, its driver's buffer on a clock of its own, and the account that is kept of it."""

    @initialize()
    def begin(self) -> None:
        self.ledger = Ledger(gap=GAP)
        self.now = 1000.0
        self.ahead = 1_800_000_000.0
        self.utilization = 100
        self.rate: float | None = 1.0
        self.ring: deque[tuple[int, int]] = deque(maxlen=KEPT)
        self.sampled = self.now
        self.samples = True
        self.seen = Seen()
        self.there: tuple[Process, ...] = ()
        self.mig = False
        self.looked: float | None = None
        self.was_up = False
        self.observed = self.held = 0.0
        self.before: dict[object, float] = {}
        self.hidden: Reading | None = None  # what a call that hangs will have told
        self.unseen = 0.0  # observed, but not by a good reading yet
        self.account(self.reading())

    # --- what happens ------------------------------------------------------------------------------------------------

    def time_passes(self, seconds: float, utilization: int, rate: float | str | None = TRUE) -> None:
        self.rate = utilization / 100 if isinstance(rate, str) else rate
        self.utilization = utilization
        self.now += seconds
        while self.sampled + PERIOD <= self.now:
            self.sampled += PERIOD
            if self.samples:
                self.ring.append((round((self.sampled + self.ahead) * 1e6), utilization))

    @rule(step=steps, samples_too=st.booleans())
    def clock_is_set(self, step: float, *, samples_too: bool) -> None:
        self.ahead += step
        if samples_too:
            self.ring = deque([(max(0, stamp + round(step * 1e6)), value) for stamp, value in self.ring], maxlen=KEPT)

    @rule(stamp=stamps, value=values, samples=st.booleans(), mixed=st.booleans())
    def buffer_is_spoilt(self, stamp: int, value: int, *, samples: bool, mixed: bool) -> None:
        self.samples = samples
        self.ring.append((stamp, value))
        if mixed:
            self.ring = deque([*list(self.ring)[1::2], *list(self.ring)[::2]], maxlen=KEPT)

    @rule(there=people, mig=st.booleans())
    def people_come_and_go(self, there: list[tuple[str, float | None]], *, mig: bool) -> None:
        self.mig = mig and not there
        self.there = tuple(
            Process(pid, "compute", gib if gib is None else gib * 2**30, identity=Identity("python3", user))
            for pid, (user, gib) in enumerate(there)
        )

    # --- who looks ---------------------------------------------------------------------------------------------------

    def buffered(self) -> tuple[dict[Metric, float], dict[Metric, float | None]]:
        told = self.seen.integrate(
            dict(reversed(self.ring)), self.seen.passed(self.now), scale=PERCENT, plausible=(0.0, 1.0)
        )
        return {BUSY: told.amount or 0.0}, {BUSY: None if told.amount is None else told.seconds}

    def reading(self) -> Reading:
        increments, covered = self.buffered()
        values = {POWER: 100.0 + 6.0 * self.utilization}
        if self.rate is not None:
            values[RATE] = self.rate
        if self.mig:
            values[MIG] = 1.0
        return Reading(DEVICE, values, increments, processes=self.there, covered=covered)

    def account(self, reading: Reading) -> None:
        elapsed = self.now - self.looked if self.looked is not None and self.now - self.looked <= GAP else 0.0
        if self.looked is None or self.now - self.looked > GAP:
            self.unseen = 0.0
        self.observed += elapsed
        self.unseen += elapsed
        up = reading.failure is None
        if up and self.was_up and self.looked is not None and holds(reading, more_than=HELD):
            self.held += elapsed
        self.looked, self.was_up = self.now, up
        complete = self.ledger.account(reading, now=self.now)
        after: dict[object, float] = {metric: complete.values[metric] for metric in STATE_SECONDS.values()}
        kept = (BUSY, ENERGY, SCORE_SECONDS)
        after |= {metric: complete.values[metric] for metric in kept if metric in complete.values}
        earned = {key: value for key, value in complete.labelled.items() if key[0] in (OWNER_SCORE, OWNER_ENERGY)}
        drawn = sum(value for key, value in earned.items() if key[0] is OWNER_ENERGY)
        most = after.get(ENERGY, self.before.get(ENERGY, 0.0))
        assert drawn <= most + 1e-3, "owners have no energy that was not drawn"
        scored = sum(value for key, value in earned.items() if key[0] is OWNER_SCORE)
        assert scored <= after.get(SCORE_SECONDS, self.before.get(SCORE_SECONDS, 0.0)) + 1e-6
        self.never_falls(earned.items())
        owned = {key: value for key, value in complete.labelled.items() if key[0] in OWNER_SECONDS.values()}
        assert sum(owned.values()) == pytest.approx(self.held, abs=1e-6), "owners are charged what was held"
        self.never_falls((after | owned).items())
        if up:
            self.idleness_has_evidence(after)
            grown = after.get(BUSY, 0.0) - self.before.get(BUSY, 0.0)
            assert grown <= self.unseen + PATIENCE + 1e-6, "only what passed since, and what the buffer was behind"
            self.unseen = 0.0
        self.before |= after | owned | earned

    def never_falls(self, after: Iterable[tuple[object, float]]) -> None:
        for what, value in after:
            assert value >= self.before.get(what, 0.0) - 1e-9, what

    def idleness_has_evidence(self, after: dict[object, float]) -> None:
        idle = sum(after[state] - self.before.get(state, 0.0) for state in IDLE)
        if self.mig or (self.rate is not None and ACTIVE <= self.rate <= 1.0):
            assert idle == 0.0, "the rate says that it is busy, or nothing can be said"

    @rule(seconds=spans, utilization=utilizations, rate=rates, times=st.integers(1, 4))
    def look(self, seconds: float, utilization: int, rate: float | str | None, times: int) -> None:
        for _ in range(times):
            self.time_passes(seconds, utilization, rate)
            self.account(self.reading())

    @rule(seconds=spans, utilization=utilizations)
    def look_at_the_buffer(self, seconds: float, utilization: int) -> None:
        self.time_passes(seconds, utilization)
        increments, covered = self.buffered()
        self.ledger.add_increments(Reading(DEVICE, increments=increments, covered=covered))

    @rule(seconds=spans, reset=st.booleans())
    def look_in_vain(self, seconds: float, *, reset: bool) -> None:
        self.time_passes(seconds, 0)
        if reset:
            self.ring.clear()
        self.account(Reading(DEVICE, failure=Failure("lost", "gone")))

    @rule(seconds=spans, utilization=utilizations)
    def a_call_hangs_or_returns(self, seconds: float, utilization: int) -> None:
        self.time_passes(seconds, utilization)
        if self.hidden is None:
            self.hidden = self.reading()
            self.account(Reading(DEVICE, failure=Failure("timeout", "hangs")))
        else:
            self.ledger.add_increments(self.hidden)
            self.hidden = None

    @rule(seconds=spans, utilization=utilizations)
    def driver_is_opened_again(self, seconds: float, utilization: int) -> None:
        self.ledger.interrupt()
        self.time_passes(seconds, utilization)
        self.seen = Seen()
        self.looked = None
        self.unseen = 0.0

    # --- what holds --------------------------------------------------------------------------------------------------

    @invariant()
    def every_second_is_charged_once(self) -> None:
        states = sum(self.before[state] for state in STATE_SECONDS.values())
        assert states == pytest.approx(self.observed, abs=1e-6)

    @invariant()
    def busy_is_never_more_than_was_observed(self) -> None:
        assert self.before.get(BUSY, 0.0) <= self.observed + 1e-6
        assert self.before.get(SCORE_SECONDS, 0.0) <= self.observed + 1e-6
        assert self.before.get(ENERGY, 0.0) <= 700.0 * self.observed + 1e-3


Story.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestLaws = Story.TestCase
