"""What the hub worked out and told, in the history file: its log, and what it must not tell twice.

The tables are made when there is something to write; whoever does not know them passes over them. Each entry is a
transaction of its own, on a connection of its own: the recorder's lock makes this process the one that writes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from gpu_exporter.history.file import HistoryError, explained

_BUSY: Final = 5.0  # seconds to wait for the recorder's transaction
_KEPT: Final = 10_000  # entries of each table

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS hub_delivery (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    hold TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    outcome TEXT NOT NULL,
    tries INTEGER NOT NULL,
    message TEXT NOT NULL,
    payload TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS hub_analysis (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    window_seconds REAL NOT NULL,
    duration_seconds REAL NOT NULL,
    gpus INTEGER NOT NULL,
    low INTEGER NOT NULL,
    error TEXT NOT NULL
);
"""


class DeliveryEntry(NamedTuple):
    """What became of telling about one hold; ``hold`` and ``payload`` are JSON, ``time`` is Unix time."""

    time: float
    hold: str
    idempotency_key: str
    outcome: str
    tries: int
    message: str
    payload: str


class AnalysisEntry(NamedTuple):
    """One time that results were worked out; ``error`` is empty where they were."""

    time: float
    window_seconds: float
    duration_seconds: float
    gpus: int
    low: int
    error: str


class Journal:
    """The log of one file, which is there. Every method may wait for the disk, from any thread; raises HistoryError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add_delivery(self, entry: DeliveryEntry) -> None:
        """Write it down."""
        self._add("hub_delivery", entry)

    def add_analysis(self, entry: AnalysisEntry) -> None:
        """Write it down."""
        self._add("hub_analysis", entry)

    def deliveries(self) -> list[DeliveryEntry]:
        """Those that are kept, the oldest first."""
        return [DeliveryEntry(*row) for row in self._all("hub_delivery", DeliveryEntry._fields)]

    def analyses(self) -> list[AnalysisEntry]:
        """Those that are kept, the oldest first."""
        return [AnalysisEntry(*row) for row in self._all("hub_analysis", AnalysisEntry._fields)]

    def _add(self, table: str, entry: DeliveryEntry | AnalysisEntry) -> None:
        names, marks = ", ".join(entry._fields), ", ".join("?" * len(entry))
        with self._open() as connection:
            connection.executescript(_TABLES)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", entry)  # noqa: S608 - our names
            connection.execute(f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - {_KEPT}")  # noqa: S608
            connection.execute("COMMIT")

    def _all(self, table: str, names: Sequence[str]) -> list[Any]:
        with self._open() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                return []
            return connection.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY id").fetchall()  # noqa: S608

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection to the file that is there now; a file that was moved away is not begun anew here."""
        name = quote(str(self._path.absolute()))
        try:
            with closing(
                sqlite3.connect(f"file:{name}?mode=rw", uri=True, timeout=_BUSY, isolation_level=None)
            ) as connection:
                connection.execute(
                    "PRAGMA synchronous = FULL"
                )  # what was told must not be told again after a power cut
                yield connection
        except sqlite3.Error as error:
            raise HistoryError(f"{self._path}: {explained(error, self._path)}") from None
