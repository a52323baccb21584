"""Kubernetes' Pod Security Standards, level restricted: what a pod does that the level forbids.

The controls are those of the standards' page in Kubernetes' documentation, baseline's included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_SECCOMP = {"RuntimeDefault", "Localhost"}
_ADDED = {"NET_BIND_SERVICE"}


def violations(pod: dict[str, Any]) -> set[str]:
    """A word or two for each control that the pod does not keep to; empty where it is restricted."""
    return set(_of_pod(pod)) | {found for container in _containers(pod) for found in _of_container(pod, container)}


def _containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod.get(name, [])


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    for name in ("hostPID", "hostIPC", "hostNetwork"):
        if pod.get(name):
            yield name
    for volume in pod.get("volumes", []):
        for kind in volume.keys() - {"name"} - _VOLUMES:
            yield f"volume {kind} {volume['name']}"
    security = pod.get("securityContext", {})
    if security.get("sysctls"):
        yield "sysctls"
    if security.get("runAsUser") == 0:
        yield "runAsUser 0"


def _of_container(pod: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    security = container.get("securityContext", {})
    both = {**pod.get("securityContext", {}), **security}
    if security.get("privileged"):
        yield "privileged"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    capabilities = security.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities are not dropped"
    if set(capabilities.get("add", [])) - _ADDED:
        yield "capabilities are added"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot"
    if both.get("runAsUser") == 0:
        yield "runAsUser 0"
    if both.get("seccompProfile", {}).get("type") not in _SECCOMP:
        yield "seccompProfile"
    if security.get("procMount", "Default") != "Default":
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"
