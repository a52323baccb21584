"""hub.yml."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_exporter.config import Address, ConfigError
from gpu_exporter.hub import settings
from gpu_exporter.hub.fetching import access


def load(tmp_path: Path, text: str) -> settings.HubConfig:
    file = tmp_path / "hub.yml"
    file.write_text(text)
    return settings.load(file)


def test_without_a_file_or_with_an_empty_one_everything_is_as_documented(tmp_path: Path) -> None:
    assert settings.load(None) == load(tmp_path, "") == settings.HubConfig()
    assert settings.HubConfig().deadline == 3.0


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        interval: 2s
        scheme: https
        http_config:
          basic_auth: {username: hub, password_file: password}
          tls_config: {ca_file: ca.pem, cert_file: c.pem, key_file: k.pem, server_name: gpu, insecure_skip_verify: true}
        dns: {server: '10.0.0.2:5353'}
        retention: 60d
        window: 7d
        thresholds: {idle: 5%, low: 0.3, normal: 80 %}
        weights: {utilization: 1, memory_io: 0, memory_used: 0, power: 0}
        control: {url: 'http://ops:8080/gpus', dry_run: false, cooldown: 2h, retries: 5}
        price: 2.5
        currency: EUR
        """,
    )
    assert (config.interval, config.deadline, config.scheme) == (2.0, 1.2, "https")
    assert config.dns.server == Address("10.0.0.2", 5353)
    assert (config.thresholds.idle, config.thresholds.low, config.thresholds.normal) == (0.05, 0.3, 0.8)
    assert (config.control.url, config.control.dry_run) == ("http://ops:8080/gpus", False)
    assert config.control.cooldown == 7200.0
    assert settings.secrets_of(config.http_config, tmp_path / "hub.yml") == tuple(
        tmp_path / name for name in ("password", "ca.pem", "c.pem", "k.pem")
    )


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("10.0.0.2", "10.0.0.2:53"),
        ("10.0.0.2:5353", "10.0.0.2:5353"),
        ("fd00::2", "[fd00::2]:53"),
        ("'[::1]:54'", "[::1]:54"),
    ],
)
def test_dns_servers(tmp_path: Path, written: str, address: str) -> None:
    assert str(load(tmp_path, f"dns: {{server: {written}}}").dns.server) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("intervall: 5s", "intervall: unknown key; write one of interval, timeout"),
        ("interval: 5", "interval: '5' is not a duration"),
        ("interval: 10ms", "interval: '10ms' is out of range; write 1s to"),
        ("{interval: 5s, timeout: 6s}", "timeout: is longer than interval"),
        ("dns: {server: dns.example.org}", "dns.server: 'dns.example.org' is not a DNS server's address"),
        ("dns: {server: '10.0.0.2:0'}", "is not a DNS server's address"),
        ("dns: {servers: 10.0.0.2}", "dns.servers: unknown key; write one of server"),
        ("thresholds: {idle: 0.5}", "thresholds: do not rise"),
        ("thresholds: {idle: 10}", "thresholds.idle: '10' is not a share"),
        ("weights: {power: 0.5}", "weights: are 1.4 together"),
        ("control: {url: 'ops:8080'}", "control.url: 'ops:8080' is not a URL"),
        ("control: {url: 'http://u:secret@ops'}", "control.url: has a password in it"),
        ("http_config: {basic_auth: {password: x}}", "http_config.basic_auth.username: is missing"),
        ("http_config: {basic_auth: {username: a, password: b, password_file: c}}", "write one of them"),
        ("http_config: {tls_config: {cert_file: c.pem}}", "has one of cert_file and key_file; write both"),
        ("control: {http_config: {authorization: {credentials: a, credentials_file: b}}}", "write one of them"),
        ("http_config: {follow_redirects: true}", "follow_redirects: unknown key"),
        ("price: cheap", "price: 'cheap' is not a price"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        load(tmp_path, text)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http_config: {basic_auth: {username: a, password_file: none}}", "password_file: '.*none' cannot be read"),
        ("http_config: {authorization: {credentials_file: empty}}", "credentials_file: '.*empty' holds no secret"),
        ("http_config: {tls_config: {ca_file: empty}}", "ca_file: 'empty' holds no certificate"),
        ("http_config: {tls_config: {ca_file: none}}", "ca_file: 'none' No such file"),
        ("http_config: {tls_config: {cert_file: empty, key_file: empty}}", "cert_file: 'empty' cannot be used"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "empty").write_text("")
    config = load(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        access(config.http_config, scheme="http", timeout=1.0, beside=tmp_path / "hub.yml")


def test_every_key_has_a_meaning() -> None:
    told = {key: text for key, _, text in settings.entries()}
    assert {"interval", "dns.server", "control.dry_run", "http_config.tls_config.ca_file"} <= set(told)
    assert [key for key, text in told.items() if not text.endswith(".")] == []
