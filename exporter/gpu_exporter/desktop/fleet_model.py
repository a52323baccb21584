"""Machines, with their GPUs below, as a tree that changes only where something changed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from PySide6.QtCore import QAbstractItemModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from gpu_exporter.desktop.merging import steps, told_apart
from gpu_exporter.desktop.sentences import as_tip, gpu_line, gpu_sentence, machine_line, machine_sentence
from gpu_exporter.desktop.severity import Severity, of_gpu, of_machine
from gpu_exporter.hub.client.trails import key
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu, NodeState
from gpu_exporter.hub.words import short_model

Index: TypeAlias = QModelIndex | QPersistentModelIndex

ITEM: Final = Qt.ItemDataRole.UserRole  # the NodeState or Gpu itself
SEVERITY: Final = Qt.ItemDataRole.UserRole + 1
LINE: Final = Qt.ItemDataRole.UserRole + 2
_TOP: Final = 0  # the id of a machine's index; that of a GPU's is the machine's number
_NOWHERE: Final = QModelIndex()


@dataclass(slots=True)
class _Row:
    """A line of the tree as it is shown."""

    item: Any
    text: str
    line: str
    severity: Severity
    sentence: str
    tiles: tuple[str, ...] = ()

    def same(self, other: _Row) -> bool:
        """Whether nothing of it would look different."""
        return (self.text, self.line, self.severity, self.tiles) == (
            other.text,
            other.line,
            other.severity,
            other.tiles,
        )


@dataclass(slots=True)
class _Machine:
    number: int
    row: _Row
    keys: list[Hashable] = field(default_factory=list)
    gpus: list[_Row] = field(default_factory=list)


class FleetModel(QAbstractItemModel):
    """The newest view; ``show`` puts the next one in its place."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._machines: list[_Machine] = []
        self._names: list[Hashable] = []
        self._places: dict[int, int] = {}
        self._next = _TOP + 1

    def show(self, view: View) -> None:
        """Become this view; views hear of rows that came, went or look different."""
        states = list(view)
        names = told_apart(state.node.name for state in states)
        for what, place in steps(self._names, names):
            if what == "remove":
                self.beginRemoveRows(_NOWHERE, place, place)
                del self._machines[place], self._names[place]
                self._number()
                self.endRemoveRows()
            else:
                self.beginInsertRows(_NOWHERE, place, place)
                self._machines.insert(place, _Machine(self._next, _machine_row(states[place])))
                self._names.insert(place, names[place])
                self._next += 1
                self._number()
                self.endInsertRows()
        for place, state in enumerate(states):
            self._show_gpus(place, state.gpus)
            before, self._machines[place].row = self._machines[place].row, _machine_row(state)
            if not before.same(self._machines[place].row):
                index = self.index(place, 0)
                self.dataChanged.emit(index, index)

    def _show_gpus(self, place: int, gpus: Iterable[Gpu]) -> None:
        machine, parent = self._machines[place], self.index(place, 0)
        rows = [_gpu_row(gpu) for gpu in gpus]
        keys = told_apart(key(row.item) for row in rows)
        for what, number in steps(machine.keys, keys):
            if what == "remove":
                self.beginRemoveRows(parent, number, number)
                del machine.gpus[number], machine.keys[number]
                self.endRemoveRows()
            else:
                self.beginInsertRows(parent, number, number)
                machine.gpus.insert(number, rows[number])
                machine.keys.insert(number, keys[number])
                self.endInsertRows()
        for number, row in enumerate(rows):
            before, machine.gpus[number] = machine.gpus[number], row
            if not before.same(row):
                index = self.index(number, 0, parent)
                self.dataChanged.emit(index, index)

    def _number(self) -> None:
        self._places = {machine.number: place for place, machine in enumerate(self._machines)}

    # --- QAbstractItemModel -------------------------------------------------------------------------------------------

    def index(self, row: int, column: int, parent: Index = _NOWHERE) -> QModelIndex:
        """See Qt."""
        if not self.hasIndex(row, column, parent):
            return QModelIndex()
        number = self._machines[parent.row()].number if parent.isValid() else _TOP
        return self.createIndex(row, column, number)

    def parent(self, child: Index = _NOWHERE) -> QModelIndex:  # type: ignore[override]
        """See Qt."""
        number = child.internalId() if child.isValid() else _TOP
        place = self._places.get(number)
        return QModelIndex() if number == _TOP or place is None else self.createIndex(place, 0, _TOP)

    def rowCount(self, parent: Index = _NOWHERE) -> int:  # noqa: N802 - Qt's name
        """See Qt."""
        if not parent.isValid():
            return len(self._machines)
        return len(self._machines[parent.row()].gpus) if parent.internalId() == _TOP else 0

    def columnCount(self, _parent: Index = _NOWHERE) -> int:  # noqa: N802 - Qt's name
        """See Qt."""
        return 1

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """See Qt; what is shown is plain text, but for the tool tip, which is escaped."""
        row = self._row(index)
        if row is None:
            return None
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return row.text
            case Qt.ItemDataRole.AccessibleTextRole:
                return row.sentence
            case Qt.ItemDataRole.ToolTipRole:
                return as_tip(row.sentence)
            case _ if role == ITEM:
                return row.item
            case _ if role == SEVERITY:
                return row.severity
            case _ if role == LINE:
                return row.line
        return None

    def _row(self, index: Index) -> _Row | None:
        if not index.isValid():
            return None
        if index.internalId() == _TOP:
            return self._machines[index.row()].row if index.row() < len(self._machines) else None
        place = self._places.get(index.internalId())
        gpus = [] if place is None else self._machines[place].gpus
        return gpus[index.row()] if index.row() < len(gpus) else None


def _machine_row(state: NodeState) -> _Row:
    return _Row(
        state,
        state.node.name,
        machine_line(state),
        of_machine(state),
        machine_sentence(state),
        tuple(gpu.state for gpu in state.gpus),
    )


def _gpu_row(gpu: Gpu) -> _Row:
    return _Row(gpu, f"GPU {gpu.index}  {short_model(gpu.model)}", gpu_line(gpu), of_gpu(gpu), gpu_sentence(gpu))
