"""``python -m bench.faces``: what `top` and the window cost in an hour, beside nvitop.

All at the same time on the same machine: `gpu-exporter top` and nvitop in terminals, `gpu-exporter desktop` on a
virtual display, each with 1 GPU and with 8, two processes a GPU, each with a stand-in for the driver of its own. What
is told is CPU time and memory of processes, which other work on the machine changes little; never a time by the clock.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from tools.lab.exporter import command, environment
from tools.lab.programs import Program, program

from bench import results
from bench.machine import Machine, Size, Surroundings, machine
from bench.top_cost import Terminal

INTERVAL = 5.0  # s, of all
SIZES = (1, 8)  # GPUs
COLUMNS, ROWS = 100, 50  # of the terminals
_WARM = 30.0  # s until each has settled
_STEP = 60.0  # s between two looks at whether all still run
_NUMBER = re.compile(r"^\d+\n", re.MULTILINE)
_PRIVATE = ("Private_Clean", "Private_Dirty", "Private_Hugetlb")


@dataclass(frozen=True)
class Used:
    """What a process has used so far."""

    cpu: float  # s
    rss: float  # MiB
    private: float  # MiB that end with it
    peak: float  # MiB of RSS

    @classmethod
    def of(cls, pid: int) -> Used:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status, rollup = _kilobytes(pid, "status"), _kilobytes(pid, "smaps_rollup")
        return cls(
            cpu=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
            rss=status["VmRSS"] / 1024,
            private=sum(rollup.get(name, 0) for name in _PRIVATE) / 1024,
            peak=status["VmHWM"] / 1024,
        )


def _kilobytes(pid: int, file: str) -> dict[str, int]:
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/{file}").read_text().splitlines())
    return {name: int(rest.split()[0]) for name, _, rest in lines if rest.endswith(" kB")}


@dataclass
class Face:
    """One program that people look at."""

    name: str
    gpus: int
    pid: int
    terminal: Terminal | None = None
    written: int = 0  # bytes to its terminal


def _faces(stack: ExitStack, folder: Path, nvitop: str) -> Iterator[Face]:
    ours = [*command(), "{face}", "--source=nvml", f"--interval={INTERVAL:g}s"]
    in_terminals = {
        "gpu-exporter top": ["top" if word == "{face}" else word for word in ours],
        "nvitop": [nvitop, "--monitor", "full", "--interval", f"{INTERVAL:g}"],
    }
    display = stack.enter_context(_display(folder))
    for gpus in SIZES:
        for name, words in in_terminals.items():
            computer = stack.enter_context(machine(Size(gpus, 2)))
            terminal = stack.enter_context(Terminal(words, computer, COLUMNS, ROWS))
            yield Face(name, gpus, terminal.process.pid, terminal)
        computer = stack.enter_context(machine(Size(gpus, 2)))
        words = ["desktop" if word == "{face}" else word for word in ours]
        window = stack.enter_context(_window(words, folder / f"desktop-{gpus}", computer, display))
        yield Face("gpu-exporter desktop", gpus, window.process.pid)


@contextmanager
def _display(folder: Path) -> Iterator[str]:
    """A display without a screen; its name."""
    words = [program("Xvfb"), "-displayfd", "1", "-screen", "0", "1600x1000x24", "-nolisten", "tcp"]
    with Program(words, folder / "xvfb.log") as server:
        yield ":" + server.wait(lambda: _NUMBER.search(server.log()))[0].strip()


def _window(words: Sequence[str], home: Path, computer: Machine, display: str) -> Program:
    home.mkdir()
    own = {"DISPLAY": display, "QT_QPA_PLATFORM": "xcb", "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    env = {**environment({**computer.env(), **own}), "PYTHONWARNINGS": ""}
    return Program(words, home / "window.log", env=env)


def _read(faces: Sequence[Face], seconds: float) -> None:
    """Be everybody's terminal for so long. Raises EOFError where one ends."""
    end = time.monotonic() + seconds
    by_descriptor = {face.terminal.master: face for face in faces if face.terminal}
    while (left := end - time.monotonic()) > 0:
        for descriptor in select.select(list(by_descriptor), [], [], min(left, _STEP))[0]:
            by_descriptor[descriptor].written += len(os.read(descriptor, 65536))
        for face in faces:
            if Path(f"/proc/{face.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                raise EOFError(f"{face.name} with {face.gpus} GPUs ended")


def measure(folder: Path, nvitop: str, seconds: float) -> list[tuple[Face, Used, Used]]:
    """Every program after the warm-up and at the end."""
    with ExitStack() as stack:
        faces = list(_faces(stack, folder, nvitop))
        _read(faces, _WARM)
        first = [Used.of(face.pid) for face in faces]
        for face in faces:
            face.written = 0
        _read(faces, seconds)
        return list(zip(faces, first, [Used.of(face.pid) for face in faces], strict=True))


def markdown(found: Sequence[tuple[Face, Used, Used]], seconds: float, facts: Mapping[str, str]) -> str:
    lines = ["# What the terminal and the window cost beside nvitop", ""]
    lines += [f"- **{name}**: {fact}" for name, fact in facts.items()]
    lines += [
        "",
        (
            f"| | GPUs | CPU, s/h | RSS after {_WARM:.0f} s, MiB | RSS after {_span(seconds)}, MiB | private then, MiB "
            "| peak RSS, MiB | to the terminal, bytes/s |"
        ),
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for face, first, last in sorted(found, key=lambda each: (each[0].gpus, each[0].name != "nvitop")):
        cpu = (last.cpu - first.cpu) / seconds * 3600
        rate = f"{face.written / seconds:.0f}" if face.terminal else ""
        lines.append(
            f"| {face.name} | {face.gpus} | {cpu:.1f} | {first.rss:.1f} | {last.rss:.1f} | {last.private:.1f} "
            f"| {last.peak:.1f} | {rate} |"
        )
    lines += [
        "",
        f"- All ran at the same time, each looking every {INTERVAL:g} s at a stand-in driver of its own that answers",
        "  at once: H100s, two processes each. Its readings change little, and so do the screens.",
        f"- `top` and nvitop in terminals of {COLUMNS} columns and {ROWS} rows, which have room for all that either",
        "  shows; the window on Xvfb, shown and never covered.",
        "- CPU time is utime + stime of /proc/PID/stat; private memory is what would be free if the program ended",
        "  (/proc/PID/smaps_rollup).",
        "",
    ]
    return "\n".join(lines)


def _span(seconds: float) -> str:
    return "an hour" if seconds == 3600 else f"{seconds:.0f} s"


def _versions(nvitop: str) -> str:
    ours = [
        f"{each} {metadata.version(each)}" for each in ("gpu-exporter", "textual", "PySide6-Essentials", "pyqtgraph")
    ]
    theirs = subprocess.run([nvitop, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return ", ".join([*ours, theirs])


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m bench.faces", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long all are watched")
    parser.add_argument("--nvitop", default=shutil.which("nvitop"), help="where nvitop is")
    parser.add_argument("--write", action="store_true", help=f"also write their part of {results.RESULTS.name}")
    wishes = parser.parse_args()
    if not wishes.nvitop:
        parser.error("nvitop is not installed: make setup installs no rival; pip install nvitop, or --nvitop PATH")
    surroundings = Surroundings()
    surroundings.facts["packages"] = _versions(wishes.nvitop)
    with tempfile.TemporaryDirectory(prefix="gpu-exporter-bench-faces-") as folder:
        found = measure(Path(folder), wishes.nvitop, wishes.seconds)
    facts = dict(surroundings.finish(shlex.join(["python", "-m", "bench.faces", "--seconds", f"{wishes.seconds:g}"])))
    facts["load of the machine at the end"] = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    facts.pop("other load")
    text = markdown(found, wishes.seconds, facts)
    print(text)
    if wishes.write:
        results.write_faces(text)
    sys.exit(0)


if __name__ == "__main__":
    main()
