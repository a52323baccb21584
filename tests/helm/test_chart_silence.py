"""What the chart does not take is told: typos, keys of other charts, contradictions, data that would be lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helm_python import HelmError
from jsonschema import Draft7Validator
from tools.chart import Value

from helm import particular
from helm.everything import VALUES, at, merged
from helm.rendering import CASES, CHART, case, named, refusal, render, values_of
from helm.schemas import VERSIONS, mistakes


def _hosts(*hosts: str) -> dict[str, Any]:
    return {"hub": {"enabled": True, "ingress": {"enabled": True, "hosts": [*hosts]}}}


# Types whose keys are free: names of people's own.
_FREE = {"labels", "annotations", "environment", "params", "alerts", "times", "quantities", "settings"}


@pytest.mark.parametrize("value", VALUES, ids=[".".join(value.path) for value in VALUES])
def test_no_value_lets_a_typo_through(value: Value) -> None:
    if isinstance(value.default, dict) and value.kind not in _FREE:
        assert "zzz" in refusal(at(value.path, {"zzz": 1}))
    if isinstance(value.default, list) and value.kind not in {"strings", "list", "pull secrets"}:
        assert "zzz" in refusal(at(value.path, [{"zzz": 1}]))
        assert "null" in refusal(at(value.path, [None]))
    assert value.kind not in {"object", "objects"}, "values.yaml: give it a type of its own"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tolerations": [{"key": "a", "operater": "Exists"}]}, "additional properties 'operater' not allowed"),
        ({"tolerations": [{"key": "a", "effect": "NoSchedul"}]}, "at '/tolerations/0/effect'"),
        (
            {"securityContext": {"privileged": True}},
            "securityContext.privileged: of the container: `containerSecurityContext",
        ),
        ({"podSecurityContext": {"fsGroup": 1}, "extraEnv": [{"name": "A"}]}, "podSecurityContext: `securityContext`"),
        (
            {"mail": {"timeIntervals": {"office": []}}, "stack": {"enabled": True}},
            "there are no times 'office'; there are office-hours",
        ),
        ({"mail": {"timeIntervals": {"digest": [{"times": [{"startTime": "08:00"}]}]}}}, "'startTime' not allowed"),
        ({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}, "maxSurge needs maxUnavailable: 0"),
        ({"containerSecurityContext": {"privileged": True}}, "needs allowPrivilegeEscalation: true"),
        ({"fullnameOverride": "GPU_X"}, "at '/fullnameOverride'"),
        ({"fullnameOverride": "gpu.x"}, "at '/fullnameOverride'"),
        ({"service": {"portName": "a-name-that-is-too-long"}}, "at '/service/portName'"),
        ({"service": {"portName": "123"}}, "at '/service/portName'"),
        ({"extraHostVolumeMounts": [{"hostPath": "/a", "mountPath": "/a"}]}, "missing property 'name'"),
        (
            {"extraVolumeMounts": [{"name": "nobody", "mountPath": "/a"}]},
            "extraVolumeMounts: there is no volume 'nobody'",
        ),
        ({"sidecars": [{"name": "exporter", "image": "x"}]}, "there is a container 'exporter' already"),
        ({"resources": {"claims": [{"name": "gpus"}]}}, "resources.claims: there is no claim 'gpus' in resourceClaims"),
        ({"resourceClaims": [{"name": "gpus"}]}, "needs resourceClaimName or resourceClaimTemplateName"),
        ({"rules": {"thresholds": {"GPULost": 3}}}, "additional properties 'GPULost' not allowed"),
        ({"rules": {"thresholds": {"GPULowScore": 3}}}, "at '/rules/thresholds/GPULowScore'"),
        ({"rules": {"additionalLabels": {"bundle": "mine"}}}, "rules.additionalLabels.bundle: by this label"),
        ({"scrape": {"interval": "5s", "timeout": "10s"}}, "scrape.timeout: 10s is longer than scrape.interval, 5s"),
        (
            {"stack": {"enabled": True}, "scrape": {"timeout": "20s"}},
            "longer than the interval of stack.prometheus, 15s",
        ),
        (
            {"stack": {"enabled": True, "prometheus": {"extraConfig": {"scrape_configs": []}}}},
            "use stack.prometheus.extraScrapeConfigs",
        ),
        (
            {"stack": {"enabled": True}, "scrape": {"attachMetadata": {"node": True}}},
            "scrape.attachMetadata is for the monitors",
        ),
        ({"stack": {"enabled": True}, "scrape": {"scrapeClass": "a"}}, "only the operator has classes"),
        ({"hub": {"config": {"intervall": "5s"}}}, "'intervall' not allowed"),
        ({"hub": {"config": {"scheme": "https"}}}, "'scheme' not allowed"),
        ({"hub": {"enabled": True, "ingress": {"enabled": True}}}, "hub.ingress.enabled: true needs hub.ingress.hosts"),
        ({"image": {"repository": "nvidia/k8s/dcgm-exporter"}}, "is another exporter's image"),
        ({"updateStrategy": {"type": "Recreate"}}, "value must be one of 'OnDelete', 'RollingUpdate'"),
        ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "200%"}}}, "at '/updateStrategy/rollingUpdate/max"),
        ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}}, "0 replaces no pod"),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "at '/tolerations/0/value'"),
        ({"tolerations": [{"operator": "Equal", "value": "b"}]}, "at '/tolerations/0': missing property 'key'"),
        ({"service": {"clusterIP": "abc"}}, "service.clusterIP: 'abc' is neither an address nor None"),
        (
            {"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["1.2.3.4"]}},
            "service.loadBalancerSourceRanges: '1.2.3.4' is not a network",
        ),
        (
            {"service": {"ipDualStack": {"enabled": True, "ipFamilies": ["IPv5"]}}},
            "ipFamilies: 'IPv5' is not IPv4 or IPv6",
        ),
        ({"networkPolicy": {"namespaces": ["A_B"]}}, "'A_B' is not the name of a namespace"),
        ({"networkPolicy": {"from": [{}]}}, "at '/networkPolicy/from/0': minProperties"),
        ({"networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]}}, "at '/networkPolicy/from/0/ipBlock/cidr'"),
        (_hosts("A B"), "hub.ingress.hosts: 'A B' is not a host's name"),
        (_hosts("a..b"), "hub.ingress.hosts: 'a..b' is not a host's name"),
        (_hosts("10.0.0.1"), "hub.ingress.hosts: '10.0.0.1' is not a host's name"),
        (_hosts("*"), "hub.ingress.hosts: '*' is not a host's name"),
        (_hosts("a", "a"), "hub.ingress.hosts: a, a has one twice"),
        ({"resources": {"limits": {"memory": "256MB"}}}, "at '/resources/limits/memory'"),
        ({"resources": {"limits": {"memory": "32Mi"}}}, "limits.memory, 32Mi, is less than requests.memory, 64Mi"),
        (
            {"stack": {"enabled": True, "grafana": {"resources": {"limits": {"memory": "1e8"}}}}},
            "stack.grafana.resources: limits.memory",
        ),
        (
            {"hub": {"enabled": True, "persistence": {"enabled": True, "size": "10GB"}}},
            "hub.persistence.size: '10GB' is no size; write 50Gi or the like",
        ),
        (
            {"hub": {"enabled": True, "persistence": {"enabled": True, "accessModes": ["RWO"]}}},
            "hub.persistence.accessModes: 'RWO' is none; there are ReadWriteOnce",
        ),
        ({"extraVolumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]}, "at '/extraVolumes/0'"),
        (
            {"extraVolumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}, "nfs": None}]},
            "extraVolumes: 'a' has emptyDir, hostPath; keep one.",
        ),
        (
            {
                "hub": {
                    "enabled": True,
                    "extraVolumes": [{"name": "a", "emptyDir": {}, "secret": {"secretName": "b"}, "nfs": None}],
                }
            },
            "hub.extraVolumes: 'a' has emptyDir, secret; keep one.",
        ),
        (
            {"livenessProbe": {"handler": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}, "grpc": None}}},
            "livenessProbe.handler has exec, tcpSocket; keep one.",
        ),
        ({"sidecars": [{"name": "a"}]}, "at '/sidecars/0': missing property 'image'"),
        ({"livenessProbe": {"timing": {"periodSeconds": 0}}}, "at '/livenessProbe/timing/periodSeconds': minimum"),
        ({"securityContext": {"runAsUser": 0}}, "securityContext.runAsUser: 0 needs runAsNonRoot: false"),
    ],
)
def test_what_would_be_dropped_or_fail_later_is_told(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


LITTLE = {"limits": {"memory": "1Mi"}}
PLACEHOLDERS = {"ingress": {"hosts": ["CHANGE_ME"]}, "httpRoute": {"hostnames": ["CHANGE_ME"]}}


@pytest.mark.parametrize(
    "values",
    [
        {"stack": {"grafana": PLACEHOLDERS}, "hub": PLACEHOLDERS},
        {"hub": {"enabled": True, **PLACEHOLDERS}},
        {"stack": {"enabled": True, "grafana": {"enabled": False, "ingress": {"enabled": True, "hosts": ["A_B"]}}}},
        {"hub": {"ingress": {"enabled": True}, "httpRoute": {"enabled": True}, "resources": LITTLE}},
        {
            "stack": {
                "grafana": {"ingress": {"enabled": True}, "resources": LITTLE},
                "prometheus": {"resources": LITTLE},
            }
        },
        {"tests": {"enabled": False, "resources": LITTLE, "image": {"tag": "3"}}},
        {"hub": {"persistence": {"existingClaim": "x"}}},
        {"hub": {"persistence": {"enabled": True, "accessModes": ["RWX"], "size": "CHANGE_ME"}}},
        {"stack": {"prometheus": {"persistence": {"enabled": True, "accessModes": []}}}},
        {"hub": {"extraVolumes": [{"name": "a", "emptyDir": {}, "secret": {"secretName": "b"}, "nfs": None}]}},
        {"service": {"enabled": False, "nodePort": 30000, "loadBalancerClass": "a.b/c", "clusterIP": "CHANGE_ME"}},
        {"service": {"enabled": False, "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["CHANGE_ME"]}},
        {"service": {"ipDualStack": {"ipFamilies": ["CHANGE_ME"]}}},
        {"networkPolicy": {"enabled": False, "namespaces": ["CHANGE_ME"]}},
        {"livenessProbe": {"enabled": False, "timing": {"successThreshold": 3}}},
        {"startupProbe": {"enabled": False, "handler": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}},
        {"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"maxSurge": 1}}},
        {"prometheusRule": {"enabled": False}, "rules": {"additionalLabels": {"bundle": "mine"}}},
        {
            "serviceMonitor": {"enabled": False},
            "scrape": {
                "interval": "5s",
                "timeout": "10s",
                "basicAuth": {"username": {"name": "a", "key": "b"}},
                "authorization": {"type": "Bearer"},
            },
        },
    ],
)
def test_of_what_is_switched_off_only_types_are_looked_at(values: dict[str, Any]) -> None:
    assert render({"dashboards": {"enabled": False}} | values).objects


def test_what_kubernetes_takes_is_taken() -> None:
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        timing = {"timing": {"initialDelaySeconds": 0, "timeoutSeconds": None}}
        assert render({probe: timing}).container[probe]["initialDelaySeconds"] == 0
        zeros = dict.fromkeys(("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold"), 0)
        sidecar = {"name": "a", "image": "b", probe: {**zeros, "tcpSocket": {"port": 1}}}
        assert render({"sidecars": [sidecar]}).pod["containers"][1][probe]["periodSeconds"] == 0
    volumes = render({"extraVolumes": [{"name": "a", "emptyDir": {}, "hostPath": None}]}).pod["volumes"]
    assert {"name": "a", "emptyDir": {}} in [{k: v for k, v in item.items() if v is not None} for item in volumes]
    for handler in ({"exec": None}, {"exec": None, "httpGet": None}):
        assert "httpGet" in render({"livenessProbe": {"handler": handler}}).container["livenessProbe"]
    own = {"exec": {"command": ["a"]}, "httpGet": None}
    assert render({"livenessProbe": {"handler": own}}).container["livenessProbe"]["exec"] == {"command": ["a"]}


def test_an_empty_host_is_every_host() -> None:
    """Ingress has no other word for it; a certificate is for names only."""
    spec = render(merged(_hosts("", "gpus.example.org"), {"hub": {"ingress": {"tlsSecret": "t"}}})).one("Ingress")[
        "spec"
    ]
    assert [rule.get("host") for rule in spec["rules"]] == [None, "gpus.example.org"]
    assert spec["tls"] == [{"secretName": "t", "hosts": ["gpus.example.org"]}]
    assert all(rule["http"]["paths"] for rule in spec["rules"])
    only = render(merged(_hosts(""), {"hub": {"ingress": {"tlsSecret": "t"}}})).one("Ingress")
    assert only["spec"]["tls"] == [{"secretName": "t"}]
    assert mistakes(only, VERSIONS[-1]) == []


SMALL = {"dashboards": {"enabled": False}, "prometheusRule": {"enabled": False}}  # rendered in less time


def _is_refused(values: dict[str, Any]) -> bool:
    try:
        render(values)
    except HelmError:
        return True
    return False


def test_kubernetes_own_fields_are_taken_and_refused_as_by_an_api_server() -> None:
    schema = Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))
    unseen = [values for values in particular.REFUSED if schema.is_valid(values)]
    assert len(unseen) < len(particular.REFUSED) / 2
    assert [values for values in unseen if not _is_refused(values)] == []
    together: list[dict[str, Any]] = []  # of different sections, so that fewer are rendered
    for values in particular.TAKEN:
        other = next((found for found in together if found.keys().isdisjoint(values)), None)
        if other is None:
            together.append(SMALL | values)
        else:
            other.update(values)
    assert [values for values in together if _is_refused(values)] == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"extraInitContainers": [{"name": "a", "image": None}]}, "at '/extraInitContainers/0/image': got null, want"),
        ({"networkPolicy": {"from": [{"podSelector": None}]}}, "at '/networkPolicy/from/0'"),
        ({"resources": {"requests": {"nvidia.com/gpu": 1}}}, "needs limits.nvidia.com/gpu of as much"),
        ({"hub": {"enabled": True, "egress": [{"ports": [{"port": 80, "endPort": 79}]}]}}, "hub.egress: endPort 79 is"),
        (
            {"sidecars": [{"name": "a", "image": "b", "volumeMounts": [{"name": "c", "mountPath": "/"}]}]},
            "no volume 'c'",
        ),
        (
            {"hub": {"enabled": True, "extraVolumeMounts": [{"name": "c", "mountPath": "/c"}]}},
            "no volume 'c'; there are",
        ),
        ({"service": {"type": "LoadBalancer", "loadBalancerClass": "a b"}}, "loadBalancerClass: 'a b' is no name"),
        (
            {"service": {"ipDualStack": {"enabled": True, "ipFamilyPolicy": "SingleStack"}}},
            "IPv6, IPv4 are two families, but ipFamilyPolicy is SingleStack",
        ),
        (
            {"extraInitContainers": [{"name": "a", "image": "b", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]},
            "'a' has lifecycle, which takes restartPolicy: Always",
        ),
    ],
)
def test_what_no_api_server_takes_is_told_with_its_place(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


def test_a_quantity_that_is_null_is_left_out() -> None:
    limits = {"resources": {"limits": {"cpu": None, "memory": "1Gi", "nvidia.com/gpu": None}}}
    rendered = render({**limits, "hub": {"enabled": True, **limits}, "tests": limits})
    for _, pod in rendered.pods():
        assert pod["containers"][0]["resources"]["limits"] == {"memory": "1Gi"}


def test_templates_in_containers_are_no_mistakes() -> None:
    name, image = "{{ .Release.Name }}-more", "{{ .Values.image.repository }}"
    values = {
        "sidecars": [{"name": name, "image": image, "imagePullPolicy": "{{ .Values.image.pullPolicy }}"}],
        "extraVolumes": [{"name": name, "configMap": {"name": name}}],
        "extraVolumeMounts": [{"name": name, "mountPath": "/{{ .Release.Name }}"}],
    }
    pod = render(values).pod
    assert (pod["containers"][1]["name"], pod["volumes"][-1]["name"]) == ("gpu-more", "gpu-more")
    assert pod["containers"][1]["imagePullPolicy"] == "IfNotPresent"


def test_refusals_name_a_template_that_says_what_it_is() -> None:
    said = refusal({"hostPID": True})
    assert "execution error at (gpu-exporter/templates/validation/of/values.yaml" in said


def test_notes_tell_where_data_is_lost_and_who_is_not_named() -> None:
    notes = named("stack").notes
    assert "DATA IS LOST" in notes
    assert "stack.prometheus: all series" in notes
    assert "Who holds a GPU is not named yet" in named("default").notes
    assert "Who holds a GPU is not named yet" not in named("processes").notes
    assert "stack.prometheus: all series" not in named("stack-full").notes
    mail = {"mail": {"smarthost": "a:25", "from": "a@b", "to": {"oncall": "a@b"}}}
    for nobody in (mail, {**mail, "stack": {"enabled": True, "alertmanager": {"enabled": False}}}):
        assert "Nothing reads `mail` here" in render(nobody).notes
    for somebody in ({"stack": {"enabled": True}}, {"alertmanagerConfig": {"enabled": True}}):
        assert "Nothing reads `mail` here" not in render({**mail, **somebody}).notes
    elsewhere = render(
        {
            "serviceMonitor": {"enabled": True, "namespace": "m"},
            "scrape": {"authorization": {"credentials": {"name": "t", "key": "t"}}},
        }
    )
    assert "must be in namespace m, where the ServiceMonitor is" in elsewhere.notes


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_claims_outlive_the_release_unless_told_otherwise(path: Any) -> None:
    for item in case(path).all("PersistentVolumeClaim"):
        kept = item["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
        told = values_of(path)
        assert kept is not (
            item["metadata"]["name"].endswith(("-prometheus", "-hub")) and ("keep: false" in path.read_text())
        ), told
