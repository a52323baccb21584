"""The description of the API."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from gpu_exporter import __version__


@cache
def openapi_document() -> dict[str, Any]:
    """static/openapi.json with this release's version."""
    text = resources.files("gpu_exporter.hub").joinpath("static/openapi.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    document["info"]["version"] = __version__
    return document
