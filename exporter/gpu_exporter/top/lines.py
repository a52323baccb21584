"""Lines of a screen: text with a tone, and what a line stands for. Colours are chosen where it is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gpu_exporter.top.cells import both_ends, cut, fit, spelled, width

Tone: TypeAlias = Literal["", "head", "dim", "bold", "busy", "idle", "free", "warn", "bad"]
Span: TypeAlias = tuple[str, Tone]
# What a line is of: ("machine", name), ("gpu", name, index), ("process", …), ("person", …); empty for headings.
Subject: TypeAlias = tuple[str, ...]

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_LEVELS: Final = " .:-=+*#%"
_NARROW: Final = 12  # columns that a cell must have to go on below itself


@dataclass(frozen=True, slots=True)
class Line:
    """One line; ``subject`` is empty where nothing can be done with it.

    ``indent`` is where it goes on below, where it is broken.
    """

    spans: tuple[Span, ...]
    subject: Subject = ()
    indent: int = 4

    @property
    def text(self) -> str:
        """What stands there."""
        return "".join(text for text, _ in self.spans).rstrip()


class Pen:
    """Writes in the characters that the terminal has, into lines of ``columns``."""

    def __init__(self, columns: int, *, ascii_only: bool) -> None:
        self.columns = columns
        self.ascii_only = ascii_only

    def line(self, spans: Iterable[Span], subject: Subject = ()) -> Line:
        """The spans, cut where the line ends."""
        kept: list[Span] = []
        left = self.columns
        for text, tone in spans:
            shown = spelled(text, ascii_only=self.ascii_only)
            shown = cut(shown, left, ascii_only=self.ascii_only)
            if shown:
                kept.append((shown, tone))
            left -= width(shown)
            if left <= 0:
                break
        return Line(tuple(kept), subject)

    def ends(self, left: Sequence[Span], right: Span) -> Line:
        """Spans from the left and one at the right end, which goes first where there is no room for it."""
        room = self.columns - width(right[0]) - 1
        line = self.line(left)
        taken = sum(width(text) for text, _ in line.spans)
        if taken > room:
            return line
        return self.line([*line.spans, (" " * (self.columns - taken - width(right[0])), ""), right])

    def fit(self, text: str, columns: int, *, right: bool = False) -> str:
        """The text in exactly so many columns."""
        return fit(text, columns, right=right, ascii_only=self.ascii_only)

    def last(self, text: str, columns: int) -> str:
        """The text as the last cell of a row, of so many columns."""
        return self.fit(text, columns)

    def name(self, text: str, columns: int) -> str:
        """What tells one row from another, in so many columns at most."""
        return both_ends(spelled(text, ascii_only=self.ascii_only), columns, ascii_only=self.ascii_only)

    def bar(self, share: float | None, columns: int) -> str:
        """A share of 1 as a bar."""
        if share is None or columns < 1:
            return " " * max(0, columns)
        if self.ascii_only:
            return "|" * round(share * columns) + " " * (columns - round(share * columns))
        whole, rest = divmod(round(share * columns * 8), 8)
        return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(columns)[:columns]

    def trend(self, shares: Sequence[float | None], columns: int) -> str:
        """Shares of 1, the newest at the right end: its height is each one's; a blank is what was not known."""
        marks = _LEVELS if self.ascii_only else _BLOCKS
        shown = "".join(
            " " if share is None else marks[max(1, min(8, round(share * 8)))] for share in shares[-columns:]
        )
        return shown.rjust(columns)

    def tile(self, state: str, share: float | None) -> str:
        """A GPU as one character: how much it does, or that it is free, down or unknown."""
        if state in {"down", "unknown"}:
            return "x" if state == "down" else "?"
        if state == "free":
            return "." if self.ascii_only else "·"
        if self.ascii_only:
            return "-" if share is None else str(min(9, int(share * 10)))
        return "-" if share is None else _BLOCKS[max(1, min(8, round(share * 8)))]


class PaperPen(Pen):
    """Writes what is read afterwards, not looked at live: nothing is cut, ``broken`` makes lines that fit."""

    def line(self, spans: Iterable[Span], subject: Subject = ()) -> Line:
        """The spans, all of them."""
        return Line(tuple((spelled(text, ascii_only=self.ascii_only), tone) for text, tone in spans), subject)

    def ends(self, left: Sequence[Span], right: Span) -> Line:
        """Spans from the left and one at the right end, or behind them where there is no room for it."""
        line = super().ends(left, right)
        return line if line.spans[-1] == right or not right[0] else self.line([*line.spans, ("  ", ""), right])

    def last(self, text: str, columns: int) -> str:
        """All of the text."""
        del columns
        return spelled(text, ascii_only=self.ascii_only)

    def name(self, text: str, columns: int) -> str:
        """All of the text: one that is too long moves what stands behind it."""
        del columns
        return spelled(text, ascii_only=self.ascii_only)

    def broken(self, line: Line) -> Iterator[str]:
        """The line in pieces that fit, broken at blanks where there are any."""
        rest, indent = line.text, 0
        room = self.columns
        # What stands far right would leave no room below it.
        below = line.indent if line.indent <= self.columns - _NARROW else min(4, self.columns // 4)
        while width(rest) > room:
            piece = _start(rest, room, self.columns - below)
            yield f"{' ' * indent}{piece}".rstrip()
            rest = rest[len(piece) :].lstrip()
            indent, room = below, self.columns - below
        yield f"{' ' * indent}{rest}"


def _start(text: str, columns: int, below: int) -> str:
    """As much of the text as fits, to its last blank where that is not its beginning.

    A word that does not fit into a whole line ``below`` either is broken where the line ends.
    """
    end, taken = 0, 0
    while end < len(text) and (taken := taken + width(text[end])) <= columns:
        end += 1
    blank = text.rfind(" ", 0, end + 1)
    word = text[blank + 1 :].partition(" ")[0]
    if blank > 0 and text[:blank].strip() and width(word) <= below:
        return text[:blank]
    return text[: max(1, end)]
