"""The hub put together, and the process around it: signals, files that change, and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from gpu_exporter.config import Address, ConfigError, Watch
from gpu_exporter.config.parsers import Network
from gpu_exporter.ending import Ending
from gpu_exporter.history import HistoryError, Journal, Recorder, Retention
from gpu_exporter.http.access import Gate
from gpu_exporter.http.notify import Notifier
from gpu_exporter.hub import nodes, settings
from gpu_exporter.hub.alerts import Alerts
from gpu_exporter.hub.application import Application
from gpu_exporter.hub.archive import Archive, ArchiveError, FileArchive, PrometheusArchive
from gpu_exporter.hub.control import Controller
from gpu_exporter.hub.discovery import Discovery
from gpu_exporter.hub.document import shown
from gpu_exporter.hub.fetching import Access, Fetched, Fetcher, access
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.names import Names
from gpu_exporter.hub.past import Past
from gpu_exporter.hub.poller import Poller
from gpu_exporter.hub.results import Results
from gpu_exporter.hub.server import Server
from gpu_exporter.hub.settings import HubConfig
from gpu_exporter.report.client import Access as PrometheusAccess
from gpu_exporter.report.client import ReportError

log = logging.getLogger(__name__)

_LOOK_EVERY: Final = 1.0  # seconds between looks at nodes.yml and hub.yml


class StartError(Exception):
    """The hub cannot start; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    nodes_file: Path
    config_file: Path | None = None
    listen: Sequence[Address] = (Address("127.0.0.1", 9436),)
    allow: Sequence[Network] = ()
    web_config_file: Path | None = None
    history_path: Path | None = None
    prometheus: PrometheusAccess | None = None
    alertmanager_url: str | None = None
    # Where browsers reach it: None where that is the same, empty where they do not.
    alertmanager_links: str | None = None


@dataclass(frozen=True, slots=True)
class _Files:
    """What the files say."""

    config: HubConfig
    nodes: nodes.Nodes
    access: Access
    control: Access


def run(options: Options) -> None:
    """Run until SIGTERM or SIGINT. Raises StartError or ConfigError before anything listens."""
    ending = Ending()
    # Samples of thousands of GPUs are kept for a while and hold no cycles: looking through them for some, at the usual
    # rhythm, takes as long as everything else (measured with 1 000 machines).
    gc.set_threshold(20_000, 10, 20)
    files = _read(options)
    gate = None if options.web_config_file is None else Gate(options.web_config_file)
    _allow_many_descriptors()
    fleet = Fleet(interval=files.config.interval)
    past = _past(options, files, fleet)
    asyncio.run(Hub(options, files, gate, fleet, past).serve(ending))


def _past(options: Options, files: _Files, fleet: Fleet) -> Past | None:
    """What is kept of the past; None where nothing is. Raises StartError."""

    def host_of(node: str) -> str:
        state = fleet.get(node)
        return shown(state.host.name) if state is not None and state.host.name else node

    recorder: Recorder | None = None
    journal: Journal | None = None
    archive: Archive | None = None
    try:
        if options.history_path is not None:
            journal = Journal(options.history_path)
            recorder = Recorder(options.history_path, retention=Retention(minutes=files.config.retention))
            recorder.start()
        if options.prometheus is not None:
            archive = PrometheusArchive(options.prometheus, weights=files.config.weights)
        elif options.history_path is not None:
            archive = file = FileArchive(options.history_path, weights=files.config.weights)
            fleet.remember(file.seen())
        else:
            return None
    except (HistoryError, ArchiveError, ReportError) as error:
        for opened in (archive, recorder):
            if opened is not None:
                opened.close()
        raise StartError(str(error)) from None
    config = files.config
    results = Results(archive, config.thresholds, config.window, journal=journal)
    controller = Controller(config.control, files.control, host_of=host_of, journal=journal)
    return Past(archive, results, controller, config, recorder)


