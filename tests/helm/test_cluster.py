"""The chart on a real API server, by the real programs helm 3 and helm 4: `make test-cluster`.

The API server refuses what the schemas let pass: a field that cannot be changed, a key that is there twice, a name that
is no name; and Pod Security says which of the cases fit which level.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab.alertmanager import amtool
from tools.lab.programs import Program
from tools.lab.wait import wait_for

from helm.api_server import LOG, Kubernetes, built, clean, kubernetes, nodes
from helm.rendering import CASES, CHART, case, values_of
from mail import PASSWORD
from rules import promtool

pytestmark = pytest.mark.slow

HELMS = ["helm3", "helm4"]
NAMES = [path.stem.removesuffix("-values") for path in CASES]
# Which cases a level refuses, and why: test_chart_objects.EXCEPTIONS has the words.
BASELINE = {"processes", "owners-kubernetes", "owners-slurm", "host-network", "everything-else", "extras", "dra"}
RESTRICTED = BASELINE
NODES = {
    "nfd": {"feature.node.kubernetes.io/pci-10de.present": "true"},
    "gke": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
    "auto-mode": {"eks.amazonaws.com/instance-gpu-manufacturer": "nvidia"},
    "doks": {"doks.digitalocean.com/gpu-brand": "nvidia"},
    "tainted": {"nvidia.com/gpu.present": "true"},
    "windows": {"nvidia.com/gpu.present": "true", "kubernetes.io/os": "windows"},
    "no-gpu": {},
}
OS = {"kubernetes.io/os": "linux"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    folder = tmp_path_factory.mktemp("cluster")
    with (
        kubernetes(folder) as running,
        nodes(running, {name: {**OS, **labels} for name, labels in NODES.items()}),
    ):
        for kind, plural, group, version in (
            ("VerticalPodAutoscaler", "verticalpodautoscalers", "autoscaling.k8s.io", "v1"),
            ("GrafanaDashboard", "grafanadashboards", "grafana.integreatly.org", "v1beta1"),
            ("HTTPRoute", "httproutes", "gateway.networking.k8s.io", "v1"),
        ):
            running.create(
                "apis/apiextensions.k8s.io/v1/customresourcedefinitions", _definition(kind, plural, group, version)
            )
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def _definition(kind: str, plural: str, group: str, version: str) -> dict[str, Any]:
    """A kind that takes anything: these are checked by tests/support/helm/crds."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    annotations = {"api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/pull/1111"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": annotations},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


@pytest.fixture
def namespace(cluster: Kubernetes, request: pytest.FixtureRequest) -> Iterator[str]:
    """One of its own, with those beside it that the cases name."""
    name = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    cluster.namespace(name)
    for beside in ("monitoring", "grafana", "gpu-monitoring"):
        if not any(item["metadata"]["name"] == beside for item in cluster.items("api/v1/namespaces")):
            cluster.namespace(beside)
    yield name
    for item in (name, "gpu-monitoring"):
        clean(cluster, item)
    cluster.ask("DELETE", f"api/v1/namespaces/{name}")


def _good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("path", CASES, ids=NAMES)
def test_a_release_lives(cluster: Kubernetes, namespace: str, helm: str, path: Path) -> None:
    """Installed, upgraded with its values and without, rolled back, tested, uninstalled; nothing but claims remains."""
    program = built(helm)
    _good(cluster.helm(program, "install", "gpu", CHART, "--values", path, namespace=namespace))
    _good(
        cluster.helm(
            program, "upgrade", "gpu", CHART, "--reuse-values", "--set", "revisionHistoryLimit=3", namespace=namespace
        )
    )
    _good(cluster.helm(program, "upgrade", "gpu", CHART, namespace=namespace))
    _good(cluster.helm(program, "rollback", "gpu", "1", namespace=namespace))
    rendered = case(path)
    if rendered.all("Pod"):
        said = _good(cluster.helm(program, "test", "gpu", "--logs", namespace=namespace))
        assert LOG.strip() in said, "the test pod's log is shown"
    _good(cluster.helm(program, "uninstall", "gpu", "--wait", namespace=namespace))
    left = [
        f"{kind} {item['metadata']['name']}"
        for kind in ("configmaps", "services", "serviceaccounts", "secrets")
        for item in cluster.items(f"api/v1/namespaces/{namespace}/{kind}")
        if item["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "Helm"
    ]
    assert left == []


@pytest.mark.parametrize("path", CASES, ids=NAMES)
def test_every_case_becomes_every_other_and_comes_back(cluster: Kubernetes, namespace: str, path: Path) -> None:
    """By Helm 3, which sends patches of what it knows: a field that cannot be changed shows here."""
    program = built("helm3")
    others = CASES[CASES.index(path) + 1 :]
    _good(cluster.helm(program, "install", "gpu", CHART, "--values", path, namespace=namespace))
    for other in others:
        for step in (other, path):
            done = cluster.helm(
                program, "upgrade", "gpu", CHART, "--values", step, "--history-max", "2", namespace=namespace
            )
            assert done.returncode == 0, f"{path.stem} -> {other.stem}: {done.stderr}"
    _good(cluster.helm(program, "uninstall", "gpu", namespace=namespace))


@pytest.mark.parametrize("level", ["privileged", "baseline", "restricted"])
@pytest.mark.parametrize("helm", HELMS)
def test_pod_security_admits_what_it_is_said_to_admit(cluster: Kubernetes, helm: str, level: str) -> None:
    name = f"{level}-{helm}"
    cluster.namespace(name, enforce=level, warn=level)
    refused = set()
    for path in CASES:
        extra = ("--set", "namespaceOverride=") if "namespaceOverride" in values_of(path) else ()
        done = cluster.helm(
            built(helm), "install", "gpu", CHART, "--values", path, *extra, "--dry-run=server", namespace=name
        )
        _good(done)
        refused |= _refused(cluster, name, path)
    assert refused == {"privileged": set(), "baseline": BASELINE, "restricted": RESTRICTED}[level]


def _refused(cluster: Kubernetes, namespace: str, path: Path) -> set[str]:
    """The case's name, where the level refuses one of its pods."""
    for name, pod in case(path).pods():
        item: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {**pod, "serviceAccountName": "default"},
        }
        item["spec"] = {
            key: value for key, value in item["spec"].items() if key not in {"priorityClassName", "runtimeClassName"}
        }
        try:
            cluster.ask("POST", f"api/v1/namespaces/{namespace}/pods?dryRun=All", item)
        except OSError as error:
            said = json.loads(error.read())["message"]  # type: ignore[attr-defined]
            assert "violates PodSecurity" in said, said
            return {path.stem.removesuffix("-values")}
    return set()


