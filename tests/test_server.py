"""The server over real sockets: well-behaved clients, slow ones, hostile ones."""

from __future__ import annotations

import http.client
import ipaddress
import logging
import resource
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_exporter.server import Server

GET = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
BIG = b"x" * (32 << 20)  # more than the kernel buffers between two sockets


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise RuntimeError("the secret detail")
    if path == "/split":
        start_response("200 OK", [("X-Bad", "a\r\nSet-Cookie: b")])
        return [b""]
    if path == "/big":
        start_response("200 OK", [])
        return [BIG]
    body = f"{environ['REQUEST_METHOD']} {path} {environ['QUERY_STRING']} ".encode() + environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


@contextmanager
def serving(app: Any = echo, **options: Any) -> Iterator[Server]:
    server = Server(app, **{"host": "127.0.0.1", "port": 0, **options})
    server.start()
    with closing(server):
        yield server
    assert not workers()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in {"http", "http-worker"}]


def dial(server: Server, data: bytes = b"", *, host: str = "127.0.0.1", timeout: float = 5.0) -> socket.socket:
    client = socket.create_connection((host, server.port), timeout=timeout)
    client.sendall(data)
    return client


def everything(client: socket.socket) -> bytes:
    """Until the server closes."""
    data = b""
    with suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            data += chunk
    return data


def ask(server: Server, data: bytes) -> bytes:
    with dial(server, data) as client:
        return everything(client)


