"""The parts put together: from a configuration to a sampler, what the pages ask of it, and what lets clients in."""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Event
from typing import Final

from gpu_exporter import __version__
from gpu_exporter.config import Config, ConfigError, parsers
from gpu_exporter.events.kernel_log import KernelLog
from gpu_exporter.events.merge import EventLog
from gpu_exporter.host import HostWatch
from gpu_exporter.http.listening import ListenError
from gpu_exporter.http.server import Server
from gpu_exporter.model import Build, Device, Host, Snapshot
from gpu_exporter.owners.factory import open_resolver
from gpu_exporter.pages.application import Application
from gpu_exporter.pages.compat import Compat
from gpu_exporter.pages.exposition import Page
from gpu_exporter.pages.trail import Trail
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sampling.sampler import STALE_AFTER, Sampler
from gpu_exporter.sources import Source, open_source, source_kind

log = logging.getLogger(__name__)

# Opening takes 1 to 2 s a GPU without persistence mode; see the sampler.
_OPENING: Final = 75.0  # seconds


class StartError(Exception):
    """The exporter cannot start; the message is one line for the user."""


def build_sampler(
    config: Config,
    *,
    opened: Callable[[], Source] | None = None,
    published: Callable[[Snapshot], None] = lambda _: None,
    make_room: Callable[[], None] = lambda: None,
    light: bool = False,
    expected: Callable[[Snapshot], None] = lambda _: None,
) -> Sampler:
    """A sampler over the configured source, not yet started. Raises ConfigError.

    ``opened`` opens it in another way than the settings say; ``published`` is called with each reading's snapshot, and
    ``make_room`` where there are no more threads to be had. With ``light`` there are light readings between full ones,
    and ``expected`` is called with a snapshot that somebody is expected to scrape.
    """
    kind = source_kind(config)
    return Sampler(
        open_source=opened or open_source(config),
        published=published,
        make_room=make_room,
        light=light,
        expected=expected,
        source_name=kind.name,
        simulated=kind.simulated,
        collection=config.collection,
        build=Build(version=__version__, python_version=platform.python_version()),
        events=EventLog(open_kernel_log(config)),
        pipeline=Pipeline(
            gap=STALE_AFTER * config.collection.interval,
            resolver=open_resolver(config),
            processes=config.processes,
            accounting=config.accounting,
        ),
    )


def open_kernel_log(config: Config) -> KernelLog | None:
    """The kernel log as configured, not yet read; None where it is off, or where the GPUs are not of this machine."""
    path = config.collection.kernel_log
    kind = source_kind(config)
    if path == "off" or (path == "auto" and (kind.simulated or kind.name == "replay")):
        return None
    return KernelLog(None if path == "auto" else Path(path), clock=time.time, monotonic=time.monotonic)


def read_once(config: Config, *, deadline: float | None = None) -> tuple[Snapshot, str | None]:
    """The first snapshot, and what is wrong with it (None: nothing). Raises ConfigError.

    ``deadline`` is how many seconds it may take, by default long enough for a machine without persistence mode.
    """
    sampler = build_sampler(config)
    sampler.start()
    try:
        done = sampler.wait_first(_OPENING + 2 * config.collection.timeout if deadline is None else deadline)
        if not done and deadline is not None:
            return sampler.latest(), f"the driver has not answered within {deadline:g} s"
        return sampler.latest(), sampler.ready()
    finally:
        sampler.close()


def read_on(config: Config) -> Iterator[tuple[Snapshot, str | None]]:
    """Every snapshot as it is taken, with what is wrong with it (None: nothing). Raises ConfigError."""
    taken: Queue[Snapshot] = Queue()
    sampler = build_sampler(config, published=taken.put)
    sampler.start()
    try:
        while True:
            with suppress(Empty):
                # In pieces, so that Ctrl-C is heard on every Python.
                snapshot = taken.get(timeout=0.5)
                yield snapshot, sampler.ready()
    finally:
        sampler.close()


def build_page(config: Config, *, hostname: str) -> Page:
    """What renders /metrics as configured; ``hostname`` is the machine's name."""
    return Page(compat=Compat(config.compat, hostname=hostname) if config.compat else None)


def record(config: Config, path: Path, *, readings: int, names: bool) -> tuple[Snapshot, str | None]:
    """Write so many readings into a file; the last snapshot, and what is wrong with it (None: nothing).

    ``names`` has serial numbers and names of users and processes written as they are. Where nothing could be read there
    is no file. Raises ConfigError.
    """
    from gpu_exporter.sources.tape import Tape  # noqa: PLC0415 - a daemon has no use for it

    recorder = source_kind(config).recorder
    if recorder is None:
        what = parsers.quoted(config.source)
        raise ConfigError(f"--record: {what} has no driver whose answers could be recorded; write --source nvml or smi")
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--record: {path}: cannot be written: {error.strerror}") from None
    tape, done, trouble = Tape(file, names=names), Event(), []

    def published(snapshot: Snapshot) -> None:
        try:
            tape.end_reading(
                snapshot.source, snapshot.readings, interval=config.collection.interval, version=__version__
            )
        except OSError as error:
            trouble.append(f"--record: {path}: cannot be written: {error.strerror}")
        if trouble or not tape.readings or tape.readings >= readings:
            done.set()

    sampler = build_sampler(config, opened=recorder(config, tape), published=published)
    sampler.start()
    try:
        done.wait(_OPENING + (readings + 1) * (config.collection.interval + config.collection.timeout))
        snapshot, why = sampler.latest(), sampler.ready()
    finally:
        sampler.close()
        with suppress(OSError):  # of a full disk, which was told before
            file.close()
    if trouble:
        raise ConfigError(trouble[0])
    if not tape.readings:
        path.unlink(missing_ok=True)
    return snapshot, why


