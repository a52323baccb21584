"""How the C library keeps memory for those that run for long and start many threads."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h


def bound_arenas(most: int = 2) -> None:
    """Let all threads share so many malloc arenas; call it before there are any.

    glibc gives every new thread one of its own (up to eight a core) and never takes it back: parked threads and
    connections would grow the process by some 20 MiB (measured: tests/whole/test_soak.py's storm, 58 MiB against 41
    with two).
    """
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, most)
