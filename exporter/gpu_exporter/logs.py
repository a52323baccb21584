"""Log lines: logfmt (or JSON) on standard error, one line an event."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from datetime import datetime, timezone
from typing import Any, Final

from gpu_exporter.config import LogConfig

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r'[^\s"=\\\x00-\x1f\x7f]+')
_MOST_WAITING: Final = 1000  # lines
_LINGER: Final = 1.0  # seconds that the thread waits for another line before it ends
_COURTESY: Final = 0.05  # seconds that who logs waits for the line to get out, while lines do
_FLUSH_WITHIN: Final = 0.2  # seconds, of the two in which a process ends


def configure(config: LogConfig, *, quiet: bool = False, waits: bool = True) -> None:
    """Send the package's log lines to standard error in the configured form.

    ``quiet`` is for commands that tell their findings themselves: they log only where debug was asked for. Without
    ``waits``, which is for daemons, nobody who logs waits for whoever reads standard error; ``flush`` then ends it.
    """
    handler: logging.Handler
    if quiet and config.level != "debug":
        handler = logging.NullHandler()
    else:
        handler = logging.StreamHandler() if waits else PatientHandler()
    handler.setFormatter(_Json() if config.format == "json" else _Logfmt())
    root = logging.getLogger("gpu_exporter")
    root.handlers[:] = [handler]
    root.propagate = False
    set_level(config)


def set_level(config: LogConfig) -> None:
    """Change how much is logged."""
    logging.getLogger("gpu_exporter").setLevel(config.level.upper())


def flush(timeout: float = _FLUSH_WITHIN) -> None:
    """Give lines that wait so many seconds to get out; by default what the end of a process has for that."""
    for handler in logging.getLogger("gpu_exporter").handlers:
        if isinstance(handler, PatientHandler):
            handler.drain(timeout)


class PatientHandler(logging.Handler):
    """Writes lines on a thread of its own, which runs while there are any; those beyond a thousand are dropped.

    A pipe that nobody reads (a log driver that stalls, a journal that is stopped) so keeps nobody waiting but this
    thread. How many lines were dropped is logged with the next one that gets out. ``descriptor`` is written to.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        super().__init__()
        self._descriptor = sys.stderr.fileno() if descriptor is None else descriptor
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._writing = False
        self._stalled = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line to those that wait."""
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)
            return
        with self._changed:
            if len(self._lines) >= _MOST_WAITING:
                self._dropped += 1
                return
            self._lines.append(line)
            if self._thread is None:
                self._start()
            self._changed.notify_all()
            # So that a line is there before what comes of it can be seen, as with every other handler.
            if not self._stalled:
                self._stalled = not self._changed.wait_for(self._idle, _COURTESY)

    def _idle(self) -> bool:
        return not (self._lines or self._writing)

    def drain(self, timeout: float) -> None:
        """Wait until all lines are out, so many seconds at most."""
        with self._changed:
            self._changed.wait_for(self._idle, timeout)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads: the next line tries again
            return
        self._thread = thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines, _LINGER)
                if not self._lines:
                    self._thread = None
                    return
                line, dropped, self._dropped = self._lines.popleft(), self._dropped, 0
                self._writing = True
            told = line + self._told(dropped) if dropped else line
            try:
                while told:
                    told = told[os.write(self._descriptor, told) :]
            except BlockingIOError:  # somebody made it so that writes do not wait
                time.sleep(_LINGER / 10)
                with self._changed:
                    self._lines.appendleft(told)
            except OSError:  # nobody reads it any more
                pass
            with self._changed:
                self._writing = False
                self._stalled = bool(self._lines) and self._stalled
                self._changed.notify_all()

    def _told(self, dropped: int) -> bytes:
        words = "log lines were dropped: nobody read them"
        record = logging.makeLogRecord({"levelno": logging.WARNING, "levelname": "WARNING", "msg": words})
        record.count = dropped
        return f"{self.format(record)}\n".encode()


class _Fields(logging.Formatter):
    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Time, level, message, what the caller added, and a traceback if there is one."""
        at = datetime.fromtimestamp(record.created, timezone.utc)
        values: dict[str, Any] = {
            "ts": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": {"WARNING": "warn", "CRITICAL": "error"}.get(record.levelname, record.levelname.lower()),
            "msg": record.getMessage(),
        }
        values.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return values


class _Logfmt(_Fields):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{name}={_logfmt(value)}" for name, value in self.fields(record).items())


class _Json(_Fields):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), default=str)


def _logfmt(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
