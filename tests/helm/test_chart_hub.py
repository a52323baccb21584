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


@pytest.mark.parametrize(
    ("hub", "stack", "links"),
    [
        ({}, {"externalUrl": "https://alerts.example.org"}, "https://alerts.example.org"),
        ({}, {}, ""),
        (
            {"alertmanagerExternalUrl": "https://a.example.org"},
            {"externalUrl": "https://b.example.org"},
            "https://a.example.org",
        ),
        (
            {"alertmanagerUrl": "http://a.monitoring:9093"},
            {"externalUrl": "https://b.example.org"},
            "http://a.monitoring:9093",
        ),
        (
            {"alertmanagerUrl": "http://a.monitoring:9093", "alertmanagerExternalUrl": "https://a.example.org"},
            {},
            "https://a.example.org",
        ),
    ],
)
def test_silences_are_made_where_browsers_reach_the_alertmanager(
    hub: dict[str, Any], stack: dict[str, Any], links: str
) -> None:
    values = {"hub": {"enabled": True, **hub}, "stack": {"enabled": True, "alertmanager": stack}}
    arguments = _pod(render(values))["containers"][0]["args"]
    assert f"--alertmanager.external-url={links}" in arguments


AWAY = {"prometheusUrl": "http://prometheus.monitoring:9090", "alertmanagerUrl": "https://alerts.example.org"}
TARGET = {"nodes": [{"targets": ["gpu-a.example.org:9435"]}]}


def _to(**peer: object) -> list[dict[str, Any]]:
    return [{"to": [peer]}]


@pytest.mark.parametrize(
    ("hub", "enabled", "closed"),
    [
        (AWAY, "auto", {}),
        (AWAY, False, {}),
        (AWAY, True, {"hub.prometheusUrl": 9090, "hub.alertmanagerUrl": 443}),
        (AWAY | {"egress": [{"ports": [{"port": 9090}]}]}, "auto", {"hub.alertmanagerUrl": 443}),
        (AWAY | {"egress": [{"ports": [{"port": 443}]}, {"ports": [{"port": 9000, "endPort": 9100}]}]}, True, {}),
        (AWAY | {"egress": [{"ports": [{"port": 9090, "protocol": "UDP"}]}]}, True, {**AWAY}),
        (AWAY | {"egress": [{}]}, True, {}),
        (AWAY | {"egress": _to(ipBlock={"cidr": "10.0.0.0/8"})}, "auto", {"hub.prometheusUrl": 9090}),
        (AWAY | {"egress": _to(namespaceSelector={})}, "auto", {"hub.alertmanagerUrl": 443}),
        (AWAY | {"egress": _to(podSelector={})}, "auto", {**AWAY}),
        (
            {"prometheusUrl": AWAY["prometheusUrl"]}
            | {"egress": _to(namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "other"}})},
            "auto",
            {"hub.prometheusUrl": 9090},
        ),
        (TARGET, True, {"hub.nodes": 9435}),
        (TARGET | {"egress": [{"ports": [{"port": 9435}]}]}, True, {}),
        ({"config": {"control": {"url": "https://ops.example.org/low"}}}, True, {"hub.config.control.url": 443}),
        ({"extraArgs": ["--prometheus.url=http://p.m.svc.cluster.local"]}, True, {"hub.extraArgs": 80}),
        ({"prometheusUrl": "http://10.1.2.3:9090"}, True, {"hub.prometheusUrl": 9090}),
        ({"prometheusUrl": "http://gpu-gpu-exporter-prometheus.gpus.svc:9090"}, True, {}),
        ({"alertmanagerUrl": "http://gpu-gpu-exporter-alertmanager:9093"}, True, {}),
    ],
)
def test_the_notes_tell_what_the_hub_cannot_reach_and_what_opens_it(
    hub: dict[str, Any], enabled: object, closed: dict[str, Any]
) -> None:
    values: dict[str, Any] = {"hub": {"enabled": True, **hub}, "networkPolicy": {"enabled": enabled}}
    notes = render(values).notes
    assert ("THE HUB CANNOT REACH" in notes) is bool(closed)
    told = notes.partition("THE HUB CANNOT REACH")[2].partition("This opens it")[0]
    for name in ("prometheusUrl", "alertmanagerUrl", "nodes", "config.control.url", "extraArgs"):
        assert (f"  hub.{name}: " in told) is (f"hub.{name}" in closed or name in closed), name
    if closed:
        opened = yaml.safe_load("  hub:" + notes.partition("  hub:")[2].partition("\n\n")[0])
        assert set(opened["hub"]) == {"egress"}
        values["hub"] |= opened["hub"]
        assert "THE HUB CANNOT REACH" not in render(values).notes


def test_what_the_nodes_network_opens_the_hub_reaches() -> None:
    values = {"hub": {"enabled": True, **TARGET}, "hostNetwork": True}
    policy = {"networkPolicy": {"enabled": True, "namespaces": ["monitoring"]}}
    assert "THE HUB CANNOT REACH" not in render({**values, **policy}).notes
    assert "hub.nodes: gpu-a" in render({**values, **policy, "port": 9999}).notes


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
