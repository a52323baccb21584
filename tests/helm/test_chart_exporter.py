"""The exporter's pod: what it is told, what of the node is in it, and that the real exporter takes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab.exporter import Exporter, run
from tools.lab.wait import patience

from certificates import Site
from gpu_exporter.config import load
from helm.rendering import CASES, CHART, Manifest, Rendered, case, named, render


def _config_of(rendered: Rendered, folder: Path) -> Path:
    """The ConfigMap as the pod sees it, in another folder."""
    name = rendered.one("DaemonSet")["metadata"]["name"]
    data = next(item for item in rendered.all("ConfigMap") if item["metadata"]["name"] == name)["data"]
    for file, text in data.items():
        (folder / file).write_text(text.replace("/etc/gpu-exporter/", f"{folder}/"))
    return folder / "gpu-exporter.yml"


def _mount(pod: dict[str, Any], name: str) -> tuple[str, dict[str, Any]] | None:
    """Where a volume is mounted, and what it is."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in pod["containers"][0]["volumeMounts"]:
        if mount["name"] == name:
            return mount["mountPath"], volumes[name]
    assert name not in volumes
    return None


def _web_config(rendered: Rendered) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(rendered.one("Secret", "-web-config")["stringData"]["web-config.yml"])
    return found


# --- configuration ----------------------------------------------------------------------------------------------------


def test_every_configuration_is_accepted_by_the_exporter(tmp_path: Path) -> None:
    seen = set()
    for number, path in enumerate(CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = _config_of(case(path), folder)
        if file.read_text() in seen:
            continue
        seen.add(file.read_text())
        done = run("check-config", str(file))
        assert (done.returncode, done.stdout) == (0, f"{file}: ok\n"), (path.name, done.stderr)
    assert len(seen) > 5


def test_what_is_read_follows_the_values(tmp_path: Path) -> None:
    plain = load(_config_of(named("default"), tmp_path))
    assert (plain.source, plain.web.listen_address[0].port) == ("auto", 9435)
    assert not plain.processes.enabled
    assert not plain.owners.procfs
    assert not plain.owners.kubernetes
    everything = load(_config_of(named("owners-kubernetes"), tmp_path))
    assert everything.processes.enabled
    assert everything.owners.procfs
    assert everything.owners.kubernetes
    fake = load(_config_of(named("fake"), tmp_path))
    assert (fake.source, fake.fake.gpus, fake.fake.model, fake.fake.seed, fake.fake.owners) == (
        "fake",
        4,
        "h200",
        7,
        "pod",
    )
    own = load(_config_of(named("config"), tmp_path))
    assert (own.collection.interval, own.collection.expected_gpus, own.log.format) == (10.0, 8, "json")
    assert own.web.listen_address[0].port == named("config").container["ports"][0]["containerPort"] == 9999
    slurm = load(_config_of(named("everything-else"), tmp_path))
    assert str(slurm.owners.slurm_directory) == "/run/gpustat"


def test_the_exporter_runs_with_it_and_the_test_pod_is_content(tmp_path: Path) -> None:
    """The ConfigMap of the case with simulated GPUs, the real exporter, and the script of `helm test`."""
    rendered = named("fake")
    script = rendered.one("Pod")["spec"]["containers"][0]["args"][0]
    with Exporter(tmp_path, f"--config.file={_config_of(rendered, tmp_path)}") as exporter:
        exporter.wait_value(4, "gpu_exporter_gpus", state="up")
        url = f"http://127.0.0.1:{exporter.port}"
        good = _run(script, f"{url}/metrics", mutual=False)
        assert good.returncode == 0, good.stderr
        assert 'gpu_exporter_gpus{state="up"} 4' in good.stdout
        assert _run(script, f"{url}/metrics", mutual=True).stdout == f"{url}/metrics listens\n"
        wrong = _run(script, f"{url}/nothing", mutual=False)
        assert wrong.returncode == 1
        assert "404" in wrong.stderr
    assert _run(script, f"{url}/metrics", mutual=False).returncode != 0


def _run(script: str, url: str, *, mutual: bool) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "URL": url, "MUTUAL": str(mutual).lower()}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=patience(), check=False)


