"""Waiting for what must come. A deadline is for what hangs, not for what waits its turn on a busy machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_STEP = 0.01  # seconds between two looks
_MOST_BUSY = 10.0


class NeverCameError(Exception):
    """What was waited for did not come; the text says what there was instead."""


def patience(seconds: float = 60.0) -> float:
    """So many seconds, times as many programs as share each core of this machine."""
    return seconds * min(_MOST_BUSY, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def wait_for(condition: Callable[[], T | None], what: object = "it", timeout: float = 60.0) -> T:
    """What the condition answers as soon as it is true; what it raises ends the waiting.

    ``what`` is shown where it never came, called first if it can be called. ``timeout`` is for an idle machine.
    """
    began = time.monotonic()
    while not (answer := condition()):
        waited = time.monotonic() - began
        if waited > timeout and waited > patience(timeout):
            raise NeverCameError(f"never came within {waited:.0f} s: {what() if callable(what) else what}")
        time.sleep(_STEP)
    return answer
