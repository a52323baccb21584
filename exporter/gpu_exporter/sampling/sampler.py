"""The thread that reads the GPUs and publishes one frozen snapshot a tick."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from gpu_exporter.config import CollectionConfig
from gpu_exporter.events.merge import EventLog
from gpu_exporter.model import Build, Reading, Snapshot
from gpu_exporter.sampling.ages import Ages
from gpu_exporter.sampling.health import HealthLog
from gpu_exporter.sampling.lifecycle import Lifecycle
from gpu_exporter.sampling.naming import Naming
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sampling.poller import Poller
from gpu_exporter.sampling.rhythm import Rhythm
from gpu_exporter.sampling.roster import Roster
from gpu_exporter.sampling.round import Round
from gpu_exporter.sampling.schedule import Due, Schedule
from gpu_exporter.sampling.xids import log_events
from gpu_exporter.sources import BufferedSource, HearingSource, LightSource, Source, SourceChangedError, SourceError

log = logging.getLogger(__name__)

STALE_AFTER: Final = 3  # intervals
# Seconds that the machine slept, from which on the readings of before are taken anew at once.
_SLEPT: Final = 1.0
_WATCHED: Final = 60.0  # seconds since somebody asked for a snapshot
# Seconds that a round which is under way has at the end: beneath a call that is cut short the driver cannot be closed.
_FINISH: Final = 0.5


def _since_boot() -> float:
    """Seconds since the boot, those included in which the machine was asleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What other threads want of the sampler's; a newer configuration replaces an older one."""

    collection: CollectionConfig | None = None
    config_ok: bool = True
    toggle_pause: bool = False


