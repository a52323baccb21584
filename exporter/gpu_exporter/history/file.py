"""Opening a history file: for its one writer, or for readers; never touching what is something else."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gpu_exporter.history.schema import APPLICATION, MIGRATIONS, VERSION

log = logging.getLogger(__name__)

_MAGIC: Final = b"SQLite format 3\0"
_CHECKED: Final = 512 * 1024**2  # bytes up to which the whole file is checked when it is opened for writing (1 s)
_BUSY: Final = 5.0  # seconds to wait for a reader that holds a lock
_CLOSE_WITHIN: Final = 300  # milliseconds to wait for one at the end, of the two seconds in which the process ends
_RECOVERY: Final = "move it away to begin anew, or see docs/HISTORY.md"


class HistoryError(Exception):
    """The history cannot be used; the message is one line that names the file, and what to do."""


class Writer:
    """The one connection that writes, and the lock that makes it the one. Raises HistoryError.

    The lock is on a file beside it, PATH-lock, and ends with the process however that ends.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        _refuse_what_is_no_file(path)
        self._lock = _locked(path)
        try:
            self.connection: Final = self._open()
        except BaseException:
            os.close(self._lock)
            raise
        self._identity: Final = identity(path)

    def replaced(self) -> bool:
        """Whether the path leads to another file by now, or to none."""
        return identity(self.path) != self._identity

    def leave(self) -> None:
        """Close a file that was moved away. What is left of its log must not meet the file that has its place now."""
        try:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            log.warning("what was written last is lost", extra={"file": str(self.path), "error": str(error)})
        self.close()
        for ending in ("-wal", "-shm"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)

    def close(self) -> None:
        """Close it. Raises nothing: what was committed is in the file or its write-ahead log.

        In the file, unless that cannot be written now: a copy of the file alone is whole then. The last connection to
        close removes the log; a reader in another program keeps its name, and it has nothing in it.
        """
        try:
            self.connection.execute(f"PRAGMA busy_timeout = {_CLOSE_WITHIN:.0f}")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            log.debug("the log was not moved into the file", extra={"file": str(self.path), "error": str(error)})
        try:
            self.connection.close()
        except sqlite3.Error as error:
            log.warning("the history was not closed well", extra={"file": str(self.path), "error": str(error)})
        finally:
            os.close(self._lock)

    def _open(self) -> sqlite3.Connection:
        is_new = not self.path.exists() or self.path.stat().st_size == 0
        if not is_new:
            _check(self.path)
        try:
            connection = sqlite3.connect(
                self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            try:
                self._prepare(connection, is_new=is_new)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise HistoryError(f"{self.path}: {explained(error, self.path)}") from None
        return connection

    def _prepare(self, connection: sqlite3.Connection, *, is_new: bool) -> None:
        if is_new:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # The first statements that read: they tell what is no database, and what this program did not write.
        version = _version(connection, self.path)
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise HistoryError(f"{self.path}: its file system cannot keep a write-ahead log; put it on a local disk")
        # A commit survives this process; a power cut can cost the last ones, and never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -4096")
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA wal_autocheckpoint = 500")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        if not is_new and self.path.stat().st_size <= _CHECKED:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise HistoryError(f"{self.path}: is damaged ({' '.join(str(found).split())}); {_RECOVERY}")
        if version < VERSION:
            _migrate(connection, version)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # so that the file says what it is


def identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at that path from another one that takes its place; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads; for one thread at a time. Raises HistoryError."""
    _refuse_what_is_no_file(path)
    if not path.exists():
        raise HistoryError(f"{path}: is not there; gpu-exporter record --history.path {path} makes it")
    _check(path)
    name = quote(str(path.absolute()))
    failure: sqlite3.Error | None = None
    had_log = has_log(path)
    # Where its folder cannot be written, as on a read-only disk, it can be read if nobody writes it meanwhile.
    for option in ("mode=ro",) if _is_log_filled(path) else ("mode=ro", "mode=ro&immutable=1"):
        try:
            connection = sqlite3.connect(
                f"file:{name}?{option}", uri=True, timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
            try:
                _check_readable(connection, path)
            except BaseException:
                connection.close()
                if not had_log:
                    remove_empty_log(path)
                raise
        except sqlite3.Error as error:
            failure = error
        else:
            return connection
    raise HistoryError(f"{path}: {explained(failure, path)}") from None


def has_log(path: Path) -> bool:
    """Whether the file has a write-ahead log beside it, be it empty."""
    return _log_file(path).exists()


def remove_empty_log(path: Path) -> None:
    """Remove the log that a reader made by reading, which a connection that only reads cannot. Raises nothing."""
    if not has_log(path) or _is_log_filled(path):
        return
    with suppress(sqlite3.Error), closing(
        sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=0.0)
    ) as connection:  # fmt: skip
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _check_readable(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection, path)
    if version == 0:
        raise HistoryError(
            f"{path}: has nothing in it; of a history that is being written, sqlite3's .backup makes a copy "
            "(docs/HISTORY.md)"
        )
    if version < VERSION:
        raise HistoryError(
            f"{path}: is of version {version}, and version {VERSION} is read here; "
            f"gpu-exporter record --history.path {path} raises it"
        )
    connection.execute("SELECT count(*) FROM node").fetchone()


def explained(error: BaseException | None, path: Path) -> str:
    """What SQLite complains of, in words that say what to do."""
    text = " ".join(str(error).split())
    if "readonly" in text or "unable to open" in text:
        folder = path.absolute().parent
        if not folder.is_dir():
            return f"cannot be opened: there is no folder {folder}"
        if not os.access(folder, os.W_OK):
            return f"cannot be written: its folder {folder} is not writable by this user, or is read-only"
        return "cannot be opened for writing: it is read-only, or of another user"
    if "full" in text:
        return "cannot be written: the disk is full, or the file has reached its limit"
    if "malformed" in text or "not a database" in text:
        return f"is damaged ({text}); {_RECOVERY}"
    if "locked" in text or "busy" in text:
        return "is held by another program; close what writes it"
    return f"cannot be used: {text}"


def _refuse_what_is_no_file(path: Path) -> None:
    try:
        if path.exists() and not path.is_file():
            raise HistoryError(f"{path}: is not a file; write the path of a file")
        if not path.absolute().parent.is_dir():
            raise HistoryError(f"{path}: cannot be opened: there is no folder {path.absolute().parent}")
    except OSError as error:
        raise HistoryError(f"{path}: cannot be opened: {error.strerror}") from None


def _locked(path: Path) -> int:
    """A descriptor that holds the writer's lock."""
    try:
        real = path.resolve()  # as SQLite does: the file has one lock by whatever name it is opened
        beside = real.with_name(f"{real.name}-lock")
        # Not for group and others more than the history itself: whoever may open it can keep the writer out.
        lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = "its folder is read-only" if error.errno == errno.EROFS else (error.strerror or str(error)).lower()
        raise HistoryError(f"{path}: cannot be written: {reason}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        who = f" (process {holder})" if holder.isdecimal() else ""
        raise HistoryError(
            f"{path}: is being written by another gpu-exporter{who}; stop it, or name another file"
        ) from None
    except OSError as error:
        os.close(lock)
        raise HistoryError(f"{path}: cannot be locked: {(error.strerror or str(error)).lower()}") from None
    return lock


def _check(path: Path) -> None:
    """Refuse what is no database, and one that was cut off. A file that was never written is none yet.

    One with a log is left to SQLite: maybe this process has it open, and POSIX drops all locks that a process has on a
    file as it closes any descriptor of it. The next program that looked in would take itself for the last, and remove
    the log beneath the writer.
    """
    if has_log(path):
        return
    try:
        with path.open("rb") as file:
            head = file.read(100)
        size = path.stat().st_size
    except OSError as error:
        raise HistoryError(f"{path}: cannot be read: {error.strerror}") from None
    if not head.startswith(_MAGIC) or len(head) < 100:
        raise HistoryError(f"{path}: is not a database; name another file")
    page = int.from_bytes(head[16:18], "big")
    page, pages = 65536 if page == 1 else page, int.from_bytes(head[28:32], "big")
    if size < page * pages:
        raise HistoryError(f"{path}: is cut off: {size} bytes of {page * pages}; {_RECOVERY}")


def _log_file(path: Path) -> Path:
    real = path.resolve()  # as SQLite does
    return real.with_name(f"{real.name}-wal")


def _is_log_filled(path: Path) -> bool:
    log_file = _log_file(path)
    return log_file.exists() and log_file.stat().st_size > 0


def _version(connection: sqlite3.Connection, path: Path) -> int:
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if application != APPLICATION and (tables or application or version):
        raise HistoryError(f"{path}: is the database of another program; name another file")
    if version > VERSION:
        raise HistoryError(
            f"{path}: is of version {version}, and this gpu-exporter knows versions up to {VERSION}; use a newer one"
        )
    return version


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in MIGRATIONS[version:]:
            for statement in step.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
