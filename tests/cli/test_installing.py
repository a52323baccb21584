"""What is said where a library is missing: a command that works on that machine."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from gpu_exporter import installing


@pytest.fixture
def of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that is no virtual environment; the file says that it is its distribution's."""
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path) if name == "stdlib" else "")
    managed = tmp_path / "EXTERNALLY-MANAGED"
    managed.touch()
    return managed


@pytest.mark.parametrize("packages", [("bcrypt",), ("aiohttp", "dnspython")], ids=str)
def test_a_python_of_ones_own_has_pip(of_the_system: Path, packages: tuple[str, ...]) -> None:
    of_the_system.unlink()
    assert installing.advice(*packages) == f"run: pip install {' '.join(packages)}"


@pytest.mark.usefixtures("of_the_system")
def test_a_virtual_environment_has_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/root/gpu")
    assert installing.advice("bcrypt") == "run: pip install bcrypt"


@pytest.mark.parametrize(
    ("packages", "apt", "words"),
    [
        (("bcrypt",), "/usr/bin/apt-get", "run: apt-get install python3-bcrypt"),
        (("bcrypt",), None, "in a virtual environment (docs/INSTALL.md)"),
        (("aiohttp",), "/usr/bin/apt-get", "in a virtual environment (docs/INSTALL.md)"),
        (("bcrypt", "aiohttp"), "/usr/bin/apt-get", "in a virtual environment (docs/INSTALL.md)"),
    ],
    ids=str,
)
def test_the_systems_python_refuses_pip(
    of_the_system: Path, monkeypatch: pytest.MonkeyPatch, packages: tuple[str, ...], apt: str | None, words: str
) -> None:
    assert of_the_system.exists()
    monkeypatch.setattr("shutil.which", lambda _: apt)
    assert installing.advice(*packages).endswith(words)
