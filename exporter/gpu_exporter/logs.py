"""Log lines: logfmt (or JSON) on standard error, one line an event."""

from __future__ import annotations

import json
import logging
import re
from datetime import datetime, timezone
from typing import Any, Final

from gpu_exporter.config import LogConfig

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r'[^\s"=\\\x00-\x1f\x7f]+')


def configure(config: LogConfig, *, quiet: bool = False) -> None:
    """Send the package's log lines to standard error in the configured form.

    ``quiet`` is for commands that tell their findings themselves: they log only where debug was asked for.
    """
    handler = logging.NullHandler() if quiet and config.level != "debug" else logging.StreamHandler()
    handler.setFormatter(_Json() if config.format == "json" else _Logfmt())
    root = logging.getLogger("gpu_exporter")
    root.handlers[:] = [handler]
    root.propagate = False
    set_level(config)


def set_level(config: LogConfig) -> None:
    """Change how much is logged."""
    logging.getLogger("gpu_exporter").setLevel(config.level.upper())


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
