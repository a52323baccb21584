"""A real Kubernetes on loopback, without nodes: etcd, API server and controller manager, built by tools/cluster.

Its nodes are objects only. What scheduler and kubelet would do, ``nodes`` does: pods run, those that end (as the pod of
`helm test` does) end well and have a log, and those that are deleted go.
"""

from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tools.lab import LOOPBACK, ROOT
from tools.lab.ports import free_port
from tools.lab.programs import Program
from tools.lab.wait import patience, wait_for

from helm.rendering import read

BUILT = ROOT / ".build/cluster"
CRDS = BUILT / "crds"
# A worker of pytest that is killed leaves nothing behind.
ENDS_WITH_US = ["setpriv", "--pdeathsig", "TERM"]
LOG = 'gpu_exporter_gpus{state="up"} 8\n'


def built(name: str) -> Path:
    """A program of tools/cluster; without it the test is skipped, as Go is not on every machine."""
    path = BUILT / name
    if not path.exists():
        pytest.skip(f"{name} is not built: run tools/cluster")
    return path


class Kubernetes:
    """The API server, as an administrator sees it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.folder = folder
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE  # its certificate is its own
        self._context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
        self.kubeconfig = folder / "kubeconfig"
        server = {"server": f"https://{LOOPBACK}:{port}", "insecure-skip-tls-verify": True}
        user = {"client-certificate": str(folder / "admin.crt"), "client-key": str(folder / "admin.key")}
        tree = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": server}],
            "users": [{"name": "it", "user": user}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "current-context": "it",
        }
        self.kubeconfig.write_text(yaml.safe_dump(tree))

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """The answer's document. Raises HTTPError."""
        url = f"https://{LOOPBACK}:{self.port}/{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=patience(), context=self._context) as answer:  # noqa: S310
            return json.loads(answer.read())

    def ready(self) -> bool:
        with suppress(OSError):
            url = f"https://{LOOPBACK}:{self.port}/readyz"
            with urllib.request.urlopen(url, timeout=5, context=self._context) as answer:
                return bool(answer.status == 200)
        return False

    def items(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", path)["items"]
        return found

    def create(self, path: str, item: Mapping[str, Any]) -> None:
        self.ask("POST", path, item)

    def define(self, definition: Mapping[str, Any]) -> None:
        """A kind of object, which can be made as soon as this returns."""
        self.create("apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        group, name = definition["spec"]["group"], definition["spec"]["names"]["plural"]
        version = next(item["name"] for item in definition["spec"]["versions"] if item["served"])
        wait_for(lambda: self.has(f"apis/{group}/{version}/{name}"), f"the kind {name}.{group}")

    def has(self, path: str) -> bool:
        """Whether there is something at the path."""
        with suppress(urllib.error.HTTPError):
            self.ask("GET", path)
            return True
        return False

    def namespace(self, name: str, level: str = "privileged") -> None:
        """A namespace, made where it is not there, where pods beyond Pod Security's level are refused."""
        labels = {f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "warn")}
        place = f"api/v1/namespaces/{name}"
        if self.has(place):
            self.ask("PATCH", place, {"metadata": {"labels": labels}}, "application/merge-patch+json")
        else:
            item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
            self.create("api/v1/namespaces", item)
        wait_for(lambda: self.has(f"{place}/serviceaccounts/default"), "the namespace's account")

    def helm(self, program: Path, *arguments: str | Path, namespace: str) -> subprocess.CompletedProcess[str]:
        """Helm, to its end."""
        # It asks for every object by itself, and would wait between two questions.
        return self.run([program, *arguments, "--namespace", namespace, "--burst-limit", "1000", "--qps", "1000"])

    def run(
        self, command: Sequence[str | Path], folder: Path = ROOT, path: str = "/usr/bin:/bin"
    ) -> subprocess.CompletedProcess[str]:
        """A program that finds the cluster as an administrator's shell would, to its end."""
        surroundings = {"HOME": str(self.folder), "PATH": path, "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(
            command, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=patience(300), check=False
        )


def _administrator(folder: Path) -> None:
    """ca.crt, and admin.crt and admin.key by it; an API server takes no certificate that constrains names."""
    now = datetime.now(timezone.utc)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    admin = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
            x509.NameAttribute(NameOID.COMMON_NAME, "admin"),
        ]
    )
    signer = ec.generate_private_key(ec.SECP256R1())
    for name, subject, authority in (("ca", issuer, True), ("admin", admin, False)):
        key = signer if authority else ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(signer, hashes.SHA256())
        )
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


