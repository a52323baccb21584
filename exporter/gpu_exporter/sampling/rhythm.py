"""When scrapes come: the rhythm of each scraper, learned from the moments at which it came.

A scraper is whoever asks from one address under one name, and several may: a pair of Prometheus behind one address,
three jobs of one. So the moments of a client are taken apart into *trains*, each with a period and a phase of its own.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

# Equal gaps between so many moments make a train: few where they are equal to a hair, as those of a Prometheus are.
_EXACT: Final = 0.05  # seconds that two gaps may differ by
_EXACT_MOMENTS: Final = 3
_LOOSE_MOMENTS: Final = 5
# A scrape is of the train that expected it at nearly that moment.
_TOLERANCE: Final = 0.2  # of the period
_TOLERANCE_LEAST, _TOLERANCE_MOST = 0.5, 3.0  # seconds
_LOOSE: Final = 0.75  # of the tolerance
_SHORTEST: Final = 0.5  # seconds; what comes more often is no rhythm
_LONGEST: Final = 600.0
_FITTED: Final = 16  # moments
# How early the next one may be, beyond the earliest of those: of all that they were apart.
_EARLIER: Final = 0.15
# A train ends that missed so many moments in a row, or two of the latest but for these; as many hits prove it.
_IN_A_ROW: Final = 3
_LATEST: Final = 6
_ENOUGH: Final = 5  # hits of the latest
# More moments in two periods, but for those of proven trains, are a crowd, in which anything can be found.
_EXACT_CROWD, _LOOSE_CROWD = 6, 4
_REMEMBERED: Final = 64  # moments of a client
_CLIENTS: Final = 32
_TRAINS: Final = 16
# So young may a reading be for a scrape that it need not be made anew, unless it takes longer to make one.
_YOUNG: Final = 0.45  # seconds
# A little before the collection interval is over, its scraper may come.
_SLACK: Final = 0.9


@dataclass(eq=False)
class _Train:
    """One scraper: its moments by number, of which some may have been missed."""

    client: str
    moments: deque[tuple[int, float]]
    number: int = 0  # of the moment that is expected next
    hits: deque[bool] = field(default_factory=lambda: deque(maxlen=_LATEST))
    period: float = 0.0
    phase: float = 0.0
    early: float = 0.0
    late: float = 0.0

    def __post_init__(self) -> None:
        self.number = self.moments[-1][0] + 1
        self._fit()

    @property
    def expected(self) -> float:
        """When the next scrape is expected."""
        return self.at(self.number)

    @property
    def tolerance(self) -> float:
        """By how much a scrape may come before or after its moment."""
        return _tolerance(self.period)

    @property
    def ended(self) -> bool:
        """Whether it has left, or never was one."""
        hits = list(self.hits)
        in_a_row = len(hits) >= _IN_A_ROW and not any(hits[-_IN_A_ROW:])
        return in_a_row or (len(hits) == _LATEST and sum(hits) < _ENOUGH)

    @property
    def proven(self) -> bool:
        """Whether its latest scrapes came exactly when they were expected."""
        hits = list(self.hits)[-_IN_A_ROW:]
        return len(hits) == _IN_A_ROW and all(hits) and self.late - self.early <= 2 * _EXACT

    def at(self, number: int) -> float:
        """The moment of a number."""
        return self.phase + self.period * number

    def hit(self, at: float) -> None:
        """The expected scrape came."""
        self.moments.append((self.number, at))
        self.number += 1
        self.hits.append(True)
        self._fit()

    def pass_to(self, now: float) -> None:
        """Count the moments as missed that nothing came at; few at a time, however long nobody looked."""
        while now > self.expected + self.tolerance and not self.ended:
            self.number += 1
            self.hits.append(False)

    def _fit(self) -> None:
        """The line through the latest moments, and by how much these were off it."""
        count = len(self.moments)
        mean_number = sum(number for number, _ in self.moments) / count
        mean_at = sum(at for _, at in self.moments) / count
        spread = sum((number - mean_number) ** 2 for number, _ in self.moments)
        together = sum((number - mean_number) * (at - mean_at) for number, at in self.moments)
        self.period = together / spread
        self.phase = mean_at - self.period * mean_number
        off = [at - self.at(number) for number, at in self.moments]
        self.early = min(off) - _EARLIER * (max(off) - min(off))
        self.late = max(off)


@dataclass(slots=True, eq=False)
class _Moment:
    """When somebody came, and the train that it was of."""

    at: float
    train: _Train | None = None

    @property
    def free(self) -> bool:
        return self.train is None or self.train.ended


class Rhythm:
    """What all scrapers together are expected to do. Any thread may call; times are monotonic seconds.

    ``interval`` is that of the readings: whoever comes more often than that, as a loop around curl does, gets what
    there is and drives nothing.
    """

    def __init__(self, *, interval: float) -> None:
        self.interval = interval
        self._lock = threading.Lock()
        self._moments: dict[str, deque[_Moment]] = {}  # by client
        self._trains: list[_Train] = []

    def note(self, client: str, at: float) -> None:
        """A client has scraped."""
        with self._lock:
            self._forget(at)
            moments = self._moments.pop(client, None) or deque(maxlen=_REMEMBERED)
            self._moments[client] = moments  # the latest client last
            moment = _Moment(at)
            moments.append(moment)
            theirs = [train for train in self._trains if train.client == client]
            fits = [train for train in theirs if abs(at - train.expected) <= train.tolerance]
            if fits:
                moment.train = min(fits, key=lambda train: abs(at - train.expected))
                moment.train.hit(at)
            elif found := _train_of(list(moments)):
                train = _Train(client, deque(enumerate(each.at for each in found), maxlen=_FITTED))
                self._trains.append(train)
                for each in found:
                    each.train = train

    def due(self, *, full: float, now: float, lead: float, led: float = 0.0) -> float:
        """When to begin the reading that the next scrape is to get; infinite where none is expected.

        It begins ``lead`` seconds before the scrape. ``full`` is when the latest began, and ``led`` the lead that it
        had: where that was longer, it was made for its scrape nevertheless.
        """
        with self._lock:
            self._forget(now)
            return min((self._due(train, full, now, lead, led) for train in self._driving()), default=math.inf)

    @property
    def known(self) -> bool:
        """Whether any scraper is expected."""
        with self._lock:
            return bool(self._driving())

    @staticmethod
    def _due(train: _Train, full: float, now: float, lead: float, led: float) -> float:
        number, young = train.number, max(_YOUNG, 1.1 * max(lead, led))
        # Read for it already; or it is as late as it has ever been, and will hardly come.
        while full >= train.at(number) + train.early - young or now > train.at(number) + train.late:
            number += 1
        return train.at(number) + train.early - lead

    def _driving(self) -> list[_Train]:
        return [train for train in self._trains if train.period >= _SLACK * self.interval]

    def _forget(self, now: float) -> None:
        for train in self._trains:
            train.pass_to(now)
        self._trains = [train for train in self._trains if not train.ended][-_TRAINS:]
        while len(self._moments) > _CLIENTS:
            del self._moments[next(iter(self._moments))]


def _train_of(moments: Sequence[_Moment]) -> list[_Moment] | None:
    """Moments of one client, the latest last, that are a train of which no more than one was expected by another."""
    times = [moment.at for moment in moments]
    unexplained = [moment.at for moment in moments if not (moment.train and moment.train.proven)]
    for exact in (True, False):
        count, crowd = (_EXACT_MOMENTS, _EXACT_CROWD) if exact else (_LOOSE_MOMENTS, _LOOSE_CROWD)
        for before in reversed(times[:-1]):
            period = times[-1] - before
            if period < _SHORTEST:
                continue
            if len(unexplained) - bisect_left(unexplained, times[-1] - 2 * period) > crowd or period > _LONGEST:
                break
            places = _equally_apart(times, period, count, _EXACT if exact else _LOOSE * _tolerance(period))
            found = [moments[place] for place in places]
            if found and sum(moment.free for moment in found) >= count - 1:
                return found
    return None


def _equally_apart(times: Sequence[float], period: float, count: int, off: float) -> list[int]:
    """The places of so many moments up to the latest with a period between each two, as exactly as ``off`` says."""
    found = [len(times) - 1]
    while len(found) < count:
        wanted = times[found[-1]] - period
        place = bisect_left(times, wanted)
        if place and wanted - times[place - 1] < times[place] - wanted:
            place -= 1
        if abs(times[place] - wanted) > off or place >= found[-1]:
            return []
        found.append(place)
        period = (times[-1] - times[place]) / (len(found) - 1)
    found.reverse()
    gaps = [times[after] - times[before] for before, after in pairwise(found)]
    return found if max(gaps) - min(gaps) <= 2 * off else []


def _tolerance(period: float) -> float:
    """By how much a scrape may come before or after its moment."""
    return min(max(_TOLERANCE * period, _TOLERANCE_LEAST), _TOLERANCE_MOST, period / 2)
