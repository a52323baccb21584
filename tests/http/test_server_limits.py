"""The server against clients that are slow, many, or hostile."""

from __future__ import annotations

import resource
import selectors
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from tools.lab.clock import Clock
from tools.lab.wait import patience, wait_for

from gpu_exporter.http.connections import Connection, Connections
from gpu_exporter.http.server import Server
from serving import (
    BIG,
    GET,
    LOCAL,
    NEVER,
    answer,
    ask,
    dial,
    echo,
    everything,
    fetch,
    serving,
    trickle_until_closed,
    workers,
)  # fmt: skip

# --- deadlines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trickle", [b"", b"a", b"\n"])
def test_the_header_has_a_deadline_that_a_trickle_does_not_stretch(trickle: bytes) -> None:
    with serving(header_deadline=0.25) as server, dial(server) as client:
        assert trickle_until_closed(client, trickle) == b""


def test_the_header_deadline_runs_from_accepting() -> None:
    clock = Clock()
    with serving(header_deadline=1000, monotonic=clock) as server, dial(server) as quick, dial(server) as slow:
        wait_for(lambda: len(server.connections.open) == 2)
        clock.now = 900
        quick.sendall(GET)
        assert answer(quick) == (200, b"GET /hello  ")
        clock.now = 1001
        slow.sendall(b"G")
        assert everything(slow) == b""


def test_the_header_deadline_of_a_following_request_runs_from_its_first_byte() -> None:
    clock = Clock()
    with serving(header_deadline=1000, monotonic=clock) as server, dial(server, GET) as client:
        answer(client)
        clock.now = 3000  # idleness is not counted
        for byte in (GET[:1], GET[1:]):
            client.sendall(byte)
        assert answer(client)[0] == 200
    with serving(header_deadline=0.2) as server, dial(server, GET) as client:
        answer(client)
        client.sendall(b"GET /")
        assert trickle_until_closed(client, b"a") == b""


def test_an_idle_connection_is_closed() -> None:
    with serving(idle_deadline=0.2) as server, dial(server, GET) as client:
        answer(client)
        assert trickle_until_closed(client) == b""


