"""The program's icon, and the same with a mark of how bad it is, for the tray."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QIcon, QPainter, QPixmap

from gpu_exporter.desktop import painting
from gpu_exporter.desktop.severity import Severity
from gpu_exporter.desktop.theme import LIGHT

FILE: Final = Path(__file__).with_name("icon.svg")
_SIZES: Final = (16, 22, 24, 32, 48, 64, 128)  # pixels that trays of several systems, and HiDPI, ask for


def program_icon() -> QIcon:
    """The program's icon."""
    return QIcon(str(FILE))


@lru_cache(maxsize=4)
def tray_icon(severity: Severity) -> QIcon:
    """Four GPUs in the colour of the worst of them; anything but well also has its mark, for whoever sees no colour."""
    icon = QIcon()
    for size in _SIZES:
        icon.addPixmap(_drawn(severity, size))
    return icon


def _drawn(severity: Severity, size: int) -> QPixmap:
    pixmap = QPixmap(size, size)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(LIGHT.severities[severity]))
    step = size / 2
    for left in (0.0, step):
        for top in (0.0, step):
            box = QRectF(left, top, step, step).adjusted(size / 20, size / 20, -size / 20, -size / 20)
            painter.drawRoundedRect(box, size / 12, size / 12)
    if severity != "well":
        badge = QRectF(size * 0.42, size * 0.42, size * 0.58, size * 0.58)
        painter.setBrush(Qt.GlobalColor.white)
        painter.drawEllipse(badge)
        inset = size * 0.09
        painting.mark(painter, badge.adjusted(inset, inset, -inset, -inset), severity, LIGHT)
    painter.end()
    return pixmap
