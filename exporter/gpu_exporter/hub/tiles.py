"""A GPU as a tile. In Python, because a page may have eight thousand: a template's macro takes five times as long."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

from markupsafe import Markup, escape

from gpu_exporter.hub.state import Gpu
from gpu_exporter.hub.words import STATE_WORDS, called, percent


@lru_cache(maxsize=16384)
def machine_url(name: str) -> str:
    """Where a machine's page is."""
    return f"/machines/{quote(name, safe='')}"


def gpu_url(gpu: Gpu) -> str:
    """Where a GPU's page is."""
    return f"{machine_url(gpu.node)}/gpus/{gpu.index}"


def tile(gpu: Gpu, dim: bool = False) -> Markup:
    """A link with the GPU's number, its state as a colour and a pattern, and in words for whoever sees neither."""
    words = f"GPU {gpu.index}: {STATE_WORDS[gpu.state]}"
    if gpu.utilization is not None:
        words += f", {percent(gpu.utilization)}"
    if gpu.why:
        words += f", {gpu.why}"
    if gpu.holders:
        words += f", held by {', '.join(map(called, gpu.holders))}"
    told = escape(words)
    level = 0 if gpu.utilization is None else round(gpu.utilization * 10)
    # What stands between the quotes is escaped, quoted for URLs, a number or one of our own words.
    return Markup(  # noqa: S704
        f'<a class="tile {gpu.state} u{level}{" dim" if dim else ""}" href="{gpu_url(gpu)}" title="{told}" '
        f'aria-label="{told}">{gpu.index}</a>'
    )
