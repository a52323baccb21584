"""Mistakes that charts make, each looked for everywhere: lists with keys, text that looks like something else,
fields that no upgrade may change, names of what is elsewhere."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from helm.everything import EVERYTHING, VALUES, at, merged
from helm.rendering import CASES, Manifest, Rendered, case, chart, refusal, render
from helm.schemas import VERSIONS, mistakes

# --- lists whose entries have a key -----------------------------------------------------------------------------------


class Strict(yaml.SafeLoader):
    """A key twice in one map is a mistake, as it is for Flux and kustomize."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: {sorted(keys)}"
        return super().construct_mapping(node, deep)


def assert_no_key_is_there_twice(rendered: Rendered) -> None:
    for name, text in rendered.texts.items():
        if not name.endswith(".txt"):
            list(yaml.load_all(text, Strict))
    for name, pod in rendered.pods():
        assert_unique(name, pod, "volumes", "name")
        assert_unique(name, pod, "hostAliases", "ip")
        assert_unique(name, pod, "resourceClaims", "name")
        assert_unique(name, pod, "imagePullSecrets", "name")
        containers = [*pod.get("initContainers", []), *pod["containers"]]
        assert len(containers) == len({container["name"] for container in containers})
        for container in containers:
            assert_unique(name, container, "env", "name")
            assert_unique(name, container, "volumeMounts", "mountPath")
            assert_unique(name, container, "ports", "name")
            assert_unique(name, container.get("resources", {}), "claims", "name")


def assert_unique(name: str, place: dict[str, Any], field: str, key: str) -> None:
    found = [item[key] for item in place.get(field, [])]
    assert len(found) == len(set(found)), f"{name}: {field}: {found}"


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_no_case_has_a_key_twice(path: Any) -> None:
    assert_no_key_is_there_twice(case(path))


