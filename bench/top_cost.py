"""``python -m bench.top_cost``: what `gpu-exporter top` costs beside nvitop, and what it sends to the terminal.

Each runs in a pseudo-terminal of 80 columns and 24 rows and reads the same stand-in for the driver, with 1 GPU
and with 8, two processes each. Measured after a warm-up: CPU time, memory, bytes written to the terminal.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from tools.lab.exporter import command, environment

from bench.machine import Machine, Size, machine

WARM_UP = 20.0  # s
INTERVAL = 5.0  # s, of both
BUDGET = 10_000  # bytes a second over ssh
_TICKS = os.sysconf("SC_CLK_TCK")


class Terminal:
    """A program in a terminal; a context manager that ends it."""

    def __init__(self, words: list[str], computer: Machine, columns: int = 80, rows: int = 24) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        extra = {**computer.env(), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": ""}
        kept = {name: value for name, value in environment(extra).items() if name not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, env=kept, start_new_session=True
        )
        os.close(slave)

    def __enter__(self) -> Terminal:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self.master)

    def read(self, seconds: float) -> int:
        """Bytes that it writes in so long."""
        end, count = time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            if select.select([self.master], [], [], left)[0]:
                count += len(os.read(self.master, 65536))
        return count

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self) -> float:
        """MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.top_cost", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long each is measured")
    parser.add_argument("--nvitop", default=shutil.which("nvitop"), help="where nvitop is")
    options = parser.parse_args()
    programs = {"gpu-exporter top": [*command(), "top", "--source=nvml", f"--interval={INTERVAL:g}s"]}
    if options.nvitop:
        programs["nvitop"] = [options.nvitop, "--monitor", "full", "--interval", f"{INTERVAL:g}"]
    print(f"- **command**: {shlex.join(['python', '-m', 'bench.top_cost', *sys.argv[1:]])}")
    print(f"- **load of the machine**: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("\n| | GPUs | CPU, s/h | memory (RSS), MiB | to the terminal, bytes/s |\n|---|--:|--:|--:|--:|")
    over = False
    for gpus in (1, 8):
        for name, words in programs.items():
            with machine(Size(gpus, 2)) as computer, Terminal(words, computer) as terminal:
                terminal.read(WARM_UP)
                before = terminal.cpu()
                rate = terminal.read(options.seconds) / options.seconds
                cpu = (terminal.cpu() - before) / options.seconds * 3600
                print(f"| {name} | {gpus} | {cpu:.0f} | {terminal.memory():.1f} | {rate:.0f} |", flush=True)
                over |= name != "nvitop" and rate > BUDGET
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
