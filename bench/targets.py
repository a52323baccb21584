"""The exporters under test: how each is started, and what its process uses."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.lab.exporter import command, environment
from tools.lab.ports import free_port
from tools.lab.programs import Program

from bench.client import Answer, Scraper
from bench.machine import Machine

_PR_SET_PDEATHSIG = 1
_TICK = os.sysconf("SC_CLK_TCK")
_C = ctypes.CDLL(None)


class UnavailableError(Exception):
    """This exporter cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Target:
    """One exporter with its settings."""

    key: str
    name: str
    interval: float
    command: Callable[[int, float], list[str]]
    # A sample that every GPU has once it was read, at the start of a line.
    reading: re.Pattern[str]
    # A driver call made once a GPU and tick: what counts ticks.
    once_a_tick: str = "nvmlDeviceGetTemperatureV"

    def available(self) -> None:
        """Raise UnavailableError unless it is installed."""
        self.command(0, self.interval)


def _program(name: str, package: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise UnavailableError(f"{package} is not installed: {sys.executable} -m pip install {package}")
    return found


def _our_command(port: int, interval: float) -> list[str]:
    return [
        *command(),
        f"--web.listen-address=127.0.0.1:{port}",
        "--source=nvml",
        f"--collection.interval={interval:g}s",
        f"--collection.timeout={min(3.0, interval):g}s",
    ]


def _nvitop_command(port: int, interval: float) -> list[str]:
    program = _program("nvitop-exporter", "nvitop-exporter")
    return [program, "--hostname", "bench", "--port", str(port), "--interval", f"{interval:g}"]


def ours(interval: float = 5.0) -> Target:
    return Target(
        "gpu-exporter",
        f"gpu-exporter, every {interval:g} s",
        interval,
        _our_command,
        re.compile(r"^gpu_temperature_celsius\{", re.MULTILINE),
    )


def nvitop(interval: float = 1.0) -> Target:
    return Target(
        f"nvitop-exporter@{interval:g}s",
        f"nvitop-exporter, every {interval:g} s",
        interval,
        _nvitop_command,
        re.compile(r"^gpu_temperature_C\{", re.MULTILINE),
    )


def nvidia_gpu_exporter(source: Path | None, folder: Path) -> Target:
    """The one on PATH, or built from a folder with its source. Its NVML backend where it has one (2.0 and newer)."""
    name = "nvidia_gpu_exporter"

    def program() -> str:
        built = folder / name
        if source is not None and not built.exists():
            done = subprocess.run(
                ["go", "build", "-o", str(built), f"./cmd/{name}"],
                cwd=source,
                capture_output=True,
                text=True,
                timeout=1800,
                check=False,
            )
            if done.returncode:
                raise UnavailableError(f"it does not build: {done.stderr.strip().splitlines()[-1][:200]}")
        found = str(built) if built.exists() else shutil.which(name)
        if found is None:
            raise UnavailableError(f"{name} is not on PATH; --nvidia-gpu-exporter FOLDER builds it from its source")
        return found

    def command(port: int, _interval: float) -> list[str]:
        return [program(), f"--web.listen-address=127.0.0.1:{port}", "--collect.backend=nvml"]

    return Target(name, name, 0.0, command, re.compile(r"^nvidia_smi_temperature_gpu\{", re.MULTILINE))


@dataclass(frozen=True)
class Start:
    """How long a start took, in seconds from exec."""

    answer: float  # to the first answer
    readings: float  # to the first answer that has every GPU


class Running(Program):
    """A target on a free port of 127.0.0.1; a context manager that ends it."""

    def __init__(self, target: Target, machine: Machine, log: Path) -> None:
        self.target = target
        self.machine = machine
        self.port = free_port()
        self._began = time.monotonic()
        super().__init__(
            target.command(self.port, target.interval),
            log,
            env=environment({"PYTHONWARNINGS": "", **machine.env()}),  # as users run it
            before_exec=_end_with_parent,
        )

    def __enter__(self) -> Running:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def started(self, timeout: float = 30.0) -> Start:
        """Wait for an answer with a reading of every GPU. Raises UnavailableError where none comes."""
        first = None
        while True:
            answer = self._try()
            now = time.monotonic() - self._began
            if answer is not None:
                first = first or now
                if len(self.target.reading.findall(answer.text())) >= self.machine.size.gpus:
                    return Start(first, now)
            if self.process.poll() is not None:
                raise UnavailableError(f"it ended with status {self.process.returncode}: {self._last_words()}")
            if now > timeout:
                raise UnavailableError(f"no reading of every GPU within {timeout:g} s")
            # Rendering an answer holds up what we wait for, so ask the more rarely the longer it takes.
            time.sleep(max(0.005, 5 * answer.seconds) if answer else 0.005)

    def _try(self) -> Answer | None:
        try:
            with Scraper(self.port, compressed=False) as scraper:
                answer = scraper.scrape()
        except OSError:
            return None
        return answer if answer.status == 200 else None

    def _last_words(self) -> str:
        lines = self.log().strip().splitlines()
        return lines[-1][:200] if lines else "without a word"

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def memory(self, field: str = "VmRSS") -> float:
        """MiB; VmHWM is the peak."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        raise LookupError(field)


def private_memory(running: Running) -> float:
    """MiB that no other process shares."""
    told = Path(f"/proc/{running.process.pid}/smaps_rollup").read_text()
    return sum(int(number) for number in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+)", told, re.MULTILINE)) / 1024


def _end_with_parent() -> None:
    """Between fork and exec: whatever ends the benchmark, SIGKILL too, ends the exporter."""
    _C.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
