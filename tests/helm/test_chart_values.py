"""The chart's values: what is generated from them, what is refused, and releases that were made by an older chart."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Chart, HelmError
from jsonschema import Draft7Validator
from tools.lab import ROOT
from tools.lab.exporter import environment

from gpu_exporter.config import MODELS
from helm.cluster import OPERATOR, Cluster
from helm.everything import EVERYTHING, VALUES, at, merged
from helm.rendering import CASES, CHART, NAMESPACE, RELEASE, chart, named, read, refusal, render, values_of
from helm.schemas import VERSIONS, mistakes

DEFAULTS: dict[str, Any] = json.loads((CHART / "files/defaults.json").read_text())
HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
MAIL = {"smarthost": "smtp.example.org:587", "from": "gpu@example.org", "to": {"oncall": "oncall@example.org"}}
MUTUAL = {"tls": {"enabled": True, "secretName": "x", "clientAuthType": "RequireAndVerifyClientCert"}}
KEY = {"name": "scrape", "key": "x"}


def test_what_is_generated_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "tools/chart.py", "--check"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_value_is_used_by_some_template() -> None:
    templates = "".join(path.read_text() for path in sorted((CHART / "templates").rglob("*.*")))
    unused = [f".Values.{key}" for key in DEFAULTS if key.split(".")[-1] not in templates]
    assert unused == [], "helm/gpu-exporter/templates: no template has these; values.yaml tells of them"


def test_every_value_is_set_by_some_case() -> None:
    """ci has a case for whatever can be set. What the parts of the stack have in common is set for one of them."""
    written = {_shared(key) for path in CASES for key in _leaves(values_of(path), ())}
    known = {_shared(tuple(key.split("."))) for key in DEFAULTS}
    ever = {key for key in known if any(key[: len(found)] == found[: len(key)] for found in written)}
    never = sorted(".".join(key) for key in known - ever - {("knownValues",)})
    assert never == [], "helm/gpu-exporter/ci/everything-else-values.yaml, or a case of its own: set these"


def _shared(key: tuple[str, ...]) -> tuple[str, ...]:
    return ("stack", "*", *key[2:]) if key[0] == "stack" and len(key) > 2 else key


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def test_the_models_of_the_chart_are_those_of_the_exporter() -> None:
    lines = (CHART / "values.yaml").read_text("utf-8").splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.startswith("  model: "))
    expected = f"  # (one of {'|'.join(MODELS)}) What to simulate."
    assert lines[number - 2] == expected, (
        f"helm/gpu-exporter/values.yaml:{number - 1}: write\n{expected}\nand: make docs"
    )


# --- refused by the schema --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": "9435"}, "at '/port': got string, want integer"),
        ({"port": 70000}, "at '/port'"),
        ({"tolerations": {}}, "at '/tolerations': got object, want array"),
        ({"unknown": 1}, "additional properties 'unknown' not allowed"),
        ({"image": {"tga": "1"}}, "additional properties 'tga' not allowed"),
        ({"image": {"digest": "abc"}}, "at '/image/digest'"),
        ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy'"),
        ({"serviceMonitor": {"enabled": "yes"}}, "at '/serviceMonitor/enabled'"),
        ({"hostPID": "true"}, "at '/hostPID'"),
        ({"config": {"collection": {"intervall": "5s"}}}, "additional properties 'intervall' not allowed"),
        ({"config": {"collection": {"interval": 5}}}, "at '/config/collection/interval': got number"),
        ({"rules": {"alerts": {"GPULost": {"severity": "fatal"}}}}, "at '/rules/alerts/GPULost/severity'"),
        ({"rules": {"alerts": {"GPULost": {"threshold": 1}}}}, "additional properties 'threshold' not allowed"),
        ({"scrape": {"interval": "often"}}, "at '/scrape/interval'"),
        ({"mail": {"smarthost": "smtp.example.org"}}, "at '/mail/smarthost'"),
        ({"resources": {"memory": "1Gi"}}, "additional properties 'memory' not allowed"),
        ({"fake": {"model": "voodoo2"}}, "at '/fake/model'"),
        ({"owners": {"slurm": {"directory": "run/slurm"}}}, "at '/owners/slurm/directory'"),
    ],
)
def test_wrong_types_and_unknown_keys_are_refused(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


def test_a_parent_chart_may_pass_what_is_global_and_its_condition() -> None:
    assert render({"global": {"other": {"chart": 1}}, "enabled": True}).objects


# --- refused because of a contradiction -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hostPID": True}, "hostPID: true is of no use without processes.enabled: true; set both, or neither."),
        ({"hostPID": False, "processes": {"enabled": True}}, "processes.enabled: true needs hostPID"),
        ({"fake": {"enabled": True}, "processes": {"enabled": True}}, "true simulates GPUs with processes"),
        ({"fake": {"scenario": "- {}"}}, "fake.scenario is told, but fake.enabled is false"),
        ({"hostUsers": False, "hostNetwork": True}, "hostUsers: false cannot be had together with hostNetwork"),
        ({"hostNetwork": True, "networkPolicy": {"enabled": True}}, "has no effect on pods with hostNetwork: true"),
        (
            {"hostNetwork": True, "networkPolicy": {"namespaces": ["monitoring"]}},
            "networkPolicy.namespaces is told, but no NetworkPolicy has an effect on the exporter's pods",
        ),
        (
            {"hostNetwork": True, "networkPolicy": {"enabled": True, "from": [{"ipBlock": {"cidr": "::/0"}}]}},
            "networkPolicy.from is told, but",
        ),
        ({"hostNetwork": True, "networkPolicy": {"extraIngress": [{}]}}, "guard the port by config.web.allow"),
        (
            {"hostNetwork": True, "hub": {"enabled": True}, "networkPolicy": {"extraIngress": [{}]}},
            "networkPolicy.extraIngress is told, but no NetworkPolicy has an effect on the exporter's pods",
        ),
        (
            {"hostNetwork": True, "hub": {"enabled": True}, "networkPolicy": {"enabled": True, "egress": [{}]}},
            "networkPolicy.egress is told, but",
        ),
        ({"hub": {"enabled": True, "persistence": {"enabled": True, "accessModes": []}}}, "accessModes is empty"),
        ({"webConfig": {"tls": {"enabled": True}}}, "webConfig.tls.enabled: true needs webConfig.tls.secretName"),
        ({"webConfig": {"tls": {"secretName": "x"}}}, "but webConfig.tls.enabled is false"),
        ({"webConfig": {"existingSecret": "a", "tls": {"enabled": True, "secretName": "b"}}}, "both bring a cert"),
        ({"webConfig": {"tls": {"clientAuthType": "RequireAndVerifyClientCert"}}}, "which needs webConfig.tls.enabled"),
        ({"webConfig": {"basicAuthUsers": {"me": "secret"}}}, "htpasswd -nBC 10 me"),
        (
            {"webConfig": {"basicAuthUsers": {"me": HASH}}, "serviceMonitor": {"enabled": True}},
            "tell the monitor one with scrape.basicAuth",
        ),
        (
            {"webConfig": {"basicAuthUsers": {"me": HASH}}, "stack": {"enabled": True}},
            "tell stack.prometheus one with scrape.basicAuth",
        ),
        (
            {"webConfig": MUTUAL, "podMonitor": {"enabled": True}},
            "scrape.tlsConfig.cert and scrape.tlsConfig.keySecret",
        ),
        (
            {"webConfig": {"existingSecret": "x", "tls": {"enabled": True}}, "podMonitor": {"enabled": True}},
            "tell the monitor what to trust with scrape.tlsConfig",
        ),
        ({"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}, "every GPU would be scraped twice"),
        ({"serviceMonitor": {"enabled": True}, "service": {"enabled": False}}, "needs service.enabled: true"),
        ({"scrape": {"basicAuth": {"username": KEY}, "authorization": {"type": "Bearer"}}}, "exclude each other"),
        ({"service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}}, "is told, but service.type is ClusterIP; use Load"),
        ({"service": {"nodePort": 30000}}, "service.nodePort is told, but service.type is ClusterIP"),
        ({"dashboards": {"enabled": False, "operator": {"enabled": True}}}, "the operator reads the ConfigMaps"),
        ({"dashboards": {"namespace": "else"}, "stack": {"enabled": True}}, "must be in the release's namespace"),
        ({"dashboards": {"enabled": False}, "stack": {"enabled": True}}, "stack.grafana.enabled: true needs"),
        ({"alertmanagerConfig": {"enabled": True}}, "needs mail.smarthost, mail.from and mail.to.oncall"),
        ({"mail": {"to": {"oncall": "a@b"}}}, "mail.smarthost, the mail server, is not"),
        ({"mail": {"smarthost": "a:25"}}, "mail.smarthost needs mail.from"),
        ({"mail": {**MAIL, "username": "me"}}, "needs mail.passwordSecret.name"),
        ({"hub": {"enabled": True, "persistence": {"existingClaim": "x"}}}, "persistence.enabled is false"),
        ({"stack": {"enabled": True}, "rbac": {"create": False}}, "tell serviceAccount.name"),
        ({"rules": {"alerts": {"GPUMelted": {"enabled": False}}}}, "there is no alert 'GPUMelted'; there are GPU"),
        ({"rules": {"disabledGroups": ["gpu-health", "gpu-magic"]}}, "there is no group 'gpu-magic'; there are gpu-"),
        ({"config": {"source": "fake"}}, "config.source: the chart sets it itself; use fake.enabled"),
        ({"config": {"web": {"listen_address": ":1"}}}, "listen_address: the chart sets it itself; use port"),
        ({"config": {"processes": {"enabled": True}}}, "config.processes.enabled: the chart sets it itself"),
        ({"config": {"owners": {"kubernetes": True}}}, "use the chart's own owners.kubernetes.enabled"),
        ({"extraArgs": ["--web.listen-address=:1"]}, "extraArgs: --web.listen-address=:1: the chart sets it itself"),
        ({"extraArgs": ["--web.listen-address", ":1"]}, "use port instead"),
        ({"extraArgs": ["--no-processes.enabled"]}, "use the chart's own processes.enabled"),
        ({"extraArgs": ["--web.telemetry-path=/x"]}, "use config.web.telemetry_path instead"),
        ({"env": {"GPU_EXPORTER_OWNERS_KUBERNETES": "1"}}, "env.GPU_EXPORTER_OWNERS_KUBERNETES: the chart sets"),
        ({"env": [{"name": "GPU_EXPORTER_WEB_CONFIG_FILE", "value": "/a"}]}, "use webConfig instead"),
        (
            {"rules": {"additionalGroups": [{"name": "gpu-health", "rules": []}]}},
            "rules.additionalGroups: there is a group 'gpu-health' already",
        ),
        (
            {"rules": {"additionalGroups": [{"name": "site", "rules": []}, {"name": "site", "rules": []}]}},
            "there is a group 'site' already",
        ),
        ({"tests": {"image": {"tag": "3"}}}, "Tell tests.image.repository"),
        (
            {"service": {"ipDualStack": {"enabled": True, "ipFamilies": ["IPv4", "IPv4"]}}},
            "ipFamilies: IPv4, IPv4 has one twice",
        ),
    ],
)  # fmt: skip
def test_contradictions_are_refused_with_a_sentence(values: dict[str, Any], message: str) -> None:
    values = {"prometheusRule": {"enabled": True}, **values}
    assert message in refusal(values)


# --- quantities -------------------------------------------------------------------------------------------------------

# As Kubernetes writes them, from the least to the most; those in one row are the same.
QUANTITIES: list[list[str | int | float]] = [
    ["0", 0, "0Ki", "0n"],
    ["1n", "1e-9"],
    ["999n"],
    ["1u", "1000n", "1E-6"],
    ["1m", "1000u", "0.001", ".001"],
    ["500000u"],
    ["1", 1, "+1", "1.", "1000m", "1000000u", "1e0"],
    [1.5, "1500m"],
    ["1k", 1000, "1e3", "1E3"],
    ["1Ki", 1024],
    ["1M", "1000k", "1e+6", 1000000],
    ["1Mi", "1024Ki"],
    ["1G", 1000000000, "1e9"],
    ["1Gi", "1024Mi"],
    ["1.5Gi", "1536Mi"],
    ["1T"],
    ["1Ti"],
    ["1P", "1000T"],
    ["1Pi"],
    ["1E", "1e18", "1000P"],
    ["1Ei", "1024Pi"],
]


def test_quantities_are_compared_as_kubernetes_does() -> None:
    """Each against the one before and the one behind; what is the same may be asked for, and what is less."""
    asked: dict[str, str] = {}
    for place, row in enumerate(QUANTITIES):
        for number, value in enumerate(row):
            asked[f"{place}.{number}"] = f'{{{{ include "gpu-exporter.quantity" {json.dumps(value)} }}}}'
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "found"}, "data": asked})
    data = render({"extraManifests": [text]}).one("ConfigMap", "found")["data"]
    rows = [{float(data[f"{place}.{number}"]) for number in range(len(row))} for place, row in enumerate(QUANTITIES)]
    assert [len(row) for row in rows] == [1] * len(rows), rows
    flat = [value for row in rows for value in row]
    assert flat == sorted(set(flat))


@pytest.mark.parametrize(
    ("request_", "limit", "refused"),
    [
        ("500000u", 1, False),
        ("500n", "1u", False),
        ("1000m", "1", False),
        ("1E", "1Ei", False),
        ("2u", "1000n", True),
        ("2n", "1n", True),
        ("1Ei", "1E", True),
        (2, "1500m", True),
        ("1m", 0, True),
        (0, 0, False),
        (1, None, False),
        (None, 1, False),
    ],
)
def test_who_asks_for_more_than_he_may_have_is_refused(request_: Any, limit: Any, refused: bool) -> None:
    values = {"hub": {"enabled": True, "resources": {"requests": {"cpu": request_}, "limits": {"cpu": limit}}}}
    if refused:
        assert "hub.resources: limits.cpu" in refusal(values)
    else:
        assert render(values).objects


@pytest.mark.parametrize("word", ["1e3Ki", "1..5", ".", "", "1KB", "1ki", "-1", "1e", "1 Gi", "1i", "0x1"])
def test_what_is_no_quantity_is_refused(word: str) -> None:
    assert "at '/resources/limits/memory'" in refusal({"resources": {"limits": {"memory": word}}})
    assert "no size" in refusal({"hub": {"enabled": True, "persistence": {"enabled": True, "size": word}}})


def test_a_claim_of_nothing_is_refused() -> None:
    assert "no size" in refusal({"hub": {"enabled": True, "persistence": {"enabled": True, "size": "0Gi"}}})
    assert render({"hub": {"enabled": True, "persistence": {"enabled": True, "size": "1e10"}}}).objects


# --- releases of an older chart ---------------------------------------------------------------------------------------


# A chart of other values: what Helm keeps of it says so, as a map, or as text.
OLDER: dict[str, Any] = {"knownValues": {"0123456789ab": True, **dict.fromkeys(DEFAULTS["knownValues"])}}


def _upgraded(values: Mapping[str, Any]) -> dict[str, str]:
    """What an upgrade renders, whose values an older chart made."""
    texts: dict[str, str] = chart().render({**values, **OLDER}, name=RELEASE, namespace=NAMESPACE, is_upgrade=True)
    return texts


@pytest.mark.parametrize("name", ["default", "stack-full", "alertmanager-config", "service-monitor", "rules"])
def test_values_that_an_older_chart_did_not_have_get_their_defaults(name: str) -> None:
    """``--reuse-values`` keeps the old chart's defaults and knows none of the new: here none of all is there."""
    values = values_of(CHART / f"ci/{name}-values.yaml")
    written = set(_leaves(values, ()))
    for key, default in DEFAULTS.items():
        path = tuple(key.split("."))
        if default is not None and not any(found[: len(path)] == path for found in written):
            values = _with(values, path, None)
    assert _upgraded(values) == named(name).texts


