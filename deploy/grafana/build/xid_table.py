"""What each XID means and what to do, read from docs/runbooks/XID.md: one table for people and dashboards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from build.looks import BLUE, GREY, ORANGE, RED, Names

PAGE: Final = Path(__file__).resolve().parents[3] / "docs/runbooks/XID.md"
_ROW: Final = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| .+? \| (critical|warning|none) \|$", re.MULTILINE)
_COLORS: Final = {"critical": RED, "warning": ORANGE, "none": BLUE}


@dataclass(frozen=True)
class Xid:
    """One row: what happened, the class of what to do, and the severity of its alert."""

    number: str
    meaning: str
    action: str
    severity: str


def xids() -> list[Xid]:
    """The rows of the page; raises ValueError where it has none."""
    rows = [Xid(*found) for found in _ROW.findall(PAGE.read_text("utf-8"))]
    if not rows:
        raise ValueError(f"{PAGE}: no table of XID numbers")
    return rows


def meanings() -> Names:
    """Number -> what happened."""
    return {row.number: (re.sub(r": \[.*", "", row.meaning), "") for row in xids()}


def actions() -> Names:
    """Number -> what to do, in the colour of its severity."""
    return {row.number: (row.action, GREY if row.action == "nothing" else _COLORS[row.severity]) for row in xids()}
