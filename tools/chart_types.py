"""The types of the chart's values as JSON schemas: Kubernetes' own, the Prometheus operator's, and the chart's.

What Kubernetes knows comes from its published schemas (kubernetes-validate), newest version, unknown keys refused. What
the operator, Prometheus and Alertmanager know is written here from their documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import kubernetes_validate.utils

Schema = dict[str, Any]

VERSION: Final = "1.37"
_CORE: Final = "io.k8s.api.core.v1."
_NETWORK: Final = "io.k8s.api.networking.v1."
# Ours for theirs: one of them, or (with []) a list of them.
_KUBERNETES: Final = {
    "affinity": _CORE + "Affinity",
    "node terms[]": _CORE + "NodeSelectorTerm",
    "pod security": _CORE + "PodSecurityContext",
    "container security": _CORE + "SecurityContext",
    "update strategy": "io.k8s.api.apps.v1.DaemonSetUpdateStrategy",
    "dns": _CORE + "PodDNSConfig",
    "host aliases[]": _CORE + "HostAlias",
    "lifecycle": _CORE + "Lifecycle",
    "resource claims[]": _CORE + "PodResourceClaim",
    "headers[]": _CORE + "HTTPHeader",
    "env list[]": _CORE + "EnvVar",
    "env sources[]": _CORE + "EnvFromSource",
    "volumes[]": _CORE + "Volume",
    "mounts[]": _CORE + "VolumeMount",
    "containers[]": _CORE + "Container",
    "selector": "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "peers[]": _NETWORK + "NetworkPolicyPeer",
    "ingress rules[]": _NETWORK + "NetworkPolicyIngressRule",
    "egress rules[]": _NETWORK + "NetworkPolicyEgressRule",
}
_PROBE: Final = _CORE + "Probe"
_HANDLERS: Final = ("exec", "grpc", "httpGet", "tcpSocket")


def closed(properties: Schema, *required: str) -> Schema:
    """An object with these keys and no other."""
    made: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**made, "required": list(required)} if required else made


def many(schema: Schema) -> Schema:
    """A list of them."""
    return {"type": "array", "items": schema}


def _keys(names: str, schema: Schema) -> Schema:
    return dict.fromkeys(names.split(), schema)


TEXT: Final[Schema] = {"type": "string"}
_STRINGS: Final = many(TEXT)
# Not text is refused too, but by the chart's own words, which tell of --set-string.
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": ["string", "boolean", "number", "null"]}}
_ANY: Final[Schema] = {"type": "object"}
_DURATION: Final = r"([0-9]+(ms|[smhdwy]))+"
# Kubernetes' grammar (apimachinery/pkg/api/resource/quantity.go), without what is less than nothing.
_QUANTITY: Final = r"^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+|[munkMGTPE]|[KMGTPE]i)?$"
_QUANTITIES: Final[Schema] = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "null"], "pattern": _QUANTITY},
}
# Others than Kubernetes' own have a domain.
_RESOURCES: Final[Schema] = {
    **_QUANTITIES,
    "propertyNames": {"pattern": "^(cpu|memory|ephemeral-storage|hugepages-.+|[^/]+/[^/]+)$"},
}
_NETWORK_ADDRESS: Final = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"
_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAMED: Final[Schema] = {"type": "string", "minLength": 1}

# --- the Prometheus operator's ----------------------------------------------------------------------------------------

_KEY: Final = closed({"name": _NAMED, "key": _NAMED, "optional": {"type": "boolean"}}, "name", "key")
_SOURCE: Final = closed({"secret": _KEY, "configMap": _KEY})
_TLS_VERSION: Final[Schema] = {"enum": ["TLS10", "TLS11", "TLS12", "TLS13"]}
_TLS: Final = closed(
    {
        **_keys("ca cert", _SOURCE),
        "keySecret": _KEY,
        **_keys("caFile certFile keyFile serverName", TEXT),
        "insecureSkipVerify": {"type": "boolean"},
        **_keys("minVersion maxVersion", _TLS_VERSION),
    }
)
_OAUTH2: Final = closed(
    {
        "clientId": _SOURCE,
        "clientSecret": _KEY,
        **_keys("tokenUrl proxyUrl noProxy", TEXT),
        "scopes": _STRINGS,
        "endpointParams": {"type": "object", "additionalProperties": TEXT},
        "proxyConnectHeader": _ANY,
        "proxyFromEnvironment": {"type": "boolean"},
        "tlsConfig": _TLS,
    },
    "clientId",
    "clientSecret",
    "tokenUrl",
)
_ACTIONS: Final = [
    "replace",
    "keep",
    "drop",
    "hashmod",
    "labelmap",
    "labeldrop",
    "labelkeep",
    "lowercase",
    "uppercase",
    "keepequal",
    "dropequal",
    "Replace",
    "Keep",
    "Drop",
    "HashMod",
    "LabelMap",
    "LabelDrop",
    "LabelKeep",
    "Lowercase",
    "Uppercase",
    "KeepEqual",
    "DropEqual",
]
_RELABELING: Final = closed(
    {
        "sourceLabels": _STRINGS,
        **_keys("separator targetLabel regex replacement", TEXT),
        "modulus": {"type": "integer"},
        "action": {"enum": _ACTIONS},
    }
)

# --- Prometheus's and Alertmanager's ----------------------------------------------------------------------------------

_RULE: Final = closed(
    {
        **_keys("alert record", _NAMED),
        "expr": {"type": ["string", "number"]},
        **_keys("for keep_firing_for", {"type": "string", "pattern": f"^{_DURATION}$|^0$"}),
        **_keys("labels annotations", {"type": "object", "additionalProperties": TEXT}),
    },
    "expr",
)
_OVERRIDE: Final = closed(
    {
        "enabled": {"type": "boolean"},
        "expr": {"type": "string", "minLength": 1},
        **_keys("for keep_firing_for", {"type": "string", "pattern": f"^{_DURATION}$|^0$"}),
        "severity": {"enum": ["critical", "warning", "info", "none"]},
        **_keys("labels annotations", {"type": "object", "additionalProperties": TEXT}),
    }
)
_GROUP: Final = closed(
    {
        "name": _NAMED,
        **_keys("interval query_offset", TEXT),
        "limit": {"type": "integer"},
        "partial_response_strategy": TEXT,
        "labels": {"type": "object", "additionalProperties": TEXT},
        "rules": many(_RULE),
    },
    "name",
    "rules",
)
_TARGETS: Final = closed({"targets": _STRINGS, "labels": {"type": "object", "additionalProperties": TEXT}}, "targets")
_TIMES: Final = closed(
    {
        "times": many(closed(_keys("start_time end_time", TEXT), "start_time", "end_time")),
        **_keys("weekdays days_of_month months years", many({"type": ["string", "integer"]})),
        "location": TEXT,
    }
)
_JOB: Final[Schema] = {
    "type": "object",
    "required": ["job_name"],
    "additionalProperties": False,
    "properties": {
        "job_name": _NAMED,
        **_keys("scrape_interval scrape_timeout metrics_path scheme proxy_url no_proxy body_size_limit", TEXT),
        **_keys("scrape_fallback_protocol metric_name_validation_scheme metric_name_escaping_scheme", TEXT),
        **_keys(
            "honor_labels honor_timestamps track_timestamps_staleness follow_redirects enable_http2",
            {"type": "boolean"},
        ),
        **_keys(
            "scrape_classic_histograms always_scrape_classic_histograms scrape_native_histograms", {"type": "boolean"}
        ),
        **_keys("convert_classic_histograms_to_nhcb enable_compression proxy_from_environment", {"type": "boolean"}),
        **_keys(
            "sample_limit label_limit label_name_length_limit label_value_length_limit target_limit",
            {"type": "integer"},
        ),
        **_keys("keep_dropped_targets native_histogram_bucket_limit", {"type": "integer"}),
        "native_histogram_min_bucket_factor": {"type": "number"},
        "scrape_failure_log_file": TEXT,
        "scrape_protocols": _STRINGS,
        **_keys("params basic_auth authorization oauth2 tls_config http_headers proxy_connect_header", _ANY),
        **_keys("relabel_configs metric_relabel_configs static_configs", many(_ANY)),
    },
    "patternProperties": {"^[a-z0-9_]+_sd_configs$": many(_ANY)},
}
_PROMETHEUS: Final = closed(
    {
        **_keys("global alerting storage tracing otlp runtime", _ANY),
        **_keys("remote_write remote_read scrape_configs", many(_ANY)),
        **_keys("rule_files scrape_config_files", _STRINGS),
    }
)
_ALERTMANAGER: Final = closed(
    {
        **_keys("global route tracing", _ANY),
        **_keys("receivers inhibit_rules time_intervals mute_time_intervals", many(_ANY)),
        "templates": _STRINGS,
    }
)

TYPES: Final[dict[str, Schema]] = {
    "address": {"type": "string", "pattern": r"^$|^[^\s:/]+:[0-9]+$|^\[[0-9a-fA-F:]+\]:[0-9]+$"},
    "alertmanager config": _ALERTMANAGER,
    "alerts": {"type": "object", "additionalProperties": _OVERRIDE},
    "annotations": TEXTS,
    "attach metadata": closed(_keys("node namespace", {"type": "boolean"})),
    "authorization": closed({"type": TEXT, "credentials": _KEY}),
    "basic auth": closed(_keys("username password", _KEY)),
    "boolean": {"type": "boolean"},
    "boolean?": {"type": ["boolean", "null"]},
    "bytes": {"type": "string", "pattern": "^$|^[0-9]+(B|KB|MB|GB|TB|PB|EB)$"},
    "digest": {"type": "string", "pattern": "^$|^sha256:[0-9a-f]{64}$"},
    "duration": {"type": "string", "pattern": f"^$|^{_DURATION}$"},
    "file mounts": many(
        closed(
            {
                "name": _NAMED,
                "mountPath": {"type": "string", "pattern": "^/"},
                "subPath": TEXT,
                "readOnly": {"type": "boolean"},
            },
            "name",
            "mountPath",
        )
    ),
    "host mounts": many(
        closed(
            {
                "name": {"type": "string", "pattern": f"^{_LABEL}$", "maxLength": 63},
                **_keys("hostPath mountPath", {"type": "string", "pattern": "^/"}),
                "readOnly": {"type": "boolean"},
                "type": {
                    "enum": [
                        "",
                        "Directory",
                        "DirectoryOrCreate",
                        "File",
                        "FileOrCreate",
                        "Socket",
                        "CharDevice",
                        "BlockDevice",
                    ]
                },
                "mountPropagation": {"enum": ["None", "HostToContainer", "Bidirectional"]},
            },
            "name",
            "hostPath",
            "mountPath",
        )
    ),
    "host port": {
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": 65535},
            closed({"enabled": {"type": "boolean"}, "port": {"type": "integer", "minimum": 1, "maximum": 65535}}),
            {"type": "null"},
        ]
    },
    "integer": {"type": "integer", "minimum": 0},
    "node port": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 65535}, {"enum": [""]}]},
    "known values": {
        "anyOf": [
            {
                "type": "object",
                "additionalProperties": False,
                "patternProperties": {"^[0-9a-f]{12}$": {"type": ["boolean", "null"]}},
            },
            TEXT,
        ]
    },
    "labels": TEXTS,
    "list": {"type": "array", "items": {"type": ["object", "string"]}},
    "name": {"type": "string", "pattern": f"^$|^{_LABEL}$", "maxLength": 63},
    "name part": {"type": "string", "pattern": f"^$|^{_LABEL}$", "maxLength": 253},
    "oauth2": {"anyOf": [{"type": "object", "maxProperties": 0}, _OAUTH2]},
    "params": {"type": "object", "additionalProperties": _STRINGS},
    "parent refs": many(
        closed({**_keys("group kind namespace sectionName", TEXT), "name": _NAMED, "port": {"type": "integer"}}, "name")
    ),
    "path": {"type": "string", "pattern": "^/"},
    "path?": {"type": "string", "pattern": "^$|^/"},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "port name": {"type": "string", "pattern": "^([a-z0-9]+-)*[a-z0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*$", "maxLength": 15},
    "prometheus config": _PROMETHEUS,
    "pull secrets": many({"anyOf": [_NAMED, closed({"name": TEXT}, "name")]}),
    "quantities": _QUANTITIES,
    "recommenders": many(closed({"name": _NAMED}, "name")),
    "relabelings": many(_RELABELING),
    "resources": closed(
        {**_keys("requests limits", _RESOURCES), "claims": many(closed(_keys("name request", TEXT), "name"))}
    ),
    "rule groups": many(_GROUP),
    "scrape jobs": many(_JOB),
    "strings": _STRINGS,
    "tag": {"type": ["string", "number"]},
    "targets": many(_TARGETS),
    "termination message": closed(
        {
            "terminationMessagePath": {"type": ["string", "null"]},
            "terminationMessagePolicy": {"enum": ["File", "FallbackToLogsOnError", None]},
        }
    ),
    "times": {"type": "object", "additionalProperties": many(_TIMES)},
    "tls config": _TLS,
    "url": {"type": "string", "pattern": "^$|^https?://"},
}


# What an API server refuses although its schemas take it (kubernetes/pkg/apis/*/validation). {{ stands for a template.
_NULLABLE: Final[Schema] = {"type": ["string", "null"]}
_NUMBER: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 65535}
_PORT: Final[Schema] = {"type": ["integer", "string"], "minimum": 1, "maximum": 65535, "minLength": 1}
_PORT_NAME: Final = "^([a-z0-9]+-)*[a-z0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*$"
_IP: Final = r"^[0-9a-fA-F.:]+$"
_ID: Final[Schema] = {"type": ["integer", "null"], "minimum": 0}
_WEIGHT: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 100}
_PROTOCOL: Final[Schema] = {"enum": ["TCP", "UDP", "SCTP", None]}
_DNS_LABEL: Final[Schema] = {"type": "string", "pattern": rf"^{_LABEL}$|\{{\{{"}
_PROFILE: Final[Schema] = {"enum": ["RuntimeDefault", "Localhost", "Unconfined"]}
_NARROWED: Final[dict[str, Schema]] = {
    "AppArmorProfile.type": _PROFILE,
    "Container.image": _NAMED,
    "Container.imagePullPolicy": {**_NULLABLE, "pattern": r"^(Always|IfNotPresent|Never)?$|\{\{"},
    "Container.name": _DNS_LABEL,
    "ContainerPort.containerPort": _NUMBER,
    "ContainerPort.protocol": _PROTOCOL,
    "EnvFromSource.prefix": {**_NULLABLE, "pattern": "^[^=]*$"},
    "EnvVar.name": {"type": "string", "pattern": "^[^=]+$"},
    "ExecAction.command": {"type": "array", "items": TEXT, "minItems": 1},
    "GRPCAction.port": _NUMBER,
    "HTTPGetAction.port": _PORT,
    "HTTPGetAction.scheme": {"enum": ["HTTP", "HTTPS", None]},
    "HTTPHeader.name": {"type": "string", "pattern": r"^[-A-Za-z0-9]+$|\{\{"},
    "HostAlias.hostnames": {
        "type": ["array", "null"],
        "items": {"type": "string", "pattern": rf"^{_LABEL}(\.{_LABEL})*$"},
    },
    "HostAlias.ip": {"type": "string", "pattern": _IP},
    "HostPathVolumeSource.type": {
        **_NULLABLE,
        "pattern": r"^((Directory|File)(OrCreate)?|Socket|(Char|Block)Device)?$|\{\{",
    },
    "IPBlock.cidr": {"type": "string", "pattern": _NETWORK_ADDRESS},
    "IPBlock.except": {"type": ["array", "null"], "items": {"type": "string", "pattern": _NETWORK_ADDRESS}},
    "NetworkPolicyPort.port": {
        "type": ["integer", "string", "null"],
        "minimum": 1,
        "maximum": 65535,
        "pattern": _PORT_NAME,
        "maxLength": 15,
    },
    "PodAffinityTerm.topologyKey": _NAMED,
    "PodDNSConfig.nameservers": {"type": ["array", "null"], "items": {"type": "string", "pattern": _IP}},
    "PodSecurityContext.fsGroup": _ID,
    "PodSecurityContext.fsGroupChangePolicy": {"enum": ["Always", "OnRootMismatch", None]},
    "PodSecurityContext.runAsGroup": _ID,
    "PodSecurityContext.runAsUser": _ID,
    "PreferredSchedulingTerm.weight": _WEIGHT,
    **{
        f"Probe.{key}": {"type": ["integer", "null"], "minimum": 0}
        for key in ("failureThreshold", "initialDelaySeconds", "periodSeconds", "successThreshold", "timeoutSeconds")
    },
    "Probe.terminationGracePeriodSeconds": {"type": ["integer", "null"], "minimum": 1},
    "SecurityContext.procMount": {"enum": ["Default", "Unmasked", None]},
    "SecurityContext.runAsGroup": _ID,
    "SecurityContext.runAsUser": _ID,
    "SleepAction.seconds": {"type": "integer", "minimum": 0},
    "TCPSocketAction.port": _PORT,
    "Toleration.key": {
        **_NULLABLE,
        "pattern": "^(([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
    },
    "Toleration.value": {**_NULLABLE, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", "maxLength": 63},
    "Volume.name": _DNS_LABEL,
    "VolumeMount.mountPropagation": {"enum": ["None", "HostToContainer", "Bidirectional", None]},
    "VolumeMount.subPath": {**_NULLABLE, "pattern": "^([^/].*)?$"},
    "WeightedPodAffinityTerm.weight": _WEIGHT,
}
_NEEDED: Final = {
    "ConfigMapEnvSource": ("name",),
    "ConfigMapKeySelector": ("key", "name"),
    "ConfigMapVolumeSource": ("name",),
    "ExecAction": ("command",),
    "HostPathVolumeSource": ("path",),
    "LabelSelectorRequirement": ("key",),
    "NodeSelectorRequirement": ("key",),
    "PersistentVolumeClaimVolumeSource": ("claimName",),
    "PodDNSConfigOption": ("name",),
    "SecretEnvSource": ("name",),
    "SecretKeySelector": ("key", "name"),
    "SecretVolumeSource": ("secretName",),
    "VolumeMount": ("mountPath", "name"),
}


def _told(key: str) -> Schema:
    """This is there and not null."""
    return {"type": "object", "required": [key], "properties": {key: {"not": {"type": "null"}}}}


def _any_of(*keys: str) -> Schema:
    """One of these objects at least."""
    return {"anyOf": [{"required": [key], "properties": {key: {"type": "object"}}} for key in keys]}


def _one_of(*keys: str) -> list[Schema]:
    """One of these objects and no other; null is not there."""
    return [_any_of(*keys), *(_alone(key, *keys) for key in keys)]


def _alone(key: str, *others: str) -> Schema:
    """Where the key is, none of the others is."""
    none: Schema = {other: {"type": "null"} for other in others if other != key}
    return {"if": _told(key), "then": {"properties": none}}


def _where(key: str, values: list[str], then: Schema) -> Schema:
    return {"if": {"required": [key], "properties": {key: {"enum": values}}}, "then": then}


def _but(name: str, properties: Schema) -> Schema:
    return {"allOf": [{"$ref": f"#/definitions/{name}"}, {"properties": properties}]}


def _without_null(kinds: str | list[str]) -> str | list[str]:
    left = [kind for kind in kinds if kind != "null"] if isinstance(kinds, list) else [kinds]
    return left[0] if len(left) == 1 else left


_SOME_VALUES: Final[Schema] = {"required": ["values"], "properties": {"values": {"type": "array", "minItems": 1}}}
_NO_VALUES: Final[Schema] = {"properties": {"values": {"type": ["array", "null"], "maxItems": 0}}}
_ONE_NUMBER: Final[Schema] = {
    "required": ["values"],
    "properties": {
        "values": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {"type": "string", "pattern": "^-?[0-9]+$"},
        }
    },
}
_SELECTED: Final = [
    _where("operator", ["In", "NotIn"], _SOME_VALUES),
    _where("operator", ["Exists", "DoesNotExist"], _NO_VALUES),
]
_LOCALHOST: Final = [
    _where("type", ["Localhost"], {"required": ["localhostProfile"], "properties": {"localhostProfile": _NAMED}}),
    _where("type", ["RuntimeDefault", "Unconfined"], {"properties": {"localhostProfile": {"type": "null"}}}),
]
_RULES: Final[dict[str, list[Schema]]] = {
    "AppArmorProfile": _LOCALHOST,
    "EnvFromSource": _one_of("configMapRef", "secretRef"),
    "EnvVar": [{"if": _told("valueFrom"), "then": {"properties": {"value": {"enum": ["", None]}}}}],
    "EnvVarSource": _one_of("configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef"),
    "LabelSelectorRequirement": _SELECTED,
    "LifecycleHandler": _one_of("exec", "httpGet", "sleep", "tcpSocket"),
    "NetworkPolicyPeer": [
        _any_of("ipBlock", "namespaceSelector", "podSelector"),
        _alone("ipBlock", "namespaceSelector", "podSelector"),
    ],
    "NetworkPolicyPort": [
        {
            "if": _told("endPort"),
            "then": {"required": ["port"], "properties": {"port": {"type": "integer"}}},
        }
    ],
    "NodeSelectorRequirement": [*_SELECTED, _where("operator", ["Gt", "Lt"], _ONE_NUMBER)],
    "Probe": _one_of(*_HANDLERS),
    "SeccompProfile": _LOCALHOST,
    "Toleration": [
        {
            "if": _told("tolerationSeconds"),
            "then": {"required": ["effect"], "properties": {"effect": {"const": "NoExecute"}}},
        },
        _where("operator", ["Gt", "Lt"], {"required": ["value"], "properties": {"value": {"pattern": "^-?[0-9]+$"}}}),
    ],
}


class Kubernetes:
    """Kubernetes' definitions; those that were asked for, and what they refer to, are kept."""

    def __init__(self) -> None:
        contents = kubernetes_validate.utils.schema_contents(
            f"kubernetes-json-schema/v{VERSION}.0-local-strict/_definitions.json", VERSION
        )
        self._known: Schema = contents["$defs"]
        self.used: Schema = {}

    def types(self) -> dict[str, Schema]:
        """The chart's types that are Kubernetes' own."""
        made: dict[str, Schema] = {}
        for kind, name in _KUBERNETES.items():
            made[kind.removesuffix("[]")] = self._many_of(name) if kind.endswith("[]") else self._of(name)
        made["tolerations"] = self._many_of(_CORE + "Toleration")
        tolerations = self.used["Toleration"]["properties"]
        tolerations["effect"] = {"enum": ["", "NoSchedule", "PreferNoSchedule", "NoExecute", None]}
        tolerations["operator"] = {"enum": ["", "Equal", "Exists", "Lt", "Gt", None]}
        self.used["Toleration"] |= {
            "if": {"properties": {"operator": {"const": "Exists"}}, "required": ["operator"]},
            "then": {"properties": {"value": {"enum": ["", None]}}},
            "else": {"required": ["key"], "properties": {"key": {"minLength": 1, "not": {"type": "null"}}}},
        }
        named = {**TEXTS, "propertyNames": {"pattern": "^[^=]+$"}}
        made["environment"] = {"anyOf": [named, made.pop("env list"), {"type": "null"}]}
        self._of(_PROBE)
        self._narrow()
        probe = self.used["Probe"]["properties"]
        made["handler"] = closed({key: probe[key] for key in _HANDLERS})
        timing = {key: value for key, value in probe.items() if key not in _HANDLERS}
        # An API server takes 0 as "not told"; in the place of the chart's own number it would mislead.
        for key in ("failureThreshold", "periodSeconds", "successThreshold", "timeoutSeconds"):
            timing[key] = {**timing[key], "minimum": 1}
        made["timing"] = closed(timing)
        self._keep_what_is_named(made)
        return made

    def _narrow(self) -> None:
        """What an API server refuses although the schemas take it (kubernetes/pkg/apis/core/validation)."""
        for name, words in {
            "DaemonSetUpdateStrategy.type": ["OnDelete", "RollingUpdate", None],
            "NodeSelectorRequirement.operator": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"],
            "LabelSelectorRequirement.operator": ["In", "NotIn", "Exists", "DoesNotExist"],
            "NetworkPolicyPort.protocol": _PROTOCOL["enum"],
            "SeccompProfile.type": _PROFILE["enum"],
        }.items():
            kind, key = name.split(".")
            self.used[kind]["properties"][key] = {"enum": words}
        for key in ("maxSurge", "maxUnavailable"):
            share = {"type": ["integer", "string", "null"], "minimum": 0, "pattern": "^(100|[0-9]{1,2})%$"}
            self.used["RollingUpdateDaemonSet"]["properties"][key] = share
        for name, schema in _NARROWED.items():
            kind, key = name.split(".")
            self.used[kind]["properties"][key] = schema
        for kind, keys in _NEEDED.items():
            self.used[kind]["required"] = sorted({*self.used[kind].get("required", ()), *keys})
            for key in keys:
                self.used[kind]["properties"][key] = _NARROWED.get(f"{kind}.{key}", _NAMED)
        for kind, rules in _RULES.items():
            self.used[kind]["allOf"] = rules
        self.used["NetworkPolicyPeer"]["minProperties"] = 1
        self.used["LifecycleHandler"]["minProperties"] = 1
        # Its name, and what it is; where something is null, the chart itself counts.
        self.used["Volume"] |= {"if": {"additionalProperties": {"not": {"type": "null"}}}, "then": {"maxProperties": 2}}
        self.used["NodeSelector"]["properties"]["nodeSelectorTerms"]["minItems"] = 1
        container = self.used["Container"]
        container["required"] = ["name", "image"]
        container["properties"] |= {
            "readinessProbe": _but("Probe", {"terminationGracePeriodSeconds": {"type": "null"}}),
            **_keys("livenessProbe startupProbe", _but("Probe", {"successThreshold": {"enum": [0, 1, None]}})),
        }
        for schema in self.used.values():
            self._refuse_null(schema)

    def _refuse_null(self, schema: Schema) -> None:
        """Null is not there: not where something is required, and not as an item of a list of objects."""
        properties = schema.get("properties", {})
        for key in schema.get("required", ()):
            properties[key] = self._not_null(properties[key])
        for found in properties.values():
            if "$ref" in found.get("items", {}):
                found["items"] = self._not_null(found["items"])

    def _not_null(self, schema: Schema) -> Schema:
        if reference := schema.get("$ref"):
            kinds = self.used[reference.rpartition("/")[2]]["type"]
            return {"type": _without_null(kinds), "allOf": [schema]}
        return {**schema, "type": _without_null(schema["type"])} if "type" in schema else schema

    def _many_of(self, name: str) -> Schema:
        """A list of them. Kubernetes' schemas take null for every object, but nothing is made of it here."""
        made = self._of(name)
        self.used[name.rpartition(".")[2]]["type"] = "object"
        return many(made)

    def _of(self, name: str) -> Schema:
        short = name.rpartition(".")[2]
        if short not in self.used:
            self.used[short] = {}
            self.used[short] = self._copy(self._known[name])
        return {"$ref": f"#/definitions/{short}"}

    def _copy(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._copy(item) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(reference := node.get("$ref"), str):
            return self._of(reference.rpartition("/")[2])
        if isinstance(choices := node.get("oneOf"), list):  # null fits each of them
            kinds = {kind for choice in choices for kind in choice["type"]}
            return {"type": sorted(kinds)}
        kept = {key: value for key, value in node.items() if key != "description" or not isinstance(value, str)}
        return {key: self._copy(value) for key, value in kept.items() if not key.startswith("x-kubernetes")}

    def _keep_what_is_named(self, made: dict[str, Schema]) -> None:
        wanted, found = list(_references(made)), set[str]()
        while wanted:
            name = wanted.pop()
            if name not in found:
                found.add(name)
                wanted += _references(self.used[name])
        self.used = {name: schema for name, schema in sorted(self.used.items()) if name in found}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield value.rpartition("/")[2]
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)
