"""Which machines and GPUs of the tree are shown, and which come first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from PySide6.QtCore import QObject, QSortFilterProxyModel

from gpu_exporter.desktop.fleet_model import ITEM, SEVERITY, Index
from gpu_exporter.desktop.sentences import searched, searched_gpu
from gpu_exporter.desktop.severity import Severity
from gpu_exporter.hub.state import Gpu, GpuState, NodeState

_FIRST: Final[dict[Severity, int]] = {"critical": 0, "warning": 1, "unknown": 2, "well": 3}


class FleetFilter(QSortFilterProxyModel):
    """Sick machines first, then the list's order; a machine that fits has all its GPUs, another those that fit."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._words: tuple[str, ...] = ()
        self._state: GpuState | None = None
        self._mine: Callable[[Gpu], bool] | None = None
        self.setDynamicSortFilter(True)
        self.setRecursiveFilteringEnabled(True)
        self.sort(0)

    @property
    def narrows(self) -> bool:
        """Whether not everything is shown."""
        return bool(self._words) or self._state is not None or self._mine is not None

    def look_for(self, text: str) -> None:
        """Show what has all these words."""
        self._words = tuple(text.casefold().split())
        self.invalidate()

    def only(self, state: GpuState | None, mine: Callable[[Gpu], bool] | None = None) -> None:
        """Show GPUs in this state, or those that are mine; None shows all."""
        self._state, self._mine = state, mine
        self.invalidate()

    def filterAcceptsRow(self, row: int, parent: Index) -> bool:  # noqa: N802 - Qt's name
        """See Qt. A machine that is not accepted by itself is shown where one of its GPUs is."""
        model = self.sourceModel()
        item = model.index(row, 0, parent).data(ITEM)
        if isinstance(item, NodeState):
            # Where GPUs are asked for, a machine is there for their sake.
            return self._state is None and self._mine is None and all(word in searched(item) for word in self._words)
        if not isinstance(item, Gpu):
            return False
        if (self._state is not None and item.state != self._state) or (self._mine is not None and not self._mine(item)):
            return False
        machine = parent.data(ITEM)
        around = searched(machine) if isinstance(machine, NodeState) else ""
        return all(word in around or word in searched_gpu(item) for word in self._words)

    def lessThan(self, left: Index, right: Index) -> bool:  # noqa: N802 - Qt's name
        """See Qt."""
        if left.parent().isValid():
            return left.row() < right.row()
        return _place(left) < _place(right)


def _place(index: Index) -> tuple[int, int]:
    severity = index.data(SEVERITY)
    starting = isinstance(state := index.data(ITEM), NodeState) and state.status == "starting"
    return (_FIRST["well"] if starting else _FIRST.get(severity, 3), index.row())
