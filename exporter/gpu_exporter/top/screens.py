"""What opens over the tables: the keys, the list of users, one GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static

from gpu_exporter.top.lines import Line
from gpu_exporter.top.panes import Lines, Styles

HELP: Final = """\
gpu-exporter top: what every GPU does, and who holds it. It ends no process.

 Up Down PgUp PgDn   move (k j as well)     Tab        the other table
 Home End            first, last            Enter      a GPU: all of it
 Space               fold a machine         t f F5     fold all, or none
 + -                 unfold, fold           g          processes, or people
 / F3 F4 \\           filter by words        u          one user's only
 s F6 > .            order by the next      < ,        by the one before
 P M T N             processes by utilization, memory, time idle, pid
 I r                 the other way round    Esc        everything again
 Ctrl-L              draw anew              Ctrl-Z     suspend
 ? h F1              this help              q F10      end (Ctrl-C as well)

A click goes to a line, folds a machine, or orders by a column.
On top, with why and since when: what is offline, and GPUs that are down.
>5 min    for at least that long: it was so when we first looked
62/89     degrees, and those at which it slows down; yellow or bold near it
700/700   watts, and the limit; to be at the limit is normal
[874.x?]  a folded machine, a character a GPU: how much it does;
          . free   x down   ? unknown
"""


class Overlay(ModalScreen[None]):
    """Something that any of these keys closes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,space,question_mark,h,f1,f10", "close", "close", show=False),
    ]

    def action_close(self) -> None:
        """Back to the tables."""
        self.dismiss(None)


class Help(Overlay):
    """The keys."""

    DEFAULT_CSS = "Help VerticalScroll { scrollbar-size: 0 0; padding: 0 1; }"

    def compose(self) -> ComposeResult:
        """One text that scrolls."""
        with VerticalScroll():
            yield Static(HELP, markup=False)


class Detail(Overlay):
    """One GPU, as long as it is looked at."""

    def __init__(self, styles: Styles, write: Callable[[], Sequence[Line]]) -> None:
        super().__init__()
        self._styles_by_tone = styles
        self._write = write

    def compose(self) -> ComposeResult:
        """Lines that are written anew with every view."""
        yield Lines(self._styles_by_tone, id="detail")

    def on_mount(self) -> None:
        """Write them."""
        self.redraw()

    def redraw(self) -> None:
        """Write what is known now."""
        self.query_one("#detail", Lines).show(self._write())


class Users(ModalScreen[str | None]):
    """Who holds GPUs or has processes there; answers a name, "" for everybody, None for no change."""

    DEFAULT_CSS = """
    Users { align: left top; }
    Users OptionList:focus { border: none; }
    Users OptionList { width: 44; max-width: 100%; height: 1fr; border: none; padding: 0; scrollbar-size: 0 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,u,f10", "close", "close", show=False)]

    def __init__(self, names: Sequence[str], chosen: str) -> None:
        super().__init__()
        self._names = ("", *names)
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        """A list."""
        yield OptionList(*(name or "everybody" for name in self._names), markup=False)

    def on_mount(self) -> None:
        """Begin at who is chosen."""
        options = self.query_one(OptionList)
        options.highlighted = self._names.index(self._chosen) if self._chosen in self._names else 0
        options.focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """That one."""
        event.stop()
        self.dismiss(self._names[event.option_index])

    def action_close(self) -> None:
        """As before."""
        self.dismiss(None)
