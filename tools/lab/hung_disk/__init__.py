"""A file system that does not answer, for a process that has it preloaded (``HungDisk.env``)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("hung_disk.c")
_FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-ldl")


def build() -> Path:
    """The library, compiled where it is not yet; any number of processes may build at once."""
    folder = Path(tempfile.gettempdir()) / f"gpu-exporter-hung-disk-{os.getuid()}"
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()[:16]
    library = folder / f"hung_disk-{digest}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / library.name
            subprocess.run([os.environ.get("CC", "gcc"), str(SOURCE), *_FLAGS, "-o", str(made)], check=True)
            made.replace(library)
    return library


class HungDisk:
    """All below ``hung``; ``scratch`` is a folder that is not."""

    def __init__(self, hung: Path, scratch: Path) -> None:
        self._hung = hung
        self._switch = scratch / "hung-disk-switch"
        self._waiting = scratch / "hung-disk-waiting"

    def env(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(build()),
            "HUNG_DISK": str(self._hung),
            "HUNG_DISK_SWITCH": str(self._switch),
            "HUNG_DISK_WAITING": str(self._waiting),
        }

    def hang(self) -> None:
        self._waiting.unlink(missing_ok=True)
        self._switch.touch()

    def recover(self) -> None:
        self._switch.unlink(missing_ok=True)

    @property
    def waits(self) -> bool:
        """Whether somebody waits, or has, since it hangs."""
        return self._waiting.exists()
