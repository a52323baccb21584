"""The score as a counter, and what of score and energy is each owner's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gpu_exporter.catalog import OWNER_ENERGY, OWNER_SCORE, OWNER_SECONDS, SCORE_SECONDS, by_name
from gpu_exporter.catalog.mig import MIG_MEMORY_TOTAL, MIG_SM_ACTIVE
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Device, Failure, Identity, Process, Reading
from gpu_exporter.sampling.ledger import Ledger

DEVICE = Device(0, "GPU-0", "H100")
TICK = 5.0
RATE, BUSY = by_name("gpu_utilization_ratio"), by_name("gpu_busy_seconds_total")
MEMORY_IO, IO_BUSY = by_name("gpu_memory_io_utilization_ratio"), by_name("gpu_memory_io_busy_seconds_total")
USED, TOTAL = by_name("gpu_memory_used_bytes"), by_name("gpu_memory_total_bytes")
POWER, LIMIT, ENERGY = (by_name(f"gpu_{name}") for name in ("power_watts", "power_limit_watts", "energy_joules_total"))
SM, SM_SECONDS = by_name("gpu_sm_active_ratio"), by_name("gpu_sm_active_seconds_total")
MIG_MODE = by_name("gpu_mig_mode_enabled")
GIB = 2.0**30

# 0.5 x 0.8 + 0.2 x 0.4 + 0.2 x 0.75 + 0.1 x 0.5
PARTS = {RATE: 0.8, MEMORY_IO: 0.4, USED: 60e9, TOTAL: 80e9, POWER: 350.0, LIMIT: 700.0}
SCORE = 0.68
LACKING = [MEMORY_IO, USED, TOTAL, POWER, LIMIT]


def less(values: Mapping[Metric, float], *absent: Metric) -> dict[Metric, float]:
    return {metric: value for metric, value in values.items() if metric not in absent}


class Account:
    """What a ledger makes of readings that are five seconds apart."""

    def __init__(self) -> None:
        self.ledger = Ledger(gap=15)
        self.now = 0.0
        self.joules = 7e6

    def look(self, values: Mapping[Metric, float] = PARTS, **rest: Any) -> Reading:
        """Where processes are listed, the memory in use is theirs."""
        values = dict(values)
        if "processes" in rest:
            values[USED] = sum(process.memory_used or 0.0 for process in rest["processes"])
        complete = self.ledger.account(Reading(DEVICE, values, **rest), now=self.now)
        self.now += TICK
        return complete

    def score(self, values: Mapping[Metric, float] = PARTS, **rest: Any) -> float | None:
        return self.look(values, **rest).values.get(SCORE_SECONDS)


def by(name: str, memory: float = 60e9, utilization: float | None = None, pid: int = 7, **rest: Any) -> Process:
    return Process(pid, "compute", memory, utilization, identity=Identity("python3", name), **rest)


def owned(reading: Reading, row: Metric) -> dict[str, float]:
    """By owner's name."""
    return {labels[1]: value for (metric, labels), value in reading.labelled.items() if metric is row}


# --- the score --------------------------------------------------------------------------------------------------------


def test_its_rate_is_the_score() -> None:
    account = Account()
    assert account.score() == 0.0, "a counter is born at zero"
    for number in range(1, 9):
        assert account.score() == pytest.approx(SCORE * TICK * number)


def test_the_driver_s_buffers_are_integrated_whenever_they_tell() -> None:
    account = Account()
    account.score(increments={BUSY: 0.0, IO_BUSY: 0.0}, covered={BUSY: None, IO_BUSY: None})
    for seconds in (4.0, 6.0, 4.5, 5.5):  # the buffer is behind, and catches up
        told = account.score(
            increments={BUSY: 0.8 * seconds, IO_BUSY: 0.4 * seconds}, covered={BUSY: seconds, IO_BUSY: seconds}
        )  # fmt: skip
    assert told == pytest.approx(SCORE * 4 * TICK)


@pytest.mark.parametrize(("active", "score"), [(0.008, 0.5 * 0.008), (0.6, 0.3)], ids=["a spinning block", "work"])
def test_multiprocessors_are_asked_where_they_tell(active: float, score: float) -> None:
    values = {RATE: 1.0, MEMORY_IO: 0.0, USED: 0.0, TOTAL: 80e9, POWER: 70.0, LIMIT: 700.0, SM: active}
    account = Account()
    account.score(values, increments={SM_SECONDS: 0.0})
    told = account.score(values, increments={SM_SECONDS: active * TICK})
    assert told == pytest.approx((score + 0.1 * 0.1) * TICK)


def test_multiprocessors_that_only_a_gauge_tells() -> None:
    account = Account()
    account.score({**PARTS, SM: 0.1})
    assert account.score({**PARTS, SM: 0.1}) == pytest.approx((SCORE - 0.5 * (0.8 - 0.1)) * TICK)


