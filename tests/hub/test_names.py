"""The machines' names, looked up at real DNS servers of this test."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from dns_server import DnsServer
from gpu_exporter.hub import names
from gpu_exporter.hub.names import Names


@pytest.fixture
def server() -> Iterator[DnsServer]:
    made = DnsServer(gpu1=["10.1.2.3"], gpu2=["10.1.2.4", "fd00::4"], silent=[])
    yield made
    made.close()


def look_up(resolver: Names, *hosts: str) -> list[object]:
    async def go() -> list[object]:
        try:
            return list(await asyncio.gather(*(resolver.addresses(host) for host in hosts), return_exceptions=True))
        finally:
            await resolver.close()

    return asyncio.run(go())


def test_names_that_only_another_server_knows(server: DnsServer) -> None:
    found = look_up(Names(server.address), "gpu1.lab.internal", "gpu2.lab.internal", "gpu1")
    assert found == [["10.1.2.3"], ["10.1.2.4", "fd00::4"], ["10.1.2.3"]]


def test_what_it_does_not_know_the_system_may(server: DnsServer) -> None:
    (found,) = look_up(Names(server.address), "localhost")
    assert isinstance(found, list)
    assert set(found) & {"127.0.0.1", "::1"}
    assert "localhost" in server.asked


def test_what_nobody_knows_tells_what_all_said(server: DnsServer) -> None:
    (error,) = look_up(Names(server.address), "nobody.invalid")
    assert isinstance(error, OSError)
    assert str(error).startswith(f"the DNS server {server.address} does not know the name; ")


def test_a_server_that_is_silent_is_named(server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_LIFETIME", 0.2)
    (error,) = look_up(Names(server.address), "silent.invalid")
    assert f"the DNS server {server.address} does not answer" in str(error)


def test_a_name_is_asked_for_once_whoever_wants_it(server: DnsServer) -> None:
    assert look_up(Names(server.address), *["gpu1.lab"] * 20) == [["10.1.2.3"]] * 20
    assert server.asked.count("gpu1.lab") == 2  # A and AAAA


def test_another_server_from_now_on(server: DnsServer) -> None:
    resolver = Names(None)
    resolver.use(server.address)
    assert look_up(resolver, "gpu1.lab") == [["10.1.2.3"]]


def test_a_look_up_that_hangs_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    real = socket.getaddrinfo

    def lookup(host: str, *_: object, **__: object) -> object:
        if host.startswith("hang"):
            release.wait()
        return real("127.0.0.1", None, type=socket.SOCK_STREAM)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)

    async def go() -> list[str]:
        resolver = Names(None)
        stuck = [asyncio.ensure_future(resolver.addresses(f"hang{number}")) for number in range(40)]
        await asyncio.sleep(0)
        try:
            return await resolver.addresses("well")
        finally:
            for task in stuck:
                task.cancel()
            await resolver.close()
            release.set()

    assert asyncio.run(go()) == ["127.0.0.1"]


def test_multicast_dns(server: DnsServer) -> None:
    # The same question and answer, at an address of this test instead of the group's.
    assert look_up(Names(None, multicast=server.address), "gpu2.local") == [["10.1.2.4"]]
    assert server.asked == ["gpu2.local"]


@pytest.fixture
def responder() -> Iterator[DnsServer]:
    """One that hears what is sent to the group of multicast DNS, on a port of its own."""
    try:
        made = DnsServer(group="224.0.0.251", gpu1=["10.1.2.3"], gpu6=["fe80::1", "fd00::6"])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"?", ("224.0.0.251", 9))
    except OSError as error:
        pytest.skip(f"no multicast on this machine: {error.strerror}")
    yield made
    made.close()


def test_multicast_dns_by_multicast(responder: DnsServer) -> None:
    resolver = Names(None, multicast=responder.address)
    found = look_up(resolver, "gpu1.local", "GPU6.local.")
    assert found == [["10.1.2.3"], ["fd00::6"]]
    assert responder.asked.count("gpu6.local") == 2, "A, and then AAAA"


def test_a_local_name_that_nobody_has_by_multicast(responder: DnsServer) -> None:
    (error,) = look_up(Names(None, multicast=responder.address), "gpu9.local")
    assert isinstance(error, OSError)
    assert "nobody on this network answers to that name by multicast DNS (.local); write the machine's address" in str(
        error
    )
    assert responder.asked == ["gpu9.local"] * 2


def test_a_local_name_that_nobody_answers_to(server: DnsServer) -> None:
    (error,) = look_up(Names(None, multicast=server.address), "silent.local")
    assert isinstance(error, OSError)
    assert "nobody on this network answers to that name by multicast DNS (.local)" in str(error)
