"""Machines that a DNS name leads to: a real DNS server, real exporters on addresses of their own, the real hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tools.lab.hub import Hub
from tools.lab.ports import free_port

from dns_server import DnsServer
from gpu_exporter.config import Address, ConfigError
from gpu_exporter.http.server import Server
from gpu_exporter.hub import settings
from gpu_exporter.hub.fetching import access
from gpu_exporter.model import Host
from gpu_exporter.pages.application import Application
from machines import Told


@contextmanager
def pod(host: str, port: int, name: str) -> Iterator[None]:
    """An exporter with an address of its own, as a pod has one."""
    told = Told()
    told.machine = Host(name=name)
    server = Server(Application(provider=told), addresses=[Address(host, port)])
    server.start()
    try:
        yield
    finally:
        server.close()


@contextmanager
def hub(folder: Path, server: DnsServer, discovery: str) -> Iterator[Hub]:
    nodes = folder / "nodes.yml"
    nodes.write_text("[]\n")
    config = f"interval: 1s\ndns: {{server: '{server.address}'}}\ndiscovery: {discovery}\n"
    (folder / "hub.yml").write_text(config)
    with Hub(folder, nodes) as running:
        yield running


@pytest.fixture
def server() -> Iterator[DnsServer]:
    made = DnsServer(exporters=[])
    yield made
    made.close()


def test_machines_come_and_go_with_their_name(tmp_path: Path, server: DnsServer) -> None:
    port = free_port()
    server.addresses["exporters"] = ["127.0.0.2", "127.0.0.3"]
    with ExitStack() as pods:
        pods.enter_context(pod("127.0.0.2", port, "node-a"))
        pods.enter_context(pod("127.0.0.3", port, "node-b"))
        with hub(tmp_path, server, f"{{dns: ['exporters.gpus.svc:{port}'], interval: 1s}}") as running:
            running.wait_states(**{"node-a": "online", "node-b": "online"})
            assert running.nodes()["node-a"]["ip"] == "127.0.0.2"
            assert list(running.nodes()) == ["node-a", "node-b"]
            # nodes.yml comes first, and a machine that stands there is not asked twice.
            (tmp_path / "nodes.yml").write_text(f"[{{targets: ['127.0.0.3:{port}'], labels: {{alias: mine}}}}]\n")
            running.wait(lambda: list(running.nodes()) == ["mine", "node-a"])


def test_one_that_does_not_answer_has_its_address_for_a_name_until_it_does(tmp_path: Path, server: DnsServer) -> None:
    port = free_port()
    server.addresses["exporters"] = ["127.0.0.4"]
    with hub(tmp_path, server, f"{{dns: 'exporters:{port}', interval: 1s}}") as running:
        running.wait_states(**{f"127.0.0.4:{port}": "offline"})
        assert running.nodes()[f"127.0.0.4:{port}"]["reason"] == "refused"
        with pod("127.0.0.4", port, "node-d"):
            running.wait_states(**{"node-d": "online"})
            assert list(running.nodes()) == ["node-d"]


def test_srv_records_tell_the_port(tmp_path: Path, server: DnsServer) -> None:
    one, other = free_port(), free_port()
    server.services["_metrics._tcp.exporters.gpus.svc"] = [f"pod-a.gpus.svc {one}", f"pod-b.gpus.svc {other}"]
    server.addresses |= {"pod-a": ["127.0.0.2"], "pod-b": ["127.0.0.2"]}
    with (
        pod("127.0.0.2", one, "node-a"),
        pod("127.0.0.2", other, "node-b"),
        hub(tmp_path, server, "{dns: [_metrics._tcp.exporters.gpus.svc], interval: 1s}") as running,
    ):
        running.wait_states(**{"node-a": "online", "node-b": "online"})


def test_a_name_that_leads_nowhere_is_told_and_harms_nobody(tmp_path: Path, server: DnsServer) -> None:
    port = free_port()
    server.addresses["exporters"] = ["127.0.0.2"]
    with (
        pod("127.0.0.2", port, "node-a"),
        hub(
            tmp_path, server, f"{{dns: ['exporters:{port}', 'nobody.gpus:{port}', _none._tcp.gpus], interval: 1s}}"
        ) as running,
    ):
        running.wait_states(**{"node-a": "online"})
        page = running.get("/").text
        assert f"discovery.dns: nobody.gpus:{port}: the DNS server" in page
        assert "discovery.dns: _none._tcp.gpus: there is no such name" in page


@pytest.mark.parametrize(
    "written", ["exporters", "exporters:0", "exporters:70000", "a b:1", "_metrics._tcp.x:9435", "7", "['x:1', null]"]
)
def test_what_leads_to_no_machines_is_refused(tmp_path: Path, written: str) -> None:
    file = tmp_path / "hub.yml"
    file.write_text(f"discovery: {{dns: {written}}}")
    with pytest.raises(ConfigError, match=r"hub\.yml: discovery\.dns: .* leads to no machines; write exporters"):
        settings.load(file)


def test_a_user_name_comes_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "user").write_text("hub\n")
    (tmp_path / "hub.yml").write_text("http_config: {basic_auth: {username_file: user, password: x}}")
    config = settings.load(tmp_path / "hub.yml")
    how = access(config.http_config, scheme="http", timeout=1.0, beside=tmp_path / "hub.yml")
    assert how.headers["Authorization"] == "Basic aHViOng="
    assert tmp_path / "user" in settings.secrets_of(config.http_config, tmp_path / "hub.yml")
