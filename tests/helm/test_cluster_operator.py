"""What the real Prometheus operator makes of the chart's objects, and that promtool and amtool take it."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from tools.lab import LOOPBACK
from tools.lab.alertmanager import amtool
from tools.lab.programs import Program

from helm.api_server import ENDS_WITH_US, Kubernetes, built
from helm.rendering import CASES, CHART
from rules import promtool

pytestmark = pytest.mark.slow

BESIDE = ("monitoring", "grafana", "gpu-monitoring")
MONITORING = "apis/monitoring.coreos.com"
KINDS = {
    "ServiceMonitor": f"{MONITORING}/v1/servicemonitors",
    "PodMonitor": f"{MONITORING}/v1/podmonitors",
    "PrometheusRule": f"{MONITORING}/v1/prometheusrules",
    "AlertmanagerConfig": f"{MONITORING}/v1alpha1/alertmanagerconfigs",
}
NAMES = [path.stem.removesuffix("-values") for path in CASES]


@dataclass
class Made:
    """The operator's files for one namespace, and the chart's objects that they are of."""

    objects: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    prometheus: str = ""
    rules: dict[str, str] = field(default_factory=dict)
    alertmanager: str = ""

    def complete(self) -> bool:
        """Whether every object is in them."""
        return (
            all(f"{kind}/{_called(item)}/0" in self.prometheus for kind, item in self.monitors())
            and all(any(_called(item, "-") in key for key in self.rules) for item in self.objects["PrometheusRule"])
            and all(f"{_called(item)}/" in self.alertmanager for item in self.objects["AlertmanagerConfig"])
        )

    def monitors(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for kind in ("ServiceMonitor", "PodMonitor"):
            for item in self.objects[kind]:
                yield kind[0].lower() + kind[1:], item


def _called(item: dict[str, Any], between: str = "/") -> str:
    return f"{item['metadata']['namespace']}{between}{item['metadata']['name']}"


def _of(cluster: Kubernetes, release: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and object of what the operator reads of the release in that namespace, wherever it is."""
    for kind, place in KINDS.items():
        for item in cluster.items(place):
            if item["metadata"]["annotations"]["meta.helm.sh/release-namespace"] == release:
                yield kind, item


