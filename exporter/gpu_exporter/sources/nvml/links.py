"""What is told link by link, for all links of a device together: one that does not answer costs its own share only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import pynvml

from gpu_exporter.catalog.row import Field, Links, Metric, scaled

# nvml.h, NVML_NVLINK_STATE_...; of a C2C link 1 is up as well.
_UP: Final = frozenset({pynvml.NVML_NVLINK_STATE_ACTIVE, pynvml.NVML_NVLINK_STATE_SLEEP})
_MOST_STATE: Final = pynvml.NVML_NVLINK_STATE_ACTIVE_TRAFFIC_DISABLED
# A state is of now, not a sum: a link that tells none for so many readings is not counted any more.
_KEEP_STATE: Final = 12


class LinkAnswers(NamedTuple):
    """What each link of a device answered: the return code; the number, None for what is none; by link what was told.

    Where the code is an error, the others say nothing.
    """

    codes: Sequence[int]
    numbers: Sequence[float | None]
    raw: Callable[[int], float]


@dataclass(slots=True)
class _Count:
    """One link's counter: what it told last, and what to add for what it told before it began anew."""

    told: float | None = None
    before: float = 0.0
    doubted: float | None = None

    def take(self, value: float | None, *, late: bool) -> None:
        if value is None:
            return
        if self.told is None:
            # What a link counted before it was first heard of did not happen now.
            self.told, self.before = value, -value if late else 0.0
        elif value >= self.told:
            self.told, self.doubted = value, None
        elif self.doubted is None or value < self.doubted:
            self.doubted = value  # believed once it stays below: a single low answer is an error more often than not
        else:
            self.before += self.told
            self.told, self.doubted = value, None

    @property
    def total(self) -> float:
        return self.before + (self.told or 0.0)


class _Counts:
    """One counter over all links of a device. The sum never falls.

    A link without an answer keeps its last one. The count of a link that was reset goes on from where it was. A link
    that is first heard of later adds what it counts from then on.
    """

    def __init__(self, links: int) -> None:
        self._counts = [_Count() for _ in range(links)]
        self._latest: Sequence[float | None] | None = None
        self._sum = 0.0

    def total(self, told: Sequence[float | None]) -> float | None:
        """The sum, with what each link tells now; None where none does."""
        if all(value is None for value in told):
            return None
        # Mostly nothing happens between two readings; a lower count told twice is believed.
        if told != self._latest or any(count.doubted is not None for count in self._counts):
            for count, value in zip(self._counts, told, strict=True):
                count.take(value, late=self._latest is not None)
            self._latest, self._sum = told, sum(count.total for count in self._counts)
        return self._sum

    def by_link(self) -> list[float]:
        """The same of each link."""
        return [count.total for count in self._counts]


class _States:
    """The state of each link of a device. One that does not tell it for a moment has the one it told last."""

    def __init__(self, links: int) -> None:
        self._states: list[float | None] = [None] * links
        self._silent = [0] * links

    def count(self, told: Sequence[float | None], *, active: bool) -> float | None:
        """How many links are active, or are not, with what each tells now; None where none does."""
        if all(state is None for state in told):
            return None
        for link, state in enumerate(told):
            self._silent[link] = self._silent[link] + 1 if state is None else 0
            if state is not None or self._silent[link] > _KEEP_STATE:
                self._states[link] = state
        return float(sum((state in _UP) == active for state in self._states if state is not None))


class LinkRows:
    """The rows of one device that are told link by link."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Metric, Field], _Counts] = {}
        self._states: dict[Metric, _States] = {}

    def total(
        self, metric: Metric, column: Field | Links, told: LinkAnswers, refused: list[tuple[Metric, float]]
    ) -> float | None:
        """The row in base units, None where no link told it; what cannot be of a link is added to ``refused``."""
        highest = _MOST_STATE if isinstance(column, Links) else metric.plausible[1] / column.scale
        numbers = [
            number if not code and number is not None and 0 <= number <= highest else None
            for code, number in zip(told.codes, told.numbers, strict=True)
        ]
        if None in numbers:
            for link, number in enumerate(numbers):
                if number is None and not told.codes[link]:
                    refused.append((metric, float(told.raw(link))))
        if isinstance(column, Links):
            states = self._states.setdefault(metric, _States(len(numbers)))
            return states.count(numbers, active=column.active)
        counts = self._counts.get((metric, column))
        if counts is None:
            counts = self._counts[metric, column] = _Counts(len(numbers))
        total = counts.total(numbers)
        return None if total is None else scaled(total, column.scale)

    def with_errors(self, metric: Metric, column: Field) -> list[tuple[int, float]]:
        """The links that have counted anything in this row, and how much."""
        counts = self._counts.get((metric, column))
        return [] if counts is None else [(link, count) for link, count in enumerate(counts.by_link()) if count]
