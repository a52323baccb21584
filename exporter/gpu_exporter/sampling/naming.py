"""Owners against a deadline: whoever tells who holds a GPU must not keep its readings waiting."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from gpu_exporter.model import Identity, Reading
from gpu_exporter.sampling.poller import NoThreadError, Outcome, Poller

log = logging.getLogger(__name__)

_UNKNOWN = Identity()


@dataclass(slots=True)
class _Named:
    """What was told of one device at the latest naming that ended in time."""

    reading: Reading
    identities: dict[int, Identity] = field(default_factory=dict)


class Naming:
    """Puts names to readings on the poller's thread. Belongs to the sampler's.

    Where that overruns its deadline, or fails, the names of before stand, and it is not tried again until the call has
    returned. ``name_owners`` is Resolver.name_owners.
    """

    def __init__(self, name_owners: Callable[[Sequence[Reading]], Sequence[Reading]], poller: Poller) -> None:
        self._name_owners = name_owners
        self._poller = poller
        self._parked = False
        self._failed = False
        self._before: dict[str, _Named] = {}

    def name(self, readings: Sequence[Reading], *, timeout: float) -> Sequence[Reading]:
        """The readings with who each process is and who was given each device; ``timeout`` is in seconds."""
        if self._parked:
            return [self._as_before(reading) for reading in readings]
        # Before the call: it may return at any moment from its deadline on.
        self._parked = True
        ask = partial(self._name_owners, readings)
        (outcome,) = self._poller.run([ask], timeout=timeout, late=self._returned)
        if outcome is None:
            log.warning("owners are those of before: naming them hangs", extra={"seconds": timeout})
            return [self._as_before(reading) for reading in readings]
        self._parked = False
        if outcome.error is not None:
            if not self._failed and not isinstance(outcome.error, NoThreadError):
                log.error("owners are those of before: this is a bug in gpu-exporter", exc_info=outcome.error)
            self._failed = True
            return [self._as_before(reading) for reading in readings]
        self._failed = False
        named = outcome.get()
        self._before = {reading.device.key: _remembered(reading) for reading in named}
        return named

    def _returned(self, _position: int, _outcome: Outcome[Sequence[Reading]]) -> None:
        """The late call came back; told on its own thread."""
        self._parked = False

    def _as_before(self, reading: Reading) -> Reading:
        before = self._before.get(reading.device.key)
        given = {} if before is None else before.identities
        processes = reading.processes and tuple(
            process if process.identity is not None else replace(process, identity=given.get(process.pid, _UNKNOWN))
            for process in reading.processes
        )
        if before is None:
            return replace(reading, processes=processes)
        allocations, mig = before.reading.allocations, before.reading.mig_allocations
        return replace(reading, processes=processes, allocations=allocations, mig_allocations=mig)


def _remembered(reading: Reading) -> _Named:
    processes = reading.processes or ()
    return _Named(
        replace(reading, processes=None, values={}, labelled={}),
        {process.pid: process.identity for process in processes if process.identity is not None},
    )
