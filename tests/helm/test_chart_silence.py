"""What the chart does not take is told: typos, keys of other charts, contradictions, data that would be lost."""

from __future__ import annotations

from typing import Any

import pytest
from tools.chart import Value

from helm.everything import VALUES, at
from helm.rendering import CASES, case, named, refusal, render, values_of

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
        ({"service": {"ipDualStack": {"ipFamilies": ["IPv5"]}}}, "ipFamilies: 'IPv5' is not IPv4 or IPv6"),
        ({"networkPolicy": {"namespaces": ["A_B"]}}, "'A_B' is not the name of a namespace"),
        ({"networkPolicy": {"from": [{}]}}, "at '/networkPolicy/from/0': minProperties"),
        ({"networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]}}, "at '/networkPolicy/from/0/ipBlock/cidr'"),
        ({"hub": {"ingress": {"hosts": ["A B"]}}}, "hub.ingress.hosts: 'A B' is not a host's name"),
        ({"resources": {"limits": {"memory": "256MB"}}}, "at '/resources/limits/memory'"),
        ({"resources": {"limits": {"memory": "32Mi"}}}, "limits.memory, 32Mi, is less than requests.memory, 64Mi"),
        (
            {"stack": {"grafana": {"resources": {"limits": {"memory": "1e8"}}}}},
            "stack.grafana.resources: limits.memory",
        ),
        (
            {"hub": {"persistence": {"enabled": True, "size": "10GB"}}},
            "hub.persistence.size: '10GB' is no size; write 50Gi or the like",
        ),
        (
            {"hub": {"persistence": {"enabled": True, "accessModes": ["RWO"]}}},
            "hub.persistence.accessModes: 'RWO' is none; there are ReadWriteOnce",
        ),
        ({"extraVolumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]}, "at '/extraVolumes/0'"),
        ({"sidecars": [{"name": "a"}]}, "at '/sidecars/0': missing property 'image'"),
        ({"livenessProbe": {"timing": {"periodSeconds": 0}}}, "at '/livenessProbe/timing/periodSeconds': minimum"),
        ({"securityContext": {"runAsUser": 0}}, "securityContext.runAsUser: 0 needs runAsNonRoot: false"),
    ],
)
def test_what_would_be_dropped_or_fail_later_is_told(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


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