def answer(client: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(client)
    response.begin()
    body = response.read()
    response.close()
    return response.status, body


def fetch(server: Server, path: str = "/hello", *, host: str = "127.0.0.1", timeout: float = 3.0) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, server.port, timeout=timeout)
    with closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def eventually(condition: Callable[[], object], within: float = 3.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


# --- well-behaved clients --------------------------------------------------------------------------------------------


def test_keep_alive_reuses_one_connection(server: Server) -> None:
    with dial(server) as client:
        for _ in range(3):
            client.sendall(GET)
            assert answer(client) == (200, b"GET /hello  ")
        assert len(server._open) == 1


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    data = ask(
        server,
        b"GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyz\r\n"
        b"GET /c?d=e HTTP/1.1\r\nConnection: close\r\n\r\n",
    )
    assert [data.find(text) >= 0 for text in (b"GET /a  ", b"POST /b  xyz", b"GET /c d=e ")] == [True] * 3
    assert data.count(b"HTTP/1.1 200 OK") == 3
    assert data.index(b"/a") < data.index(b"/b") < data.index(b"/c")


def test_head_has_the_headers_of_get_and_no_body(server: Server) -> None:
    head, _, body = ask(server, b"HEAD /hello HTTP/1.1\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Length: 13" in head
    assert body == b""


def test_an_answer_says_little_about_the_server(server: Server) -> None:
    head = ask(server, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")[0]
    assert b"\r\nServer: gpu-exporter\r\n" in head
    assert b"Python" not in head


def test_http_1_0_closes_unless_asked_to_stay(server: Server) -> None:
    assert b"Connection: close" in ask(server, b"GET / HTTP/1.0\r\n\r\n")
    with dial(server, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n") as client:
        assert b"Connection: keep-alive" in client.recv(4096)
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert everything(client).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (b"/a%20b?q=%20", b"GET /a b q=%20 "),
        (b"http://host:1/a?b", b"GET /a b "),
        (b"http://host", b"GET /  "),
        (b"//a", b"GET /a  "),
        (b"/%ff%00", b"GET /\xc3\xbf\x00  "),
    ],
)
def test_request_targets(server: Server, target: bytes, body: bytes) -> None:
    assert ask(server, b"GET " + target + b" HTTP/1.1\r\nConnection: close\r\n\r\n").endswith(b"\r\n\r\n" + body)


def test_the_environment_is_that_of_pep_3333() -> None:
    seen: dict[str, Any] = {}

    class Body:
        closed = False

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"b"])

        def close(self) -> None:
            self.closed = True

    body = Body()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.update(environ)
        start_response("200 OK", [])(b"a")
        return body

    with serving(app) as server:
        request = b"GET /x HTTP/1.1\r\nX-A: 1\r\nx-a:  2 \r\nX_A: 3\r\nContent-Type: t\r\nConnection: close\r\n\r\n"
        assert ask(server, request).endswith(b"\r\n\r\nab")
        assert seen["SERVER_PORT"] == str(server.port)
    assert body.closed
    assert seen["HTTP_X_A"] == "1,2"  # X_A is not X-A
    assert (seen["CONTENT_TYPE"], seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("t", "127.0.0.1", "http")


def test_a_short_body_is_drained_and_a_long_one_ends_the_connection(server: Server) -> None:
    with dial(server, b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello") as client:
        assert answer(client) == (200, b"POST /a  hello")
        client.sendall(GET)
        assert answer(client) == (200, b"GET /hello  ")
    for framing in (b"Content-Length: 65537", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked"):
        data = ask(server, b"POST /a HTTP/1.1\r\n" + framing + b"\r\n\r\n" + b"5\r\nhello\r\n" * 100)
        assert data.startswith(b"HTTP/1.1 200 OK")
        assert data.endswith(b"POST /a  ")
        assert b"Connection: close" in data


def test_an_answer_to_a_body_that_nobody_reads_ends_without_a_reset(server: Server) -> None:
    with dial(server, b"POST /a HTTP/1.1\r\nContent-Length: 500000\r\n\r\n" + b"x" * 100_000) as client:
        data = b""
        while chunk := client.recv(65536):
            data += chunk
    assert data.endswith(b"POST /a  ")


def test_expect_continue_gets_the_final_answer(server: Server) -> None:
    data = ask(server, b"POST /a HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 200 OK")


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"a" * 9000, b"414"),
        (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 101 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 33000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 33000, b"431"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nA: b\rContent-Length: 3\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"GET nothing HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/1.x\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    ],
)
def test_refusals_tell_the_status_and_echo_nothing(server: Server, data: bytes, status: bytes) -> None:
    got = ask(server, data)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"Connection: close" in head
    assert body.startswith(status)
    assert len(body) < 60
    assert fetch(server)[0] == 200


def test_a_header_just_inside_the_limits_is_served(server: Server) -> None:
    line = b"GET /" + b"a" * (8192 - 15) + b" HTTP/1.1\r\n"
    head = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 300) for number in range(98))
    assert ask(server, line + head + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/fail", "/split"])
def test_a_failing_application_answers_500_and_logs_once(
    server: Server, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert fetch(server, path) == (500, b"500 Internal Server Error\n")
    assert len(caplog.records) == 1
    assert fetch(server)[0] == 200


def test_what_clients_do_wrong_is_not_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture) -> None:  # type: ignore[type-arg]
    with caplog.at_level(logging.INFO), serving(header_deadline=0.05, connections=2) as server:
        ask(server, b"\x00\xff\r\n\r\n")
        ask(server, b"GET /slow")
        clients = [dial(server) for _ in range(5)]
        dial(server, GET).close()
        for client in clients:
            client.close()
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


FRAGMENTS = [
    b"GET ", b"/ ", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"Content-Length: ", b"7", b"\0", b":", b"A: b", b" ", b"%",
    b"Transfer-Encoding: chunked", b"http://[", b"Expect: 100-continue", b"\xff", b"?",
]  # fmt: skip
GARBAGE = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"".join))


