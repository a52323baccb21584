"""What changes about the health of the GPUs: one log line a change, and the states that only a restart cures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from gpu_exporter.model import Reading, Reason
from gpu_exporter.sources import SourceError

log = logging.getLogger(__name__)

# NVIDIA's container toolkit #48: a container that lost its devices answers so for ever; only a restart helps.
_BLINDED_BY: Final[frozenset[Reason]] = frozenset({"unknown", "permission"})
_BLINDED_FOR: Final = 300.0  # seconds
# An old library that stays: so long that nobody is in the midst of the upgrade.
_OUTDATED_FOR: Final = 3.0


class HealthLog:
    """Logs which GPUs go down and come up. Belongs to one thread, but for ``trouble``; times are monotonic seconds."""

    def __init__(self) -> None:
        self._down: frozenset[str] = frozenset()
        self._partial: frozenset[str] = frozenset()
        self._worked = False
        self._blinded_since: float | None = None
        self._hangs = False
        self._outdated: tuple[float, str] | None = None

    def note(self, readings: Sequence[Reading], now: float) -> None:
        """Log what changed since the previous call; remember for how long every GPU has refused."""
        self._outdated = None
        for reading in readings:
            self._tell(reading)
        self._down = frozenset(reading.device.key for reading in readings if reading.failure is not None)
        self._partial = frozenset(reading.device.key for reading in readings if reading.partial)
        self._worked = self._worked or len(self._down) < len(readings)
        reasons = {None if reading.failure is None else reading.failure.reason for reading in readings}
        # A call that is late says neither that its GPU answers nor that it refuses; nor may a process be ended in it.
        self._hangs = "timeout" in reasons and reasons <= {"timeout", *_BLINDED_BY}
        if not self._hangs:
            self._blind(blinded=bool(reasons) and reasons <= _BLINDED_BY, now=now)

    def closed(self, error: SourceError | None, now: float) -> None:
        """There is no open source: ``error`` is why it failed or could not be opened, None where that is not known."""
        if error is None:
            return
        self._hangs = False
        self._blind(blinded=error.restart_may_help or error.restart_helps, now=now)
        if not error.restart_helps:
            self._outdated = None
        elif self._outdated is None:
            self._outdated = (now, str(error))

    def trouble(self, now: float) -> str | None:
        """What only a restart of the process cures."""
        since, outdated = self._blinded_since, self._outdated
        if outdated is not None and now - outdated[0] >= _OUTDATED_FOR:
            return outdated[1]
        if since is not None and now - since >= _BLINDED_FOR and not self._hangs:
            return (
                "no GPU has answered for 5 minutes although they did before: this container lost its devices, or its "
                "driver; restart it"
            )
        return None

    def _tell(self, reading: Reading) -> None:
        device, failure = reading.device, reading.failure
        named = {"gpu": device.index, "uuid": device.uuid}
        if failure is None and device.key in self._down:
            log.info("GPU is up again", extra=named)
        elif failure is not None and device.key not in self._down:
            log.error("GPU is down", extra={**named, "why": f"{failure.reason}: {failure.message}"})
        if reading.partial and device.key not in self._partial:
            log.error("GPU answers only in part", extra={**named, "why": reading.partial})
        elif device.key in self._partial and not reading.partial and failure is None:
            log.info("GPU answers as a whole again", extra=named)

    def _blind(self, *, blinded: bool, now: float) -> None:
        if not (blinded and self._worked):
            self._blinded_since = None
        elif self._blinded_since is None:
            self._blinded_since = now
