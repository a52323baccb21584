"""Memory that nobody explains holds a GPU, and a name that comes late makes no second owner."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_exporter.catalog import MEMORY_UNACCOUNTED, OWNER_MEMORY, OWNER_SECONDS, STATE_SECONDS, by_name
from gpu_exporter.config import AccountingConfig, ProcessesConfig
from gpu_exporter.model import Device, Failure, Identity, Owner, Process, Reading
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.sampling.holders import unexplained_memory
from gpu_exporter.sampling.ledger import Ledger
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sampling.tenancy import holder_names

GIB, MIB = 1024**3, 1024**2
HELD = 256.0 * MIB
DEVICE = Device(0, "GPU-0", "H100")
UTILIZATION = by_name("gpu_utilization_ratio")
USED, RESERVED = by_name("gpu_memory_used_bytes"), by_name("gpu_memory_reserved_bytes")
TOTAL = by_name("gpu_memory_total_bytes")
NOBODY, ALICE = Owner("user", "", ""), Owner("user", "alice", "")
POD = Identity(labels={"pod": "train-0", "namespace": "ml"})
TRAIN = Owner("pod", "train-0", "ml")


def process(gib: float | None, user: str | None = "alice", pid: int = 1, **rest: Any) -> Process:
    """Without a user it is one that cannot be seen."""
    memory = None if gib is None else gib * GIB
    return Process(pid, "compute", memory, identity=Identity("python3", user) if user else Identity(), **rest)


def idle(used: float | None, *processes: Process, **rest: Any) -> Reading:
    """An idle GPU with so many GiB in use."""
    values = {UTILIZATION: 0.0, TOTAL: 80.0 * GIB, RESERVED: 0.5 * GIB}
    if used is not None:
        values[USED] = used * GIB
    return Reading(DEVICE, values, processes=processes, **rest)


def unlisted(used: float, **rest: Any) -> Reading:
    return Reading(DEVICE, dict(idle(used).values), **rest)


def follow(*steps: Reading, ledger: Ledger | None = None) -> list[Reading]:
    """The readings as they are published, five seconds apart."""
    ledger = ledger or Ledger(gap=15)
    return [ledger.account(step, now=5.0 * number) for number, step in enumerate(steps)]


def states(complete: Reading) -> dict[str, float]:
    return {state: value for state, metric in STATE_SECONDS.items() if (value := complete.values[metric])}


def seconds(complete: Reading) -> dict[Owner, float]:
    """Of idle_held."""
    return {
        Owner(*who): value
        for (metric, who), value in complete.labelled.items()
        if metric is OWNER_SECONDS["idle_held"] and value
    }


def memory(complete: Reading) -> dict[Owner, float]:
    return {Owner(*who): value / GIB for (metric, who), value in complete.labelled.items() if metric is OWNER_MEMORY}


# --- how much nobody explains -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "gib"),
    [
        (idle(40, process(39.99)), 0.0),
        (idle(40), 40.0),
        (idle(40, process(10), process(25, "bob", 2)), 5.0),
        (idle(40, process(40, None, 0)), 40.0),
        (idle(40, process(40, None, 2**32 - 1)), 40.0),
        (idle(None, process(40, None, 0)), 40.0),
        (idle(42, process(30, None, 0), process(12, None, 0)), 42.0),
        (idle(0.1, process(30, None, 0), process(12, None, 0)), 42.0),
        (idle(40, process(40, None, 7)), 0.0),
        (idle(20, process(30)), 0.0),
        (idle(30, process(None), process(10, "bob", 2)), None),
        (idle(None, process(30)), None),
        (unlisted(40), 40.0),
        (Reading(DEVICE), None),
        (idle(0.25), 0.0),
        (idle(0.26), 0.26),
        (idle(1.25, *(process(0, "alice", pid) for pid in range(1, 65))), 0.0),
        (idle(1.26, *(process(0, "alice", pid) for pid in range(1, 65))), 1.26),
    ],
    ids=[
        "explained",
        "nobody is listed",
        "partly",
        "pid 0",
        "pid -1",
        "pid 0, and how much is used is not told",
        "two with pid 0",
        "two with pid 0, and less is used",
        "listed, and not seen",
        "a list that is newer than what is used",
        "the driver does not tell what one has",
        "how much is used is not told",
        "processes are not listed",
        "nothing is told",
        "what the driver takes itself",
        "a little more",
        "what it takes for 64 processes",
        "a little more than that",
    ],
)
def test_memory_that_no_process_explains(reading: Reading, gib: float | None) -> None:
    told = unexplained_memory(reading, more_than=HELD)
    assert told == (None if gib is None else pytest.approx(gib * GIB))


def test_a_graphics_process_explains_its_memory_once() -> None:
    both = (Process(7, "compute", 10.0 * GIB), Process(7, "graphics", 10.0 * GIB), Process(8, "graphics", 5.0 * GIB))
    assert unexplained_memory(idle(15, *both), more_than=HELD) == 0.0
    assert unexplained_memory(idle(20, *both), more_than=HELD) == pytest.approx(5 * GIB)


def test_version_one_counts_reserved_memory_as_used() -> None:
    """0.6 GB of 80 GB on an idle H100, where the driver does not tell how much it reserves."""
    old = Reading(DEVICE, {USED: 0.6 * GIB, TOTAL: 80.0 * GIB}, processes=())
    assert unexplained_memory(old, more_than=HELD) == 0.0
    assert unexplained_memory(idle(0.6), more_than=HELD) == 0.6 * GIB


# --- who holds --------------------------------------------------------------------------------------------------------

UNSEEN = {
    "pid 0": idle(40, process(40, None, 0)),
    "pid -1": idle(40, process(40, None, 2**32 - 1)),
    "no process is listed": idle(40),
    "a process that cannot be seen": idle(40, process(40, None, 7)),
    "processes are not listed": unlisted(40),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_a_gpu_whose_holder_cannot_be_seen_is_held(case: str) -> None:
    last = follow(UNSEEN[case], UNSEEN[case])[-1]
    assert states(last) == {"idle_held": 5.0}
    assert seconds(last) == {NOBODY: 5.0}
    assert memory(last) == {NOBODY: 40.0}


@pytest.mark.parametrize("case", UNSEEN)
def test_the_only_one_whom_it_was_given_to_holds_it(case: str) -> None:
    given = Reading(DEVICE, UNSEEN[case].values, processes=UNSEEN[case].processes, allocations=(POD,))
    last = follow(given, given)[-1]
    assert seconds(last) == {TRAIN: 5.0}
    assert memory(last) == {TRAIN: 40.0}
    assert not last.values.get(MEMORY_UNACCOUNTED)


def test_of_two_that_it_was_given_to_neither_is_guessed() -> None:
    other = Identity(labels={"pod": "train-1", "namespace": "ml"})
    shared = idle(40, allocations=(POD, other))
    assert memory(follow(shared)[-1]) == {NOBODY: 40.0, TRAIN: 0.0, Owner("pod", "train-1", "ml"): 0.0}


def test_in_mig_mode_the_instances_tenant_holds_what_cannot_be_seen() -> None:
    other = Identity(labels={"pod": "train-1", "namespace": "ml"})
    given = {"MIG-1": (POD,), "MIG-2": (other,)}
    processes = (process(3, None, 7, mig_uuid="MIG-1"), process(2, None, 8, mig_uuid="MIG-2"))
    reading = idle(5, *processes, mig_uuids=("MIG-1", "MIG-2"), allocations=(POD, other), mig_allocations=given)
    assert memory(follow(reading)[-1]) == {TRAIN: 3.0, Owner("pod", "train-1", "ml"): 2.0}


@pytest.mark.parametrize(
    ("reading", "told"),
    [
        (idle(40), 40.0 * GIB),
        (idle(40, process(40)), 0.0),
        (idle(40, process(40, None, 7)), 40.0 * GIB),
        (idle(42, process(30, None, 7), process(2), process(10, None, 0)), 40.0 * GIB),
        (idle(45, process(30, None, 7), process(10)), 35.0 * GIB),
        (idle(40, process(0.1, None, 7), process(39.9)), 0.0),
        (idle(40, process(40, None, 7), allocations=(POD,)), 0.0),
        (idle(40, process(None)), None),
        (unlisted(40), None),
        (Reading(DEVICE, failure=Failure("lost", "gone")), None),
    ],
)
def test_unaccounted_memory_is_told(reading: Reading, told: float | None) -> None:
    assert follow(reading)[-1].values.get(MEMORY_UNACCOUNTED) == told


def test_people_are_told_of_it_too() -> None:
    assert holder_names(follow(idle(40))[-1]) == [""]
    assert holder_names(follow(idle(40, process(30)))[-1]) == ["alice", ""]
    assert holder_names(follow(idle(0))[-1]) == []
    given = idle(40, process(30, None, 7), process(10, "bob"), allocations=(POD,))
    assert holder_names(follow(given)[-1]) == ["ml/train-0", "bob"]
    unseen = idle(40, process(15, None, 7), process(25, "bob", 2))
    assert holder_names(follow(unseen)[-1]) == ["bob", ""], "what cannot be seen counts once"


def test_where_processes_are_switched_off_only_allocations_hold() -> None:
    pipeline = Pipeline(gap=15, processes=ProcessesConfig(enabled=False))
    for now in (0.0, 5.0):
        (last,) = pipeline.complete([unlisted(40)], now)
    assert states(last) == {"idle_held": 5.0}, "somebody's memory is in use"
    assert not last.labelled


def test_thresholds_are_settings() -> None:
    ledger = Ledger(gap=15, accounting=AccountingConfig(held_bytes=50.0 * GIB))
    last = follow(idle(40), idle(40), ledger=ledger)[-1]
    assert (states(last), last.values[MEMORY_UNACCOUNTED]) == ({"idle_free": 5.0}, 0.0)


# --- one reading is not enough ----------------------------------------------------------------------------------------

MOMENTS = {
    "the driver frees late": idle(30),
    "the list fails once": unlisted(30),
    "it has ended, and the driver lists its thread with pid 0": idle(30, process(30, None, 0)),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_moment_makes_no_holder(moment: str) -> None:
    """A process was killed: its memory lags behind the list."""
    held = idle(30, process(30))
    after = follow(held, held, MOMENTS[moment], idle(0), idle(0))
    assert all(set(seconds(each)) <= {ALICE} and set(memory(each)) <= {ALICE} for each in after)
    assert all(not each.values.get(MEMORY_UNACCOUNTED) for each in after)
    assert seconds(after[-1]) == {ALICE: 10.0}
    assert states(after[-1]) == {"idle_held": 10.0, "idle_free": 10.0}


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_lasts_is_nobodys(moment: str) -> None:
    """A process has ended and left its memory behind, as those that hang in the driver do."""
    held, after = idle(30, process(30)), MOMENTS[moment]
    last = follow(held, held, after, after, after)[-1]
    assert seconds(last) == {ALICE: 10.0, NOBODY: 10.0}
    assert memory(last) == {NOBODY: 30.0}


def test_of_two_processes_one_that_ends_makes_no_holder_either() -> None:
    both, one = idle(40, process(30), process(10, "alice", 2)), idle(40, process(30))
    after = follow(both, both, one, idle(30, process(30)))
    assert all(set(memory(each)) == {ALICE} for each in after)


def test_a_gpu_is_never_free_while_its_memory_is_in_use() -> None:
    after = follow(idle(0), idle(0), idle(40), idle(40))
    assert states(after[-1]) == {"idle_free": 5.0, "idle_held": 10.0}
    assert seconds(after[-1]) == {NOBODY: 10.0}


def test_a_reading_that_does_not_tell_how_much_is_used_frees_nothing() -> None:
    after = follow(idle(40), idle(40), idle(None), idle(None), idle(0), idle(0))
    assert states(after[-1]) == {"idle_held": 15.0, "idle_free": 10.0}
    assert [MEMORY_UNACCOUNTED in each.values for each in after] == [True, True, False, False, True, True]


# --- the log ----------------------------------------------------------------------------------------------------------


def test_why_nobody_can_be_named_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        follow(idle(0), *[idle(40)] * 3, idle(0), *[idle(41)] * 3, *[UNSEEN["pid 0"]] * 3)
    assert [(record.levelname, record.getMessage().rpartition(": ")[2]) for record in caplog.records] == [
        ("WARNING", "there is no process that could have its memory"),
        ("WARNING", "the driver does not tell the pid of a process"),
    ]
    assert vars(caplog.records[0])["gpu"] == 0


def test_no_word_where_the_holder_is_known(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        follow(*[idle(40, allocations=(POD,))] * 3, *[idle(40, process(40))] * 3)
    assert not caplog.records


# --- names ------------------------------------------------------------------------------------------------------------


class Names:
    """A name service: uid -> name, the uid itself while there is none."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}

    def __call__(self, uid: int) -> str:
        return self.names.get(uid, str(uid))

    def process(self, uid: int, pid: int = 1, gib: float = 10.0, **labels: str) -> Process:
        return Process(pid, "compute", gib * GIB, identity=Identity("python3", self(uid), labels=labels, uid=uid))


