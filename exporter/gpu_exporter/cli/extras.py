"""Libraries that not every command needs, and what to do where they are missing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

import click

# Modules whose package has another name.
_PACKAGES: Final = {"dns": "dnspython", "PySide6": "pyside6-essentials"}


def need(command: str, modules: Sequence[str]) -> None:
    """Raise ClickException where one of the modules is not installed."""
    if missing := [_PACKAGES.get(name, name) for name in modules if find_spec(name) is None]:
        names = ", ".join(missing)
        raise click.ClickException(f"{command} needs {names}; run: pip install {' '.join(missing)}")
