"""The live screen: its keys and clicks."""

from __future__ import annotations

import logging
import os
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input

from gpu_exporter.hub.client.client import Client
from gpu_exporter.hub.document import shown
from gpu_exporter.hub.words import called
from gpu_exporter.top.detail import detail
from gpu_exporter.top.drawing import Drawing
from gpu_exporter.top.ending import Ending
from gpu_exporter.top.lines import Line, Pen
from gpu_exporter.top.look import GPU_ORDERS, PROCESS_ORDERS, Look
from gpu_exporter.top.panes import Lines, Pane
from gpu_exporter.top.screens import Detail, Help, Users
from gpu_exporter.top.terminal import colourless


class Top(Drawing):
    """What each key does; screens.py lists them for the reader."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "leave(130)", "quit", priority=True, show=False),
        # Of what is typed right behind it, nothing may go to the tables.
        Binding("slash,backslash,f3,f4", "filter", "filter", priority=True, show=False),
        *(
            Binding(keys, action, action, show=False)
            for keys, action in (
                ("q,f10", "leave(0)"),
                ("question_mark,h,f1", "help"),
                ("u", "user"),
                ("s,f6,full_stop,greater_than_sign", "sort(1)"),
                ("comma,less_than_sign", "sort(-1)"),
                ("P", "sort_processes('util')"),
                ("M", "sort_processes('memory')"),
                ("T", "sort_processes('idle')"),
                ("N", "sort_processes('pid')"),
                ("I,r", "reverse"),
                ("t,f,f5", "fold_all"),
                ("space", "fold('')"),
                ("plus,equals_sign", "fold('no')"),
                ("minus", "fold('yes')"),
                ("enter", "choose"),
                ("g", "group"),
                ("tab,shift+tab", "other"),
                ("up,k", "move(-1)"),
                ("down,j", "move(1)"),
                ("pageup", "page(-1)"),
                ("pagedown", "page(1)"),
                ("home", "home"),
                ("end", "end"),
                ("escape", "everything"),
                ("ctrl+l", "redraw"),
                ("ctrl+z", "suspend_process"),
            )
        ),
    ]

    # --- keys and clicks ----------------------------------------------------------------------------------------------

    def action_leave(self, status: int) -> None:
        """End."""
        self.exit(status)

    def action_help(self) -> None:
        """List the keys."""
        self.push_screen(Help())

    def action_filter(self) -> None:
        """Ask for words."""
        entry = self.query_one("#filter", Input)
        entry.value = self.look.words
        entry.display = True
        self._lines("keys").display = False
        self.screen.set_focus(entry)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While words are typed, or something lies over the tables, the key of the filter is a character."""
        typing = len(self.screen_stack) > 1 or (self._built and self.query_one("#filter", Input).display)
        return not (action == "filter" and typing)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Only what fits, while it is typed."""
        if event.input.display:
            self.look.words = event.value.strip()
            self.draw()

    def on_input_submitted(self) -> None:
        """The words stay."""
        self._close_filter()

    def _close_filter(self) -> None:
        entry = self.query_one("#filter", Input)
        entry.display = False
        self._lines("keys").display = True
        self._pane("gpus").focus()
        self.draw()

    def action_user(self) -> None:
        """Ask for one of those who are there."""
        names = {called(holder) for gpu in self._view.gpus() for holder in gpu.holders or () if holder.name}
        names |= {str(process["user"]) for state in self._view for process in state.processes if process.get("user")}
        self.push_screen(Users([shown(name) for name in sorted(names)], self.look.user), self._choose_user)

    def _choose_user(self, name: str | None) -> None:
        if name is not None:
            self.look.user = name
            self.draw()

    def action_everything(self) -> None:
        """No filter, no cursor."""
        if self.query_one("#filter", Input).display:
            self.look.words = ""
            self._close_filter()
            return
        self.look.words = self.look.user = ""
        for name in ("gpus", "processes"):
            self._pane(name).forget()
        self.draw()

    def action_sort(self, step: int) -> None:
        """The table that has the focus is ordered by the next column."""
        look = self.look
        if self._focused() == "gpus":
            look.gpu_order = GPU_ORDERS[(GPU_ORDERS.index(look.gpu_order) + step) % len(GPU_ORDERS)]
        else:
            look.process_order = PROCESS_ORDERS[(PROCESS_ORDERS.index(look.process_order) + step) % len(PROCESS_ORDERS)]
        self.draw()

    def action_sort_processes(self, order: Any) -> None:
        """The processes are ordered by this."""
        self.look.process_order, self.look.grouped = order, False
        self.draw()

    def action_reverse(self) -> None:
        """The other way round."""
        if self._focused() == "gpus":
            self.look.gpus_reversed = not self.look.gpus_reversed
        else:
            self.look.processes_reversed = not self.look.processes_reversed
        self.draw()

    def action_fold_all(self) -> None:
        """All machines folded, or none."""
        folds = self._board.folded if self._board else {}
        self.look.all_folded, self.look.folded = not all(folds.values()), {}
        self.draw()

    def action_fold(self, wish: str) -> None:
        """The machine under the cursor; ``wish`` is yes, no, or empty for the other of both."""
        subject = self._pane("gpus").subject
        folds = self._board.folded if self._board else {}
        if len(subject) > 1 and subject[1] in folds:
            self.look.folded[subject[1]] = not folds[subject[1]] if not wish else wish == "yes"
            self.draw()

    def action_choose(self) -> None:
        """A GPU: all of it. A machine: fold it. A process: its GPU."""
        subject = self._pane(self._focused()).subject
        if subject[:1] == ("machine",):
            self.action_fold("")
        elif subject[:1] in {("gpu",), ("process",)} and subject[2].isdecimal():
            self._open(subject[1], int(subject[2]))
        elif subject[:1] == ("person",):
            self.look.user, self.look.grouped = subject[2], False
            self.draw()

    def _open(self, node: str, index: int) -> None:
        def write() -> list[Line]:
            pen = Pen(self.size.width, ascii_only=self._ascii)
            return detail(self._view, node, index, self._client.trails, pen)

        self.push_screen(Detail(self._tones, write))

    def action_group(self) -> None:
        """Processes, or whoever holds GPUs."""
        self.look.grouped = not self.look.grouped
        self.draw()

    def action_other(self) -> None:
        """To the other table."""
        self._pane("processes" if self._focused() == "gpus" else "gpus").focus()

    def action_move(self, rows_down: int) -> None:
        """The cursor."""
        self._pane(self._focused()).move(rows_down)

    def action_page(self, direction: int) -> None:
        """The cursor, by a screenful."""
        self._pane(self._focused()).page(direction)

    def action_home(self) -> None:
        """The first line."""
        self._pane(self._focused()).go(0)

    def action_end(self) -> None:
        """The last line."""
        self._pane(self._focused()).end()

    def action_redraw(self) -> None:
        """Whatever has been written over the screen goes."""
        self.refresh(layout=True)
        self.screen.refresh(layout=True)

    def on_pane_chosen(self, event: Pane.Chosen) -> None:
        """A machine was clicked on."""
        self.action_fold("")

    def on_pane_moved(self) -> None:
        """The headings tell what is seen."""
        self._heads(Pen(self.size.width, ascii_only=self._ascii))

    async def on_lines_pressed(self, event: Lines.Pressed) -> None:
        """A key of the last line, or a column of a heading."""
        if event.lines.id == "keys":
            for start, end, action in self._footer:
                if start <= event.x < end:
                    await self.run_action(action)
        elif event.lines.id == "gpu-head" and self._board is not None:
            key = self._board.table.table.at(event.x)
            if key in GPU_ORDERS:
                self.look.gpus_reversed = self.look.gpu_order == key and not self.look.gpus_reversed
                self.look.gpu_order = key
        elif event.lines.id == "process-head" and self._table is not None and not self.look.grouped:
            key = self._table.at(event.x)
            if key in PROCESS_ORDERS:
                self.look.processes_reversed = self.look.process_order == key and not self.look.processes_reversed
                self.look.process_order = key
        self.draw()


def show(client: Client, look: Look, *, ascii_only: bool) -> int:
    """Show what the client sees until somebody ends it; the status to end with. The terminal is left as it was."""
    # What is logged would be written over the screen.
    logging.getLogger("gpu_exporter").handlers[:] = [logging.NullHandler()]
    # Where these are exported they are of a time before the terminal was resized.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    app = Top(client, look, ascii_only=ascii_only, colours=not colourless())
    client.follow(app.tell)
    with Ending(app.exit) as ending:
        status = app.run()
        client.close()
    return ending.status if status is None else status
