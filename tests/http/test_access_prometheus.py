"""The installed command behind TLS, client certificates and a password: a real Prometheus, signals, a slow crowd."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter, parse, pick
from tools.lab.prometheus import Prometheus
from tools.lab.wait import wait_for

from certificates import Site, basic, fetch, hashed, presented

pytestmark = pytest.mark.e2e
CONFIGURATION = """\
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
  - job_name: gpu-exporter
    scheme: https
    tls_config: {{ca_file: ca.pem, cert_file: client.pem, key_file: client.key}}
    basic_auth: {{username: prometheus, password: secret}}
    static_configs: [{{targets: ['127.0.0.1:{port}']}}]
  - job_name: no-certificate
    scheme: https
    tls_config: {{ca_file: ca.pem}}
    basic_auth: {{username: prometheus, password: secret}}
    static_configs: [{{targets: ['127.0.0.1:{port}']}}]
  - job_name: no-password
    scheme: https
    tls_config: {{ca_file: ca.pem, cert_file: client.pem, key_file: client.key}}
    static_configs: [{{targets: ['127.0.0.1:{port}']}}]
  - job_name: no-trust
    scheme: https
    tls_config: {{cert_file: client.pem, key_file: client.key}}
    basic_auth: {{username: prometheus, password: secret}}
    static_configs: [{{targets: ['127.0.0.1:{port}']}}]
  - job_name: no-tls
    basic_auth: {{username: prometheus, password: secret}}
    static_configs: [{{targets: ['127.0.0.1:{port}']}}]
"""
VERIFY = (
    "client_auth_type: RequireAndVerifyClientCert\nclient_ca_file: ca.pem\nclient_allowed_sans: [prometheus.example]"
)
USERS = f"basic_auth_users:\n  prometheus: {hashed('secret', cost=10)}\n"
FAKE = ("--source=fake", "--fake.gpus=2", "--collection.interval=500ms")
PASSWORD = basic("prometheus", "secret")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_real_prometheus_scrapes_over_tls_with_a_certificate_and_a_password(site: Site) -> None:
    client = site.ca.issue_cert("prometheus.example")
    client.cert_chain_pems[0].write_to_path(site.folder / "client.pem")
    client.private_key_pem.write_to_path(site.folder / "client.key")
    site.write(VERIFY, USERS)
    with (
        Exporter(site.folder, *FAKE, f"--web.config.file={site.path}") as exporter,
        Prometheus(site.folder, CONFIGURATION.format(port=exporter.port)) as prometheus,
    ):
        ask = prometheus.number
        wait_for(lambda: ask('up{job="gpu-exporter"}') == 1)
        wait_for(lambda: ask("count(up)") == 5)
        assert ask('sum(gpu_up{job="gpu-exporter"})') == 2
        assert ask('sum(up{job!="gpu-exporter"})') == 0
        site.issue("second")
        own = site.client("prometheus.example")
        wait_for(lambda: presented(exporter.port, own) == "second")
        good = 'sum_over_time(up{job="gpu-exporter"}[1h])'
        before = ask(good) or 0
        wait_for(lambda: (ask(good) or 0) >= before + 2)
        assert "secret" not in exporter.log()


def test_sighup_reads_the_web_configuration_too(site: Site) -> None:
    site.write(rest=USERS)
    with Exporter(site.folder, *FAKE, f"--web.config.file={site.path}") as exporter:
        context = site.client()

        def reloaded() -> float | None:
            status, _, text = fetch(exporter.port, context, headers=PASSWORD)
            assert status == 200
            return pick(parse(text), "gpu_exporter_config_reload_success")

        assert reloaded() == 1
        site.write("min_version: SSL3", USERS)
        exporter.signal(signal.SIGHUP)
        wait_for(lambda: reloaded() == 0, exporter.log)
        assert "tls_server_config.min_version: 'SSL3' is not known; write TLS12 or TLS13" in exporter.log()
        site.write(rest=USERS)
        exporter.signal(signal.SIGHUP)
        wait_for(lambda: reloaded() == 1, exporter.log)


def test_passwords_without_tls_are_warned_about(site: Site) -> None:
    site.path.write_text(USERS)
    extra = {"GPU_EXPORTER_WEB_CONFIG_FILE": str(site.path)}
    with Exporter(site.folder, *FAKE, extra=extra) as exporter:
        wait_for(lambda: "passwords travel in the clear" in exporter.log())
        assert exporter.status("/livez") == 401
        assert exporter.get("/livez", PASSWORD)[::2] == (200, "ok\n")


def test_a_clean_exit_beneath_open_handshakes(site: Site) -> None:
    site.write()
    with Exporter(site.folder, *FAKE, f"--web.config.file={site.path}") as exporter, ExitStack() as stack:
        for _ in range(20):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port), timeout=5))
            slow.sendall(b"\x16\x03\x01")
        assert fetch(exporter.port, site.client())[0] == 200
        started = time.monotonic()
        exporter.signal(signal.SIGTERM)
        assert exporter.process.wait(10) == 0
        assert time.monotonic() - started < 5, "it waited for the deadline of the handshakes"