class Sampler:
    """Reads every GPU when the schedule says so, and tells what it saw.

    ``start`` and ``close`` frame its life; ``published`` is called on its thread with the snapshot of each reading, and
    while it pauses.
    ``latest`` may be called from any thread and never waits. What other threads want of it is handed over as a wish;
    only its own thread changes its state and publishes.

    ``monotonic`` tells when readings are due, ``since_boot`` how old they are: by default that goes on while the
    machine is suspended or paused. ``make_room`` is called where the process may have no more threads. Without
    ``light`` all readings are full ones. ``expected`` is called with a snapshot that somebody is expected to scrape.
    """

    def __init__(
        self,
        *,
        open_source: Callable[[], Source],
        source_name: str,
        simulated: bool = False,
        collection: CollectionConfig,
        build: Build,
        pipeline: Pipeline | None = None,
        events: EventLog | None = None,
        published: Callable[[Snapshot], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        since_boot: Callable[[], float] | None = None,
        make_room: Callable[[], None] = lambda: None,
        light: bool = False,
        expected: Callable[[Snapshot], None] = lambda _: None,
    ) -> None:
        self._light = light
        self._watched_until = -math.inf
        self._expected = expected
        self._ages = Ages()
        self._rhythm = Rhythm(interval=collection.interval)
        self._due = Due(0.0, "full")
        self._collection = collection
        self._published = published
        self._clock = clock
        self._monotonic = monotonic
        self._since_boot = since_boot or (_since_boot if monotonic is time.monotonic else monotonic)
        self._ahead = self._since_boot() - monotonic()  # of the two clocks, as of the latest cycle
        self._snapshot = Snapshot(
            build=build,
            source=source_name,
            simulated=simulated,
            gpus_expected=collection.expected_gpus,
            monotonic=self._since_boot(),
        )
        self._withheld: tuple[Snapshot, Snapshot] | None = None
        self._wake = threading.Condition()
        self._wish = _Wish()
        self._stopping = False
        self._first_cycle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

        self._spent = {"full": 0.0, "light": 0.0}  # seconds, by the kind of reading
        self._schedule = Schedule(interval=collection.interval, now=monotonic(), rhythm=self._rhythm)
        self._pipeline = pipeline or Pipeline(gap=STALE_AFTER * collection.interval)
        self._events = events or EventLog()
        self._health = HealthLog()
        self._roster = Roster()
        self._poller = Poller(name="poller", monotonic=monotonic, make_room=make_room)
        self._round = Round(roster=self._roster, poller=self._poller, clock=self._since_boot)
        self._naming = Naming(self._pipeline.name_owners, self._poller)
        self._lifecycle = Lifecycle(
            open_source=open_source,
            poller=self._poller,
            monotonic=monotonic,
            hanging=lambda: self._roster.hanging,
            closing=self._before_close,
            wake=self._wake,
        )

    # --- for any thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to sample."""
        self._events.start()
        self._thread.start()

    def wait_first(self, timeout: float) -> bool:
        """Wait until the first cycle ended, well or badly."""
        return self._first_cycle.wait(timeout)

    def latest(self) -> Snapshot:
        """The newest snapshot; without those readings that are older than three intervals."""
        snapshot = self._snapshot
        oldest = self._since_boot() - STALE_AFTER * self._collection.interval
        if snapshot.monotonic >= oldest or not (snapshot.readings or snapshot.ok):
            return snapshot
        fresh = tuple(each for each in snapshot.readings if each.read_at is not None and each.read_at >= oldest)
        # One object for each choice of readings, so that its page is rendered once.
        withheld = self._withheld
        if withheld is None or withheld[0] is not snapshot or len(withheld[1].readings) != len(fresh):
            withheld = self._withheld = (snapshot, _with_only(fresh, snapshot))
        return withheld[1]

    @property
    def interval(self) -> float:
        """Seconds between readings, as the settings in force have it."""
        return self._collection.interval

    def age(self, snapshot: Snapshot) -> float | None:
        """Seconds since the snapshot was taken, by a light reading or a full one; None where there was none."""
        if snapshot.timestamp is None:
            return None
        if snapshot.ok and not snapshot.paused:
            return max(0.0, self._since_boot() - snapshot.monotonic)
        return max(0.0, self._clock() - snapshot.timestamp)

    def scraped(self, client: str, snapshot: Snapshot) -> None:
        """Somebody scrapes, and gets this snapshot: when he comes next, it is to be a young one."""
        self._rhythm.note(client, self._monotonic())
        if snapshot.ok and not snapshot.paused:
            self._ages.note(max(0.0, self._since_boot() - snapshot.full_at))

    def watched(self) -> None:
        """Somebody keeps accounts from one snapshot to the next (a hub): every reading is to be a full one for a while.

        What full readings add up comes late with light ones, and in steps that are longer than his.
        """
        self._watched_until = self._monotonic() + _WATCHED

    def live(self) -> str | None:
        """None, or the one trouble that a restart of the process cures."""
        return None if self._snapshot.paused else self._health.trouble(self._monotonic())

    def ready(self) -> str | None:
        """None where the latest sample is fresh and good, else why not."""
        snapshot = self.latest()
        if snapshot.paused:
            return "paused by SIGUSR1"
        if not snapshot.ok:
            return self._lifecycle.trouble or "no GPU answered the latest reading, or none was made yet"
        return None

    def reconfigure(self, collection: CollectionConfig, *, ok: bool) -> None:
        """Put new settings into force; ``ok`` tells whether the configuration file could be read."""
        with self._wake:
            self._wish = replace(self._wish, collection=collection, config_ok=ok)
            self._wake.notify_all()

    def toggle_pause(self) -> None:
        """Close the driver for ``collection.pause``, or open it again."""
        with self._wake:
            self._wish = replace(self._wish, toggle_pause=not self._wish.toggle_pause)
            self._wake.notify_all()

    def close(self) -> None:
        """Stop within two seconds, whatever the driver does: a call that hangs is left behind."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(_FINISH)
        self._poller.close()
        if self._thread.is_alive():
            self._thread.join(_FINISH)
        self._pipeline.close()
        self._events.close()
        # What was left open beneath a call that hung and has returned is closed by nobody else now.
        for source in self._lifecycle.left_open():
            closer = threading.Thread(
                target=partial(source.close, hung=bool(self._stuck())), name="closer", daemon=True
            )
            closer.start()
            closer.join(0.5)

    # --- the sampler's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._survive(self._cycle)
            self._first_cycle.set()
            self._survive(self._wait)

    def _survive(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # the thread must outlive a bug
            log.exception("sampling failed: this is a bug in gpu-exporter")
            self._publish((), started=self._monotonic(), ok=False)

    def _wait(self) -> None:
        """Sleep until the next reading is due; wishes are granted and the driver's buffers are read meanwhile."""
        while not self._stopping:
            was_paused = self._snapshot.paused
            self._grant_wish()
            if self._lifecycle.paused(self._monotonic()) != was_paused:
                self._due = Due(self._monotonic(), "full")
                self._schedule.began(self._due, self._due.at)
                return
            with self._wake:
                if self._stopping or self._wish != _Wish():
                    continue
                now = self._monotonic()
                slept = self._slept()
                due = Due(now, "full") if slept else self._schedule.due(now, light=self._has_light())
                if now < due.at:
                    self._wake.wait(due.at - now)
                    continue
            self._schedule.began(due, now)
            if due.kind != "buffers":
                self._due = due
                return
            self._survive(self._read_buffers)

    def _has_light(self) -> bool:
        watched = self._monotonic() < self._watched_until
        return self._light and not watched and isinstance(self._lifecycle.source, LightSource)

    def _slept(self) -> bool:
        """Whether the machine was asleep since the latest cycle."""
        return self._since_boot() - self._monotonic() - self._ahead > _SLEPT

    def _grant_wish(self) -> None:
        with self._wake:
            wish, self._wish = self._wish, _Wish()
        if wish.collection is not None:
            self._apply(wish.collection, ok=wish.config_ok)
        if wish.toggle_pause:
            self._lifecycle.toggle_pause(self._monotonic(), seconds=self._collection.pause)

    def _apply(self, collection: CollectionConfig, *, ok: bool) -> None:
        self._collection = collection
        self._schedule.interval = collection.interval
        self._pipeline.gap = STALE_AFTER * collection.interval
        source = self._lifecycle.source
        if ok and source is not None:
            # Devices that are gone for good are forgotten here: the administrator just told us the world changed.
            self._roster.forget_but(source.devices)
        self._snapshot = replace(self._snapshot, config_ok=ok, gpus_expected=collection.expected_gpus)

    def _cycle(self) -> None:
        started = self._monotonic()
        self._ahead = self._since_boot() - started
        self._grant_wish()
        self._lifecycle.close_abandoned()
        if self._lifecycle.paused(started):
            self._publish_pause()
            return
        readings = self._read(started)
        if self._stopping:
            return  # what was cut short is no failure of a GPU's
        source = self._lifecycle.source
        if readings is None or source is None:
            self._health.closed(self._lifecycle.error, self._monotonic())
            self._publish((), started=started, ok=False)
            return
        self._pipeline.move(self._roster.moves())
        self._pipeline.add_late(self._roster.late_readings(), started)
        self._take_events(source)
        now = self._monotonic()
        name = partial(self._naming.name, timeout=self._collection.timeout)
        complete = self._pipeline.complete(readings, now, name_owners=name)
        if self._stopping:
            return
        self._health.note(complete, now)
        self._publish(complete, started=started, ok=any(reading.failure is None for reading in complete))
        if self._due.scrape:
            self._tell(self._expected, self.latest())

    @staticmethod
    def _tell(listener: Callable[[Snapshot], None], snapshot: Snapshot) -> None:
        """Tell somebody outside of a snapshot; the thread must outlive his bugs as well."""
        try:
            listener(snapshot)
        except Exception:
            log.exception("what comes after a reading failed: this is a bug in gpu-exporter")

    def _read(self, now: float) -> list[Reading] | None:
        """One reading a known device; None where there is no source. One whose GPUs changed is reopened at once."""
        for _ in range(2):
            source = self._lifecycle.opened(now)
            if source is None:
                return None
            try:
                readings = self._read_round(source)
            except SourceChangedError as change:
                self._lifecycle.reopen(str(change))
            except SourceError as error:
                self._lifecycle.failed(error)
                return None
            else:
                if source.devices:
                    self._lifecycle.works()
                return readings
        return None

    def _read_round(self, source: Source) -> list[Reading]:
        """A full round, or a light one where that is due and the source has such."""
        due, timeout = self._due, self._collection.timeout
        if due.kind == "light" and isinstance(source, LightSource):
            ask = partial(source.read_light, buffers=due.buffers)
            return self._round.read_all(source, timeout=timeout, ask=ask)
        return self._round.read_all(source, timeout=timeout, spread=due.scrape)

    def _take_events(self, source: Source) -> None:
        # What was heard before a GPU had told its name belongs to that name.
        told = [replace(event, device=self._roster.named(event.device)) for event in source.events()]
        known = [reading.device for reading in self._snapshot.readings]  # also what the driver lists no longer
        events = self._events.take(told, [*known, *map(self._roster.named, source.devices)])
        if isinstance(source, HearingSource):
            self._pipeline.count_events(source.could_tell())
        self._pipeline.count_events(events)
        log_events(events)

    def _read_buffers(self) -> None:
        """Add what the driver sampled since its buffers were read: they run over before the next reading comes."""
        source = self._lifecycle.source
        if not isinstance(source, BufferedSource) or self._lifecycle.paused(self._monotonic()):
            return
        started = self._monotonic()
        try:
            told = self._round.read_buffers(source, timeout=self._collection.timeout)
        except SourceError as error:  # the next reading will say so as well, and deal with it
            log.debug("the driver's buffers could not be read", extra={"error": str(error)})
            return
        finally:
            self._spent["light"] += self._monotonic() - started
        self._pipeline.add_late(told, self._monotonic())

    def _before_close(self, source: Source) -> None:
        self._pipeline.interrupt()
        self._take_events(source)

    def _stuck(self) -> int:
        return self._roster.hanging + self._lifecycle.opening + self._lifecycle.closings

    def _publish_pause(self) -> None:
        self._snapshot = replace(
            self._snapshot, readings=(), paused=True, stuck=self._stuck(), monotonic=self._since_boot()
        )
        self._tell(self._published, self._snapshot)

    def _publish(self, readings: tuple[Reading, ...], *, started: float, ok: bool) -> None:
        source = self._lifecycle.source
        now = self._since_boot()
        oldest, full = min(_began(readings), default=now), min(_began(readings, full=True), default=now)
        took, light = self._monotonic() - started, self._due.kind == "light"
        self._spent["light" if light else "full"] += took
        if not light:
            self._schedule.took(took)
        self._snapshot = replace(
            self._snapshot,
            source=source.name if source is not None else self._snapshot.source,
            driver=source.driver if source is not None else None,
            readings=readings,
            ok=ok,
            timestamp=self._clock() - (now - full) if ok else self._snapshot.timestamp,
            monotonic=oldest,
            full_at=full,
            duration=self._snapshot.duration if light else took,
            overruns=self._schedule.overruns,
            stuck=self._stuck(),
            paused=False,
            implausible=dict(self._pipeline.implausible),
            event_sources=self._events.sources(nvml=isinstance(source, HearingSource) and source.hears),
            sxids=self._events.sxids,
            sxids_latest=self._events.sxids_latest,
            reading_seconds=dict(self._spent),
            ages=self._ages.told(),
        )
        self._tell(self._published, self._snapshot)


def _with_only(readings: tuple[Reading, ...], snapshot: Snapshot) -> Snapshot:
    """The snapshot with these of its readings."""
    read = _began(readings)
    if not read:
        return replace(snapshot, readings=(), ok=False, driver=None)
    full = min(_began(readings, full=True))
    timestamp = None if snapshot.timestamp is None else snapshot.timestamp + full - snapshot.full_at
    return replace(snapshot, readings=readings, timestamp=timestamp, monotonic=min(read), full_at=full)


def _began(readings: Sequence[Reading], *, full: bool = False) -> list[float]:
    """When those that succeeded began, or the full readings that they go back to."""
    good = [each for each in readings if each.failure is None and each.read_at is not None]
    return [each.full_at if full and each.full_at is not None else each.read_at or 0.0 for each in good]
