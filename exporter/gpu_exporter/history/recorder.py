"""The recorder: documents in, minutes out to the file, on a thread of its own. Nothing that the disk does stops it."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from gpu_exporter.history.file import HistoryError, Writer, explained
from gpu_exporter.history.minutes import MINUTE, Batch, Minutes
from gpu_exporter.history.retention import Keeper, Retention
from gpu_exporter.history.store import Store

log = logging.getLogger(__name__)

# A minute is written so long after its end, since samples come late.
GRACE: Final = 10.0  # seconds
_KEEP_EVERY: Final = 600.0  # seconds between rounds of retention
# What waits in memory while it cannot be written: an hour of 64 GPUs with their machines and processes.
_MOST_WAITING: Final = 20_000


class Recorder:
    """Adds snapshot documents to a history file, whose one writer it is.

    The constructor raises HistoryError where the file cannot be used. From then on ``trouble`` and the log tell why
    nothing is written, and what was not written waits, bounded. ``close`` writes what there is. ``clock`` is Unix time.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention: Retention | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retention = retention or Retention()
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._minutes = Minutes()
        self._closing = threading.Event()
        self._waiting = Batch()
        self._dropped = 0
        self._kept_at = float("-inf")
        self._trouble: str | None = None
        self._open(path)
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    @property
    def path(self) -> Path:
        """The file."""
        return self._writer.path

    @property
    def trouble(self) -> str | None:
        """Why nothing is written at the moment; None where all is well."""
        return self._trouble

    def start(self) -> None:
        """Write every minute from now on."""
        self._thread.start()

    def add(self, node: str, document: Mapping[str, Any], at: float) -> bool:
        """Add a node's snapshot document (schema 1), received at that Unix time. Any thread; never waits for the disk.

        The same sample again adds nothing. False where it is no document of that schema.
        """
        with self._lock:
            return self._minutes.add(node, document, at)

    def add_unchanged(self, node: str, at: float) -> bool:
        """The node has answered at that time, with the document that was added last: the time is no gap.

        False where there is no such document. Any thread; never waits for the disk.
        """
        with self._lock:
            return self._minutes.add_unchanged(node, at)

    def flush(self, now: float | None = None) -> None:
        """Write the minutes that are over. The thread does so by itself; not to be called beside it."""
        now = self._clock() if now is None else now
        with self._lock:
            self._waiting.extend(self._minutes.take(now - GRACE))
        self._write(now)

    def close(self) -> None:
        """Write everything, the minute that has begun as well, and let go of the file."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(10.0)
            if self._thread.is_alive():
                log.error("the history is not closed: its disk does not answer", extra={"file": str(self.path)})
                return
        with self._lock:
            self._waiting.extend(self._minutes.take_all())
        self._write(self._clock())
        self._writer.close()

    def _run(self) -> None:
        while not self._closing.wait(MINUTE - (self._clock() - GRACE) % MINUTE):
            try:
                self.flush()
            except Exception:  # the thread must outlive a bug
                log.exception("writing the history failed: this is a bug in gpu-exporter")

    def _open(self, path: Path) -> None:
        self._writer = Writer(path)
        try:
            self._store = Store(self._writer.connection)
            self._keeper = Keeper(self._writer.connection, self._retention)
        except sqlite3.Error as error:
            self._writer.close()
            raise HistoryError(f"{path}: {explained(error, path)}") from None

    def _write(self, now: float) -> None:
        trouble = None
        for step in (self._reopen, self._keep, self._put):
            try:
                step(now)
            except HistoryError as error:
                trouble = trouble or str(error)
            except sqlite3.Error as error:
                trouble = trouble or f"{self.path}: {explained(error, self.path)}"
        if trouble is not None:
            self._fail(trouble)
        elif self._trouble is not None:
            log.info("the history is written again", extra={"file": str(self.path), "lost_rows": self._dropped})
            self._dropped, self._trouble = 0, None

    def _reopen(self, _now: float) -> None:
        if self._writer.replaced():
            log.warning("the history file was moved or replaced: opening it anew", extra={"file": str(self.path)})
            self._writer.leave()
            self._open(self.path)

    def _keep(self, now: float) -> None:
        """In trouble at every attempt, since that may make room."""
        if self._trouble is not None or self._monotonic() - self._kept_at >= _KEEP_EVERY:
            self._keeper.round(now)
            self._kept_at = self._monotonic()

    def _put(self, _now: float) -> None:
        if not self._waiting:
            return
        try:
            self._store.write(self._waiting)
        except sqlite3.Error:
            raise
        except Exception:  # what cannot be written must not keep what follows from being written
            log.exception("minutes are left out of the history: this is a bug in gpu-exporter")
        self._waiting = Batch()

    def _fail(self, why: str) -> None:
        if why != self._trouble:
            log.error("the history is not written: %s", why)
        self._trouble = why
        if len(self._waiting) > _MOST_WAITING:
            self._dropped += len(self._waiting)
            self._waiting = Batch()
