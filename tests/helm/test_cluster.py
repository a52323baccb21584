"""The chart on a real API server, by the real programs helm 3 and helm 4: `make test-cluster`.

The API server refuses what the schemas let pass: a field that cannot be changed, a key that is there twice, a name that
is no name; and its Pod Security says which pods it admits.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tools.lab.wait import wait_for

from helm import particular
from helm.api_server import LOG, Kubernetes, add_node, built
from helm.lives import LEVELS, LIFE
from helm.pod_security import violations
from helm.rendering import CASES, CHART, NAMESPACE, case, render, values_of

pytestmark = pytest.mark.slow

cases = pytest.mark.parametrize("path", CASES, ids=[path.stem.removesuffix("-values") for path in CASES])
helms = pytest.mark.parametrize("helm", ["helm3", "helm4"])
# What level baseline refuses of what level restricted does.
BASELINE = re.compile("host|volume hostPath|privileged|sysctls|procMount|capabilities are added")


def good(done: subprocess.CompletedProcess[str]) -> str:
    """What the program said, which ended well."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- files, levels, Helms ---------------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("level", LEVELS)
@helms
def test_a_release_lives(  # noqa: PLR0917 - pytest passes them by name
    cluster: Kubernetes, namespace: str, helm: str, level: str, path: Path, record_property: Any
) -> None:
    """Installed, upgraded, rolled back, tested, uninstalled; only claims remain."""
    program = built(helm)
    life: dict[str, Any] = {"case": path.stem.removesuffix("-values"), "helm": helm, "level": level, "refused": {}}
    record_property(LIFE, life)
    said = cluster.helm(program, "install", "gpu", CHART, "--values", path, namespace=namespace)
    good(said)
    life["refused"] |= _refused(cluster, path, namespace)
    assert life["refused"].keys() == _to_be_refused(path, level)
    assert ("would violate PodSecurity" in said.stderr) is bool(life["refused"]), "Helm shows what it was warned of"

    one_more = ("--reuse-values", "--set", "revisionHistoryLimit=3")
    good(cluster.helm(program, "upgrade", "gpu", CHART, *one_more, namespace=namespace))
    good(cluster.helm(program, "rollback", "gpu", "1", namespace=namespace))
    if case(path).all("Pod"):
        assert LOG.strip() in good(cluster.helm(program, "test", "gpu", "--logs", namespace=namespace))
    good(cluster.helm(program, "uninstall", "gpu", "--wait", namespace=namespace))
    assert _left(cluster, namespace) == []


def _place(item: Mapping[str, Any], namespace: str) -> str:
    """The namespace of a rendered object."""
    found: str = item["metadata"].get("namespace", NAMESPACE)
    return namespace if found == NAMESPACE else found


def _refused(cluster: Kubernetes, path: Path, namespace: str) -> dict[str, str]:
    """Whose pods Pod Security did not admit and why, once every workload has a pod or was refused one."""
    refused = {}
    for item in case(path).objects:
        if item["kind"] not in {"DaemonSet", "Deployment"}:
            continue
        name, place = item["metadata"]["name"], _place(item, namespace)
        # A Deployment's pods are made, or not, by its ReplicaSet.
        maker = re.compile(name if item["kind"] == "DaemonSet" else f"{name}-[a-z0-9]+")
        where = f"apis/apps/v1/namespaces/{place}/{item['kind'].lower()}s/{name}"

        def events(place: str = place, maker: re.Pattern[str] = maker) -> list[str]:
            return [
                event["message"]
                for event in cluster.items(f"api/v1/namespaces/{place}/events?fieldSelector=reason%3DFailedCreate")
                if maker.fullmatch(event["involvedObject"]["name"])
            ]

        def settled(where: str = where, events: Any = events) -> str | None:
            for message in events():
                if found := re.search(r'violates PodSecurity "[^"]*": (.*)', message):
                    return found[1]
            status = cluster.ask("GET", where)["status"]
            return "runs" if status.get("numberReady") or status.get("readyReplicas") else None

        said = wait_for(settled, events)
        if said != "runs":
            refused[item["kind"]] = said
    return refused