_OWN_ENV = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "0"}, {"name": "GPU_EXPORTER_HOST_NAME", "value": "me"}]
COLLISIONS: dict[str, dict[str, Any]] = {
    "env as a map": {"env": {"NVIDIA_VISIBLE_DEVICES": "void", "GPU_EXPORTER_HOST_NAME": "me"}},
    "env as a list": {"env": [*_OWN_ENV, {"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
    "volumes": {
        "extraVolumes": [{"name": "config", "emptyDir": {}}, {"name": "host-etc", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "config", "mountPath": "/etc/gpu-exporter", "subPath": "x"}],
    },
    "one Secret at two places": {
        "secrets": [{"name": "s", "mountPath": "/a"}, {"name": "s", "mountPath": "/b"}],
        "configmaps": [{"name": "s", "mountPath": "/c"}, {"name": "s", "mountPath": "/d", "subPath": "e"}],
    },
    "one folder at two places": {
        "extraHostVolumeMounts": [
            {"name": "n", "hostPath": "/a", "mountPath": "/a"},
            {"name": "n", "hostPath": "/a", "mountPath": "/b"},
        ]
    },
    "labels": {
        "podLabels": {"app.kubernetes.io/name": "mine", "app.kubernetes.io/component": "x"},
        "commonLabels": {"app.kubernetes.io/name": "mine", "app.kubernetes.io/managed-by": "x", "helm.sh/chart": "y"},
        "service": {"labels": {"app.kubernetes.io/instance": "x"}},
        "stack": {"prometheus": {"podLabels": {"app.kubernetes.io/component": "x"}}},
    },
    "annotations": {
        "podAnnotations": {"kubectl.kubernetes.io/default-container": "other", "checksum/config": "fixed"},
        "stack": {"grafana": {"podAnnotations": {"checksum/config": "fixed"}}},
        "tests": {"annotations": {"helm.sh/hook": "post-install"}},
    },
    "pull secrets": {
        "imagePullSecrets": ["a", {"name": "a"}],
        "global": {"imagePullSecrets": ["a"]},
        "serviceAccount": {"imagePullSecrets": ["a", {"name": "a"}]},
    },
    "claims": {
        "resourceClaims": [{"name": "a", "resourceClaimName": "x"}, {"name": "a", "resourceClaimName": "y"}],
        "resources": {"claims": [{"name": "a"}, {"name": "a", "request": "all"}]},
    },
    "the stack's": {
        "stack": {
            "prometheus": {
                "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
                "extraVolumes": [{"name": "data", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "data", "mountPath": "/prometheus"}],
                "extraScrapeConfigs": [{"job_name": "prometheus"}, {"job_name": "alertmanager"}],
                "extraConfig": {"rule_files": ["rules.yml", "site.yml"]},
            },
            "alertmanager": {"env": {"TZ": "Asia/Tokyo"}},
            "grafana": {"env": [{"name": "GF_SECURITY_ADMIN_USER", "value": "me"}]},
        }
    },
    "host aliases": {"hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}, {"ip": "1.1.1.1", "hostnames": ["b"]}]},
    "the hub's": {"hub": {"extraVolumes": [{"name": "config", "emptyDir": {}}], "env": {"A": "1"}}},
}


@pytest.mark.parametrize("name", COLLISIONS)
def test_what_meets_an_entry_of_the_chart_takes_its_place(name: str) -> None:
    assert_no_key_is_there_twice(render(merged(EVERYTHING, COLLISIONS[name])))


def test_the_later_wins_where_two_meet() -> None:
    container = render(COLLISIONS["env as a list"]).container
    found = {item["name"]: item.get("value") for item in container["env"]}
    assert (found["NVIDIA_VISIBLE_DEVICES"], found["GPU_EXPORTER_HOST_NAME"], found["A"]) == ("0", "me", "2")
    assert container["env"][0]["name"] == "NVIDIA_VISIBLE_DEVICES", "in its place"
    pod = render(COLLISIONS["volumes"]).pod
    assert {"name": "config", "emptyDir": {}} in pod["volumes"]
    mounts = render(COLLISIONS["one Secret at two places"]).container["volumeMounts"]
    assert {mount["mountPath"] for mount in mounts} >= {"/a", "/b", "/c", "/d"}


def test_what_selects_wins_over_labels_of_the_site() -> None:
    rendered = render(merged(EVERYTHING, COLLISIONS["labels"]))
    for item in rendered.objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    for work in (*rendered.all("DaemonSet"), *rendered.all("Deployment")):
        labels = work["spec"]["template"]["metadata"]["labels"]
        assert work["spec"]["selector"]["matchLabels"].items() <= labels.items()
    services = {item["metadata"]["name"]: item for item in rendered.all("Service")}
    monitor = rendered.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    found = [name for name, item in services.items() if monitor.items() <= item["metadata"]["labels"].items()]
    assert found == ["gpu-gpu-exporter"], "the scrape finds the exporters' Service, and no other"


# --- text that looks like something else ------------------------------------------------------------------------------

WORDS = ("1e3", "no", "-", "a.b", "0x1F", "null", "2024-01-01", "~", "1_000")
# What has to fit other values, or would switch something off.
_FITTING = {
    ("fake", "scenario"),
    ("owners", "kubernetes", "kubeletDirectory"),
    ("mail", "owners", "template"),
    ("webConfig", "existingSecret"),
    ("service", "loadBalancerClass"),
    ("service", "clusterIP"),
    ("scrape", "scrapeClass"),
    ("image", "tag"),
}


@pytest.mark.parametrize("word", WORDS)
def test_every_text_stays_text(word: str) -> None:
    """Every value that takes any text has the word at once; types are looked at as an API server does."""
    tree = EVERYTHING
    free = [value for value in VALUES if value.schema.get("type") == "string" and "pattern" not in value.schema]
    for value in free:
        if value.path not in _FITTING and "existingClaim" not in value.path:
            tree = merged(tree, at(value.path, word))
    assert len(free) > 60
    for kind in ("labels", "annotations", "environment"):
        for value in VALUES:
            if value.kind == kind and value.path != ("webConfig", "basicAuthUsers"):
                tree = merged(tree, at(value.path, {"example.org/x" if kind != "environment" else "X": word}))
    rendered = render(tree)
    assert [mistake for item in rendered.objects for mistake in mistakes(item, VERSIONS[-1])] == []
    volumes = [claim["spec"] for claim in rendered.all("PersistentVolumeClaim")]
    assert volumes == []
    pod = rendered.pod
    assert (pod["priorityClassName"], pod["schedulerName"], pod["runtimeClassName"]) == (word, word, word)


@pytest.mark.parametrize(("name", "namespace"), [("123", "2024"), ("1e3", "0x1f"), ("no", "null")])
def test_names_of_releases_stay_text(name: str, namespace: str) -> None:
    rendered = Rendered(chart().render(EVERYTHING, name=name, namespace=namespace))
    assert [mistake for item in rendered.objects for mistake in mistakes(item, VERSIONS[-1])] == []
    for item in rendered.objects:
        assert item["metadata"]["namespace"] == namespace
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodeSelector": {"gpu": True}}, "nodeSelector.gpu: got boolean, want string: put true in quotes"),
        ({"podAnnotations": {"a.b/c": 5}}, r"--set-string 'podAnnotations.a\.b/c=5'"),
        ({"stack": {"grafana": {"nodeSelector": {"a": False}}}}, "stack.grafana.nodeSelector.a: got boolean"),
        ({"image": {"tag": 1.5}}, "image.tag: got number, want string"),
        ({"env": {"A": 1}}, "env.A: got number, want string"),
    ],
)
def test_what_is_no_text_is_refused_with_a_way_out(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


def test_names_of_files_become_names_of_volumes() -> None:
    long = "x" * 100 + ".example"
    names = ["kube-root-ca.crt", long, "site"]
    values = {
        kind: [{"name": name, "mountPath": f"/{kind}/{number}"} for number, name in enumerate(names)]
        for kind in ("configmaps", "secrets")
    }
    pod = render(values).pod
    for volume in pod["volumes"]:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", volume["name"]), volume["name"]
    shown = {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    assert set(names) <= shown
    assert {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume} == set(names)


# --- what no upgrade may change ---------------------------------------------------------------------------------------


def _fixed(item: Manifest) -> Any:
    """What an API server lets nobody change of an object."""
    spec = item.get("spec", {})
    match item["kind"]:
        case "RoleBinding":
            return item["roleRef"]
        case "DaemonSet" | "Deployment":
            return spec["selector"]
        case "Service":
            # Its class follows what the cluster has: test_chart_values.py.
            return spec.get("clusterIP"), (spec.get("ipFamilies") or ["IPv4"])[0]
        case "PersistentVolumeClaim":
            return spec.get("storageClassName"), spec["accessModes"]
        case "Secret":
            return item["type"]
    return None


MORE: list[dict[str, Any]] = [
    {"rbac": {"securityContextConstraints": "nonroot-v2"}},
    {"rbac": {"securityContextConstraints": "hostaccess"}},
    {"service": {"clusterIP": "None"}},
    {"service": {"clusterIP": "10.0.0.9"}},
    {"service": {"clusterIP": "10.0.0.10"}},
    {"service": {"ipDualStack": {"enabled": True, "ipFamilies": ["IPv4", "IPv6"]}}},
    {"service": {"type": "NodePort"}},
    {"service": {"type": "LoadBalancer"}},
]


def test_every_case_can_become_every_other() -> None:
    found: dict[tuple[str, str, str], list[tuple[str, Any]]] = {}
    releases = [(path.stem, case(path)) for path in CASES] + [(json.dumps(tree), render(tree)) for tree in MORE]
    for name, rendered in releases:
        for item in rendered.objects:
            key = (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])
            found.setdefault(key, []).append((name, _fixed(item)))
    for key, states in found.items():
        for (one, before), (other, after) in itertools.combinations(states, 2):
            assert before == after, f"{key}: from {one} to {other}: {before} cannot become {after}"


def test_monitor_test_pod_and_hub_follow_the_services_name() -> None:
    rendered = render(
        {"service": {"clusterIP": "None"}, "webConfig": EVERYTHING["webConfig"], "serviceMonitor": {"enabled": True}}
    )
    (service,) = (item for item in rendered.all("Service"))
    name = service["metadata"]["name"]
    assert name == "gpu-gpu-exporter-headless"
    assert rendered.one("ServiceMonitor")["spec"]["endpoints"][0]["tlsConfig"]["serverName"] == f"{name}.gpus.svc"
    url = {item["name"]: item["value"] for item in rendered.one("Pod")["spec"]["containers"][0]["env"]}["URL"]
    assert url == f"https://{name}.gpus.svc:9435/metrics"


# --- what one object names is where the object is ---------------------------------------------------------------------


def _named_files(item: Manifest) -> Iterator[tuple[str, str]]:
    """Kind and name of every ConfigMap and Secret that a pod names."""
    for key, kind, field in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
        for found in _dig(item, key):
            if field in found or "name" in found:
                yield kind, found.get(field) or found["name"]


def _dig(tree: Any, key: str) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key and isinstance(value, dict):
                yield value
            yield from _dig(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _dig(value, key)


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_what_is_made_is_found_where_it_is_named(path: Any) -> None:
    rendered = case(path)
    made = {
        (item["kind"], item["metadata"]["name"]): item["metadata"]["namespace"]
        for item in rendered.objects
        if "namespace" in item["metadata"]
    }
    for item in rendered.objects:
        if item["kind"] in {"DaemonSet", "Deployment", "GrafanaDashboard"}:
            for reference in _named_files(item):
                assert made.get(reference, item["metadata"]["namespace"]) == item["metadata"]["namespace"], reference
        if item["kind"] == "ServiceMonitor" and item["metadata"]["namespace"] != "gpus":
            assert not any(found.get("name") == "gpu-exporter-tls" for found in _dig(item, "secret"))


def test_a_monitor_elsewhere_cannot_read_the_certificates_secret() -> None:
    tls = {"tls": {"enabled": True, "secretName": "pair"}}
    for kind in ("serviceMonitor", "podMonitor"):
        values = {"webConfig": tls, kind: {"enabled": True, "namespace": "monitoring"}}
        assert (
            f"{kind}.namespace: the Secret pair, whose CA the scrape trusts, is not in namespace monitoring"
            in refusal(values)
        )
        public = render(merged(values, {"webConfig": {"tls": {"caKey": ""}}}))
        monitor = public.one(kind[0].upper() + kind[1:])["spec"]
        (endpoint,) = monitor.get("endpoints") or monitor["podMetricsEndpoints"]
        assert endpoint["tlsConfig"] == {"serverName": "gpu-gpu-exporter.gpus.svc"}
        assert render(merged(values, {"scrape": {"tlsConfig": {"insecureSkipVerify": True}}})).objects


def test_the_test_pod_is_where_helm_reads_its_log() -> None:
    rendered = render({"namespaceOverride": "elsewhere"})
    pod = rendered.one("Pod")
    assert (pod["metadata"]["namespace"], rendered.one("Service")["metadata"]["namespace"]) == ("gpus", "elsewhere")
    assert "serviceAccountName" not in pod["spec"], "the account is elsewhere"
    assert ".elsewhere.svc:" in json.dumps(pod)
