"""The program around the window: Qt, signals of the system, what is shown first, and the end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections import deque
from contextlib import suppress
from typing import Final

from PySide6.QtCore import (
    QEvent,
    QMessageLogContext,
    QObject,
    QSocketNotifier,
    QTimer,
    QtMsgType,
    qInstallMessageHandler,
)
from PySide6.QtWidgets import QApplication

from gpu_exporter.desktop.choice import Choice, Open
from gpu_exporter.desktop.feed import Feed
from gpu_exporter.desktop.holding_none import hold_none
from gpu_exporter.desktop.icons import program_icon
from gpu_exporter.desktop.menus import Menus
from gpu_exporter.desktop.remembered import Remembered
from gpu_exporter.desktop.targets_dialog import TargetsDialog
from gpu_exporter.desktop.theme import follow_scheme
from gpu_exporter.desktop.tray import Tray
from gpu_exporter.desktop.window import Window
from gpu_exporter.ending import quit_now
from gpu_exporter.hub.client.origins import Origin

log = logging.getLogger(__name__)

_NO_DISPLAY: Final = "could not connect to display"  # Qt's words
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Desktop(QObject):
    """Everything that lives from the start to the end. ``open_`` makes an origin of what was chosen."""

    def __init__(self, application: QApplication, open_: Open, remembered: Remembered) -> None:
        super().__init__()
        self._application = application
        self._open = open_
        self.remembered = remembered
        self.feed = Feed(self)
        self.window = Window(self.feed, remembered)
        self.tray = Tray(self.window, quit_=self.quit)
        self.menus = Menus(self.window, choose=self.choose, quit_=self.quit)
        self.window.stays = lambda: remembered.stays and self.tray.there
        self.feed.viewed.connect(self.tray.show_view)
        self.window.noticed.connect(self.tray.tell)
        self.tray.wanted.connect(self.window.come)
        self.dialog: TargetsDialog | None = None

    def begin(self, origin: Origin | None, choice: Choice | None = None) -> None:
        """Show this; without an origin what was remembered; without that ask."""
        if origin is not None:
            if choice is not None:
                self.remembered.choice = choice
            self.feed.follow(origin)
            return
        remembered = self.remembered.choice
        self.choose(remembered or Choice(), at_once=remembered is not None)

    def choose(self, choice: Choice | None = None, *, at_once: bool = False) -> None:
        """Ask what to show; ``at_once`` shows it, and asks only where that is not possible."""
        if self.dialog is not None:
            self.dialog.raise_()
            return
        self.dialog = dialog = TargetsDialog(self._open, choice or self.remembered.choice or Choice(), self.window)
        dialog.finished.connect(self._chosen)
        if at_once:
            dialog.try_at_once()
        else:
            dialog.open()

    def quit(self) -> None:
        """End the program."""
        self.window.keep_shapes()
        self._application.quit()

    def end(self) -> None:
        """Stop within two seconds, and let go of everything that Qt would look for later."""
        self.tray.hide()
        self.window.hide()
        self.feed.close()
        self.window.deleteLater()
        self._application.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)

    def _chosen(self) -> None:
        dialog, self.dialog = self.dialog, None
        if dialog is None:
            return
        if dialog.origin is not None:
            self.remembered.choice = dialog.choice
            self.feed.follow(dialog.origin)
        elif not self.feed.follows:
            self._application.quit()  # nothing was chosen, and nothing is shown
        dialog.deleteLater()


def run(open_: Open, *, origin: Origin | None, choice: Choice | None) -> None:
    """Show the window until it is closed. ``origin`` is what was asked for, as ``choice``.

    A choice of None is not remembered.
    """
    hold_none()
    qInstallMessageHandler(_Messages())
    application = QApplication([sys.argv[0]])
    application.setApplicationName("gpu-exporter")
    application.setApplicationDisplayName("GPU machines")
    application.setDesktopFileName("gpu-exporter")
    application.setWindowIcon(program_icon())
    application.setQuitOnLastWindowClosed(False)  # it may go on in the tray
    follow_scheme(application)
    desktop = Desktop(application, open_, Remembered())
    with _Signals(application):
        desktop.window.show()
        QTimer.singleShot(0, lambda: desktop.begin(origin, choice))
        application.exec()
    desktop.end()
    if desktop.feed.hung:  # the driver's exit handlers would wait for the call that hangs
        quit_now(0)


class _Signals:
    """Ctrl-C, SIGTERM and a terminal that closes end the window; Python alone would hear of them at the next event."""

    def __init__(self, application: QApplication) -> None:
        self._application = application
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)

    def __enter__(self) -> None:
        self._before = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        self._handlers = [(number, signal.signal(number, lambda *_: None)) for number in _SIGNALS]
        self._notifier = QSocketNotifier(self._ours.fileno(), QSocketNotifier.Type.Read)
        self._notifier.activated.connect(self._heard)

    def __exit__(self, *_: object) -> None:
        self._notifier.setEnabled(False)
        signal.set_wakeup_fd(self._before)
        for number, handler in self._handlers:
            signal.signal(number, handler)
        self._ours.close()
        self._theirs.close()

    def _heard(self) -> None:
        with suppress(BlockingIOError):
            self._ours.recv(64)
        self._application.quit()


class _Messages:
    """Qt's own messages. It aborts the process after a fatal one: that is said in our way, and the process ended."""

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=3)

    def __call__(self, kind: QtMsgType, _context: QMessageLogContext, text: str) -> None:
        words = " ".join(text.split())
        if kind == QtMsgType.QtFatalMsg:
            display = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
            where = f"on the display {display!r}" if display else "without a display"
            # After a display that does not answer Qt goes on about libraries that may be missing.
            said = [one for one in self._last if one.startswith(_NO_DISPLAY)] or list(self._last)
            why = "; ".join(dict.fromkeys(filter(None, said))) or words
            sys.stderr.write(f"gpu-exporter: the window cannot be shown {where}: {why}\n")
            sys.stderr.flush()
            quit_now(2)
        if kind != QtMsgType.QtDebugMsg:
            self._last.append(words)
            log.debug("Qt says", extra={"message_of_qt": words})
