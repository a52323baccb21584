"""The processes on the GPUs, and the people who hold them, as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.document import amount, share, shown
from gpu_exporter.hub.state import Holder, NodeState
from gpu_exporter.hub.words import called, percent, size, span
from gpu_exporter.top.cells import width
from gpu_exporter.top.idle import IdleProcesses, Since
from gpu_exporter.top.lines import Line, Pen
from gpu_exporter.top.look import Look, owner_of
from gpu_exporter.top.table import Cells, Column, Table, total

_SEVERAL: Final = 2
_WIDE: Final = 60  # columns from which there is room for more than the most important


@dataclass(frozen=True, slots=True)
class Row:
    """One process on one GPU."""

    state: NodeState
    process: Mapping[str, Any]
    idle: Since | None

    @property
    def gpu(self) -> int:
        """The GPU's index; -1 where it is not told."""
        index = self.process.get("gpu")
        return index if isinstance(index, int) else -1

    @property
    def memory(self) -> float | None:
        """GPU memory in bytes."""
        return amount(self._number("memory_used_bytes"))

    @property
    def utilization(self) -> float | None:
        """What it takes of the GPU, as a share of 1."""
        return share(self._number("utilization_ratio"))

    def text(self, name: str) -> str:
        """A label of it, as it may be shown."""
        return shown(str(self.process.get(name, "")))

    @property
    def user(self) -> str:
        """Whose it is on its machine; of a pod it is the pod that matters."""
        return self.text("user")

    @property
    def what(self) -> str:
        """Where it runs, and what it is."""
        owner = owner_of(self.process)
        where = called(owner) if owner.kind == "pod" else self.text("container")[:12]
        job = f"job {self.text('slurm_job')}" if self.text("slurm_job") else ""
        mig = "MIG" if self.process.get("mig_uuid") else ""
        return "  ".join(filter(None, [where, job, self.text("process"), mig]))

    def _number(self, name: str) -> float | None:
        value = self.process.get(name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def rows(view: View, look: Look, idle: IdleProcesses) -> list[Row]:
    """The processes that are wanted, in the order that is wanted."""
    found = [
        Row(state, process, idle.of(state.node.name, process))
        for state in view
        if state.online
        for process in state.processes
        if look.process(state, process)
    ]
    order = {name: place for place, name in enumerate(state.node.name for state in view)}
    # What is equal stands by machine, GPU and pid, so that rows do not dance.
    found.sort(key=lambda row: (order[row.state.node.name], row.gpu, row.text("pid")))
    found.sort(key=_ORDERS[look.process_order])
    return found[::-1] if look.processes_reversed else found


_ORDERS: Final[Mapping[str, Callable[[Row], Any]]] = {
    "memory": lambda row: -(row.memory if row.memory is not None else -1.0),
    "util": lambda row: -(row.utilization if row.utilization is not None else -1.0),
    "idle": lambda row: row.idle.at if row.idle is not None else float("inf"),
    "user": lambda row: (row.user or "\uffff").casefold(),
    "pid": lambda row: (len(row.text("pid")), row.text("pid")),
    "gpu": lambda _: 0,
}


def process_table(columns: int, view: View) -> Table:
    """The columns that there is room for."""
    several = len(view) >= _SEVERAL
    name = min(20, max((width(state.node.name) for state in view), default=0))
    fixed = [
        *([Column("machine", "MACHINE", max(7, name), name=True)] if several and columns >= _WIDE else []),
        Column("gpu", "GPU", 3, right=True),
        Column("pid", "PID", 7, right=True),
        Column("user", "USER", 8 if columns < _WIDE else 10 if columns < 120 else 16, name=True),
        Column("memory", "MEM", 9, right=True),
    ]
    if columns >= _WIDE:
        fixed += [Column("util", "UTIL", 5, right=True), Column("idle", "IDLE", 9, right=True)]
    return Table((*fixed, Column("what", "WHAT", max(0, columns - total(fixed)))))


def process_line(row: Row, table: Table, pen: Pen, now: float) -> Line:
    """A process as a line."""
    cells: Cells = {
        "machine": (row.state.node.name, ""),
        "gpu": (str(row.gpu) if row.gpu >= 0 else "", ""),
        "pid": (row.text("pid"), ""),
        "user": (row.user or "unknown", "" if row.user else "dim"),
        "memory": (size(row.memory), ""),
        "util": (percent(row.utilization), "busy" if row.utilization else ""),
        "idle": (since(row.idle, now), "idle"),
        "what": (row.what, "dim"),
    }
    return table.row(pen, cells, ("process", row.state.node.name, str(row.gpu), row.text("pid")))


def people_table(columns: int) -> Table:
    """The columns of whoever holds GPUs."""
    fixed = [
        Column("who", "WHO", 16 if columns < _WIDE else min(40, columns // 3), name=True),
        Column("gpus", "GPUS", 4, right=True),
        Column("idle", "IDLE", 4, right=True),
        Column("memory", "MEM", 9, right=True),
    ]
    return Table((*fixed, Column("machines", "ON", max(0, columns - total(fixed)))))


def people_lines(view: View, look: Look, table: Table, pen: Pen) -> list[Line]:
    """A line for everybody who holds GPUs."""
    told = []
    for person in view.people():
        holder = Holder(*person.key, person.memory)
        machines = list(dict.fromkeys(gpu.node for gpu in person.gpus))
        if not look.person(holder, machines):
            continue
        cells: Cells = {
            "who": (called(holder), "bold"),
            "gpus": (str(len(person.gpus)), ""),
            "idle": (str(len(person.idle)) if person.idle else "", "idle"),
            "memory": (size(person.memory), ""),
            "machines": (", ".join(machines), "dim"),
        }
        told.append(table.row(pen, cells, ("person", *person.key)))
    return told


def since(idle: Since | None, now: float) -> str:
    """How long something has been so; more than that where its beginning was not seen."""
    if idle is None:
        return ""
    return f"{'' if idle.seen else '>'}{span(now - idle.at)}"
