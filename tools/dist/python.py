"""Wheel and sdist."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tools.dist.made import Made, RefusedError, same
from tools.lab import ROOT


def packages(folder: Path, moment: int) -> Iterable[Made]:
    """Built by what is locked, twice: where the bytes differ, nobody could check them from the sources."""
    built = [_built(folder / ".built" / name, moment) for name in ("first", "second")]
    for first, second in zip(*built, strict=True):
        target = folder / "python" / first.name
        target.parent.mkdir(exist_ok=True)
        same(first, second)
        first.rename(target)
        kind = "wheel" if target.suffix == ".whl" else "sdist"
        yield Made(kind, target, "for PyPI; built twice, the same bytes")


def _built(folder: Path, moment: int) -> list[Path]:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)],
        cwd=ROOT,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(moment)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RefusedError(f"hatchling: {done.stderr.strip()}")
    return sorted(folder.iterdir())
