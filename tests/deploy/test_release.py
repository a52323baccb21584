"""tools/release.py: a tag that fits, its notes, and the chart as a registry gets it."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
import yaml
from tools.lab import ROOT
from tools.release import ReleaseError, archive, notes

from gpu_exporter import __version__
from helm.rendering import CHART, chart, named, render, values_of

CHANGES = """\
# Changelog

## [Unreleased]

- Not yet.

## [{version}] - 2026-11-27

### Added

- A thing.

## [0.0.1] - 2025-01-01

- The first.
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What names a version, with a changelog that has it."""
    for name in ("exporter/gpu_exporter/__init__.py", "helm/gpu-exporter/Chart.yaml"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(CHANGES.format(version=__version__))
    return tmp_path


def test_the_notes_are_the_changelogs_part(checkout: Path) -> None:
    assert notes(checkout, f"v{__version__}") == "### Added\n\n- A thing."


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("exporter/gpu_exporter/__init__.py", __version__, "9.9.9", "__init__.py has 9.9.9, the tag is v"),
        ("helm/gpu-exporter/Chart.yaml", f"appVersion: {__version__}", "appVersion: 9.9.9", "Chart.yaml has 9.9.9"),
        ("CHANGELOG.md", f"[{__version__}]", "[9.9.9]", "has no section"),
        ("CHANGELOG.md", " - 2026-11-27", "", "write the day"),
    ],
    ids=["package", "chart", "changelog", "day"],
)
def test_a_tag_that_does_not_fit_is_refused(checkout: Path, file: str, old: str, new: str, why: str) -> None:
    text = (checkout / file).read_text()
    assert old in text
    (checkout / file).write_text(text.replace(old, new))
    with pytest.raises(ReleaseError, match=why):
        notes(checkout, f"v{__version__}")


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    made = archive(CHART, tmp_path / "dist")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    assert made.name == f"gpu-exporter-{version}.tgz"
    with tarfile.open(made) as tar:
        entries = tar.getmembers()
        assert all(entry.isreg() for entry in entries), "a link would lead nowhere"
        assert not [entry.name for entry in entries if entry.name.startswith(("gpu-exporter/ci", "gpu-exporter/icon"))]
        for entry in entries:
            file = tmp_path / "unpacked" / entry.name
            file.parent.mkdir(parents=True, exist_ok=True)
            body = tar.extractfile(entry)
            assert body is not None
            file.write_bytes(body.read())
    return tmp_path / "unpacked/gpu-exporter"


@pytest.mark.parametrize("case", ["default", "stack-full", "rules", "alertmanager-config"])
def test_the_archive_is_the_whole_chart(unpacked: Path, case: str) -> None:
    values = values_of(CHART / f"ci/{case}-values.yaml")
    assert render(values, path=unpacked).texts == named(case).texts
    assert chart(unpacked) is not chart()


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    assert archive(CHART, tmp_path / "a").read_bytes() == archive(CHART, tmp_path / "b").read_bytes()
