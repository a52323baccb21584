"""What every Prometheus exporter tells of its own process, from /proc: the families of prometheus_client's collector.

Importing that library would cost six MiB for these six numbers.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

# proc(5): fields of /proc/PID/stat behind the name, counted from 0.
_USER, _SYSTEM, _START, _VIRTUAL, _RESIDENT = 11, 12, 19, 20, 21
_PAGE: Final = resource.getpagesize()


class Sample(Protocol):
    """One number of a family."""

    @property
    def name(self) -> str:
        """As its line begins."""

    @property
    def value(self) -> float:
        """The number."""


class Family(Protocol):
    """One family without labels; of a counter, ``name`` is without the suffix of its sample."""

    name: str
    documentation: str
    type: str

    @property
    def samples(self) -> Sequence[Sample]:
        """Its samples."""


class Collector(Protocol):
    """What is asked for families each time that a page is rendered."""

    def collect(self) -> Iterable[Family]:
        """The families of now."""


class _Sample(NamedTuple):
    name: str
    value: float


class _Family:
    def __init__(self, name: str, documentation: str, value: float, *, counter: bool = False) -> None:
        self.name = name
        self.documentation = documentation
        self.type = "counter" if counter else "gauge"
        self.samples = (_Sample(f"{name}_total" if counter else name, value),)


class ProcessCollector:
    """This process's own numbers; what cannot be read is absent. ``root`` is where /proc is."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._booted = 0.0
        with suppress(OSError):
            lines = (root / "stat").read_bytes().splitlines()
            self._booted = next((float(line.split()[1]) for line in lines if line.startswith(b"btime ")), 0.0)

    def collect(self) -> list[Family]:
        """The families of now."""
        families: list[Family] = []
        if not self._booted:
            return families
        me = self._root / "self"
        with suppress(OSError):
            told = [float(field) for field in (me / "stat").read_bytes().rpartition(b")")[2].split()[1:]]
            # The first field, a letter, was left out.
            user, system, start, virtual, resident = (
                told[place - 1] for place in (_USER, _SYSTEM, _START, _VIRTUAL, _RESIDENT)
            )
            families += [
                _Family("process_virtual_memory_bytes", "Virtual memory size in bytes.", virtual),
                _Family("process_resident_memory_bytes", "Resident memory size in bytes.", resident * _PAGE),
                _Family(
                    "process_start_time_seconds",
                    "Start time of the process since unix epoch in seconds.",
                    start / self._ticks + self._booted,
                ),
                _Family(
                    "process_cpu_seconds",
                    "Total user and system CPU time spent in seconds.",
                    user / self._ticks + system / self._ticks,
                    counter=True,
                ),
            ]
        with suppress(OSError):
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            families += [
                _Family(
                    "process_open_fds", "Number of open file descriptors.", float(len(list((me / "fd").iterdir())))
                ),
                _Family("process_max_fds", "Maximum number of open file descriptors.", float(most)),
            ]
        return families


def render(families: Iterable[Family], number: Callable[[float], str], *, openmetrics: bool) -> str:
    """Their text in either format."""
    lines = []
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" and not openmetrics else family.name
        lines.append(f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n")
        lines += [f"{sample.name} {number(sample.value)}\n" for sample in family.samples]
    return "".join(lines)
