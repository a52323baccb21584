"""Where the server listens: names with several addresses, several addresses, both families, and what is refused."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import pytest
from tools.lab.ports import free_port
from tools.lab.wait import wait_for

from gpu_exporter.config import Address
from gpu_exporter.http.listening import ListenError
from gpu_exporter.http.server import Server
from serving import GET, LOCAL, answer, dial, echo, everything, fetch, serving, workers

V4, V6, ALL = "127.0.0.1", "::1", "0.0.0.0"  # noqa: S104 - what users write
Found = list[tuple[int, int, int, str, Any]]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind((V6, 0))
    except OSError:
        return False
    return True


IPV6 = has_ipv6()
needs_ipv6 = pytest.mark.skipif(not IPV6, reason="this machine has no IPv6")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Sequence[str]]:
    """What host names are, as /etc/hosts or a DNS server would say it; addresses and other names as ever."""
    known: dict[str, Sequence[str]] = {}
    ask = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Found:
        return [entry for address in known.get(host, [host]) for entry in ask(address, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


class NoIPv6(socket.socket):
    """A kernel without it says so at the socket or, where only the addresses are missing, at bind."""

    failing = "socket"

    def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
        if family == socket.AF_INET6 and self.failing == "socket":
            raise OSError(97, "Address family not supported by protocol")
        super().__init__(family, *args, **options)

    def bind(self, address: Any) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(99, "Cannot assign requested address")
        super().bind(address)


@pytest.fixture(params=["socket", "bind"])
def without_ipv6(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(NoIPv6, "failing", request.param)
    monkeypatch.setattr("gpu_exporter.http.listening.socket.socket", NoIPv6)


def refusal(*addresses: Address) -> str:
    with pytest.raises(ListenError) as caught:
        Server(echo, addresses=addresses)
    return str(caught.value)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 that somebody else listens on."""
    with socket.socket() as other:
        other.bind((V4, 0))
        other.listen()
        yield other.getsockname()[1]


# --- a name ----------------------------------------------------------------------------------------------------------


@needs_ipv6
@pytest.mark.parametrize("found", [(V4, V6), (V6, V4), (V4, V6, V4, V6)])
def test_a_name_is_all_of_its_addresses(names: dict[str, Sequence[str]], found: Sequence[str]) -> None:
    names["localhost"] = found
    with serving(addresses=[Address("localhost", 0)]) as server:
        assert [address.host for address in server.addresses] == list(dict.fromkeys(found))
        assert len({address.port for address in server.addresses}) == 1, "port 0 is one port for all"
        for host in (V4, V6):
            assert fetch(server, host=host)[0] == 200


@needs_ipv6
def test_a_port_that_is_taken_at_one_address_only_is_not_chosen(
    names: dict[str, Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["gpu-3"] = (V4, V6)
    with socket.socket(socket.AF_INET6) as other:
        other.bind((V6, 0))
        other.listen()
        port = other.getsockname()[1]
        chosen = iter([port])  # what the kernel gives first is free at 127.0.0.1, and not at ::1

        class Kernel(socket.socket):
            def bind(self, address: Any) -> None:
                host, number, *rest = address
                super().bind((host, number or next(chosen, 0), *rest))

        monkeypatch.setattr("gpu_exporter.http.listening.socket.socket", Kernel)
        with serving(addresses=[Address("gpu-3", 0)]) as server:
            assert {address.port for address in server.addresses} != {port}
            assert [address.host for address in server.addresses] == [V4, V6]
        # With a port that was asked for there is no other one.
        assert refusal(Address("gpu-3", port)) == (
            f"'gpu-3:{port}' ([::1]:{port}): Address already in use; write a free one"
        )


@pytest.mark.usefixtures("without_ipv6")
def test_a_family_that_the_machine_lacks_is_passed_over(
    names: dict[str, Sequence[str]], caplog: pytest.LogCaptureFixture
) -> None:
    names["localhost"] = (V6, V4)
    with caplog.at_level(logging.INFO), serving(addresses=[Address("localhost", 0)]) as server:
        assert [address.host for address in server.addresses] == [V4]
        assert fetch(server)[0] == 200
    assert [record.message for record in caplog.records] == ["not listening"]


def test_an_address_of_another_machine_is_passed_over_where_the_name_has_one_of_this(
    names: dict[str, Sequence[str]],
) -> None:
    names["gpu-3"] = ("192.0.2.7", V4)  # TEST-NET-1
    with serving(addresses=[Address("gpu-3", 0)]) as server:
        assert [address.host for address in server.addresses] == [V4]


def test_a_name_without_an_address_of_this_machine_is_refused(names: dict[str, Sequence[str]]) -> None:
    names["elsewhere"] = ("192.0.2.7", "192.0.2.8")
    assert refusal(Address("elsewhere", 9435)) == (
        "'elsewhere:9435' (192.0.2.7:9435): Cannot assign requested address; write an address of this machine"
    )


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 64])
def test_a_name_that_is_none_is_refused(host: str) -> None:
    line = refusal(LOCAL, Address(host, 9435))
    assert line.startswith(f"'{host}:9435': ")
    assert line.endswith("; write a name or an address of this machine")


