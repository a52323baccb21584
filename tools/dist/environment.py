"""Programs that are not part of the exporter, each in an environment of its own in .build, with what is locked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.dist.made import LeftOutError
from tools.lab import ROOT

# By the environment's own Python: whether all that pip put there still lies there. Bytecode may come and go.
_LOOK: Final = """
import importlib.metadata as metadata
found = list(metadata.distributions())
files = [file for one in found for file in one.files or () if file.suffix != ".pyc"]
raise SystemExit(not found or not all(file.locate().exists() for file in files))
"""


def environment(name: str) -> Path:
    """The folder of programs that ``requirements/NAME.txt`` installs. Raises LeftOutError where they cannot be had.

    It is made anew where other packages are locked now, where it lay elsewhere (its programs begin with the path of its
    Python), and where something of it, or the Python that it was made of, is gone.
    """
    wanted = (ROOT / f"requirements/{name}.txt").read_text()
    # Several checkouts may share one folder by a link.
    folder = (ROOT / ".build" / name).resolve()
    stamp = folder / "stamp"
    made = f"{folder}\n{wanted}"
    if not (stamp.exists() and stamp.read_text() == made and _sound(folder)):
        done = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            # Debian's Python without python3-venv says so in its first lines, on its output.
            raise LeftOutError(f"{folder} cannot be made: {' '.join((done.stdout + done.stderr).split())}")
        pip = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        done = subprocess.run(
            [*pip, f"--requirement=requirements/{name}.txt"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["pip said nothing"]
            raise LeftOutError(f"requirements/{name}.txt cannot be installed: {said[-1]}")
        stamp.write_text(made)
    return folder / "bin"


def _sound(folder: Path) -> bool:
    try:
        return (
            subprocess.run([folder / "bin/python", "-I", "-c", _LOOK], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False
