"""Whose a subordinate uid is: rootless containers run under ranges of uids that /etc/subuid gives to users."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gpu_exporter.config import Watch, read_file
from gpu_exporter.owners.aside import Aside

_LOOK_AGAIN: Final = 10.0  # seconds
_LARGEST: Final = 4 * 1024 * 1024  # bytes; 10 000 users are a quarter of a megabyte
_MOST_DIGITS: Final = 10
# Root needs no range to start a container; those it has are for containers of others (LXD), each with users of its own.
_ROOT: Final = frozenset({"root", "0"})


class _Range(NamedTuple):
    first: int
    last: int
    user: str


class SubordinateUids:
    """The ranges of ``path``, in the form of subuid(5): ``user:first:count``, where the user is a login name or a uid.

    Belongs to one thread. A file that is not there, or cannot be read, gives nobody a range.
    """

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._watch = Watch(path)
        self._monotonic = monotonic
        self._look_at = float("-inf")
        self._ranges: tuple[_Range, ...] = ()
        self._found: Aside[tuple[_Range, ...]] = Aside(self._look, (), what=str(path))

    def user(self, uid: int) -> str | None:
        """The login name or uid, as the file has it, of whom the uid was given to; None where it is in no range."""
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_AGAIN
            self._ranges = self._found.latest()
        return next((each.user for each in self._ranges if each.first <= uid <= each.last), None)

    def _look(self) -> tuple[_Range, ...]:
        return tuple(self._read()) if self._watch.changed() else self._ranges

    def _read(self) -> Iterator[_Range]:
        try:
            text = read_file(self._path, largest=_LARGEST).decode("utf-8", "replace")
        except OSError:
            return
        for line in text.split("\n"):
            user, *numbers = line.strip().split(":")
            if len(numbers) != 2 or not user or user[0] == "#" or user in _ROOT:
                continue
            if all(number.isascii() and number.isdigit() and len(number) <= _MOST_DIGITS for number in numbers):
                first, count = map(int, numbers)
                yield _Range(first, first + count - 1, user)
