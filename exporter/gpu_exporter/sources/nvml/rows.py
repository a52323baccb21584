"""Which of its columns each row of a device is read by.

"Not supported" is believed for a while only: a GPU that is asleep, sick or partitioned says so as well. What has
answered before is asked again within a minute, all else every five minutes, and everything once the device has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from gpu_exporter.catalog.prices import Pace, pace_of
from gpu_exporter.catalog.row import Call, Fans, Field, Gpm, Limit, Links, Metric, Samples
from gpu_exporter.sources.nvml.again import SELDOM, SOON, Again
from gpu_exporter.sources.nvml.asking import Answers

# What a device is asked for itself; processes are read by another module.
Column: TypeAlias = Call | Field | Gpm | Samples | Limit | Links | Fans
# What these tell is what a counter grew by; the others tell where it stands.
_SUMMED: Final = (Samples, Gpm)


@dataclass(slots=True, eq=False)
class Row:
    """A metric with the columns that this driver can have, best first, and the ``place`` of the one in use.

    The place is their number where none is supported; ``best`` is that of the best one that ever answered. ``fixed`` is
    a limit that was computed from a margin, once and for all: asked for again, it would wander by a few degrees.
    """

    metric: Metric
    columns: tuple[Column, ...]
    place: int = 0
    best: int | None = None
    fixed: float | None = None
    _again: Again | None = None  # most rows never need it

    @property
    def again(self) -> Again:
        """When to ask for the better columns."""
        if self._again is None:
            self._again = Again()
        return self._again

    @property
    def column(self) -> Column | None:
        """The one in use."""
        return self.columns[self.place] if self.place < len(self.columns) else None

    @property
    def pace(self) -> Pace:
        """How often it is asked, by the price of the column in use."""
        column = self.column
        if isinstance(column, Limit) or (isinstance(column, Links) and column.per_link):
            return "minute"
        return "full" if not isinstance(column, Call | Field | Samples) else pace_of(column.name)

    @property
    def settled(self) -> bool:
        """Whether its value is known for good, as long as this column is in use."""
        return self.fixed is not None and isinstance(self.column, Limit)

    @property
    def lapsed(self) -> bool:
        """Whether nothing is left of what has answered before."""
        return self.best is not None and self.column is None

    def fall(self, now: float) -> None:
        """The column in use is not supported: take the next one."""
        self.place = next(
            (place for place in range(self.place + 1, len(self.columns)) if self._fits(place)), len(self.columns)
        )
        self.wait(now)

    def better(self) -> Iterator[int]:
        """The places of better columns."""
        return (place for place in range(self.place) if self._fits(place))

    def wait(self, now: float) -> None:
        """Leave the better columns alone for a while."""
        self.again.most = SOON if self.best is not None and self.best < self.place else SELDOM
        self.again.later(now)

    def prove(self, answers: Answers) -> bool:
        """Whether it has answered by now."""
        if self.place < len(self.columns) and answers.has(self.metric):
            self.best = self.place
        return self.best is not None

    def _fits(self, place: int) -> bool:
        """Whether the column goes on where another one left off: a driver's own counter does not continue our sum."""
        if self.best is None or self.metric.kind != "counter":
            return True
        return isinstance(self.columns[place], _SUMMED) == isinstance(self.columns[self.best], _SUMMED)


class Trial:
    """One attempt at a row's better columns, while ``answers`` has what the one in use has just told."""

    def __init__(self, row: Row, answers: Answers) -> None:
        self.row = row
        self._answers = answers
        self._value = answers.values.pop(row.metric, None)
        self._growth = row.metric in answers.increments
        self._in_use = row.place
        self._better = row.better()

    def next(self) -> bool:
        """Go to the next better column, or back to the one in use where there is none left."""
        self.row.place = next(self._better, self._in_use)
        return self.row.place != self._in_use

    def end(self, now: float) -> None:
        """Keep to what has answered; any other error than "not supported" proves nothing."""
        row = self.row
        if row.place != self._in_use and not self._growth and self._answers.has(row.metric):
            row.best = row.place if row.best is None else min(row.best, row.place)
            row.again.at_once()
        else:
            row.place = self._in_use
            if self._value is not None:
                self._answers.values[row.metric] = self._value
        row.wait(now)
