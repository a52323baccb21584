"""Widgets that show lines, and write only what has changed: over ssh every byte counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from gpu_exporter.top.lines import Line, Subject, Tone

Styles = Mapping[Tone, Style]
_REVERSE: Final = Style(reverse=True)
# The terminal's own sixteen colours, so that they fit its background.
COLOURS: Final[Styles] = {
    "": Style(),
    "head": Style(bold=True, reverse=True),
    "dim": Style(dim=True),
    "bold": Style(bold=True),
    "busy": Style(color="green"),
    "idle": Style(color="yellow"),
    "free": Style(color="cyan"),
    "warn": Style(color="yellow", bold=True),
    "bad": Style(color="red", bold=True),
}
NO_COLOURS: Final[Styles] = {
    **dict.fromkeys(COLOURS, Style()),
    "head": Style(bold=True, reverse=True),
    "dim": Style(dim=True),
    "bold": Style(bold=True),
    "warn": Style(bold=True),
    "bad": Style(bold=True),
}


class Lines(Widget):
    """A few lines that neither scroll nor take the focus."""

    DEFAULT_CSS = "Lines { height: 1; width: 100%; }"

    class Pressed(Message):
        """Somebody clicked into a line, at a column."""

        def __init__(self, lines: Lines, x: int) -> None:
            super().__init__()
            self.lines = lines
            self.x = x

    def __init__(self, styles: Styles, *, id: str) -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id)
        self._styles_by_tone = styles
        self._lines: Sequence[Line] = ()

    def show(self, lines: Sequence[Line]) -> None:
        """Draw these lines from now on."""
        before, self._lines = self._lines, lines
        if len(before) != len(lines):
            self.styles.height = max(1, len(lines))
            self.refresh(layout=True)
        elif dirty := _changed(before, lines, 0, len(lines)):
            self.refresh(*dirty)

    def render_line(self, y: int) -> Strip:
        """One row of the screen."""
        return _strip(self._lines[y] if y < len(self._lines) else None, self._styles_by_tone, self.size.width)

    def on_click(self, event: events.Click) -> None:
        """Tell where it was."""
        self.post_message(self.Pressed(self, event.x))


class Pane(ScrollView, can_focus=True):
    """Lines that scroll under a cursor. The cursor stays on what it is on, wherever that moves."""

    DEFAULT_CSS = "Pane { width: 100%; scrollbar-size: 0 0; overflow: hidden; }"

    class Chosen(Message):
        """Somebody wants to do something with a line."""

        def __init__(self, pane: Pane, subject: Subject) -> None:
            super().__init__()
            self.pane = pane
            self.subject = subject

    class Moved(Message):
        """What is seen of the pane has changed."""

    def __init__(self, styles: Styles, *, id: str) -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id)
        self._styles_by_tone = styles
        self._lines: Sequence[Line] = ()
        self._cursor = -1  # none before the first key

    # --- content ------------------------------------------------------------------------------------------------------

    @property
    def seen(self) -> tuple[int, int, int]:
        """The first and the last line that are seen, counted from 1, and how many there are."""
        top = self.scroll_offset.y
        return top + 1, min(len(self._lines), top + self.size.height), len(self._lines)

    @property
    def subject(self) -> Subject:
        """What the cursor is on; empty where there is none."""
        return self._lines[self._cursor].subject if 0 <= self._cursor < len(self._lines) else ()

    def show(self, lines: Sequence[Line]) -> None:
        """Draw these lines from now on."""
        before, self._lines, old = self._lines, lines, self._cursor
        if old >= 0:
            subject = before[old].subject if old < len(before) else ()
            found = next((number for number, line in enumerate(lines) if line.subject == subject), None)
            self._cursor = min(old, len(lines) - 1) if found is None else found
        if len(before) != len(lines):
            self.virtual_size = Size(self.size.width, len(lines))
            self.refresh()
        else:
            top = self.scroll_offset.y
            dirty = _changed(before, lines, top, top + self.size.height)
            if old != self._cursor:
                dirty += [self._row(old), self._row(self._cursor)]
            if dirty:
                self.refresh(*dirty)
        if self._cursor >= 0 and old != self._cursor:
            self._reveal()

    def render_line(self, y: int) -> Strip:
        """One row of the screen."""
        number = y + self.scroll_offset.y
        line = self._lines[number] if number < len(self._lines) else None
        strip = _strip(line, self._styles_by_tone, self.size.width)
        return strip.apply_style(_REVERSE) if number == self._cursor and self.has_focus else strip

    # --- the cursor ---------------------------------------------------------------------------------------------------

    def move(self, rows: int) -> None:
        """So many lines down, or up."""
        start = self._cursor if self._cursor >= 0 else self.scroll_offset.y - (1 if rows > 0 else 0)
        self.go(start + rows)

    def go(self, number: int) -> None:
        """Onto that line, or the nearest there is."""
        if not self._lines:
            return
        old, self._cursor = self._cursor, max(0, min(len(self._lines) - 1, number))
        self.refresh(self._row(old), self._row(self._cursor))
        self._reveal()

    def page(self, direction: int) -> None:
        """A screenful down, or up."""
        self.move(direction * max(1, self.size.height - 1))

    def end(self) -> None:
        """Onto the last line."""
        self.go(len(self._lines) - 1)

    def forget(self) -> None:
        """No cursor any more."""
        old, self._cursor = self._cursor, -1
        self.refresh(self._row(old))

    def _reveal(self) -> None:
        top, height = self.scroll_offset.y, self.size.height
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False, force=True)
        elif self._cursor >= top + height:
            self.scroll_to(y=self._cursor - height + 1, animate=False, force=True)

    def _row(self, number: int) -> Region:
        return Region(0, number - self.scroll_offset.y, self.size.width, 1)

    # --- what happens to it -------------------------------------------------------------------------------------------

    def on_click(self, event: events.Click) -> None:
        """The cursor comes; on a machine it folds."""
        number = event.y + self.scroll_offset.y
        if number < len(self._lines):
            self.go(number)
            if self.subject[:1] == ("machine",):
                self.post_message(self.Chosen(self, self.subject))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Three lines a notch."""
        event.stop()
        self.scroll_to(y=self.scroll_offset.y + 3, animate=False, force=True)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Three lines a notch."""
        event.stop()
        self.scroll_to(y=self.scroll_offset.y - 3, animate=False, force=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """What is seen is told in the heading."""
        super().watch_scroll_y(old_value, new_value)
        self.post_message(self.Moved())

    def on_resize(self) -> None:
        """The lines are as wide as the pane, and others are seen."""
        self.virtual_size = Size(self.size.width, len(self._lines))
        self.post_message(self.Moved())


def _changed(before: Sequence[Line], now: Sequence[Line], first: int, last: int) -> list[Region]:
    """Where lines differ, from the first column that does to the last, as of a window over them."""
    regions = []
    for y, number in enumerate(range(first, min(last, len(now)))):
        if number >= len(before):
            regions.append(Region(0, y, 10_000, 1))
        elif before[number].spans != now[number].spans:
            start, end = _difference(before[number], now[number])
            regions.append(Region(start, y, end - start, 1))
    return regions


def _difference(before: Line, now: Line) -> tuple[int, int]:
    """The columns from the first to the last that differ; the whole line where a character takes two columns."""
    old, new = _painted(before), _painted(now)
    if old is None or new is None:
        return 0, 10_000
    longest = max(len(old), len(new))
    old += [(" ", "")] * (longest - len(old))
    new += [(" ", "")] * (longest - len(new))
    differing = [column for column in range(longest) if old[column] != new[column]]
    return (differing[0], differing[-1] + 1) if differing else (0, 0)


def _painted(line: Line) -> list[tuple[str, Tone]] | None:
    text = "".join(text for text, _ in line.spans)
    if Strip([Segment(text)]).cell_length != len(text):
        return None
    return [(char, tone) for text, tone in line.spans for char in text]


def _strip(line: Line | None, styles: Styles, columns: int) -> Strip:
    segments = [] if line is None else [Segment(text, styles[tone]) for text, tone in line.spans]
    return Strip(segments).adjust_cell_length(columns, Style())
