"""Whose password is checked next: one at a time, known users apart from guessed ones, every address in its turn."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_LOOK: Final = 0.1  # seconds between looks at whether who waits is still there


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    peer: str
    known: bool


class Turns:
    """One turn at a time; any thread may wait for one.

    Those who name a user that exists and those who guess take turns with each other, so that a flood of guesses costs
    a known user half of the time at most; among themselves, the address goes first that had a turn the longest ago.
    Each address may have ``most`` of a kind waiting.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._busy = False
        self._waiting: list[_Ticket] = []
        self._counts: Counter[tuple[str, bool]] = Counter()  # those with a turn as well
        self._latest: dict[str, int] = {}  # when each address had a turn, of those that wait or have one
        self._number = 0
        self._known_next = True

    @contextmanager
    def turn(self, peer: str, *, known: bool, patience: float, gone: Callable[[], bool]) -> Iterator[bool]:
        """Wait for a turn, which lasts as long as the block; False where there is none to be had.

        That is where the address has too many waiting, where ``patience`` (seconds) is over, and where ``gone`` says
        that nobody waits for the answer any more.
        """
        ticket = _Ticket(peer, known)
        with self._changed:
            if self._counts[peer, known] >= self._most:
                granted = False
                counted = False
            else:
                self._counts[peer, known] += 1
                counted = True
                granted = self._wait(ticket, patience, gone)
        try:
            yield granted
        finally:
            with self._changed:
                if granted:
                    self._busy = False
                if counted:
                    self._counts[peer, known] -= 1
                    self._counts += Counter()  # forgets who has none waiting
                    self._latest = {peer: at for peer, at in self._latest.items() if self._has(peer)}
                self._changed.notify_all()

    def _wait(self, ticket: _Ticket, patience: float, gone: Callable[[], bool]) -> bool:
        self._waiting.append(ticket)
        deadline = time.monotonic() + patience
        try:
            while self._busy or self._next() is not ticket:
                left = deadline - time.monotonic()
                if left <= 0 or gone():
                    return False
                self._changed.wait(min(left, _LOOK))
        finally:
            self._waiting.remove(ticket)
            self._changed.notify_all()
        self._busy = True
        self._known_next = not ticket.known
        self._number += 1
        self._latest[ticket.peer] = self._number
        return True

    def _next(self) -> _Ticket | None:
        """Who has the next turn."""
        of_lane = [ticket for ticket in self._waiting if ticket.known == self._known_next] or self._waiting
        return min(of_lane, key=lambda ticket: self._latest.get(ticket.peer, 0), default=None)

    def _has(self, peer: str) -> bool:
        return any(self._counts[peer, known] for known in (True, False))
