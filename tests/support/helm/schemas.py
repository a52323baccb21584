"""The schemas that an API server has: Kubernetes' own from kubernetes-validate, the operators' from crds/."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate.utils
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry, Resource

# The three that are maintained, and the oldest that the chart is tested for.
VERSIONS = ("1.30", "1.35", "1.36", "1.37")
Validator = Draft7Validator | Draft202012Validator


@functools.cache
def _custom() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted((Path(__file__).parent / "crds").glob("*.json")):
        found |= json.loads(path.read_text())["schemas"]
    return found


@functools.cache
def _contents(name: str, version: str) -> Any:
    return kubernetes_validate.utils.schema_contents(
        f"kubernetes-json-schema/v{version}.0-local-strict/{name}", version
    )


@functools.cache
def _registry(version: str) -> Any:
    return Resource.from_contents(_contents("_definitions.json", version)) @ Registry()


@functools.cache
def _validator(version: str, api: str, kind: str) -> Validator:
    custom = _custom().get(f"{api}/{kind}")
    if custom is not None:
        return Draft7Validator(custom)
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    schema = _contents(f"{kind.lower()}-{group}.json", version)
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _registry(version))


def mistakes(item: dict[str, Any], version: str) -> list[str]:
    """What the API server of that version would refuse; unknown fields as well, which a real one drops silently."""
    validator = _validator(version, item["apiVersion"], item["kind"])
    name = f"{item['kind']} {item['metadata']['name']}"
    return [
        f"{version}: {name}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in validator.iter_errors(item)
    ]