@pytest.mark.parametrize("helm", HELMS)
def test_the_first_releases_values_are_taken_over(
    cluster: Kubernetes, namespace: str, helm: str, tmp_path: Path
) -> None:
    program = built(helm)
    first = tmp_path / "gpu-exporter"
    shutil.copytree(CHART, first)
    kept = Path(__file__).parent / "first-release-values.yaml"
    shutil.copy(kept, first / "values.yaml")
    _good(cluster.helm(program, "install", "gpu", first, "--set", "port=9999", namespace=namespace))
    _good(cluster.helm(program, "upgrade", "gpu", CHART, "--reuse-values", namespace=namespace))
    daemon = cluster.ask("GET", f"apis/apps/v1/namespaces/{namespace}/daemonsets/gpu-gpu-exporter")
    assert daemon["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] == 9999


@pytest.mark.parametrize("helm", HELMS)
def test_values_that_others_need_are_taken_by_the_api_server(cluster: Kubernetes, namespace: str, helm: str) -> None:
    program = built(helm)
    own = {
        "env": {"NVIDIA_VISIBLE_DEVICES": "void"},
        "secrets": [{"name": "s", "mountPath": "/a"}, {"name": "s", "mountPath": "/b"}],
        "configmaps": [{"name": "kube-root-ca.crt", "mountPath": "/c"}],
        "podLabels": {"app.kubernetes.io/component": "x"},
        "commonLabels": {"app.kubernetes.io/name": "mine"},
        "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "all"}],
        "resources": {"claims": [{"name": "gpus"}]},
        "rbac": {"securityContextConstraints": "nonroot-v2"},
    }
    for key, value in own.items():
        given = {key: value} if key != "resourceClaims" else {**own}
        if key == "resources":
            continue
        file = cluster.folder / "own.json"
        file.write_text(json.dumps(given))
        done = cluster.helm(program, "upgrade", "--install", "gpu", CHART, "--values", file, namespace=namespace)
        assert done.returncode == 0, f"{key}: {done.stderr}"
        assert "duplicate" not in done.stderr
    for scc in ("nonroot-v2", "hostaccess"):
        setting = f"rbac.securityContextConstraints={scc}"
        _good(cluster.helm(program, "upgrade", "gpu", CHART, "--set", setting, namespace=namespace))
    for address in ("None", "10.96.77.7", ""):
        _good(
            cluster.helm(program, "upgrade", "gpu", CHART, "--set", f"service.clusterIP={address}", namespace=namespace)
        )


@pytest.mark.parametrize("name", ["123", "no", "1e3"])
def test_names_that_look_like_numbers(cluster: Kubernetes, name: str) -> None:
    space = {"123": "2024", "no": "true", "1e3": "0x1f"}[name]
    cluster.namespace(space)
    for helm in HELMS:
        _good(
            cluster.helm(
                built(helm), "install", name, CHART, "--set", "hub.enabled=true,stack.enabled=true", namespace=space
            )
        )
        _good(cluster.helm(built(helm), "uninstall", name, namespace=space))


def test_every_gpu_node_gets_a_pod_and_no_other(cluster: Kubernetes, namespace: str) -> None:
    taint = [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]
    cluster.ask("PATCH", "api/v1/nodes/tainted", {"spec": {"taints": taint}}, "application/merge-patch+json")
    _good(cluster.helm(built("helm3"), "install", "gpu", CHART, namespace=namespace))
    wanted = {"nfd", "gke", "auto-mode", "doks", "tainted"}

    def where() -> set[str]:
        pods = cluster.items(f"api/v1/namespaces/{namespace}/pods")
        return {pod["spec"].get("nodeName", "") for pod in pods}

    wait_for(lambda: where() == wanted, where)


# --- the operator -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated(cluster: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the real Prometheus operator makes of the chart's objects: prometheus.yml, the rules, alertmanager.yml."""
    folder = tmp_path_factory.mktemp("operator")
    space = "operated"
    cluster.namespace(space)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "smtp"}, "stringData": {"password": PASSWORD}}
    cluster.create(f"api/v1/namespaces/{space}/secrets", secret)
    spec: dict[str, Any] = {"replicas": 1, "serviceAccountName": "default"}
    prometheus = {**spec, "serviceMonitorSelector": {}, "ruleSelector": {}, "version": "v3.5.0"}
    manager = {**spec, "alertmanagerConfigSelector": {}, "alertmanagerConfigMatcherStrategy": {"type": "None"}}
    for kind, plural, what in (("Prometheus", "prometheuses", prometheus), ("Alertmanager", "alertmanagers", manager)):
        item = {"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": {"name": "it"}, "spec": what}
        cluster.create(f"apis/monitoring.coreos.com/v1/namespaces/{space}/{plural}", item)
    values = folder / "values.yaml"
    mail = values_of(CHART / "ci/alertmanager-config-values.yaml")
    values.write_text(
        yaml.safe_dump({**mail, "serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}})
    )
    _good(cluster.helm(built("helm4"), "install", "gpu", CHART, "--values", values, namespace=space))
    arguments: list[str | Path] = [
        built("operator"),
        f"--apiserver=https://127.0.0.1:{cluster.port}",
        f"--cert-file={cluster.folder / 'admin.crt'}",
        f"--key-file={cluster.folder / 'admin.key'}",
        "--tls-insecure=true",
        "--web.listen-address=127.0.0.1:0",
        f"--namespaces={space}",
    ]
    found: dict[str, str] = {}

    def look() -> bool:
        for item in cluster.items(f"api/v1/namespaces/{space}/secrets"):
            for key, data in (item.get("data") or {}).items():
                if key.endswith(".yaml.gz"):
                    found[key] = gzip.decompress(b64decode(data)).decode()
        for item in cluster.items(f"api/v1/namespaces/{space}/configmaps"):
            if "rulefiles" in item["metadata"]["name"]:
                found["rules.yaml"] = "\n".join(item.get("data", {}).values())
        complete = "gpu-exporter" in found.get("prometheus.yaml.gz", "") and "oncall" in found.get(
            "alertmanager.yaml.gz", ""
        )
        return complete and "GPULost" in found.get("rules.yaml", "")

    with Program(arguments, folder / "operator.log", env={**os.environ, "HOME": str(folder)}) as operator:
        operator.wait(look)
    return found


def test_the_operators_prometheus_takes_scrape_and_rules(generated: dict[str, str], tmp_path: Path) -> None:
    tree = yaml.safe_load(generated["prometheus.yaml.gz"])
    (job,) = (job for job in tree["scrape_configs"] if job["job_name"].endswith("gpu-gpu-exporter/0"))
    assert job["honor_labels"] is True
    assert {"gpu-exporter"} == {
        item["replacement"] for item in job["relabel_configs"] if item.get("target_label") == "job"
    } - {"${1}"}
    (tmp_path / "rules.yaml").write_text(generated["rules.yaml"])
    done = promtool("check", "rules", tmp_path / "rules.yaml", release="shipped")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operators_alertmanager_mails_our_alerts_alone(generated: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "alertmanager.yaml"
    file.write_text(generated["alertmanager.yaml.gz"])
    done = amtool("check-config", str(file), release="shipped")
    assert done.returncode == 0, done.stdout + done.stderr
    prefix = "operated/gpu-gpu-exporter"
    for labels, receivers in (
        (["alertname=KubePodCrashLooping", "severity=critical", "namespace=payments"], "null"),
        (["alertname=Watchdog", "severity=none"], "null"),
        (["alertname=Watchdog", "severity=none", "bundle=gpu-exporter"], f"{prefix}/heartbeat"),
        (["alertname=GPULost", "severity=critical", "bundle=gpu-exporter", "namespace=payments"], f"{prefix}/oncall"),
    ):
        done = amtool(
            "config",
            "routes",
            "test",
            f"--config.file={file}",
            f"--verify.receivers={receivers}",
            *labels,
            release="shipped",
        )
        assert done.returncode == 0, f"{labels}: {done.stdout}{done.stderr}"
    for rule in yaml.safe_load(file.read_text())["inhibit_rules"]:
        for side in ("source_matchers", "target_matchers"):
            assert any("bundle" in matcher and "gpu-exporter" in matcher for matcher in rule[side]), rule