@pytest.mark.parametrize("key", sorted({key.split(".")[0] for key in DEFAULTS}))
def test_a_section_that_an_older_chart_did_not_have_gets_its_defaults(key: str) -> None:
    assert _upgraded({key: None}) == named("default").texts


@pytest.mark.parametrize("known", [*OLDER.values(), {"0123456789ab": True}, DEFAULTS["knownValues"], None])
def test_null_empties_whatever_a_values_file_of_an_older_chart_says(known: dict[str, Any] | None) -> None:
    """``helm show values > my.yaml`` at one version, ``helm install --values my.yaml`` at the next."""
    rendered = render({"knownValues": known, "tolerations": None, "networkPolicy": None})
    assert "tolerations" not in rendered.pod
    assert rendered.all("NetworkPolicy") == []


def test_knownvalues_as_text_is_refused_or_told() -> None:
    """As the chart once had it."""
    (digest,) = DEFAULTS["knownValues"]
    with Cluster(OPERATOR) as cluster, cluster.config() as config:
        little = {"dashboards": {"enabled": False}, "prometheusRule": {"enabled": False}, "tolerations": None}
        with pytest.raises(HelmError, match="knownValues: '0' is of another version of this chart; take it out"):
            config.install(chart(), RELEASE, {**little, "knownValues": "0"})
        assert "knownValues" not in config.install(chart(), RELEASE, little)["notes"]
        told = config.upgrade(chart(), RELEASE, {**little, "knownValues": "0"})
        assert "knownValues is of another version of this chart" in told["notes"]
        file = {**little, "knownValues": {"0123456789ab": True}}
        upgraded = config.upgrade(chart(), RELEASE, file, reset_values=True)
    assert "knownValues" not in upgraded["notes"]
    (spec,) = (item["spec"] for item in read(upgraded["manifest"]) if item["kind"] == "DaemonSet")
    assert "tolerations" not in spec["template"]["spec"]
    assert "tolerations" not in render({"tolerations": None, "knownValues": digest}).pod


