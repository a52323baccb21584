"""A stand-in for nvidia-smi: a program that prints what real ones were recorded to print, and fails as they do."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("program.py")


def capture(path: Path) -> list[dict[str, str]]:
    """The rows of a recorded ``--query-…`` answer, by field: its first line has the fields, its second the header."""
    fields, _, *rows = path.read_text("utf-8").splitlines()
    return [dict(zip(fields.split(","), (cell.strip() for cell in row.split(",")), strict=True)) for row in rows]


class SmiStub:
    """One nvidia-smi at ``path``, whose GPUs are rows by field; every change is seen by the next call.

    ``names`` maps other names of fields to those of the rows. Units stand in the cells, as they are printed.
    """

    def __init__(
        self, folder: Path, gpus: Sequence[Mapping[str, str]], *, names: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "nvidia-smi"
        self.calls_file = folder / "calls"
        self._state_file = folder / "state.json"
        self.state: dict[str, Any] = {
            "gpus": [
                {"row": {**gpu, "index": str(index), "pci.bus_id": _address(gpu, index), "uuid": _uuid(gpu, index)}}
                for index, gpu in enumerate(gpus)
            ],
            "apps": [],
            "names": dict(names or {}),
            "help": True,
            "version": True,
            "answers": {},
            "calls": str(self.calls_file),
        }
        self.write()
        command = shlex.join([sys.executable, "-S", "-E", str(PROGRAM), str(self._state_file)])
        self.path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        self.path.chmod(0o755)

    def write(self) -> None:
        scratch = self._state_file.with_suffix(".new")
        scratch.write_text(json.dumps(self.state))
        scratch.replace(self._state_file)

    def set(self, index: int, **cells: str) -> None:
        """Change cells of one GPU; an underscore in a name stands for a dot where the row has it so."""
        row = self.state["gpus"][index]["row"]
        row.update(
            {next((name for name in row if name.replace(".", "_") == key), key): cell for key, cell in cells.items()}
        )
        self.write()

    def sick(self, index: int, remark: str | None, *, alone: bool = False, code: int = 15) -> None:
        """Let nvidia-smi complain of one GPU instead of printing its row; ``alone``: nothing of the others either."""
        self.state["gpus"][index].update({"remark": remark, "alone": alone, "code": code})
        self.write()

    def hang(self, index: int, *, hang: bool = True) -> None:
        """Let every call that touches this GPU hang, with a child that keeps the pipes open."""
        self.state["gpus"][index]["hang"] = hang
        self.write()

    def say(self, option: str, out: str = "", *, err: str = "", code: int = 0, signal: int = 0) -> None:
        """Let calls with the option that begins so print exactly this."""
        self.state["answers"][option] = {"out": out, "err": err, "code": code, "signal": signal}
        self.write()

    def say_no_more(self, option: str) -> None:
        self.state["answers"].pop(option, None)
        self.write()

    def processes(self, index: int, *processes: tuple[str, str]) -> None:
        """Replace what computes on one GPU: pid and memory, as they are printed."""
        row = self.state["gpus"][index]["row"]
        others = [app for app in self.state["apps"] if app["gpu_bus_id"] != row["pci.bus_id"]]
        mine = [
            {"gpu_bus_id": row["pci.bus_id"], "gpu_uuid": row["uuid"], "pid": pid, "used_gpu_memory": memory}
            for pid, memory in processes
        ]
        self.state["apps"] = [*others, *mine]
        self.write()

    def calls(self) -> list[list[str]]:
        """The arguments of every call so far."""
        if not self.calls_file.exists():
            return []
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]


def _address(gpu: Mapping[str, str], index: int) -> str:
    return gpu["pci.bus_id"] if index == 0 else f"00000000:{16 + index:02X}:00.0"


def _uuid(gpu: Mapping[str, str], index: int) -> str:
    return gpu["uuid"] if index == 0 else f"GPU-00000000-1111-2222-3333-{index:012d}"
