"""Calls against a deadline: what finishes is told, what hangs is parked and told late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tools.lab.clock import Clock
from tools.lab.wait import patience, wait_for

from gpu_exporter.sampling.poller import NoThreadError, Outcome, Poller

FOREVER = 3600.0  # seconds


class Watched(Clock):
    """Deadlines pass only when a test says so; ``looks`` counts who asks for the time."""

    looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return super().__call__()


@pytest.fixture
def clock() -> Watched:
    return Watched()


@pytest.fixture
def poller(clock: Watched) -> Iterator[Poller]:
    poller = Poller(name="poller under test", monotonic=clock)
    yield poller
    poller.close()


class Hanging:
    """Calls that return when they are released, at the latest when the block ends: a test that fails must not hang."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self._release = threading.Event()

    def call(self) -> bool:
        self.begun.append(1)
        return self._release.wait(FOREVER)

    def release(self) -> None:
        self._release.set()

    def __enter__(self) -> Hanging:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def ignore(position: int, outcome: Outcome[object]) -> None:
    raise AssertionError(f"call {position} was late: {outcome}")


def threads() -> int:
    return sum(thread.name == "poller under test" for thread in threading.enumerate())


def test_outcomes_stand_in_the_order_of_the_calls(poller: Poller) -> None:
    outcomes = poller.run([lambda n=n: n * n for n in range(5)], timeout=FOREVER, late=ignore)  # type: ignore[misc]
    assert [outcome.get() for outcome in outcomes if outcome] == [0, 1, 4, 9, 16]


def test_no_calls_need_no_thread(poller: Poller) -> None:
    assert poller.run([], timeout=FOREVER, late=ignore) == []
    assert threads() == 0


def test_an_error_is_an_outcome_and_the_next_call_is_made(poller: Poller) -> None:
    def fail() -> int:
        raise ValueError("broken")

    first, second = poller.run([fail, lambda: 2], timeout=FOREVER, late=ignore)
    assert first is not None
    assert second is not None
    with pytest.raises(ValueError, match="broken"):
        first.get()
    assert second.get() == 2


def test_one_thread_serves_many_runs(poller: Poller) -> None:
    seen = set()
    for _ in range(20):
        (outcome,) = poller.run([threading.get_ident], timeout=FOREVER, late=ignore)
        assert outcome is not None
        seen.add(outcome.get())
        wait_for(lambda: poller._idle is not None)
    assert len(seen) == 1


def test_a_hung_call_is_parked_and_the_others_go_on(poller: Poller, clock: Watched) -> None:
    told: list[tuple[int, object]] = []
    with ThreadPoolExecutor() as pool, Hanging() as hanging:
        calls: list[Callable[[], int]] = [lambda: 0, hanging.call, lambda: 2, lambda: 3]
        run = pool.submit(
            poller.run, calls, timeout=0.05, late=lambda position, outcome: told.append((position, outcome.result))
        )
        wait_for(lambda: hanging.begun)
        clock.now += 1
        outcomes = run.result(patience())
        assert [outcome and outcome.get() for outcome in outcomes] == [0, None, 2, 3]
        assert told == []
    wait_for(lambda: told == [(1, True)])
    wait_for(lambda: threads() <= 1)


def test_calls_that_hang_together_cost_two_deadlines_and_one_thread_each(poller: Poller, clock: Watched) -> None:
    told: list[int] = []
    with ThreadPoolExecutor() as pool, Hanging() as hanging:
        run = pool.submit(poller.run, [hanging.call] * 8, timeout=0.05, late=lambda position, _: told.append(position))
        for calls in (1, 8):
            assert not run.done()
            wait_for(lambda calls=calls: len(hanging.begun) == calls)  # type: ignore[misc]
            clock.now += 1  # the deadline of all that have begun passes
        assert run.result(patience()) == [None] * 8
        assert threads() == 8
    wait_for(lambda: sorted(told) == list(range(8)))
    wait_for(lambda: threads() <= 1)


def test_a_slow_call_within_its_deadline_does_not_use_up_the_next_ones(poller: Poller, clock: Watched) -> None:
    def slow() -> None:
        clock.now += 0.03
        looks = clock.looks
        wait_for(lambda: clock.looks > looks)  # whoever waits for us sees how late it is

    outcomes = poller.run([slow] * 4, timeout=0.05, late=ignore)
    assert all(outcome is not None for outcome in outcomes), "the deadline is for each call, not for all"


def test_slow_calls_do_not_add_up(poller: Poller, clock: Watched) -> None:
    """Each is within its deadline; once they have taken their time together, the rest go on side by side."""
    with ThreadPoolExecutor() as pool, Hanging() as hanging:
        calls: list[Callable[[], object]] = [hanging.call, *[lambda: 1] * 3, hanging.call]
        run = pool.submit(poller.run, calls, timeout=3.0, late=ignore, budget=1.0)
        wait_for(lambda: len(hanging.begun) == 1)
        clock.now += 1.5
        wait_for(lambda: len(hanging.begun) == 2)
        clock.now += 1
        hanging.release()
        assert [outcome and outcome.get() for outcome in run.result(patience())] == [True, 1, 1, 1, True]
    wait_for(lambda: threads() <= 1)


def test_calls_apart_begin_at_once(poller: Poller) -> None:
    with ThreadPoolExecutor() as pool, Hanging() as hanging:
        run = pool.submit(poller.run, [hanging.call] * 4, timeout=FOREVER, late=ignore, apart={1, 3})
        wait_for(lambda: len(hanging.begun) == 3)
        hanging.release()
        assert [outcome and outcome.get() for outcome in run.result(patience())] == [True] * 4


def test_without_threads_others_are_asked_to_make_room(clock: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    full = True
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if full and thread.name == "poller under test":
            raise RuntimeError("can't start new thread")
        start(thread)

    def make_room() -> None:
        nonlocal full
        full = False

    monkeypatch.setattr(threading.Thread, "start", refused)
    nobody = Poller(name="poller under test", monotonic=clock)
    (outcome,) = nobody.run([lambda: 1], timeout=FOREVER, late=ignore)
    assert outcome is not None
    assert isinstance(outcome.error, NoThreadError), "told, and not waited for"
    nobody.close()
    poller = Poller(name="poller under test", monotonic=clock, make_room=make_room)
    (outcome,) = poller.run([lambda: 1], timeout=FOREVER, late=ignore)
    assert outcome is not None
    assert outcome.get() == 1
    poller.close()


def test_close_ends_a_waiting_run_at_once(poller: Poller) -> None:
    with ThreadPoolExecutor() as pool, Hanging() as hanging:
        run = pool.submit(poller.run, [hanging.call], timeout=FOREVER, late=lambda _, __: None)
        wait_for(lambda: hanging.begun)
        poller.close()
        assert run.result(patience()) == [None]
    wait_for(lambda: threads() == 0)


def test_close_joins_the_idle_thread(poller: Poller) -> None:
    poller.run([lambda: 1], timeout=FOREVER, late=ignore)
    poller.close()
    wait_for(lambda: threads() == 0)
    assert poller.run([lambda: 1], timeout=FOREVER, late=ignore) == [None], "a closed poller makes no calls"
