"""Runs blocking calls against a deadline.

A driver call that hangs cannot be interrupted, so the thread inside it is left parked until the call returns, and a
fresh thread goes on with the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """How one call ended."""

    result: T | None = None
    error: BaseException | None = None

    def get(self) -> T:
        """The result; raises what the call raised."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


Call = Callable[[], T]
Late = Callable[[int, Outcome[T]], None]


@dataclass(slots=True, eq=False)
class _Batch(Generic[T]):
    """Calls that one thread works through; ``left`` once the poller stopped waiting for it."""

    calls: Sequence[tuple[int, Call[T]]]
    late: Late[T]
    position: int = 0
    started: float = 0.0
    outcomes: dict[int, Outcome[T]] = field(default_factory=dict)
    left: bool = False

    @property
    def finished(self) -> bool:
        return len(self.outcomes) == len(self.calls)


class Poller:
    """One thread that makes calls in turn, replaced whenever a call overruns its deadline.

    After one overrun the calls still to be made get a thread each, so that several GPUs that hang together cost one
    more deadline and not one each. ``run`` belongs to one thread; ``close`` may come from any.
    """

    def __init__(self, *, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._closed = False
        self._idle: threading.Thread | None = None
        self._inbox: _Batch[object] | None = None

    def run(self, calls: Sequence[Call[T]], *, timeout: float, late: Late[T]) -> list[Outcome[T] | None]:
        """Make the calls in order; each may take ``timeout`` seconds.

        The list has None for each call that was left behind; ``late`` is told its position and outcome, on the parked
        thread, when it returns after all. Calls not made because of ``close`` are None as well.
        """
        outcomes: list[Outcome[T] | None] = [None] * len(calls)
        if not calls or self._closed:
            return outcomes
        first = _Batch(tuple(enumerate(calls)), late)
        self._wait([first], timeout)
        batches = [first]
        if first.left and not self._closed:
            rest = [_Batch((numbered,), late) for numbered in first.calls[first.position + 1 :]]
            self._wait(rest, timeout)
            batches += rest
        for batch in batches:
            for position, outcome in batch.outcomes.items():
                outcomes[position] = outcome
        return outcomes

    def close(self) -> None:
        """Let the idle thread end and ``run`` return at once; parked threads end when their calls do."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            idle = self._idle
        if idle is not None:
            idle.join(1.0)

    def _wait(self, batches: Sequence[_Batch[T]], timeout: float) -> None:
        """Start the batches, all at once, and leave those whose current call overruns."""
        with self._changed:
            for batch in batches:
                batch.started = self._monotonic()
                self._hand_over(batch)
            while not self._closed:
                open_batches = [batch for batch in batches if not batch.finished and not batch.left]
                if not open_batches:
                    return
                now = self._monotonic()
                for batch in open_batches:
                    if now - batch.started >= timeout:
                        batch.left = True
                remaining = [timeout - (now - batch.started) for batch in open_batches if not batch.left]
                if remaining:
                    self._changed.wait(min(remaining))
            for batch in batches:
                batch.left = not batch.finished

    def _hand_over(self, batch: _Batch[T]) -> None:
        """Give the batch to the idle thread, or to a new one."""
        if self._idle is not None and self._inbox is None:
            self._inbox = batch  # type: ignore[assignment]
            self._changed.notify_all()
        else:
            threading.Thread(target=self._work, args=(batch,), name=self._name, daemon=True).start()

    def _work(self, batch: _Batch[object]) -> None:
        while True:
            for number, (position, call) in enumerate(batch.calls):
                with self._changed:
                    batch.position, batch.started = number, self._monotonic()
                outcome = _attempt(call)
                with self._changed:
                    if not batch.left:
                        batch.outcomes[position] = outcome
                    if batch.left or batch.finished:
                        self._changed.notify_all()
                    left = batch.left
                if left:
                    batch.late(position, outcome)
                    return
            with self._changed:
                if self._idle is not None or self._closed:
                    return
                self._idle = threading.current_thread()
                while self._inbox is None and not self._closed:
                    self._changed.wait()
                self._idle = None
                if self._inbox is None:
                    return
                batch, self._inbox = self._inbox, None


def _attempt(call: Call[T]) -> Outcome[T]:
    try:
        return Outcome(result=call())
    except Exception as error:  # noqa: BLE001 - handed to whoever waits for the call
        return Outcome(error=error)
