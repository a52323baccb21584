"""The hub's log in the history file: it outlives the hub, is bounded, and never makes a file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gpu_exporter.history import AnalysisEntry, DeliveryEntry, HistoryError, Journal, Reader, journal
from history_story import START, Clock, Machine, record, recorder

DELIVERY = DeliveryEntry(START, '["gpu-a","GPU-0"]', "key", "delivered", 1, "", '{"gpu":"GPU-0"}')
ANALYSIS = AnalysisEntry(START, 86400.0, 0.25, 8, 2, "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of a release that had no log."""
    record(tmp_path / "history.db", Machine(), 24)
    return tmp_path / "history.db"


def test_what_was_written_is_there_for_the_next(path: Path) -> None:
    made = Journal(path)
    assert (made.deliveries(), made.analyses()) == ([], [])
    made.add_delivery(DELIVERY)
    made.add_analysis(ANALYSIS)
    made.add_delivery(DELIVERY._replace(outcome="failed", message="it's; not there"))
    assert [entry.outcome for entry in Journal(path).deliveries()] == ["delivered", "failed"]
    assert Journal(path).analyses() == [ANALYSIS]
    Reader(path).close()


def test_it_goes_beside_the_recorder(path: Path) -> None:
    machine, clock = Machine(at=START + 3600), Clock(START + 3600)
    made = recorder(path, clock)
    made.add(machine.alias, machine.document(), machine.at)
    for number in range(24):
        made.add(machine.alias, machine.step(), machine.at)
        clock.now = machine.at + 10
        made.flush()
        Journal(path).add_delivery(DELIVERY._replace(time=float(number)))
    made.close()
    assert [entry.time for entry in Journal(path).deliveries()] == list(range(24))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM gpu_minute").fetchone() == (4,)


def test_it_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_KEPT", 5)
    for number in range(9):
        Journal(path).add_analysis(ANALYSIS._replace(gpus=number))
    assert [entry.gpus for entry in Journal(path).analyses()] == [4, 5, 6, 7, 8]


def test_a_file_that_is_gone_is_told_and_not_made(path: Path) -> None:
    made = Journal(path)
    path.unlink()
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    with pytest.raises(HistoryError, match=r"history\.db: "):
        made.add_delivery(DELIVERY)
    assert not path.exists()
