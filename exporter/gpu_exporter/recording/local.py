"""This machine as a source of snapshot documents: read as ``serve`` reads it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from gpu_exporter.app import build_sampler
from gpu_exporter.config import Config
from gpu_exporter.history import Recorder
from gpu_exporter.host import HostWatch
from gpu_exporter.model import Snapshot
from gpu_exporter.pages.documents import snapshot_document

log = logging.getLogger(__name__)

_LOOKS: Final = 5  # at the sampler, an interval
_UNNAMED: Final = "localhost"


class ThisMachine:
    """Adds this machine's samples to a recorder, from ``start`` to ``close``. Raises ConfigError."""

    def __init__(self, config: Config, *, recorder: Recorder, clock: Callable[[], float]) -> None:
        self._labels = config.processes.labels
        self._recorder = recorder
        self._clock = clock
        self._sampler = build_sampler(config)
        self._host = HostWatch(config.host)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)

    @property
    def name(self) -> str:
        """The machine's name, which is its alias in the history."""
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
                self._add(snapshot)
            except Exception:  # the thread must outlive a bug
                log.exception("recording a sample failed: this is a bug in gpu-exporter")

    def _add(self, snapshot: Snapshot) -> None:
        document = snapshot_document(
            snapshot,
            host=self._host.latest(),
            labels=self._labels,
            interval=self._sampler.interval,
            ready=None,
            live=None,
        )
        document["exporter"]["sample_age_seconds"] = self._sampler.age(snapshot) or 0.0
        self._recorder.add(self.name, document, self._clock())
        log.debug("a sample was recorded", extra={"node": self.name})
