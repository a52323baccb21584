"""``python -m bench.sources``: what one reading of eight GPUs costs the exporter, by each source.

By NVML also without profiling, and with every GPU cut into MIG devices: what those two add.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeAlias

from tools.lab.nvml_stub import Mig, Stub, build
from tools.lab.smi_stub import capture

from gpu_exporter.sources import Source
from gpu_exporter.sources.nvml import NvmlSource
from gpu_exporter.sources.program import Program, Said
from gpu_exporter.sources.smi import SmiSource
from gpu_exporter.sources.smi.fields import PROCESSES, known, wanted

_Opened: TypeAlias = tuple[Callable[[], None], Callable[[], int]]  # what reads, and the calls so far

GPUS = 8
READINGS = 200
RESULTS = Path(__file__).with_name("SOURCES.md")
_H200 = Path(__file__).parents[1] / "tests/catalog/recorded/h200-580.159.04.load.csv"
_HEAD = f"""\
# What a reading costs, by source

Written by `python -m bench.sources --write`: {GPUS} GPUs, the median of {READINGS} readings, the CPU time of the
exporter and of the programs that it runs. The drivers are stand-ins that answer at once, so this is what the exporter
itself adds: NVML's stand-in beside a shell script that prints what an nvidia-smi was recorded to print. A real
driver's own time comes on top: milliseconds a GPU by NVML, some 150 ms by nvidia-smi (one H200, driver 580), which
initialises NVML for each reading.

| source | wall, ms | CPU, ms | CPU at one reading each 5 s | driver calls a GPU |
|---|--:|--:|--:|--:|
"""
_FOOT = """
- Profiling (GPM) is what "nvml" has more than "nvml, no profiling": a sample, and what it tells since the one before.
  On a real H200 its two calls took 0.3 ms and 1.8 ms a GPU and reading.
- "nvml, {parts} MIG devices a GPU" reads {devices} of them, each with its memory, its process and profiling of its own.
- "smi, read alone" is what becomes of nvidia-smi's answer without starting it: all that a child with --loop-ms could
  spare the exporter is the difference to "smi". docs/SOURCES.md says why a process is started for each reading.
"""
_PARTS = 7  # MIG devices of a GPU, as many as there can be


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sources", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name} beside this program")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="gpu-exporter-bench-sources-") as name:
        folder = Path(name)
        library = build(folder / "library")
        for label, opened in (
            ("nvml, no profiling", partial(_nvml, library, folder / "plain", profiling=False)),
            ("nvml", partial(_nvml, library, folder / "nvml")),
            (f"nvml, {_PARTS} MIG devices a GPU", partial(_nvml, library, folder / "mig", parts=_PARTS)),
            ("smi", partial(_smi, folder)),
            ("smi, read alone", partial(_smi, folder, again=True)),
        ):
            # Each in a process of its own: the stand-in is one machine for as long as it is loaded.
            with get_context("spawn").Pool(1) as pool:
                wall, cpu, made = pool.apply(_cost, (opened,))
            told = f"{made / GPUS:.1f}" if made else ""
            rows.append(f"| {label} | {wall * 1e3:.1f} | {cpu * 1e3:.1f} | {cpu / 5:.2%} | {told} |")
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}."
    foot = _FOOT.format(parts=_PARTS, devices=_PARTS * GPUS)
    text = "\n".join([_HEAD + "\n".join(rows), foot, machine, ""])
    print(text)
    if arguments.write:
        RESULTS.write_text(text)


def _cost(opened: Callable[[], AbstractContextManager[_Opened]]) -> tuple[float, float, float]:
    """Wall and CPU seconds of one reading, and the driver calls that it makes."""
    with opened() as (read, calls):
        read()
        return _measured(read, calls)


def _measured(read: Callable[[], None], calls: Callable[[], int]) -> tuple[float, float, float]:
    walls, cpus, before = [], [], calls()
    for _ in range(READINGS):
        began, used = time.monotonic(), _cpu()
        read()
        walls.append(time.monotonic() - began)
        cpus.append(_cpu() - used)
    return statistics.median(walls), statistics.median(cpus), (calls() - before) / READINGS


def _read(source: Source) -> None:
    for device in source.devices:
        source.read(device)


def _cpu() -> float:
    ours, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return ours.ru_utime + ours.ru_stime + children.ru_utime + children.ru_stime


@contextmanager
def _nvml(library: Path, folder: Path, *, profiling: bool = True, parts: int = 0) -> Iterator[_Opened]:
    machine = Stub(folder, ["h100"] * GPUS)
    with machine.batch():
        for gpu in range(GPUS if parts or not profiling else 0):
            if not profiling:
                machine.gpm(gpu, {})
            if parts:
                machine.mig(gpu, [_part(gpu, number) for number in range(parts)])
    os.environ.update(machine.env(library))
    # Loaded by path first, it is what dlopen finds when pynvml asks for the name.
    ctypes.CDLL(str(library / "libnvidia-ml.so.1"))
    latest = [0.0]
    source = NvmlSource(processes=15.0, monotonic=lambda: latest[0])
    now = itertools.count(5.0, 5.0)  # as they follow each other in an exporter: what is asked once a minute is

    def read() -> None:
        latest[0] = next(now)
        _read(source)

    try:
        yield (
            read,
            lambda: sum(count for name, count in machine.calls().items() if name.startswith(("nvmlDevice", "nvmlGpm"))),
        )
    finally:
        source.close()


def _part(gpu: int, number: int) -> Mig:
    """One seventh of an H100, at work."""
    return Mig(
        f"MIG-{gpu:08x}-0000-4000-8000-{number:012x}", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", number + 7, 0,
        10 * 2**30, 2**30, {2: 80.0, 5: 40.0, 10: 20.0},
    )  # fmt: skip


@contextmanager
def _smi(folder: Path, *, again: bool = False) -> Iterator[_Opened]:
    """With ``again``, each answer is given again instead of asked for anew."""
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
    run = Program(program)
    given: dict[tuple[str, ...], Said] = {}

    def once(arguments: Sequence[str], /, *, timeout: float) -> Said:
        key = tuple(arguments)
        if key not in given:
            given[key] = run(arguments, timeout=timeout)
        return given[key]

    source = SmiSource(once if again else run, timeout=30.0, root=folder)
    yield lambda: _read(source), lambda: 0
    source.close()


if __name__ == "__main__":
    main()
