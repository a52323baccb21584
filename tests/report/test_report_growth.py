"""The growth of counters: against every raw sample, however the counter is born, reset, doubled or renamed."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_exporter.report.growth import Meter, Point, Raw
from gpu_exporter.report.history import Grid

SCRAPE, CHUNK = 15, 300
A, B = frozenset({("replica", "a")}), frozenset({("replica", "b")})
Samples = list[tuple[int, float]]


def points(samples: Samples) -> dict[int, Point]:
    """What the report's three queries answer about these samples."""
    chunks: defaultdict[int, list[float]] = defaultdict(list)
    for at, value in samples:
        chunks[-(-at // CHUNK)].append(value)
    found = {}
    for chunk, values in chunks.items():
        before = chunks[chunk - 1][-1] if chunk - 1 in chunks else None
        known = before is not None and min(values) >= before
        high = max(values) if max(values) > values[-1] else None
        found[chunk] = Point(values[-1], high, None if known else min(values))
    return found


def told(series: Mapping[Raw, Samples], *, counts: bool = True) -> float:
    chunks: defaultdict[int, dict[Raw, Point]] = defaultdict(dict)
    for raw, samples in series.items():
        for chunk, point in points(samples).items():
            chunks[chunk][raw] = point
    meter = Meter()
    return sum(meter.advance(chunk, chunks[chunk], counts=counts) for chunk in sorted(chunks))


def exact(samples: Samples) -> float:
    """Everything that grew: the first value, every rise, and what came after every fall."""
    values = [value for _, value in samples]
    return values[0] + sum(after - before if after >= before else after for before, after in itertools.pairwise(values))


def lived(lives: Iterable[tuple[int, float, int]], begin: int = 0) -> Samples:
    """Lives of an exporter: so many samples, at such a rate, and so many scrapes missed after them."""
    samples: Samples = []
    at = begin
    for count, rate, missed in lives:
        for number in range(1, count + 1):
            at += SCRAPE
            samples.append((at, number * SCRAPE * rate))
        at += missed * SCRAPE
    return samples


LONG = st.tuples(st.integers(45, 200), st.just(1.0), st.integers(0, 100))
ANY = st.tuples(st.integers(21, 200), st.floats(0, 1), st.integers(0, 100))


@given(st.lists(LONG, min_size=1, max_size=6), st.integers(0, 300))
def test_lives_of_ten_minutes_and_more_lose_nothing(lives: list[tuple[int, float, int]], begin: int) -> None:
    samples = lived(lives, begin)
    assert told({A: samples}) == pytest.approx(exact(samples))


@given(st.lists(ANY, min_size=1, max_size=6), st.integers(0, 300))
def test_nothing_is_invented_and_a_restart_costs_a_chunk_at_most(
    lives: list[tuple[int, float, int]], begin: int
) -> None:
    samples = lived(lives, begin)
    lost = exact(samples) - told({A: samples})
    assert -1e-6 <= lost <= CHUNK * (len(lives) - 1) + 1e-6


@given(st.lists(LONG, min_size=1, max_size=4), st.integers(0, 60), st.booleans())
def test_a_second_replica_adds_nothing(lives: list[tuple[int, float, int]], fewer: int, begins_late: bool) -> None:
    samples = lived(lives)
    if begins_late:
        both = {A: samples, B: [(at - 4, value) for at, value in samples[fewer:]]}
    else:
        both = {A: samples[: len(samples) - fewer], B: [(at + 4, value) for at, value in samples]}
    found = told({raw: kept for raw, kept in both.items() if kept})
    assert exact(samples) - CHUNK <= found <= exact(samples) + 2 * SCRAPE, "a hand-over may cost the rest of a chunk"


@given(st.integers(41, 400), st.integers(41, 400))
def test_a_renamed_series_goes_on(before: int, after: int) -> None:
    samples = lived([(before + after, 1.0, 0)])
    assert told({A: samples[:before], B: samples[before:]}) == pytest.approx(exact(samples), abs=2 * SCRAPE)


@given(st.integers(41, 400), st.integers(41, 400), st.integers(1, 50))
def test_a_restart_under_another_name_loses_nothing(before: int, after: int, missed: int) -> None:
    first = lived([(before, 1.0, missed)])
    second = lived([(after, 1.0, 0)], begin=first[-1][0] + missed * SCRAPE)
    assert told({A: first, B: second}) == pytest.approx(exact(first) + exact(second))


def test_equal_jobs_are_counted_each() -> None:
    """A job of two minutes each two hours, its counter forgotten in between: the values are the same every time."""
    jobs = [(begin + at, min(at, 120.0)) for begin in range(0, 86400, 7200) for at in range(SCRAPE, 3600, SCRAPE)]
    assert told({A: jobs}) == 12 * 120


def test_what_grew_before_the_window_does_not_count() -> None:
    samples = [(at, 1e6 + at) for at in range(SCRAPE, 3600, SCRAPE)]
    assert told({A: samples}, counts=False) == samples[-1][0] - SCRAPE


def test_rounding_is_no_restart() -> None:
    meter = Meter()
    meter.advance(0, {A: Point(123456.789)}, counts=False)
    assert meter.advance(1, {A: Point(123456.78899999, low=123456.78899999)}, counts=False) == 0


@pytest.mark.parametrize(
    ("window", "step", "count"),
    [(600, 120, 5), (3600, 120, 30), (86400, 300, 288), (90000, 312.5, 288), (30 * 86400, 900, 2880)],
)
def test_the_grid(window: float, step: float, count: int) -> None:
    grid = Grid.of(window, end=1_800_000_000.7)
    assert (grid.step, grid.count) == (step, count)
    assert grid.window == pytest.approx(window)
    assert [grid.chunk(grid.time(chunk)) for chunk in range(count + 1)] == list(range(count + 1))
