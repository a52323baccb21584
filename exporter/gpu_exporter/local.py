"""This machine as a source of snapshot documents: read as ``serve`` reads it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from gpu_exporter.app import build_sampler
from gpu_exporter.config import Config
from gpu_exporter.host import HostWatch
from gpu_exporter.model import Snapshot
from gpu_exporter.pages.documents import snapshot_document

log = logging.getLogger(__name__)

# Takes a machine's name and its document.
Tell: TypeAlias = Callable[[str, dict[str, Any]], object]

_LOOKS: Final = 5  # at the sampler, an interval
_OPENING: Final = 10.0  # seconds after which a driver that does not open is told
_UNNAMED: Final = "localhost"


class ThisMachine:
    """Tells every sample of this machine, on a thread of its own, from ``start`` to ``close``. Raises ConfigError."""

    def __init__(self, config: Config, *, tell: Tell) -> None:
        self._labels = config.processes.labels
        self._tell = tell
        self._sampler = build_sampler(config)
        self._host = HostWatch(config.host)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="this machine", daemon=True)

    @property
    def name(self) -> str:
        """The machine's own name."""
        return self._host.latest().name or _UNNAMED

    @property
    def stuck(self) -> bool:
        """Whether driver calls hang that will never be waited for."""
        return bool(self._sampler.latest().stuck)

    def start(self) -> None:
        """Begin to read."""
        self._sampler.start()
        self._host.start()
        self._thread.start()

    def close(self) -> None:
        """Stop within two seconds; a driver call that hangs is left behind."""
        self._closing.set()
        self._thread.join(1.0)
        self._sampler.close()
        self._host.close()

    def _run(self) -> None:
        # What is there before the first reading tells nothing of the machine.
        end = time.monotonic() + _OPENING
        while not self._sampler.wait_first(0.2) and not self._closing.is_set() and time.monotonic() < end:
            pass
        last: Snapshot | None = None
        simulated = False
        while not self._closing.wait(min(1.0, self._sampler.interval / _LOOKS)):
            snapshot = self._sampler.latest()
            if snapshot is last:
                continue
            last = snapshot
            if snapshot.simulated and not simulated:
                simulated = True
                log.warning("the data is simulated: no real GPU is read", extra={"source": snapshot.source})
            try:
                self._tell_of(snapshot)
            except Exception:  # the thread must outlive a bug
                log.exception("telling a sample failed: this is a bug in gpu-exporter")

    def _tell_of(self, snapshot: Snapshot) -> None:
        document = snapshot_document(
            snapshot,
            host=self._host.latest(),
            labels=self._labels,
            interval=self._sampler.interval,
            ready=self._sampler.ready(),
            live=self._sampler.live(),
        )
        document["exporter"]["sample_age_seconds"] = self._sampler.age(snapshot) or 0.0
        self._tell(self.name, document)
