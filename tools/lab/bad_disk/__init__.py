"""A disk that fails when it is told to, for a process that has it preloaded (``environment``)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("bad_disk.c")
_FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-ldl")


def build(folder: Path) -> Path:
    """The library, compiled where it is not yet; any number of processes may build at once."""
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()[:16]
    library = folder / f"bad_disk-{digest}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / library.name
            command = [os.environ.get("CC", "gcc"), str(SOURCE), *_FLAGS, "-o", str(made)]
            subprocess.run(command, check=True)
            made.replace(library)
    return library


class BadDisk:
    """The disk of this very process, which runs with the library preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.bad_disk_seen.restype = ctypes.c_long

    def kill(self, marked: str, after: int) -> None:
        """Die before that call (from 0) which changes a file whose path has this text in it."""
        self._library.bad_disk_arm(marked.encode(), ctypes.c_long(after), 0)

    def fail(self, marked: str, after: int, error: int) -> None:
        """Let that call and all later ones fail with this error number."""
        self._library.bad_disk_arm(marked.encode(), ctypes.c_long(after), error)

    def heal(self) -> None:
        """Let nothing fail any more."""
        self._library.bad_disk_disarm()

    @property
    def seen(self) -> int:
        """Calls since it was told to kill or fail."""
        return int(self._library.bad_disk_seen())
