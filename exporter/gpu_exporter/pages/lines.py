"""Sample lines, written as prometheus_client writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client.utils import floatToGoString

go_number: Final[Callable[[float], str]] = floatToGoString


def sample_head(name: str, labels: Mapping[str, str]) -> str:
    """A sample line up to its value: labels sorted by name, as prometheus_client has them."""
    pairs = [f'{label}="{_escaped(labels[label])}"' for label in sorted(labels)]
    return f"{name}{{{','.join(pairs)}}} " if pairs else f"{name} "


def _escaped(value: str) -> str:
    """A label value as both formats want it. Half a surrogate pair, which UTF-8 cannot encode, becomes U+FFFD."""
    if not value.isascii():
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
