"""The chart's values one by one, and a release with everything switched on."""

from __future__ import annotations

from typing import Any

from tools.chart import Value, values

from helm.rendering import CHART

VALUES: list[Value] = values((CHART / "values.yaml").read_text())
EVERYTHING: dict[str, Any] = {
    "stack": {"enabled": True, "grafana": {"adminSecret": "admin"}},
    "hub": {"enabled": True},
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "networkPolicy": {"enabled": True, "namespaces": ["monitoring"]},
    "verticalPodAutoscaler": {"enabled": True},
    "rbac": {"securityContextConstraints": "nonroot-v2"},
    "processes": {"enabled": True},
    "owners": {"kubernetes": {"enabled": True}, "slurm": {"enabled": True}},
    "dashboards": {"operator": {"enabled": True}},
    "webConfig": {"tls": {"enabled": True, "secretName": "pair"}},
    "mail": {
        "smarthost": "a:25",
        "from": "a@b",
        "to": {"oncall": "a@b"},
        "username": "me",
        "passwordSecret": {"name": "smtp"},
    },
    "alertmanagerConfig": {"enabled": True},
}


def merged(one: Any, other: Any) -> Any:
    """Two trees of values as one, the other over the one."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    return {
        key: merged(one[key], other[key]) if key in one and key in other else {**one, **other}[key]
        for key in [*one, *(key for key in other if key not in one)]
    }


def at(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Values with one value."""
    tree = value
    for step in reversed(path):
        tree = {step: tree}
    found: dict[str, Any] = tree
    return found
