"""The server over real sockets: well-behaved clients, and what it refuses."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_exporter.http.server import Server
from serving import GET, answer, ask, dial, everything, fetch, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


# --- well-behaved clients --------------------------------------------------------------------------------------------


def test_keep_alive_reuses_one_connection(server: Server) -> None:
    with dial(server) as client:
        for _ in range(3):
            client.sendall(GET)
            assert answer(client) == (200, b"GET /hello  ")
        assert len(server.connections.open) == 1


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
    @settings(max_examples=120)
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
