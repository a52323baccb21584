"""The menus of the window, with their keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QInputDialog, QLineEdit, QMenu, QMessageBox

from gpu_exporter import __version__
from gpu_exporter.desktop.notices import KINDS, Kind, parse_names
from gpu_exporter.desktop.window import Window

_KEYS: Final = (
    ("/ or Ctrl+F", "filter; Esc leaves it"),
    ("Ctrl+L", "the list of machines; right and left unfold and fold one"),
    ("Ctrl+G", "the cards of the machine"),
    ("Alt+P, Alt+E", "processes, people"),
    ("Ctrl+O", "choose what to show"),
    ("F11", "fill the screen"),
    ("Ctrl+Q", "quit"),
)


class Menus:
    """Fills the menu bar. ``choose`` asks what to show, ``quit_`` ends the program."""

    def __init__(self, window: Window, *, choose: Callable[[], object], quit_: Callable[[], object]) -> None:
        self._window = window
        bar = window.menuBar()
        file = bar.addMenu("&File")
        self._add(file, "&Choose what to show…", choose, QKeySequence.StandardKey.Open)
        file.addSeparator()
        self.stay = self._switch(
            file, "&Stay in the tray when the window is closed", window.remembered.stays, self._stay
        )
        self._add(file, "&Quit", quit_, "Ctrl+Q")
        look = bar.addMenu("&View")
        self._add(look, "&Filter", window.look_for, QKeySequence.StandardKey.Find)
        self._add(look, "Full &screen", window.turn_full_screen, "F11")
        tell = bar.addMenu("&Notifications")
        tell.addSection("Tell me when a GPU of mine")
        self.kinds: dict[Kind, QAction] = {}
        for kind, words in KINDS.items():
            self.kinds[kind] = self._switch(
                tell, f"{words[0].upper()}{words[1:]}", window.remembered.wanted(kind), self._want(kind)
            )
        tell.addSeparator()
        self.names = self._add(tell, "Which GPUs are &mine…", self._ask_names)
        about = bar.addMenu("&Help")
        self._add(about, "&Keys", self._show_keys, QKeySequence.StandardKey.HelpContents)
        self._add(about, "&About", self._show_about)

    def _add(
        self, menu: QMenu, text: str, what: Callable[[], object], keys: str | QKeySequence.StandardKey = ""
    ) -> QAction:
        action = menu.addAction(text)
        action.triggered.connect(lambda _checked=False: what())
        if keys:
            action.setShortcut(QKeySequence(keys))
        return action

    def _switch(self, menu: QMenu, text: str, on: bool, what: Callable[[bool], object]) -> QAction:
        action = menu.addAction(text)
        action.setCheckable(True)
        action.setChecked(on)
        action.toggled.connect(what)
        return action

    def _want(self, kind: Kind) -> Callable[[bool], None]:
        return lambda wanted: self._window.remembered.want(kind, wanted)

    def _stay(self, stays: bool) -> None:
        self._window.remembered.stays = stays

    def _ask_names(self) -> None:
        before = ", ".join(sorted(self._window.remembered.names))
        text, meant = QInputDialog.getText(
            self._window,
            "Which GPUs are mine",
            "Those that are held by these users, pods or namespaces (with commas; empty is your own name):",
            QLineEdit.EchoMode.Normal,
            before,
        )
        if meant:
            self._window.remembered.names = parse_names(text)
            self._window.watcher.rename(self._window.remembered.names)

    def _show_keys(self) -> None:
        self._box("Keys", "\n".join(f"{keys}: {what}" for keys, what in _KEYS))

    def _show_about(self) -> None:
        self._box(
            "About",
            f"gpu-exporter {__version__}\n\nWhich GPU is free, which is sick, and who holds what.\n"
            "It only looks: nothing is changed on any machine.",
        )

    def _box(self, title: str, text: str) -> None:
        box = QMessageBox(self._window)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.setWindowTitle(title)
        box.setTextFormat(Qt.TextFormat.PlainText)
        box.setText(text)
        box.open()
