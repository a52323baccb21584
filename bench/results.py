"""RESULTS.md has two parts, by two commands: the exporter's, and below it the faces'. Each leaves the other's alone."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
FACES = "<!-- Written by `python -m bench.faces --write`; do not edit. -->"


def write_exporter(text: str, file: Path = RESULTS) -> None:
    """What the exporter costs, in place of what stood there."""
    _write(file, text, _parts(file)[1])


def write_faces(text: str, file: Path = RESULTS) -> None:
    """What top and the window cost, in place of what stood there."""
    _write(file, _parts(file)[0], text)


def _parts(file: Path) -> tuple[str, str]:
    """The exporter's part and the faces', each empty where it was never written."""
    exporter, _, faces = (file.read_text() if file.exists() else "").partition(FACES)
    return exporter, faces


def _write(file: Path, exporter: str, faces: str) -> None:
    parts = [exporter.strip("\n"), f"{FACES}\n{faces.strip(chr(10))}" if faces.strip() else ""]
    file.write_text("\n\n".join(filter(None, parts)) + "\n")
