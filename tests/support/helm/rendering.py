"""The chart as Helm renders it; nothing here knows a cluster."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import yaml
from tools.lab import ROOT

CHART = ROOT / "helm/gpu-exporter"
CASES = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "gpu", "gpus"
Manifest = dict[str, Any]


class Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: an equals sign is text."""


Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def read(text: str) -> list[Any]:
    """The documents of the text that are not empty."""
    return [found for found in yaml.load_all(text, Loader) if found]


@dataclass(frozen=True)
class Rendered:
    """What a release consists of: manifests by template, and the notes for who installed it."""

    texts: Mapping[str, str]

    @property
    def notes(self) -> str:
        return next(text for name, text in self.texts.items() if name.endswith("NOTES.txt"))

    @functools.cached_property
    def objects(self) -> list[Manifest]:
        return [found for name, text in self.texts.items() if not name.endswith(".txt") for found in read(text)]

    def all(self, kind: str) -> list[Manifest]:
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Manifest:
        """The one object of the kind, or the one of the kind whose name ends so."""
        found = [item for item in self.all(kind) if name is None or item["metadata"]["name"].endswith(name)]
        assert len(found) == 1, [item["metadata"]["name"] for item in self.all(kind)]
        return found[0]

    @property
    def pod(self) -> dict[str, Any]:
        """The exporter's pod."""
        spec: dict[str, Any] = self.one("DaemonSet")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> dict[str, Any]:
        """The exporter's container."""
        found: dict[str, Any] = self.pod["containers"][0]
        return found

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every pod that the release makes: whose it is, its specification."""
        for item in self.objects:
            if item["kind"] == "Pod":
                yield item["metadata"]["name"], item["spec"]
            elif item["kind"] in {"DaemonSet", "Deployment"}:
                yield item["metadata"]["name"], item["spec"]["template"]["spec"]


@functools.cache
def chart(path: Path = CHART) -> helm_python.Chart:
    return helm_python.Chart.load(path)


def render(values: Mapping[str, Any] | None = None, *, name: str = RELEASE, path: Path = CHART) -> Rendered:
    """The release of these values. Raises HelmError where they are refused."""
    return Rendered(chart(path).render(dict(values or {}), name=name, namespace=NAMESPACE))


def values_of(case: Path) -> dict[str, Any]:
    """The values of a file, as Helm reads it."""
    return helm_python.values_from_yaml(case.read_text())


@functools.cache
def case(path: Path) -> Rendered:
    """The release of one of ci's files."""
    return render(values_of(path))


def named(name: str) -> Rendered:
    """The release of ci's file of that name."""
    return case(CHART / f"ci/{name}-values.yaml")


def refusal(values: Mapping[str, Any]) -> str:
    """Why Helm refuses the values."""
    try:
        render(values)
    except helm_python.HelmError as error:
        return str(error)
    raise AssertionError(f"accepted: {json.dumps(values)}")
