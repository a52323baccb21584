"""Where machines are looked up: exporters that are asked here, a hub that asks them, or this machine's driver."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from gpu_exporter.config import ConfigError, Watch
from gpu_exporter.config.parsers import Address
from gpu_exporter.hub.client import told
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.document import DocumentError, decode
from gpu_exporter.hub.fetching import Access, Fetched, Fetcher, FetchError
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.names import Names
from gpu_exporter.hub.nodes import Node, Nodes
from gpu_exporter.hub.poller import Poller

log = logging.getLogger(__name__)

Publish: TypeAlias = Callable[[View], None]
Tell: TypeAlias = Callable[[str, dict[str, Any]], object]

_LOOK: Final = 0.1  # seconds between looks at whether all have answered
_LOOK_AT_FILES: Final = 1.0
_PATIENCE: Final = 1.0  # seconds after which those that have answered are shown without the rest
_FAILURES: Final = 2  # in a row until a hub is given up; one lost packet is no news


class Origin(Protocol):
    """A place that tells of machines."""

    @property
    def name(self) -> str:
        """What it is called in a title."""

    @property
    def interval(self) -> float:
        """Seconds between views."""

    @property
    def hung(self) -> bool:
        """Whether a call may hang that the end of the process would wait for."""

    async def follow(self, publish: Publish) -> None:
        """Publish views until it is cancelled; the first one as soon as there is something to tell."""


@dataclass(frozen=True, slots=True)
class Machines:
    """Which machines are asked, and how."""

    nodes: Nodes
    access: Access
    dns: Address | None = None


class Exporters:
    """Exporters, each asked on its own. ``read`` is called again when a file changes; it raises ConfigError."""

    hung = False

    def __init__(
        self,
        name: str,
        machines: Machines,
        *,
        interval: float,
        read: Callable[[], Machines] | None = None,
        files: tuple[Path, ...] = (),
    ) -> None:
        self.name = name
        self.interval = interval
        self._machines = machines
        self._read = read
        self._files = files

    async def follow(self, publish: Publish) -> None:
        """Ask all machines until it is cancelled."""
        names = Names(self._machines.dns)
        fetcher = Fetcher(self._machines.access, names)
        fleet = Fleet(interval=self.interval)
        poller = Poller(fleet, fetcher)
        poller.replace(self._machines.nodes)
        reloading = asyncio.create_task(self._follow_files(fleet, fetcher, names, poller))
        try:
            await _publish_fleet(fleet, self.name, self.interval, publish)
        finally:
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
            await poller.close()
            await fetcher.close()
            await names.close()

    async def _follow_files(self, fleet: Fleet, fetcher: Fetcher, names: Names, poller: Poller) -> None:
        watch = Watch(*self._files)
        watch.mark()
        while self._read is not None:
            await asyncio.sleep(_LOOK_AT_FILES)
            if not watch.settled():
                continue
            try:
                machines = await asyncio.to_thread(self._read)
            except ConfigError as error:
                fleet.complain(str(error))
                continue
            fleet.complain("")
            fetcher.access = machines.access
            names.use(machines.dns)
            poller.replace(machines.nodes)


class Hub:
    """A hub, asked for what it knows. ``prefix`` is the path in front of its own."""

    hung = False

    def __init__(self, name: str, node: Node, access: Access, *, interval: float, prefix: str = "") -> None:
        self.name = name
        self.interval = interval
        self._node = node
        self._access = access
        self._prefix = prefix
        self._fetcher: Fetcher | None = None

    async def follow(self, publish: Publish) -> None:
        """Ask the hub until it is cancelled."""
        names = Names(None)
        self._fetcher = fetcher = Fetcher(self._access, names)
        view, failures = View(self.name), 0
        try:
            while True:
                began = time.monotonic()
                try:
                    view, failures = await self._look(fetcher), 0
                    publish(view)
                except (FetchError, told.ToldError) as error:
                    failures += 1
                    if failures >= _FAILURES or not view.machines:
                        view = view.blind(f"the hub {error}", time.time())
                        publish(view)
                await asyncio.sleep(max(0.1, self.interval - (time.monotonic() - began)))
        finally:
            self._fetcher = None
            await fetcher.close()
            await names.close()

    async def curve(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The answer of /api/v1/history. Raises FetchError or ToldError."""
        if self._fetcher is None:
            raise FetchError("error", "is not asked any more")
        body = await self._fetcher.body(self._node, f"{self._prefix}/api/v1/history", query)
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            raise told.ToldError("answered something that no hub would") from None

    async def _look(self, fetcher: Fetcher) -> View:
        paths = ("nodes", "gpus", "processes")
        bodies = [await fetcher.body(self._node, f"{self._prefix}/api/v1/{path}") for path in paths]
        return View(self.name, time.time(), told.machines(*bodies))


class Machine(Protocol):
    """This machine, read here; app.py knows how."""

    @property
    def name(self) -> str:
        """Its own name."""

    def start(self) -> None:
        """Begin to read."""

    def close(self) -> None:
        """Stop within two seconds."""


class ThisMachine:
    """The driver of this machine, read in this process. ``build`` makes what reads it, and is given where to tell."""

    def __init__(self, name: str, build: Callable[[Tell], Machine], *, interval: float) -> None:
        self.name = name
        self.interval = interval
        self._build = build
        self._machine: Machine | None = None

    @property
    def hung(self) -> bool:
        """Whether a driver was opened here: a call that hangs is known late, and exit handlers would wait for it."""
        return self._machine is not None

    async def follow(self, publish: Publish) -> None:
        """Read until it is cancelled."""
        loop = asyncio.get_running_loop()
        fleet = Fleet(interval=self.interval)

        def took(name: str, body: bytes) -> None:
            with suppress(DocumentError):  # it is our own
                fleet.answered(name, Fetched(decode(body), b"", "", ""))

        def tell(name: str, document: dict[str, Any]) -> None:
            body = msgspec.json.encode(document)
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(took, name, body)

        self._machine = machine = self._build(tell)
        fleet.replace(Nodes((Node(machine.name, "localhost", 0),)))
        machine.start()
        try:
            await _publish_fleet(fleet, self.name, self.interval, publish)
        finally:
            await asyncio.to_thread(machine.close)


async def _publish_fleet(fleet: Fleet, name: str, interval: float, publish: Publish) -> None:
    """A view an interval; the first ones as the machines answer."""
    loop = asyncio.get_running_loop()
    began, shown, due, complete = loop.time(), -1, 0.0, False
    while True:
        now = loop.time()
        if fleet.generation != shown and (now >= due or not complete):
            view = View(
                name,
                time.time(),
                tuple(replace(state) for state in fleet),
                notes=(*fleet.notes, *filter(None, [fleet.complaint])),
            )
            if view.complete or now - began >= _PATIENCE:
                shown, complete = fleet.generation, view.complete
                due = now + interval
                publish(view)
        await asyncio.sleep(_LOOK)
