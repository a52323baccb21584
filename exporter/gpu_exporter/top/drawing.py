"""The live screen without its keys: what stands where."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final

from textual.app import App, ComposeResult
from textual.message import Message
from textual.widgets import Input

from gpu_exporter.hub.client.client import Client
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.document import shown
from gpu_exporter.top.board import Board, board, title
from gpu_exporter.top.idle import IdleProcesses
from gpu_exporter.top.lines import Line, Pen, Span
from gpu_exporter.top.look import Look
from gpu_exporter.top.panes import COLOURS, NO_COLOURS, Lines, Pane
from gpu_exporter.top.processes import people_lines, people_table, process_line, process_table, rows
from gpu_exporter.top.screens import Detail
from gpu_exporter.top.table import Table

_LEAST: Final = 4  # lines for processes below the GPUs, where there are any
_LOOK_AT_CLOCK: Final = 5.0  # seconds; a view that does not come must be seen
_KEYS: Final = (
    ("?", "Help", "help"), ("/", "Filter", "filter"), ("u", "User", "user"), ("s", "Sort", "sort(1)"),
    ("t", "Fold", "fold_all"), ("g", "People", "group"), ("q", "Quit", "leave(0)"),
)  # fmt: skip


class News(Message):
    """The client has a new view."""


class Drawing(App[int]):
    """Draws what the client has, as it comes."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    #filter { height: 1; border: none; padding: 0; background: ansi_default; color: ansi_default; display: none; }
    """

    def __init__(self, client: Client, look: Look, *, ascii_only: bool, colours: bool = True) -> None:
        super().__init__(ansi_color=True)
        self.look = look
        self._client = client
        self._ascii = ascii_only
        self._tones = COLOURS if colours else NO_COLOURS
        self._idle = IdleProcesses()
        self._view = View(client.origin.name)
        self._board: Board | None = None
        self._table: Table | None = None
        self._footer: list[tuple[int, int, str]] = []
        self._built = False

    # --- the parts ----------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Title, two tables under their headings, the keys."""
        yield Lines(self._tones, id="title")
        yield Lines(self._tones, id="gpu-head")
        yield Pane(self._tones, id="gpus")
        yield Lines(self._tones, id="process-head")
        yield Pane(self._tones, id="processes")
        yield Input(id="filter", compact=True, select_on_focus=False)
        yield Lines(self._tones, id="keys")

    def on_mount(self) -> None:
        """Begin to look."""
        self._built = True
        self._pane("gpus").focus()
        self._client.start()
        self.set_interval(_LOOK_AT_CLOCK, self.draw)

    def tell(self, _view: View) -> None:
        """Called by the client, on its thread."""
        self.post_message(News())

    def on_news(self) -> None:
        """Take the newest view, and draw it."""
        view = self._client.latest()
        if view is not self._view:
            self._view = view
            self._idle.add(view)
            self.draw()

    def on_resize(self) -> None:
        """Everything anew, for the new size."""
        self.draw()

    def draw(self) -> None:
        """Write all lines; the panes draw those that differ."""
        width, height = self.size
        if width < 1 or height < 1 or not self._drawable:
            return
        pen, view = Pen(width, ascii_only=self._ascii), self._view
        now = time.time()
        when = datetime.fromtimestamp(view.taken).astimezone().strftime("%H:%M:%S") if view.taken else ""
        head = title(view, pen, now=now, clock=when, interval=self._client.origin.interval)
        if self.look.filtering:
            head.append(self._filter_line(pen))
        lower, below = self._lower(pen, view)
        free = max(0, height - len(head) - 3)  # less two headings and the keys
        room = free - min(len(below), max(_LEAST, free // 4))
        self._board = upper = board(view, self.look, pen, trails=self._client.trails, room=room)
        gpus = max(0, min(len(upper.lines), room if below else free))
        self._lines("title").show(head[: max(1, height - 1)])
        self._table = lower
        self._give("gpus", gpus)
        self._give("processes", max(0, free - gpus))
        self._pane("gpus").show(upper.lines)
        self._pane("processes").show(below)
        self._heads(pen)
        self._lines("keys").show([self._keys(pen)])
        if isinstance(self.screen, Detail):
            self.screen.redraw()

    def _lower(self, pen: Pen, view: View) -> tuple[Table, list[Line]]:
        if self.look.grouped:
            table = people_table(pen.columns)
            return table, people_lines(view, self.look, table, pen)
        table = process_table(pen.columns, view)
        found = rows(view, self.look, self._idle)
        return table, [process_line(row, table, pen, view.taken) for row in found]

    def _heads(self, pen: Pen) -> None:
        if self._board is None or self._table is None or not self._drawable:
            return
        order = "" if self.look.grouped else self.look.process_order
        for name, line in (("gpus", self._board.head), ("processes", self._table.head(pen, order))):
            first, last, count = self._pane(name).seen
            where = f" {first}-{last}/{count} " if last - first + 1 < count and last >= first else ""
            head = "gpu-head" if name == "gpus" else "process-head"
            cut = Pen(pen.columns - len(where), ascii_only=self._ascii)
            self._lines(head).show([Line((*cut.line(line.spans).spans, (where, "head")))])

    def _filter_line(self, pen: Pen) -> Line:
        told: list[Span] = [("only ", "dim")]
        told += [(f"'{shown(self.look.words)}' ", "warn")] if self.look.words else []
        told += [(f"of {shown(self.look.user)} ", "warn")] if self.look.user else []
        return pen.line([*told, ("· Esc shows everything", "dim")])

    def _keys(self, pen: Pen) -> Line:
        spans: list[Span] = []
        self._footer, start = [], 0
        for key, word, action in _KEYS:
            name = "Processes" if action == "group" and self.look.grouped else word
            spans += [(f" {key} ", "bold"), (name, "head"), (" ", "")]
            end = start + len(key) + len(name) + 3
            self._footer.append((start, end, action))
            start = end
        return pen.line(spans)

    # --- small things -------------------------------------------------------------------------------------------------

    @property
    def _drawable(self) -> bool:
        """Whether the parts are there: events come before they are, and after they are gone."""
        return self._built and bool(self.screen_stack)

    def _focused(self) -> str:
        return "processes" if self._pane("processes").has_focus else "gpus"

    def _pane(self, name: str) -> Pane:
        return self.screen_stack[0].query_one(f"#{name}", Pane)

    def _lines(self, name: str) -> Lines:
        return self.screen_stack[0].query_one(f"#{name}", Lines)

    def _give(self, name: str, height: int) -> None:
        pane = self._pane(name)
        if pane.styles.height is None or pane.styles.height.value != height:
            pane.styles.height = height
