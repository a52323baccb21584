"""What keeps a history file bounded: minutes become quarter hours, quarter hours go, and the file gets smaller."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from gpu_exporter.history.schema import DAY, MINUTES, OBSERVED, QUARTERS, Span, day_key, hour_key

GIB: Final = 1024**3
# A clock that ran ahead for an hour must not cost years: so many days a round, and a round is every ten minutes.
_MOST_DAYS: Final = 2
_VACUUMED: Final = 2000  # pages given back in a round
_LEAST_PAGES: Final = 256
_ALL_PAGES: Final = 2**32 - 2


@dataclass(frozen=True, slots=True)
class Retention:
    """How long minutes and quarter hours are kept (seconds), and how large the file may be (bytes)."""

    minutes: float = 30 * DAY
    quarters: float = 730 * DAY
    size: float = 4 * GIB


def _mean(name: str, weight: str = OBSERVED) -> str:
    known = f"CASE WHEN {name} IS NOT NULL THEN {weight} END"
    return f"cast(round(coalesce(sum({name} * {weight}) * 1.0 / nullif(sum({known}), 0), avg({name}))) AS INTEGER)"


def _over(high: str, name: str, weight: str = OBSERVED) -> str:
    return f"max(0, max({high}) - {_mean(name, weight)})"


# The key of the quarter hour that a minute's row is part of. SQL's | and << bind alike.
_HOUR: Final = f"(row.id >> {MINUTES.shift})"
_QUARTER: Final = (
    f"((({_HOUR} / 24) << {QUARTERS.shift}) | ({MINUTES.subject} << {QUARTERS.low}) | "
    f"({_HOUR} % 24 * 4 + (row.id & 63) / 15))"
)
_AGE_GPUS: Final = f"""
INSERT OR IGNORE INTO gpu_quarter
SELECT {_QUARTER} AS quarter, NULL, sum(active_s), sum(idle_held_s), sum(idle_free_s), sum(unknown_s), sum(down_s),
    {_mean("utilization_pct")}, max(utilization_max_pct), {_mean("memory_io_pct")},
    {_mean("memory_mib")}, {_over("memory_mib + memory_over_mib", "memory_mib")},
    {_mean("temperature_c")}, {_over("temperature_c + temperature_over_c", "temperature_c")},
    {_mean("power_dw")}, {_over("power_dw / 10 + power_over_w", "power_dw / 10")},
    {_mean("score_pct")}, {_mean("sm_clock_mhz")}, sum(slowed_s), max(processes)
FROM gpu_minute AS row WHERE id >= ? AND id < ? GROUP BY quarter ORDER BY quarter
"""  # noqa: S608 - names of columns
_AGE_OWNERS: Final = f"""
INSERT OR IGNORE INTO gpu_quarter_owner
SELECT {_QUARTER} AS quarter, owner, sum(active_s), sum(idle_held_s), sum(unknown_s) FROM (
    SELECT id, owner, active_s, idle_held_s, unknown_s FROM gpu_minute
    WHERE id >= :low AND id < :high AND owner IS NOT NULL
    UNION ALL
    SELECT id, owner, active_s, idle_held_s, unknown_s FROM gpu_minute_owner WHERE id >= :low AND id < :high
) AS row GROUP BY quarter, owner ORDER BY quarter, owner
"""  # noqa: S608
_AGE_HOSTS: Final = f"""
INSERT OR IGNORE INTO host_quarter
SELECT {_QUARTER} AS quarter, sum(seconds), {_mean("cpu_pct", "seconds")}, max(cpu_max_pct),
    {_mean("memory_mib", "seconds")}, {_over("memory_mib + memory_over_mib", "memory_mib", "seconds")},
    {_mean("load_hundredths", "seconds")}