class Hub:
    """All that runs, on one event loop."""

    def __init__(self, options: Options, files: _Files, gate: Gate | None, fleet: Fleet, past: Past | None) -> None:
        self._options = options
        self._files = files
        self._gate = gate
        self._fleet = fleet
        self._past = past
        asked, links = options.alertmanager_url, options.alertmanager_links
        self._alerts = None if asked is None else Alerts(asked, links=asked if links is None else links)
        self._application = Application(fleet, past=past, alerts=self._alerts)
        self._notifier = Notifier.of_this_process()
        try:
            self._server = Server(self._application.build(gate), options.listen, allow=options.allow, gate=gate)
        except OSError as error:
            if past is not None:
                past.let_go()
            raise StartError(f"web.listen_address: {error}") from None

    async def serve(self, ending: Ending) -> None:
        """From the first question to the last answer."""
        stop, reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        ending.reload = partial(loop.call_soon_threadsafe, reload.set)
        ending.leave = partial(loop.call_soon_threadsafe, stop.set)
        names = Names(self._files.config.dns.server)
        fetcher = Fetcher(self._files.access, names)
        poller = Poller(self._fleet, fetcher, heard=self._heard)
        discovery = Discovery(names, fetcher, self._fleet, poller.replace)
        discovery.use(self._files.nodes, self._files.config)
        self._server.start()
        self._tell_listening()
        tasks = [
            asyncio.create_task(self._beat()),
            asyncio.create_task(self._follow(discovery, fetcher, names, reload)),
            asyncio.create_task(discovery.keep_looking()),
        ]
        if self._alerts is not None:
            tasks.append(asyncio.create_task(self._alerts.keep_asking()))
        if self._past is not None:
            tasks.append(asyncio.create_task(self._past.keep_analysing()))
        try:
            await _first(stop.wait(), *tasks)
        finally:
            self._notifier.stopping()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._application.events.close()
            await self._server.close()
            await poller.close()
            await fetcher.close()
            await names.close()
            if self._past is not None:
                await self._past.close()

    def _heard(self, name: str, fetched: Fetched | None) -> None:
        if self._past is not None:
            self._past.heard(name, fetched, time.time())

    def _tell_listening(self) -> None:
        scheme = self._server.scheme
        for address in self._server.addresses:
            log.info("listening", extra={"address": address, "scheme": scheme, "machines": len(self._fleet)})
        if self._gate is not None and self._gate.passwords and not self._gate.secure:
            log.warning("passwords travel in the clear: the web configuration has no tls_server_config")
        self._notifier.ready(f"listening on {', '.join(self._server.addresses)}")

    async def _beat(self) -> None:
        """Tell the viewers and the service manager that life goes on."""
        due = 0.0
        loop = asyncio.get_running_loop()
        while True:
            self._notifier.beat()
            if loop.time() >= due:
                due = loop.time() + self._fleet.interval
                await self._application.events.beat()
            await asyncio.sleep(min(1.0, max(0.05, due - loop.time())))

    async def _follow(self, discovery: Discovery, fetcher: Fetcher, names: Names, reload: asyncio.Event) -> None:
        """Put changed files into force; with bad ones, go on as before and tell."""
        watch = Watch(*self._paths())
        watch.mark()
        while True:
            await _within(_LOOK_EVERY, reload)
            if not reload.is_set() and not watch.settled():
                continue
            reload.clear()
            watch.mark()
            try:
                # Away from the loop: a list of a thousand machines takes a while to parse.
                files = await asyncio.to_thread(_read, self._options)
            except ConfigError as error:
                log.error("the files were not reloaded: %s", error)  # noqa: TRY400 - the line says it all
                self._fleet.complain(_public(str(error), self._options))
                continue
            except Exception:  # whatever is wrong with them, the hub goes on
                log.exception("the files were not reloaded: this is a bug in gpu-exporter")
                self._fleet.complain("the files were not reloaded; the log tells why")
                continue
            self._files = files
            self._fleet.complain("")
            self._fleet.interval = files.config.interval
            fetcher.access = files.access
            names.use(files.config.dns.server)
            discovery.use(files.nodes, files.config)
            if self._past is not None:
                self._past.use(files.config, files.control)
            watch.follow(*self._paths())
            log.info("files reloaded", extra={"machines": len(self._fleet)})

    def _paths(self) -> tuple[Path, ...]:
        config_file = self._options.config_file
        own = (self._options.nodes_file, *(() if config_file is None else (config_file,)))
        config = self._files.config
        secrets = (settings.secrets_of(http, config_file) for http in (config.http_config, config.control.http_config))
        return (*own, *(path for paths in secrets for path in paths))


def _public(complaint: str, options: Options) -> str:
    """A complaint without the folders of this machine, which are for the log."""
    for path in filter(None, (options.nodes_file, options.config_file)):
        complaint = complaint.replace(str(path), path.name)
    return complaint


def _read(options: Options) -> _Files:
    """Everything that people write. Raises ConfigError."""
    config = settings.load(options.config_file)
    how = access(config.http_config, scheme=config.scheme, timeout=config.deadline, beside=options.config_file)
    control = access(
        config.control.http_config,
        scheme="http",
        timeout=config.control.timeout,
        beside=options.config_file,
        place="control.http_config",
    )
    return _Files(config, nodes.load(options.nodes_file), how, control)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, so long at most. Not wait_for, which may swallow a cancellation before Python 3.12."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting], timeout=seconds)
    finally:
        waiting.cancel()


async def _first(*waits: object) -> None:
    """Until the first of them ends; its failure is ours."""
    tasks = [asyncio.ensure_future(one) for one in waits]  # type: ignore[call-overload]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _allow_many_descriptors() -> None:
    """A connection a machine and a viewer: as many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard))
