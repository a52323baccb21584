"""The description of the HTTP interface."""

from __future__ import annotations

import json
from importlib import resources

from gpu_exporter import __version__


def description(*, telemetry_path: str) -> bytes:
    """openapi.json with this release's version and the path that /metrics has here."""
    text = resources.files("gpu_exporter.pages").joinpath("openapi.json").read_text("utf-8")
    document = json.loads(text)
    document["info"]["version"] = __version__
    document["paths"] = {
        telemetry_path if path == "/metrics" else path: operations for path, operations in document["paths"].items()
    }
    return json.dumps(document, indent=1).encode()