def _with(tree: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with another value. Helm takes None for "this key is not there"."""
    head, *rest = path
    inner = tree.get(head)
    child = _with(inner if isinstance(inner, dict) else {}, tuple(rest), value) if rest else value
    return {**tree, head: child}


# --- null, which is Helm's word for "leave it out" --------------------------------------------------------------------


def _nulled(paths: Iterable[tuple[str, ...]], value: Any = None) -> dict[str, Any]:
    """Everything is switched on, and these are null."""
    kept = {"persistence": {"enabled": True}}
    tree: dict[str, Any] = merged(EVERYTHING, {"hub": kept, "stack": {"grafana": kept}})
    for path in paths:
        tree = merged(tree, at(path, value))
    return tree


def _made(values: dict[str, Any]) -> set[tuple[str, str]]:
    return {(item["kind"], item["metadata"]["name"]) for item in render(values).objects}


def test_a_list_or_map_that_is_null_is_empty() -> None:
    """Whatever the chart's default is; what remains is what an API server takes."""
    full = [value.path for value in VALUES if isinstance(value.default, dict | list) and value.default]
    assert len(full) > 25
    rendered = render(_nulled(path for path in full if path[-1] != "accessModes"))
    assert [mistake for item in rendered.objects for mistake in mistakes(item, VERSIONS[-1])] == []
    assert {"tolerations", "affinity"}.isdisjoint(rendered.pod)
    assert {"resources", "securityContext"}.isdisjoint(rendered.container)
    assert "hub.persistence.accessModes is empty" in refusal(_nulled([("hub", "persistence", "accessModes")]))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_section_that_is_null_is_switched_off(depth: int) -> None:
    sections = {value.path[:-1] for value in VALUES if value.path[-1] == "enabled" and len(value.path) == depth + 1}
    sections.discard(("dashboards",))  # which Grafana needs
    off = _nulled(sections, {"enabled": False})
    if ("webConfig", "tls") in sections:
        off = merged(off, at(("webConfig", "tls", "secretName"), ""))
    assert _made(_nulled(sections)) == _made(off) < _made(_nulled([]))


def test_a_single_value_that_is_null_has_its_default() -> None:
    """There is no port that is not there."""
    values = {"port": None, "image": None, "runtimeClassName": None, "service": {"type": None}, "knownValues": None}
    assert render(values).texts == named("default").texts


def test_the_schema_takes_null_for_every_value_and_section_as_helm_keeps_it() -> None:
    schema = Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))
    trees: list[dict[str, Any]] = [{} for _ in range(5)]
    for value in VALUES:
        for depth, tree in enumerate(trees[:4], 1):
            trees[depth - 1] = merged(tree, at(value.path[:depth], None))
        if isinstance(value.default, dict):
            trees[4] = merged(trees[4], at(value.path, dict.fromkeys(value.default)))
    assert [error.message for tree in trees for error in schema.iter_errors(tree)] == []