class Site:
    """What the pages ask for: the sampler's newest snapshot, its bytes, the sampler's health, and the machine."""

    def __init__(self, sampler: Sampler, host: HostWatch, page: Page, trail: Trail) -> None:
        self._sampler = sampler
        self._host = host
        self._page = page
        self._trail = trail

    def exposition(self, *, openmetrics: bool, gzip: bool, client: str) -> bytes:
        """The newest snapshot's bytes."""
        snapshot = self._sampler.latest()
        if client:
            self._sampler.scraped(client, snapshot)
        return self._page.body(snapshot, openmetrics=openmetrics, gzip=gzip)

    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return self._sampler.latest()

    def watched(self) -> None:
        """See Sampler.watched."""
        self._sampler.watched()

    def host(self) -> Host:
        """See HostWatch.latest."""
        return self._host.latest()

    def trail(self, device: Device) -> Sequence[float | None]:
        """See Trail.of."""
        return self._trail.of(device)

    def interval(self) -> float:
        """See Sampler.interval."""
        return self._sampler.interval

    def age(self, snapshot: Snapshot) -> float | None:
        """See Sampler.age."""
        return self._sampler.age(snapshot)

    def live(self) -> str | None:
        """See Sampler.live."""
        return self._sampler.live()

    def ready(self) -> str | None:
        """See Sampler.ready."""
        return self._sampler.ready()


class Exporter:
    """All that runs, from ``start`` to ``close``. Raises StartError or ConfigError before anything listens.

    ``settled`` is called on the sampler's thread after the first reading. ``heartbeat`` shows life: the loop that
    answers scrapes calls it, not the sampler, because killing a process inside a driver call can freeze the GPU.
    """

    def __init__(
        self, config: Config, *, heartbeat: Callable[[], None], settled: Callable[[], None] = lambda: None
    ) -> None:
        self._config = config
        self._settled: Callable[[], None] | None = settled
        self._trail = trail = Trail()
        # Where threads run out, readings come before answers.
        self._host = HostWatch(config.host)
        self._page = page = build_page(config, hostname=self._host.latest().name)
        self._sampler = build_sampler(
            config, published=self._published, make_room=self._make_room, light=True, expected=page.prepare
        )
        application = Application(
            provider=Site(self._sampler, self._host, page, trail),
            telemetry_path=config.web.telemetry_path,
            process_labels=config.processes.labels,
        )
        gate = None
        if config.web.config_file is not None:
            from gpu_exporter.http.access import Gate  # noqa: PLC0415 - a MiB, for TLS

            gate = Gate(config.web.config_file)
        try:
            self._server = Server(
                gate.protect(application) if gate else application,
                addresses=config.web.listen_address,
                allow=config.web.allow,
                wrap=gate.wrap if gate and gate.secure else None,
                heartbeat=heartbeat,
            )
        except ListenError as error:
            raise StartError(f"web.listen_address: {error}") from None
        self._gate = gate
        self.address: Final = ",".join(map(str, self._server.addresses))

    def start(self) -> None:
        """Begin to sample and to serve. Raises StartError where a GPU is required and none can be read.

        It is served from before the first reading on: while the driver hangs, that can be seen.
        """
        self._sampler.start()
        self._host.start()
        self._server.start()
        snapshot = self._sampler.latest()
        if snapshot.simulated:
            log.warning("the data is simulated: no real GPU is read", extra={"source": snapshot.source})
        path, scheme = self._config.web.telemetry_path, self._server.scheme
        log.info("listening", extra={"address": self.address, "path": path, "scheme": scheme})
        if self._gate and self._gate.passwords and not self._gate.secure:
            log.warning("passwords travel in the clear: the web configuration has no tls_server_config")
        if self._config.require_gpu:
            self._require_gpu()

    def apply(self, config: Config) -> None:
        """Put what needs no restart into force. Raises ConfigError, and changes nothing, where certificates are bad."""
        if self._gate:
            self._gate.reload()
        self._config = config
        self._sampler.reconfigure(config.collection, ok=True)
        self._server.allow = config.web.allow

    def keep(self) -> None:
        """Go on as before, and tell that the configuration could not be read."""
        self._sampler.reconfigure(self._config.collection, ok=False)

    def toggle_pause(self) -> None:
        """Close the driver for a while, or open it again."""
        self._sampler.toggle_pause()

    def close(self) -> None:
        """Stop within two seconds; a driver call that hangs is left behind."""
        server = threading.Thread(target=self._server.close, name="closing server", daemon=True)
        try:
            server.start()
        except RuntimeError:  # no more threads
            self._server.close()
        self._sampler.close()
        self._host.close()
        if server.is_alive():
            server.join()

    def _published(self, snapshot: Snapshot) -> None:
        self._trail.add(snapshot)
        self._page.note_process()
        if self._settled is not None and snapshot.ok:
            settled, self._settled = self._settled, None
            settled()

    def _make_room(self) -> None:
        self._server.connections.make_room()

    def _require_gpu(self) -> None:
        self._sampler.wait_first(_OPENING)
        if not self._sampler.latest().gpus_up:
            why = self._sampler.ready() or "the driver lists no GPU"
            raise StartError(f"require_gpu: no GPU can be read: {why}")
