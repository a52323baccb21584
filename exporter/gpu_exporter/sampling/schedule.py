"""When the GPUs are read, and how: in full just before a scrape is expected, lightly in between."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gpu_exporter.sampling.rhythm import Rhythm

# The shortest of the driver's utilization buffers holds 14 s (71 samples of 200 ms; H200, driver 580).
BUFFERS_EVERY: Final = 10.0  # seconds
# Of collection.interval: what is older is not served, and so nothing that only full readings tell may become.
_FULL_EVERY: Final = 3
# Nothing is older where nobody is expected, who would have got a reading of his own.
_FULL_UNSCRAPED: Final = 10.0  # seconds
_FULL_SCRAPED: Final = 15.0
# Between the end of a reading and the scrape that it is made for; threads do not wake to the millisecond.
_MARGIN: Final = 0.1  # seconds
_LONGEST_LEAD: Final = 2.0
# Full readings by which is judged how long one takes. The first one opens a lot, and one may meet a GPU that hangs: a
# single one that took so much longer than the others makes no scrape older.
_REMEMBERED: Final = 8
_FAR: Final = 2.0  # times as long
# So shortly before a full reading, of the interval, none is worth its while: no light one, and before one for a scrape
# no full one that nobody fetches. How long a reading takes varies, and with it how early the one for a scrape begins.
_SHORTLY: Final = 0.3

Kind: TypeAlias = Literal["full", "light", "buffers"]


@dataclass(frozen=True, slots=True)
class Due:
    """One reading: when it is due (monotonic seconds), and of what.

    A light one may read the ``buffers`` as well. ``scrape`` tells that somebody is expected to fetch it.
    """

    at: float
    kind: Kind
    buffers: bool = False
    scrape: bool = False


class Schedule:
    """When to read what. Belongs to one thread; all times are monotonic seconds.

    Full readings are made before each scrape that ``rhythm`` expects, and often enough otherwise. Those in between,
    ``interval`` seconds after the one before, are light, where the source has such, else full as well. Left out are a
    light one that would be due shortly before a full one, and a full one that is due by age shortly before one for a
    scrape: without light ones readings are ``interval`` seconds apart at most, with them 1.3 times that. ``overruns``
    counts the readings that were skipped because the one before took longer than the interval. The driver's buffers are
    due so often that none of them runs over.
    """

    def __init__(self, *, interval: float, now: float, rhythm: Rhythm | None = None) -> None:
        self.overruns = 0
        self._interval = interval
        self._rhythm = rhythm or Rhythm(interval=interval)
        self._rhythm.interval = interval
        self._read = self._full = self._looked = now  # any reading, a full one, one of the buffers
        self._latest: deque[float] = deque(maxlen=_REMEMBERED)  # what full readings took, seconds
        self._lead = 0.0  # by how much the latest full one was to begin before its scrape

    @property
    def interval(self) -> float:
        """Seconds between two readings."""
        return self._interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        self._interval = self._rhythm.interval = seconds

    def due(self, now: float, *, light: bool = False) -> Due:
        """The next reading; ``light`` tells that there are light ones."""
        tick = self._read + self.interval
        lead = self._next_lead()
        scrape = self._rhythm.due(full=self._full, led=self._lead, now=now, lead=lead)
        shortly = _SHORTLY * self.interval
        latest = self._full + self._full_every()
        full = scrape if scrape <= latest + shortly else latest
        if light and tick < full - shortly:
            due = Due(tick, "light", buffers=min(full, tick + self.interval) > self._looked + 1.01 * BUFFERS_EVERY)
        else:
            if not light:
                full = min(full, tick)
            due = Due(full, "full", scrape=full == scrape)
        if not due.buffers and due.at > self._looked + 1.01 * BUFFERS_EVERY:
            # Evenly between two readings.
            beat = (due.at - self._looked) / math.ceil((due.at - self._looked) / BUFFERS_EVERY)
            return Due(self._looked + beat, "buffers")
        return due

    def began(self, due: Due, now: float) -> None:
        """This one begins now."""
        if due.buffers or due.kind != "light":
            self._looked = due.at if now < due.at + BUFFERS_EVERY else now
        if due.kind == "buffers":
            return
        missed = max(0, int((now - due.at) // self.interval))
        self.overruns += missed
        self._read = due.at + missed * self.interval
        if due.kind == "full":
            self._full, self._lead = now, self._next_lead()

    def took(self, seconds: float) -> None:
        """What a full reading took."""
        self._latest.append(seconds)

    @property
    def _takes(self) -> float:
        """What a full reading may take: the longest of late, but for a single one that is far from all others."""
        *_, second, longest = sorted((0.0, 0.0, *self._latest))
        return second if len(self._latest) > 1 and longest > _FAR * second else longest

    def _next_lead(self) -> float:
        return min(self._takes + _MARGIN, _LONGEST_LEAD)

    def _full_every(self) -> float:
        most = _FULL_SCRAPED if self._rhythm.known else _FULL_UNSCRAPED
        return max(self.interval, min(most, _FULL_EVERY * self.interval))
