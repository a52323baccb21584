"""docs/HISTORY.md tells of every table, view and column, and its examples work."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tools.lab import ROOT

from gpu_exporter.history.schema import APPLICATION, SUBJECTS, VERSION, minute_key, quarter_key
from history_story import START, Machine, record

PAGE = (ROOT / "docs/HISTORY.md").read_text()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "gpu.db"
    record(path, Machine(), 36, owners={("user", "alice", ""): 1.0})
    with closing(sqlite3.connect(path)) as connection:
        yield connection


def test_every_table_and_view_is_told_and_none_is_missing(made: sqlite3.Connection) -> None:
    there = {name for (name,) in made.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
    assert there - set(re.findall(r"`(\w+)`", PAGE)) == set()
    assert f"Version {VERSION} " in PAGE
    assert f"{APPLICATION:#x}" in PAGE.lower()
    assert str(APPLICATION) in PAGE
    assert f"{SUBJECTS - 1:,}".replace(",", " ") in PAGE


def test_every_column_of_the_minutes_is_told(made: sqlite3.Connection) -> None:
    section = PAGE[PAGE.index("| column of `gpu_minutes`") : PAGE.index("## The tables")]
    told = re.findall(
        r"`(\w+)`", "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    )
    there = [column[0] for column in made.execute("SELECT * FROM gpu_minutes").description]
    assert told == there
    assert there == [column[0] for column in made.execute("SELECT * FROM gpu_quarters").description]


def test_the_examples_in_sql_work(made: sqlite3.Connection) -> None:
    if sqlite3.sqlite_version_info < (3, 38):
        pytest.skip("unixepoch() came with SQLite 3.38")
    (example,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    text = example.replace("unixepoch('now', '-1 day')", str(int(START)))
    assert made.execute(text).fetchall() == [("alice", 0.05, 0.0)]
    (condition,) = re.findall(r"`(WHERE id >= .*?)`", PAGE)
    condition = condition.replace("unixepoch('now', '-1 day')", str(int(START) + 3600))
    assert made.execute(f"SELECT count(*) FROM gpu_minutes {condition}").fetchone() == (0,)  # noqa: S608


def test_a_row_is_found_by_its_key(made: sqlite3.Connection) -> None:
    minute = int(START) // 60
    key = (int(START) // 3600) << 22 | 1 << 6 | minute % 60
    assert minute_key(minute, 1) == (int(START) // 3600 << 22) + (1 << 6) + minute % 60 == key
    assert made.execute("SELECT time FROM gpu_minutes WHERE id = ?", (key,)).fetchall() == [(START,)]
    quarter = int(START) // 900
    assert quarter_key(quarter, 7) == (quarter // 96 << 23) + (7 << 7) + quarter % 96


def test_the_page_promises_what_the_program_does() -> None:
    for option, default in (("retention", "30d"), ("quarters-retention", "730d"), ("size-limit", "4GiB")):
        assert f"| `--history.{option}` | `{default}` |" in PAGE
