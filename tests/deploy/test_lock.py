"""requirements/: every version that is installed anywhere, with hashes, in step with pyproject.toml."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tools.lab import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = ROOT / "requirements"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PROCESSORS = ("x86_64", "aarch64")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME: list[str] = PROJECT["project"]["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]
BUILD = GROUPS["build"]
# What is asked for in each file.
SETS = {
    **GROUPS,
    "image": [*RUNTIME, *EXTRAS["auth"], *EXTRAS["hub"], *EXTRAS["kubernetes"]],
    "hub": [*RUNTIME, *EXTRAS["hub"]],
    "top": [*RUNTIME, *EXTRAS["top"]],
    "desktop": [*RUNTIME, *EXTRAS["desktop"]],
    "pyz": [*RUNTIME, *EXTRAS["kubernetes"]],
    "demo": [*RUNTIME, *EXTRAS["demo"], *EXTRAS["hub"]],
    **{name: [*RUNTIME, *EXTRAS[name]] for name in ("dev", "bench", "previews")},
}


def locked(path: Path) -> list[tuple[Requirement, int]]:
    """What the file pins, each with the number of its hashes."""
    joined = re.sub(r"\\\n\s*", "", path.read_text())
    found = []
    for line in joined.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            wanted, *hashes = line.split("--hash=")
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", one) for one in hashes), wanted
            found.append((Requirement(wanted), len(hashes)))
    return found


def versions(name: str, python: str, processor: str) -> dict[str, Version]:
    """What the set installs there, by package."""
    where = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": processor,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    found: dict[str, Version] = {}
    for requirement, _ in locked(FOLDER / f"{name}.txt"):
        if requirement.marker is None or requirement.marker.evaluate(where):
            package = canonicalize_name(requirement.name)
            assert package not in found, f"{name}.txt has {package} twice for Python {python} on {processor}"
            (pin,) = requirement.specifier
            assert pin.operator == "==", requirement
            found[package] = Version(pin.version)
    return found


def test_a_file_a_set() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(SETS)
    script = (ROOT / "tools/lock").read_text()
    assert set(re.findall(r"^write (\w+)", script, re.MULTILINE)) == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_everything_has_a_hash_and_nothing_names_an_index(name: str) -> None:
    pins = locked(FOLDER / f"{name}.txt")
    assert pins
    assert [str(requirement) for requirement, hashes in pins if not hashes] == []
    text = (FOLDER / f"{name}.txt").read_text()
    assert not re.search(r"://|^\s*-[a-z]|^\s*--(?!hash)", text, re.MULTILINE), "who installs it knows its own"


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", SETS)
def test_what_pyproject_asks_for_is_locked(name: str, python: str, processor: str) -> None:
    has = versions(name, python, processor)
    for line in SETS[name]:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"python_version": python}):
            version = has.get(canonicalize_name(wanted.name))
            assert version is not None, f"{name}.txt lacks {wanted.name} on Python {python}: make lock"
            assert version in wanted.specifier, f"{name}.txt has {wanted.name} {version}, wanted is {line}: make lock"


@pytest.mark.parametrize("python", PYTHONS)
def test_what_runs_is_what_was_tested(python: str) -> None:
    tested = versions("dev", python, "x86_64")
    for name in set(SETS) - {"dev"}:
        for package, version in versions(name, python, "x86_64").items():
            assert tested.get(package, version) == version, f"{name}.txt has {package} {version}, dev.txt another"


def test_these_tests_run_on_what_is_locked() -> None:
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("this is not the environment that make setup makes")
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for package, version in versions("dev", python, "x86_64").items():
        assert Version(metadata.version(package)) == version, f"{package}: make setup"


def test_what_lints_is_pinned() -> None:
    """A release of ruff or mypy must not turn a pull request red that has nothing to do with it."""
    pins = {requirement.name: requirement.specifier for requirement in map(Requirement, EXTRAS["dev"])}
    for name in ("ruff", "mypy"):
        (pin,) = pins[name]
        assert pin.operator == "=="


def test_what_installs_installs_what_is_locked() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(BUILD)
    for path in ("Dockerfile", "tools/setup", "tools/pyz.py"):
        text = (ROOT / path).read_text()
        assert "--require-hashes" in text, path
        named = set(re.findall(r"requirements/(\w+)\.txt", text))
        assert named, path
        assert named <= set(SETS), path
    installs = re.findall(r"pip[^\n]* install .*(?:\\\n.*)?", (ROOT / "Dockerfile").read_text())
    assert len(installs) == 3
    assert all("--require-hashes" in command or "--no-deps" in command for command in installs)
