"""The chart on a real API server, by the real programs helm 3 and helm 4: `make test-cluster`.

The API server refuses what the schemas let pass: a field that cannot be changed, a key that is there twice, a name that
is no name.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helm.api_server import LOG, Kubernetes, built, clean, kubernetes, nodes
from helm.rendering import CASES, CHART, case

pytestmark = pytest.mark.slow

HELMS = ["helm3", "helm4"]
NAMES = [path.stem.removesuffix("-values") for path in CASES]
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
