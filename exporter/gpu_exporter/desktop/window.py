"""The window: the list of machines at the left, the machine that is chosen at the right."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from PySide6.QtCore import QEvent, Qt, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QGuiApplication, QKeySequence, QShortcut
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLineEdit, QMainWindow, QSplitter, QVBoxLayout, QWidget

from gpu_exporter.desktop.banner import Banner, plain_label
from gpu_exporter.desktop.detail import Detail
from gpu_exporter.desktop.feed import Feed
from gpu_exporter.desktop.fleet_list import FleetList
from gpu_exporter.desktop.icons import program_icon
from gpu_exporter.desktop.notices import Notice, Watcher
from gpu_exporter.desktop.remembered import Remembered
from gpu_exporter.desktop.sentences import fleet_line
from gpu_exporter.desktop.severity import summary
from gpu_exporter.desktop.theme import colours, follow_scheme
from gpu_exporter.hub.client.trails import GpuKey
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import STATES
from gpu_exporter.hub.words import STATE_WORDS, clock, span

_MINE: Final = "mine"
_SMALLEST: Final = (760, 600)  # pixels below which parts would be cut


class Window(QMainWindow):
    """Shows what the feed tells. ``noticed`` has what its user should be told; ``closing`` asks whether to go."""

    noticed = Signal(list)

    def __init__(self, feed: Feed, remembered: Remembered) -> None:
        super().__init__()
        self.feed = feed
        self.remembered = remembered
        self.watcher = Watcher(remembered.names)
        self.stays: Callable[[], bool] = lambda: False  # whether closing leaves it in the tray
        self._view: View | None = None
        self.setWindowTitle("GPU machines")
        self.setWindowIcon(program_icon())
        self.setMinimumSize(*_SMALLEST)
        self.search = QLineEdit(self)
        self.search.setPlaceholderText("Filter: machine, model, user, label")
        self.search.setClearButtonEnabled(True)
        self.search.setAccessibleName("Filter machines and GPUs")
        self.states = QComboBox(self)
        self.states.setAccessibleName("Which GPUs are listed")
        for text, data in (
            ("All GPUs", ""),
            ("Mine", _MINE),
            *((STATE_WORDS[state].capitalize(), state) for state in STATES),
        ):
            self.states.addItem(text, data)
        self.fleet = FleetList(self)
        self.detail = Detail(feed, self)
        self.simulated = Banner("note", self)
        self.trouble = Banner("trouble", self)
        self.notes = Banner("note", self)
        self.status = plain_label(parent=self)
        self.last_notice = plain_label(parent=self)
        self.columns = self._laid_out()
        self._connect()
        self._restore()

    # --- what is shown ------------------------------------------------------------------------------------------------

    def show_view(self, view: View) -> None:
        """Show the newest view."""
        self._view = view
        self.fleet.show_view(view)
        self.detail.show_view(view)
        self.simulated.tell("Simulated data: no real GPU is read" if view.simulated() else "")
        self.trouble.tell(f"Nothing is known now: {view.trouble}" if view.trouble else "")
        self.notes.tell("\n".join(filter(None, [*view.notes, self.remembered.trouble])))
        self.setWindowTitle(f"{view.origin} - GPU machines")
        self.setAccessibleDescription(summary(view))
        self._tell_age()
        notices = [one for one in self.watcher.look(view) if self.remembered.wanted(one.kind)]
        if notices:
            self._show_notices(notices)
            self.noticed.emit(notices)

    def _show_notices(self, notices: list[Notice]) -> None:
        told = f"{clock(time.time(), time.time())} {notices[-1].title}: {notices[-1].text}"
        self.last_notice.setText(" ".join(told.split()))
        self.last_notice.setVisible(True)

    def _tell_age(self) -> None:
        view = self._view
        if view is None:
            return
        age = time.time() - view.taken
        when = f" · as of {clock(view.taken, time.time())}" if view.taken else ""
        late = f", {span(age)} ago" if view.taken and age >= _LATE else ""
        self.status.setText(f"{fleet_line(view)}{when}{late}")

    def retheme(self) -> None:
        """Take the colours that the system asks for now; the widgets inside hear of them later than we do."""
        theme = colours(self.palette())
        for part in (self.detail, self.simulated, self.trouble, self.notes):
            part.retheme(theme)

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802 - Qt's name
        """See Qt: the system's colours may change at any time."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "columns"):
            self.retheme()

    # --- what is done -------------------------------------------------------------------------------------------------

    def look_for(self) -> None:
        """Go to the filter."""
        self.search.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.search.selectAll()

    def turn_full_screen(self) -> None:
        """Fill the screen, as on a wall, or stop to."""
        self.setWindowState(self.windowState() ^ Qt.WindowState.WindowFullScreen)

    def come(self) -> None:
        """Be seen, wherever it is."""
        self.setWindowState(self.windowState() & ~Qt.WindowState.WindowMinimized)
        self.show()
        self.raise_()
        self.activateWindow()

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802 - Qt's name
        """See Qt."""
        self.keep_shapes()
        if self.stays():
            event.ignore()
            self.hide()
        else:
            super().closeEvent(event)
            QGuiApplication.quit()

    def keep_shapes(self) -> None:
        """Remember where the window is, and how it is divided."""
        self.remembered.keep_shape("geometry", self.saveGeometry())
        self.remembered.keep_shape("columns", self.columns.saveState())
        self.remembered.keep_shape("detail", self.detail.parts.saveState())
        self.remembered.save()

    def _chosen(self, node: str, gpu: GpuKey | None) -> None:
        self.detail.choose(node, gpu)

    def _only(self) -> None:
        wanted = self.states.currentData()
        if wanted == _MINE:
            self.fleet.only(None, self.watcher.mine)
        else:
            self.fleet.only(wanted or None)

    # --- how it is built ----------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self.feed.viewed.connect(self.show_view)
        self.search.textChanged.connect(self.fleet.narrow)
        self.states.currentIndexChanged.connect(self._only)
        self.fleet.chosen.connect(self._chosen)
        self.detail.chosen.connect(self.fleet.choose)
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._tell_age)
        self._clock.start()
        for keys, what in (
            ("/", self.look_for),
            ("Ctrl+L", self.fleet.setFocus),
            ("Ctrl+G", self.detail.cards.setFocus),
        ):
            QShortcut(QKeySequence(keys), self).activated.connect(what)
        leave = QShortcut(QKeySequence("Esc"), self.search)
        leave.activated.connect(self._leave_search)
        leave.setContext(Qt.ShortcutContext.WidgetShortcut)
        hints = QGuiApplication.styleHints()
        hints.colorSchemeChanged.connect(self._scheme_changed)

    def _leave_search(self) -> None:
        self.search.clear()
        self.fleet.setFocus()

    def _scheme_changed(self) -> None:
        application = QGuiApplication.instance()
        if isinstance(application, QGuiApplication):
            follow_scheme(application)
        self.retheme()

    def _restore(self) -> None:
        geometry = self.remembered.shape("geometry")
        if geometry.isEmpty() or not self.restoreGeometry(geometry):
            self.resize(1280, 860)
        for part, name in ((self.columns, "columns"), (self.detail.parts, "detail")):
            shape = self.remembered.shape(name)
            if not shape.isEmpty():
                part.restoreState(shape)

    def _laid_out(self) -> QSplitter:
        left = QWidget(self)
        layout = QVBoxLayout(left)
        filters = QHBoxLayout()
        filters.addWidget(self.search, 1)
        filters.addWidget(self.states)
        layout.addLayout(filters)
        layout.addWidget(self.fleet, 1)
        columns = QSplitter(Qt.Orientation.Horizontal, self)
        columns.addWidget(left)
        columns.addWidget(self.detail)
        columns.setStretchFactor(1, 1)
        columns.setSizes([360, 920])
        columns.setChildrenCollapsible(False)
        whole = QWidget(self)
        outer = QVBoxLayout(whole)
        outer.setContentsMargins(6, 6, 6, 6)
        for part in (self.simulated, self.trouble, self.notes):
            outer.addWidget(part)
        outer.addWidget(columns, 1)
        foot = QHBoxLayout()
        foot.addWidget(self.status, 1)
        foot.addWidget(self.last_notice, 1)
        self.last_notice.setVisible(False)
        outer.addLayout(foot)
        self.setCentralWidget(whole)
        for first, second in zip(order := (self.search, self.states, self.fleet, self.detail.cards, self.detail.range,
                                           self.detail.tabs), order[1:], strict=False):  # fmt: skip
            QWidget.setTabOrder(first, second)
        self.fleet.setFocus()
        return columns


_LATE: Final = 15.0  # seconds from which on the age of what is shown is told
