"""The list of machines: a line for its name, a line for what it is up to, and a tile for each GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPalette
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTreeView,
    QWidget,
)

from gpu_exporter.desktop import painting
from gpu_exporter.desktop.fleet_filter import FleetFilter
from gpu_exporter.desktop.fleet_model import ITEM, LINE, SEVERITY, FleetModel, Index
from gpu_exporter.desktop.theme import Colours, colours
from gpu_exporter.hub.client.trails import GpuKey, key
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu, GpuState, NodeState

_TILE: Final = 7.0
_TILES: Final = 16  # that are drawn; a machine with more has them in words alone
_UNFOLDED: Final = 16  # machines that fit a filter, up to which their GPUs are shown
_PAD: Final = 5.0


class _Delegate(QStyledItemDelegate):
    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        style = option.widget.style() if option.widget else QApplication.style()
        style.drawPrimitive(QStyle.PrimitiveElement.PE_PanelItemViewItem, option, painter, option.widget)
        chosen = bool(option.state & QStyle.StateFlag.State_Selected)
        theme = colours(option.palette)
        written = option.palette.color(QPalette.ColorRole.HighlightedText)
        text, dim = (written, written) if chosen else (QColor(theme.text), QColor(theme.dim))
        box = QRectF(option.rect).adjusted(_PAD, _PAD - 2, -_PAD, 2 - _PAD)
        painter.save()
        painter.setFont(option.font)
        high = box.height() / 2
        first, second = QRectF(box), QRectF(box)
        first.setHeight(high)
        second.setTop(box.top() + high)
        item = index.data(ITEM)
        mark = QRectF(first.left(), first.center().y() - 5, 10, 10)
        painting.mark(painter, mark, index.data(SEVERITY), theme)
        first.setLeft(mark.right() + 7)
        second.setLeft(first.left())
        machine = isinstance(item, NodeState)
        if machine:
            first.setRight(_tiles(painter, first, item.gpus, theme))
        painting.line(painter, first, index.data(Qt.ItemDataRole.DisplayRole), text, bold=machine)
        painting.line(painter, second, index.data(LINE), dim, small=True)
        if option.state & QStyle.StateFlag.State_HasFocus:
            painter.setPen(QColor(theme.accent))
            painter.drawRect(QRectF(option.rect).adjusted(0.5, 0.5, -1.5, -1.5))
        painter.restore()

    def sizeHint(self, option: QStyleOptionViewItem, _index: Index) -> QSize:  # noqa: N802 - Qt's name
        return QSize(120, int(option.fontMetrics.height() * 2 + 2 * _PAD))


def _tiles(painter: QPainter, box: QRectF, gpus: tuple[Gpu, ...], theme: Colours) -> float:
    """Squares for GPUs, at the right; where they begin."""
    if not 0 < len(gpus) <= _TILES:
        return box.right()
    left = box.right() - len(gpus) * (_TILE + 2)
    for number, gpu in enumerate(gpus):
        tile = QRectF(left + number * (_TILE + 2), box.center().y() - _TILE / 2, _TILE, _TILE)
        written, ground = theme.states[gpu.state]
        painter.fillRect(tile, QColor(ground if gpu.state == "down" else written))
        if gpu.state in {"free", "unknown"}:  # hollow: told apart without colour
            painter.fillRect(tile.adjusted(1.5, 1.5, -1.5, -1.5), QColor(ground))
    return left - 6


class FleetList(QTreeView):
    """``chosen`` tells what was clicked or reached by keys: a machine's name, and the GPU's key or None."""

    chosen = Signal(str, object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.fleet = FleetModel(self)
        self.filter = FleetFilter(self)
        self.filter.setSourceModel(self.fleet)
        self.setModel(self.filter)
        self.setItemDelegate(_Delegate(self))
        self.setHeaderHidden(True)
        self.setUniformRowHeights(True)
        self.setAnimated(False)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setAccessibleName("Machines and their GPUs")

    def show_view(self, view: View) -> None:
        """Show this; the first machine is chosen until something else is, and a machine alone is unfolded."""
        empty = not self.fleet.rowCount()
        self.fleet.show(view)
        if empty and len(view) == 1:
            self.expandAll()
        if not self.currentIndex().isValid() and self.filter.rowCount():
            self.setCurrentIndex(self.filter.index(0, 0))

    def narrow(self, text: str) -> None:
        """Show what has these words, unfolded as far as that helps."""
        self.filter.look_for(text)
        self._after_narrowing()

    def choose(self, node: str, gpu: GpuKey | None = None) -> None:
        """Go to a machine, or to one of its GPUs."""
        for row in range(self.filter.rowCount()):
            machine = self.filter.index(row, 0)
            if machine.data(ITEM).node.name != node:
                continue
            below = [self.filter.index(number, 0, machine) for number in range(self.filter.rowCount(machine))]
            found = next((index for index in below if gpu is not None and key(index.data(ITEM)) == gpu), machine)
            if found != self.currentIndex():
                self.setCurrentIndex(found)
            return

    def currentChanged(self, current: Index, previous: Index) -> None:  # noqa: N802 - Qt's name
        """See Qt."""
        super().currentChanged(current, previous)
        item = current.data(ITEM) if current.isValid() else None
        if isinstance(item, NodeState):
            self.chosen.emit(item.node.name, None)
        elif isinstance(item, Gpu):
            self.chosen.emit(item.node, key(item))

    def only(self, state: GpuState | None, mine: Callable[[Gpu], bool] | None = None) -> None:
        """See FleetFilter.only."""
        self.filter.only(state, mine)
        self._after_narrowing()

    def _after_narrowing(self) -> None:
        if self.filter.narrows and self.filter.rowCount() <= _UNFOLDED:
            self.expandAll()
        if not self.currentIndex().isValid() and self.filter.rowCount():
            self.setCurrentIndex(self.filter.index(0, 0))
