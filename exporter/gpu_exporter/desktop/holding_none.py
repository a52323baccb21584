"""A way around a fault of PySide6 that ends the process."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

import PySide6

_FIRST_BAD: Final = (6, 12)
_IMMORTAL: Final = (3, 12)  # the first Python that does not count references to None
_ENOUGH: Final = 1 << 60  # more than are lost in the life of a machine


def hold_none() -> None:
    """Hold so many references to None that those which PySide6 6.12.0 loses, one at every call, do not matter.

    Without it a Python before 3.12 aborts within a minute ("deallocating None"). What the extra installs has not that
    fault; what was there before may. Does nothing where it is not needed.
    """
    if sys.version_info >= _IMMORTAL or PySide6.__version_info__[:2] < _FIRST_BAD:
        return
    count = ctypes.c_ssize_t.from_address(id(None))
    # A Python that is built otherwise may keep something else there.
    if abs(count.value - sys.getrefcount(None)) < 100:
        count.value += _ENOUGH