def _to_be_refused(path: Path, level: str) -> set[str]:
    """The kinds of workloads that do what the level forbids, as tests/support/helm/pod_security.py knows it."""
    found = set()
    for item in case(path).objects:
        if item["kind"] in {"DaemonSet", "Deployment"}:
            forbidden = violations(item["spec"]["template"]["spec"])
            if level == "baseline":
                forbidden = {word for word in forbidden if BASELINE.match(word)}
            if forbidden and level != "privileged":
                found.add(item["kind"])
    return found


def _left(cluster: Kubernetes, namespace: str) -> list[str]:
    """Objects of the namespace's releases, wherever they are, but for claims that are to be kept."""
    return [
        f"{kind} {item['metadata']['namespace']}/{item['metadata']['name']}"
        for kind in (
            "api/v1/configmaps",
            "api/v1/secrets",
            "api/v1/serviceaccounts",
            "api/v1/services",
            "apis/apps/v1/daemonsets",
            "apis/apps/v1/deployments",
            "apis/monitoring.coreos.com/v1/podmonitors",
            "apis/monitoring.coreos.com/v1/prometheusrules",
            "apis/monitoring.coreos.com/v1/servicemonitors",
            "apis/monitoring.coreos.com/v1alpha1/alertmanagerconfigs",
            "apis/networking.k8s.io/v1/ingresses",
            "apis/networking.k8s.io/v1/networkpolicies",
            "apis/rbac.authorization.k8s.io/v1/rolebindings",
            "apis/rbac.authorization.k8s.io/v1/roles",
        )
        for item in cluster.items(kind)
        if item["metadata"].get("annotations", {}).get("meta.helm.sh/release-namespace") == namespace
    ]


