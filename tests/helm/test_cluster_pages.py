"""The commands of the pages and of the chart's notes, word for word, by Helm 3 and Helm 4 on a real API server."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.wait import wait_for

from certificates import hashed
from helm.api_server import Kubernetes, built, forget_claims
from helm.rendering import CHART

pytestmark = pytest.mark.slow

PAGES = ["README.md", "docs/START_KUBERNETES.md", "docs/KUBERNETES.md", "helm/gpu-exporter/README.md"]
COMMAND = re.compile(r" *((?:helm|kubectl) .*?)(?: +#.*)?")


def _stories() -> Iterator[tuple[str, list[str]]]:
    """The commands of every block that has some, which follow one another."""
    for page in PAGES:
        for number, block in enumerate(
            re.findall(r"^```\w*\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
        ):
            commands = [found[1] for line in block.splitlines() if (found := COMMAND.fullmatch(line))]
            if commands:
                yield f"{Path(page).stem}-{number}", commands


STORIES = dict(_stories())


def test_both_ways_of_the_drill_are_five_commands() -> None:
    drills = [commands for name, commands in STORIES.items() if name.startswith("KUBERNETES")]
    assert [len(commands) for commands in drills] == [5, 5]


@pytest.fixture
def shell(cluster: Kubernetes, helm: str, tmp_path: Path) -> Iterator[Shell]:
    yield Shell(cluster, helm, tmp_path)
    for place in ("gpus", "monitoring"):
        if not cluster.has(f"api/v1/namespaces/{place}"):
            continue
        for item in cluster.items(f"api/v1/namespaces/{place}/secrets?fieldSelector=type%3Dhelm.sh/release.v1"):
            cluster.helm(
                built(helm), "uninstall", "--ignore-not-found", item["metadata"]["labels"]["name"], namespace=place
            )
        forget_claims(cluster, place)
        cluster.ask("DELETE", f"api/v1/namespaces/{place}")
        wait_for(partial(_is_gone, cluster, place), f"the end of {place}")


def _is_gone(cluster: Kubernetes, namespace: str) -> bool:
    return not cluster.has(f"api/v1/namespaces/{namespace}")


class Shell:
    """A shell of an administrator, in the repository's folder, where `helm` is one of the two."""

    def __init__(self, cluster: Kubernetes, helm: str, folder: Path) -> None:
        self._cluster = cluster
        self._path = f"{folder}:/usr/bin:/bin"
        (folder / "helm").symlink_to(built(helm))
        (folder / "kubectl").symlink_to(built("kubectl"))

    def run(self, command: str) -> str:
        """What it says, which must end well."""
        words = shlex.split(command)
        if any(word.startswith("oci://") for word in words):  # another project's chart: what it brings is there already
            self._cluster.namespace(words[words.index("-n") + 1])
            return ""
        if "port-forward" in words:
            self._leads_somewhere(words)
            return ""
        if "exec" in words:  # there is nothing in the pods
            return ""
        done: subprocess.CompletedProcess[str] = self._cluster.run(["bash", "-c", command], path=self._path)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _leads_somewhere(self, words: list[str]) -> None:
        """A tunnel needs a kubelet; here the Service is looked at, which must have that port and a pod that runs."""
        place, service, port = words[words.index("-n") + 1], words[-2].removeprefix("service/"), words[-1]
        if service.startswith("monitoring-kube-prometheus"):  # of the chart that is not here
            return
        spec = self._cluster.ask("GET", f"api/v1/namespaces/{place}/services/{service}")["spec"]
        assert int(port) in {item["port"] for item in spec["ports"]}
        selector = "%2C".join(f"{key}%3D{value}" for key, value in spec["selector"].items())

        def phases() -> set[str]:
            pods = self._cluster.items(f"api/v1/namespaces/{place}/pods?labelSelector={selector}")
            return {pod["status"]["phase"] for pod in pods}

        wait_for(lambda: phases() == {"Running"}, phases)


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_what_a_page_tells_to_do_works(shell: Shell, story: str) -> None:
    said = [shell.run(command) for command in STORIES[story]]
    assert "STATUS: deployed" in "".join(said)


def _values() -> Iterator[str]:
    """The values that docs/KUBERNETES.md shows, with a hash where it leaves one out."""
    for block in re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs/KUBERNETES.md").read_text(), re.MULTILINE | re.DOTALL
    ):
        yield block.replace("$2y$10$…", hashed("secret"))


@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_values_that_the_page_shows_are_taken(cluster: Kubernetes, namespace: str, helm: str, tmp_path: Path) -> None:
    """One after another, as somebody tries them."""
    admin = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}  # as the page says of DRA
    cluster.ask("PATCH", f"api/v1/namespaces/{namespace}", admin, "application/merge-patch+json")
    file = tmp_path / "values.yaml"
    for text in _values():
        file.write_text(text)
        done = cluster.helm(built(helm), "upgrade", "--install", "gpu", CHART, "--values", file, namespace=namespace)
        assert done.returncode == 0, f"{text}\n{done.stderr}"


@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_what_the_notes_tell_to_do_works(shell: Shell) -> None:
    notes = shell.run(
        "helm install gpu helm/gpu-exporter -n gpus --create-namespace --set stack.enabled=true,hub.enabled=true"
    )
    commands = [found[1] for line in notes.splitlines() if (found := COMMAND.fullmatch(line))]
    assert {words[3] for command in commands if (words := command.split())[0] == "kubectl"} >= {
        "rollout",
        "port-forward",
        "get",
    }
    for command in commands:
        shell.run(command)
