"""Name, system, CPU, memory and load of the machine, from /proc (proc_stat(5), proc_meminfo(5)) and /etc."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gpu_exporter.host.network import addresses
from gpu_exporter.model import Host
from gpu_exporter.owners.user_names import HOST_ETC

_LARGEST: Final = 1024 * 1024  # bytes of a file; /proc/stat of a large machine has 100 KB
# The first eight columns of a cpu line; what follows (guest) is part of user time already.
_CPU_COLUMNS: Final = 8
_IDLE, _IOWAIT = 3, 4


class Machine:
    """Tells what the machine is and how busy. Belongs to one thread; ``name`` may be read by all.

    In a container, the host's name and system come from its /etc, mounted at /host/etc; the image's own say nothing
    about the machine.
    """

    def __init__(self, *, system: Path, name: str) -> None:
        self._proc = system / "proc"
        mounted = system / HOST_ETC.relative_to("/")
        self._contained = mounted.is_dir()
        self._etc = mounted if self._contained else system / "etc"
        self._system = system
        self.name: Final = name or self._own_name()
        self._cpu_before: tuple[int, int] | None = None

    def look(self) -> Host:
        """What the files tell now."""
        stat = _lines(self._proc / "stat")
        total, used = self._memory()
        booted = next((line.split()[1] for line in stat if line.startswith("btime ")), "")
        return Host(
            name=self.name,
            addresses=addresses(self._proc),
            os=self._os(),
            kernel=_text(self._proc / "sys/kernel/osrelease").strip(),
            boot_timestamp=float(booted) if booted.isdecimal() else None,
            cpus=sum(bool(re.match(r"cpu[0-9]", line)) for line in stat) or None,
            cpu_utilization=self._cpu(stat[0] if stat else ""),
            memory_total=total,
            memory_used=used,
            load=self._load(),
        )

    def _own_name(self) -> str:
        """The full name that /etc/hosts has for it, as ``hostname -f`` tells without asking a name server; else short.

        In a container without the host's /etc it is the container's.
        """
        written = _text(self._etc / "hostname").strip() if self._contained else ""
        name = written or _text(self._proc / "sys/kernel/hostname").strip()
        if not name or "." in name:
            return name
        for line in _lines(self._etc / "hosts"):
            names = line.partition("#")[0].split()[1:]
            if name in names:
                return next((full for full in names if full.startswith(f"{name}.")), name)
        return name

    def _os(self) -> str:
        """As people call it: Ubuntu 24.04.1 LTS."""
        # /etc/os-release is a link out of /etc in most systems; where that leads nowhere, these may still tell.
        for path, key in (
            (self._etc / "os-release", "PRETTY_NAME"),
            (self._etc / "lsb-release", "DISTRIB_DESCRIPTION"),
            *(() if self._contained else ((self._system / "usr/lib/os-release", "PRETTY_NAME"),)),
        ):
            if told := _assignments(path).get(key):
                return told
        return next(iter(_lines(self._etc / "redhat-release")), "").strip()

    def _cpu(self, line: str) -> float | None:
        """The share of time that all CPUs were busy since the previous look, from the line ``cpu`` of /proc/stat."""
        columns = line.split()[1 : _CPU_COLUMNS + 1]
        if not line.startswith("cpu ") or len(columns) <= _IOWAIT or not all(map(str.isdecimal, columns)):
            self._cpu_before = None
            return None
        ticks = [int(column) for column in columns]
        total, idle = sum(ticks), ticks[_IDLE] + ticks[_IOWAIT]
        before, self._cpu_before = self._cpu_before, (total, idle)
        if before is None or total <= before[0]:
            return None
        # Idle and iowait can fall by a tick or two; see proc_stat(5).
        return min(1.0, max(0.0, 1 - (idle - before[1]) / (total - before[0])))

    def _memory(self) -> tuple[int | None, int | None]:
        """Total, and used as free(1) has it: what could not be had without swapping."""
        told: dict[str, int] = {}
        for line in _lines(self._proc / "meminfo"):
            if match := re.fullmatch(r"(\w+): +([0-9]+) kB", line):
                told[match[1]] = int(match[2]) * 1024
        total, available = told.get("MemTotal"), told.get("MemAvailable")
        used = total - available if total is not None and available is not None and available <= total else None
        return total, used

    def _load(self) -> tuple[float, float, float] | None:
        match = re.match(r"([0-9.]+) ([0-9.]+) ([0-9.]+) ", _text(self._proc / "loadavg"))
        try:
            return (float(match[1]), float(match[2]), float(match[3])) if match else None
        except ValueError:
            return None


def _assignments(path: Path) -> Mapping[str, str]:
    """A file of shell assignments; see os-release(5)."""
    told = {}
    for line in _lines(path):
        name, is_one, value = line.partition("=")
        if is_one:
            try:
                told[name.strip()] = " ".join(shlex.split(value))
            except ValueError:  # a quotation mark without its other half
                continue
    return told


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _text(path: Path) -> str:
    """A file; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""
