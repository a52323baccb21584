"""index.yaml beside the chart: what ``helm repo add`` reads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml
from tools.dist.made import Made, RefusedError
from tools.lab import ROOT


def index(chart: Made, url: str, moment: int, earlier: Path | None = None) -> Made:
    """The chart's entry, and those of an index that was published before. ``url`` is what stands before file names."""
    entry: dict[str, Any] = yaml.safe_load((ROOT / "helm/gpu-exporter/Chart.yaml").read_text())
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    entry |= {"urls": [f"{url.rstrip('/')}/{chart.path.name}"], "digest": chart.sum, "created": when}
    entries = [entry]
    if earlier is not None:
        for old in _entries(earlier, entry["name"]):
            if old["version"] != entry["version"]:
                entries.append(old)
            elif old["digest"] != entry["digest"]:
                raise RefusedError(f"{chart.path.name}: {earlier} has another chart of this version; raise the version")
    target = chart.path.with_name("index.yaml")
    tree = {"apiVersion": "v1", "entries": {entry["name"]: entries}, "generated": when}
    target.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120))
    return Made("chart's index", target, "for helm repo add")


def _entries(file: Path, name: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = yaml.safe_load(file.read_text())["entries"][name]
        return [{**each, "version": each["version"], "digest": each["digest"]} for each in found]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise RefusedError(f"{file} is no index of {name}: {error}") from None