def test_null_stays_null_where_helm_keeps_the_values_of_a_release() -> None:
    """It then comes as null, and not as something that is not there."""
    nulls = {
        "tolerations": None,
        "networkPolicy": None,
        "port": None,
        "resources": {"limits": None},
        "podLabels": {"team": None},
        "readinessProbe": {"timing": None},
        "securityContext": {"runAsUser": None},
        "env": {"A": None},
        "hub": {"enabled": True, "resources": None, "persistence": None},
    }
    with Cluster(OPERATOR) as cluster, cluster.config() as config:
        # Helm writes the values that it keeps into the chart.
        installed = config.install(chart(), RELEASE, {"dashboards": {"enabled": False}, **nulls})["manifest"]
        upgraded = config.upgrade(Chart.load(CHART), RELEASE, {"fullnameOverride": ""}, reuse_values=True)["manifest"]
    assert upgraded == installed
    found = {item["kind"]: item for item in read(installed)}
    assert "NetworkPolicy" not in found
    spec = found["DaemonSet"]["spec"]["template"]["spec"]
    assert "tolerations" not in spec
    assert "limits" not in spec["containers"][0]["resources"]


def test_helm_upgrades_a_first_release_with_its_values(tmp_path: Path) -> None:
    """Helm itself, against a stand-in for the API server: the first release's own defaults, and what its user set."""
    first = tmp_path / "gpu-exporter"
    shutil.copytree(CHART, first)
    kept = values_of(Path(__file__).parent / "first-release-values.yaml")
    (first / "values.yaml").write_text(yaml.safe_dump(kept))
    own = {"rules": {"alerts": {"GPULost": {"for": "7m"}}}, "port": 9999, "runtimeClassName": "auto"}
    with Cluster(OPERATOR) as cluster:
        cluster.add(
            "apis/node.k8s.io/v1/runtimeclasses/nvidia", {"kind": "RuntimeClass", "metadata": {"name": "nvidia"}}
        )
        with cluster.config() as config:
            installed = config.install(first, RELEASE, own)
            assert installed["status"] == "deployed"
            upgraded = config.upgrade(Chart.load(CHART), RELEASE, {"fake": {"enabled": False}}, reuse_values=True)
            assert (upgraded["status"], upgraded["revision"]) == ("deployed", 2)
    objects = {item["kind"]: item for item in read(upgraded["manifest"])}
    assert {"ServiceMonitor", "PrometheusRule"} <= objects.keys(), "the cluster knows them, so they are made"
    pod = objects["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["containers"][0]["ports"][0]["containerPort"] == 9999
    rules = {
        rule.get("alert"): rule for group in objects["PrometheusRule"]["spec"]["groups"] for rule in group["rules"]
    }
    assert rules["GPULost"]["for"] == "7m"


def test_a_claim_keeps_what_cannot_be_changed_and_the_notes_say_so() -> None:
    """An API server refuses another class or another access mode, and with them the whole upgrade."""

    def hub(**persistence: object) -> dict[str, Any]:
        little = {"dashboards": {"enabled": False}, "prometheusRule": {"enabled": False}}
        kept = {"enabled": True, "storageClassName": "fast", **persistence}
        return {**little, "hub": {"enabled": True, "persistence": kept}}

    told = "The claim gpu-gpu-exporter-hub keeps its class fast and ReadWriteOnce"
    with Cluster(OPERATOR) as cluster, cluster.config() as config:
        assert "keeps its class" not in config.install(chart(), RELEASE, hub())["notes"]
        for phase, other, size, kept in (
            ("Bound", {"storageClassName": "slow"}, "2Gi", True),
            ("Bound", {"accessModes": ["ReadWriteMany"]}, "2Gi", True),
            ("Bound", {"storageClassName": ""}, "2Gi", False),  # the cluster's default, which that one may be
            ("Bound", {"size": "9Gi"}, "9Gi", False),
            ("Bound", {"size": "9216Mi"}, "9216Mi", False),
            ("Bound", {"size": "9G"}, "9216Mi", False),
            ("Pending", {"size": "1Ti"}, "9216Mi", False),
        ):
            (there,) = (item for item in cluster.objects.values() if item["kind"] == "PersistentVolumeClaim")
            there["status"] = {"phase": phase}
            upgraded = config.upgrade(chart(), RELEASE, hub(**other))
            (claim,) = (item for item in read(upgraded["manifest"]) if item["kind"] == "PersistentVolumeClaim")
            assert claim["spec"] == {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "fast",
                "resources": {"requests": {"storage": size}},
            }
            assert (told in upgraded["notes"], "keeps its class" in upgraded["notes"]) == (kept, kept), other
            wanted = other.get("size", size)
            assert (f"gpu-gpu-exporter-hub keeps its size {size}" in upgraded["notes"]) is (wanted != size), other


PLAIN = "gpu-gpu-exporter"
INSIDE = {"type": "LoadBalancer", "loadBalancerClass": "example.org/inside"}
OUTSIDE = {"type": "LoadBalancer", "loadBalancerClass": "example.org/outside"}
BALANCED = {"type": "LoadBalancer"}
NO_ADDRESS = {"clusterIP": "None"}
SIXTH = {"ipDualStack": {"enabled": True, "ipFamilies": ["IPv6", "IPv4"]}}
FOURTH = {"ipDualStack": {"enabled": True, "ipFamilies": ["IPv4", "IPv6"]}}
KEPT, REPLACED = "keeps its loadBalancerClass", f"The Service {PLAIN} goes, and"


@pytest.mark.parametrize(
    "steps",
    [
        # What the values say of the Service, whether it is the one of the step before, and what the notes say.
        [(INSIDE, False, ""), (INSIDE, True, ""), (OUTSIDE, False, REPLACED), (OUTSIDE, True, ""), (INSIDE, False, "")],
        [(BALANCED, False, ""), (INSIDE, False, REPLACED), (INSIDE, True, ""), (BALANCED, False, "")],
        [(INSIDE, False, ""), (BALANCED, True, KEPT), (BALANCED, True, KEPT), ({}, True, ""), (OUTSIDE, True, "")],
        [({}, False, ""), (NO_ADDRESS, False, REPLACED), (NO_ADDRESS, True, ""), (INSIDE, False, "")],
        [(SIXTH, False, ""), (SIXTH | INSIDE, True, ""), (SIXTH | OUTSIDE, False, ""), (SIXTH | OUTSIDE, True, "")],
    ],
    ids=["another class", "a class", "no class", "no address", "another family"],
)
def test_a_service_is_replaced_only_where_it_cannot_become_what_is_wanted(
    steps: list[tuple[dict[str, Any], bool, str]],
) -> None:
    """A new one's load balancer has a new address: nobody loses his by an upgrade that could do without."""
    little = {"dashboards": {"enabled": False}, "prometheusRule": {"enabled": False}}
    with Cluster(OPERATOR) as cluster, cluster.config() as config:
        config.install(chart(), RELEASE, {**little, "service": {"enabled": False}})
        before: dict[str, Any] = {}
        for service, same, note in steps:
            upgraded = config.upgrade(chart(), RELEASE, {**little, "service": service})
            (there,) = (item for item in cluster.objects.values() if item["kind"] == "Service")
            assert (there["metadata"]["name"] == before.get("name")) is same, service
            if same and service.get("type") == before["type"] == "LoadBalancer":
                assert there["spec"].get("loadBalancerClass") == before["class"], (
                    "which an API server lets nobody change"
                )
            assert there["spec"].get("loadBalancerClass") == service.get("loadBalancerClass") or note == KEPT
            for line in (KEPT, REPLACED):
                assert (line in upgraded["notes"]) is (line == note), service
            spec = there["spec"]
            before = {"name": there["metadata"]["name"], "type": spec["type"], "class": spec.get("loadBalancerClass")}


@pytest.mark.parametrize(
    ("has", "wanted", "kept"),
    [
        # A controller's webhook gives a class to a Service that was told none.
        ({"type": "LoadBalancer", "loadBalancerClass": "example.org/hook"}, BALANCED, True),
        # The first chart called every Service alike.
        ({"type": "ClusterIP", "clusterIP": "None"}, NO_ADDRESS, True),
        ({"type": "ClusterIP", "clusterIP": "10.0.0.9"}, {"clusterIP": "10.0.0.9"}, True),
        ({"type": "LoadBalancer", "ipFamilies": ["IPv6", "IPv4"]}, BALANCED | SIXTH, True),
        ({"type": "LoadBalancer", "ipFamilies": ["IPv6"]}, BALANCED, True),
        ({"type": "ClusterIP", "clusterIP": "10.0.0.9"}, {"clusterIP": "10.0.0.8"}, False),
        ({"type": "ClusterIP", "clusterIP": "None"}, BALANCED, False),
        ({"type": "LoadBalancer", "ipFamilies": ["IPv6"]}, BALANCED | FOURTH, False),
    ],
)
def test_a_service_that_is_in_the_cluster_as_it_is_wanted_keeps_its_name(
    has: dict[str, Any], wanted: dict[str, Any], kept: bool
) -> None:
    little = {"dashboards": {"enabled": False}, "prometheusRule": {"enabled": False}, "service": wanted}
    owned = {
        "name": PLAIN,
        "namespace": "gpus",
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": "gpus"},
    }
    there = {"apiVersion": "v1", "kind": "Service", "metadata": owned, "spec": has}
    with Cluster(OPERATOR) as cluster, cluster.config() as config:
        cluster.add(f"api/v1/namespaces/gpus/services/{PLAIN}", there)
        installed = config.install(chart(), RELEASE, little)
        upgraded = config.upgrade(chart(), RELEASE, little)
    first, second = (
        item["metadata"]["name"]
        for made in (installed, upgraded)
        for item in read(made["manifest"])
        if item["kind"] == "Service"
    )
    assert first == second
    assert (first == PLAIN, REPLACED not in installed["notes"]) == (kept, kept)


def test_no_class_tells_of_another_name_and_no_name_is_too_long() -> None:
    assert render({"service": INSIDE}).one("Service")["metadata"]["name"] == PLAIN
    everything = {"clusterIP": "fd00::7", **INSIDE, **SIXTH}
    (service,) = render({"service": everything, "fullnameOverride": "x" * 80}).all("Service")
    assert len(service["metadata"]["name"]) <= 63


def test_what_selects_pods_stays_where_only_it_would_change() -> None:
    little = {"dashboards": {"enabled": False}, "prometheusRule": {"enabled": False}, "fullnameOverride": "gpus"}
    with Cluster(OPERATOR) as cluster, cluster.config() as config:
        config.install(chart(), RELEASE, {**little, "nameOverride": "one"})
        upgraded = config.upgrade(chart(), RELEASE, {**little, "nameOverride": "two", "hub": {"enabled": True}})
    objects = read(upgraded["manifest"])
    for item in objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/name"] == "one"
        if item["kind"] in {"DaemonSet", "Deployment"}:
            assert item["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] == "one"
    assert "The label app.kubernetes.io/name stays one" in upgraded["notes"]
    fresh = render({**little, "nameOverride": "two"})
    assert {item["metadata"]["labels"]["app.kubernetes.io/name"] for item in fresh.objects} == {"two"}
    assert "The label app.kubernetes.io/name stays" not in fresh.notes


def test_a_release_fits_where_helm_keeps_it() -> None:
    """The largest: stack, mail and inlined templates. etcd takes a Secret of 1 MiB, chart and manifest included."""
    values = {**values_of(CHART / "ci/stack-full-values.yaml"), "alertmanagerConfig": {"enabled": True}}
    with Cluster(OPERATOR) as cluster, cluster.config("secret") as config:
        assert config.install(chart(), RELEASE, values)["status"] == "deployed"
        kept = [item["bytes"] for item in cluster.objects.values() if "bytes" in item]
    assert 0 < max(kept) < 800_000


def test_kinds_that_the_cluster_does_not_know_are_made_only_when_forced() -> None:
    optional = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "AlertmanagerConfig", "VerticalPodAutoscaler"}
    assert optional.isdisjoint(item["kind"] for item in render().objects)
    with Cluster() as plain, plain.config() as config:
        manifest = config.install(chart(), RELEASE, {"alertmanagerConfig": {"enabled": "auto"}, "mail": MAIL})[
            "manifest"
        ]
    assert optional.isdisjoint(item["kind"] for item in read(manifest))
    with Cluster(OPERATOR) as operated, operated.config() as config:
        values = {"alertmanagerConfig": {"enabled": "auto"}, "mail": MAIL, "podMonitor": {"enabled": "auto"}}
        manifest = config.install(chart(), RELEASE, values)["manifest"]
    made = {item["kind"] for item in read(manifest)}
    assert made & optional == {"PodMonitor", "PrometheusRule", "AlertmanagerConfig"}


# --- documentation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [ROOT / "docs/KUBERNETES.md", CHART / "README.md", CHART / "templates/NOTES.txt"])
def test_pages_name_only_values_that_exist(page: Path) -> None:
    sections = {key.split(".")[0] for key in DEFAULTS} - {"alertmanager"}
    named = set(re.findall(r"(?:--set |`)([a-z][A-Za-z]*(?:\.[A-Za-z]+)*)(?:=|`)", page.read_text()))
    ours = {key for key in named if key.split(".")[0] in sections}
    assert ours
    # A section, a value, or something within a value.
    written = [*DEFAULTS, *(".".join(key) for key in _leaves(read((CHART / "values.yaml").read_text())[0], ()))]
    inside = tuple(f"{key}." for key in DEFAULTS)
    known = {".".join(key.split(".")[:depth]) for key in written for depth in range(1, 6)}
    assert {key for key in ours if key not in known and not key.startswith(inside)} == set()
