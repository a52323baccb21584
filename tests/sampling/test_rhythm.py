"""Readings that are ready when scrapes come, in virtual time; the measure is how old what each scrape got was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise

import pytest

from gpu_exporter.sampling.rhythm import Rhythm
from gpu_exporter.sampling.schedule import BUFFERS_EVERY, Schedule

_HOUR_PART = 900.0  # seconds that are simulated
_FRESH = 0.5  # DESIGN: what a scrape gets is no older, seconds

Scrape = tuple[float, str]


@dataclass
class Day:
    """What came of a simulated time: the age of what each scrape got, by when it came, and the readings."""

    ages: list[tuple[float, float]] = field(default_factory=list)
    full: list[float] = field(default_factory=lambda: [0.0])
    served: list[float] = field(default_factory=lambda: [0.0])  # from when on
    light: list[float] = field(default_factory=list)
    looked: list[float] = field(default_factory=lambda: [0.0])
    rhythm: Rhythm = field(default_factory=lambda: Rhythm(interval=5.0))

    def late(self, after: float) -> list[float]:
        """Ages of what scrapes got once their rhythm could be known, the oldest last."""
        return sorted(age for at, age in self.ages if at > after)

    def full_a_minute(self, after: float = 0.0) -> float:
        return 60 * sum(at > after for at in self.full) / (_HOUR_PART - after)


def live_through(
    scrapes: Iterable[Scrape],
    *,
    interval: float = 5.0,
    took: float = 0.15,
    light: bool = True,
    takes: Callable[[], float] | None = None,
) -> Day:
    """Every reading at its moment; it is served from its end on, and its age counts from its begin.

    A full one takes ``took`` seconds, or what ``takes`` says anew for each.
    """
    day = Day()
    plan = Schedule(interval=interval, now=0.0, rhythm=day.rhythm)
    plan.took(took)
    coming, now = sorted(scrapes, reverse=True), 0.0
    while now < _HOUR_PART:
        due = plan.due(now, light=light)
        at = max(due.at, now)
        if coming and coming[-1][0] <= at:
            now, client = coming.pop()
            got = max((begun for begun, ended in zip(day.full, day.served, strict=True) if ended <= now), default=0.0)
            day.ages.append((now, now - got))
            day.rhythm.note(client, now)
            continue
        now = at
        plan.began(due, now)
        if due.kind == "full":
            took = takes() if takes else took
            day.full.append(now)
            day.served.append(now + took)
            plan.took(took)
        elif due.kind == "light":
            day.light.append(now)
        if due.kind != "light" or due.buffers:
            day.looked.append(now)
    return day


def every(
    period: float, phase: float, *, client: str = "prometheus", jitter: float = 0.0, until: float = _HOUR_PART
) -> list[Scrape]:
    chance = random.Random(f"{period} {phase}")  # noqa: S311 - the same at every run
    times = [phase + number * period for number in range(int((until - phase) / period) + 1)]
    return [(at + chance.uniform(-jitter, jitter), client) for at in times]


def longest(times: Sequence[float]) -> float:
    return max(after - before for before, after in pairwise(times))


@pytest.mark.parametrize("period", [5.0, 10.0, 15.0, 30.0, 60.0, 120.0])
def test_one_scraper_gets_what_was_read_just_before(period: float) -> None:
    day = live_through(every(period, 3.3))
    assert day.late(3.3 + 2 * period)[-1] <= _FRESH, "its rhythm is known from the third scrape on"
    assert longest(day.full) <= 15.001
    assert longest(day.looked) <= 1.02 * BUFFERS_EVERY, "nothing runs over"
    both = sorted({*day.full, *day.light})
    assert longest(both) <= 6.51, "nothing is away for long"


@pytest.mark.parametrize("apart", [0.0, 0.1, 0.5, 1.0, 3.0, 5.0, 7.2, 7.5])
@pytest.mark.parametrize("same", [True, False], ids=["one address", "two addresses"])
def test_a_pair_is_served_both(apart: float, same: bool) -> None:
    second = every(15.0, 3.3 + apart, client="prometheus" if same else "prometheus-2")
    day = live_through([*every(15.0, 3.3), *second])
    assert day.late(100.0)[-1] <= _FRESH
    assert day.full_a_minute() <= 8.5


@pytest.mark.parametrize("phases", [(1.7, 4.9, 8.1), (0.0, 5.0, 7.0), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize("same", [True, False], ids=["one address", "three addresses"])
def test_three_scrapers_of_three_rhythms(phases: tuple[float, float, float], same: bool) -> None:
    trains = zip((10.0, 15.0, 60.0), phases, strict=True)
    day = live_through(
        [each for period, phase in trains for each in every(period, phase, client="one" if same else f"{period}")]
    )
    ages = day.late(250.0)
    assert ages[int(0.95 * len(ages))] <= _FRESH


@pytest.mark.parametrize("jitter", [0.05, 0.2, 1.0])
def test_a_scraper_that_jitters_gets_what_was_read_before_its_earliest(jitter: float) -> None:
    day = live_through(every(15.0, 3.3, jitter=jitter))
    ages = day.late(200.0)
    assert ages[int(0.9 * len(ages))] <= 0.3 + 2.5 * jitter
    assert day.full_a_minute() <= 6.0


@pytest.mark.parametrize(("before", "after"), [(15.0, 10.0), (15.0, 30.0), (60.0, 15.0), (10.0, 12.0)])
def test_a_changed_interval_is_learned_anew(before: float, after: float) -> None:
    day = live_through([*every(before, 3.3, until=300.0), *every(after, 304.1)])
    assert day.late(304.1 + 4 * after)[-1] <= _FRESH


def test_a_scraper_that_leaves_costs_nothing_more() -> None:
    day = live_through(every(15.0, 3.3, until=300.0))
    assert not day.rhythm.known
    assert day.full_a_minute(after=400.0) == pytest.approx(6.0, abs=0.2), "every 10 s"
    assert longest(day.full) <= 15.001


def test_one_that_comes_once_is_no_rhythm() -> None:
    assert live_through([(1.0, "curl"), (200.0, "curl"), (333.0, "curl")]).full_a_minute() <= 6.2


def loop(mean: float, *, client: str = "curl") -> list[Scrape]:
    """Somebody who asks again after a time that is never the same."""
    chance, at, found = random.Random(mean), 0.0, []  # noqa: S311 - the same at every run
    while at < _HOUR_PART:
        at += chance.uniform(0.5 * mean, 1.5 * mean)
        found.append((at, client))
    return found


@pytest.mark.parametrize(
    "scrapes",
    [every(1.0, 0.2), every(0.2, 0.2), every(2.5, 0.2), loop(0.3), loop(0.7), loop(1.0)],
    ids=["1 s", "0.2 s", "2.5 s", "some 0.3 s", "some 0.7 s", "some 1 s"],
)
def test_a_loop_around_curl_drives_nothing(scrapes: list[Scrape]) -> None:
    assert live_through(scrapes).full_a_minute() <= 6.2
    beside = live_through([*scrapes, *every(15.0, 3.35, client="other")])
    assert beside.full_a_minute() <= 4.8
    assert beside.rhythm.known


def test_a_loop_of_the_same_client_hides_no_scraper() -> None:
    assert live_through([*every(1.0, 0.2), *every(15.0, 3.35)]).full_a_minute() <= 4.8


def test_a_crowd_costs_no_more_than_the_interval() -> None:
    assert live_through(loop(2.0)).full_a_minute() <= 12.5
    many = [each for number in range(500) for each in loop(50.0, client=f"{number}")]
    assert live_through(many).full_a_minute() <= 12.5


def test_sources_without_light_readings_are_in_step_as_well() -> None:
    day = live_through(every(15.0, 3.3), light=False)
    assert day.late(40.0)[-1] <= _FRESH
    assert day.full_a_minute() <= 12.5
    assert not day.light


def test_a_slow_reading_begins_earlier() -> None:
    day = live_through(every(15.0, 3.3), took=1.2)
    assert day.late(40.0)[-1] <= 1.4


@pytest.mark.parametrize("period", [15.0, 30.0, 60.0])
def test_readings_that_take_now_longer_now_shorter_are_no_more(period: float) -> None:
    chance = random.Random(period)  # noqa: S311 - the same at every run
    day = live_through(every(period, 3.3, jitter=0.02), takes=lambda: chance.uniform(0.12, 0.5))
    assert day.full_a_minute(after=200.0) <= 4.1, "one for each scrape, or for each quarter of a minute"
    ages = day.late(200.0)
    assert ages[int(0.95 * len(ages))] <= 0.5 + 0.2
    assert longest(day.full) <= 15.0 + 1.5


def test_one_reading_that_takes_long_makes_no_later_scrape_older() -> None:
    numbers = count()
    day = live_through(every(15.0, 3.3), takes=lambda: 3.0 if next(numbers) in (0, 30) else 0.15)
    assert sum(age > _FRESH for age in day.late(40.0)) <= 1, "that of the hang itself"
    assert day.full_a_minute(after=200.0) <= 4.1


def test_readings_that_stay_slow_are_begun_earlier_from_the_third_on() -> None:
    numbers = count()
    day = live_through(every(15.0, 3.3), takes=lambda: 0.15 if next(numbers) < 20 else 1.2)
    assert sum(age > 1.4 for age in day.late(40.0)) <= 2


def test_whoever_comes_more_often_than_the_interval_gets_what_there_is() -> None:
    day = live_through(every(15.0, 3.3), interval=60.0)
    assert day.full_a_minute() <= 1.2


# --- the bounds, each from both sides ---------------------------------------------------------------------------------


def learned(*moments: float) -> Rhythm:
    """What is known of a scraper that came at these moments."""
    rhythm = Rhythm(interval=0.1)
    for at in moments:
        rhythm.note("prometheus", at)
    return rhythm


@pytest.mark.parametrize(
    ("period", "known"), [(0.49, False), (0.51, True), (600.0, True), (601.0, False)], ids=lambda value: f"{value}"
)
def test_periods_from_half_a_second_to_ten_minutes_are_a_rhythm(period: float, known: bool) -> None:
    assert learned(0.0, period, 2 * period).known is known


@pytest.mark.parametrize(
    ("full", "lead", "due"),
    [
        (29.54, 0.1, 29.9),
        (29.56, 0.1, 39.9),  # young enough for the scrape at 30 s
        (28.88, 1.0, 29.0),
        (28.92, 1.0, 39.0),  # as young as a reading can be that takes so long
    ],
)
def test_a_reading_that_is_young_enough_is_not_made_anew(full: float, lead: float, due: float) -> None:
    assert learned(0.0, 10.0, 20.0).due(full=full, now=full, lead=lead) == pytest.approx(due)


def test_a_reading_that_began_too_early_was_made_for_its_scrape_nevertheless() -> None:
    rhythm = learned(0.0, 10.0, 20.0)
    assert rhythm.due(full=29.3, led=0.7, now=29.3, lead=0.1) == pytest.approx(39.9)
    assert rhythm.due(full=29.2, led=0.7, now=29.2, lead=0.1) == pytest.approx(29.9)


def test_the_next_scrape_may_come_a_little_before_the_earliest() -> None:
    # The line through them is -0.005 s + 10.015 s a scrape, and they are 0.005, -0.01 and 0.005 s off it.
    due = learned(0.0, 10.0, 20.03).due(full=20.0, now=25.0, lead=0.1)
    assert due == pytest.approx(30.04 - 0.01 - 0.15 * 0.015 - 0.1, abs=1e-9)
