"""What is installed: one package, its data, one command."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from gpu_exporter import __version__
from harness import ROOT

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


def test_imports_point_one_way() -> None:
    """cli -> daemon -> web, server, sampler -> accounting, exposition, poller, sources -> model -> catalog."""
    order = [
        *("columns", "catalog", "parsers", "config", "model", "poller", "logs", "notify"),
        *("sources", "owners", "tenancy", "processes", "accounting", "exposition", "reference", "report"),
        *("sampler", "access", "connections", "handler", "server", "status_page", "web", "daemon", "oneshot"),
        *("doctor", "cli_report", "cli", "__main__"),
    ]
    rank = {name: position for position, name in enumerate(order)}
    for path in SOURCES.rglob("*.py"):
        relative = path.relative_to(SOURCES)
        layer = relative.parts[0].removesuffix(".py")
        if layer == "__init__":
            continue
        assert layer in rank, f"{relative} has no place in the order of imports"
        for imported in re.findall(r"^\s*from gpu_exporter\.(\w+)", path.read_text(), re.MULTILINE):
            assert rank[imported] <= rank[layer], f"{relative} imports {imported}"


def test_importing_does_nothing() -> None:
    code = (
        "import sys, threading; before = set(threading.enumerate())\n"
        "import gpu_exporter.cli, gpu_exporter.daemon, gpu_exporter.doctor, gpu_exporter.oneshot\n"
        "import gpu_exporter.reference, gpu_exporter.report\n"
        "assert set(threading.enumerate()) == before\n"
        "assert 'pynvml' not in sys.modules, 'a simulated fleet needs no binding'\n"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCES.parent)}, check=True)
