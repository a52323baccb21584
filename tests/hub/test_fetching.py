"""One question to one machine: every way in which it can fail has its own words."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tools.lab.wait import patience

from certificates import Site, basic, hashed
from gpu_exporter.config.parsers import networks
from gpu_exporter.http.access import Gate
from gpu_exporter.hub.fetching import Access, Fetched, Fetcher, FetchError, access
from gpu_exporter.hub.names import Names
from gpu_exporter.hub.nodes import Node
from gpu_exporter.hub.settings import Authorization, BasicAuth, HttpConfig, TlsClient
from gpu_exporter.pages.application import Application
from machines import Handle, Told, answer, anything, exporter, nobody

DOCUMENT = {"schema": 1, "exporter": {"version": "1", "sample_success": True}, "gpus": []}


def how(config: HttpConfig | None = None, *, timeout: float = 0.0, scheme: str = "http") -> Access:
    return access(config or HttpConfig(), scheme=scheme, timeout=timeout or patience(), beside=None)


def ask(port: int, way: Access | None = None, *, host: str = "127.0.0.1", etag: str = "", times: int = 1) -> list[Any]:
    """What comes of it, so many times on one connection: a Fetched, None, or a FetchError."""

    async def go() -> list[Any]:
        fetcher = Fetcher(way or how(), Names(None))
        found: list[Any] = []
        try:
            for _ in range(times):
                try:
                    found.append(await fetcher.fetch(Node("x", host, port), etag))
                except FetchError as error:
                    found.append(error)
        finally:
            await fetcher.close()
        return found

    return asyncio.run(go())


def failure(port: int, way: Access | None = None, **rest: Any) -> FetchError:
    (found,) = ask(port, way, **rest)
    assert isinstance(found, FetchError), found
    return found


@pytest.fixture
def serve() -> Iterator[Callable[[Handle], int]]:
    with ExitStack() as stack:
        yield lambda handle: stack.enter_context(anything(handle))


def test_a_real_exporter_s_snapshot() -> None:
    with exporter(Told()) as server:
        first, second = ask(server.port, times=2)
    assert isinstance(first, Fetched)
    assert first.document.gpus[0].uuid == "GPU-3"
    assert first.document.gpus[0].metrics.gpu_temperature_celsius == 41.0
    assert first.address == "127.0.0.1"
    assert json.loads(first.body())["schema"] == 1
    assert first.etag == second.etag != ""


def test_what_has_not_changed_is_not_sent_again() -> None:
    with exporter(Told()) as server:
        (first,) = ask(server.port)
        assert ask(server.port, etag=first.etag) == [None]
        assert isinstance(ask(server.port, etag='"other"')[0], Fetched)


def test_the_connection_is_kept() -> None:
    with exporter(Told()) as server:
        peers = []
        real = Application(provider=Told())

        def counting(environ: Any, start: Any) -> Any:
            peers.append(environ.get("REMOTE_PORT", environ["REMOTE_ADDR"]))
            return real(environ, start)

        with exporter(Told(), application=counting) as counted:
            assert len(ask(counted.port, times=3)) == 3
            assert len(counted.connections.open) <= 1
        assert len(peers) == 3
        assert server.port


def trickle(connection: socket.socket, _head: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
    connection.settimeout(0.02)
    while True:
        connection.sendall(b"{")
        try:
            if not connection.recv(1):
                return
        except TimeoutError:
            continue


def endless(connection: socket.socket, _head: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
    piece = b"0," * (1 << 19)
    while True:
        connection.sendall(piece)


def bomb(connection: socket.socket, _head: bytes) -> None:
    packer = zlib.compressobj(9, wbits=31)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


def half(connection: socket.socket, _head: bytes) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"sch')
    connection.shutdown(socket.SHUT_WR)


def half_packed(connection: socket.socket, _head: bytes) -> None:
    body = gzip.compress(json.dumps(DOCUMENT).encode())[:-6]
    answer(body, headers="Content-Encoding: gzip\r\n")(connection, b"")


def old(connection: socket.socket, head: bytes) -> None:
    if head.startswith(b"GET /metrics"):
        answer('gpu_exporter_build_info{version="0.1"} 1\n', kind="text/plain")(connection, head)
    else:
        answer("404 Not Found", status="404 Not Found", kind="text/plain")(connection, head)


CASES: dict[str, tuple[Handle, str, str]] = {
    "hangs": (lambda _connection, _head: None, "timeout", "did not answer within 0.3 s"),
    "one byte at a time": (trickle, "timeout", "did not answer within 0.3 s"),
    "endless": (endless, "too_large", "answered more than 16 MiB"),
    "said to be 1 GiB": (
        lambda connection, _: connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n"
        ),
        "too_large",
        "answered more than 16 MiB",
    ),
    "gzip bomb": (bomb, "too_large", "answered more than 16 MiB"),
    "not gzip": (answer("plain", headers="Content-Encoding: gzip\r\n"), "garbage", "gzip that cannot be unpacked"),
    "half": (half, "broken", "broke off in the middle of an answer"),
    "half of gzip": (half_packed, "broken", "broke off in the middle of an answer"),
    "closes": (lambda connection, _: connection.shutdown(socket.SHUT_RDWR), "broken", "ended the connection without"),
    "no HTTP": (lambda c, _: c.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), "not_exporter", "does not speak HTTP"),
    "endless header": (
        lambda c, _: c.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
        "not_exporter",
        "does not speak HTTP",
    ),
    "a page": (answer("<html>", kind="text/html"), "not_exporter", "answered text/html where a gpu-exporter answers"),
    "not JSON": (answer("gpu!"), "garbage", "something that is no snapshot"),
    "deep JSON": (answer("[" * 200_000), "garbage", "something that is no snapshot"),
    "another JSON": (answer({"hello": 1}), "garbage", "JSON that is no snapshot"),
    "a list": (answer("[1]"), "garbage", "something that is no snapshot"),
    "not UTF-8": (answer(b'{"schema": 1, "host": {"name": "\xff"}}'), "garbage", "not text in UTF-8"),
    "empty": (answer(""), "garbage", "no snapshot"),
    "newer": (
        answer({**DOCUMENT, "schema": 2}),
        "version",
        "speaks version 2 of the snapshot, this hub 1: upgrade the hub",
    ),
    "lies about types": (
        answer({**DOCUMENT, "gpus": [{"gpu": "one"}]}),
        "garbage",
        r"cannot be read: Expected `int`, got `str` - at `\$.gpus\[0\].gpu`",
    ),
    "no exporter in it": (answer({"schema": 1}), "garbage", "missing required field `exporter`"),
    "redirect": (
        answer(status="302 Found", headers="Location: http://elsewhere/\r\n"),
        "redirect",
        r"sends us on to http://elsewhere/ \(302\)",
    ),
    "login": (answer(status="401 Unauthorized"), "login", r"wants a login \(401\): hub.yml has it in http_config"),
    "forbidden": (answer(status="403 Forbidden"), "forbidden", r"does not let this hub in \(403\)"),
    "too often": (answer(status="429 Too Many Requests"), "error", r"is asked too often \(429\)"),
    "another program": (
        answer(status="404 Not Found"),
        "not_exporter",
        "is no gpu-exporter: it has no /api/v1/snapshot",
    ),
    "too old": (old, "version", "runs a gpu-exporter that is too old: it has no /api/v1/snapshot; upgrade it"),
    "broken": (answer(status="500 Internal Server Error"), "error", "answered 500 Internal Server Error"),
    "unknown encoding": (answer("x", headers="Content-Encoding: br\r\n"), "garbage", r"not asked for \(br\)"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_fails_is_told_in_its_own_words(case: str, serve: Callable[[Handle], int]) -> None:
    handle, reason, words = CASES[case]
    # Only what never ends needs a deadline; a busy machine must not make one of what fails at once.
    error = failure(serve(handle), how(timeout=0.3 if reason == "timeout" else 0.0))
    assert error.reason == reason, error
    with pytest.raises(FetchError, match=words):
        raise error
    assert "\n" not in str(error)
    assert len(str(error)) < 400


def test_large_answers_do_not_add_up(serve: Callable[[Handle], int]) -> None:
    """Twenty machines answer 16 MiB each, packed into 16 KiB, at the same time."""
    port = serve(answer(" " * (15 << 20) + "{}", pack=True))

    async def go() -> list[object]:
        fetcher = Fetcher(how(), Names(None))
        nodes = [Node(str(number), "127.0.0.1", port) for number in range(20)]
        try:
            return await asyncio.gather(*(fetcher.fetch(node, "") for node in nodes), return_exceptions=True)
        finally:
            await fetcher.close()

    tracemalloc.start()
    try:
        found = asyncio.run(go())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {getattr(each, "reason", None) for each in found} == {"garbage"}, found
    assert peak < 20 * (4 << 20) + 6 * (16 << 20), f"{peak / 2**20:.0f} MiB"


def test_a_machine_s_words_cannot_turn_the_page_around(serve: Callable[[Handle], int]) -> None:
    handle = answer(status="302 Found", headers=f"Location: http://x/{'y' * 5000}\r\n")
    assert len(str(failure(serve(handle)))) < 300
    handle = answer(status="500 \u202eevil\x1b[31m".encode().decode("latin-1"))
    error = str(failure(serve(handle)))
    assert "\x1b" not in error
    assert "\u202e" not in error


def test_nobody_listens() -> None:
    assert (failure(nobody()).reason, str(failure(nobody()))) == (
        "refused",
        "refused the connection: nothing listens there",
    )


def test_a_name_that_nobody_knows() -> None:
    error = failure(1, host="no-such-machine.invalid")
    assert error.reason == "dns"
    assert str(error).startswith("cannot be looked up: ")


def test_an_exporter_that_lets_in_others_only() -> None:
    with exporter(Told(), allow=networks("10.9.9.9/32")) as server:
        assert failure(server.port).reason == "forbidden"


# --- passwords and certificates ---------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def secured(site: Site) -> Any:
    gate = Gate(site.path)
    return exporter(
        Told(), application=gate.protect(Application(provider=Told())), wrap=gate.wrap if gate.secure else None
    )


def trusting(site: Site, **rest: Any) -> HttpConfig:
    return HttpConfig(tls_config=TlsClient(ca_file=str(site.folder / "ca.pem"), **rest))


def test_passwords(site: Site) -> None:
    site.path.write_text(f"basic_auth_users: {{hub: '{hashed('secret')}'}}\n")
    (site.folder / "password").write_text("secret\n")
    with secured(site) as server:
        assert str(failure(server.port)).startswith("wants a login")
        wrong = how(HttpConfig(basic_auth=BasicAuth("hub", None, "wrong")))
        assert str(failure(server.port, wrong)).startswith("does not accept the login")
        right = how(HttpConfig(basic_auth=BasicAuth(username="hub", password_file=str(site.folder / "password"))))
        assert isinstance(ask(server.port, right)[0], Fetched)
    assert right.headers["Authorization"] == basic("hub", "secret")["Authorization"]


def test_tokens(serve: Callable[[Handle], int]) -> None:
    seen = []

    def handle(connection: socket.socket, head: bytes) -> None:
        seen.append(head)
        answer(DOCUMENT, pack=True)(connection, head)

    way = how(HttpConfig(authorization=Authorization(credentials="abc")))
    assert isinstance(ask(serve(handle), way)[0], Fetched)
    assert b"\r\nAuthorization: Bearer abc\r\n" in seen[0]


def test_certificates(site: Site) -> None:
    site.write()
    with secured(site) as server:
        unknown = failure(server.port, how(scheme="https"))
        assert (unknown.reason, str(unknown)) == (
            "certificate",
            "has a certificate that is not trusted: unable to get local issuer certificate",
        )
        assert isinstance(ask(server.port, how(trusting(site), scheme="https"))[0], Fetched)
        other = failure(server.port, how(trusting(site, server_name="gpu-z"), scheme="https"))
        assert other.reason == "certificate"
        assert "gpu-z" in str(other)
        blind = how(HttpConfig(tls_config=TlsClient(insecure_skip_verify=True)), scheme="https")
        assert isinstance(ask(server.port, blind)[0], Fetched)
        plain = failure(server.port)
        assert plain.reason == "tls"
        assert "speaks HTTPS" in str(plain)


def test_https_where_there_is_none() -> None:
    with exporter(Told()) as server:
        error = failure(server.port, how(scheme="https"))
    assert error.reason == "tls"
    assert "Then write scheme: http" in str(error)


def test_machines_that_want_our_certificate(site: Site) -> None:
    site.ca.cert_pem.write_to_path(site.folder / "client-ca.pem")
    site.write("client_ca_file: client-ca.pem\nclient_auth_type: RequireAndVerifyClientCert")
    ours = site.ca.issue_cert("hub")
    ours.cert_chain_pems[0].write_to_path(site.folder / "hub.pem")
    ours.private_key_pem.write_to_path(site.folder / "hub-key.pem")
    with secured(site) as server:
        without = failure(server.port, how(trusting(site), scheme="https"))
        assert (without.reason, "wants a certificate of ours" in str(without)) == ("certificate", True), without
        mine = trusting(site, cert_file=str(site.folder / "hub.pem"), key_file=str(site.folder / "hub-key.pem"))
        assert isinstance(ask(server.port, how(mine, scheme="https"))[0], Fetched)


def test_the_system_s_certificates_are_trusted_without_others() -> None:
    assert how().context.verify_mode is ssl.CERT_REQUIRED
    assert how().context.check_hostname
