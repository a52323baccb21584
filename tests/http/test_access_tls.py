"""TLS and client certificates with real handshakes; what clients do wrong, and certificates that change."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from tools.lab.clock import Clock
from tools.lab.wait import wait_for

from certificates import Site, fetch, presented
from gpu_exporter.config import ConfigError
from gpu_exporter.http.access import Gate
from gpu_exporter.http.server import Server
from serving import BIG, GET, dial, echo, everything, serving, trickle_until_closed, workers

ANSWER = "GET /metrics  "


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@contextmanager
def secured(site: Site, tls: str = "", **options: object) -> Iterator[Server]:
    gate = Gate(site.write(tls))
    with serving(gate.protect(echo), wrap=gate.wrap, **options) as server:
        yield server


def refused(server: Server, context: ssl.SSLContext) -> bool:
    """Whether the connection ends without an answer. With TLS 1.3, a client learns of it only when it reads."""
    try:
        fetch(server.port, context)
    except (ssl.SSLError, ConnectionError, http.client.BadStatusLine):
        return True
    return False


def test_pages_come_by_https(site: Site) -> None:
    with secured(site) as server:
        status, headers, text = fetch(server.port, site.client())
        assert (status, text, headers["Server"]) == (200, ANSWER, "gpu-exporter")
        assert server.scheme == "https"
        assert refused(server, ssl.create_default_context()), "nobody trusts our CA by default"


def test_one_connection_serves_many_requests_and_ends_with_tls_own_end(site: Site) -> None:
    with secured(site) as server:
        context = site.client()
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=5, context=context)
        for path in ("/a", "/b", "/big"):
            connection.request("GET", path)
            body = connection.getresponse().read()
            assert body == (BIG if path == "/big" else f"GET {path}  ".encode())
        assert len(server.connections.open) == 1
        connection.close()
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client,
        ):
            client.sendall(b"GET /a HTTP/1.1\r\nConnection: close\r\n\r\n")
            data = b""
            while chunk := client.recv(4096):  # a stream that is merely cut raises
                data += chunk
            assert data.endswith(b"GET /a  ")


def test_who_speaks_http_to_the_tls_port_is_told(site: Site) -> None:
    with (
        secured(site) as server,
        dial(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" + b"X: y\r\n" * 2000) as client,
    ):
        data = everything(client)
        assert data.startswith(b"HTTP/1.0 400 Bad Request\r\n")
        assert data.endswith(b"this port speaks HTTPS\n")


@pytest.mark.parametrize(
    ("tls", "version", "served"),
    [
        ("", ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        ("", ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
        ("min_version: TLS13", ssl.TLSVersion.TLSv1_2, None),
        ("max_version: TLS12", ssl.TLSVersion.TLSv1_3, None),
        ("cipher_suites: [TLS_AES_128_GCM_SHA256]", ssl.TLSVersion.TLSv1_2, None),
    ],
)
def test_versions(site: Site, tls: str, version: ssl.TLSVersion, served: str | None) -> None:
    with secured(site, tls) as server:
        context = site.client()
        context.minimum_version = context.maximum_version = version
        assert refused(server, context) is (served is None)
        if served:
            with (
                socket.create_connection(("127.0.0.1", server.port)) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as client,
            ):
                assert client.version() == served


def agreed(server: Server, context: ssl.SSLContext) -> str:
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        return (client.cipher() or ("",))[0]


def test_cipher_suites_and_whose_order_counts(site: Site) -> None:
    """trustme's keys are of elliptic curves: an RSA suite in the list serves nobody."""
    aes, chacha = "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"
    suites = (
        "cipher_suites:\n- TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n"
        "- TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\n- TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
    )
    context = site.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{chacha}:{aes}")
    with secured(site, suites) as server:
        assert agreed(server, context) == aes
    with secured(site, f"{suites}\nprefer_server_cipher_suites: false") as server:
        assert agreed(server, context) == chacha
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        assert refused(server, context)


def test_a_curve_is_the_only_one(site: Site) -> None:
    with secured(site, "curve_preferences: [CurveP256]") as server:
        for curve, served in (("prime256v1", True), ("secp384r1", False)):
            context = site.client()
            context.set_ecdh_curve(curve)
            assert refused(server, context) is not served


