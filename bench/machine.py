"""The machine that every exporter sees: stand-in GPUs, and real processes that seem to use them."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from tools.lab.nvml_stub import Process, Stub, Usage, build

_SHARED_FROM = 64
_LONGEST_RUN = "7200"  # seconds
_PACKAGES = ("gpu-exporter", "nvidia-ml-py", "prometheus-client", "nvitop-exporter", "nvitop", "psutil")


@dataclass(frozen=True)
class Size:
    """How large a machine is."""

    gpus: int
    processes: int

    @property
    def name(self) -> str:
        gpus = f"{self.gpus} GPU" + ("s" if self.gpus > 1 else "")
        return f"{gpus}, {self.processes} processes each"


class Machine:
    """Stand-in GPUs for one exporter, so that its calls are counted apart from those of the others."""

    def __init__(self, folder: Path, library: Path, size: Size, pids: list[int], *, priced: bool) -> None:
        self.size = size
        self._library = library
        self._stub = Stub(folder, ["h100"] * size.gpus, live=True, priced=priced)
        with self._stub.batch():
            for gpu in range(size.gpus):
                if priced:  # as those of an H200
                    self._stub.set(gpu, "pcie_counter_bits", 32)
                first = gpu * size.processes
                mine = [pids[(first + number) % len(pids)] for number in range(size.processes)]
                self._stub.processes(gpu, [Process(pid, 1 << 30) for pid in mine])
                self._stub.process_utilization(gpu, [Usage(pid, sm=20, memory=3) for pid in mine])

    def env(self) -> dict[str, str]:
        return self._stub.env(self._library)

    def driver_seconds(self) -> float:
        """CPU time that calls took so far, where they cost something."""
        return self._stub.charged()

    def calls(self) -> dict[str, int]:
        """Driver calls so far that concern a GPU."""
        return {name: count for name, count in self._stub.calls().items() if name.startswith("nvmlDevice")}


@contextmanager
def machine(size: Size, *, priced: bool = False) -> Iterator[Machine]:
    """A fresh machine; its processes end with the block. Where it is ``priced``, calls cost what an H200's do."""
    # 64 GPUs with 64 processes each share 64: it is what the driver tells that counts, not how many there are.
    sleepers = [subprocess.Popen(["sleep", _LONGEST_RUN]) for _ in range(min(size.gpus * size.processes, _SHARED_FROM))]
    try:
        with tempfile.TemporaryDirectory(prefix="gpu-exporter-bench-") as folder:
            yield Machine(Path(folder), library(), size, [sleeper.pid for sleeper in sleepers], priced=priced)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
        for sleeper in sleepers:
            sleeper.wait()


def library() -> Path:
    """The folder with the compiled stand-in, kept between runs."""
    return build(Path(tempfile.gettempdir()) / f"gpu-exporter-nvml-stub-{os.getuid()}")


# --- where the figures come from --------------------------------------------------------------------------------------


@dataclass
class Surroundings:
    """What the figures depend on besides the programs."""

    facts: dict[str, str] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)
    _busy: float = field(default_factory=lambda: _busy_seconds())  # noqa: PLW0108 - it is defined below

    def __post_init__(self) -> None:
        self.facts = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
            "kernel": platform.release(),
            "Python": f"{platform.python_version()} ({platform.python_implementation()})",
            "packages": ", ".join(_versions()),
        }

    def finish(self, command: str) -> Mapping[str, str]:
        """The facts, with how busy others kept the machine meanwhile: their work is the noise in ours."""
        wall = time.monotonic() - self._started
        ours = sum(
            usage.ru_utime + usage.ru_stime
            for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
        )
        others = max(0.0, _busy_seconds() - self._busy - ours) / (wall * (os.cpu_count() or 1))
        return {
            "command": command,
            **self.facts,
            "took": f"{wall:.0f} s",
            "other load": f"{100 * others:.0f} % of the machine's CPU went to other programs during the run",
        }


def _versions() -> Iterator[str]:
    for package in _PACKAGES:
        try:
            yield f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            yield f"{package} (not installed)"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _busy_seconds() -> float:
    """CPU seconds that all programs together have used; the columns are those of proc(5)."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
