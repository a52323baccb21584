"""Every object that the chart makes, of every case in ci: what an API server would say of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import helm_python
import pytest
from tools.chart import COPIES
from tools.lab import ROOT

from gpu_exporter import __version__
from helm.pod_security import violations
from helm.rendering import CASES, CHART, NAMESPACE, RELEASE, Manifest, Rendered, case, named, read, render, values_of
from helm.schemas import VERSIONS, mistakes

cases = pytest.mark.parametrize("path", CASES, ids=[path.stem.removesuffix("-values") for path in CASES])

# Why a pod of a case is not restricted. What is not named here is.
EXCEPTIONS = {
    "processes": {
        "hostPID": "the processes that the driver lists are the node's",
        "volume hostPath host-etc": "the node's user names, read-only",
    },
    "owners-kubernetes": {
        "hostPID": "the processes that the driver lists are the node's",
        "volume hostPath host-etc": "the node's /etc/passwd, read-only",
        "volume hostPath pod-resources": "the kubelet's socket, read-only",
        "runAsUser 0": "the socket belongs to root and has no group; no capability comes with it",
        "runAsNonRoot": "the same",
    },
    "dra": {
        "volume hostPath pod-resources": "the kubelet's socket, read-only",
        "volume hostPath cdi": "the CDI specifications, read-only",
        "runAsUser 0": "the socket belongs to root and has no group; no capability comes with it",
        "runAsNonRoot": "the same",
    },
    "everything-else": {
        "hostPID": "the processes that the driver lists are the node's",
        "volume hostPath slurm": "the prolog's files, read-only",
        "hostPort": "asked for",
    },
    "kernel-log": {
        "volume hostPath kmsg": "what it asks for",
        "privileged": "another container may not open the device",
        "allowPrivilegeEscalation": "goes with it",
        "capabilities are not dropped": "goes with it",
        "runAsNonRoot": "the log is root's",
        "runAsUser 0": "the log is root's",
    },
    "owners-slurm": {"volume hostPath slurm": "the prolog's files, read-only"},
    "host-network": {"hostNetwork": "asked for"},
    "extras": {
        "volume hostPath driver": "asked for",
        "allowPrivilegeEscalation": "the containers that the case adds say nothing",
        "capabilities are not dropped": "the same",
    },
}


@cases
def test_lint_finds_nothing(path: Path) -> None:
    report = helm_python.lint(CHART, values_of(path), strict=True, namespace=NAMESPACE)
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert not report["errors"]


@cases
@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_valid(path: Path, version: str) -> None:
    if (path.stem, version) == ("dra-values", "1.30"):
        return  # claims were another field of a pod then, and an alpha feature
    found = case(path).objects
    assert {"DaemonSet", "ConfigMap"} <= {item["kind"] for item in found}
    assert [mistake for item in found for mistake in mistakes(item, version)] == []


def test_the_schemas_do_refuse() -> None:
    rendered = named("service-monitor")
    for kind, path, value in (
        ("DaemonSet", ("spec", "template", "spec", "hostPid"), True),
        ("ServiceMonitor", ("spec", "endpoint"), []),
        ("Service", ("spec", "ports"), "9435"),
    ):
        item = read(next(text for text in rendered.texts.values() if f"kind: {kind}\n" in text))[0]
        place = item
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        assert mistakes(item, VERSIONS[-1]), kind


@cases
def test_pods_are_restricted_but_for_what_is_named(path: Path) -> None:
    allowed = EXCEPTIONS.get(path.stem.removesuffix("-values"), {})
    pods = list(case(path).pods())
    assert pods
    for name, pod in pods:
        exporter = name == case(path).one("DaemonSet")["metadata"]["name"]
        assert violations(pod) == (set(allowed) if exporter else set()), name


def test_exceptions_belong_to_cases() -> None:
    assert EXCEPTIONS.keys() <= {path.stem.removesuffix("-values") for path in CASES}


@cases
def test_containers_cannot_write_and_ask_for_no_gpu(path: Path) -> None:
    for name, pod in case(path).pods():
        for container in pod["containers"]:
            if container["name"] == "beside":
                continue
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert "nvidia.com/gpu" not in str(container.get("resources")), name
            own = {"data", "scratch", "tmp"}
            mounts = [mount for mount in container.get("volumeMounts", []) if mount["name"] not in own]
            assert all(mount.get("readOnly") for mount in mounts), name
        assert pod["automountServiceAccountToken"] is name.endswith("-prometheus"), name


@cases
def test_names_and_labels(path: Path) -> None:
    """Every object belongs to its release, in the release's namespace or the one it was given."""
    rendered = case(path)
    seen = set()
    for item in rendered.objects:
        metadata = item["metadata"]
        key = (item["kind"], metadata.get("namespace"), metadata["name"])
        assert key not in seen
        seen.add(key)
        if metadata["name"] in {
            "gpu-text",
            "gpu-gpu-exporter-site",
            "gpu-object",
            "gpu-exporter",
        }:  # extraManifests have what they are given
            continue
        labels = metadata["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert re.fullmatch(r"gpu-exporter-\d+\.\d+\.\d+", labels["helm.sh/chart"])
    for name, labels, selector in _workloads(rendered):
        assert selector.items() <= labels.items(), name
        assert "helm.sh/chart" not in labels, "a new chart version would restart every pod"


def _workloads(rendered: Rendered) -> list[tuple[str, dict[str, str], dict[str, str]]]:
    """Name, labels of the pods, selector of the pods."""
    found = [*rendered.all("DaemonSet"), *rendered.all("Deployment")]
    specs = [(item["metadata"]["name"], item["spec"]) for item in found]
    return [(name, spec["template"]["metadata"]["labels"], spec["selector"]["matchLabels"]) for name, spec in specs]


@pytest.mark.parametrize("name", ["stack-full", "alertmanager-config", "tls", "network-policy"])
def test_releases_in_one_namespace_do_not_meet(name: str) -> None:
    """Names differ, and no selector of one release finds the pods of the other."""
    values = values_of(CHART / f"ci/{name}-values.yaml")
    releases = ["gpu-exporter", "a", "a-gpu-exporter", "gpu-exporter-a", "x" * 53, "x" * 52 + "y"]
    seen: dict[tuple[str, str], str] = {}
    selectors, pods = [], []
    for release in releases:
        rendered = render(values, name=release)
        for item in rendered.objects:
            key = (item["kind"], item["metadata"]["name"])
            assert len(key[1]) <= (63 if key[0] in {"DaemonSet", "Deployment", "Pod", "Service"} else 253)
            assert seen.setdefault(key, release) == release, key
        for _, labels, selector in _workloads(rendered):
            pods.append((release, labels))
            selectors.append((release, selector))
        selectors += [(release, item["spec"]["selector"]) for item in rendered.all("Service")]
    for owner, selector in selectors:
        assert {release for release, labels in pods if selector.items() <= labels.items()} == {owner}


def test_it_has_copies_of_what_is_deployed() -> None:
    """Byte for byte, no more and no less: a link does not survive a zip, an artifact of Flux or a copy."""
    for target, source in COPIES.items():
        origin, copy = ROOT / source, CHART / target
        files = [origin] if origin.is_file() else [path for path in origin.rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert (copy / path.relative_to(origin)).read_bytes() == path.read_bytes(), "run make docs"
        copied = [copy] if copy.is_file() else [path for path in copy.rglob("*") if path.is_file()]
        assert len(copied) == len(files), "run make docs"
    assert not [path for path in CHART.rglob("*") if path.is_symlink()]


def test_packaged_it_renders_the_same_bytes(tmp_path: Path) -> None:
    archive = Path(helm_python.package(CHART, destination=tmp_path))
    assert archive.name == f"gpu-exporter-{_metadata()['version']}.tgz"
    assert archive.stat().st_size < 500_000
    helm_python.expand(tmp_path / "out", archive)
    assert not (tmp_path / "out/gpu-exporter/ci").exists()
    for path in CASES:
        assert render(values_of(path), path=archive).texts == case(path).texts, path.name


@pytest.mark.parametrize(
    "lost", ["files/rules", "files/dashboards", "files/alertmanager", "files/provisioning", "files/prometheus.yml"]
)
@pytest.mark.parametrize("left", ["", "../../../deploy/somewhere"], ids=["left out", "a link as text"])
def test_a_chart_that_lost_files_on_its_way_says_so(lost: str, left: str, tmp_path: Path) -> None:
    copy = tmp_path / "gpu-exporter"
    shutil.copytree(CHART, copy)
    place = copy / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    if left and not lost.endswith(".yml"):
        place.write_text(left)
    with pytest.raises(helm_python.HelmError, match=f"the chart is not complete: {lost}"):
        render(path=copy)


def _metadata() -> Manifest:
    found: Manifest = read((CHART / "Chart.yaml").read_text())[0]
    return found


def test_the_chart_is_of_this_version() -> None:
    metadata = _metadata()
    assert metadata["appVersion"] == __version__
    assert named("default").container["image"] == f"ghcr.io/gpu-exporter/gpu-exporter:{__version__}"
    images = {
        line.split("image: ")[1]
        for line in metadata["annotations"]["artifacthub.io/images"].splitlines()
        if "image:" in line
    }
    used = {container["image"] for _, pod in named("stack").pods() for container in pod["containers"]}
    assert images == used


def test_the_program_renders_what_the_library_does(tmp_path: Path) -> None:
    program = shutil.which("helm")
    if program is None:
        pytest.skip("there is no helm on PATH; everything else here runs in the library")
    for path in CASES:
        done = subprocess.run(
            [program, "template", RELEASE, CHART, "--namespace", NAMESPACE, "--kube-version", "1.36", "--values", path],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        assert _sorted(read(done.stdout)) == _sorted(case(path).objects)


def _sorted(found: list[Manifest]) -> list[Manifest]:
    return sorted(found, key=lambda item: (item["kind"], item["metadata"]["name"]))
