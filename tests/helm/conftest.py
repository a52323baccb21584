"""The cluster of `make test-cluster`, one a worker, and the table that closes it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from helm.api_server import Kubernetes, built, forget_claims, kubernetes, nodes
from helm.lives import LIFE, Life, table

# Every case finds a node here: by node feature discovery, or by what it asks for itself.
NODE = {
    "kubernetes.io/os": "linux",
    "feature.node.kubernetes.io/pci-10de.present": "true",
    "gpu": "true",
    "pool": "gpu",
    "disk": "ssd",
}
BESIDE = ("monitoring", "grafana", "gpu-monitoring")  # namespaces that cases name
KINDS = (
    ("VerticalPodAutoscaler", "verticalpodautoscalers", "autoscaling.k8s.io", "v1"),
    ("GrafanaDashboard", "grafanadashboards", "grafana.integreatly.org", "v1beta1"),
    ("HTTPRoute", "httproutes", "gateway.networking.k8s.io", "v1"),
)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    folder = tmp_path_factory.mktemp("cluster")
    with kubernetes(folder) as running, nodes(running, {"gpu": NODE}):
        for kind in KINDS:
            running.define(_definition(*kind))
        running.create(
            "apis/node.k8s.io/v1/runtimeclasses",
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "nvidia"},
                "handler": "nvidia",
            },
        )
        running.create(
            "apis/scheduling.k8s.io/v1/priorityclasses",
            {
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": "normal"},
                "value": 1000,
            },
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
    """One of the test's own, at its Pod Security level if it has one, as are those beside it that the cases name."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[-60:].strip("-")
    for each in (name, *BESIDE):
        cluster.namespace(each, params.get("level", "privileged"))
    # A case may name an account that is not the chart's.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "given"}}
    cluster.create(f"api/v1/namespaces/{name}/serviceaccounts", account)
    yield name
    secrets = cluster.items(f"api/v1/namespaces/{name}/secrets?fieldSelector=type%3Dhelm.sh/release.v1")
    for release in {item["metadata"]["labels"]["name"] for item in secrets}:  # of a test that failed
        cluster.helm(built("helm3"), "uninstall", release, namespace=name)
    for each in (name, *BESIDE):
        forget_claims(cluster, each)
    cluster.ask("DELETE", f"api/v1/namespaces/{name}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    lives = [
        Life(**value, well=outcome == "passed")
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call"
        for key, value in report.user_properties
        if key == LIFE
    ]
    if lives:
        terminalreporter.section("the chart on a real API server: files, Pod Security's levels, Helms")
        for line in table(lives):
            terminalreporter.write_line(line)