def test_no_bytes_kill_the_server(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    @settings(max_examples=120, deadline=None)
    @given(data=GARBAGE)
    def check(data: bytes) -> None:
        with dial(server) as client, suppress(ConnectionError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            everything(client)
        assert fetch(server) == (200, b"GET /hello  ")

    with caplog.at_level(logging.INFO):
        check()
    assert caplog.records == []


# --- deadlines -------------------------------------------------------------------------------------------------------


def lifetime(client: socket.socket, trickle: bytes = b"") -> float:
    """Seconds until the server closes, while a byte is sent every 10 ms."""
    started = time.monotonic()
    client.settimeout(0.01)
    while time.monotonic() < started + 5:
        try:
            if client.recv(1) == b"":
                break
        except TimeoutError:
            with suppress(OSError):
                client.sendall(trickle)
        except ConnectionError:
            break
    return time.monotonic() - started


@pytest.mark.parametrize("trickle", [b"", b"a", b"\n"])
def test_the_header_deadline_is_absolute(trickle: bytes) -> None:
    with serving(header_deadline=0.25) as server, dial(server) as client:
        assert 0.2 < lifetime(client, trickle) < 2


def test_the_header_deadline_of_a_following_request_runs_from_its_first_byte() -> None:
    with serving(header_deadline=0.2, idle_deadline=10) as server, dial(server, GET) as client:
        answer(client)
        time.sleep(0.3)  # longer than the deadline: idleness is not counted
        client.sendall(b"GET /")
        assert 0.15 < lifetime(client, b"a") < 2


def test_an_idle_connection_is_closed() -> None:
    with serving(header_deadline=10, idle_deadline=0.2) as server, dial(server, GET) as client:
        answer(client)
        assert 0.15 < lifetime(client) < 2


def test_a_body_that_does_not_come_ends_the_connection() -> None:
    with serving(header_deadline=0.2) as server:
        with dial(server, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n") as client:
            assert 0.15 < lifetime(client) < 2
        assert fetch(server)[0] == 200


@pytest.mark.parametrize(
    ("write_deadline", "told"), [(0.3, b"60"), (0.3, b"nan"), (0.3, b"soon"), (0.3, b"-1"), (60, b"0.3")]
)
def test_who_does_not_read_is_dropped_and_disturbs_nobody(write_deadline: float, told: bytes) -> None:
    request = b"GET /big HTTP/1.1\r\nX-Prometheus-Scrape-Timeout-Seconds: " + told + b"\r\n\r\n"
    with serving(write_deadline=write_deadline) as server, dial(server, request) as client:
        eventually(lambda: any(connection.busy for connection in server._open))
        assert fetch(server)[0] == 200
        assert any(connection.busy for connection in server._open)  # it still has not read
        eventually(lambda: not server._open)
        assert len(everything(client)) < len(BIG)


# --- more connections than there is room for -------------------------------------------------------------------------


def test_the_oldest_unfinished_connection_makes_room() -> None:
    with serving(connections=3) as server, ExitStack() as stack:
        reader = stack.enter_context(dial(server, b"GET /big HTTP/1.1\r\n\r\n"))  # the oldest, but its request is whole
        eventually(lambda: any(connection.busy for connection in server._open))
        idle = stack.enter_context(dial(server))
        half = stack.enter_context(dial(server, b"GET /"))
        eventually(lambda: len(server._open) == 3)
        idle.sendall(GET)
        assert answer(idle)[0] == 200  # from now on younger than the half-open one
        eventually(lambda: sum(connection.busy for connection in server._open) == 1)
        new = stack.enter_context(dial(server))
        assert everything(half) == b""
        newer = stack.enter_context(dial(server))
        assert everything(idle) == b""
        new.sendall(GET)
        newer.sendall(GET)
        assert answer(new)[0] == answer(newer)[0] == 200
        reader.settimeout(5)
        assert reader.recv(12) == b"HTTP/1.1 200"


def test_where_all_are_slow_readers_the_oldest_makes_room() -> None:
    with serving(connections=2) as server, ExitStack() as stack:
        for number in (1, 2):
            stack.enter_context(dial(server, b"GET /big HTTP/1.1\r\n\r\n"))
            eventually(lambda n=number: sum(connection.busy for connection in server._open) == n)  # type: ignore[misc]
        started = time.monotonic()
        assert fetch(server)[0] == 200
        assert time.monotonic() - started < 2


def test_threads_are_bounded_even_where_the_application_hangs() -> None:
    begun, finish = threading.Semaphore(0), threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        begun.release()
        finish.wait(10)
        return echo(environ, start_response)

    with serving(app, connections=2) as server, ExitStack() as stack:
        for _ in range(2 + 16):
            stack.enter_context(dial(server, GET))
            assert begun.acquire(timeout=3)
        for _ in range(2):
            assert ask(server, GET) == b""  # turned away
        assert len(workers()) == 1 + 2 + 16
        finish.set()
        eventually(lambda: len(server._open) <= 2)
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
    with serving(header_deadline=0.7) as server:
        with attack(server, count) as living:
            peak = 0
            for _ in range(10):
                assert fetch(server) == (200, b"GET /hello  ")
                peak = max(peak, len(workers()))
            assert peak <= 1 + 64 + 16
            assert living() <= count
            assert rss() - before < 16 << 20
            eventually(lambda: living() == 0)  # evicted or past their deadline, all of them
            assert fetch(server)[0] == 200
        eventually(lambda: not server._open)


def test_half_open_connections_that_come_back_do_not_keep_a_scraper_out() -> None:
    with serving(connections=16) as server:
        stop = threading.Event()

        def flood() -> None:
            clients: list[socket.socket] = []
            while not stop.wait(0.001):
                clients.append(dial(server, b"GET / HT"))
                if len(clients) > 100:
                    clients.pop(0).close()
            for client in clients:
                client.close()

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        try:
            eventually(lambda: len(server._open) >= 16)
            for _ in range(20):
                assert fetch(server) == (200, b"GET /hello  ")
        finally:
            stop.set()
            thread.join()


def test_running_out_of_descriptors_ends_with_service() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as server, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(dial(server))
        eventually(lambda: len(server._open) == 8)
        late = [socket.socket() for _ in range(3)]
        for client in late:
            stack.enter_context(client)
            client.settimeout(3)
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


# --- who may connect -------------------------------------------------------------------------------------------------


def test_allow_list_and_its_reload() -> None:
    with serving(allow=(ipaddress.ip_network("10.0.0.0/8"),)) as server:
        assert ask(server, b"").startswith(b"HTTP/1.1 403 Forbidden")  # before a byte was sent
        server.allow = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("127.0.0.0/8"))
        with dial(server, GET) as client:
            assert answer(client)[0] == 200
            server.allow = (ipaddress.ip_network("fe80::/10"),)
            assert everything(client) == b""  # who was let in before has to leave
        assert fetch(server)[0] == 403
        server.allow = ()
        assert fetch(server)[0] == 200


def test_ipv4_clients_of_a_dual_stack_socket_match_ipv4_networks() -> None:
    with serving(host="", allow=(ipaddress.ip_network("127.0.0.1/32"),)) as server:
        assert fetch(server)[0] == 200
        if server.address_family == socket.AF_INET6:
            assert fetch(server, host="::1")[0] == 403


# --- listening -------------------------------------------------------------------------------------------------------


def test_no_host_is_every_address_of_both_families() -> None:
    with serving(host="") as server:
        assert fetch(server, host="127.0.0.1")[0] == 200
        if socket.has_dualstack_ipv6():
            assert fetch(server, host="::1")[0] == 200


@pytest.mark.parametrize("failing", ["socket", "bind"])
def test_without_ipv6_no_host_is_every_ipv4_address(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    class NoIPv6(socket.socket):
        def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
            if family == socket.AF_INET6 and failing == "socket":
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *args, **options)

        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(99, "Cannot assign requested address")
            super().bind(address)

    monkeypatch.setattr("socketserver.socket.socket", NoIPv6)
    with serving(host="") as server:
        assert server.address_family == socket.AF_INET
        assert fetch(server)[0] == 200


def test_a_port_in_use_is_an_os_error(server: Server) -> None:
    for host in ("127.0.0.1", ""):
        with pytest.raises(OSError, match="Address already in use"):
            Server(echo, host=host, port=server.port)


def test_a_port_is_free_again_at_once() -> None:
    with serving() as server, dial(server, GET) as client:
        answer(client)
        port = server.port
        server.close()
    with serving(port=port) as server:
        assert fetch(server)[0] == 200


def test_the_heartbeat_ticks_with_and_without_clients(server: Server) -> None:
    before = server.heartbeat
    fetch(server)
    eventually(lambda: server.heartbeat > before, within=0.2)
    before = server.heartbeat
    eventually(lambda: server.heartbeat > before, within=1)


# --- closing ---------------------------------------------------------------------------------------------------------


def test_close_ends_everything_within_a_second() -> None:
    server = Server(echo, host="127.0.0.1", port=0)
    server.start()
    with ExitStack() as stack:
        for data in (b"", b"GET /", GET, b"GET /big HTTP/1.1\r\n\r\n") * 5:
            stack.enter_context(dial(server, data))
        eventually(lambda: sum(connection.busy for connection in server._open) == 5)
        started = time.monotonic()
        server.close()
        assert time.monotonic() - started < 1
        assert not workers()
        with pytest.raises(ConnectionRefusedError):
            dial(server)
        server.close()  # a second time does no harm


def test_close_before_start_releases_the_port() -> None:
    server = Server(echo, host="127.0.0.1", port=0)
    server.close()
    with serving(port=server.port):
        pass


def test_an_answer_under_way_is_finished_before_closing() -> None:
    begun, finish = threading.Event(), threading.Event()

    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        begun.set()
        finish.wait(3)
        start_response("200 OK", [])
        return [b"done"]

    with serving(app) as server, dial(server, GET) as client:
        begun.wait(3)
        closer = threading.Thread(target=server.close)
        closer.start()
        eventually(lambda: server._closing)
        finish.set()
        assert answer(client) == (200, b"done")
        assert everything(client) == b""
        closer.join()


# --- room for TLS ----------------------------------------------------------------------------------------------------


class Handshake(socket.socket):
    """Stands for a TLS socket: its handshake is one byte from the client."""

    def do_handshake(self) -> None:
        if self.recv(1) != b"!":
            raise ssl.SSLError("no handshake")


def wrap(plain: socket.socket) -> socket.socket:
    timeout = plain.gettimeout()
    wrapped = Handshake(fileno=plain.detach())
    wrapped.settimeout(timeout)
    return wrapped


def test_a_handshake_blocks_nobody_and_has_a_deadline() -> None:
    with serving(wrap=wrap, header_deadline=0.4, connections=4) as server, ExitStack() as stack:
        silent = [stack.enter_context(dial(server)) for _ in range(3)]
        with dial(server, b"!" + GET) as client:
            assert answer(client)[0] == 200
        assert ask(server, b"?") == b""
        assert lifetime(silent[-1]) < 2


def test_a_connection_in_its_handshake_is_evicted_like_others() -> None:
    with serving(wrap=wrap, connections=2) as server, ExitStack() as stack:
        silent = [stack.enter_context(dial(server)) for _ in range(6)]
        with dial(server, b"!" + GET) as client:
            assert answer(client)[0] == 200
        assert everything(silent[0]) == b""


def test_a_connection_evicted_while_it_is_being_wrapped_ends_at_once() -> None:
    gate = threading.Event()

    def slow(plain: socket.socket) -> socket.socket:
        descriptor = plain.detach()  # from here on the server has nothing to cut
        gate.wait(3)
        return Handshake(fileno=descriptor)

    with serving(wrap=slow, connections=1, header_deadline=60) as server, dial(server) as first:
        eventually(lambda: any(connection.sock.fileno() < 0 for connection in server._open))
        with dial(server):
            eventually(lambda: any(connection.cut for connection in server._open))
            gate.set()
            assert everything(first) == b""
