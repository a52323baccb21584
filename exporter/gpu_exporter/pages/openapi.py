"""The description of the HTTP interface."""

from __future__ import annotations

import json
from typing import Any

from gpu_exporter import __version__
from gpu_exporter.catalog.owner_kinds import KIND_LABELS


def description(*, telemetry_path: str) -> bytes:
    """openapi.json with this release's version and the path that /metrics has here."""
    from importlib import resources  # noqa: PLC0415 - a MiB, for a page that hardly anybody asks for

    text = resources.files("gpu_exporter.pages").joinpath("openapi.json").read_text("utf-8")
    document = json.loads(text)
    document["info"]["version"] = __version__
    schemas = document["components"]["schemas"]
    schemas["Process"]["properties"] = _with_kind_labels(schemas["Process"]["properties"])
    document["paths"] = {
        telemetry_path if path == "/metrics" else path: operations for path, operations in document["paths"].items()
    }
    return json.dumps(document, indent=1).encode()


def _with_kind_labels(process: dict[str, Any]) -> dict[str, Any]:
    """A process's properties with the labels of owner kinds, in the place that they have among the labels."""
    names = [*process]
    after = names.index("container") + 1
    names[after:after] = KIND_LABELS
    return {name: process.get(name, {"type": "string"}) for name in names}
