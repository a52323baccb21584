"""Calls against a deadline: what finishes is told, what hangs is parked and told late."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from gpu_exporter.sampling.poller import Outcome, Poller


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller(name="poller under test")
    yield poller
    poller.close()


def ignore(position: int, outcome: Outcome[object]) -> None:
    raise AssertionError(f"call {position} was late: {outcome}")


def threads() -> int:
    return sum(thread.name == "poller under test" for thread in threading.enumerate())


def wait_until(condition: object, timeout: float = 5.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition never came"
        time.sleep(0.002)


def test_outcomes_stand_in_the_order_of_the_calls(poller: Poller) -> None:
    outcomes = poller.run([lambda n=n: n * n for n in range(5)], timeout=5, late=ignore)  # type: ignore[misc]
    assert [outcome.get() for outcome in outcomes if outcome] == [0, 1, 4, 9, 16]


def test_no_calls_need_no_thread(poller: Poller) -> None:
    assert poller.run([], timeout=5, late=ignore) == []
    assert threads() == 0


def test_an_error_is_an_outcome_and_the_next_call_is_made(poller: Poller) -> None:
    def fail() -> int:
        raise ValueError("broken")

    first, second = poller.run([fail, lambda: 2], timeout=5, late=ignore)
    assert first is not None
    assert second is not None
    with pytest.raises(ValueError, match="broken"):
        first.get()
    assert second.get() == 2


def test_one_thread_serves_many_runs(poller: Poller) -> None:
    seen = set()
    for _ in range(20):
        (outcome,) = poller.run([threading.get_ident], timeout=5, late=ignore)
        assert outcome is not None
        seen.add(outcome.get())
        wait_until(lambda: poller._idle is not None)
    assert len(seen) == 1


def test_a_hung_call_is_parked_and_the_others_go_on(poller: Poller) -> None:
    release = threading.Event()
    told: list[tuple[int, object]] = []
    outcomes = poller.run(
        [lambda: 0, lambda: release.wait(30), lambda: 2, lambda: 3],
        timeout=0.05,
        late=lambda position, outcome: told.append((position, outcome.result)),
    )
    assert [outcome and outcome.get() for outcome in outcomes] == [0, None, 2, 3]
    assert told == []
    release.set()
    wait_until(lambda: told == [(1, True)])
    wait_until(lambda: threads() <= 1)


def test_calls_that_hang_together_cost_two_deadlines_and_one_thread_each(poller: Poller) -> None:
    release = threading.Event()
    told: list[int] = []
    started = time.monotonic()
    outcomes = poller.run([lambda: release.wait(30)] * 8, timeout=0.1, late=lambda position, _: told.append(position))
    assert outcomes == [None] * 8
    assert 0.2 <= time.monotonic() - started < 0.5, "eight deadlines one after the other would be 0.8 s"
    assert threads() == 8
    release.set()
    wait_until(lambda: sorted(told) == list(range(8)))
    wait_until(lambda: threads() <= 1)


def test_a_slow_call_within_its_deadline_does_not_use_up_the_next_ones(poller: Poller) -> None:
    outcomes = poller.run([lambda: time.sleep(0.06)] * 4, timeout=0.2, late=ignore)
    assert all(outcome is not None for outcome in outcomes), "the deadline is for each call, not for all"


def test_close_ends_a_waiting_run_at_once(poller: Poller) -> None:
    release = threading.Event()
    results: list[object] = []
    runner = threading.Thread(
        target=lambda: results.append(poller.run([lambda: release.wait(30)], timeout=60, late=lambda _, __: None))
    )
    runner.start()
    wait_until(lambda: threads() == 1)
    poller.close()
    runner.join(2)
    assert results == [[None]]
    release.set()
    wait_until(lambda: threads() == 0)


def test_close_joins_the_idle_thread(poller: Poller) -> None:
    poller.run([lambda: 1], timeout=5, late=ignore)
    poller.close()
    wait_until(lambda: threads() == 0)
    assert poller.run([lambda: 1], timeout=5, late=ignore) == [None], "a closed poller makes no calls"
