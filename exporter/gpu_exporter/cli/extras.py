"""Libraries that not every command needs, and what to do where they are missing."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

import click

from gpu_exporter.config.installed import remedy

# Modules whose package has another name, as pip is asked for it.
_PACKAGES: Final = {
    "dns": "dnspython",
    # See pyproject.toml: newer ones end Python before 3.12.
    "PySide6": "pyside6-essentials" if sys.version_info >= (3, 12) else "pyside6-essentials<6.12",
}


def missing(modules: Sequence[str]) -> dict[str, str]:
    """The modules that are not installed, and the packages that have them, as pip knows them."""
    return {name: _PACKAGES.get(name, name) for name in modules if find_spec(name) is None}


def need(command: str, modules: Sequence[str], *, also: Sequence[str] = ()) -> None:
    """Raise ClickException where one of the modules is not installed; it names what brings them, and ``also`` those."""
    if missing(modules):
        packages = missing([*modules, *also])
        names = ", ".join(_known_as(module, package) for module, package in packages.items())
        raise click.ClickException(f"{command} needs {names}; {remedy([*packages.values()])}")


def _known_as(module: str, package: str) -> str:
    """What people call it: PySide6 rather than the part of it that is enough, dnspython rather than dns."""
    name = re.split("[<>=]", package)[0]
    return module if name.startswith(f"{module.lower()}-") else name
