"""Where releases lived: the table that closes `make test-cluster`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# The property of a test's report that holds one life.
LIFE = "life"
LEVELS = ("privileged", "baseline", "restricted")


@dataclass(frozen=True)
class Life:
    """A release of one file by one Helm in a namespace of one Pod Security level."""

    case: str
    helm: str
    level: str
    refused: Mapping[str, str]  # whose pods the level did not admit, and its words
    well: bool  # whether every command did what it should

    @property
    def word(self) -> str:
        if not self.well:
            return "FAILED"
        return "refused" if self.refused else "runs"


def table(lives: Iterable[Life]) -> Iterator[str]:
    """A line for each file, then what was refused and why, alike for every Helm that saw it."""
    found: dict[str, dict[str, list[Life]]] = defaultdict(lambda: defaultdict(list))
    reasons: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    well = []
    for life in sorted(lives, key=lambda life: (life.case, life.level, life.helm)):
        found[life.case][life.level].append(life)
        well.append(life.well)
        for pod, why in life.refused.items():
            reasons[life.level, life.case, pod, why].append(life.helm)
    yield f"{'file':27}" + "".join(f"{level:23}" for level in LEVELS)
    for name, by_level in found.items():
        cells = (", ".join(f"{life.helm}: {life.word}" for life in by_level[level]) for level in LEVELS)
        yield f"{name:27}" + "".join(f"{cell.replace('helm', ''):23}" for cell in cells)
    yield f"{sum(well)} of {len(well)} releases were installed, upgraded, rolled back, tested and uninstalled"
    yield "refused: the level admits no pod of some workload; its object is made all the same"
    for (level, name, pod, why), helms in reasons.items():
        yield f"{level} refuses {name}'s {pod} ({', '.join(helms)}): {why}"
