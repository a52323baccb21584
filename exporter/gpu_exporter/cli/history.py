"""What the commands around a history file have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gpu_exporter.config import ConfigError
from gpu_exporter.config.parsers import RefusedError

T = TypeVar("T")


def with_history(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option that names the file."""
    return click.option(
        "--history.path",
        "history",
        required=required,
        envvar="GPU_EXPORTER_HISTORY_PATH",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help="The history: one SQLite file; docs/HISTORY.md.",
    )


def parsed(place: str, text: str, parse: Callable[[Any], T]) -> T:
    """What was written, as a value. Raises ConfigError."""
    try:
        return parse(text)
    except RefusedError as error:
        raise ConfigError(f"{place}: {error}") from None
