"""Values that more than one file or flag is written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpu_exporter.config.parsers import RefusedError, duration, in_units, moment, name, percentage, size, text

DAY = 86400.0
NOVEMBER = 1793491200.0  # 2026-11-01T00:00:00Z


@pytest.mark.parametrize(
    ("parse", "value", "expected"),
    [
        (duration, "7d", 7 * DAY),
        (duration, "1w2d3h", 9 * DAY + 3 * 3600),
        (duration, "1.5h", 5400.0),
        (duration, "1m30s5ms", 90.005),
        (percentage, "20%", 0.2),
        (percentage, "12.5 %", 0.125),
        (percentage, "100%", 1.0),
        (moment, "2026-11-01", NOVEMBER),
        (moment, "2026-11-01T08:00:00Z", NOVEMBER + 8 * 3600),
        (moment, "2026-11-01T01:00:00+01:00", NOVEMBER),
        (moment, "1793491200", NOVEMBER),
        (size, "8GiB", 8.0 * 1024**3),
        (size, "512 MiB", 512.0 * 1024**2),
        (size, "17B", 17.0),
        (size, 17, 17.0),
        (name, "alice", "alice"),
        (text, "a\nb", "a\nb"),
    ],
)
def test_what_is_taken(parse: Callable[[Any], Any], value: Any, expected: Any) -> None:
    assert parse(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (duration, "1d1w", "'1d1w' is not a duration; write 5s, 500ms or 1m"),
        (duration, "5y", "'5y' is not a duration; write 5s, 500ms or 1m"),
        (percentage, "0.2", "'0.2' is not a percentage; write 20%"),
        (percentage, "101%", "'101%' is not a percentage; write 20%"),
        (percentage, 20, "'20' is not a percentage; write 20%"),
        (moment, "tomorrow", "'tomorrow' is not a time; write 2026-11-01 or 2026-11-01T08:00:00Z, or Unix seconds"),
        (moment, 7, "'7' is not a time; write 2026-11-01 or 2026-11-01T08:00:00Z, or Unix seconds"),
        (size, "8TB", "'8TB' is not a size; write bytes, or 256MiB"),
        (name, "", "'' is not a name; write 1 to 255 printable characters"),
        (name, "a\nb", "'a\\nb' is not a name; write 1 to 255 printable characters"),
        (name, "a" * 256, f"'{'a' * 80}…' is not a name; write 1 to 255 printable characters"),
        (text, 7, "'7' is not text; put it in quotes"),
        (text, "a\0b", "'a\\x00b' is not text; put it in quotes"),
    ],
)
def test_what_is_refused(parse: Callable[[Any], Any], value: Any, message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (0.05, "50ms"), (1, "1s"), (90, "1.5m"), (3600, "1h"), (DAY, "24h")]
)
def test_seconds_are_told_as_they_would_be_written(seconds: float, shown: str) -> None:
    assert in_units(seconds) == shown
    assert duration(shown) == pytest.approx(seconds)
