"""A table of things of one kind, which changes only where something changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt

from gpu_exporter.desktop.fleet_model import ITEM, Index
from gpu_exporter.desktop.merging import steps, told_apart
from gpu_exporter.desktop.sentences import as_tip

T = TypeVar("T")
SORT: Final = Qt.ItemDataRole.UserRole + 3
_NOWHERE: Final = QModelIndex()
_RIGHT: Final = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """``text`` is what is written, ``sort`` the number that it is sorted by where there is one."""

    title: str
    text: Callable[[T], str]
    sort: Callable[[T], Any] | None = None

    @property
    def numeric(self) -> bool:
        """Whether it has numbers, which stand at the right."""
        return self.sort is not None


class Rows(QAbstractTableModel, Generic[T]):
    """``key`` tells which thing it is from one time to the next, ``sentence`` is for whoever does not see the table."""

    def __init__(
        self,
        columns: Sequence[Column[T]],
        *,
        key: Callable[[T], Hashable],
        sentence: Callable[[T], str],
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._columns = columns
        self._key = key
        self._sentence = sentence
        self._items: list[T] = []
        self._keys: list[Hashable] = []

    @property
    def items(self) -> Sequence[T]:
        """What is shown."""
        return self._items

    def show(self, items: Iterable[T]) -> None:
        """Show these; views hear of what came, went or changed."""
        wanted = list(items)
        keys = told_apart(map(self._key, wanted))
        for what, row in steps(self._keys, keys):
            if what == "remove":
                self.beginRemoveRows(_NOWHERE, row, row)
                del self._items[row], self._keys[row]
                self.endRemoveRows()
            else:
                self.beginInsertRows(_NOWHERE, row, row)
                self._items.insert(row, wanted[row])
                self._keys.insert(row, keys[row])
                self.endInsertRows()
        last = len(self._columns) - 1
        for row, item in enumerate(wanted):
            if item != self._items[row]:
                self._items[row] = item
                self.dataChanged.emit(self.index(row, 0), self.index(row, last))

    # --- QAbstractTableModel ------------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = _NOWHERE) -> int:  # noqa: N802 - Qt's name
        """See Qt."""
        return 0 if parent.isValid() else len(self._items)

    def columnCount(self, parent: Index = _NOWHERE) -> int:  # noqa: N802 - Qt's name
        """See Qt."""
        return 0 if parent.isValid() else len(self._columns)

    def headerData(  # noqa: N802 - Qt's name
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """See Qt."""
        if orientation == Qt.Orientation.Horizontal and 0 <= section < len(self._columns):
            if role == Qt.ItemDataRole.DisplayRole:
                return self._columns[section].title
            if role == Qt.ItemDataRole.TextAlignmentRole and self._columns[section].numeric:
                return _RIGHT
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """See Qt; what is shown is plain text, but for the tool tip, which is escaped."""
        if not index.isValid() or index.row() >= len(self._items):
            return None
        item, column = self._items[index.row()], self._columns[index.column()]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return column.text(item)
            case Qt.ItemDataRole.ToolTipRole:
                return as_tip(self._sentence(item))
            case Qt.ItemDataRole.AccessibleTextRole:
                return f"{column.title}: {column.text(item)}" if column.title else self._sentence(item)
            case Qt.ItemDataRole.TextAlignmentRole if column.numeric:
                return _RIGHT
            case _ if role == SORT:
                return column.text(item).casefold() if column.sort is None else column.sort(item)
            case _ if role == ITEM:
                return item
        return None
