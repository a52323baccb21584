"""Who holds a GPU, and what its time is charged to."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_exporter.catalog import DEVICE_METRICS, OWNER_MEMORY, OWNER_SECONDS, STATE_SECONDS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.config import AccountingConfig
from gpu_exporter.model import Device, Failure, Identity, Owner, Process, Reading
from gpu_exporter.sampling.ledger import Ledger
from gpu_exporter.sampling.tenancy import FORGET_AFTER, holds, merged, owner_of

GIB = 1024**3
DEVICE = Device(0, "GPU-0", "H100")
ALICE, BOB = Owner("user", "alice", ""), Owner("user", "bob", "")


POD = {"pod": "train-0", "namespace": "ml"}


def row(name: str) -> Metric:
    return next(metric for metric in DEVICE_METRICS if metric.name == name)


BUSY, UTILIZATION = row("gpu_busy_seconds_total"), row("gpu_utilization_ratio")
MIG, MEMORY = row("gpu_mig_mode_enabled"), row("gpu_memory_used_bytes")


def process(user: str, gib: float | None = 10.0, pid: int = 1, **rest: Any) -> Process:
    memory = None if gib is None else gib * GIB
    return Process(pid, "compute", memory, identity=Identity("python3", user), **rest)


def reading(busy: float | None, *processes: Process, **rest: Any) -> Reading:
    """Busy seconds since the previous reading, and who is there."""
    increments = {} if busy is None else {BUSY: busy}
    return Reading(DEVICE, {UTILIZATION: (busy or 0.0) / 5.0}, increments, processes=processes, **rest)


def held(some: Reading, *, more_than: float, unexplained: float = 0.0) -> list[tuple[Owner, float | None]]:
    found = holds(some, more_than=more_than, unexplained=unexplained)
    return [(hold.owner, hold.memory) for hold in found]


def failed() -> Reading:
    return Reading(DEVICE, failure=Failure("lost", "gone"))


def states(complete: Reading) -> dict[str, float]:
    return {state: value for state, metric in STATE_SECONDS.items() if (value := complete.values[metric])}


def owners(complete: Reading) -> dict[tuple[str, str], float]:
    """Seconds by owner and state; those of nobody and of nothing left out."""
    return {
        (who[1], state): seconds
        for state, metric in OWNER_SECONDS.items()
        for (labelled, who), seconds in complete.labelled.items()
        if labelled is metric and seconds
    }


def follow(*steps: Reading, every: float = 5.0, **settings: float) -> Reading:
    ledger = Ledger(gap=15, accounting=AccountingConfig(**settings))
    complete = [ledger.account(step, now=every * number) for number, step in enumerate(steps)]
    return complete[-1]


# --- who holds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (Identity("python3", "alice", "c0ffee"), ALICE),
        (Identity("python3", "alice", labels={"slurm_job": "4711"}), Owner("slurm", "alice", "4711")),
        (
            Identity("python3", "root", labels={"pod": "train-0", "namespace": "ml", "slurm_job": "1"}),
            Owner("pod", "train-0", "ml"),
        ),
        (Identity(), Owner("user", "", "")),
    ],
)
def test_time_is_charged_to_pod_job_or_user(identity: Identity, expected: Owner) -> None:
    assert owner_of(identity) == expected


def test_a_process_in_both_lists_counts_once() -> None:
    both = [Process(1, "compute", 5.0, 0.5), Process(1, "graphics", 7.0), Process(2, "graphics", None)]
    assert merged(both) == [Process(1, "compute", 7.0, 0.5), Process(2, "graphics", None)]


def test_little_memory_holds_nothing() -> None:
    some = reading(0, process("alice", 1), process("xorg", 0.05, 2))
    assert held(some, more_than=256 * 1024**2) == [(ALICE, 1.0 * GIB)]


def test_memory_of_one_owner_adds_up() -> None:
    some = reading(0, process("alice", 0.2, 1), process("alice", 0.2, 2))
    assert held(some, more_than=0.3 * GIB) == [(ALICE, 0.4 * GIB)]


def test_memory_that_is_not_told_holds() -> None:
    assert held(reading(0, process("alice", None)), more_than=GIB) == [(ALICE, None)]


def test_an_allocation_holds_although_nothing_runs() -> None:
    pod = Identity(labels=POD)
    assert held(reading(0, allocations=(pod,)), more_than=GIB) == [(Owner("pod", "train-0", "ml"), 0.0)]
    unlisted = Reading(DEVICE, allocations=(pod,))
    assert held(unlisted, more_than=GIB) == [(Owner("pod", "train-0", "ml"), None)], "not known is not 0"


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("busy", "processes", "state"),
    [
        (5.0, (process("alice"),), "active"),
        (0.25, (process("alice"),), "active"),
        (0.24, (process("alice"),), "idle_held"),
        (0.0, (process("alice", 0.1),), "idle_free"),
        (0.0, (), "idle_free"),
        (5.0, (), "active"),
    ],
)
def test_the_state_of_a_tick(busy: float, processes: tuple[Process, ...], state: str) -> None:
    assert states(follow(reading(0), reading(busy, *processes))) == {state: 5.0}


def test_thresholds_are_settings() -> None:
    steps = (reading(0), reading(1.0, process("alice", 1)))
    assert states(follow(*steps, active_ratio=0.5, held_bytes=2.0 * GIB)) == {"idle_free": 5.0}


def test_memory_tells_of_a_holder_where_processes_are_not_listed() -> None:
    steps = [Reading(DEVICE, {UTILIZATION: 0.0, MEMORY: used}) for used in (3.0 * GIB, 3.0 * GIB, 1000.0)]
    assert states(follow(*steps)) == {"idle_held": 5.0, "idle_free": 5.0}


def test_utilization_stands_in_for_busy_seconds() -> None:
    gauge = Reading(DEVICE, {UTILIZATION: 0.9}, processes=(process("alice"),))
    assert states(follow(gauge, gauge)) == {"active": 5.0}


def test_no_utilization_is_unknown_never_idle() -> None:
    blank = Reading(DEVICE, {MEMORY: 1.0}, processes=(process("alice"),))
    complete = follow(reading(0), blank, blank)
    assert states(complete) == {"unknown": 10.0}
    assert owners(complete) == {("alice", "unknown"): 10.0}


def test_mig_is_unknown_even_where_the_driver_tells_zero() -> None:
    partitioned = Reading(DEVICE, {MIG: 1.0, UTILIZATION: 0.0}, {BUSY: 0.0}, processes=(process("alice"),))
    assert states(follow(partitioned, partitioned)) == {"unknown": 5.0}


def test_lost_time_is_down_and_charged_to_nobody() -> None:
    held = reading(0.0, process("alice"))
    complete = follow(held, held, failed(), failed(), held, held)
    assert states(complete) == {"idle_held": 10.0, "down": 15.0}
    assert owners(complete) == {("alice", "idle_held"): 10.0}


def test_the_times_stay_while_a_gpu_is_down() -> None:
    complete = follow(reading(0.0, process("alice")), reading(0.0, process("alice")), failed())
    assert states(complete) == {"idle_held": 5.0, "down": 5.0}
    assert owners(complete) == {("alice", "idle_held"): 5.0}
    assert not [labels for metric, labels in complete.labelled if metric is OWNER_MEMORY], "nobody was asked"


def test_a_stall_is_charged_to_nobody() -> None:
    ledger = Ledger(gap=15)
    for now in (0, 5, 21, 26):
        complete = ledger.account(reading(0.0, process("alice")), now=now)
    assert states(complete) == {"idle_held": 10.0}


def test_an_interruption_is_charged_to_nobody() -> None:
    ledger = Ledger(gap=15)
    ledger.account(reading(0.0, process("alice")), now=0)
    ledger.interrupt()
    assert states(ledger.account(reading(0.0, process("alice")), now=10)) == {}
    assert states(ledger.account(reading(0.0, process("alice")), now=15)) == {"idle_held": 5.0}


# --- owners -----------------------------------------------------------------------------------------------------------


def test_a_shared_gpu_is_split_by_memory() -> None:
    shared = reading(5.0, process("alice", 30, 1), process("bob", 10, 2))
    assert owners(follow(shared, shared)) == {("alice", "active"): 3.75, ("bob", "active"): 1.25}


def test_equally_where_memory_is_not_told_of_all() -> None:
    shared = reading(0.0, process("alice", None, 1), process("bob", 10, 2))
    assert owners(follow(shared, shared)) == {("alice", "idle_held"): 2.5, ("bob", "idle_held"): 2.5}


def test_an_owner_is_born_with_its_states_at_zero() -> None:
    complete = follow(reading(0.0, process("alice")))
    assert complete.labelled[OWNER_SECONDS["active"], ALICE] == 0.0
    assert complete.labelled[OWNER_SECONDS["idle_held"], ALICE] == 0.0
    assert (OWNER_SECONDS["unknown"], ALICE) not in complete.labelled
    assert complete.labelled[OWNER_MEMORY, ALICE] == 10.0 * GIB


def test_an_owner_that_left_stays_for_an_hour() -> None:
    ledger = Ledger(gap=15)
    ledger.account(reading(0.0, process("alice")), now=0)
    ledger.account(reading(0.0, process("alice")), now=5)
    for now, told in ((10.0, True), (5 + FORGET_AFTER, True), (6 + FORGET_AFTER, False)):
        labelled = ledger.account(reading(0.0), now=now).labelled
        assert ((OWNER_SECONDS["idle_held"], ALICE) in labelled) is told
        assert (OWNER_MEMORY, ALICE) not in labelled


def test_a_storm_of_owners_is_bounded() -> None:
    ledger = Ledger(gap=15)
    for number in range(5000):
        here = (process(f"user{number}"), process("alice", pid=2))
        complete = ledger.account(reading(5.0, *here), now=5.0 * (number % 2) + number * 0.01)
    told = {who for metric, who in complete.labelled if metric is OWNER_SECONDS["active"]}
    assert len(told) == 256
    assert {ALICE, Owner("user", "user4999", "")} <= told


# --- invariants -------------------------------------------------------------------------------------------------------

users = st.sampled_from(["alice", "bob", "carol", ""])
people = st.lists(st.tuples(users, st.one_of(st.none(), st.floats(0, 80))), max_size=4)


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 20),  # seconds since the reading before; above 15 nobody looked
            st.sampled_from(["up", "up", "up", "down", "interrupted", "mig", "silent"]),
            st.floats(0, 1),  # share of the time that it was busy
            people,
        ),
        max_size=30,
    )
)
def test_every_second_is_charged_once(steps: list[tuple[float, str, float, list[tuple[str, float | None]]]]) -> None:
    """States sum to the observed time, owners to the time that somebody held it; counters only grow."""
    ledger, now, observed, held_time = Ledger(gap=15), 0.0, 0.0, 0.0
    looked = was_up = False
    before: dict[Any, float] = defaultdict(float)
    for wait, kind, busy, there in steps:
        earlier, now = now, now + wait
        gap = now - earlier  # as the ledger sees it: 15 may have become a little more
        if kind == "interrupted":
            ledger.interrupt()
            looked = False
            continue
        processes = tuple(process(user, gib, pid) for pid, (user, gib) in enumerate(there))
        values = {MIG: 1.0, UTILIZATION: 0.0} if kind == "mig" else {} if kind == "silent" else {UTILIZATION: busy}
        here = Reading(DEVICE, values, {BUSY: busy * gap} if kind == "up" else {}, processes=processes)
        complete = ledger.account(failed() if kind == "down" else here, now=now)
        elapsed = gap if looked and gap <= 15 else 0.0
        observed += elapsed
        if kind != "down" and was_up and holds(here, more_than=256 * 1024**2):
            held_time += elapsed
        looked, was_up = True, kind != "down"
        after = {metric: complete.values[metric] for metric in STATE_SECONDS.values()}
        mine = {key: value for key, value in complete.labelled.items() if key[0] in OWNER_SECONDS.values()}
        assert sum(after.values()) == pytest.approx(observed)
        assert sum(mine.values()) == pytest.approx(held_time)
        assert all(value >= before[key] - 1e-9 for key, value in (*after.items(), *mine.items()))
        if kind in {"mig", "silent"}:
            idle = STATE_SECONDS["idle_held"], STATE_SECONDS["idle_free"]
            assert all(after[state] == before[state] for state in idle), "no signal is never idle"
        before.update(after)
        before.update(mine)
