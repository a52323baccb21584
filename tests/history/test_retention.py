"""A history stays within its bounds, and what it tells stays right."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gpu_exporter.history import METRICS, Reader, Retention, Usage, usage
from gpu_exporter.history.file import Writer
from gpu_exporter.history.retention import Keeper
from gpu_exporter.history.schema import DAY
from history_story import GIB, Clock, Machine, recorder

MIDNIGHT = 1_700_006_400.0  # of a day, UTC
ALICE, BOB = ("user", "alice", ""), ("user", "bob", "")


def fill(path: Path, days: int, *, gpus: int = 1, seconds: float = 300.0) -> float:
    """Record days; when they end."""
    machine, clock = Machine(gpus=gpus, at=MIDNIGHT, interval=seconds), Clock(MIDNIGHT)
    made = recorder(path, clock, retention=Retention(minutes=400 * DAY))
    made.add("gpu1", machine.document(), machine.at)
    machine.host["disks"] = [
        {"mount": "/", "device": "/dev/sda1", "filesystem": "ext4", "total_bytes": 100 * GIB, "used_bytes": 40 * GIB}
    ]
    while machine.at < MIDNIGHT + days * DAY:
        hour = machine.at // 3600 % 24
        owners = {ALICE: 1.0} if hour < 8 else {ALICE: 0.5, BOB: 0.5} if hour < 12 else {}
        made.add(
            "gpu1",
            machine.step(seconds, owners=owners, state="active" if owners else "idle_free",
                         utilization=0.9 if owners else 0.0, watts=600.0 if owners else 80.0,
                         memory=(60 if owners else 0) * GIB, celsius=70.0 if owners else 35.0),
            machine.at,
        )  # fmt: skip
        if machine.at % 3600 == 0:
            clock.now = machine.at
            made.flush()
    made.close()
    return machine.at


def keep(path: Path, now: float, retention: Retention, rounds: int = 1) -> None:
    writer = Writer(path)
    keeper = Keeper(writer.connection, retention)
    for _ in range(rounds):
        keeper.round(now)
    writer.close()


def told(path: Path) -> Usage:
    with closing(Reader(path)) as reader:
        return usage(reader, start=MIDNIGHT, end=MIDNIGHT + 400 * DAY)


def counted(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def test_what_was_minutes_is_right_as_quarter_hours(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    end = fill(path, 3, seconds=60.0)
    before = told(path)
    with closing(Reader(path)) as reader:
        (gpu,) = reader.gpus()
        charts = {metric: reader.series(gpu, metric, start=MIDNIGHT, end=end, step=3600) for metric in METRICS}
    keep(path, end + 30 * DAY, Retention(), rounds=2)
    assert (counted(path, "gpu_minute"), counted(path, "gpu_minute_owner"), counted(path, "host_minute")) == (0, 0, 0)
    assert counted(path, "gpu_quarter") == 3 * 96
    assert counted(path, "host_quarter") == 3 * 96
    assert counted(path, "disk_hour") == 3, "one a day"
    after = told(path)
    assert after.covered == before.covered == 3 * DAY
    assert after.gpus[0].states == before.gpus[0].states
    assert after.gpus[0].joules == pytest.approx(before.gpus[0].joules, rel=0.002)
    assert after.gpus[0].score == pytest.approx(before.gpus[0].score, rel=0.02)
    assert [(hold.owner, hold.states) for hold in after.holds] == [(hold.owner, hold.states) for hold in before.holds]
    for now, then in zip(after.holds, before.holds, strict=True):
        assert now.joules == pytest.approx(then.joules, rel=0.01)
        assert now.score == pytest.approx(then.score, rel=0.02)
    with closing(Reader(path)) as reader:
        for metric, chart in charts.items():
            later = reader.series(gpu, metric, start=MIDNIGHT, end=end, step=3600)
            for mine, other in ((later.means, chart.means), (later.highs, chart.highs)):
                assert [value is None for value in mine] == [value is None for value in other], metric
                assert [value or 0.0 for value in mine] == pytest.approx(
                    [value or 0.0 for value in other], rel=0.02, abs=0.02
                ), metric


def test_a_chart_goes_over_the_border_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    end = fill(path, 2)
    keep(path, MIDNIGHT + 31 * DAY, Retention())
    assert (counted(path, "gpu_minute"), counted(path, "gpu_quarter")) == (1440, 96)
    with closing(Reader(path)) as reader:
        (gpu,) = reader.gpus()
        across = reader.series(gpu, "gpu_temperature_celsius", start=MIDNIGHT, end=end, step=60)
        assert across.step == 900, "no finer than what there is"
        assert len(across.means) == 192
        assert None not in across.means
        after = reader.series(gpu, "gpu_temperature_celsius", start=MIDNIGHT + DAY, end=end, step=60)
        assert (after.step, len(after.means)) == (60, 1440)


def test_a_chart_that_begins_before_anything_was_known_is_as_fine_as_what_is_known(tmp_path: Path) -> None:
    """The hub's first hour, on its page of 24 hours."""
    path = tmp_path / "history.db"
    end = fill(path, 1)
    with closing(Reader(path)) as reader:
        (gpu,) = reader.gpus()
        day = reader.series(gpu, "gpu_temperature_celsius", start=MIDNIGHT - DAY, end=end, step=60)
    assert (day.start, day.step) == (MIDNIGHT - DAY, 60)
    assert day.means[:1440] == [None] * 1440
    assert None not in day.means[1440:]


