"""One look as plain text, for ``watch`` and for a mail; as JSON, for scripts."""

from __future__ import annotations

import json
from typing import Any

from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.documents import gpus_document, nodes_document, processes_document
from gpu_exporter.hub.selection import Selection
from gpu_exporter.hub.words import clock
from gpu_exporter.top.board import board, title
from gpu_exporter.top.idle import IdleProcesses
from gpu_exporter.top.lines import PaperPen, Pen
from gpu_exporter.top.look import Look
from gpu_exporter.top.processes import process_line, process_table, rows


def text(view: View, look: Look, pen: Pen, *, interval: float) -> str:
    """Machines, GPUs and processes; every line fits, and what is too long goes on below."""
    paper = PaperPen(pen.columns, ascii_only=pen.ascii_only)
    idle = IdleProcesses()
    idle.add(view)
    when = clock(view.taken, view.taken) if view.taken else ""
    upper = board(view, look, paper, trails=None)
    lines = title(view, paper, now=view.taken, clock=when, interval=interval)
    if upper.lines:
        lines += [upper.head, *upper.lines]
    if found := rows(view, look, idle):
        table = process_table(paper.columns, view)
        lines += [paper.line([]), table.head(pen, look.process_order)]
        lines += [process_line(row, table, paper, view.taken) for row in found]
    return "\n".join(piece for line in lines for piece in paper.broken(line))


def document(view: View) -> str:
    """Everything that is known, with the keys of the hub's API."""
    everything = Selection()
    told: dict[str, Any] = nodes_document(view, everything, view.taken)
    told["gpus"] = gpus_document(view, everything, view.taken)["gpus"]
    told["processes"] = processes_document(view, everything, view.taken)["processes"]
    if view.trouble:
        told["trouble"] = view.trouble
    if view.notes:
        told["notes"] = list(view.notes)
    return json.dumps(told, indent=2)


def status(view: View) -> int:
    """0 where every machine and GPU answered, 1 where some did not, 2 where there was nothing to look at."""
    if not any(state.online and state.gpus for state in view):
        return 2
    well = all(state.online and not state.trouble for state in view)
    return int(bool(view.trouble) or not well or any(gpu.state == "down" for gpu in view.gpus()))