FROM host_minute AS row WHERE id >= ? AND id < ? GROUP BY quarter ORDER BY quarter
"""  # noqa: S608


class Keeper:
    """Keeps one file within its bounds. Belongs to the writer's thread. Raises sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection, retention: Retention) -> None:
        self._db = connection
        self._retention = retention
        self._bound()

    def round(self, now: float) -> None:
        """Let go of what is too old, or too much; ``now`` is Unix time. A few days at most, each in its transaction."""
        # To make room takes room: of a day, until what it was made of is deleted.
        self._number(f"PRAGMA max_page_count = {_ALL_PAGES}")
        try:
            self._round(now)
        finally:
            self._bound()

    def _bound(self) -> None:
        """Beyond the bound, a write fails as on a full disk."""
        page = self._number("PRAGMA page_size")
        self._number(f"PRAGMA max_page_count = {max(_LEAST_PAGES, int(self._retention.size * 1.1) // page)}")

    def _round(self, now: float) -> None:
        for _ in range(_MOST_DAYS):
            oldest = self._oldest_day(MINUTES)
            if oldest is None or (oldest + 1) * DAY > now - self._retention.minutes:
                break
            self._age(oldest)
        for _ in range(_MOST_DAYS):
            oldest = self._oldest_day(QUARTERS)
            if oldest is None or (oldest + 1) * DAY > now - self._retention.quarters:
                break
            self._drop(oldest)
        for _ in range(_MOST_DAYS):
            if self.used() <= self._retention.size or not self._make_room(now):
                break
        # A step a page: execute() would make one, and stop.
        self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUMED});")

    def used(self) -> int:
        """Bytes of the file that hold something."""
        pages = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return pages * self._number("PRAGMA page_size")

    def _make_room(self, now: float) -> bool:
        """Let the oldest day go, minutes first; the day that it is stays. False where there is none to let go."""
        minutes, quarters = self._oldest_day(MINUTES), self._oldest_day(QUARTERS)
        if minutes is not None and minutes < now // DAY:
            self._age(minutes)
        elif quarters is not None:
            self._drop(quarters)
        else:
            return False
        return True

    def _oldest_day(self, span: Span) -> int | None:
        """Unix time divided by a day."""
        text = "SELECT min(id) FROM (SELECT min(id) AS id FROM gpu_{0} UNION ALL SELECT min(id) FROM host_{0})"
        found = self._db.execute(text.format(span.suffix)).fetchone()[0]
        return None if found is None else (int(found) >> span.shift) * span.unit // DAY

    def _age(self, day: int) -> None:
        """Make quarter hours of a day's minutes."""
        low, high = hour_key(day * 24), hour_key((day + 1) * 24)
        with _Transaction(self._db):
            self._db.execute(_AGE_GPUS, (low, high))
            self._db.execute(_AGE_OWNERS, {"low": low, "high": high})
            self._db.execute(_AGE_HOSTS, (low, high))
            for table in ("gpu_minute", "gpu_minute_owner", "host_minute"):
                self._db.execute(f"DELETE FROM {table} WHERE id >= ? AND id < ?", (low, high))  # noqa: S608
            # Of a disk's size one row a day is enough from then on.
            self._db.execute("DELETE FROM disk_hour WHERE id >= ? AND id < ? AND (id >> 22) % 24 != 0", (low, high))

    def _drop(self, day: int) -> None:
        """Forget a day, and what nobody has seen since."""
        end = (day + 1) * DAY
        with _Transaction(self._db):
            for table in ("gpu_quarter", "gpu_quarter_owner", "host_quarter"):
                self._db.execute(f"DELETE FROM {table} WHERE id < ?", (day_key(day + 1),))  # noqa: S608
            self._db.execute("DELETE FROM disk_hour WHERE id < ?", (hour_key((day + 1) * 24),))
            self._db.execute("DELETE FROM process WHERE last_seen < ?", (end,))
            self._db.execute("DELETE FROM event WHERE time < ?", (end,))
            self._db.execute("DELETE FROM owner WHERE last_seen < ?", (end,))

    def _number(self, statement: str) -> int:
        found = self._db.execute(statement).fetchone()
        return 0 if found is None else int(found[0])


class _Transaction:
    """One transaction of a connection that has none by itself."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._db.execute("COMMIT")
        elif self._db.in_transaction:
            self._db.execute("ROLLBACK")
