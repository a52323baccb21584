"""The machine around the GPUs, from /proc and statvfs: looked at on a thread of its own, told from memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from gpu_exporter.config import HostConfig
from gpu_exporter.host.disks import Disks
from gpu_exporter.host.machine import Machine
from gpu_exporter.model import Host

log = logging.getLogger(__name__)

_BEAT: Final = 15.0  # seconds between looks
# A share of CPU time is told from the second look on, so that one comes soon.
_FIRST_BEAT: Final = 1.0


class HostWatch:
    """Looks at the machine every 15 s from ``start`` to ``close``. ``latest`` answers at once, from any thread.

    The name is known from the beginning. With ``enabled: false`` it is all that is told, and no thread runs.
    ``system`` is where /proc and /etc are looked for, for tests.
    """

    def __init__(
        self, config: HostConfig, *, system: Path = Path("/"), monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._machine = Machine(system=system, name=config.name)
        self._disks = Disks(root=config.root, system=system, monotonic=monotonic)
        self._latest = Host(name=self._machine.name)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="host", daemon=True) if config.enabled else None

    def start(self) -> None:
        """Begin to look."""
        if self._thread is not None:
            self._thread.start()

    def latest(self) -> Host:
        """What the newest look found; the same object until the next look."""
        return self._latest

    def close(self) -> None:
        """Stop. A file system that hangs is left behind on its daemon thread."""
        self._closing.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(0.5)

    def _run(self) -> None:
        wait = _FIRST_BEAT
        while not self._closing.is_set():
            try:
                host = self._machine.look()
                self._latest = replace(host, disks=self._latest.disks)
                self._latest = replace(host, disks=self._disks.look())
            except Exception:  # the thread must outlive a bug
                log.exception("looking at the machine failed: this is a bug in gpu-exporter")
            self._closing.wait(wait)
            wait = _BEAT
