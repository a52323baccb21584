"""What was made, and why something was not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


class RefusedError(Exception):
    """Something cannot be made from this checkout; the text says why."""


class LeftOutError(Exception):
    """This machine cannot make it; the text says what it lacks. In CI that is a failure."""


@dataclass(frozen=True)
class Made:
    """One file of a release."""

    what: str
    path: Path
    note: str

    @property
    def sum(self) -> str:
        """Its SHA-256, in hexadecimal digits."""
        with self.path.open("rb") as file:
            digest = hashlib.sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()


def same(first: Path, second: Path) -> None:
    """Raise RefusedError where two builds of one thing differ."""
    if first.name != second.name or first.read_bytes() != second.read_bytes():
        raise RefusedError(f"{first.name}: built twice, and the bytes differ")
