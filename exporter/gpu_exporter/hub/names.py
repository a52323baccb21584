"""Where the machines' names lead: a DNS server of their own, multicast DNS for .local, and the system."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp.abc
import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.rdatatype
import dns.resolver

from gpu_exporter.config.parsers import Address

_KEPT: Final = 30.0  # seconds that an answer is used
_KEPT_FAILURE: Final = 4.0
_LIFETIME: Final = 2.0  # seconds for the DNS server
_MULTICAST: Final = Address("224.0.0.251", 5353)  # RFC 6762
_MULTICAST_SECONDS: Final = 0.7  # for one question
_MOST_LOOKUPS: Final = 256  # system lookups under way; each has a thread, because none can be stopped


class UnknownNameError(OSError):
    """The name leads nowhere; the message is a sentence about it. aiohttp takes an OSError for a failed look-up."""


@dataclass(slots=True)
class _Kept:
    until: float
    task: asyncio.Future[list[str]]


class Names(aiohttp.abc.AbstractResolver):
    """Looks up each name once for all who ask meanwhile. A look-up that hangs keeps nobody but its own machine waiting.

    ``server`` may be changed at any time.
    """

    def __init__(self, server: Address | None, *, multicast: Address = _MULTICAST) -> None:
        self._server = server
        self._multicast = multicast
        self._kept: dict[str, _Kept] = {}
        self._threads = threading.BoundedSemaphore(_MOST_LOOKUPS)

    def use(self, server: Address | None) -> None:
        """Ask this server from now on."""
        if server != self._server:
            self._server = server
            self._kept.clear()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        """The addresses of a name, as aiohttp wants them. Raises OSError."""
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": socket.IPPROTO_TCP,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in await self.addresses(host)
        ]

    async def addresses(self, host: str) -> list[str]:
        """The addresses of a name. Raises OSError with a sentence."""
        if is_address(host):
            return [host]
        now = time.monotonic()
        kept = self._kept.get(host)
        if kept is None or (kept.task.done() and kept.until < now):
            task = asyncio.ensure_future(self._look_up(host))
            kept = self._kept[host] = _Kept(now + _KEPT, task)
            task.add_done_callback(lambda done: self._looked_up(host, done))
        # Whoever gives up waiting does not end the look-up for the others, nor for the next time.
        return await asyncio.shield(kept.task)

    async def close(self) -> None:
        """Forget everything."""
        for kept in self._kept.values():
            kept.task.cancel()
        self._kept.clear()

    def _looked_up(self, host: str, done: asyncio.Future[list[str]]) -> None:
        kept = self._kept.get(host)
        if kept is None or kept.task is not done:
            return
        failed = done.cancelled() or done.exception() is not None
        kept.until = time.monotonic() + (_KEPT_FAILURE if failed else _KEPT)

    async def _look_up(self, host: str) -> list[str]:
        """The first that knows the name is believed; where none does, all that was said is told."""
        ways: list[Callable[[str], Awaitable[list[str]]]] = []
        if self._server is not None:
            ways.append(self._ask_server)
        if host.rstrip(".").lower().endswith(".local"):
            ways.append(self._ask_around)
        ways.append(self._ask_system)
        said = []
        for way in ways:
            try:
                return await way(host)
            except UnknownNameError as error:
                said.append(str(error))
        raise UnknownNameError("; ".join(dict.fromkeys(said)))

    async def _ask_server(self, host: str) -> list[str]:
        server = self._server
        assert server is not None  # noqa: S101 - the one caller looked
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [server.host]
        resolver.port = server.port
        resolver.lifetime = _LIFETIME
        answers = await asyncio.gather(
            *(_records(resolver, host, kind) for kind in ("A", "AAAA")), return_exceptions=True
        )
        found = [address for answer in answers if isinstance(answer, list) for address in answer]
        if found:
            return found
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        why = _reason(failures[0]) if failures else "has no address for it"
        raise UnknownNameError(f"the DNS server {server} {why}")

    async def _ask_around(self, host: str) -> list[str]:
        """One question to the local network; who has the name answers for itself."""
        # Whoever has the name has an IPv4 address as a rule; who has none says nothing to that question.
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            query = dns.message.make_query(host, kind)
            query.flags &= ~dns.flags.RD
            query.id = 0
            try:
                answer = await dns.asyncquery.udp(
                    query,
                    self._multicast.host,
                    port=self._multicast.port,
                    timeout=_MULTICAST_SECONDS,
                    ignore_unexpected=True,
                    ignore_errors=True,
                )
            except (dns.exception.DNSException, OSError):
                continue
            found = [
                address
                for rrset in answer.answer
                if rrset.rdtype == kind
                for record in rrset
                # Of an address that counts on one link only nobody tells on which.
                if not ipaddress.ip_address(address := str(record.address)).is_link_local or kind == dns.rdatatype.A
            ]
            if found:
                return found
        raise UnknownNameError(
            "nobody on this network answers to that name by multicast DNS (.local); "
            "write the machine's address, or a dns.server that knows it"
        )

    async def _ask_system(self, host: str) -> list[str]:
        """Ask getaddrinfo on a thread of its own: the loop's few would all be taken by names that hang."""
        if not self._threads.acquire(blocking=False):
            raise UnknownNameError("too many names are being looked up, and none comes back")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()

        def work() -> None:
            result: Sequence[Any] = ()
            failure: Exception | None = None
            try:
                result = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                words = error.strerror if isinstance(error, OSError) else None
                failure = UnknownNameError((words or "the name cannot be looked up").lower())
            finally:
                self._threads.release()
            with_loop = [str(entry[4][0]) for entry in result]
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, future, with_loop, failure)

        threading.Thread(target=work, name="names", daemon=True).start()
        return await future


def _settle(future: asyncio.Future[list[str]], found: list[str], failure: Exception | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(list(dict.fromkeys(found)))


async def _records(resolver: dns.asyncresolver.Resolver, host: str, kind: str) -> list[str]:
    answer = await resolver.resolve(host, kind, raise_on_no_answer=False)
    return [str(record) for record in answer.rrset or ()]


def _reason(error: BaseException) -> str:
    if isinstance(error, dns.resolver.NXDOMAIN):
        return "does not know the name"
    if isinstance(error, dns.resolver.NoNameservers):
        return "refuses to answer, or fails"
    if isinstance(error, dns.exception.Timeout):
        return "does not answer"
    return "cannot look it up"


def is_address(host: str) -> bool:
    """Whether nothing is to be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
