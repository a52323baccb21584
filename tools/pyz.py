"""Make gpu-exporter.pyz: the exporter and what it needs in one file, for any Python from 3.10 on.

usage: tools/pyz.py [FILE]

Nothing has to be installed beside it, and only Python goes in, so the same file runs on every processor and version:
PyYAML comes without its C part, which nothing here needs, and passwords (the extra ``auth``: bcrypt) are left out.
The same sources give the same bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipapp
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "exporter/gpu_exporter"
OLDEST = "3.10"
LOCKED = ROOT / "requirements/pyz.txt"
# Old Pythons have to understand this file to say that they are too old.
MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("gpu-exporter: Python 3.10 or newer is needed, and this is %d.%d" % sys.version_info[:2])

from gpu_exporter.cli import main

main()
"""
_LEFT_OUT = (
    "*.so",
    "*.pyi",
    "*.pyx",
    "*.pxd",
    "__pycache__",
    "bin",
    "_yaml",
    "RECORD",
    "direct_url.json",
    "REQUESTED",
    "example.py",
)
_MOMENT = 315_532_800  # 1980-01-01, the beginning of a zip file's time


def main() -> int:
    """Write the file and say what is in it."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist/gpu-exporter.pyz")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-exporter-pyz-") as name:
        folder = Path(name)
        if not fetched(folder):
            return 1
        trim(folder)
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "LICENSE", folder / "LICENSE")
        (folder / "__main__.py").write_text(MAIN)
        parts = sorted(path.name.removesuffix(".dist-info") for path in folder.glob("*.dist-info"))
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (_MOMENT, _MOMENT))
        zipapp.create_archive(folder, target, interpreter="/usr/bin/env python3", compressed=True)
        target.chmod(0o755)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB with {', '.join(parts)}")
    return 0


def fetched(folder: Path) -> bool:
    """Install what is locked into the folder, as for the oldest Python that we run on; pip says what went wrong."""
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        # The choice of a wheel, not of a machine: what is compiled in it is thrown away.
        *("--only-binary=:all:", f"--python-version={OLDEST}", "--platform=manylinux2014_x86_64"),
        *("--target", str(folder), "--require-hashes", f"--requirement={LOCKED}"),
    ]
    return subprocess.run(command, check=False).returncode == 0  # noqa: S603


def trim(folder: Path) -> None:
    """Leave out what is compiled, and what names the machine that this was made on."""
    for pattern in _LEFT_OUT:
        for path in sorted(folder.rglob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


if __name__ == "__main__":
    sys.exit(main())
