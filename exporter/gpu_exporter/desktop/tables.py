"""Who is on the GPUs: processes of a machine, and everybody who holds something anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from PySide6.QtCore import QSortFilterProxyModel, Qt
from PySide6.QtWidgets import QAbstractItemView, QTableView, QWidget

from gpu_exporter.catalog.owner_kinds import KIND_LABELS
from gpu_exporter.desktop.rows import SORT, Column, Rows, T
from gpu_exporter.hub.document import amount, share, shown
from gpu_exporter.hub.state import Holder, NodeState, Person
from gpu_exporter.hub.words import called, percent, size

Process: TypeAlias = Mapping[str, Any]


def processes_of(state: NodeState, gpu: int | None) -> list[dict[str, Any]]:
    """What runs on a machine, or on one of its GPUs, with the most memory first; texts as they may be shown."""
    found = [
        {
            shown(str(name)): shown(value) if isinstance(value, str) else value
            for name, value in process.items()
            if isinstance(value, (str, int, float))
        }
        for process in state.processes
        if gpu is None or process.get("gpu") == gpu
    ]
    return sorted(found, key=_memory, reverse=True)


def person_called(person: Person) -> str:
    """What a person is called."""
    kind, name, namespace = person.key
    return called(Holder(kind, name, namespace, None))


class Table(QTableView):
    """A table that is sorted by a click on its head, and read a row at a time."""

    def __init__(self, model: Rows[T], name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        proxy = QSortFilterProxyModel(self)
        proxy.setSourceModel(model)
        proxy.setSortRole(SORT)
        self.setModel(proxy)
        self.setSortingEnabled(True)
        proxy.sort(-1)  # in the order in which they are told, until a head is clicked
        self.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.DescendingOrder)
        self.horizontalHeader().setStretchLastSection(True)
        self.horizontalHeader().setHighlightSections(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 8)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setAccessibleName(name)
        model.rowsInserted.connect(self._fit)

    def _fit(self) -> None:
        self.resizeColumnsToContents()


def processes_model(parent: QWidget) -> Rows[Process]:
    """Processes, with the columns that any of them may have."""
    return Rows(PROCESSES, key=_key, sentence=_sentence, parent=parent)


def people_model(parent: QWidget) -> Rows[Person]:
    """Whoever holds GPUs."""
    return Rows(PEOPLE, key=lambda person: person.key, sentence=_person_sentence, parent=parent)


def _text(name: str) -> Any:
    return lambda process: str(process.get(name, ""))


def _memory(process: Process) -> float:
    value = process.get("memory_used_bytes")
    return (amount(float(value)) or 0.0) if isinstance(value, (int, float)) else 0.0


def _memory_text(process: Process) -> str:
    value = process.get("memory_used_bytes")
    return size(amount(float(value))) if isinstance(value, (int, float)) else "n/a"


def _busy(process: Process) -> float | None:
    value = process.get("utilization_ratio")
    return share(float(value)) if isinstance(value, (int, float)) else None


def _where(process: Process) -> str:
    """The container, the pod or the job it belongs to."""
    parts = [f"{name.removeprefix('slurm_')} {process[name]}" for name in KIND_LABELS if process.get(name)]
    return ", ".join(parts) or str(process.get("container", ""))


def _pid(process: Process) -> tuple[int, str]:
    text = str(process.get("pid", ""))
    return (int(text) if text.isdecimal() and len(text) < 20 else 0, text)


def _key(process: Process) -> tuple[str, ...]:
    return tuple(str(process.get(name, "")) for name in ("gpu", "mig_uuid", "pid", "type"))


def _sentence(process: Process) -> str:
    told = [f"{column.title} {text}" for column in PROCESSES if (text := column.text(process))]
    return ", ".join(told)


def _person_sentence(person: Person) -> str:
    return f"{person_called(person)}: {len(person.gpus)} GPUs on {_machines(person)}, {len(person.idle)} of them idle"


def _machines(person: Person, most: int = 4) -> str:
    names: Sequence[str] = list(dict.fromkeys(gpu.node for gpu in person.gpus))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


PROCESSES: Final[tuple[Column[Process], ...]] = (
    Column("GPU", _text("gpu"), lambda process: int(process.get("gpu", 0))),
    Column("PID", _text("pid"), lambda process: _pid(process)[0]),
    Column("User", _text("user")),
    Column("Memory", _memory_text, _memory),
    Column("Busy", lambda process: percent(_busy(process)), lambda process: _busy(process) or 0.0),
    Column("Program", _text("process")),
    Column("Type", _text("type")),
    Column("Job, pod or container", _where),
)
PEOPLE: Final[tuple[Column[Person], ...]] = (
    Column("Who", person_called),
    Column("GPUs", lambda person: str(len(person.gpus)), lambda person: len(person.gpus)),
    Column("Idle", lambda person: str(len(person.idle)), lambda person: len(person.idle)),
    Column("Memory", lambda person: size(person.memory), lambda person: person.memory),
    Column("On", _machines),
)