def test_a_clock_that_runs_ahead_costs_two_days_a_round(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    fill(path, 6)
    keep(path, MIDNIGHT + 9999 * DAY, Retention())
    assert counted(path, "gpu_minute") == 4 * 1440
    assert counted(path, "gpu_quarter") == 0, "and those that were made quarters are as old"
    assert sum(gpu.seconds for gpu in told(path).gpus) == 4 * DAY


def test_quarter_hours_go_in_their_time_and_what_hangs_on_them(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    end = fill(path, 3)
    keep(path, end + 30 * DAY, Retention(), rounds=3)
    keep(path, end + 729 * DAY, Retention(), rounds=2)
    assert counted(path, "gpu_quarter") == 96
    assert counted(path, "disk_hour") == 1
    assert {hold.owner.name for hold in told(path).holds} == {"alice", "bob"}


def test_a_file_that_grows_too_large_gets_smaller_by_its_oldest_days(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    end = fill(path, 8, gpus=4)
    before = path.stat().st_size
    limit = before // 2
    end -= 1
    keep(path, end, Retention(minutes=400 * DAY, size=limit), rounds=8)
    assert path.stat().st_size <= limit
    assert counted(path, "gpu_minute") >= 4 * 1440, "the newest day stays"
    assert sum(gpu.seconds for gpu in told(path).gpus) >= 4 * 7 * DAY, "what was minutes is quarter hours"
    keep(path, end, Retention(minutes=400 * DAY, size=1), rounds=12)
    assert counted(path, "gpu_minute") == 4 * 1440
    assert counted(path, "gpu_quarter") == 0


def test_beyond_its_limit_a_write_fails_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    machine, clock = Machine(gpus=64, at=MIDNIGHT), Clock(MIDNIGHT)
    made = recorder(path, clock, retention=Retention(size=1))  # the least is 256 pages, of a single day
    for _ in range(60 * 12):
        made.add("gpu1", machine.step(60), machine.at)
        clock.now = machine.at
        made.flush()
        if made.trouble:
            break
    assert made.trouble == f"{path}: cannot be written: the disk is full, or the file has reached its limit"
    machine.at = clock.now = MIDNIGHT + 2 * DAY
    made.add("gpu1", machine.document(), machine.at)
    made.add("gpu1", machine.step(60), machine.at)
    for _ in range(3):
        clock.now += 70
        made.flush()
    assert made.trouble is None, "there is an older day to let go by then"
    made.close()
    assert path.stat().st_size <= 257 * 4096
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)


def test_what_waits_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    machine, clock = Machine(gpus=250, interval=300.0), Clock()
    made = recorder(path, clock)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        made._writer.connection.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        for _ in range(30):
            made.add("gpu1", machine.step(300), machine.at)
            clock.now = machine.at
            made.flush()
            assert len(made._waiting) <= 22_000
        assert made.trouble is not None
        assert "is held by another program" in made.trouble
        other.execute("ROLLBACK")
    clock.now += 60
    made.flush()
    assert made.trouble is None
    made.close()


def test_a_file_gives_its_space_back(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    end = fill(path, 4, gpus=2)
    before = path.stat().st_size
    keep(path, end + 30 * DAY, Retention(), rounds=3)
    assert path.stat().st_size < before / 3
