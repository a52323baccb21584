"""What the terminal around us can show."""

from __future__ import annotations

import curses
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Final, TextIO

_FIRST: Final = ("LC_ALL", "LC_CTYPE", "LANG")  # as POSIX orders them
_WIDTH: Final = 80


def spells_ascii(environment: Mapping[str, str] = os.environ, stream: TextIO | None = None) -> bool:
    """Whether nothing but ASCII may be written: the locale is not one of UTF-8, or the stream is not."""
    encoding = (stream or sys.stdout).encoding or ""
    if encoding.lower().replace("-", "").replace("_", "") != "utf8":
        return True
    # Python writes UTF-8 where the locale is C, and says so in LC_CTYPE; the terminal knows nothing of that.
    for name in _FIRST:
        if (value := environment.get(name)) and not (name == "LC_CTYPE" and _coerced(environment)):
            return not value.lower().replace("-", "").endswith(("utf8", "utf8@euro"))
    return True


def colourless(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether no colour is wanted (no-color.org), or the terminal has none."""
    if environment.get("NO_COLOR"):
        return True
    try:
        curses.setupterm(environment.get("TERM"))
        return 0 <= curses.tigetnum("colors") < 8 or curses.tigetnum("colors") == -1
    except curses.error:  # nobody has described it
        return False


def undrawable(environment: Mapping[str, str] = os.environ) -> str:
    """Why a live screen cannot be drawn here; empty where it can."""
    # Textual reads the one and draws on the last.
    streams = ((sys.stdin, "standard input"), (sys.stdout, "standard output"), (sys.stderr, "standard error"))
    for stream, name in streams:
        if stream is None or not stream.isatty():
            return f"{name} is not a terminal"
    if environment.get("TERM", "") in {"", "dumb", "unknown"}:
        return f"the terminal '{environment.get('TERM', '')}' (TERM) cannot move its cursor"
    return ""


def columns() -> int:
    """How wide text may be: COLUMNS, or the terminal, or 80."""
    return max(20, shutil.get_terminal_size((_WIDTH, 24)).columns)


def _coerced(environment: Mapping[str, str]) -> bool:
    return environment.get("LC_CTYPE") == "C.UTF-8" and environment.get("LANG", "") in {"", "C", "POSIX"}
