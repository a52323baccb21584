"""Text measured as a terminal shows it."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Final

# What we write ourselves, for terminals without UTF-8; anything else there is a question mark.
_ASCII: Final = {"°": "", "…": "~", "·": "-", "≥": ">", "▸": "+", "▾": "-", "▲": "^", "▼": "v", "⏎": "Enter"}


_ENDS: Final = 7  # columns from which both ends say something


@lru_cache(maxsize=8192)
def width(text: str) -> int:
    """Columns that the text takes."""
    return len(text) if text.isascii() else sum(map(_of, text))


def fit(text: str, columns: int, *, right: bool = False, ascii_only: bool = False) -> str:
    """The text in exactly so many columns: filled with blanks, or cut with a sign of it."""
    text = spelled(text, ascii_only=ascii_only)
    taken = width(text)
    if taken > columns:
        text = cut(text, columns, ascii_only=ascii_only)
        taken = width(text)
    blanks = " " * (columns - taken)
    return blanks + text if right else text + blanks


def cut(text: str, columns: int, *, ascii_only: bool = False) -> str:
    """As much of the text as fits into so many columns."""
    if width(text) <= columns:
        return text
    if columns < 1:
        return ""
    kept, taken = [], 0
    for char in text:
        taken += _of(char)
        if taken > columns - 1:
            break
        kept.append(char)
    return "".join(kept) + ("~" if ascii_only else "…")


def both_ends(text: str, columns: int, *, ascii_only: bool = False) -> str:
    """The text's beginning and its end: names of machines and people mostly differ at the one or the other."""
    if width(text) <= columns or columns < _ENDS:
        return cut(text, columns, ascii_only=ascii_only)
    end, taken = len(text), 0
    while taken + _of(text[end - 1]) <= (columns - 1) // 2:
        end -= 1
        taken += _of(text[end])
    while unicodedata.combining(text[end]):  # it belongs to what is left out
        end += 1
    return cut(text[:end], columns - width(text[end:]), ascii_only=ascii_only) + text[end:]


def spelled(text: str, *, ascii_only: bool) -> str:
    """The text in the characters that the terminal has; nothing that it would obey."""
    if text.isascii() and text.isprintable():
        return text
    if ascii_only:
        return "".join(char if " " <= char <= "~" else _ASCII.get(char, "?") for char in text)
    return "".join(char if char.isprintable() or char == " " else "\N{REPLACEMENT CHARACTER}" for char in text)


def _of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1
