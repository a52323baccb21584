"""The hub through the chart: its pod, who may reach whom; the real hub takes its files and finds the exporters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab.hub import Hub

from dns_server import DnsServer
from gpu_exporter.config import Address
from gpu_exporter.http.server import Server
from gpu_exporter.hub import nodes, settings
from gpu_exporter.model import Host
from gpu_exporter.pages.application import Application
from helm.pod_security import violations
from helm.rendering import Rendered, named, render
from machines import Told

CASES = ["hub", "hub-tls"]


def _files(rendered: Rendered) -> dict[str, str]:
    found: dict[str, str] = rendered.one("ConfigMap", "-hub")["data"]
    return found


def _pod(rendered: Rendered) -> dict[str, Any]:
    found: dict[str, Any] = rendered.one("Deployment", "-hub")["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_hub_takes_its_files(name: str, tmp_path: Path) -> None:
    for file, text in _files(named(name)).items():
        (tmp_path / file).write_text(text)
    config = settings.load(tmp_path / "hub.yml")
    assert [str(one) for one in config.discovery.dns] == ["gpu-gpu-exporter-exporters.gpus.svc:9435"]
    found = nodes.load(tmp_path / "nodes.yml").nodes
    assert [node.name for node in found] == (["gpu-a"] if name == "hub" else [])
    if name == "hub":
        assert (config.interval, config.thresholds.low, config.scheme) == (10.0, 0.3, "http")


def test_it_asks_as_prometheus_does_with_the_same_secrets() -> None:
    rendered = named("hub-tls")
    config = yaml.safe_load(_files(rendered)["hub.yml"])
    assert config["scheme"] == "https"
    pod = _pod(rendered)
    (volume,) = (volume["projected"] for volume in pod["volumes"] if volume["name"] == "scrape")
    secrets = {
        item["path"]: source["secret"]["name"] for source in volume["sources"] for item in source["secret"]["items"]
    }
    assert secrets == {
        "username": "scrape",
        "password": "scrape",
        "ca": "gpu-exporter-tls",
        "cert": "prometheus-client",
        "key": "prometheus-client",
    }
    (mount,) = (mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "scrape")
    told = {**config["http_config"]["basic_auth"], **config["http_config"]["tls_config"]}
    assert {name.removesuffix("_file"): path for name, path in told.items()} == {
        name: f"{mount}/{name}" for name in secrets
    }
    assert {
        "--web.config.file=/etc/gpu-exporter-hub-web/web-config.yml",
        "--prometheus.url=http://prometheus.monitoring:9090",
    } <= set(pod["containers"][0]["args"])
    assert "httpGet" not in pod["containers"][0]["readinessProbe"], "the kubelet has no password"


@pytest.mark.parametrize("name", CASES)
def test_its_pod_is_restricted_and_writes_one_folder(name: str) -> None:
    pod = _pod(named(name))
    assert violations(pod) == set()
    assert pod["automountServiceAccountToken"] is False
    writable = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/var/lib/gpu-exporter"]
    assert named(name).one("Deployment", "-hub")["spec"]["strategy"] == {"type": "Recreate"}
    assert pod["containers"][0]["image"] == named(name).container["image"]


def test_a_headless_service_leads_to_every_exporter() -> None:
    rendered = named("hub")
    service = rendered.one("Service", "-exporters")["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert service["selector"].items() <= rendered.one("DaemonSet")["spec"]["template"]["metadata"]["labels"].items()
    assert not any(item["metadata"]["name"].endswith(("-hub", "-exporters")) for item in named("default").objects)


def test_who_may_reach_it_and_whom_it_may_reach() -> None:
    rendered = named("hub")
    policy = rendered.one("NetworkPolicy", "-hub")["spec"]
    labels = rendered.one("Deployment", "-hub")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (peer,) = policy["ingress"][0]["from"]
    assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["ingress-nginx"]
    assert {port["port"] for port in policy["egress"][0]["ports"]} == {53}
    exporters = rendered.one("DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert policy["egress"][1]["to"][0]["podSelector"]["matchLabels"].items() <= exporters.items()
    own = rendered.one("NetworkPolicy", "gpu-gpu-exporter")["spec"]["ingress"][0]["from"]
    assert any(item.get("podSelector", {}).get("matchLabels", {}).items() <= labels.items() for item in own[-1:])
    ingress = rendered.one("Ingress")["spec"]
    assert ingress["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == "gpu-gpu-exporter-hub"
    route = named("hub-tls").one("HTTPRoute")["spec"]
    assert route["rules"][0]["backendRefs"] == [{"name": "gpu-gpu-exporter-hub", "port": 9436}]


@pytest.mark.parametrize("enabled", ["auto", True])
def test_who_may_connect_is_said_once_for_exporters_and_hub(enabled: object) -> None:
    hub = {"hub": {"enabled": True}}
    named_ones = {"enabled": enabled, "namespaces": ["monitoring"], "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    policy = render({**hub, "networkPolicy": named_ones}).one("NetworkPolicy", "-hub")["spec"]
    first, second = policy["ingress"][0]["from"]
    assert first["namespaceSelector"]["matchExpressions"][0]["values"] == ["monitoring"]
    assert second == {"ipBlock": {"cidr": "10.0.0.0/8"}}
    # Where it may connect to is not said by that: its nodes may be anywhere.
    assert (policy["policyTypes"], "egress" in policy) == (
        (["Ingress"], False) if enabled == "auto" else (["Ingress", "Egress"], True)
    )
    (own,) = render(hub).all("NetworkPolicy")
    assert not own["metadata"]["name"].endswith("-hub"), "everybody may"


def test_the_real_hub_finds_the_exporters_by_the_services_name(tmp_path: Path) -> None:
    """What the chart renders, a DNS server that knows the Service, and pods with addresses of their own."""
    server = DnsServer()
    server.addresses["gpu-gpu-exporter-exporters"] = ["127.0.0.2", "127.0.0.3"]
    pods = []
    try:
        port = 0
        for number, address in enumerate(("127.0.0.2", "127.0.0.3")):
            told = Told()
            told.machine = Host(name=f"node-{number}")
            made = Server(Application(provider=told), addresses=[Address(address, port)])
            made.start()
            pods.append(made)
            port = made.port
        rendered = render(
            {
                "hub": {"enabled": True, "config": {"interval": "1s", "dns": {"server": str(server.address)}}},
                "port": port,
            }
        )
        for file, text in _files(rendered).items():
            (tmp_path / file).write_text(text)
        history = [argument for argument in _pod(rendered)["containers"][0]["args"] if "history" in argument]
        assert history == ["--history.path=/var/lib/gpu-exporter/history.db"]
        with Hub(tmp_path, tmp_path / "nodes.yml", f"--history.path={tmp_path / 'history.db'}") as hub:
            hub.wait_states(**{"node-0": "online", "node-1": "online"})
    finally:
        for made in pods:
            made.close()
        server.close()
