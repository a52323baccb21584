"""gpu-exporter.pyz: one file that runs where nothing is installed."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.exporter import Exporter, parse, run
from tools.lab.nvml_stub import Stub

from gpu_exporter import __version__

SOURCES = ROOT / "exporter/gpu_exporter"
# Neither PYTHONPATH nor the site's packages: what the archive lacks is not there.
BARE = [sys.executable, "-I", "-S"]


def make(folder: Path) -> Path:
    target = folder / "gpu-exporter.pyz"
    done = subprocess.run(
        [sys.executable, "tools/pyz.py", str(target)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d kB with click-.*, nvidia_ml_py-.*, prometheus_client-.*, pyyaml-", done.stdout)
    return target


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("pyz"))


def contents(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist() if not name.endswith("/")}


def test_it_serves_what_the_installed_exporter_serves(
    pyz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.lab.exporter.command", lambda: [*BARE, str(pyz)])
    with Exporter(tmp_path, "--source=fake", "--fake.gpus=2") as exporter:
        exporter.wait_value(1, "gpu_exporter_last_sample_success")
        names = {name for name, _ in exporter.samples()}
        assert exporter.value("gpu_exporter_build_info", version=__version__) == 1
        pages = [exporter.status(page) for page in ("/", "/readyz", "/api/v1/gpus", "/api/v1/openapi.json")]
        assert pages == [200] * 4, "data files are read from the archive"
    monkeypatch.undo()
    installed = run("sample", "--source=fake", "--fake.gpus=2", "--format=prometheus")
    assert {name for name, _ in parse(installed.stdout)} <= names


def test_it_reads_gpus_through_the_drivers_library(pyz: Path, library: Path, stub: Callable[..., Stub]) -> None:
    done = subprocess.run(
        [*BARE, str(pyz), "sample"],
        env={**os.environ, **stub("a100", "l40s").env(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "A100" in done.stdout
    assert "L40S" in done.stdout


def test_it_is_a_program_of_its_own(pyz: Path) -> None:
    done = subprocess.run([str(pyz), "--version"], capture_output=True, text=True, check=False)
    assert done.stdout == f"gpu-exporter {__version__}\n", done.stderr


def test_it_holds_python_and_nothing_that_is_compiled(pyz: Path) -> None:
    files = contents(pyz)
    tracked = subprocess.run(["git", "ls-files", "."], cwd=SOURCES, capture_output=True, text=True, check=True)
    assert {f"gpu_exporter/{name}" for name in tracked.stdout.split()} <= set(files)
    assert not [name for name in files if name.endswith((".so", ".pyc", ".pyd"))]
    assert not [name for name, body in files.items() if body.startswith((b"\x7fELF", b"MZ"))]
    for package in ("click", "prometheus_client", "yaml"):
        assert f"{package}/__init__.py" in files
    assert "pynvml.py" in files
    assert "LICENSE" in files
    assert [name for name in files if re.match(r"pyyaml-.*/LICENSE", name)], "what is passed on has its licence with it"


def test_every_file_is_good_for_the_oldest_python(pyz: Path) -> None:
    files = contents(pyz)
    for name, body in files.items():
        if name.endswith(".py"):
            ast.parse(body, name, feature_version=(3, 10))
    wanted = {
        name: re.search(rb"^Requires-Python: (.*)$", body, re.MULTILINE)
        for name, body in files.items()
        if name.endswith("/METADATA")
    }
    assert len(wanted) >= 4
    for name, found in wanted.items():
        assert found is None or re.search(rb">=\s*(2|3\.\d\b|3\.10\b)", found[1]), name
    ast.parse(files["__main__.py"], feature_version=(3, 4))
    pretend = f"import sys; sys.version_info = (3, 9, 2)\n{files['__main__.py'].decode()}"
    done = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "gpu-exporter: Python 3.10 or newer is needed, and this is 3.9\n")


def test_the_same_sources_give_the_same_bytes(pyz: Path, tmp_path: Path) -> None:
    again = make(tmp_path)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(pyz.read_bytes()).digest()
    with zipfile.ZipFile(io.BytesIO(again.read_bytes()[again.read_bytes().index(b"PK") :])) as opened:
        assert {entry.date_time for entry in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_failure_of_pip_is_not_hidden(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "tools/pyz.py", str(tmp_path / "never.pyz")],
        cwd=ROOT,
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "No matching distribution found" in done.stderr
    assert not (tmp_path / "never.pyz").exists()
