"""Everything that a release is made of, in dist/, and a table of it.

usage: python -m tools.dist [--no-images] [--charts.url URL] [--charts.index FILE]

  --no-images          without the images, which take minutes (with the one for arm64 a quarter of an hour)
  --charts.url URL     where the chart will be downloaded from, for its index
  --charts.index FILE  the index as it was published before: its versions are kept

What this machine cannot make is named with the reason and left out; where CI is set, that is a failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tools.dist import bom, deb, images, python
from tools.dist.index import index
from tools.dist.made import LeftOutError, Made, RefusedError
from tools.dist.moment import moment
from tools.lab import ROOT
from tools.release import ReleaseError, archive

from gpu_exporter import __version__

_URL = f"https://github.com/gpu-exporter/gpu-exporter/releases/download/v{__version__}"


def main() -> int:
    """Make it; 1 where something could not be made."""
    asked = argparse.ArgumentParser(prog="python -m tools.dist", description="Everything that a release is made of.")
    asked.add_argument("--no-images", action="store_true", help="without the images, which take minutes")
    asked.add_argument("--charts.url", dest="url", default=_URL, help="where the chart will be downloaded from")
    asked.add_argument("--charts.index", dest="earlier", type=Path, help="the index as it was published before")
    given = asked.parse_args()
    folder = ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    when = moment()
    steps: list[tuple[str, Iterable[Made]]] = [
        ("wheel and sdist", python.packages(folder, when)),
        ("single file", _pyz(folder)),
        ("deb", _one(lambda: deb.package(folder, when))),
        ("chart", _chart(folder, when, given.url, given.earlier)),
        ("parts list", bom.lists(folder)),
        *([] if given.no_images else images.images(folder)),
    ]
    made: list[Made] = []
    missing: list[tuple[str, str]] = []
    failed = False
    for name, step in steps:
        print(f"dist: {name}", file=sys.stderr, flush=True)
        try:
            made += step
        except LeftOutError as error:
            missing.append((name, f"left out: {error}"))
            failed |= "CI" in os.environ
        except (RefusedError, ReleaseError) as error:
            missing.append((name, f"failed: {error}"))
            failed = True
    shutil.rmtree(folder / ".built", ignore_errors=True)
    sums = "".join(f"{one.sum}  {one.path.name}\n" for one in made)
    (folder / "SHA256SUMS").write_text(sums)
    print(table(made, missing))
    return int(failed)


def table(made: Iterable[Made], missing: Iterable[tuple[str, str]]) -> str:
    """What was made, with its size and the beginning of its sum, and what was not, with the reason."""
    rows = [("WHAT", "FILE", "SIZE", "SHA256", "")]
    for one in made:
        size = f"{one.path.stat().st_size / 1000:,.0f} kB".replace(",", " ")
        rows.append((one.what, str(one.path.relative_to(ROOT)), size, one.sum[:12], one.note))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]
    return "\n".join([f"gpu-exporter {__version__}", "", *lines, *(f"{name}: {why}" for name, why in missing)])


def _one(make: Callable[[], Made]) -> Iterator[Made]:
    yield make()


def _pyz(folder: Path) -> Iterator[Made]:
    target = folder / "gpu-exporter.pyz"
    done = subprocess.run(
        [sys.executable, "tools/pyz.py", str(target)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RefusedError(f"tools/pyz.py: {done.stderr.strip()}")
    yield Made("single file", target, "Python 3.10 or newer, nothing beside it")


def _chart(folder: Path, when: int, url: str, earlier: Path | None) -> Iterator[Made]:
    chart = Made("chart", archive(ROOT / "helm/gpu-exporter", folder), "helm install gpu FILE")
    yield chart
    yield index(chart, url, when, earlier)


if __name__ == "__main__":
    sys.exit(main())
