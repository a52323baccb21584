"""The program behind SmiStub: run as ``python program.py STATE ARGUMENTS…``; knows nothing but the standard library."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

# The units that stand in the header of the fields; the cells have them as well.
_UNITS = ("MiB", "%", "MHz", "us", "W")
_APPS = ("timestamp", "gpu_name", "gpu_bus_id", "gpu_uuid", "pid", "process_name", "used_gpu_memory")


def main(state: dict[str, Any], arguments: list[str]) -> NoReturn:
    with Path(state["calls"]).open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    for option, answer in state["answers"].items():
        if any(argument.startswith(option) for argument in arguments):
            _say(answer)
    if "--version" in arguments:
        _version(state)
    if "--help-query-gpu" in arguments:
        _help(state, state["gpus"][0]["row"] if state["gpus"] else {}, state["names"])
    if "--help-query-compute-apps" in arguments:
        _help(state, dict.fromkeys(_APPS, ""), {"used_memory": "used_gpu_memory"})
    which = arguments[arguments.index("-i") + 1] if "-i" in arguments else None
    for argument in arguments:
        option, _, fields = argument.partition("=")
        if option == "--query-gpu":
            _gpus(state, fields.split(","), which)
        if option == "--query-compute-apps":
            _apps(state, fields.split(","))
    sys.exit(2)


def _say(answer: dict[str, Any]) -> NoReturn:
    sys.stdout.write(answer["out"])
    sys.stderr.write(answer["err"])
    sys.stdout.flush()
    if answer["signal"]:
        os.kill(os.getpid(), answer["signal"])
    sys.exit(answer["code"])


def _version(state: dict[str, Any]) -> NoReturn:
    if not state["version"]:
        print("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.")
        sys.exit(1)
    driver = state["gpus"][0]["row"]["driver_version"] if state["gpus"] else "580.159.04"
    print(f"NVIDIA-SMI version  : {driver}\nNVML version        : {driver.rpartition('.')[0]}")
    print(f"DRIVER version      : {driver}\nCUDA Version        : 13.0")
    sys.exit(0)


def _help(state: dict[str, Any], row: dict[str, str], names: dict[str, str]) -> NoReturn:
    if not state["help"]:
        sys.exit(1)
    print("List of valid properties to query:\n\nSection about them\n")
    for field in row:
        others = "".join(f' or "{other}"' for other, name in names.items() if name == field)
        print(f'"{field}"{others}\nWhat it is.\n"0: Default" means that it is.\n')
    sys.exit(0)


def _gpus(state: dict[str, Any], fields: list[str], which: str | None) -> NoReturn:
    known = {**state["names"], **{name: name for gpu in state["gpus"] for name in gpu["row"]}}
    for field in fields:
        if field not in known:
            print(f'Field "{field}" is not a valid field to query.\n')
            sys.exit(2)
    gpus = [
        gpu
        for gpu in state["gpus"]
        if which in {None, gpu["row"]["index"], gpu["row"]["uuid"], gpu["row"]["pci.bus_id"]}
    ]
    if not gpus:
        print("No devices were found")
        sys.exit(6)
    if any(gpu.get("hang") for gpu in gpus):
        _hang()
    code = 0
    names = [known[field] for field in fields]
    lines = []
    for gpu in gpus:
        if gpu.get("remark"):
            print(gpu["remark"])
            code = gpu["code"]
            if gpu["alone"]:
                sys.exit(code)
        else:
            lines.append(", ".join(gpu["row"][name] for name in names))
    if lines:
        print(", ".join(f"{name}{_unit(name, gpus)}" for name in names))
        print("\n".join(lines))
    sys.exit(code)


def _unit(name: str, gpus: list[dict[str, Any]]) -> str:
    units = (gpu["row"][name].rpartition(" ")[2] for gpu in gpus)
    return next((f" [{unit}]" for unit in units if unit in _UNITS), "")


def _apps(state: dict[str, Any], fields: list[str]) -> NoReturn:
    if any(gpu.get("hang") for gpu in state["gpus"]) and state.get("apps_hang", True):
        _hang()
    print(", ".join(f"{name} [MiB]" if name == "used_gpu_memory" else name for name in fields))
    for app in state["apps"]:
        print(", ".join(app[name] for name in fields))
    sys.exit(0)


def _hang() -> NoReturn:
    """As one does that waits for the driver; a child of its own has the pipes as well, and ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "600"])
    while True:
        time.sleep(600)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:])
