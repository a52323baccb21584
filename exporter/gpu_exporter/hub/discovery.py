"""Machines that nobody writes down: every address that a DNS name leads to, looked up again and again.

A name of a headless Kubernetes Service leads to all of its pods. A machine is named as it names itself in its snapshot
(the node, where the chart tells it); by its address until it has answered. One whose address the name no longer has is
kept for a while, as offline, unless the same machine has come back under another address.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import dns.asyncresolver
import dns.exception

from gpu_exporter.config.parsers import Address
from gpu_exporter.hub.document import shown
from gpu_exporter.hub.fetching import Fetcher, FetchError
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.names import Names
from gpu_exporter.hub.nodes import Node, Nodes, named
from gpu_exporter.hub.settings import DnsName, HubConfig

log = logging.getLogger(__name__)

_KEPT: Final = 600.0  # seconds that a machine is shown after its name has lost its address; longer than a pod's restart
_AT_ONCE: Final = 32  # machines that are asked for their names together
_LIFETIME: Final = 5.0  # seconds for an SRV look-up
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Found:
    """An address of a machine, what the machine calls itself (may be empty), and when DNS last told the address."""

    address: Address
    alias: str
    told: float


class Discovery:
    """Keeps the poller's list: the machines of nodes.yml, then those that DNS knows. Belongs to the event loop.

    ``replace`` is given the whole list whenever it changes.
    """

    def __init__(
        self, names: Names, fetcher: Fetcher, fleet: Fleet, replace: Callable[[Nodes], None],
        *, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._names = names
        self._fetcher = fetcher
        self._fleet = fleet
        self._replace = replace
        self._clock = clock
        self._written = Nodes()
        self._config = HubConfig()
        self._found: dict[Address, _Found] = {}
        self._notes: tuple[str, ...] = ()
        self._told: tuple[Nodes, tuple[_Found, ...]] | None = None
        self._changed = asyncio.Event()

    def use(self, written: Nodes, config: HubConfig) -> None:
        """Take over changed files; what was found by names that stay is kept."""
        if config.discovery.dns != self._config.discovery.dns:
            self._found.clear()
        self._written, self._config, self._notes = written, config, ()
        self._publish()
        self._changed.set()

    async def keep_looking(self) -> None:
        """Until it is cancelled."""
        while True:
            self._changed.clear()
            if self._config.discovery.dns:
                await self._look()
            waiting = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait([waiting], timeout=self._config.discovery.interval)
            finally:
                waiting.cancel()

    async def _look(self) -> None:
        config = self._config
        wanted = config.discovery.dns
        answers = await asyncio.gather(*(self._addresses(name, config) for name in wanted), return_exceptions=True)
        told: dict[Address, None] = {}
        notes = []
        for name, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, OSError):
                notes.append(f"discovery.dns: {name}: {answer}; the machines that it led to before are kept")
                told |= dict.fromkeys(self._found)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                told |= dict.fromkeys(answer)
        if len(told) > _MOST:
            notes.append(f"discovery.dns: leads to {len(told)} machines; {_MOST} of them are asked")
        if config is not self._config:
            return
        for note in notes:
            if note not in self._notes:
                log.warning("discovery", extra={"why": note})
        await self._take(list(told)[:_MOST], tuple(notes))

    async def _take(self, told: list[Address], notes: tuple[str, ...]) -> None:
        config, now = self._config, self._clock()
        slots = asyncio.Semaphore(_AT_ONCE)

        async def name_of(address: Address) -> str:
            async with slots:
                return await self._call_itself(address)

        aliases = await asyncio.gather(*(name_of(address) for address in told))
        if config is not self._config:
            return
        found = {address: _Found(address, alias, now) for address, alias in zip(told, aliases, strict=True)}
        here = {one.alias for one in found.values() if one.alias}
        for address, before in self._found.items():
            if address not in found and before.alias not in here and now - before.told < _KEPT:
                found[address] = before
        self._found, self._notes = found, notes
        self._publish()

    async def _call_itself(self, address: Address) -> str:
        """What the machine calls itself; empty where it has not answered yet."""
        known = self._found.get(address)
        if known is not None:
            # Another machine may have the address by now: what is polled there knows better than we do.
            for state in self._fleet:
                if (state.node.host, state.node.port) == (address.host, address.port) and state.host.name:
                    return shown(state.host.name)
            if known.alias:
                return known.alias
        try:
            fetched = await self._fetcher.fetch(_node(address, ""))
        except FetchError:
            return ""
        name = None if fetched is None else fetched.document.host.name
        return shown(name) if name else ""

    async def _addresses(self, name: DnsName, config: HubConfig) -> list[Address]:
        """Where the name leads, in an order that stays. Raises OSError with a sentence."""
        if name.port is not None:
            return [Address(host, name.port) for host in sorted(await self._names.addresses(name.host))]
        server = config.dns.server
        resolver = dns.asyncresolver.Resolver(configure=server is None)
        if server is not None:
            resolver.nameservers, resolver.port = [server.host], server.port
        resolver.lifetime = _LIFETIME
        try:
            answer = await resolver.resolve(name.host, "SRV", search=server is None)
        except dns.exception.DNSException as error:
            raise OSError(_why(error)) from None
        hosts = [(str(record.target).rstrip("."), int(record.port)) for record in answer]
        found = await asyncio.gather(*(self._names.addresses(host) for host, _ in hosts), return_exceptions=True)
        pairs = zip(hosts, found, strict=True)
        return sorted(
            {Address(one, port) for (_, port), addresses in pairs if isinstance(addresses, list) for one in addresses},
            key=str,
        )

    def _publish(self) -> None:
        """Give the poller the list, where it is another than before."""
        written = replace(self._written, notes=(*self._written.notes, *self._notes))
        found = tuple(self._found.values())
        state = (written, tuple(replace(one, told=0.0) for one in found))
        if state == self._told:
            return
        self._told = state
        addresses = {(node.host, node.port) for node in written.nodes}
        fresh = [
            _node(one.address, one.alias) for one in found if (one.address.host, one.address.port) not in addresses
        ]
        self._replace(Nodes(tuple(named([*written.nodes, *fresh])), written.notes))
        if found:
            log.info("machines discovered", extra={"machines": len(fresh)})


def _node(address: Address, alias: str) -> Node:
    return Node(alias or str(address), address.host, address.port, alias)


def _why(error: dns.exception.DNSException) -> str:
    if isinstance(error, dns.exception.Timeout):
        return "no DNS server answers"
    return "there is no such name" if type(error).__name__ in {"NXDOMAIN", "NoAnswer"} else "cannot be looked up"
