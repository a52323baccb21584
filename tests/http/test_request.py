"""Requests without a socket: what is taken, what is refused, and when a trickle has lasted too long."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from gpu_exporter.http.request import RefusedError, Request, Stream, parse

PROMETHEUS = (
    b"GET /metrics HTTP/1.1\r\nHost: node-1:9435\r\nUser-Agent: Prometheus/3.5.0\r\n"
    b"Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n"
    b"Accept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n"
)
ABROAD = {"server": ("::", 9435), "scheme": "http", "peer": "10.0.0.7"}


def test_what_prometheus_sends() -> None:
    request = parse(PROMETHEUS)
    assert (request.method, request.target, request.version) == ("GET", "/metrics", "HTTP/1.1")
    assert request.values("user-agent") == ["Prometheus/3.5.0"]
    assert request.keep_alive
    assert request.body_length() == 0
    environ = request.environ(b"", server=("::", 9435), scheme="https", peer="10.0.0.7")
    assert environ["HTTP_ACCEPT_ENCODING"] == "gzip"
    assert environ["HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS"] == "10"
    assert (environ["SERVER_PORT"], environ["wsgi.url_scheme"], environ["REMOTE_ADDR"]) == ("9435", "https", "10.0.0.7")


# h11 0.16 refuses all of these as well, but for the folded line, which it unfolds, the number of fields and HTTP/0.9.
@pytest.mark.parametrize(
    ("head", "status"),
    [
        *(
            (line + b"\r\nHost: x\r\n\r\n", 400)
            for line in (
                b"GET /", b"GET  / HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET\t/\tHTTP/1.1",
                b"GET HTTP/1.1", b"GET / x HTTP/1.1", b"GE(T / HTTP/1.1", b"G\xc4T / HTTP/1.1", b"GET /\x00 HTTP/1.1",
                b"GET /\x01 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET / HTTP/1.x",
                b"GET / HTTP/01.1", b"GET / HTTP/1.10",
                b"GET / HTTP/0.9", b"GET / http/1.1", b"GET / HTTP/1.1\r", b"\x16\x03\x01\x02\x00\x01\x00",
            )
        ),
        *(
            (b"GET / HTTP/1.1\r\n" + field + b"\r\n\r\n", 400)
            for field in (
                b"no colon", b"A: b\r\n folded", b" A: b", b"A: b\rC: d", b"A: b\0", b"A : b", b": b", b"A\xff: b",
                b"\x0b", b"Host: x\r\nHost: y", b"Host: x\r\nhost: x",
            )
        ),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 101 + b"\r\n", 431),
    ],
)  # fmt: skip
def test_heads_that_are_refused(head: bytes, status: int) -> None:
    with pytest.raises(RefusedError, match=str(status)):
        parse(head)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.2\r\nA:\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: \xff\x01\tb\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 100 + b"\r\n",
    ],
)
def test_heads_that_are_unusual_and_taken(head: bytes) -> None:
    assert parse(head).target == "/"


def asking(*fields: str, version: str = "HTTP/1.1", target: str = "/") -> Request:
    pairs = (field.partition(":") for field in fields)
    return Request("GET", target, version, tuple((name.lower(), value.strip()) for name, _, value in pairs))


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        ("HTTP/1.1", "", True),
        ("HTTP/1.1", "close", False),
        ("HTTP/1.1", "Close", False),
        ("HTTP/1.1", "keep-alive, Close", False),
        ("HTTP/1.1", "upgrade", True),
        ("HTTP/1.0", "", False),
        ("HTTP/1.0", "Keep-Alive", True),
        ("HTTP/1.0", "keep-alive, close", False),
    ],
)
def test_whether_the_connection_is_kept(version: str, connection: str, keep_alive: bool) -> None:
    assert asking(f"Connection: {connection}", version=version).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], 0),
        (["Content-Length: 7"], 7),
        (["Content-Length: 7", "Content-Length: 7"], 7),
        (["Content-Length: 65536"], 65536),
        (["Content-Length: 65537"], None),
        (["Content-Length: 99999999999999999999"], None),
        (["Transfer-Encoding: chunked", "Content-Length: 7"], None),
        (["Content-Length: 7", "Expect: 100-Continue"], None),
        (["Expect: 100-continue"], None),
        (["Content-Length: 7", "Expect: something"], 7),
    ],
)
def test_how_long_a_body_is(fields: list[str], length: int | None) -> None:
    assert asking(*fields).body_length() == length


@pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", "0x10", "1, 1", "1 1", "\u0663", "ten"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(RefusedError, match="400"):
        asking(f"Content-Length: {text}").body_length()
    with pytest.raises(RefusedError, match="400"):
        asking("Content-Length: 1", "Content-Length: 2").body_length()


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a%20b?q=%20", "/a b", "q=%20"),
        ("http://host:1/a?b", "/a", "b"),
        ("HTTPS://host", "/", ""),
        ("//a", "/a", ""),
        ("?b", "/", "b"),
        ("*", "*", ""),
        ("/metricshttp://x", "/metricshttp://x", ""),
        ("/apihttp://z/v1/gpus", "/apihttp://z/v1/gpus", ""),
    ],
)
def test_targets(target: str, path: str, query: str) -> None:
    environ = asking(target=target).environ(b"", **ABROAD)  # type: ignore[arg-type]
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == (path, query)


@pytest.mark.parametrize("target", ["nothing", "host:443", "ftp://host/a", "file:/etc/passwd"])
def test_targets_of_somebody_else(target: str) -> None:
    with pytest.raises(RefusedError, match="400"):
        asking(target=target).environ(b"", **ABROAD)  # type: ignore[arg-type]


# --- the stream ------------------------------------------------------------------------------------------------------


class Client:
    """Sends one piece after the other, each ``pause`` seconds of its own clock after the one before."""

    def __init__(self, pieces: Iterable[bytes], pause: float = 0.0) -> None:
        self._pieces = iter(pieces)
        self._pause = pause
        self.now = 0.0

    def receive(self, deadline: float) -> bytes:
        self.now += self._pause
        if self.now >= deadline:
            raise TimeoutError
        return next(self._pieces, b"")


def bytes_of(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


def test_requests_are_cut_out_however_they_arrive() -> None:
    data = b"\r\n\nGET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyzGET /c HTTP/1.1\n\nGET /d"
    for pieces in ([data], bytes_of(data), [data[:50], data[50:]]):
        stream = Stream(Client(pieces).receive)
        assert stream.head(1) == b"GET /a HTTP/1.1\r\n\r\n"
        assert stream.head(1) == b"POST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\n"
        assert stream.body(3, 1) == b"xyz"
        stream.wait(1)
        assert stream.head(1) == b"GET /c HTTP/1.1\n\n"
        assert stream.head(1) is None, "the client left in the middle"


def test_one_deadline_for_a_whole_head_and_one_for_a_whole_body() -> None:
    data = b"GET / HTTP/1.1\r\n\r\n"
    in_time, too_slow = ([Stream(Client(bytes_of(data), pause=pause).receive) for _ in "hb"] for pause in (0.9, 1.1))
    assert in_time[0].head(len(data)) == data
    assert in_time[1].body(len(data), len(data)) == data
    with pytest.raises(TimeoutError):
        too_slow[0].head(len(data))
    with pytest.raises(TimeoutError):
        too_slow[1].body(len(data), len(data))


def test_a_client_that_waits_too_long_or_leaves_in_its_body() -> None:
    with pytest.raises(TimeoutError):
        Stream(Client([b"GET"], pause=2).receive).wait(1)
    with pytest.raises(ConnectionResetError):
        Stream(Client([b"01"]).receive).body(3, 1)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"a" * 8193, 414),
        (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 33000, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 33000 + b"\r\n\r\n", 431),
    ],
)
def test_heads_that_are_too_long(data: bytes, status: int) -> None:
    with pytest.raises(RefusedError, match=str(status)):
        Stream(Client([data]).receive).head(1)
