"""``python -m bench.sources``: what one reading of eight GPUs costs the exporter, by each source."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.lab.nvml_stub import Stub, build
from tools.lab.smi_stub import capture

from gpu_exporter.sources import Source
from gpu_exporter.sources.nvml import NvmlSource
from gpu_exporter.sources.program import Program
from gpu_exporter.sources.smi import SmiSource
from gpu_exporter.sources.smi.fields import PROCESSES, known, wanted

GPUS = 8
READINGS = 50
RESULTS = Path(__file__).with_name("SOURCES.md")
_H200 = Path(__file__).parents[1] / "tests/catalog/recorded/h200-580.159.04.load.csv"
_HEAD = f"""\
# What a reading costs, by source

Written by `python -m bench.sources --write`: {GPUS} GPUs, the median of {READINGS} readings, the CPU time of the
exporter and of the programs that it runs. The drivers are stand-ins that answer at once, so this is what the exporter
itself adds: NVML's stand-in beside a shell script that prints what an nvidia-smi was recorded to print. A real
driver's own time comes on top: milliseconds a GPU by NVML, some 150 ms by nvidia-smi (one H200, driver 580), which
initialises NVML for each reading.

| source | wall, ms | CPU, ms | CPU at one reading each 5 s |
|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sources", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name} beside this program")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="gpu-exporter-bench-sources-") as folder:
        for name, opened in (("nvml", _nvml), ("smi", _smi)):
            with opened(Path(folder)) as read:
                wall, cpu = _cost(read)
            rows.append(f"| {name} | {wall * 1e3:.1f} | {cpu * 1e3:.1f} | {cpu / 5:.2%} |")
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}."
    text = "\n".join([_HEAD + "\n".join(rows), "", machine, ""])
    print(text)
    if arguments.write:
        RESULTS.write_text(text)


def _cost(read: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds of one reading."""
    read()
    walls, cpus = [], []
    for _ in range(READINGS):
        began, used = time.monotonic(), _cpu()
        read()
        walls.append(time.monotonic() - began)
        cpus.append(_cpu() - used)
    return statistics.median(walls), statistics.mean(cpus)


def _read(source: Source) -> None:
    for device in source.devices:
        source.read(device)


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def _nvml(folder: Path) -> Iterator[Callable[[], None]]:
    machine = Stub(folder / "machine", ["h100"] * GPUS)
    # Loaded by path first, it is what dlopen finds when pynvml asks for the name.
    ctypes.CDLL(str(build(folder / "library") / "libnvidia-ml.so.1"))
    os.environ["NVML_STUB_STATE"] = str(machine.state_file)
    source = NvmlSource(processes=15.0)
    try:
        yield lambda: _read(source)
    finally:
        source.close()


@contextmanager
def _smi(folder: Path) -> Iterator[Callable[[], None]]:
    row = capture(_H200)[0]
    help_text = "".join(f'"{name}"\n' for name in row)
    fields = wanted(known(help_text))
    rows = [{**row, "index": str(n), "uuid": f"GPU-{n}", "pci.bus_id": f"00000000:{n:02X}:00.0"} for n in range(GPUS)]
    said = {
        "help": help_text,
        "gpus": "\n".join([", ".join(fields), *(", ".join(each[name] for name in fields) for each in rows), ""]),
        "apps": ", ".join(PROCESSES) + "\n",
    }
    for name, text in said.items():
        (folder / name).write_text(text)
    program = folder / "nvidia-smi"
    cases = "--help-query-gpu) cat help;; --query-gpu*) cat gpus;; --query-compute*) cat apps;; *) exit 1;;"
    program.write_text(f"#!/bin/sh\ncd {json.dumps(str(folder))}\ncase $1 in {cases} esac\n")
    program.chmod(0o755)
    source = SmiSource(Program(program), timeout=30.0, root=folder)
    yield lambda: _read(source)
    source.close()


if __name__ == "__main__":
    main()
