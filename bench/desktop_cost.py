"""``python -m bench.desktop_cost``: what the window costs, over simulated machines and without a screen.

Real exporters of simulated GPUs are followed by the installed command. Measured: memory and CPU time of its process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tools.lab.exporter import Exporter, command, environment
from tools.lab.hub import write_nodes
from tools.lab.programs import Program

from bench.hub_cost import used

SIZES = ((1, 1), (1, 8), (4, 8))  # machines, GPUs each
_WARM = 20.0  # s until it has settled


def measure(folder: Path, machines: int, gpus: int, seconds: float) -> tuple[float, float, float]:
    """MiB at the beginning and at the end, and CPU seconds an hour."""
    place = folder / f"{machines}x{gpus}"
    with ExitStack() as stack:
        ports = {}
        for number in range(machines):
            name = f"gpu-{number:02}"
            (place / name).mkdir(parents=True)
            options = ("--source=fake", f"--fake.gpus={gpus}", f"--fake.seed={number}")
            ports[name] = stack.enter_context(Exporter(place / name, *options)).port
        nodes = write_nodes(place / "nodes.json", ports)
        env = {
            **environment(),
            "QT_QPA_PLATFORM": "offscreen",
            "HOME": str(place),
            "XDG_CONFIG_HOME": str(place / "config"),
        }
        window = stack.enter_context(
            Program([*command(), "desktop", f"--nodes.file={nodes}", "--interval=5s"], place / "desktop.log", env=env)
        )
        time.sleep(_WARM)
        window.check()
        before, first = used(window.process.pid)
        began = time.monotonic()
        time.sleep(seconds)
        window.check()
        after, last = used(window.process.pid)
        return first, last, (after - before) / (time.monotonic() - began) * 3600


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.desktop_cost", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long each is watched")
    wishes = parser.parse_args()
    print("# What the window costs, offscreen, looking every 5 s at simulated machines\n")
    print(f"- **command**: python -m bench.desktop_cost --seconds {wishes.seconds:.0f}\n")
    print("| machines | GPUs each | memory after 20 s, MiB | at the end, MiB | CPU, s/h |\n|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as name:
        for machines, gpus in SIZES:
            first, last, cpu = measure(Path(name), machines, gpus, wishes.seconds)
            print(f"| {machines} | {gpus} | {first:.0f} | {last:.0f} | {cpu:.0f} |", flush=True)
    print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
