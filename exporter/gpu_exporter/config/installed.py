"""How this program was installed, and what brings a Python library to it there."""

from __future__ import annotations

import shlex
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

# Debian's package of what is named in our documentation to be installed with apt-get.
_DEBIAN: Final = {"bcrypt": "python3-bcrypt"}
_SYSTEM: Final = Path("/usr/bin")
_ENVIRONMENT: Final = "~/gpu"
# Where pipx keeps its environments when nobody says so, newer and older versions.
_PIPX_HOMES: Final = (".local/share/pipx", ".local/pipx")


@dataclass(frozen=True, slots=True)
class Installation:
    """The Python that runs this program, and where the program lies.

    ``home`` is the folder that has the package in it, or the one file. ``managed`` is a Python that keeps pip out (PEP
    668); ``isolated`` one that looks for libraries where its own are, and nowhere else. ``has_venv``: it can make
    virtual environments with pip in them, which Debian has in a package of its own.
    """

    python: Path
    prefix: Path
    home: Path
    environment: bool
    managed: bool
    isolated: bool
    has_pip: bool
    has_apt: bool
    has_venv: bool

    @classmethod
    def here(cls) -> Installation:
        """That of this process."""
        return cls(
            python=Path(sys.executable or "python3"),
            prefix=Path(sys.prefix),
            home=Path(__file__).parents[2],
            environment=sys.prefix != sys.base_prefix,
            managed=(Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists(),
            isolated=bool(sys.flags.isolated),
            has_pip=find_spec("pip") is not None,
            has_apt=shutil.which("apt-get") is not None,
            has_venv=find_spec("ensurepip") is not None,
        )

    def remedy(self, packages: Sequence[str]) -> str:
        """What somebody does who needs these packages here: how a message goes on after a semicolon."""
        wanted = " ".join(map(shlex.quote, packages))
        if self.environment:
            return self._in_environment(wanted)
        if self.has_apt and self.python.parent == _SYSTEM and all(package in _DEBIAN for package in packages):
            return f"run: apt-get install {' '.join(_DEBIAN[package] for package in packages)}"
        if self.managed or self.isolated or not self.has_pip:
            first = "apt-get install python3-venv && " if self.has_apt and not self.has_venv else ""
            return (
                f"run: {first}python3 -m venv {_ENVIRONMENT} && {_ENVIRONMENT}/bin/pip install {wanted}, "
                f"and from then on: {self._from_environment()}"
            )
        return f"run: {_word(self.python)} -m pip install {wanted}"

    def _in_environment(self, wanted: str) -> str:
        if (self.prefix / "healthcheck.py").exists():
            return "the container's image does without: run it outside of the container, with --target HOST:9435"
        if (self.prefix / "pipx_metadata.json").exists():
            home = self.prefix.parent.parent
            usual = home in [Path.home() / place for place in _PIPX_HOMES]
            return f"run: {'' if usual else f'PIPX_HOME={_word(home)} '}pipx inject {_word(self.prefix.name)} {wanted}"
        if self.has_pip:
            return f"run: {_word(self.python)} -m pip install {wanted}"
        try:
            of_uv = "\nuv = " in f"\n{(self.prefix / 'pyvenv.cfg').read_text(encoding='utf-8')}"
        except (OSError, UnicodeDecodeError):
            of_uv = False
        if of_uv:
            return f"run: uv pip install --python {_word(self.python)} {wanted}"
        return f"run: python3 -m pip --python {_word(self.python)} install {wanted}"

    def _from_environment(self) -> str:
        """How the program is run by the Python of an environment beside it."""
        if self.home.is_file():
            return f"{_ENVIRONMENT}/bin/python {_word(self.home)}"
        return f"PYTHONPATH={_word(self.home)} {_ENVIRONMENT}/bin/python -m gpu_exporter"


def remedy(packages: Sequence[str]) -> str:
    """What somebody does who needs these packages in this process: how a message goes on after a semicolon."""
    return Installation.here().remedy(packages)


def _word(path: Path | str) -> str:
    return shlex.quote(str(path))