def _keys(tree: Any, parent: str = "") -> Iterator[tuple[str, str, str]]:
    """Kind, name and key of everything that is read from a Secret or a ConfigMap."""
    if isinstance(tree, dict):
        if tree.keys() == {"name", "key"}:
            yield ("configmaps" if parent == "configMap" else "secrets"), tree["name"], tree["key"]
        for key, value in tree.items():
            yield from _keys(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _keys(value, parent)


def _give_what_is_named(cluster: Kubernetes) -> None:
    """The Secrets that a site has: the operator leaves out whose Secret is missing, or is no certificate."""
    authority = trustme.CA()
    issued = authority.issue_cert("it")
    pems = {
        "ca": authority.cert_pem.bytes(),
        "key": issued.private_key_pem.bytes(),
        "crt": issued.cert_chain_pems[0].bytes(),
        "cert": issued.cert_chain_pems[0].bytes(),
    }
    data: dict[tuple[str, str, str], dict[str, bytes]] = defaultdict(dict)
    for path in KINDS.values():
        for item in cluster.items(path):
            for kind, name, key in _keys(item["spec"]):
                content = next((pem for word, pem in pems.items() if "." in key and word in key), b"it")
                data[item["metadata"]["namespace"], kind, name][key] = content
    for (namespace, kind, name), found in data.items():
        item = {"metadata": {"name": name}, "data": {key: b64encode(value).decode() for key, value in found.items()}}
        cluster.create(f"api/v1/namespaces/{namespace}/{kind}", item)


@pytest.fixture(scope="session")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Made]]:
    """For each case, by namespace: what the operator makes of all cases.

    It takes minutes: of several workers the first that comes does it for all.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    file = folder / "operated.json"
    with (folder / "operated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            cases = _operated(request.getfixturevalue("cluster"), tmp_path_factory.mktemp("operator"))
            tree = {name: {place: vars(one) for place, one in by.items()} for name, by in cases.items()}
            file.write_text(json.dumps(tree))
    return {
        name: {place: Made(**{**one, "objects": defaultdict(list, one["objects"])}) for place, one in by.items()}
        for name, by in json.loads(file.read_text()).items()
    }


def _operated(cluster: Kubernetes, folder: Path) -> dict[str, dict[str, Made]]:
    """All cases at once, each with a namespace of its own."""
    spec: dict[str, Any] = {"replicas": 1, "serviceAccountName": "default"}
    prometheus = {
        **spec,
        "serviceMonitorSelector": {},
        "podMonitorSelector": {},
        "ruleSelector": {},
        "scrapeClasses": [{"name": "default", "default": True}],
    }
    # As docs/KUBERNETES.md tells to set it.
    manager = {**spec, "alertmanagerConfigSelector": {}, "alertmanagerConfigMatcherStrategy": {"type": "None"}}
    places = [f"operated-{name}" for name in NAMES]
    for place in (*places, *BESIDE):
        cluster.namespace(place)
        for kind, plural, what in (
            ("Prometheus", "prometheuses", prometheus),
            ("Alertmanager", "alertmanagers", manager),
        ):
            head = {"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": {"name": "it"}}
            cluster.create(f"{MONITORING}/v1/namespaces/{place}/{plural}", {**head, "spec": what})
    forced = ("--set", "prometheusRule.enabled=true")
    for path, place in zip(CASES, places, strict=True):
        done = cluster.helm(built("helm4"), "install", "gpu", CHART, "--values", path, *forced, namespace=place)
        assert done.returncode == 0, f"{path.stem}: {done.stderr}"
    _give_what_is_named(cluster)
    found = {place: Made() for place in (*places, *BESIDE)}
    for place in places:
        for kind, item in _of(cluster, place):
            found[item["metadata"]["namespace"]].objects[kind].append(item)

    def look() -> bool:
        for place, files in found.items():
            if not files.complete():
                _read(cluster, place, files)
        return all(files.complete() for files in found.values())

    command: list[str | Path] = [
        *ENDS_WITH_US,
        built("operator"),
        f"--apiserver=https://{LOOPBACK}:{cluster.port}",
        f"--cert-file={cluster.folder / 'admin.crt'}",
        f"--key-file={cluster.folder / 'admin.key'}",
        "--tls-insecure=true",
        f"--web.listen-address={LOOPBACK}:0",
    ]
    with Program(command, folder / "operator.log", env={**os.environ, "HOME": str(folder)}) as operator:
        operator.wait(look)
    cases: dict[str, dict[str, Made]] = defaultdict(dict)
    for name, release in zip(NAMES, places, strict=True):
        for kind, item in _of(cluster, release):
            place = item["metadata"]["namespace"]
            own = cases[name].setdefault(
                place, Made(prometheus=found[place].prometheus, alertmanager=found[place].alertmanager)
            )
            own.objects[kind].append(item)
            own.rules |= {key: text for key, text in found[place].rules.items() if _called(item, "-") in key}
    for place in places:
        cluster.helm(built("helm4"), "uninstall", "gpu", namespace=place)
    for place in (*places, *BESIDE):
        for plural in ("prometheuses", "alertmanagers"):
            cluster.ask("DELETE", f"{MONITORING}/v1/namespaces/{place}/{plural}/it")
    for place in places:
        cluster.ask("DELETE", f"api/v1/namespaces/{place}")
    return cases


def _read(cluster: Kubernetes, place: str, files: Made) -> None:
    for item in cluster.items(f"api/v1/namespaces/{place}/secrets"):
        for key, data in (item.get("data") or {}).items():
            if key == "prometheus.yaml.gz":
                files.prometheus = gzip.decompress(b64decode(data)).decode()
            elif key == "alertmanager.yaml.gz":
                files.alertmanager = gzip.decompress(b64decode(data)).decode()
    for item in cluster.items(f"api/v1/namespaces/{place}/configmaps"):
        if "rulefiles" in item["metadata"]["name"]:
            files.rules |= item.get("data") or {}


@pytest.mark.parametrize("name", NAMES)
def test_its_prometheus_takes_scrape_and_rules(made: dict[str, dict[str, Made]], name: str, tmp_path: Path) -> None:
    jobs = []
    for files in made[name].values():
        file = tmp_path / "prometheus.yaml"
        file.write_text(files.prometheus)
        done = promtool("check", "config", "--syntax-only", file, release="shipped")
        assert done.returncode == 0, done.stdout + done.stderr
        for kind, item in files.monitors():
            wanted = f"{kind}/{_called(item)}/0"
            jobs += [job for job in yaml.safe_load(files.prometheus)["scrape_configs"] if job["job_name"] == wanted]
        for key, text in files.rules.items():
            rules = tmp_path / key
            rules.write_text(text)
            done = promtool("check", "rules", rules, release="shipped")
            assert done.returncode == 0, done.stdout + done.stderr
            assert "GPULost" in text
    (job,) = jobs
    renamed = {rule["replacement"] for rule in job["relabel_configs"] if rule.get("target_label") == "job"}
    assert "gpu-exporter" in renamed
    assert job.get("honor_labels", False) is (name != "everything-else"), "the case that says otherwise"


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith("alertmanager-config")] + ["everything-else"]
)
def test_its_alertmanager_mails_our_alerts_alone(made: dict[str, dict[str, Made]], name: str, tmp_path: Path) -> None:
    (files,) = (files for files in made[name].values() if files.objects["AlertmanagerConfig"])
    (item,) = files.objects["AlertmanagerConfig"]
    file = tmp_path / "alertmanager.yaml"
    file.write_text(files.alertmanager)
    done = amtool("check-config", str(file), release="shipped")
    assert done.returncode == 0, done.stdout + done.stderr
    for labels, receiver in (
        (["alertname=KubePodCrashLooping", "severity=critical", "namespace=payments"], "null"),
        (["alertname=Watchdog", "severity=none"], "null"),
        (["alertname=GPULost", "severity=critical", "bundle=gpu-exporter", "namespace=payments"], "oncall"),
    ):
        wanted = receiver if receiver == "null" else f"{_called(item)}/{receiver}"
        words = ("config", "routes", "test", f"--config.file={file}", f"--verify.receivers={wanted}", *labels)
        done = amtool(*words, release="shipped")
        assert done.returncode == 0, f"{labels}: {done.stdout}{done.stderr}"
    inhibitions = yaml.safe_load(file.read_text())["inhibit_rules"]
    assert inhibitions
    for rule in inhibitions:
        for side in ("source_matchers", "target_matchers"):
            assert any("bundle" in matcher and "gpu-exporter" in matcher for matcher in rule[side]), rule