def charged(names: Callable[[int], str], *steps: Callable[[], Reading]) -> dict[Owner, float]:
    ledger = Ledger(gap=15, user_name=names)
    complete = [ledger.account(step(), now=5.0 * number) for number, step in enumerate(steps)]
    return seconds(complete[-1])


def test_a_name_that_comes_late_makes_no_second_owner() -> None:
    names = Names()

    def named() -> Reading:
        names.names[70001] = "alice"
        return held()

    def held() -> Reading:
        return idle(10, names.process(70001))

    assert charged(names, held, held, named, held) == {ALICE: 15.0}


def test_a_name_that_comes_after_the_end_is_told() -> None:
    names = Names()

    def named() -> Reading:
        names.names[70001] = "alice"
        return idle(0)

    held = lambda: idle(10, names.process(70001))  # noqa: E731
    assert charged(names, held, held, named) == {ALICE: 5.0}


def test_a_user_who_is_renamed_keeps_the_seconds() -> None:
    names = Names()
    names.names[1000] = "alicia"

    def renamed() -> Reading:
        names.names[1000] = "alice"
        return held()

    def held() -> Reading:
        return idle(10, names.process(1000))

    assert charged(names, held, held, renamed) == {ALICE: 10.0}


def test_two_uids_with_one_name_are_one_owner() -> None:
    names = Names()
    names.names |= {1000: "alice", 1001: "alice"}
    both = lambda: idle(10, names.process(1000, 1, 4), names.process(1001, 2, 6))  # noqa: E731
    assert charged(names, both, both) == {ALICE: pytest.approx(5.0)}


