"""Sample lines, written as prometheus_client writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

# Go writes exponents from here on, Python later.
_EXPONENT: Final = 6  # digits before the point, and one


def go_number(value: float) -> str:
    """A number as Go writes it, and so prometheus_client."""
    number = float(value)
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
    text = repr(number)
    point = text.find(".")
    if number > 0 and point > _EXPONENT:
        mantissa = f"{text[0]}.{text[1:point]}{text[point + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{point - 1:02d}"
    return text


def sample_head(name: str, labels: Mapping[str, str]) -> str:
    """A sample line up to its value: labels sorted by name, as prometheus_client has them."""
    pairs = [f'{label}="{_escaped(labels[label])}"' for label in sorted(labels)]
    return f"{name}{{{','.join(pairs)}}} " if pairs else f"{name} "


def _escaped(value: str) -> str:
    """A label value as both formats want it. Half a surrogate pair, which UTF-8 cannot encode, becomes U+FFFD."""
    if not value.isascii():
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
