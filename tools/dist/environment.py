"""Programs that are not part of the exporter, each in an environment of its own in .build, with what is locked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.dist.made import LeftOutError
from tools.lab import ROOT


def environment(name: str) -> Path:
    """The folder of programs that ``requirements/NAME.txt`` installs. Raises LeftOutError where they cannot be had."""
    wanted = (ROOT / f"requirements/{name}.txt").read_text()
    folder = ROOT / ".build" / name
    stamp = folder / "stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        done = subprocess.run(
            [*pip, f"--requirement=requirements/{name}.txt"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["pip said nothing"]
            raise LeftOutError(f"requirements/{name}.txt cannot be installed: {said[-1]}")
        stamp.write_text(wanted)
    return folder / "bin"
