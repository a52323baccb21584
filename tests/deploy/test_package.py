"""What is installed: one package, its data, one command."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from tools.lab import ROOT

from gpu_exporter import __version__

SOURCES = ROOT / "exporter/gpu_exporter"


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            f"--wheel-dir={tmp_path}",
            ".",
        ],
        cwd=ROOT,
        check=True,
    )
    (wheel,) = tmp_path.iterdir()
    assert wheel.name == f"gpu_exporter-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"gpu_exporter-{__version__}.dist-info/METADATA").decode()
        entry_points = archive.read(f"gpu_exporter-{__version__}.dist-info/entry_points.txt").decode()
    installed = {name for name in names if not name.startswith(f"gpu_exporter-{__version__}.dist-info/")}
    tracked = subprocess.run(["git", "ls-files", "."], cwd=SOURCES, capture_output=True, text=True, check=True)
    assert installed >= {f"gpu_exporter/{name}" for name in tracked.stdout.split()}
    assert all(name.startswith("gpu_exporter/") for name in installed)
    assert "gpu-exporter = gpu_exporter.cli:main" in entry_points
    required = {
        re.split(r"[<>=; ]", line)[1] for line in re.findall(r"Requires-Dist: .*", metadata) if "extra ==" not in line
    }
    assert required == {"click", "nvidia-ml-py", "prometheus-client", "pyyaml"}
    page_of_pypi_leads_somewhere(metadata.partition("\n\n")[2])


def page_of_pypi_leads_somewhere(page: str) -> None:
    """README.md itself, with links and pictures of the tag's files."""
    here = f"gpu-exporter/gpu-exporter/blob/v{__version__}/", f"gpu-exporter/gpu-exporter/v{__version__}/"
    readme = page
    for before in (f"https://github.com/{here[0]}", f"https://raw.githubusercontent.com/{here[1]}"):
        assert before in page
        readme = readme.replace(before, "")
    assert readme.strip() == (ROOT / "README.md").read_text().strip()
    targets = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", page)
    assert all(target.startswith("https://raw." if picture else "https://github.com/") for picture, target in targets)


def test_importing_does_nothing() -> None:
    code = (
        "import sys, threading; before = set(threading.enumerate())\n"
        "import gpu_exporter.cli.group, gpu_exporter.daemon, gpu_exporter.cli.findings\n"
        "import gpu_exporter.catalog.reference, gpu_exporter.report\n"
        "assert set(threading.enumerate()) == before\n"
        "assert 'pynvml' not in sys.modules, 'a simulated fleet needs no binding'\n"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCES.parent)}, check=True)
