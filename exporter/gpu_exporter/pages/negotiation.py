"""Which format and encoding a client wants, and whether it has the page already (RFC 9110, 12.5 and 13.1.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable


def wants_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics 1.0 is asked for by name and nothing that we would serve instead is wanted more.

    Protobuf is not served; parameters such as ``escaping`` change nothing, since no name of ours needs it. Someone who
    accepts neither format gets the text one: scrapers and curl do better with an answer than with a 406.
    """
    openmetrics = 0.0
    text: dict[str, float] = {}
    for name, parameters, weight in _weighted(accept):
        if name == "application/openmetrics-text":
            if parameters.get("version", "1.0.0") == "1.0.0":
                openmetrics = max(openmetrics, weight)
        elif name in {"text/plain", "text/*", "*/*"}:
            text[name] = max(text.get(name, 0.0), weight)
    # The most precise range that covers text/plain decides about it.
    other = next((text[name] for name in ("text/plain", "text/*", "*/*") if name in text), 0.0)
    return openmetrics > 0 and openmetrics >= other


def wants_page(accept: str) -> bool:
    """Whether a page is asked for by name, as browsers do; a program that takes anything gets a line of text."""
    return any(weight > 0 for name, _, weight in _weighted(accept) if name == "text/html")


def wants_gzip(accept_encoding: str) -> bool:
    """Whether gzip is accepted, and not less than no encoding."""
    weights = {name: weight for name, _, weight in _weighted(accept_encoding)}
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def has_already(if_none_match: str, tags: Iterable[str]) -> bool:
    """Whether an If-None-Match header has one of these entity tags (without their quotation marks), weak or strong."""
    told = re.findall(r'(?:W/)?"([^"]*)"', if_none_match)
    return if_none_match.strip() == "*" or not set(tags).isdisjoint(told)


def _weighted(header: str) -> list[tuple[str, dict[str, str], float]]:
    """The items of an Accept header with parameters and weight. What cannot be read weighs nothing."""
    items = []
    for item in header.split(","):
        name, *pieces = (piece.strip() for piece in item.lower().split(";"))
        pairs = (piece.partition("=") for piece in pieces)
        parameters = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            weight = 0.0
        items.append((name, parameters, weight if 0.0 <= weight <= 1.0 else 0.0))
    return items