# --- from anything to anything ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart whose dashboards are empty, and without a schema: every object is the same but for their text.

    Helm writes the chart into a release three times an upgrade: with all of it that takes twice as long. The files'
    lives have it whole.
    """
    made = tmp_path_factory.mktemp("light") / CHART.name
    shutil.copytree(CHART, made)
    (made / "values.schema.json").unlink()
    for path in (made / "files/dashboards").glob("*.json"):
        path.write_text("{}")
    return made


@cases
def test_every_case_becomes_others_and_comes_back(cluster: Kubernetes, namespace: str, light: Path, path: Path) -> None:
    """All tests together go from every case to every other: each to the half that follows in a circle, and back."""
    half, rest = divmod(len(CASES), 2)
    at = CASES.index(path)
    # Two that face each other in the circle meet once.
    steps = range(1, half + (1 if rest or at < half else 0))
    others = [CASES[(at + step) % len(CASES)] for step in steps]
    # What a file's objects look like is checked in its life; here it is what cannot be changed.
    words = ("--disable-openapi-validation", "--reset-values", "--history-max", "2")
    program = built("helm3")
    good(cluster.helm(program, "install", "gpu", light, "--values", path, namespace=namespace))
    failed = {}
    for before, after in [step for other in others for step in ((path, other), (other, path))]:
        done = cluster.helm(program, "upgrade", "gpu", light, "--values", after, *words, namespace=namespace)
        if done.returncode:
            failed[f"{before.stem} to {after.stem}"] = done.stderr
    assert not failed, "\n".join(f"{step}: {why}" for step, why in failed.items())
    good(cluster.helm(program, "uninstall", "gpu", namespace=namespace))


def test_every_case_becomes_the_next_by_helm_4(cluster: Kubernetes, namespace: str, light: Path) -> None:
    """All in a row and back: Helm 4 says what it wants to own instead of what is to be changed."""
    program = built("helm4")
    good(cluster.helm(program, "install", "gpu", light, "--values", CASES[0], namespace=namespace))
    for before, after in itertools.pairwise((*CASES, *reversed(CASES))):
        words = ("--reset-values", "--values", after, "--history-max", "2")
        done = cluster.helm(program, "upgrade", "gpu", light, *words, namespace=namespace)
        assert done.returncode == 0, f"{before.stem} to {after.stem}: {done.stderr}"
    good(cluster.helm(program, "uninstall", "gpu", namespace=namespace))


@helms
@pytest.mark.parametrize(
    "words", [["--reuse-values"], ["--reset-then-reuse-values"]], ids=["reuse", "reset-then-reuse"]
)
def test_the_first_releases_values_are_taken_over(
    cluster: Kubernetes, namespace: str, helm: str, words: list[str], tmp_path: Path
) -> None:
    program = built(helm)
    first = tmp_path / "gpu-exporter"
    shutil.copytree(CHART, first)
    shutil.copy(Path(__file__).parent / "first-release-values.yaml", first / "values.yaml")
    good(cluster.helm(program, "install", "gpu", first, "--set", "port=9999", namespace=namespace))
    good(cluster.helm(program, "upgrade", "gpu", CHART, *words, namespace=namespace))
    daemon = cluster.ask("GET", f"apis/apps/v1/namespaces/{namespace}/daemonsets/gpu-gpu-exporter")
    assert daemon["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] == 9999
    good(cluster.helm(program, "rollback", "gpu", "1", namespace=namespace))


@helms
def test_a_release_of_helm_3_is_taken_over_by_helm_4_and_back(cluster: Kubernetes, namespace: str, helm: str) -> None:
    """Nothing is made anew, every value is kept, and each of both Helms may change what the other one made."""
    first, second = built(helm), built({"helm3": "helm4", "helm4": "helm3"}[helm])
    path = CHART / "ci/stack-full-values.yaml"
    told = values_of(path)
    good(cluster.helm(first, "install", "gpu", CHART, "--values", path, namespace=namespace))
    made = _live(cluster, first, namespace)
    for revision, program in enumerate((second, first, second), 2):
        words = ["--reuse-values", "--set", f"revisionHistoryLimit={revision}"]
        if revision == 4 and program == built("helm4"):
            words += ["--server-side=true"]  # of what Helm 3 changed last
        good(cluster.helm(program, "upgrade", "gpu", CHART, *words, namespace=namespace))
        _is_of_the_release(cluster, namespace, made, {**told, "revisionHistoryLimit": revision}, revision)
    good(cluster.helm(first, "rollback", "gpu", "1", namespace=namespace))
    _is_of_the_release(cluster, namespace, made, told, 5)
    good(cluster.helm(second, "uninstall", "gpu", namespace=namespace))
    assert _left(cluster, namespace) == []


def _live(cluster: Kubernetes, program: Path, namespace: str) -> dict[str, dict[str, Any]]:
    """The objects of the release's manifest as they are in the cluster, by kind and name."""
    manifest = good(cluster.helm(program, "get", "manifest", "gpu", namespace=namespace))
    file = cluster.folder / "manifest.yaml"
    file.write_text(manifest)
    done = cluster.run([built("kubectl"), "get", "--filename", file, "--output", "json", "--show-managed-fields"])
    return {f"{item['kind']} {item['metadata']['name']}": item for item in json.loads(good(done))["items"]}