@contextmanager
def kubernetes(folder: Path) -> Iterator[Kubernetes]:
    """A cluster that ends with the block."""
    _administrator(folder)
    trustme.CA().issue_cert("accounts").private_key_pem.write_to_path(folder / "accounts.key")
    etcd_port, peer_port, port = free_port(), free_port(), free_port()
    etcd = f"http://{LOOPBACK}:{etcd_port}"
    peer = f"http://{LOOPBACK}:{peer_port}"
    with ExitStack() as stack:
        stack.enter_context(
            Program(
                [
                    *ENDS_WITH_US,
                    built("etcd"),
                    f"--data-dir={folder / 'etcd'}",
                    f"--listen-client-urls={etcd}",
                    f"--advertise-client-urls={etcd}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster=default={peer}",
                    "--unsafe-no-fsync",
                ],
                folder / "etcd.log",
            )
        )
        server = stack.enter_context(
            Program(
                [
                    *ENDS_WITH_US,
                    built("kube-apiserver"),
                    f"--etcd-servers={etcd}",
                    f"--bind-address={LOOPBACK}",
                    f"--advertise-address={LOOPBACK}",
                    "--endpoint-reconciler-type=none",
                    f"--secure-port={port}",
                    f"--cert-dir={folder / 'certificates'}",
                    f"--client-ca-file={folder / 'ca.crt'}",
                    f"--service-account-key-file={folder / 'accounts.key'}",
                    f"--service-account-signing-key-file={folder / 'accounts.key'}",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    "--authorization-mode=RBAC",
                    "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/108",
                    "--allow-privileged",
                    "--anonymous-auth=false",
                ],
                folder / "api-server.log",
            )
        )
        made = Kubernetes(folder, port)
        server.wait(made.ready)
        stack.enter_context(
            Program(
                [
                    *ENDS_WITH_US,
                    built("kube-controller-manager"),
                    f"--kubeconfig={made.kubeconfig}",
                    f"--service-account-private-key-file={folder / 'accounts.key'}",
                    "--use-service-account-credentials",
                    "--leader-elect=false",
                    f"--bind-address={LOOPBACK}",
                    f"--secure-port={free_port()}",
                    f"--cert-dir={folder / 'certificates'}",
                    f"--flex-volume-plugin-dir={folder / 'flex'}",
                    "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller",
                ],
                folder / "controllers.log",
            )
        )
        for path in sorted(CRDS.glob("*.yaml")):
            made.define(read(path.read_text())[0])
        yield made


# --- what scheduler and kubelet do ------------------------------------------------------------------------------------


@contextmanager
def nodes(cluster: Kubernetes, labels: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Nodes with labels, whose kubelet serves one log and lets every pod run at once. Most pods go to the first."""
    certificate = trustme.CA().issue_cert(LOOPBACK)
    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), _Kubelet)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name, found in labels.items():
        add_node(cluster, name, found, server.server_address[1])
    ending = threading.Event()
    worker = threading.Thread(target=_run_pods, args=(cluster, next(iter(labels)), ending))
    worker.start()
    try:
        yield
    finally:
        ending.set()
        worker.join()
        server.shutdown()
        server.server_close()
        thread.join()


def add_node(cluster: Kubernetes, name: str, labels: Mapping[str, str], port: int = 1) -> None:
    """One more, whose kubelet is at the port."""
    item = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": dict(labels)}}
    cluster.create("api/v1/nodes", item)
    status = {
        "status": {
            "addresses": [{"type": "InternalIP", "address": LOOPBACK}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "It", "message": "is"}],
        }
    }
    merge = "application/merge-patch+json"
    cluster.ask("PATCH", f"api/v1/nodes/{name}/status", status, merge)
    cluster.ask("PATCH", f"api/v1/nodes/{name}", {"spec": {"taints": None}}, merge)


class _Kubelet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        body = LOG.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _run_pods(cluster: Kubernetes, node: str, ending: threading.Event) -> None:
    while not ending.wait(0.1):
        for pod in cluster.items("api/v1/pods"):
            with suppress(urllib.error.HTTPError):  # a pod that is gone or changed meanwhile
                _run(cluster, pod, node)


def _run(cluster: Kubernetes, pod: dict[str, Any], node: str) -> None:
    place = f"api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
    if "deletionTimestamp" in pod["metadata"]:
        cluster.ask("DELETE", place, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
        return
    if pod["status"]["phase"] != "Pending":
        return
    if "nodeName" not in pod["spec"]:
        bound = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"]},
                 "target": {"apiVersion": "v1", "kind": "Node", "name": _wanted(pod["spec"]) or node}}  # fmt: skip
        cluster.ask("POST", f"{place}/binding", bound)
    done = pod["spec"]["restartPolicy"] == "Never"
    state = {"terminated": {"exitCode": 0, "reason": "Completed"}} if done else {"running": {}}
    containers = [
        {
            "name": found["name"],
            "image": found["image"],
            "imageID": "it",
            "ready": not done,
            "restartCount": 0,
            "state": state,
        }
        for found in pod["spec"]["containers"]
    ]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now}
        for kind in ("Ready", "ContainersReady", "PodScheduled", "Initialized")
    ]
    status = {"phase": "Succeeded" if done else "Running", "conditions": conditions, "containerStatuses": containers,
              "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}]}  # fmt: skip
    cluster.ask("PATCH", f"{place}/status", {"status": status}, "application/merge-patch+json")


def _wanted(spec: Mapping[str, Any]) -> str | None:
    """The node that the DaemonSet's controller made the pod for."""
    rules = spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    for term in rules.get("nodeSelectorTerms", []):
        for field in term.get("matchFields", []):
            name: str = field["values"][0]
            return name
    return None


def forget_claims(cluster: Kubernetes, namespace: str) -> None:
    """Delete the claims that outlive their release."""
    for item in cluster.items(f"api/v1/namespaces/{namespace}/persistentvolumeclaims"):
        place = f"api/v1/namespaces/{namespace}/persistentvolumeclaims/{item['metadata']['name']}"
        with suppress(urllib.error.HTTPError):
            cluster.ask("PATCH", place, {"metadata": {"finalizers": None}}, "application/merge-patch+json")
            cluster.ask("DELETE", place)
