"""Runs blocking calls against a deadline.

A driver call that hangs cannot be interrupted, so the thread inside it is left parked until the call returns, and a
fresh thread goes on with the rest.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Seconds in which others may end whose threads are needed here, and between two tries.
_ROOM_WITHIN: Final = 0.5
_ROOM_STEP: Final = 0.01


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


class NoThreadError(RuntimeError):
    """The call was never made: the process may have no more threads."""


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

    def split(self) -> list[_Batch[T]]:
        """A batch for each call that has not begun; this one keeps those that have."""
        rest, self.calls = self.calls[self.position + 1 :], self.calls[: self.position + 1]
        return [_Batch((numbered,), self.late) for numbered in rest]


class Poller:
    """One thread that makes calls in turn, replaced whenever a call overruns its deadline.

    After one overrun the calls still to be made get a thread each, so that several GPUs that hang together cost one
    more deadline and not one each. ``run`` belongs to one thread; ``close`` may come from any.

    ``make_room`` is called where the process may have no more threads: it ends others that matter less.
    """

    def __init__(
        self,
        *,
        name: str,
        monotonic: Callable[[], float] = time.monotonic,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._monotonic = monotonic
        self.make_room = make_room
        self._changed = threading.Condition()
        self._closed = False
        self._idle: threading.Thread | None = None
        self._inbox: _Batch[object] | None = None

    def run(
        self,
        calls: Sequence[Call[T]],
        *,
        timeout: float,
        late: Late[T],
        budget: float = math.inf,
        apart: Collection[int] = (),
    ) -> list[Outcome[T] | None]:
        """Make the calls in order; each may take ``timeout`` seconds, and all that are made in turn ``budget``.

        Those that have not begun by then get a thread each, and so do those at the positions ``apart`` from the
        beginning: calls that are slow, each within its deadline, must not add up.

        The list has None for each call that was left behind; ``late`` is told its position and outcome, on the parked
        thread, when it returns after all. Calls not made because of ``close`` are None as well.
        """
        outcomes: list[Outcome[T] | None] = [None] * len(calls)
        if not calls or self._closed:
            return outcomes
        numbered = list(enumerate(calls))
        together = tuple(pair for pair in numbered if pair[0] not in apart)
        batches = [_Batch(together, late)] if together else []
        batches += [_Batch((pair,), late) for pair in numbered if pair[0] in apart]
        self._wait(batches, timeout, budget)
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

    def _wait(self, batches: list[_Batch[T]], timeout: float, budget: float) -> None:
        """Start the batches, all at once, and leave those whose current call overruns; adds those that are split."""
        with self._changed:
            began = self._monotonic()
            for batch in batches:
                self._hand_over(batch)
            while not self._closed:
                now = self._monotonic()
                for batch in batches:
                    if not batch.finished and now - batch.started >= timeout:
                        batch.left = True
                for batch in list(batches):
                    if batch.left or now - began >= budget:
                        batches += [self._hand_over(rest) for rest in batch.split()]
                remaining = [timeout - (now - batch.started) for batch in batches if not (batch.finished or batch.left)]
                if not remaining:
                    break
                if now - began < budget:
                    remaining.append(began + budget - now)
                self._changed.wait(min(*remaining, threading.TIMEOUT_MAX))
            for batch in batches:
                batch.left = not batch.finished

    def _hand_over(self, batch: _Batch[T]) -> _Batch[T]:
        """Give the batch to the idle thread, or to a new one. The caller holds the lock."""
        batch.started = self._monotonic()
        if self._idle is not None and self._inbox is None:
            self._inbox = batch  # type: ignore[assignment]
            self._changed.notify_all()
        elif not self._started(batch) and not self._makes_room_for(batch):
            for position, _ in batch.calls:
                batch.outcomes[position] = Outcome(error=NoThreadError("no more threads may be started"))
        return batch

    def _started(self, batch: _Batch[T]) -> bool:
        try:
            threading.Thread(target=self._work, args=(batch,), name=self._name, daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _makes_room_for(self, batch: _Batch[T]) -> bool:
        """Have others ended, and try again for a moment while they go."""
        deadline = time.monotonic() + _ROOM_WITHIN
        self.make_room()
        while time.monotonic() < deadline and not self._closed:
            self._changed.wait(_ROOM_STEP)
            if self._started(batch):
                return True
        return False

    def _work(self, batch: _Batch[object]) -> None:
        number = 0
        while True:
            with self._changed:
                begun = number < len(batch.calls)
                if begun:
                    position, call = batch.calls[number]
                    batch.position, batch.started = number, self._monotonic()
            if begun:
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
                number += 1
                continue
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
                number = 0


def _attempt(call: Call[T]) -> Outcome[T]:
    try:
        return Outcome(result=call())
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the call
        return Outcome(error=error)