@pytest.mark.parametrize("lacking", LACKING, ids=repr)
def test_a_gpu_that_lacks_a_part_is_scored_by_its_activity(lacking: Metric) -> None:
    account = Account()
    account.score(less(PARTS, lacking))
    assert account.score(less(PARTS, lacking)) == pytest.approx(0.8 * TICK)


@pytest.mark.parametrize("facts", [TOTAL, LIMIT, USED], ids=repr)
def test_what_is_missing_once_is_what_it_was(facts: Metric) -> None:
    account = Account()
    account.score()
    assert account.score(less(PARTS, facts)) == pytest.approx(SCORE * TICK)
    assert account.score() == pytest.approx(SCORE * 2 * TICK)


def test_without_activity_there_is_no_score_and_what_was_counted_stays() -> None:
    account = Account()
    account.score()
    before = account.score()
    assert account.score(less(PARTS, RATE)) is None
    assert account.score(less(PARTS, RATE)) is None, "standing still, it would tell of idleness"
    assert account.score() == pytest.approx((before or 0.0) + SCORE * TICK)


def test_in_mig_mode_there_is_no_score_nor_the_busy_time_of_before() -> None:
    account = Account()
    account.score()
    before = account.score() or 0.0
    mig = {**less(PARTS, RATE, MEMORY_IO), MIG_MODE: 1.0}
    account.look(mig, mig_uuids=("MIG-1",), mig_whole=True)
    complete = account.look(mig, mig_uuids=("MIG-1",), mig_whole=True)
    assert {SCORE_SECONDS, BUSY, IO_BUSY}.isdisjoint(complete.values)
    assert ENERGY in complete.values, "it is told all the same"
    assert account.score() == pytest.approx(before + SCORE * TICK), "the seconds that end with the first reading"


def test_time_without_an_answer_is_not_scored() -> None:
    account = Account()
    account.score()
    before = account.score() or 0.0
    assert account.score({}, failure=Failure("lost", "gone")) is None
    assert account.score() == before, "it came back at some moment in between"
    assert account.score() == pytest.approx(before + SCORE * TICK)
    account.ledger.interrupt()
    assert account.score() == pytest.approx(before + SCORE * TICK)


def test_power_above_a_limit_that_was_just_lowered_counts_as_the_limit() -> None:
    values = {RATE: 0.0, MEMORY_IO: 0.0, USED: 0.0, TOTAL: 80e9, POWER: 700.0, LIMIT: 350.0}
    account = Account()
    account.score(values)
    assert account.score(values) == pytest.approx(0.1 * TICK)


# --- owners -----------------------------------------------------------------------------------------------------------


def test_the_score_of_owners_adds_up_and_is_split_as_their_time_is() -> None:
    account = Account()
    there = (by("alice", 45e9), by("bob", 15e9, pid=8))
    account.look(processes=there)
    for _ in range(4):
        told = account.look(processes=there)
    scores = owned(told, OWNER_SCORE)
    assert sum(scores.values()) == pytest.approx(told.values[SCORE_SECONDS])
    assert scores["alice"] == pytest.approx(3 * scores["bob"])
    assert scores["alice"] / owned(told, OWNER_SECONDS["active"])["alice"] == pytest.approx(SCORE)


def test_owners_are_born_at_zero_and_keep_what_they_had() -> None:
    account = Account()
    assert owned(account.look(processes=(by("alice"),)), OWNER_SCORE) == {"alice": 0.0}
    account.look(processes=(by("alice"),))
    had = owned(account.look(processes=(by("bob", pid=8),)), OWNER_SCORE)
    assert had == pytest.approx({"alice": SCORE * TICK, "bob": SCORE * TICK})
    failed = account.look({}, failure=Failure("lost", "gone"))
    assert owned(failed, OWNER_SCORE) == had
    assert owned(failed, OWNER_ENERGY) == pytest.approx({"alice": 350 * TICK, "bob": 350 * TICK})


def test_an_owner_of_a_gpu_without_score_or_energy_has_none() -> None:
    account = Account()
    account.look({}, processes=(by("alice"),))
    told = account.look({}, processes=(by("alice"),))
    assert owned(told, OWNER_SECONDS["unknown"]) == {"alice": TICK}
    assert owned(told, OWNER_SCORE) == owned(told, OWNER_ENERGY) == {}


def with_energy(account: Account, watts: float, *, seconds: float = TICK, **more: float) -> dict[Metric, float]:
    """What the driver's counter tells after so many seconds of so many watts."""
    account.joules += watts * seconds
    values = {**PARTS, POWER: watts, ENERGY: account.joules}
    return values | {by_name(name): value for name, value in more.items()}


def energies(*steps: tuple[float, float, tuple[Process, ...]]) -> tuple[dict[str, float], float]:
    """Of steps of (watts, utilization, processes): the owners' joules, and what was drawn while somebody held it."""
    account, drawn = Account(), 0.0
    for number, (watts, utilization, processes) in enumerate(steps):
        told = account.look({**with_energy(account, watts), RATE: utilization}, processes=processes)
        drawn += watts * TICK * bool(processes) * bool(number)
    return owned(told, OWNER_ENERGY), drawn


