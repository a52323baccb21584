"""tools/release.py: a tag that fits, its notes, and the chart as a registry gets it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from tools.lab import ROOT
from tools.release import _PLACES, ReleaseError, archive, notes, raise_to

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


@pytest.fixture
def named_everywhere(tmp_path: Path) -> Path:
    """Every file that names the version, as it is."""
    for name in (*_PLACES, "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_version_is_raised_everywhere(named_everywhere: Path) -> None:
    changed = raise_to(named_everywhere, "8.7.6rc5", "2026-12-31")
    assert set(changed) == {*_PLACES, "CHANGELOG.md"}
    for name in _PLACES:
        text = (named_everywhere / name).read_text()
        assert "8.7.6rc5" in text
        assert not [line for line in text.splitlines() if "gpu-exporter" in line and __version__ in line], name
    assert "## [Unreleased]\n\n## [8.7.6rc5] - 2026-12-31\n" in (named_everywhere / "CHANGELOG.md").read_text()
    assert notes(named_everywhere, "v8.7.6rc5").startswith("### Added"), "and the tag fits"
    assert raise_to(named_everywhere, "8.7.6rc5", "2027-01-01") == [], "once is enough"


def test_nothing_else_names_the_version() -> None:
    """A place that is forgotten here would go on naming the old one."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    pattern = re.compile(rf"gpu-exporter[_:-]v?{re.escape(__version__)}(?!\d)")
    named = {
        name
        for name in files
        if name.endswith((".md", ".yaml", ".yml", ".py", ".toml", ".service")) and not name.startswith("tests/")
        if (ROOT / name).is_file() and pattern.search((ROOT / name).read_text())
    }
    assert named <= set(_PLACES)


@pytest.mark.parametrize("version", ["v1.2.3", "1.2", "latest", ""])
def test_what_is_no_version_is_refused(named_everywhere: Path, version: str) -> None:
    with pytest.raises(ReleaseError, match=r"is no version; write 1\.2\.3"):
        raise_to(named_everywhere, version, "2026-12-31")
