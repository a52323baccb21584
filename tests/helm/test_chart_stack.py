"""The standalone stack: Prometheus's configuration, Grafana's provisioning, and that all of it finds each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab.programs import Release

from certificates import Site
from helm.rendering import Rendered, named
from rules import DEPLOY, load, promtool


def _deployment(rendered: Rendered, name: str) -> dict[str, Any]:
    found: dict[str, Any] = rendered.one("Deployment", f"-{name}")["spec"]["template"]["spec"]
    return found


def _config(rendered: Rendered) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(rendered.one("ConfigMap", "-prometheus")["data"]["prometheus.yml"])
    return found


@pytest.mark.parametrize("name", ["stack", "stack-full", "stack-parts", "everything-else", "names"])
def test_promtool_takes_the_configuration(name: str, tmp_path: Path, release: Release) -> None:
    """With everything it names: rules, machines, and the Secrets that the volume brings together."""
    rendered = named(name)
    for file, text in rendered.one("ConfigMap", "-prometheus")["data"].items():
        (tmp_path / file).write_text(text.replace("/etc/prometheus-scrape/", f"{tmp_path}/"))
    site = Site(tmp_path)
    certificate = site.ca.issue_cert("prometheus")
    contents = {
        "username": b"prometheus",
        "password": b"secret",
        "ca": site.ca.cert_pem.bytes(),
        "cert": certificate.cert_chain_pems[0].bytes(),
        "key": certificate.private_key_pem.bytes(),
    }
    for volume in _deployment(rendered, "prometheus")["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            for item in source["secret"]["items"]:
                (tmp_path / item["path"]).write_bytes(contents[item["path"]])
    file = tmp_path / "prometheus.yml"
    done = promtool("check", "config", file, release=release)
    # Debian's promtool is older than username_file (2.47) and built without the discovery of pods. Those two lines are
    # then checked without it, below and in test_it_is_deploys_configuration_with_pods_for_machines.
    if release == "debian" and "not found in type" in done.stderr:
        assert set(re.findall(r"field (\S+) not found", done.stderr)) <= {"kubernetes_sd_configs", "username_file"}
        tree = yaml.safe_load(file.read_text())
        for job in tree["scrape_configs"]:
            job.pop("kubernetes_sd_configs", None)
            if "basic_auth" in job:
                assert (tmp_path / Path(job["basic_auth"].pop("username_file")).name).read_bytes() == b"prometheus"
        file.write_text(yaml.safe_dump(tree))
        done = promtool("check", "config", file, release=release)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_it_is_deploys_configuration_with_pods_for_machines() -> None:
    found, deployed = _config(named("stack")), load(DEPLOY / "prometheus.yml")
    assert found["global"] == deployed["global"]
    jobs = {job["job_name"]: job for job in found["scrape_configs"]}
    assert list(jobs) == [job["job_name"] for job in deployed["scrape_configs"]]
    discovery = jobs["gpu-exporter"]["kubernetes_sd_configs"][0]
    assert discovery["namespaces"] == {"names": ["gpus"]}
    labels = dict(pair.split("=") for pair in discovery["selectors"][0]["label"].split(","))
    pod = named("stack").one("DaemonSet")["spec"]["template"]
    assert labels.items() <= pod["metadata"]["labels"].items()
    keep = jobs["gpu-exporter"]["relabel_configs"][0]
    assert keep["regex"] == pod["spec"]["containers"][0]["ports"][0]["name"]
    targets = [item.get("target_label") for item in jobs["gpu-exporter"]["relabel_configs"]]
    assert targets == [None, None, "job", "instance", "service", None]


def test_what_the_values_add_is_there() -> None:
    found = _config(named("stack-full"))
    jobs = {job["job_name"]: job for job in found["scrape_configs"]}
    assert jobs.keys() == {"gpu-exporter", "gpu-exporter-nodes", "alertmanager", "prometheus", "node"}
    for name in ("gpu-exporter", "gpu-exporter-nodes"):
        assert jobs[name]["scheme"] == "https"
        assert jobs[name]["tls_config"]["server_name"] == "gpu-exporter"
        assert jobs[name]["sample_limit"] == 20000
        assert jobs[name]["metric_relabel_configs"] == [
            {"source_labels": ["__name__"], "regex": "gpu_clock_.*", "action": "drop"}
        ]
    assert jobs["gpu-exporter-nodes"]["relabel_configs"] == [{"target_label": "job", "replacement": "gpu-exporter"}]
    assert found["global"]["external_labels"] == {"cluster": "lab"}
    assert found["remote_write"] == [{"url": "http://mimir:9009/api/v1/push"}]
    assert "alerting" not in _config(named("stack-parts"))
    assert "alertmanager" not in {job["job_name"] for job in _config(named("stack-parts"))["scrape_configs"]}


@pytest.mark.parametrize("name", ["stack", "stack-full", "names"])
def test_every_address_is_a_service_of_the_release(name: str) -> None:
    rendered = named(name)
    ports = {f"{item['metadata']['name']}:{item['spec']['ports'][0]['port']}" for item in rendered.all("Service")}
    found = _config(rendered)
    targets = set(found["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"])
    targets |= {
        target
        for job in found["scrape_configs"]
        if job["job_name"] == "alertmanager"
        for entry in job["static_configs"]
        for target in entry["targets"]
    }
    data = rendered.one("ConfigMap", "-grafana")["data"]
    sources = yaml.safe_load(data["datasources.yml"])["datasources"]
    assert [source["type"] for source in sources] == ["prometheus", "alertmanager"]
    targets |= {source["url"].removeprefix("http://") for source in sources}
    assert targets <= ports
    for item in rendered.all("Service"):
        selector = item["spec"]["selector"]
        workloads = [*rendered.all("Deployment"), *rendered.all("DaemonSet")]
        fitting = [
            work for work in workloads if selector.items() <= work["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert len(fitting) == 1
        ports_of_pod = {port["name"] for port in fitting[0]["spec"]["template"]["spec"]["containers"][0]["ports"]}
        assert item["spec"]["ports"][0]["targetPort"] in ports_of_pod


def test_grafana_has_every_dashboard_and_its_home_among_them() -> None:
    rendered = named("stack")
    pod = _deployment(rendered, "grafana")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {source["configMap"]["name"] for source in volumes["dashboards"]["projected"]["sources"]}
    maps = {
        item["metadata"]["name"]: item["data"]
        for item in rendered.all("ConfigMap")
        if "-dashboard-" in item["metadata"]["name"]
    }
    assert mounted == maps.keys()
    files = {file for data in maps.values() for file in data}
    container = pod["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    environment = {item["name"]: item.get("value") for item in container["env"]}
    home = Path(str(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]))
    assert (str(home.parent), home.name in files) == (mounts["dashboards"], True)
    provider = yaml.safe_load(rendered.one("ConfigMap", "-grafana")["data"]["dashboards.yml"])["providers"][0]
    assert provider["options"]["path"] == mounts["dashboards"]
    provisioned = {item["path"] for item in volumes["provisioning"]["configMap"]["items"]}
    assert provisioned == {"datasources/datasources.yml", "dashboards/dashboards.yml"}
    assert mounts["provisioning"] == "/etc/grafana/provisioning"


def test_grafana_without_a_secret_has_no_administrator() -> None:
    environment = {item["name"]: item for item in _deployment(named("stack"), "grafana")["containers"][0]["env"]}
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"]["value"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"]["value"] == "Viewer"
    full = {item["name"]: item for item in _deployment(named("stack-full"), "grafana")["containers"][0]["env"]}
    assert full["GF_SECURITY_ADMIN_PASSWORD"]["valueFrom"]["secretKeyRef"] == {
        "name": "grafana-admin",
        "key": "admin-password",
    }
    assert "GF_AUTH_ANONYMOUS_ENABLED" not in full


def test_series_are_kept_where_that_is_asked_for() -> None:
    full = named("stack-full")
    claims = {item["metadata"]["name"]: item["spec"] for item in full.all("PersistentVolumeClaim")}
    assert claims.keys() == {"gpu-gpu-exporter-prometheus", "gpu-gpu-exporter-grafana"}
    assert claims["gpu-gpu-exporter-prometheus"]["storageClassName"] == "fast"
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for item in full.all("Deployment")
        for volume in item["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert used == {*claims, "alertmanager"}
    assert named("stack").all("PersistentVolumeClaim") == []


def test_prometheus_may_list_pods_here_and_nothing_more() -> None:
    rendered = named("stack")
    role = rendered.one("Role")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    subject = rendered.one("RoleBinding")["subjects"][0]["name"]
    assert _deployment(rendered, "prometheus")["serviceAccountName"] == subject
    parts = named("stack-parts")
    assert parts.all("Role") == parts.all("RoleBinding") == []
    assert _deployment(parts, "prometheus")["serviceAccountName"] == "lists-pods"


def test_a_changed_configuration_restarts_what_reads_it() -> None:
    def checksum(name: str, part: str) -> str:
        item = named(name).one("Deployment", f"-{part}")
        return str(item["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    for part in ("prometheus", "alertmanager", "grafana"):
        assert len({checksum(name, part) for name in ("stack", "stack-full", "names")}) > 1, part