@pytest.mark.parametrize("prolog", [Identity(user="alice"), Identity(user="1000", uid=1000), Identity()])
@pytest.mark.parametrize("uid", [1000, 166535])
def test_a_job_is_one_holder_however_its_prolog_and_processes_tell_the_user(prolog: Identity, uid: int) -> None:
    """NVIDIA/deepops#1206: rootless podman in a job made two holders of it, and mailed the wrong one."""
    names = Names()
    names.names[1000] = "alice"
    job = Identity(user=prolog.user, labels={"slurm_job": "4711"}, uid=prolog.uid)
    before = lambda: idle(0, allocations=(job,))  # noqa: E731
    runs = lambda: idle(10, names.process(uid, slurm_job="4711"), allocations=(job,))  # noqa: E731
    owners = charged(names, before, before, runs, runs)
    assert list(owners.values()) == [15.0], "one owner, whatever it is called"
    if prolog.user or uid == 1000:
        assert owners == {Owner("slurm", "alice", "4711"): 15.0}


def test_pods_are_told_by_name_and_namespace_not_by_uid() -> None:
    names = Names()
    names.names[0] = "root"
    pods = [{"pod": f"train-{number}", "namespace": "ml"} for number in range(2)]
    both = lambda: idle(10, names.process(0, 1, 5, **pods[0]), names.process(0, 2, 5, **pods[1]))  # noqa: E731
    assert charged(names, both, both) == {TRAIN: 2.5, Owner("pod", "train-1", "ml"): 2.5}


