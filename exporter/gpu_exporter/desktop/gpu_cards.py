"""A card for each GPU of a machine: state, holders, and four numbers against their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PySide6.QtCore import QRectF, QSignalBlocker, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPalette, QPen
from PySide6.QtWidgets import QAbstractItemView, QListView, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from gpu_exporter.desktop import painting
from gpu_exporter.desktop.fleet_model import ITEM, Index
from gpu_exporter.desktop.rows import Column, Rows
from gpu_exporter.desktop.sentences import gpu_sentence, holders
from gpu_exporter.desktop.severity import hot
from gpu_exporter.desktop.theme import Colours, colours
from gpu_exporter.hub.client.trails import GpuKey, key
from gpu_exporter.hub.state import Gpu
from gpu_exporter.hub.words import STATE_WORDS, gib, percent, short_model

_WIDE: Final = 27  # characters of a card
_LINES: Final = 8.2  # of text, one above the other
_PAD: Final = 10.0


class _Delegate(QStyledItemDelegate):
    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        gpu = index.data(ITEM)
        if not isinstance(gpu, Gpu):
            return
        theme = colours(option.palette)
        card = QRectF(option.rect).adjusted(4, 4, -4, -4)
        painter.save()
        painter.setFont(option.font)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        chosen = bool(option.state & QStyle.StateFlag.State_Selected)
        edge = theme.accent if chosen else theme.severities["warning"] if hot(gpu) else theme.line
        painter.setPen(QPen(QColor(edge), 2 if chosen or hot(gpu) else 1))
        painter.setBrush(QColor(theme.panel))
        painter.drawRoundedRect(card, 8, 8)
        _write(painter, card.adjusted(_PAD, _PAD - 3, -_PAD, 3 - _PAD), gpu, theme)
        if option.state & QStyle.StateFlag.State_HasFocus:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(QColor(theme.accent), 1, Qt.PenStyle.DotLine))
            painter.drawRoundedRect(card.adjusted(3, 3, -3, -3), 6, 6)
        painter.restore()

    def sizeHint(self, option: QStyleOptionViewItem, _index: Index) -> QSize:  # noqa: N802 - Qt's name
        return card_size(option)


def card_size(option: QStyleOptionViewItem) -> QSize:
    """How large a card is, by the font."""
    metrics = option.fontMetrics
    return QSize(int(metrics.averageCharWidth() * _WIDE + 4 * _PAD), int(metrics.height() * _LINES + 2 * _PAD + 8))


def _write(painter: QPainter, box: QRectF, gpu: Gpu, theme: Colours) -> None:
    row = box.height() / 7
    first = QRectF(box.left(), box.top(), box.width(), row)
    begin = painting.pill(painter, first.right(), first.center().y(), STATE_WORDS[gpu.state], theme.states[gpu.state])
    first.setRight(begin - 6)
    painting.line(painter, first, f"GPU {gpu.index}", theme.text, bold=True)
    second = QRectF(box.left(), box.top() + row, box.width(), row)
    painting.line(painter, second, short_model(gpu.model), theme.dim, small=True)
    if gpu.state in {"down", "unknown"} and gpu.utilization is None and gpu.temperature is None:
        third = QRectF(box.left(), box.top() + 2.2 * row, box.width(), row)
        painting.line(painter, third, gpu.why, theme.trouble[0] if gpu.state == "down" else theme.dim, small=True)
    else:
        for number, one in enumerate(_numbers(gpu)):
            _measure(painter, QRectF(box.left(), box.top() + (2 + number) * row, box.width(), row), one, theme)
    last = QRectF(box.left(), box.bottom() - row, box.width(), row)
    who = holders(gpu) or ("nobody" if gpu.holders == () else "")
    painting.line(painter, last, who, theme.text if gpu.holders else theme.dim, small=True)


@dataclass(frozen=True, slots=True)
class _Number:
    """A number of a card: ``share`` of its limit, None where either is not known."""

    name: str
    text: str
    share: float | None
    warm: bool = False


def _numbers(gpu: Gpu) -> Sequence[_Number]:
    memory = gpu.memory_used / gpu.memory_total if gpu.memory_used is not None and gpu.memory_total else None
    heat = gpu.temperature / gpu.temperature_limit if gpu.temperature and gpu.temperature_limit else None
    power = gpu.power / gpu.power_limit if gpu.power is not None and gpu.power_limit else None
    return (
        _Number("Use", percent(gpu.utilization), gpu.utilization),
        _Number("Memory", f"{gib(gpu.memory_used)} / {gib(gpu.memory_total)} GiB", memory),
        _Number("Heat", _limited(gpu.temperature, gpu.temperature_limit, "°C"), heat, hot(gpu)),
        _Number("Power", _limited(gpu.power, gpu.power_limit, "W"), power),
    )


def _limited(value: float | None, limit: float | None, unit: str) -> str:
    if value is None:
        return "n/a"
    return f"{value:.0f}{f' / {limit:.0f}' if limit else ''} {unit}"


def _measure(painter: QPainter, box: QRectF, number: _Number, theme: Colours) -> None:
    label = QRectF(box.left(), box.top(), box.width() * 0.24, box.height())
    painting.line(painter, label, number.name, theme.dim, small=True)
    value = QRectF(box.left() + box.width() * 0.56, box.top(), box.width() * 0.44, box.height())
    hot_colour = theme.severities["critical"]
    written = hot_colour if number.warm else theme.text
    painting.line(painter, value, number.text, written, small=True, bold=number.warm, right=True)
    gauge = QRectF(label.right() + 4, box.center().y() - 2.5, value.left() - label.right() - 10, 5)
    painting.bar(painter, gauge, number.share, hot_colour if number.warm else theme.fill, theme)


class GpuCards(QListView):
    """``chosen`` tells the key of the card that was clicked or reached by keys; ``choose`` does not."""

    chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.gpus: Rows[Gpu] = Rows([Column("", gpu_sentence)], key=key, sentence=gpu_sentence, parent=self)
        self.setModel(self.gpus)
        self.setItemDelegate(_Delegate(self))
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setMovement(QListView.Movement.Static)
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setUniformItemSizes(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setFrameShape(QListView.Shape.NoFrame)
        self.viewport().setBackgroundRole(QPalette.ColorRole.Window)
        self.setAccessibleName("GPUs of the machine")
        self.setMinimumHeight(self.card().height() + 8)
        self.clicked.connect(self._told)  # also of the card that was chosen for its machine

    def card(self) -> QSize:
        """How large a card is."""
        option = QStyleOptionViewItem()
        option.initFrom(self)
        return card_size(option)

    def choose(self, wanted: GpuKey) -> None:
        """Go to a GPU."""
        for row, gpu in enumerate(self.gpus.items):
            if key(gpu) == wanted and self.currentIndex().row() != row:
                with QSignalBlocker(self):
                    self.setCurrentIndex(self.gpus.index(row, 0))

    def currentChanged(self, current: Index, previous: Index) -> None:  # noqa: N802 - Qt's name
        """See Qt."""
        super().currentChanged(current, previous)
        self._told(current)

    def _told(self, current: Index) -> None:
        gpu = current.data(ITEM) if current.isValid() else None
        if isinstance(gpu, Gpu):
            self.chosen.emit(key(gpu))
