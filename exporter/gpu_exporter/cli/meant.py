"""What somebody meant who wrote a word where a command takes options only: the option that it belongs to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Final

import click

_EXTRA: Final = re.compile(r"Got unexpected extra arguments? \((.*)\)", re.DOTALL)
_ADDRESS: Final = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])?:\d{1,5}")
_EXPORTERS_PORT: Final = 9435
_HUBS_PORT: Final = 9436


def said(error: click.ClickException) -> str:
    """The refusal, with the option that an extra word belongs to, where one fits."""
    text = error.format_message()
    found = _EXTRA.fullmatch(text)
    if found is None or not isinstance(error, click.UsageError) or error.ctx is None:
        return text
    name, words = error.ctx.command.name or "", found[1].split()
    meant = _BY_COMMAND.get(name)
    hint = meant(words) if meant is not None and words else ""
    return f"{text}: {hint or f'gpu-exporter {name} --help lists the options that it takes'}"


def _looked_at(words: list[str]) -> str:
    """Of ``top``, ``free`` and ``desktop``: a hub, exporters, or a list of machines."""
    first = words[0]
    if _is_url(first):
        place = first.partition("://")[2].partition("/")[0]
        exporter = f"--target {shlex.quote(first if first.startswith('https:') else place)}"
        hub = f"--hub {shlex.quote(first)}"
        if place.endswith(f":{_EXPORTERS_PORT}"):
            return f"write {exporter}"
        if place.endswith(f":{_HUBS_PORT}"):
            return f"write {hub}"
        return f"write {hub} for a hub, or {exporter} for an exporter"
    if _is_list(first):
        return f"write --nodes.file {shlex.quote(first)}"
    if first.endswith(f":{_HUBS_PORT}"):
        return f"write --hub {shlex.quote(first)}"
    return f"write {' '.join(f'--target {shlex.quote(word)}' for word in words)} for exporters, or --hub URL for a hub"


def _recorded(words: list[str]) -> str:
    if words[0].endswith((".db", ".sqlite", ".sqlite3")):
        return f"write --history.path {shlex.quote(words[0])}"
    return f"write {' '.join(f'--target {shlex.quote(word)}' for word in words)}"


def _kept(words: list[str]) -> str:
    return f"write {'--prometheus.url' if _is_url(words[0]) else '--history.path'} {shlex.quote(words[0])}"


def _served(words: list[str]) -> str:
    if _is_list(words[0]):
        return f"write --config.file {shlex.quote(words[0])}"
    return f"write --web.listen-address {words[0]}" if _ADDRESS.fullmatch(words[0]) else ""


def _gathered(words: list[str]) -> str:
    if _is_list(words[0]):
        return f"write --nodes.file {shlex.quote(words[0])}"
    return f"write --web.listen-address {words[0]}" if _ADDRESS.fullmatch(words[0]) else ""


def _is_url(word: str) -> bool:
    return word.startswith(("http://", "https://"))


def _is_list(word: str) -> bool:
    return word.endswith((".yml", ".yaml", ".json"))


_BY_COMMAND: Final[dict[str, Callable[[list[str]], str]]] = {
    **dict.fromkeys(("top", "free", "desktop"), _looked_at),
    "record": _recorded,
    **dict.fromkeys(("report", "export"), _kept),
    "serve": _served,
    "hub": _gathered,
    "test-mail": lambda words: f"write --alertmanager.url {shlex.quote(words[0])}" if _is_url(words[0]) else "",
}
