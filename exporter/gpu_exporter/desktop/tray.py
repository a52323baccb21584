"""The icon in the system's tray, and how somebody who looks elsewhere is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from typing import Final

from PySide6.QtCore import QObject, QProcess, Signal
from PySide6.QtWidgets import QApplication, QMenu, QSystemTrayIcon, QWidget

from gpu_exporter.desktop.icons import FILE, tray_icon
from gpu_exporter.desktop.notices import Kind, Notice, harmless
from gpu_exporter.desktop.severity import Severity, summary, worst
from gpu_exporter.hub.client.view import View

_SHOWN: Final = 10_000  # ms that a notice stays
_LONGEST: Final = 120  # characters of a tool tip; some systems cut it there
_URGENCY: Final[dict[Kind, str]] = {"hot": "critical", "lost": "critical", "free": "normal"}
_ICONS: Final[dict[Kind, Severity]] = {"hot": "warning", "lost": "critical", "free": "well"}


class Tray(QObject):
    """An icon wherever there is a tray, also one that comes later; without one, notices go to ``notify-send``."""

    wanted = Signal()  # the window is asked for

    def __init__(self, window: QWidget, *, quit_: Callable[[], object]) -> None:
        super().__init__(window)
        self._window = window
        self._severity: Severity = "unknown"
        self._icon = QSystemTrayIcon(tray_icon("unknown"), self)
        self._icon.activated.connect(self._clicked)
        self._icon.messageClicked.connect(self.wanted)
        self._menu = QMenu(window)
        self._words = self._menu.addAction("asking the machines")
        self._words.setEnabled(False)
        self._menu.addSeparator()
        self._menu.addAction("&Show the window").triggered.connect(self.wanted)
        self._menu.addAction("&Quit").triggered.connect(quit_)
        self._icon.setContextMenu(self._menu)
        self._appear()

    @property
    def there(self) -> bool:
        """Whether the icon can be seen."""
        return self._icon.isVisible() and QSystemTrayIcon.isSystemTrayAvailable()

    @property
    def severity(self) -> Severity:
        """What the icon's colour tells."""
        return self._severity

    @property
    def words(self) -> str:
        """What it tells to whoever points at it."""
        return self._icon.toolTip()

    def show_view(self, view: View) -> None:
        """Take the colour of the worst of it."""
        self._appear()
        severity = worst(view)
        if severity != self._severity:
            self._severity = severity
            self._icon.setIcon(tray_icon(severity))
        text = harmless(summary(view))
        shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
        if shown != self._icon.toolTip():
            self._icon.setToolTip(shown)
            self._words.setText(shown)

    def tell(self, notices: Iterable[Notice]) -> None:
        """Tell somebody who does not look at the window."""
        for notice in notices:
            title, text = harmless(notice.title), harmless(notice.text)
            QApplication.alert(self._window)
            if self.there and QSystemTrayIcon.supportsMessages():
                self._icon.showMessage(title, text, tray_icon(_ICONS[notice.kind]), _SHOWN)
            elif program := shutil.which("notify-send"):
                options = ["--app-name=gpu-exporter", f"--urgency={_URGENCY[notice.kind]}", f"--icon={FILE}"]
                QProcess.startDetached(program, [*options, "--", title, text])

    def hide(self) -> None:
        """Take the icon away."""
        self._icon.hide()

    def _appear(self) -> None:
        if QSystemTrayIcon.isSystemTrayAvailable() and not self._icon.isVisible():
            self._icon.show()

    def _clicked(self, reason: QSystemTrayIcon.ActivationReason) -> None:
        if reason in {QSystemTrayIcon.ActivationReason.Trigger, QSystemTrayIcon.ActivationReason.DoubleClick}:
            self.wanted.emit()
