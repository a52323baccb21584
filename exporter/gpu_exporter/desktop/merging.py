"""From one list of rows to the next, so that a model tells its views of what changed and of nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

Step: TypeAlias = tuple[Literal["remove", "insert"], int]


def steps(old: Sequence[Hashable], new: Sequence[Hashable]) -> Iterator[Step]:
    """Rows to remove, last first, then rows to insert, first first; both lists have no row twice."""
    places = {key: place for place, key in enumerate(new)}
    kept: set[Hashable] = set()
    last = -1
    for key in old:
        place = places.get(key, -1)
        if place > last:  # what came before something that it now comes after is put there anew
            kept.add(key)
            last = place
    for row in range(len(old) - 1, -1, -1):
        if old[row] not in kept:
            yield "remove", row
    for row, key in enumerate(new):
        if key not in kept:
            yield "insert", row


def told_apart(keys: Iterable[Hashable]) -> list[Hashable]:
    """The same keys; one that comes again is told apart by how often it came before."""
    seen: Counter[Hashable] = Counter()
    found: list[Hashable] = []
    for key in keys:
        found.append((key, seen[key]))
        seen[key] += 1
    return found
