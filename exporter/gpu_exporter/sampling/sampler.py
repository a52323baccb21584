"""Owns the source and its threads; publishes one frozen snapshot a tick."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from gpu_exporter.config import AccountingConfig, CollectionConfig, ProcessesConfig
from gpu_exporter.model import Build, Device, Failure, Reading, Snapshot
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.sampling.ledger import Ledger
from gpu_exporter.sampling.poller import Outcome, Poller
from gpu_exporter.sampling.processes import ProcessTable
from gpu_exporter.sources import Source, SourceError

log = logging.getLogger(__name__)

STALE_AFTER: Final = 3  # intervals
# Without persistence mode the driver initialises every GPU as it is opened, 1 to 2 s each.
_OPEN_TIMEOUT: Final = 60.0
_CLOSE_TIMEOUT: Final = 5.0
_RETRY_FIRST: Final = 1.0
_RETRY_MOST: Final = 60.0
# NVIDIA's container toolkit #48: a container that lost its devices answers so for ever; only a restart helps.
_BLINDED: Final = frozenset({"unknown", "permission"})
_BLINDED_FOR: Final = 300.0


class Sampler:
    """Reads every GPU on a fixed grid and tells what it saw.

    ``start`` and ``close`` frame its life. ``latest`` may be called from any thread and never waits.
    """

    def __init__(
        self,
        *,
        open_source: Callable[[], Source],
        source_name: str,
        collection: CollectionConfig,
        build: Build,
        resolver: Resolver | None = None,
        processes: ProcessesConfig | None = None,
        accounting: AccountingConfig | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_source = open_source
        self._collection = collection
        self._clock = clock
        self._monotonic = monotonic
        self._snapshot = Snapshot(
            build=build, source=source_name, gpus_expected=collection.expected_gpus, monotonic=monotonic()
        )
        self._withheld: tuple[Snapshot, Snapshot] | None = None
        processes = processes or ProcessesConfig()
        self._resolver = resolver or Resolver()
        self._table = ProcessTable(most=processes.max, labels=processes.labels)
        self._ledger = Ledger(gap=STALE_AFTER * collection.interval, accounting=accounting)
        self._poller = Poller(name="poller", monotonic=monotonic)
        self._wake = threading.Condition()
        self._stopping = False
        self._first_cycle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

        self._source: Source | None = None
        self._abandoned: list[Source] = []
        self._opening = False
        self._late_source: Source | None = None
        self._retry_at = 0.0
        self._retry_in = _RETRY_FIRST
        self._known: dict[str, Device] = {}
        self._parked: set[str] = set()
        self._back: set[str] = set()
        self._late_readings: deque[Reading] = deque()
        self._down: dict[str, str] = {}
        self._source_trouble: str | None = None
        self._paused_until: float | None = None
        self._toggle_pause = False
        self._worked = False
        self._blinded_since: float | None = None

    # --- for any thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def wait_first(self, timeout: float) -> bool:
        """Wait until the first cycle ended, well or badly."""
        return self._first_cycle.wait(timeout)

    def latest(self) -> Snapshot:
        """The newest snapshot; without readings once it is older than three intervals."""
        snapshot = self._snapshot
        age = self._monotonic() - snapshot.monotonic
        if age <= STALE_AFTER * self._collection.interval or not (snapshot.readings or snapshot.ok):
            return snapshot
        if self._withheld is None or self._withheld[0] is not snapshot:
            self._withheld = (snapshot, replace(snapshot, readings=(), ok=False))
        return self._withheld[1]

    def live(self) -> str | None:
        """None, or the one trouble that a restart of the process cures."""
        since = self._blinded_since
        if since is None or self._monotonic() - since < _BLINDED_FOR:
            return None
        return "no GPU has answered for 5 minutes although they did before: this container lost its devices; restart it"

    def ready(self) -> str | None:
        """None where the latest sample is fresh and good, else why not."""
        snapshot = self.latest()
        if snapshot.paused:
            return "paused by SIGUSR1"
        if not snapshot.ok:
            return self._source_trouble or "no GPU answered the latest reading, or none was made yet"
        return None

    def reconfigure(self, collection: CollectionConfig, *, ok: bool) -> None:
        """Put new settings into force; ``ok`` tells whether the configuration file could be read."""
        with self._wake:
            self._collection = collection
            self._ledger.gap = STALE_AFTER * collection.interval
            self._snapshot = replace(self._snapshot, config_ok=ok, gpus_expected=collection.expected_gpus)
            if ok and self._source is not None:
                # Devices that are gone for good are forgotten here: the administrator just told us the world changed.
                present = {device.key for device in self._source.devices}
                self._known = {key: device for key, device in self._known.items() if key in present}
            self._wake.notify_all()

    def toggle_pause(self) -> None:
        """Close the driver for ``collection.pause``, or open it again."""
        with self._wake:
            self._toggle_pause = True
            self._wake.notify_all()

    def close(self) -> None:
        """Stop within a second, whatever the driver does: a call that hangs is left behind."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._poller.close()
        if self._thread.is_alive():
            self._thread.join(1.0)
        self._resolver.close()
        source = self._source
        if source is not None:
            closer = threading.Thread(
                target=partial(source.close, hung=bool(self._stuck())), name="closer", daemon=True
            )
            closer.start()
            closer.join(0.5)

    # --- the sampler's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        tick = self._monotonic()
        while not self._stopping:
            try:
                self._cycle()
            except Exception:  # the thread must outlive a bug
                log.exception("sampling failed: this is a bug in gpu-exporter")
                self._publish((), started=self._monotonic(), ok=False)
            self._first_cycle.set()
            tick = self._wait_for_tick(tick)

    def _wait_for_tick(self, tick: float) -> float:
        """Sleep to the next point of the grid; count the points that were missed."""
        with self._wake:
            while not self._stopping and not self._toggle_pause:
                interval = self._collection.interval
                now = self._monotonic()
                missed = int((now - tick) // interval)
                if missed > 1:
                    self._snapshot = replace(self._snapshot, overruns=self._snapshot.overruns + missed - 1)
                    tick += (missed - 1) * interval
                if now >= tick + interval:
                    return tick + interval
                self._wake.wait(tick + interval - now)
        return tick

    def _cycle(self) -> None:
        started = self._monotonic()
        self._close_abandoned()
        if self._handle_pause(started):
            return
        if self._source is None and not self._open(started):
            self._publish((), started=started, ok=False)
            return
        source = self._source
        if source is None:
            return
        while self._late_readings:
            self._ledger.add_increments(self._late_readings.popleft())
        try:
            readings = self._read_all(source)
        except SourceError as error:
            self._drop_source(source, str(error))
            self._publish((), started=started, ok=False)
            return
        for event in source.events():
            self._ledger.count_xid(event)
            log.warning("XID event", extra={"gpu": event.device.index, "xid": event.xid, "uuid": event.device.uuid})
        now = self._monotonic()
        owned = self._resolver.name_owners(readings)
        complete = tuple(self._table.add_rows(self._ledger.account(reading, now=now)) for reading in owned)
        self._note_health(complete, now)
        up = any(reading.failure is None for reading in complete)
        self._publish(complete, started=started, ok=up or not complete)

    def _read_all(self, source: Source) -> list[Reading]:
        """One reading a known device: read, parked, or gone."""
        devices = [(device, self._named(device)) for device in source.devices]
        for _, named in devices:
            self._known[named.key] = named
        asked = [(device, named) for device, named in devices if named.key not in self._parked]
        outcomes = self._poller.run(
            [partial(source.read, device) for device, _ in asked],
            timeout=self._collection.timeout,
            late=lambda position, outcome: self._returned(asked[position][1], outcome),
        )
        answers = [(named, outcome) for (_, named), outcome in zip(asked, outcomes, strict=True)]
        # Parked ones first: taking another's outcome may raise, and they must not be read a second time then.
        readings = {named.key: self._overran(named) for named, outcome in answers if outcome is None}
        for named, outcome in answers:
            if outcome is not None:
                reading = self._came(named, outcome.get())
                readings[reading.device.key] = reading
        for key, device in list(self._known.items()):
            if key in readings:
                continue
            if key in self._parked:
                readings[key] = Reading(device, failure=Failure("timeout", "its driver call has not returned yet"))
            else:
                gone = Reading(device, failure=Failure("lost", "the driver does not list it any more"))
                readings[key] = self._came(device, gone)
        return sorted(readings.values(), key=lambda reading: (reading.device.index, reading.device.uuid))

    def _named(self, device: Device) -> Device:
        """The device under the best name it ever had: one that has not answered yet cannot tell its own."""
        if device.uuid:
            self._known.pop(replace(device, uuid="").key, None)
            return device
        known = (other for other in self._known.values() if other.uuid and other.index == device.index)
        return next(known, device)

    def _came(self, device: Device, reading: Reading) -> Reading:
        """The reading under the device's best name: its own, or the one it had before."""
        if reading.device.uuid:
            device = self._named(reading.device)
            self._known[device.key] = device
        if reading.failure is not None:
            self._ledger.count_failure(device.key, reading.failure.reason)
        return replace(reading, device=device)

    def _overran(self, device: Device) -> Reading:
        with self._wake:
            if device.key in self._back:  # it returned between its deadline and now
                self._back.discard(device.key)
            else:
                self._parked.add(device.key)
        self._ledger.count_failure(device.key, "timeout")
        return Reading(
            device, failure=Failure("timeout", f"its driver call took longer than {self._collection.timeout:g} s")
        )

    def _returned(self, device: Device, outcome: Outcome[Reading]) -> None:
        """A late call came back (told on its own thread): the device is read again from the next tick on."""
        with self._wake:
            if device.key in self._parked:
                self._parked.discard(device.key)
            else:
                self._back.add(device.key)
            if outcome.result is not None:
                self._late_readings.append(outcome.result)

    # --- opening, closing, pausing -----------------------------------------------------------------------------------

    def _open(self, now: float) -> bool:
        """Open the source, where it is time to; True once it is open."""
        with self._wake:
            late, self._late_source = self._late_source, None
        if late is not None:
            self._adopt(late)
            return True
        if self._opening or now < self._retry_at:
            return False
        self._opening = True
        (outcome,) = self._poller.run([self._open_source], timeout=_OPEN_TIMEOUT, late=self._opened_late)
        if outcome is None:
            self._trouble("the driver does not answer: opening it hangs")
            return False
        self._opening = False
        try:
            self._adopt(outcome.get())
        except SourceError as error:
            self._retry_at = self._monotonic() + self._retry_in
            self._retry_in = min(2 * self._retry_in, _RETRY_MOST)
            self._trouble(str(error))
            return False
        return True

    def _opened_late(self, _: int, outcome: Outcome[Source]) -> None:
        with self._wake:
            self._opening = False
            if outcome.result is not None:
                self._late_source = outcome.result
            self._wake.notify_all()

    def _adopt(self, source: Source) -> None:
        self._source = source
        self._retry_in = _RETRY_FIRST
        self._source_trouble = None
        versions = source.driver
        log.info(
            "source opened",
            extra={"source": source.name, "gpus": len(source.devices), "driver": versions.driver_version},
        )
        if not source.devices:
            log.warning("the driver lists no GPU")

    def _drop_source(self, source: Source, why: str) -> None:
        self._source = None
        self._ledger.interrupt()
        self._retry_at = self._monotonic() + self._retry_in
        self._retry_in = min(2 * self._retry_in, _RETRY_MOST)
        self._blinded_since = None
        self._trouble(why)
        self._close_source(source)

    def _close_source(self, source: Source) -> None:
        """Close it; where a call still hangs inside, without shutting the driver down until that has returned."""
        for event in source.events():
            self._ledger.count_xid(event)
        hung = bool(self._parked)
        if hung:
            log.warning("the driver stays open: calls still hang in it", extra={"stuck": len(self._parked)})
            self._abandoned.append(source)
        self._call_close(source, hung=hung)

    def _close_abandoned(self) -> None:
        """Shut the driver down as often as it was opened: only then does it let go, and forget a failed session."""
        while self._abandoned and not self._parked:
            self._call_close(self._abandoned.pop(), hung=False)

    def _call_close(self, source: Source, *, hung: bool) -> None:
        (outcome,) = self._poller.run(
            [partial(source.close, hung=hung)], timeout=_CLOSE_TIMEOUT, late=lambda _, __: None
        )
        if outcome is None:
            log.warning("closing the driver hangs; going on without")
        elif outcome.error is not None:
            log.info("closing the driver failed", extra={"error": str(outcome.error)})

    def _trouble(self, why: str) -> None:
        """Log a source's trouble once, not once a retry."""
        if why != self._source_trouble:
            log.error("no readings: %s", why)
        self._source_trouble = why

    def _handle_pause(self, now: float) -> bool:
        """True while paused."""
        with self._wake:
            toggled, self._toggle_pause = self._toggle_pause, False
        if toggled and self._paused_until is None:
            self._paused_until = now + self._collection.pause
            log.warning("paused: the driver is closed", extra={"seconds": self._collection.pause})
            source, self._source = self._source, None
            self._ledger.interrupt()
            if source is not None:
                self._close_source(source)
        elif self._paused_until is not None and (toggled or now >= self._paused_until):
            self._paused_until = None
            self._retry_at = 0.0
            log.info("resumed")
        if self._paused_until is None:
            return False
        with self._wake:
            self._snapshot = replace(
                self._snapshot, readings=(), paused=True, stuck=self._stuck(), monotonic=self._monotonic()
            )
        return True

    # --- telling -----------------------------------------------------------------------------------------------------

    def _stuck(self) -> int:
        return len(self._parked) + self._opening

    def _publish(self, readings: tuple[Reading, ...], *, started: float, ok: bool) -> None:
        now = self._monotonic()
        source = self._source
        with self._wake:
            self._snapshot = replace(
                self._snapshot,
                driver=source.driver if source is not None else None,
                readings=readings,
                ok=ok,
                timestamp=self._clock() if ok else self._snapshot.timestamp,
                monotonic=now,
                duration=now - started,
                stuck=self._stuck(),
                paused=False,
            )

    def _note_health(self, readings: Sequence[Reading], now: float) -> None:
        """Log what changed since the last tick; remember how long every GPU has refused."""
        down = {
            reading.device.key: f"{reading.failure.reason}: {reading.failure.message}"
            for reading in readings
            if reading.failure is not None
        }
        devices = {reading.device.key: reading.device for reading in readings}
        for key, why in down.items():
            if key not in self._down:
                log.error("GPU is down", extra={"gpu": devices[key].index, "uuid": devices[key].uuid, "why": why})
        for key in self._down.keys() - down.keys():
            if key in devices:
                log.info("GPU is up again", extra={"gpu": devices[key].index, "uuid": devices[key].uuid})
        self._down = down
        self._worked = self._worked or any(reading.failure is None for reading in readings)
        blinded = bool(readings) and all(
            reading.failure is not None and reading.failure.reason in _BLINDED for reading in readings
        )
        if not (blinded and self._worked):
            self._blinded_since = None
        elif self._blinded_since is None:
            self._blinded_since = now