def test_a_curve_that_this_python_lacks_is_refused_with_a_line(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian 12's Python 3.11 does with X25519."""

    def unknown(*_: object) -> None:
        raise ssl.SSLError("[EC: UNKNOWN_GROUP] unknown group")

    monkeypatch.setattr(ssl.SSLContext, "set_ecdh_curve", unknown)
    with (
        pytest.raises(ConfigError, match=r"curve_preferences: 'X25519' is not known to this Python's OpenSSL"),
        secured(site, "curve_preferences: [X25519]"),
    ):
        pass


# --- client certificates ---------------------------------------------------------------------------------------------

VERIFY = "client_auth_type: RequireAndVerifyClientCert\nclient_ca_file: ca.pem"


def test_a_client_certificate_is_required_and_verified(site: Site) -> None:
    with secured(site, VERIFY) as server:
        assert fetch(server.port, site.client("prometheus.example"))[0] == 200
        assert refused(server, site.client()), "it has none"
        assert refused(server, site.client("prometheus.example", ca=trustme.CA())), "somebody else signed it"


def test_a_client_certificate_is_verified_if_given(site: Site) -> None:
    with secured(site, VERIFY.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven")) as server:
        assert fetch(server.port, site.client())[0] == 200
        assert fetch(server.port, site.client("prometheus.example"))[0] == 200
        assert refused(server, site.client("prometheus.example", ca=trustme.CA()))


@pytest.mark.parametrize("name", ["prometheus.example", "10.0.0.7", "ops@example.org", "0:0:0:0:0:0:0:1"])
def test_only_allowed_names_get_in(site: Site, name: str) -> None:
    with secured(site, f"{VERIFY}\nclient_allowed_sans: [other.example, '{name}']") as server:
        assert fetch(server.port, site.client(name))[0] == 200
        assert refused(server, site.client("prometheus.example.org"))


def test_a_name_that_is_not_allowed_does_not_get_in_by_resuming_its_session(site: Site) -> None:
    def answers(name: str) -> list[tuple[bool, bytes]]:
        """Of two connections, the second with the first one's session: whether it was resumed, and what was told."""
        context, session, told = site.client(name), None, []
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        for _ in range(2):
            plain = dial(server)
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as client:
                session = client.session
                with suppress(OSError):
                    client.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                told.append((bool(client.session_reused), everything(client)))
        return told

    with secured(site, f"{VERIFY}\nclient_allowed_sans: [prometheus.example]") as server:
        (first, page), (resumed, again) = answers("prometheus.example")
        assert (first, resumed) == (False, True), "sessions are resumed"
        assert page[:12] == again[:12] == b"HTTP/1.1 200"
        # OpenSSL 3.0 resumes this one as well, 3.6 does not.
        assert [told for _, told in answers("other.example")] == [b"", b""]


def test_an_intermediate_ca_is_trusted_by_itself(site: Site) -> None:
    team = site.ca.create_child_ca()
    team.cert_pem.write_to_path(site.folder / "ca.pem")
    with secured(site, VERIFY) as server:
        assert fetch(server.port, site.client("prometheus.example", ca=team))[0] == 200
        assert refused(server, site.client("prometheus.example")), "its parent signed it"


# --- clients that are slow or many -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trickle", [b"", b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc", b"\x00"])
def test_the_handshake_has_the_headers_deadline(site: Site, trickle: bytes) -> None:
    with secured(site, header_deadline=0.4) as server, dial(server, b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc") as client:
        assert b"HTTP" not in trickle_until_closed(client, trickle)


def test_the_handshake_and_the_header_share_one_deadline(site: Site) -> None:
    clock = Clock()
    with (
        secured(site, header_deadline=1000, monotonic=clock) as server,
        dial(server) as quick_plain,
        dial(server) as slow_plain,
    ):
        wait_for(lambda: len(server.connections.open) == 2)
        clock.now = 600
        quick, slow = (
            site.client().wrap_socket(plain, server_hostname="localhost") for plain in (quick_plain, slow_plain)
        )
        with quick, slow:
            clock.now = 900
            quick.sendall(GET)
            assert quick.recv(12) == b"HTTP/1.1 200"
            clock.now = 1001  # 401 after the handshake
            with suppress(OSError):
                slow.sendall(GET[:1])
            assert everything(slow) == b""


def test_who_reads_slowly_has_one_deadline_for_the_whole_answer(site: Site) -> None:
    """OpenSSL writes all of it in one call, which no clock of ours could end: this one is real."""
    with secured(site, write_deadline=0.5) as server:
        with dial(server) as plain, site.client().wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
            got = 0
            with suppress(OSError):
                while got < len(BIG) and (chunk := client.recv(16384)):
                    got += len(chunk)
                    time.sleep(0.005)  # ten seconds for all of it, or more
            assert got < len(BIG)
        wait_for(lambda: not server.connections.open)


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"])
def test_three_hundred_slow_handshakes_do_not_keep_a_scraper_out(site: Site, beginning: bytes) -> None:
    with secured(site) as server, ExitStack() as stack:
        stop = threading.Event()
        clients = [stack.enter_context(dial(server, beginning)) for _ in range(300)]

        def trickle() -> None:
            while not stop.wait(0.02):
                for client in clients:
                    with suppress(OSError):
                        client.send(b"\x00")

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        try:
            for _ in range(5):
                assert fetch(server.port, site.client())[::2] == (200, ANSWER)
                assert len(workers()) <= 1 + 64 + 16
        finally:
            stop.set()
            thread.join()


# --- certificates that change ----------------------------------------------------------------------------------------


def test_a_new_certificate_is_taken_without_a_restart(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), secured(site) as server:
        assert presented(server.port, site.client()) == "first"
        site.issue("second")
        assert presented(server.port, site.client()) == "second"
    assert [record.message for record in caplog.records] == ["web configuration reloaded"]


def test_a_bad_certificate_leaves_the_last_good_one_in_force(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), secured(site) as server:
        good = {name: (site.folder / name).read_bytes() for name in ("cert.pem", "key.pem")}
        (site.folder / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
        for _ in range(3):
            assert presented(server.port, site.client()) == "first"
        (site.folder / "cert.pem").unlink()
        assert presented(server.port, site.client()) == "first"
        for name, content in good.items():
            (site.folder / name).write_bytes(content)
        assert presented(server.port, site.client()) == "first"
    messages = [record.message for record in caplog.records]
    assert len(messages) == 3, messages
    assert messages[0].startswith(f"the web configuration stays as it was: {site.path}: tls_server_config.cert_file: ")
    assert messages[1].endswith("cert.pem' cannot be read: No such file or directory")
    assert messages[2] == "web configuration reloaded"


def test_a_mounted_secret_is_replaced_by_a_link(site: Site) -> None:
    """As the kubelet does: ..data points to a new folder, the files' own links stay as they are."""
    for version in ("1", "2"):
        folder = site.folder / version
        folder.mkdir()
        site.issue(f"version {version}")
        for name in ("cert.pem", "key.pem"):
            (site.folder / name).rename(folder / name)
    (site.folder / "..data").symlink_to("1")
    for name in ("cert.pem", "key.pem"):
        (site.folder / name).symlink_to(f"..data/{name}")
    with secured(site) as server:
        assert presented(server.port, site.client()) == "version 1"
        (site.folder / "..new").symlink_to("2")
        os.replace(site.folder / "..new", site.folder / "..data")  # noqa: PTH105 - what the kubelet calls
        assert presented(server.port, site.client()) == "version 2"


def test_who_may_get_in_changes_without_a_restart(site: Site) -> None:
    with secured(site, VERIFY) as server:
        assert refused(server, site.client())
        site.write()
        assert fetch(server.port, site.client())[0] == 200
        site.write(VERIFY)
        assert refused(server, site.client())


@pytest.mark.parametrize("text", ["", "basic_auth_users:\n", "tls_server_config:\n"])
def test_a_file_that_is_being_written_does_not_turn_tls_off(site: Site, text: str) -> None:
    with secured(site, VERIFY) as server:
        site.path.write_text(text)
        assert refused(server, site.client())
        assert fetch(server.port, site.client("prometheus.example"))[0] == 200
        with dial(server, b"GET / HTTP/1.1\r\n\r\n") as client:
            assert b"200" not in everything(client)


def test_certificates_may_stand_in_the_file(site: Site) -> None:
    def indented(name: str) -> str:
        return "".join(f"    {line}\n" for line in (site.folder / name).read_text().splitlines())

    site.path.write_text(
        "tls_server_config:\n  client_auth_type: RequireAndVerifyClientCert\n"
        + "".join(
            f"  {key}: |\n{indented(name)}"
            for key, name in (("cert", "cert.pem"), ("key", "key.pem"), ("client_ca", "ca.pem"))
        )
    )
    gate = Gate(site.path)
    with serving(gate.protect(echo), wrap=gate.wrap) as server:
        assert fetch(server.port, site.client("prometheus.example"))[0] == 200
        assert refused(server, site.client())