# --- every address ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["", "::"])
def test_every_address_is_of_both_families(host: str) -> None:
    with serving(addresses=[Address(host, 0)]) as server:
        assert fetch(server, host=V4)[0] == 200
        if IPV6:
            assert fetch(server, host=V6)[0] == 200


@pytest.mark.usefixtures("without_ipv6")
@pytest.mark.parametrize("host", ["", "::"])
def test_without_ipv6_it_is_every_ipv4_address(host: str) -> None:
    with serving(addresses=[Address(host, 0)]) as server:
        assert [address.host for address in server.addresses] == [ALL]
        assert fetch(server)[0] == 200


def test_every_ipv4_address_is_no_ipv6_address() -> None:
    with serving(addresses=[Address(ALL, 0)]) as server:
        assert fetch(server)[0] == 200
        with pytest.raises(OSError, match=r"refused|Cannot assign|not supported"):
            fetch(server, host=V6)


def test_ipv4_clients_of_a_socket_for_both_match_ipv4_networks() -> None:
    with serving(addresses=[Address("", 0)], allow=(ipaddress.ip_network("127.0.0.1/32"),)) as server:
        assert fetch(server)[0] == 200
        if IPV6:
            assert fetch(server, host=V6)[0] == 403


# --- several addresses -----------------------------------------------------------------------------------------------


def test_several_addresses_share_the_limits_and_the_list_of_networks() -> None:
    with serving(addresses=[LOCAL, Address("127.0.0.2", 0), Address("127.0.0.3", 0)], connections=2) as server:
        places = [(address.host, address.port) for address in server.addresses]
        assert [host for host, _ in places] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        with ExitStack() as stack:
            half = [stack.enter_context(socket.create_connection(place)) for place in places[:2]]
            wait_for(lambda: len(server.connections.open) == 2)
            last = stack.enter_context(socket.create_connection(places[2]))
            assert everything(half[0]) == b"", "the oldest one made room, at another address"
            last.sendall(GET)
            assert answer(last)[0] == 200
        server.allow = (ipaddress.ip_network("10.0.0.0/8"),)
        for place in places:
            with socket.create_connection(place) as client:
                assert everything(client).startswith(b"HTTP/1.1 403 ")


def test_the_application_is_told_where_the_client_came_to() -> None:
    seen: list[tuple[str, str]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((environ["SERVER_NAME"], environ["SERVER_PORT"]))
        start_response("200 OK", [])
        return [b""]

    with serving(application, addresses=[LOCAL, Address("127.0.0.2", 0)]) as server:
        for address in server.addresses:
            with socket.create_connection((address.host, address.port)) as client:
                client.sendall(GET)
                assert answer(client)[0] == 200
        assert seen == [(address.host, str(address.port)) for address in server.addresses]


def test_closing_frees_every_address_at_once() -> None:
    with serving(addresses=[LOCAL, Address("127.0.0.2", 0)]) as server, dial(server, GET) as client:
        answer(client)
        places = server.addresses
        server.close()
        assert not workers()
        for place in places:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((place.host, place.port)).close()
    with serving(addresses=places) as again:
        assert again.addresses == places
        assert fetch(again)[0] == 200


def test_close_before_start_frees_the_port() -> None:
    server = Server(echo, addresses=[LOCAL])
    server.close()
    with serving(addresses=server.addresses):
        pass


def test_one_that_is_in_use_takes_all_down(taken: int) -> None:
    free = free_port()
    for host in (V4, "", "::", ALL):
        line = refusal(Address("127.0.0.2", free), Address(host, taken))
        assert line == f"'{Address(host, taken)}': Address already in use; write a free one"
        with closing(Server(echo, addresses=[Address("127.0.0.2", free)])):
            pass  # nobody is left at the first one


@pytest.mark.parametrize(("first", "second"), [("gpu-3", V4), (V4, "gpu-3"), ("gpu-3", "localhost"), ("", "gpu-3")])
def test_two_names_of_one_place_are_refused(names: dict[str, Sequence[str]], first: str, second: str) -> None:
    names["gpu-3"] = names["localhost"] = (V4,)
    port = free_port()
    assert refusal(Address(first, port), Address(second, port)) == (
        f"'{Address(second, port)}' is taken in by '{Address(first, port)}' (127.0.0.1:{port}); leave one of them out"
    )