def test_a_body_that_does_not_come_ends_the_connection() -> None:
    with (
        serving(header_deadline=0.2) as server,
        dial(server, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n") as client,
    ):
        assert trickle_until_closed(client) == b""
        wait_for(lambda: not server.connections.open)


def test_who_does_not_read_disturbs_nobody() -> None:
    with serving() as server, dial(server, b"GET /big HTTP/1.1\r\n\r\n"):
        wait_for(lambda: any(connection.busy for connection in server.connections.open))
        assert fetch(server)[0] == 200
        assert any(connection.busy for connection in server.connections.open)  # it still has not read


@pytest.mark.parametrize(
    ("write_deadline", "told"),
    [(0.3, b"60"), (0.3, b"nan"), (0.3, b"soon"), (0.3, b"-1"), (0.3, b""), (NEVER, b"0.3")],
)
def test_who_does_not_read_is_dropped(write_deadline: float, told: bytes) -> None:
    request = b"GET /big HTTP/1.1\r\nX-Prometheus-Scrape-Timeout-Seconds: " + told + b"\r\n\r\n"
    with serving(write_deadline=write_deadline) as server, dial(server, request) as client:
        assert client.recv(12) == b"HTTP/1.1 200"
        wait_for(lambda: not server.connections.open)
        assert len(everything(client)) < len(BIG)


# --- more connections than there is room for -------------------------------------------------------------------------


def test_the_oldest_unfinished_connection_makes_room() -> None:
    with serving(connections=3) as server, ExitStack() as stack:
        reader = stack.enter_context(dial(server, b"GET /big HTTP/1.1\r\n\r\n"))  # the oldest, but its request is whole
        wait_for(lambda: any(connection.busy for connection in server.connections.open))
        idle = stack.enter_context(dial(server))
        half = stack.enter_context(dial(server, b"GET /"))
        wait_for(lambda: len(server.connections.open) == 3)
        idle.sendall(GET)
        assert answer(idle)[0] == 200  # from now on younger than the half-open one
        wait_for(lambda: sum(connection.busy for connection in server.connections.open) == 1)
        new = stack.enter_context(dial(server))
        assert everything(half) == b""
        newer = stack.enter_context(dial(server))
        assert everything(idle) == b""
        new.sendall(GET)
        newer.sendall(GET)
        assert answer(new)[0] == answer(newer)[0] == 200
        assert reader.recv(12) == b"HTTP/1.1 200"


def test_where_all_are_slow_readers_the_oldest_makes_room() -> None:
    with serving(connections=2) as server, ExitStack() as stack:
        for number in (1, 2):
            stack.enter_context(dial(server, b"GET /big HTTP/1.1\r\n\r\n"))
            wait_for(lambda n=number: sum(connection.busy for connection in server.connections.open) == n)  # type: ignore[misc]
        assert fetch(server)[0] == 200


def test_threads_are_bounded_even_where_the_application_hangs() -> None:
    begun, finish = threading.Semaphore(0), threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        begun.release()
        finish.wait()
        return echo(environ, start_response)

    with serving(app, connections=2) as server, ExitStack() as stack:
        for _ in range(2 + 16):
            stack.enter_context(dial(server, GET))
            assert begun.acquire(timeout=patience())
        for _ in range(2):
            assert ask(server, GET) == b""  # turned away
        assert len(workers()) == 1 + 2 + 16
        finish.set()
        wait_for(lambda: len(server.connections.open) <= 2)
        assert fetch(server) == (200, b"GET /hello  ")


def rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize()


@contextmanager
def attack(server: Server, count: int) -> Iterator[Callable[[], int]]:
    """Half-open connections that trickle header bytes for as long as they live; tells how many are still open."""
    stop = threading.Event()
    living = count
    selector = selectors.DefaultSelector()
    clients = []
    for _ in range(count):
        client = dial(server, b"GET / HTTP/1.1\r\n")
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
        clients.append(client)

    def trickle() -> None:
        nonlocal living
        while not stop.wait(0.02):
            for key, _ in selector.select(0):
                selector.unregister(key.fileobj)
                living -= 1
            for key in list(selector.get_map().values()):
                with suppress(OSError):
                    key.fileobj.send(b"X: y\r\n")  # type: ignore[union-attr]

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    try:
        yield lambda: living
    finally:
        stop.set()
        thread.join()
        selector.close()
        for client in clients:
            client.close()


@pytest.mark.parametrize("count", [300, 1500])
def test_half_open_connections_do_not_keep_a_scraper_out(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    before = rss()
    clock = Clock()
    with serving(monotonic=clock) as server:
        with attack(server, count) as living:
            peak = 0

            def all_but_the_newest_are_evicted() -> bool:
                nonlocal peak
                peak = max(peak, len(workers()))
                return living() <= 64 and len(server.connections.open) <= 64

            wait_for(all_but_the_newest_are_evicted)
            for _ in range(10):
                assert fetch(server) == (200, b"GET /hello  ")
            assert peak <= 1 + 64 + 16
            assert rss() - before < 16 << 20
            clock.now = 2 * NEVER
            wait_for(lambda: living() == 0)  # past their deadline
            assert fetch(server)[0] == 200
        wait_for(lambda: not server.connections.open)


def test_half_open_connections_that_come_back_do_not_keep_a_scraper_out() -> None:
    """It is among the newest when its request comes, whatever was there before and comes after."""
    with serving(connections=16) as server, ExitStack() as stack:
        for _ in range(20):
            crowd = [stack.enter_context(dial(server, b"GET / HT")) for _ in range(20)]
            assert everything(crowd[3]) == b"", "there is room for the sixteen after it"
            wait_for(lambda: len(server.connections.open) <= 16)
            scraper = stack.enter_context(dial(server))
            for _ in range(15):
                stack.enter_context(dial(server, b"GET / HT"))
            scraper.sendall(GET)
            assert answer(scraper) == (200, b"GET /hello  ")


def test_running_out_of_descriptors_ends_with_service() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as server, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(dial(server))
        wait_for(lambda: len(server.connections.open) == 8)
        late = [socket.socket() for _ in range(3)]
        for client in late:
            stack.enter_context(client)
            client.settimeout(patience())
        used = max(client.fileno() for client in late) + 1
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            for client in late:
                client.connect(("127.0.0.1", server.port))
                client.sendall(GET)
                assert answer_without_files(client).startswith(b"HTTP/1.1 200")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def answer_without_files(client: socket.socket) -> bytes:
    data = b""
    while b"GET /hello" not in data:
        data += client.recv(4096)
    return data


# --- whose share it is ------------------------------------------------------------------------------------------------


def test_an_address_with_many_connections_evicts_its_own() -> None:
    """However slowly the one from elsewhere sends its request, and however many come meanwhile."""
    with serving(connections=8) as server, ExitStack() as stack:
        other = stack.enter_context(dial_from("127.0.0.2", server, b"GET /hel"))
        wait_for(lambda: len(server.connections.open) == 1)
        for number in range(40):
            data = b"GET /big HTTP/1.1\r\n\r\n" if number % 2 else b"GET / HT"
            stack.enter_context(dial(server, data))
        wait_for(lambda: len(server.connections.open) <= 8)
        other.sendall(b"lo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(other) == (200, b"GET /hello  ")


def test_a_host_has_one_share_of_all_its_ipv6_addresses(made_up: Callable[[str], Connection]) -> None:
    connections = Connections(3)
    made = [made_up(f"2001:db8::{number}") for number in range(3)]
    stranger = made_up("2001:db8:0:1::1")
    for connection in (stranger, *made):
        connections.admit(connection)
    assert [connection.cut for connection in (stranger, *made)] == [False, True, False, False]


def test_slow_readers_do_not_outlive_newcomers(made_up: Callable[[str], Connection]) -> None:
    connections = Connections(2)
    slow, quick, new = made_up("::1"), made_up("::1"), made_up("::1")
    connections.admit(slow)
    connections.begin(slow)
    connections.admit(quick)
    slow.since -= 3600
    connections.admit(new)
    assert [connection.cut for connection in (slow, quick, new)] == [True, False, False]


def test_without_threads_others_make_way(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == "http-worker" and len(workers()) > 8:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with serving() as server, ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(dial(server, b"GET / HT"))
        for _ in range(10):
            assert fetch(server) == (200, b"GET /hello  ")


def test_a_large_answer_is_not_copied_for_each_who_reads_it_slowly() -> None:
    with serving(connections=16) as server, ExitStack() as stack:
        before = rss()
        for number in range(1, 9):
            stack.enter_context(dial(server, b"GET /big HTTP/1.1\r\n\r\n"))
            wait_for(lambda n=number: sum(each.busy for each in server.connections.open) == n)  # type: ignore[misc]
        assert rss() - before < 2 * len(BIG)


@pytest.fixture
def made_up() -> Iterator[Callable[[str], Connection]]:
    """A connection from that address, which nobody serves."""
    with ExitStack() as stack:
        yield lambda peer: Connection(stack.enter_context(socket.socket()), peer, LOCAL, 0.0)


def dial_from(host: str, server: Server, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=patience(), source_address=(host, 0))
    client.sendall(data)
    return client
