"""Long lists, sheet by sheet: a browser lays out a hundred machines at once, not a thousand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from gpu_exporter.config.parsers import integer_between

T = TypeVar("T")
_LENGTH: Final = 100  # entries of a sheet
_WHOLE: Final = 150  # entries up to which there is one sheet
_NUMBER: Final = integer_between(1, 10**6)


@dataclass(frozen=True, slots=True)
class Sheet(Generic[T]):
    """A part of a list. ``number`` is from 1 to ``count``; ``first`` and ``last`` are places, from 1."""

    entries: Sequence[T]
    number: int
    count: int
    first: int
    total: int

    @property
    def last(self) -> int:
        """The place of the last entry."""
        return self.first + len(self.entries) - 1


def sheet(entries: Sequence[T], asked: str) -> Sheet[T]:
    """The sheet of that number, which is empty for the first; the last one where there are fewer by now.

    Raises RefusedError.
    """
    number = _NUMBER(asked) if asked else 1
    total = len(entries)
    if total <= _WHOLE:
        return Sheet(entries, 1, 1, 1, total)
    count = -(-total // _LENGTH)
    number = min(number, count)
    first = (number - 1) * _LENGTH
    return Sheet(entries[first : first + _LENGTH], number, count, first + 1, total)
