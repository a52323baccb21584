"""Reading files that people name: regular ones, of bounded size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

_PIECE: Final = 256 * 1024  # bytes


class TooLargeError(OSError):
    """There is more in the file than anybody writes into one of its kind; the message says so."""

    def __init__(self, largest: int) -> None:
        self.why: Final = f"is larger than {largest // 1024} KiB; is it the right file?"
        super().__init__(errno.EFBIG, self.why)


def read_file(path: Path, *, largest: int) -> bytes:
    """The content, of ``largest`` bytes at most. Raises TooLargeError, or OSError where it cannot be read.

    Pipes and sockets would keep the reader waiting, and are refused. A device that never ends is too large, and one
    that waits for somebody cannot be read.
    """
    # A pipe without a writer must not keep the open itself waiting.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISCHR(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        pieces: list[bytes] = []
        left = largest + 1
        while left and (piece := os.read(descriptor, min(left, _PIECE))):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(descriptor)
    if not left:
        raise TooLargeError(largest)
    return b"".join(pieces)