def test_what_an_idle_board_draws_is_split_by_hold_and_the_rest_by_work() -> None:
    idle = (100.0, 0.0, ())
    there = (by("alice", 30 * GIB, 0.2), by("bob", 10 * GIB, 0.6, pid=8))
    told, drawn = energies(idle, idle, *[(500.0, 0.9, there)] * 10)
    assert sum(told.values()) == pytest.approx(drawn)
    assert told["alice"] == pytest.approx(10 * TICK * (100 * 0.75 + 400 * 0.25))
    assert told["bob"] == pytest.approx(10 * TICK * (100 * 0.25 + 400 * 0.75))


def test_where_nobody_tells_who_works_energy_goes_by_hold() -> None:
    there = (by("alice", 30 * GIB), by("bob", 10 * GIB, pid=8))
    told, drawn = energies((500.0, 0.9, ()), *[(500.0, 0.9, there)] * 10)
    assert told == pytest.approx({"alice": 0.75 * drawn, "bob": 0.25 * drawn})


def test_who_holds_and_does_not_work_has_a_part_of_the_idle_power_only() -> None:
    there = (by("alice", 10 * GIB, 0.9), by("bob", 10 * GIB, pid=8))
    told, drawn = energies((100.0, 0.0, there), (100.0, 0.0, there), *[(700.0, 1.0, there)] * 4)
    assert sum(told.values()) == pytest.approx(drawn)
    assert told["bob"] == pytest.approx(5 * TICK * 50)


def test_energy_adds_up_to_the_gpu_s_over_changes_of_owners() -> None:
    account = Account()
    crowds = [(by("alice", 30 * GIB, 0.3), by("bob", 5 * GIB, 0.1, pid=8)), (by("carol", GIB, pid=9),), ()]
    first = account.look(with_energy(account, 300), processes=crowds[0])
    free, before = 0.0, first.values[ENERGY]
    for number in range(60):
        watts = 80.0 + 37 * (number % 11)
        told = account.look(with_energy(account, watts), processes=crowds[number % 3])
        free += watts * TICK * (number % 3 == 2)
    assert sum(owned(told, OWNER_ENERGY).values()) == pytest.approx(told.values[ENERGY] - before - free)


def test_a_counter_that_is_missing_once_is_settled_when_it_is_back() -> None:
    account = Account()
    first = account.look(with_energy(account, 400), processes=(by("alice"),))
    for number in range(9):
        values = with_energy(account, 400 if number < 5 else 200)
        told = account.look(less(values, ENERGY) if number in {3, 4, 6} else values, processes=(by("alice"),))
        if number == 3:
            assert owned(told, OWNER_ENERGY) == {"alice": pytest.approx(400 * TICK * 4)}
    assert owned(told, OWNER_ENERGY)["alice"] == pytest.approx(told.values[ENERGY] - first.values[ENERGY])


def test_a_board_without_a_counter_is_charged_by_its_power() -> None:
    account = Account()
    for _ in range(5):
        told = account.look({**PARTS, POWER: 200.0}, processes=(by("alice"),))
    assert owned(told, OWNER_ENERGY)["alice"] == pytest.approx(told.values[ENERGY]) == 200 * 4 * TICK


def test_energy_of_a_time_that_nobody_saw_is_nobodys() -> None:
    account = Account()
    account.look(with_energy(account, 400), processes=(by("alice"),))
    account.joules += 1e6
    account.look({}, failure=Failure("lost", "gone"))
    account.look(with_energy(account, 400), processes=(by("alice"),))
    told = account.look(with_energy(account, 400), processes=(by("alice"),))
    assert owned(told, OWNER_ENERGY) == {"alice": pytest.approx(400 * TICK)}


def test_in_mig_mode_energy_goes_by_the_work_of_each_mig_device() -> None:
    account = Account()
    there = (by("alice", mig_uuid="MIG-1"), by("bob", pid=8, mig_uuid="MIG-2"))
    labelled = {(MIG_MEMORY_TOTAL, (uuid,)): size * GIB for uuid, size in (("MIG-1", 40), ("MIG-2", 20))}
    labelled |= {(MIG_SM_ACTIVE, (uuid,)): share for uuid, share in (("MIG-1", 0.2), ("MIG-2", 0.8))}
    for _ in range(5):
        values = {**less(with_energy(account, 300), RATE, MEMORY_IO), MIG_MODE: 1.0}
        told = account.look(
            values, processes=there, labelled=labelled, mig_uuids=("MIG-1", "MIG-2"), mig_whole=True
        )  # fmt: skip
    joules = owned(told, OWNER_ENERGY)
    assert joules["bob"] == pytest.approx(2 * joules["alice"]), "nothing was ever seen idle, so all goes by work"
    assert sum(joules.values()) == pytest.approx(300 * TICK * 4)
    assert owned(told, OWNER_SCORE) == {}