def test_names_come_from_the_resolver() -> None:
    names = Names()
    names.names[70001] = "alice"
    pipeline = Pipeline(gap=15, resolver=Resolver(user_name=names))
    late = Process(1, "compute", 10.0 * GIB, identity=Identity("python3", "70001", uid=70001))
    for now in (0.0, 5.0):
        (last,) = pipeline.complete([idle(10, late)], now)
    assert seconds(last) == {ALICE: 5.0}


# --- invariants -------------------------------------------------------------------------------------------------------

some_process = st.builds(
    process,
    st.one_of(st.none(), st.floats(0, 80)),
    st.sampled_from([None, "alice", "bob"]),
    st.sampled_from([0, 1, 2, 3, 2**32 - 1]),
)
some_reading = st.builds(
    lambda used, processes, given, listed: Reading(
        DEVICE, dict(idle(used).values), processes=tuple(processes) if listed else None, allocations=given
    ),
    st.one_of(st.none(), st.floats(0, 80)),
    st.lists(some_process, max_size=4),
    st.sampled_from([(), (POD,), (POD, Identity(user="alice", labels={"slurm_job": "7"}))]),
    st.booleans(),
)


@given(st.lists(some_reading, min_size=1, max_size=12))
def test_every_held_second_has_an_owner_and_memory_in_use_is_never_free(steps: list[Reading]) -> None:
    ledger, free = Ledger(gap=15), 0.0
    for number, step in enumerate(steps):
        complete = ledger.account(step, now=5.0 * number)
        owned = sum(value for (metric, _), value in complete.labelled.items() if metric in OWNER_SECONDS.values())
        assert owned == pytest.approx(states(complete).get("idle_held", 0.0))
        now_free = states(complete).get("idle_free", 0.0)
        if now_free > free:
            assert not unexplained_memory(step, more_than=HELD)
            assert not step.allocations
        free = now_free