def test_settings_that_reload_restart_nothing_where_that_is_wanted() -> None:
    def checksum(interval: str, model: str, *, restart: bool) -> str:
        values = {
            "fake": {"enabled": True, "model": model},
            "config": {"collection": {"interval": interval}},
            "restartOnConfigChange": restart,
        }
        annotations = render(values).one("DaemonSet")["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    assert checksum("5s", "h100", restart=True) != checksum("6s", "h100", restart=True)
    assert checksum("5s", "h100", restart=False) == checksum("6s", "h100", restart=False)
    assert checksum("5s", "h100", restart=False) != checksum("5s", "a100", restart=False)


def test_the_configuration_is_mounted_as_a_folder() -> None:
    pod = named("default").pod
    found = _mount(pod, "config")
    assert found is not None
    assert found[0] == "/etc/gpu-exporter"
    assert all("subPath" not in mount for mount in pod["containers"][0]["volumeMounts"])


# --- what of the node is in the pod -----------------------------------------------------------------------------------


def test_by_default_nothing_of_the_node_is_in_it() -> None:
    pod = named("default").pod
    assert not any("hostPath" in volume for volume in pod["volumes"])
    assert not pod.keys() & {"hostPID", "hostNetwork", "runtimeClassName", "priorityClassName", "hostUsers"}
    environment = {item["name"]: item.get("value") for item in named("default").container["env"]}
    assert environment == {
        "NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "utility", "GPU_EXPORTER_HOST_NAME": None,
    }  # fmt: skip


def test_the_machine_is_called_as_the_cluster_calls_it_unless_told_otherwise() -> None:
    def name(**config: Any) -> list[Any]:
        environment = render({"config": config}).container["env"]
        return [item["valueFrom"] for item in environment if item["name"] == "GPU_EXPORTER_HOST_NAME"]

    node = [{"fieldRef": {"fieldPath": "spec.nodeName"}}]
    assert name() == name(host=None) == name(host={"enabled": False}) == node
    assert name(host={"name": "gpu3"}) == []


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [
        ("processes", "/host/etc", {"path": "/etc", "type": "Directory"}),
        ("owners-kubernetes", "/host/etc/passwd", {"path": "/etc/passwd", "type": "File"}),
        ("everything-else", "", {}),
    ],
)
def test_processes_share_pids_and_user_names(name: str, where: str, what: dict[str, str]) -> None:
    """A pod with uid 0 does not get the folder: /etc/shadow is in it."""
    pod = named(name).pod
    assert pod["hostPID"] is True
    found = _mount(pod, "host-etc")
    assert (found is None) is (not where)
    if found:
        assert (found[0], found[1]["hostPath"]) == (where, what)


def test_the_kubelets_folder_is_mounted_where_the_exporter_looks(tmp_path: Path) -> None:
    rendered = named("owners-kubernetes")
    found = _mount(rendered.pod, "pod-resources")
    assert found is not None
    assert found[1]["hostPath"] == {"path": "/var/lib/k0s/kubelet/pod-resources", "type": "Directory"}
    socket = load(_config_of(rendered, tmp_path)).owners.kubernetes_socket
    assert str(socket.parent) == found[0]
    assert rendered.pod["securityContext"]["runAsUser"] == 0
    assert rendered.container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


# --- who may talk to it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tls", "tls-clients", "basic-auth", "stack-full", "everything-else"])
def test_web_configurations_are_accepted_by_the_exporter(name: str, tmp_path: Path) -> None:
    site = Site(tmp_path)
    rendered = named(name)
    text = rendered.one("Secret", "-web-config")["stringData"]["web-config.yml"]
    for key, file in {"cert": "cert.pem", "key": "key.pem", "client_ca": "ca.pem"}.items():
        text = re.sub(rf"( {key}_file: )/etc/gpu-exporter-tls/\S+", rf"\g<1>{tmp_path}/{file}", text)
    assert "/etc/" not in text
    site.path.write_text(text)
    done = run("check-config", "--web.config.file", str(site.path))
    assert done.returncode == 0, done.stderr
    assert "--web.config.file=/etc/gpu-exporter-web/web-config.yml" in rendered.container["args"]
    found = _mount(rendered.pod, "web-config")
    assert found is not None
    assert found[0] == "/etc/gpu-exporter-web"
    assert found[1]["secret"]["secretName"] == rendered.one("Secret")["metadata"]["name"]


