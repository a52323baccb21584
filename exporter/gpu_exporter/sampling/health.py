"""What changes about the health of the GPUs: one log line a change, and the one state that only a restart cures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from gpu_exporter.model import Reading, Reason

log = logging.getLogger(__name__)

# NVIDIA's container toolkit #48: a container that lost its devices answers so for ever; only a restart helps.
_BLINDED_BY: Final[frozenset[Reason]] = frozenset({"unknown", "permission"})
_BLINDED_FOR: Final = 300.0  # seconds


class HealthLog:
    """Logs which GPUs go down and come up. Belongs to one thread, but for ``blinded``; times are monotonic seconds."""

    def __init__(self) -> None:
        self._down: frozenset[str] = frozenset()
        self._worked = False
        self._blinded_since: float | None = None

    def note(self, readings: Sequence[Reading], now: float) -> None:
        """Log what changed since the previous call; remember for how long every GPU has refused."""
        down = {reading.device.key for reading in readings if reading.failure is not None}
        for reading in readings:
            device, failure = reading.device, reading.failure
            named = {"gpu": device.index, "uuid": device.uuid}
            if failure is None and device.key in self._down:
                log.info("GPU is up again", extra=named)
            elif failure is not None and device.key not in self._down:
                log.error("GPU is down", extra={**named, "why": f"{failure.reason}: {failure.message}"})
        self._down = frozenset(down)
        self._worked = self._worked or len(down) < len(readings)
        blinded = bool(readings) and all(
            reading.failure is not None and reading.failure.reason in _BLINDED_BY for reading in readings
        )
        if not (blinded and self._worked):
            self._blinded_since = None
        elif self._blinded_since is None:
            self._blinded_since = now

    def source_closed(self) -> None:
        """What was seen through the source that is closed now says nothing about the next one."""
        self._blinded_since = None

    def blinded(self, now: float) -> bool:
        """Whether every GPU has refused for so long, after having worked, that only a restart helps."""
        since = self._blinded_since
        return since is not None and now - since >= _BLINDED_FOR