def _is_of_the_release(
    cluster: Kubernetes, namespace: str, made: Mapping[str, Any], values: Mapping[str, Any], revision: int
) -> None:
    """Both Helms tell the revision and its values; the objects are the same ones, and as the manifest has them."""
    for program in (built("helm3"), built("helm4")):
        history = json.loads(good(cluster.helm(program, "history", "gpu", "--output", "json", namespace=namespace)))
        assert [(item["revision"], item["status"]) for item in history] == [
            *((number, "superseded") for number in range(1, revision)),
            (revision, "deployed"),
        ]
        kept = good(cluster.helm(program, "get", "values", "gpu", "--output", "json", namespace=namespace))
        assert json.loads(kept) == values
    live = _live(cluster, built("helm3"), namespace)
    assert {name: item["metadata"]["uid"] for name, item in live.items()} == {
        name: item["metadata"]["uid"] for name, item in made.items()
    }
    # An API server counts an empty list as a change, and keeps none.
    compare: list[str | Path] = [
        "env",
        "KUBECTL_EXTERNAL_DIFF=diff -u -Igeneration",
        built("kubectl"),
        "diff",
        "--server-side",
    ]
    done = cluster.run([*compare, "--force-conflicts", "--filename", cluster.folder / "manifest.yaml"])
    assert done.returncode == 0, done.stdout + done.stderr
    for name, item in live.items():
        assert item["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm", name
        assert item["metadata"]["annotations"]["meta.helm.sh/release-name"] == "gpu", name
        managers = [entry["manager"] for entry in item["metadata"]["managedFields"] if "subresource" not in entry]
        assert {*managers} == {"helm"}, f"{name}: one owner, whichever Helm: {managers}"


# --- what an API server says of Kubernetes' own fields ---------------------------------------------------------------

_PLACES = {
    "DaemonSet": "apis/apps/v1/namespaces/{}/daemonsets",
    "Deployment": "apis/apps/v1/namespaces/{}/deployments",
    "Ingress": "apis/networking.k8s.io/v1/namespaces/{}/ingresses",
    "NetworkPolicy": "apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Service": "api/v1/namespaces/{}/services",
}


def test_an_api_server_refuses_what_the_chart_refuses(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """A chart without its checks makes the objects of the values, and nothing is kept."""
    unchecked = tmp_path / "gpu-exporter"
    shutil.copytree(CHART, unchecked)
    (unchecked / "values.schema.json").unlink()
    file = unchecked / "templates/_validate.tpl"
    begin = '{{- define "gpu-exporter.validate" -}}'
    assert begin in file.read_text()
    file.write_text(file.read_text().replace(begin, begin + '{{- end }}{{- define "gpu-exporter.unused" -}}'))

    def refused(values: dict[str, Any]) -> bool:
        codes = []
        for item in render(values, path=unchecked).objects:
            if item["kind"] in _PLACES:
                item["metadata"]["namespace"] = namespace
                try:
                    cluster.ask("POST", f"{_PLACES[item['kind']].format(namespace)}?dryRun=All", item)
                except urllib.error.HTTPError as error:
                    codes.append(error.code)
        assert {*codes} <= {400, 422}, values
        return bool(codes)

    assert [values for values in particular.REFUSED if not refused(values)] == []
    assert [values for values in particular.TAKEN if refused(values)] == []


# --- values that API servers are particular about ---------------------------------------------------------------------

CLAIMS = {
    "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "all"}],
    "resources": {"claims": [{"name": "gpus"}]},
}
PARTICULAR: list[dict[str, Any]] = [
    {"env": {"NVIDIA_VISIBLE_DEVICES": "void"}},
    {"secrets": [{"name": "s", "mountPath": "/a"}, {"name": "s", "mountPath": "/b"}]},
    {"configmaps": [{"name": "kube-root-ca.crt", "mountPath": "/c"}]},
    {"podLabels": {"app.kubernetes.io/component": "x"}},
    {"commonLabels": {"app.kubernetes.io/name": "mine"}},
    CLAIMS,
    {"rbac": {"securityContextConstraints": "nonroot-v2"}},
    {"rbac": {"securityContextConstraints": "hostaccess"}},
    {"service": {"clusterIP": "None"}},
    {"service": {"clusterIP": "10.96.77.7"}},
    {"service": {"clusterIP": "10.96.77.8"}},
    {"service": {"clusterIP": ""}},
    {"service": {"ipDualStack": {"enabled": True, "ipFamilies": ["IPv4", "IPv6"]}}},
    {"service": {"type": "NodePort"}},
    {"service": {"type": "LoadBalancer"}},
    {"service": {"type": "LoadBalancer", "loadBalancerClass": "example.org/inside"}},
    {"service": {"type": "LoadBalancer", "loadBalancerClass": "example.org/outside"}},
    {"service": {"type": "LoadBalancer"}},
    {"fullnameOverride": "fixed", "nameOverride": "one", "stack": {"enabled": True}},
    {"fullnameOverride": "fixed", "nameOverride": "two", "stack": {"enabled": True}, "hub": {"enabled": True}},
    {"sidecars": [{"name": "more", "image": "more"}], "networkPolicy": {"namespaces": ["monitoring"]}},
    {"extraInitContainers": [{"name": "first", "image": "first"}], "networkPolicy": {"egress": [{}]}},
    {"hostNetwork": True, "hub": {"enabled": True}, "networkPolicy": {"enabled": True, "namespaces": ["monitoring"]}},
    {"tolerations": None, "networkPolicy": None, "containerSecurityContext": None, "updateStrategy": None},
    {"hub": {"enabled": True, "persistence": {"enabled": True, "size": "1Gi", "storageClassName": "a"}}},
    {"hub": {"enabled": True, "persistence": {"enabled": True, "size": "9Gi", "storageClassName": "b"}}},
]


@helms
def test_values_follow_one_another_without_a_word(
    cluster: Kubernetes, namespace: str, helm: str, tmp_path: Path
) -> None:
    """Each after the one before: no key twice, no field that may not change."""
    for number, tree in enumerate(PARTICULAR):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(tree))
        words = ("upgrade", "--install", "gpu", CHART, "--values", file)
        done = cluster.helm(built(helm), *words, namespace=namespace)
        assert done.returncode == 0, f"{tree}: {done.stderr}"
        assert "duplicate" not in done.stderr, f"{tree}: {done.stderr}"


@helms
@pytest.mark.parametrize(("name", "place"), [("123", "2024"), ("no", "true"), ("1e3", "0x1f"), ("null", "1-1")])
def test_names_that_look_like_numbers(cluster: Kubernetes, helm: str, name: str, place: str) -> None:
    cluster.namespace(place)
    everything = ("--set", "hub.enabled=true,stack.enabled=true,serviceMonitor.enabled=true")
    good(cluster.helm(built(helm), "install", name, CHART, *everything, namespace=place))
    good(cluster.helm(built(helm), "uninstall", name, namespace=place))
    assert _left(cluster, place) == []


# --- nodes ------------------------------------------------------------------------------------------------------------

GPU_NODES = {
    "gke": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
    "auto-mode": {"eks.amazonaws.com/instance-gpu-manufacturer": "nvidia"},
    "doks": {"doks.digitalocean.com/gpu-brand": "nvidia"},
    "operator": {"nvidia.com/gpu.present": "true"},
}
OTHER_NODES = {
    "windows": {"nvidia.com/gpu.present": "true", "kubernetes.io/os": "windows"},
    "amd": {"eks.amazonaws.com/instance-gpu-manufacturer": "amd"},
    "no-gpu": {},
}


def test_every_gpu_node_gets_a_pod_and_no_other(cluster: Kubernetes, namespace: str) -> None:
    """Also one with a taint of its site's own."""
    taint = [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]
    for name, labels in {**GPU_NODES, **OTHER_NODES}.items():
        add_node(cluster, name, {"kubernetes.io/os": "linux", **labels})
        tainted = {"spec": {"taints": taint}}
        cluster.ask("PATCH", f"api/v1/nodes/{name}", tainted, "application/merge-patch+json")
    try:
        good(cluster.helm(built("helm3"), "install", "gpu", CHART, namespace=namespace))
        place = f"apis/apps/v1/namespaces/{namespace}/daemonsets/gpu-gpu-exporter"

        def where() -> set[str]:
            pods = cluster.items(f"api/v1/namespaces/{namespace}/pods")
            return {pod["spec"].get("nodeName", "") for pod in pods}

        wanted = {"gpu", *GPU_NODES}
        wait_for(lambda: where() == wanted, where)
        assert cluster.ask("GET", place)["status"]["desiredNumberScheduled"] == len(wanted)
        good(cluster.helm(built("helm3"), "uninstall", "gpu", namespace=namespace))
    finally:
        for name in (*GPU_NODES, *OTHER_NODES):
            cluster.ask("DELETE", f"api/v1/nodes/{name}")