def test_a_web_configuration_of_ones_own_is_mounted_and_none_is_made() -> None:
    rendered = named("web-config-secret")
    assert rendered.all("Secret") == []
    found = _mount(rendered.pod, "web-config")
    assert found is not None
    assert found[1]["secret"]["secretName"] == "my-web-config"
    assert rendered.one("ServiceMonitor")["spec"]["endpoints"][0]["scheme"] == "https"


def test_probes_and_monitors_follow_the_web_configuration() -> None:
    plain, tls = named("default").container, named("tls").container
    assert plain["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "metrics", "scheme": "HTTP"}
    assert plain["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert plain["startupProbe"]["httpGet"]["path"] == "/livez"
    assert tls["livenessProbe"]["httpGet"]["scheme"] == "HTTPS"
    for name in ("tls-clients", "basic-auth"):
        probe = named(name).container["readinessProbe"]
        assert "httpGet" not in probe, "the kubelet has neither password nor certificate"
        assert probe["tcpSocket"] == {"port": "metrics"}
    endpoint = named("tls").one("ServiceMonitor")["spec"]["endpoints"][0]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"] == {
        "ca": {"secret": {"name": "gpu-exporter-tls", "key": "ca.crt"}},
        "serverName": "gpu-gpu-exporter.gpus.svc",
    }
    assert _web_config(named("tls-clients"))["tls_server_config"]["client_auth_type"] == "RequireAndVerifyClientCert"
    assert (
        named("basic-auth").one("PodMonitor")["spec"]["podMetricsEndpoints"][0]["basicAuth"]["username"]["name"]
        == "scrape"
    )


# --- scraping ---------------------------------------------------------------------------------------------------------


def _endpoint(rendered: Rendered) -> Manifest:
    found: Manifest = rendered.one("ServiceMonitor")["spec"]["endpoints"][0]
    return found


def test_the_scrape_keeps_the_holders_labels_and_names_job_and_node() -> None:
    plain = _endpoint(named("tls"))
    assert plain["honorLabels"] is True
    assert {"targetLabel": "job", "replacement": "gpu-exporter", "action": "replace"} in plain["relabelings"]
    assert [item.get("targetLabel") for item in plain["relabelings"]] == ["job", "instance", "service", None]
    assert plain["relabelings"][-1] == {"regex": "namespace|pod|container", "action": "labeldrop"}
    other = _endpoint(named("service-monitor"))
    assert [item.get("targetLabel") for item in other["relabelings"]] == ["job", "service", None, "rack"]
    assert (other["interval"], other["scrapeTimeout"], other["enableHttp2"]) == ("30s", "10s", False)
    assert named("service-monitor").one("ServiceMonitor")["spec"]["sampleLimit"] == 20000
    assert (
        _endpoint(render({"serviceMonitor": {"enabled": True}, "config": {"web": {"telemetry_path": "/x"}}}))["path"]
        == "/x"
    )


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor"])
def test_the_monitor_finds_what_there_is(kind: str) -> None:
    """Its selector fits the Service or the pod, and its port has a name there."""
    rendered = render({kind[0].lower() + kind[1:]: {"enabled": True}})
    spec = rendered.one(kind)["spec"]
    daemonset = rendered.one("DaemonSet")["spec"]["template"]
    service = rendered.one("Service")
    target = service if kind == "ServiceMonitor" else daemonset
    assert spec["selector"]["matchLabels"].items() <= target["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= daemonset["metadata"]["labels"].items()
    ports = service["spec"]["ports"] if kind == "ServiceMonitor" else daemonset["spec"]["containers"][0]["ports"]
    assert (spec.get("endpoints") or spec["podMetricsEndpoints"])[0]["port"] in {port["name"] for port in ports}
    assert spec["namespaceSelector"]["matchNames"] == [service["metadata"]["namespace"]]


# --- where it runs ----------------------------------------------------------------------------------------------------


def test_nodes_are_found_by_labels_unless_told_otherwise() -> None:
    def terms(rendered: Rendered) -> list[str]:
        affinity = rendered.pod.get("affinity", {}).get("nodeAffinity", {})
        found = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
        return [expression["key"] for term in found for expression in term["matchExpressions"]]

    assert {"nvidia.com/gpu.present", "feature.node.kubernetes.io/pci-10de.present"} <= set(terms(named("default")))
    assert terms(named("scheduling")) == ["gpu"]
    assert terms(named("fake")) == ["eks.amazonaws.com/compute-type", "type"]
    assert terms(render({"nodeDetection": {"enabled": False}})) == []
    assert {"eks.amazonaws.com/instance-gpu-manufacturer", "doks.digitalocean.com/gpu-brand"} <= set(
        terms(named("default"))
    )
    assert {"operator": "Exists", "effect": "NoSchedule"} in named("default").pod["tolerations"], "sku=gpu, dedicated=…"
    for name in ("default", "fake", "scheduling"):
        assert named(name).pod["nodeSelector"]["kubernetes.io/os"] == "linux", "there is no image for Windows"
    assert named("scheduling").pod["nodeSelector"]["pool"] == "gpu"
    assert named("scheduling").pod["runtimeClassName"] == "nvidia"
    assert "runtimeClassName" not in render({"runtimeClassName": "nvidia", "fake": {"enabled": True}}).pod


def test_the_network_policy_lets_in_only_whom_it_names() -> None:
    spec = named("network-policy").one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == []
    assert spec["podSelector"]["matchLabels"].items() <= (
        named("network-policy").one("DaemonSet")["spec"]["template"]["metadata"]["labels"].items()
    )
    peers = spec["ingress"][0]["from"]
    assert peers[0]["namespaceSelector"]["matchExpressions"][0]["values"] == ["monitoring"]
    everybody = render({}).one("NetworkPolicy")["spec"]["ingress"]
    assert "from" not in everybody[0]


NAMESPACES: dict[str, Any] = {"namespaces": ["monitoring"]}
MORE: dict[str, Any] = {"sidecars": [{"name": "more", "image": "more"}]}
BEFORE: dict[str, Any] = {"extraInitContainers": [{"name": "more", "image": "more"}]}
HUB: dict[str, Any] = {"hub": {"enabled": True}}
DNS: list[dict[str, Any]] = [{"ports": [{"port": 53, "protocol": "UDP"}]}]


@pytest.mark.parametrize(
    ("values", "exporter", "hub"),
    [
        ({}, ["Ingress", "Egress"], None),
        ({"networkPolicy": {"enabled": False}}, None, None),
        ({"networkPolicy": {"enabled": False, **NAMESPACES}, **HUB}, None, None),
        ({"hostNetwork": True}, None, None),
        (MORE, None, None),
        (BEFORE, None, None),
        # What is told is enforced, and nothing that was not told of containers that the chart does not know.
        ({**MORE, "networkPolicy": NAMESPACES}, ["Ingress"], None),
        ({**BEFORE, "networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}}, ["Ingress"], None),
        ({**MORE, "networkPolicy": {"extraIngress": [{"ports": [{"port": 8080}]}]}}, ["Ingress"], None),
        ({**BEFORE, "networkPolicy": {"egress": DNS}}, ["Egress"], None),
        ({**MORE, "networkPolicy": {"egress": DNS, **NAMESPACES}}, ["Ingress", "Egress"], None),
        ({**MORE, "networkPolicy": {"enabled": True}}, ["Ingress", "Egress"], None),
        # The hub is in the pod network, wherever the exporters are.
        (HUB, ["Ingress", "Egress"], None),
        ({**HUB, "hostNetwork": True}, None, None),
        ({**HUB, "hostNetwork": True, "networkPolicy": NAMESPACES}, None, ["Ingress"]),
        ({**HUB, "hostNetwork": True, "networkPolicy": {"enabled": True}}, None, ["Ingress", "Egress"]),
        ({**HUB, **MORE, "networkPolicy": NAMESPACES}, ["Ingress"], ["Ingress"]),
        ({"hub": {"enabled": True, "egress": DNS}}, ["Ingress", "Egress"], ["Egress"]),
    ],
    ids=json.dumps,
)
def test_a_network_policy_restricts_what_it_can_and_what_was_told(
    values: dict[str, Any], exporter: list[str] | None, hub: list[str] | None
) -> None:
    found = {item["metadata"]["name"]: item["spec"] for item in render(values).all("NetworkPolicy")}
    types = {name: spec["policyTypes"] for name, spec in found.items()}
    wanted = {"gpu-gpu-exporter": exporter, "gpu-gpu-exporter-hub": hub}
    assert types == {name: kinds for name, kinds in wanted.items() if kinds}
    for spec in found.values():
        assert {"Ingress", "Egress"} & set(spec["policyTypes"]) == {
            key.title() for key in spec if key.endswith("gress")
        }
        peers = [
            rule.get("from", []) for rule in spec.get("ingress", []) if rule["ports"][0]["port"] in {"metrics", "http"}
        ]
        told = values.get("networkPolicy", {})
        assert all(bool(found) is bool(told.get("namespaces") or told.get("from")) for found in peers)


def test_ports_of_other_containers_stay_open_until_they_are_told() -> None:
    (_, others) = render({**MORE, "networkPolicy": NAMESPACES}).one("NetworkPolicy")["spec"]["ingress"]
    open_to_all = {
        port for item in others["ports"] if item["protocol"] == "TCP" for port in (item["port"], item["endPort"])
    }
    assert open_to_all == {1, 9434, 9436, 65535}
    told = {**NAMESPACES, "extraIngress": [{"ports": [{"port": 8080}]}]}
    (_, second) = render({**MORE, "networkPolicy": told}).one("NetworkPolicy")["spec"]["ingress"]
    assert second == told["extraIngress"][0]
    for port, left in ((1, [(2, 65535)]), (65535, [(1, 65534)])):
        (_, others) = render({**MORE, "port": port, "networkPolicy": NAMESPACES}).one("NetworkPolicy")["spec"][
            "ingress"
        ]
        assert [(item["port"], item["endPort"]) for item in others["ports"] if item["protocol"] == "TCP"] == left


def test_with_the_nodes_network_the_hub_reaches_exporters_by_their_port_and_the_notes_say_what_stays_open() -> None:
    values = {**HUB, "hostNetwork": True, "networkPolicy": {"enabled": True, **NAMESPACES}}
    rendered = render(values)
    egress = rendered.one("NetworkPolicy")["spec"]["egress"]
    assert {"ports": [{"port": 9435, "protocol": "TCP"}]} in egress
    assert "The NetworkPolicy is the hub's alone" in rendered.notes
    guarded = {**values, "config": {"web": {"allow": "10.0.0.0/8"}}}
    assert "The NetworkPolicy is the hub's alone" not in render(guarded).notes
    assert "The NetworkPolicy is the hub's alone" not in render({**HUB, "networkPolicy": NAMESPACES}).notes


def test_the_exporter_has_no_rights() -> None:
    for path in CASES:
        rendered = case(path)
        assert rendered.all("ClusterRole") == rendered.all("ClusterRoleBinding") == []
        account = rendered.pod["serviceAccountName"]
        bound = {subject["name"] for item in rendered.all("RoleBinding") for subject in item["subjects"]}
        assert account not in bound or path.name == "openshift-values.yaml"


def test_the_notes_tell_the_next_commands() -> None:
    notes = named("default").notes
    assert "kubectl -n gpus rollout status daemonset/gpu-gpu-exporter" in notes
    assert "helm -n gpus test gpu --logs" in notes
    assert "SIMULATED" in named("fake").notes
    assert "port-forward service/gpu-gpu-exporter-grafana 3000" in named("stack").notes
    assert "Nobody is mailed yet" in named("stack").notes
    assert "alertmanagerConfigMatcherStrategy" in named("alertmanager-config").notes


def test_every_case_says_what_it_is() -> None:
    for path in CASES:
        assert path.read_text().startswith("# "), path.name
    assert (CHART / "ci").is_dir()
