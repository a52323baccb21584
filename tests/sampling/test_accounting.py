"""Sums that outlive the source: increments, integrals, failures, XIDs."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpu_exporter.catalog import (
    DEVICE_METRICS,
    EVENT_LAST,
    EVENTS_TOTAL,
    GPU_UP,
    READ_ERRORS,
    STATE_SECONDS,
    XID_ERRORS,
    XID_LAST,
)
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Device, Failure, GpuEvent, Hold, Identity, Owner, Process, Reading, State, Xid
from gpu_exporter.sampling.ledger import Ledger

DEVICE = Device(0, "GPU-0", "H100")


def row(name: str) -> Metric:
    return next(metric for metric in DEVICE_METRICS if metric.name == name)


BUSY, UTILIZATION = row("gpu_busy_seconds_total"), row("gpu_utilization_ratio")
ENERGY, POWER = row("gpu_energy_joules_total"), row("gpu_power_watts")


def test_increments_add_up() -> None:
    ledger = Ledger(gap=15)
    for now, growth, total in ((0, 0.0, 0.0), (5, 2.5, 2.5), (10, 1.0, 3.5)):
        complete = ledger.account(Reading(DEVICE, {UTILIZATION: 0.5}, {BUSY: growth}), now=now)
        assert complete.values[BUSY] == total
        assert complete.increments == {}


def test_a_gauge_is_integrated_where_nothing_better_exists() -> None:
    ledger = Ledger(gap=15)
    first = ledger.account(Reading(DEVICE, {UTILIZATION: 0.0, POWER: 100.0}), now=100)
    assert (first.values[BUSY], first.values[ENERGY]) == (0.0, 0.0), "a counter is born at zero"
    second = ledger.account(Reading(DEVICE, {UTILIZATION: 1.0, POWER: 300.0}), now=110)
    assert (second.values[BUSY], second.values[ENERGY]) == (5.0, 2000.0), "trapezoids"


def test_the_drivers_own_counter_is_never_integrated_on_top() -> None:
    ledger = Ledger(gap=15)
    ledger.account(Reading(DEVICE, {POWER: 100.0, ENERGY: 7.0}), now=0)
    missing = ledger.account(Reading(DEVICE, {POWER: 100.0}), now=5)
    assert ENERGY not in missing.values, "briefly absent is absent"


def test_time_that_was_not_observed_is_added_to_nothing() -> None:
    ledger = Ledger(gap=15)
    ledger.account(Reading(DEVICE, {UTILIZATION: 1.0}), now=0)
    assert ledger.account(Reading(DEVICE, {UTILIZATION: 1.0}), now=15).values[BUSY] == 15.0
    assert ledger.account(Reading(DEVICE, {UTILIZATION: 1.0}), now=31).values[BUSY] == 15.0, "a stall"
    failed = Reading(DEVICE, failure=Failure("lost", "gone"))
    ledger.account(failed, now=36)
    assert ledger.account(Reading(DEVICE, {UTILIZATION: 1.0}), now=41).values[BUSY] == 15.0, "an outage"


def test_a_failed_reading_keeps_only_what_is_known_of_it() -> None:
    ledger = Ledger(gap=15)
    ledger.account(Reading(DEVICE, {UTILIZATION: 1.0}), now=0)
    ledger.count_xid(Xid(DEVICE, 79, 1000.0))
    failed = ledger.account(Reading(DEVICE, failure=Failure("lost", "gone")), now=5)
    assert failed.values == {
        GPU_UP: 0.0,
        **{metric: float(reason == "lost") for reason, metric in READ_ERRORS.items()},
        **{metric: 5.0 * (state == "down") for state, metric in STATE_SECONDS.items()},
    }
    assert failed.labelled == {(XID_ERRORS, ("79",)): 1.0, (XID_LAST, ("79",)): 1000.0}


def test_failure_counters_are_born_at_zero() -> None:
    complete = Ledger(gap=15).account(Reading(DEVICE), now=0)
    assert complete.values[GPU_UP] == 1.0
    assert all(complete.values[metric] == 0.0 for metric in READ_ERRORS.values())


def test_xids_count_by_number_and_keep_the_time_of_the_latest() -> None:
    ledger = Ledger(gap=15)
    for xid, at in ((31, 10.0), (79, 7220.0), (31, 30.0), (79, 20.0)):  # the clock was set back by two hours
        ledger.count_xid(Xid(DEVICE, xid, at))
    labelled = ledger.account(Reading(DEVICE), now=0).labelled
    assert labelled == {
        (XID_ERRORS, ("31",)): 2.0,
        (XID_LAST, ("31",)): 30.0,
        (XID_ERRORS, ("79",)): 2.0,
        (XID_LAST, ("79",)): 20.0,
    }


def test_other_events_count_by_kind_and_keep_the_time_of_the_latest() -> None:
    ledger = Ledger(gap=15)
    could_tell = (GpuEvent(DEVICE, "poison", 0), GpuEvent(DEVICE, "mig_change", 0))
    heard = (GpuEvent(DEVICE, "poison", 2, 7220.0), GpuEvent(DEVICE, "poison", 1, 30.0))  # the clock was set back
    for event in (*could_tell, *heard, *could_tell, GpuEvent(DEVICE, "no kind of ours", 1, 40.0)):
        ledger.count_event(event)
    assert ledger.account(Reading(DEVICE), now=0).labelled == {
        (EVENTS_TOTAL, ("poison",)): 3.0,
        (EVENTS_TOTAL, ("mig_change",)): 0.0,
        (EVENT_LAST, ("poison",)): 30.0,
    }


def test_a_late_readings_growth_is_kept_and_its_gauges_are_not() -> None:
    ledger = Ledger(gap=15)
    ledger.account(Reading(DEVICE, {UTILIZATION: 0.5}, {BUSY: 0.0}), now=0)
    ledger.add_increments(Reading(DEVICE, {UTILIZATION: 0.9}, {BUSY: 4.0}))
    complete = ledger.account(Reading(DEVICE, {}, {BUSY: 1.0}), now=5)
    assert complete.values[BUSY] == 5.0
    assert UTILIZATION not in complete.values


@given(
    st.lists(
        st.tuples(
            st.floats(0, 40),  # seconds to the next reading
            st.one_of(st.none(), st.floats(0, 1)),  # utilization, or not told
            st.booleans(),  # the reading fails
        )
    )
)
def test_counters_never_fall_and_never_exceed_the_observed_time(steps: list[tuple[float, float | None, bool]]) -> None:
    ledger, now, before = Ledger(gap=15), 0.0, 0.0
    for step, utilization, fails in steps:
        now += step
        values = {} if utilization is None else {UTILIZATION: utilization}
        reading = Reading(DEVICE, values, failure=Failure("unknown", "") if fails else None)
        busy = ledger.account(reading, now=now).values.get(BUSY)
        if busy is not None:
            assert before <= busy <= now + 1e-9
            before = busy


def test_a_reading_tells_what_is_charged_now_and_to_whom() -> None:
    ledger = Ledger(gap=15)
    alice = Process(7, "compute", 1e9, identity=Identity(user="alice"))
    hold = Hold(Owner("user", "alice", ""), 1e9)

    def told(now: float, **rest: Any) -> tuple[State | None, tuple[Hold, ...] | None]:
        complete = ledger.account(Reading(DEVICE, **rest), now=now)
        return complete.state, complete.holds

    assert told(0, values={UTILIZATION: 0.9}, processes=(alice,)) == ("active", (hold,)), "from the first reading on"
    assert told(5, values={UTILIZATION: 0.0}, increments={BUSY: 0.0}, processes=(alice,)) == ("idle_held", (hold,))
    assert told(10, values={UTILIZATION: 0.0}, increments={BUSY: 0.0}, processes=()) == ("idle_free", ())
    assert told(15, failure=Failure("lost", "gone"), processes=(alice,)) == ("down", None)
    assert told(20, values={UTILIZATION: 0.0}) == ("idle_free", None), "up again; who is there is not known"
    assert told(25, processes=()) == ("unknown", ())
    assert told(90, values={UTILIZATION: 0.9}, processes=()) == ("active", ()), "after a stall, by the gauge"
    assert Reading(DEVICE).state is None
