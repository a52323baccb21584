"""A stand-in for dcgmi: a program that prints tables as DCGM 4 does, in columns of fixed width."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("program.py")


class DcgmiStub:
    """One dcgmi at ``path``; every change is seen by the next call. A GPU's values are by DCGM's field number.

    DCGM's own numbers of the GPUs are their places here; field 52 is what nvidia-smi calls them.
    """

    def __init__(self, folder: Path, gpus: Sequence[Mapping[int, str]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "dcgmi"
        self.calls_file = folder / "calls"
        self._state_file = folder / "state.json"
        self.state: dict[str, Any] = {
            "gpus": [
                {
                    "name": "NVIDIA H200",
                    "bus": f"00000000:{6 + number:02X}:00.0",
                    "uuid": f"GPU-00000000-1111-2222-3333-{number:012d}",
                    "values": {str(field): value for field, value in {52: str(number), **gpu}.items()},
                }
                for number, gpu in enumerate(gpus)
            ],
            "rows": [],  # of other entities: kind, number, values
            "known": None,  # the fields that it knows; None is all
            "answers": {},
            "hang": False,
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

    def set(self, number: int, values: Mapping[int, str]) -> None:
        self.state["gpus"][number]["values"].update({str(field): value for field, value in values.items()})
        self.write()

    def say(self, command: str, out: str, *, code: int = 0) -> None:
        """Let a command (``dmon -e``, ``discovery``) print exactly this."""
        self.state["answers"][command] = {"out": out, "code": code}
        self.write()

    def calls(self) -> list[list[str]]:
        """The arguments of every call so far."""
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]
