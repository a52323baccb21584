"""A stand-in for an API server: what `helm install` and `helm upgrade` ask of one, kept in memory.

It serves discovery for the kinds it is told of, keeps what is applied, and answers as the real one where Helm looks:
the OpenAPI documents say that fields are checked by the server, so that Helm does not check them itself.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import helm_python
import yaml

BUILT_IN: dict[str, Sequence[str]] = {
    "v1": ("ConfigMap", "Namespace", "PersistentVolumeClaim", "Pod", "Secret", "Service", "ServiceAccount"),
    "apps/v1": ("DaemonSet", "Deployment"),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "node.k8s.io/v1": ("RuntimeClass",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
}
OPERATOR: dict[str, Sequence[str]] = {
    "monitoring.coreos.com/v1": ("PodMonitor", "PrometheusRule", "ServiceMonitor"),
    "monitoring.coreos.com/v1alpha1": ("AlertmanagerConfig",),
}
_CLUSTER_WIDE = {"Namespace", "RuntimeClass"}


def _plural(kind: str) -> str:
    word = kind.lower()
    return word[:-1] + "ies" if word.endswith("y") else word + ("es" if word.endswith("s") else "s")


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        if self.headers.get("Content-Type", "").endswith("protobuf"):  # where Helm keeps its releases
            body: Any = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "release"}, "bytes": length}
        else:
            body = yaml.load(content, yaml.CSafeLoader) if length else None
        path = self.path.partition("?")[0].strip("/")
        found = self.cluster.answer(self.command, path, body)
        status = 200 if found is not None else 404
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        answer = json.dumps(found if found is not None else missing).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the base class names them so


class Cluster:
    """A cluster that knows these kinds; a context manager that stops it."""

    def __init__(self, *more: Mapping[str, Sequence[str]]) -> None:
        self._kinds = {version: tuple(kinds) for known in (BUILT_IN, *more) for version, kinds in known.items()}
        self.objects: dict[str, Any] = {}
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def __enter__(self) -> Cluster:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def config(self, storage: str = "memory") -> helm_python.Config:
        """Helm's connection to it; releases are kept in Helm's memory, or ("secret") in the cluster as usual."""
        server = f"http://127.0.0.1:{self._server.server_address[1]}"
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": {"server": server}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "current-context": "it",
        }
        return helm_python.Config(
            kubeconfig_content=yaml.safe_dump(kubeconfig),
            namespace="gpus",
            storage_driver=storage,
            burst_limit=1000,  # it is asked by nobody else
        )

    def add(self, path: str, item: Mapping[str, Any]) -> None:
        """An object that is there already, by its path below the server."""
        self.objects[path] = dict(item)

    def answer(self, method: str, path: str, body: Any) -> Any:
        """The document for a request; None where there is none."""
        if method in {"POST", "PUT", "PATCH"}:
            place = f"{path}/{body['metadata']['name']}" if method == "POST" else path
            self.objects[place] = body
            return body
        if method == "DELETE":
            return self.objects.pop(path, None)
        if path.startswith("openapi/v3"):
            return self._openapi(path)
        return self._discovery(path) or self.objects.get(path)

    def _discovery(self, path: str) -> Any:
        groups: dict[str, list[str]] = {}
        for version in self._kinds:
            if "/" in version:
                groups.setdefault(version.split("/")[0], []).append(version)
        fixed: dict[str, Any] = {
            "version": {"major": "1", "minor": "36", "gitVersion": "v1.36.0"},
            "api": {"kind": "APIVersions", "versions": ["v1"]},
            "apis": {
                "kind": "APIGroupList",
                "groups": [
                    {
                        "name": name,
                        "versions": [{"groupVersion": one, "version": one.split("/")[1]} for one in versions],
                        "preferredVersion": {"groupVersion": versions[0], "version": versions[0].split("/")[1]},
                    }
                    for name, versions in groups.items()
                ],
            },
        }
        if path in fixed:
            return fixed[path]
        version = path.partition("/")[2]
        if version not in self._kinds or path.count("/") > version.count("/") + 1:
            return None
        resources = [
            {
                "name": _plural(kind),
                "singularName": kind.lower(),
                "namespaced": kind not in _CLUSTER_WIDE,
                "kind": kind,
                "verbs": ["create", "delete", "get", "list", "patch"],
            }
            for kind in self._kinds[version]
        ]
        return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}

    def _openapi(self, path: str) -> Any:
        roots = {("apis/" if "/" in version else "api/") + version: version for version in self._kinds}
        if path == "openapi/v3":
            return {"paths": {root: {"serverRelativeURL": f"/openapi/v3/{root}"} for root in roots}}
        root = path.removeprefix("openapi/v3/")
        group, _, name = roots[root].rpartition("/")
        checked = {"name": "fieldValidation", "in": "query"}
        paths = {
            f"/{root}/namespaces/{{namespace}}/{_plural(kind)}/{{name}}": {
                "patch": {
                    "responses": {},
                    "parameters": [checked],
                    "x-kubernetes-group-version-kind": {"group": group, "version": name, "kind": kind},
                }
            }
            for kind in self._kinds[roots[root]]
        }
        return {"openapi": "3.0.0", "info": {"title": "it", "version": "1"}, "paths": paths}
