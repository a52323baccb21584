"""What several lists draw: pills, bars, marks and lines of text. Everything is drawn as plain text."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPen, QPolygonF

from gpu_exporter.desktop.severity import Severity
from gpu_exporter.desktop.theme import Colours

_FLAGS = int(Qt.AlignmentFlag.AlignVCenter | Qt.TextFlag.TextSingleLine)


def line(
    painter: QPainter,
    box: QRectF,
    text: str,
    colour: str | QColor,
    *,
    bold: bool = False,
    small: bool = False,
    right: bool = False,
) -> float:
    """Write one line, with dots where it is too long; how wide it became."""  # fmt: skip
    painter.save()
    font = QFont(painter.font())
    font.setBold(bold)
    if small:
        font.setPointSizeF(max(font.pointSizeF() * 0.87, 6.0))
    painter.setFont(font)
    painter.setPen(QColor(colour))
    metrics = QFontMetricsF(font)
    shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, box.width())
    side = Qt.AlignmentFlag.AlignRight if right else Qt.AlignmentFlag.AlignLeft
    painter.drawText(box, _FLAGS | int(side), shown)
    painter.restore()
    return min(metrics.horizontalAdvance(shown), box.width())


def bar(painter: QPainter, box: QRectF, share: float | None, colour: str, colours: Colours) -> None:
    """A share of a whole; nothing in it where it is not known."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(colours.bar))
    round_ = box.height() / 2
    painter.drawRoundedRect(box, round_, round_)
    if share is not None and share > 0:
        filled = QRectF(box)
        filled.setWidth(max(box.height(), box.width() * min(share, 1.0)))
        painter.setBrush(QColor(colour))
        painter.drawRoundedRect(filled, round_, round_)
    painter.restore()


def pill(painter: QPainter, right: float, middle: float, text: str, pair: tuple[str, str]) -> float:
    """A word on a ground of its colour, that ends at ``right``; where it begins."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    font = QFont(painter.font())
    font.setPointSizeF(max(font.pointSizeF() * 0.87, 6.0))
    font.setBold(True)
    painter.setFont(font)
    metrics = QFontMetricsF(font)
    wide, high = metrics.horizontalAdvance(text) + 14, metrics.height() + 4
    box = QRectF(right - wide, middle - high / 2, wide, high)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(pair[1]))
    painter.drawRoundedRect(box, high / 2, high / 2)
    painter.setPen(QColor(pair[0]))
    painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), text)
    painter.restore()
    return box.left()


def mark(painter: QPainter, box: QRectF, severity: Severity, colours: Colours) -> None:
    """How bad it is, as a colour and as a shape: a disc, a ring, a triangle, a diamond."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    colour = QColor(colours.severities[severity])
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(colour)
    middle = box.center()
    if severity == "well":
        painter.drawEllipse(box.adjusted(1, 1, -1, -1))
    elif severity == "unknown":
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(colour, max(1.5, box.width() / 6)))
        painter.drawEllipse(box.adjusted(2, 2, -2, -2))
    elif severity == "warning":
        painter.drawPolygon(
            QPolygonF([QPointF(middle.x(), box.top()), QPointF(box.right(), box.bottom()), box.bottomLeft()])
        )
    else:
        left, right = QPointF(box.left(), middle.y()), QPointF(box.right(), middle.y())
        painter.drawPolygon(QPolygonF([QPointF(middle.x(), box.top()), right, QPointF(middle.x(), box.bottom()), left]))
    painter.restore()
