"""Where the releases of deploy/versions.env stand a second time, because what reads them there reads no other file.

``tools/versions.py`` writes them there, ``--check`` tells which places differ.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FILE: Final = "deploy/versions.env"
# Image and tag of each release.
IMAGES: Final = {
    "PROMETHEUS": ("prom/prometheus", "v{}"),
    "ALERTMANAGER": ("prom/alertmanager", "v{}"),
    "GRAFANA": ("grafana/grafana", "{}"),
}
# The pattern ends where the tag of the image ``{}`` begins.
PLACES: Final = {
    "deploy/compose.yaml": r"image: docker\.io/{}:",
    "helm/gpu-exporter/values.yaml": r"repository: {}\n(?: *#.*\n)* *tag: ",
    "helm/gpu-exporter/Chart.yaml": r"image: docker\.io/{}:",
}


@dataclass(frozen=True)
class Place:
    """One tag in one file: what stands there, and what is to stand there."""

    file: str
    line: int
    found: str
    wanted: str


def releases(root: Path = ROOT) -> dict[str, str]:
    """The releases by name. Raises SystemExit where the file has others than those that are known here."""
    found = dict(re.findall(r"^(\w+)=(\S+)$", (root / FILE).read_text(), re.MULTILINE))
    if found.keys() != IMAGES.keys():
        raise SystemExit(f"{FILE}: has {', '.join(found)}; expected are {', '.join(IMAGES)}, each as NAME=1.2.3")
    return found


def _patterns(root: Path) -> Iterator[tuple[str, re.Pattern[str], str]]:
    """File, pattern and tag of every place; the pattern's second group is the tag that stands there."""
    for name, release in releases(root).items():
        image, tag = IMAGES[name]
        for file, before in PLACES.items():
            yield file, re.compile(f"({before.format(re.escape(image))})(\\S+)"), tag.format(release)


def places(root: Path = ROOT) -> list[Place]:
    """Every place. Raises SystemExit where a file has none for one of the images."""
    found: list[Place] = []
    for file, pattern, wanted in _patterns(root):
        text = (root / file).read_text()
        here = [
            Place(file, text.count("\n", 0, match.start(2)) + 1, match[2], wanted) for match in pattern.finditer(text)
        ]
        if not here:
            raise SystemExit(f"{file}: no longer has what tools/versions.py looks for: {pattern.pattern}")
        found += here
    return found


def write(root: Path = ROOT) -> None:
    """Write the tags of deploy/versions.env into every place."""
    places(root)
    for file, pattern, wanted in _patterns(root):
        path = root / file
        path.write_text(pattern.sub(lambda match, tag=wanted: match[1] + tag, path.read_text()))  # type: ignore[misc]


def main(arguments: list[str]) -> int:
    """Write the tags, or tell where they differ."""
    if arguments != ["--check"]:
        write()
        return 0
    different = [place for place in places() if place.found != place.wanted]
    for place in different:
        print(
            f"{place.file}:{place.line}: has {place.found}, but {FILE} says {place.wanted}: edit {FILE}, run make docs",
            file=sys.stderr,
        )
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
