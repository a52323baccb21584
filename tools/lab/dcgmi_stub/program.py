"""The program behind DcgmiStub: run as ``python program.py STATE ARGUMENTS…``; knows only the standard library.

The widths are those of dcgmi's DeviceMonitor.cpp (DCGM 4): 14 for the entity, a field's own plus 6 for its cell, 2
between; what is longer ends in three dots.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

_ENTITY = 14
_WIDTH = 12
_GAP = 2
_ALL = (*range(1, 600), *range(1001, 1100), *range(1200, 1215), *range(1420, 1425), 1523)


def main(state: dict[str, Any], arguments: list[str]) -> NoReturn:
    with Path(state["calls"]).open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    for command, answer in state["answers"].items():
        if " ".join(arguments).startswith(command):
            sys.stdout.write(answer["out"])
            sys.exit(answer["code"])
    while state["hang"]:
        time.sleep(600)
    if arguments[:2] == ["dmon", "--list"]:
        _list(state)
    if arguments[:2] == ["discovery", "--list"]:
        _discovery(state)
    if arguments[:2] == ["dmon", "-e"]:
        _dmon(state, arguments[2].split(","), int(arguments[arguments.index("-c") + 1]))
    sys.exit(1)


def _known(state: dict[str, Any]) -> list[int]:
    return list(_ALL if state["known"] is None else state["known"])


def _list(state: dict[str, Any]) -> NoReturn:
    print("_" * 60 + f"\n{'Long Name':<30}{'Short Name':<20}Field ID\n" + "_" * 60)
    for field in _known(state):
        print(f"{f'field_{field}':<30} {f'F{field}':<20}{field}")
    sys.exit(0)


def _discovery(state: dict[str, Any]) -> NoReturn:
    line = f"+{'-' * 8}+{'-' * 70}+"
    print(f"{len(state['gpus'])} GPUs found (Active).\n{line}\n| GPU ID | {'Device Information':<69}|\n{line}")
    for number, gpu in enumerate(state["gpus"]):
        print(f"| {number:<7}| {'Name: ' + gpu['name']:<69}|")
        print(f"|        | {'PCI Bus ID: ' + gpu['bus']:<69}|")
        print(f"|        | {'Device UUID: ' + gpu['uuid']:<69}|\n{line}")
    print("0 NvSwitches found.\n+-----------+\n| Switch ID |\n+-----------+\n+-----------+")
    print(f"1 CPU found.\n{line}\n| CPU ID | {'Device Information':<69}|\n{line}")
    print(f"| {0:<7}| {'Name: Grace TH500':<69}|\n{line}")
    sys.exit(0)


def _dmon(state: dict[str, Any], fields: list[str], count: int) -> NoReturn:
    for field in fields:
        if int(field) not in _known(state):
            print(f"Error: Invalid field ID: {field}")
            sys.exit(255)
    width = _WIDTH + _GAP
    print("#Entity".ljust(_ENTITY + _GAP) + "".join(f"F{field}".ljust(width) for field in fields))
    print("ID".ljust(_ENTITY + _GAP) + "".join("C".ljust(width) for _ in fields))
    entities = [("GPU", number, gpu["values"]) for number, gpu in enumerate(state["gpus"])]
    for turn in range(count):
        for kind, number, values in [*entities, *state["rows"]]:
            cells = [values.get(field, "N/A") if turn == count - 1 else "0" for field in fields]
            cut = [cell if len(cell) <= _WIDTH else f"{cell[: _WIDTH - 3]}..." for cell in cells]
            print(f"{kind} {number}".ljust(_ENTITY + _GAP) + "".join(cell.ljust(width) for cell in cut))
    sys.exit(0)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:])
