"""nvidia-smi as a source, where NVML cannot be loaded: one ``--query-gpu`` a round, for all GPUs.

What it cannot tell is absent: XIDs, processes that draw only, what a process takes, energy and busy seconds other than
integrated from power and utilization. docs/SOURCES.md compares the sources.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from gpu_exporter.config import Config
from gpu_exporter.config.parsers import shown
from gpu_exporter.model import Device, Driver, Event, Failure, Finding, Process, Reading
from gpu_exporter.sources import SourceChangedError, SourceKind
from gpu_exporter.sources.program import Program, ProgramError, Run, each_opening
from gpu_exporter.sources.shared import Shared
from gpu_exporter.sources.smi import rows
from gpu_exporter.sources.smi.asking import Answers, Asking
from gpu_exporter.sources.smi.failures import bus
from gpu_exporter.sources.smi.fields import COLUMNS
from gpu_exporter.sources.smi.finding import find_gpus
from gpu_exporter.sources.smi.processes import ProcessList
from gpu_exporter.sources.smi.query import Query
from gpu_exporter.sources.smi.versions import versions
from gpu_exporter.sources.tape import Playback, Tape
from gpu_exporter.sources.taped_program import RecordedRun, RecordingRun

# Where it is where PATH does not have it: Windows's subsystem for Linux, containers of Google's and of NVIDIA's.
PLACES: Final = (
    "/usr/lib/wsl/lib/nvidia-smi",
    "/usr/local/nvidia/bin/nvidia-smi",
    "/usr/bin/nvidia-smi",
)
# Of the time that a reading may take: the process must have been killed before the poller gives the GPU up.
_SHARE: Final = 0.9
_TOLD: Final = ("uuid", "model", "architecture", "pci_bus_id", "serial", "vbios_version")


class SmiSource:
    """The Source that asks nvidia-smi. The constructor raises SourceError where that cannot be used.

    ``timeout`` is how long a reading may take, in seconds; with ``processes``, what computes is listed as well.
    ``ended`` is called as the source is closed.
    """

    name = "smi"
    simulated = False

    def __init__(
        self,
        run: Run,
        *,
        timeout: float = 3.0,
        processes: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
        root: Path = Path("/"),
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._ended = ended
        query = Query(run)
        listed = ProcessList(run) if processes else None
        self._asking = Asking(query, listed, timeout=_SHARE * timeout, monotonic=monotonic)
        found = find_gpus(query, root)
        self._devices = {device.index: device for device, _ in found}
        release = next((text for _, row in found if (text := rows.told(row, "driver_version"))), "")
        told = versions(run)
        self.driver: Driver = replace(told, driver_version=release or told.driver_version)
        self._shared: Shared[Answers] = Shared(self._ask, monotonic=monotonic)

    @property
    def devices(self) -> Sequence[Device]:
        """Every GPU that nvidia-smi lists, or complains of."""
        return [self._devices[index] for index in sorted(self._devices)]

    def read(self, device: Device) -> Reading:
        """What this round's table says of the device; see Source.read."""
        answers = self._shared.take(device.index)
        known = self._devices[device.index]
        row = answers.rows.get(device.index)
        if row is None or not rows.same(row, known):
            lost = Failure("lost", "nvidia-smi does not list it any more")
            return Reading(known, failure=answers.failures.get(device.index, lost))
        known = self._devices[device.index] = _completed(known, rows.device(row, device.index))
        reading = rows.reading(row, known)
        if reading.failure is not None or answers.processes is None:
            return reading
        listed = tuple(answers.processes.get(bus(known.pci_bus_id), ())) if known.pci_bus_id else None
        return replace(
            reading,
            processes=listed,
            process_types=("compute",),
            listed_at=answers.listed_at,
            mig_uuids=_mig_uuids(listed or ()),
        )

    def bound(self, timeout: float) -> None:
        """See BoundedSource.bound."""
        self._asking.timeout = _SHARE * timeout

    def events(self) -> Sequence[Event]:
        """None: nvidia-smi does not tell XIDs."""
        return ()

    def close(self, *, hung: bool = False) -> None:
        """End what still runs."""
        self._ended()

    def _ask(self) -> Answers:
        answers = self._asking.ask(self.devices)
        if answers.whole:
            self._compare(answers)
        return answers

    def _compare(self, answers: Answers) -> None:
        """Raise SourceChangedError where a whole table has other GPUs than those of the opening."""
        if answers.rows.keys() != self._devices.keys():
            raise SourceChangedError(f"nvidia-smi lists {len(answers.rows)} GPUs, and listed {len(self._devices)}")
        for index, row in answers.rows.items():
            if not rows.same(row, self._devices[index]):
                raise SourceChangedError(f"another GPU is number {index}: {shown(rows.told(row, 'uuid'))}")


def _completed(known: Device, told: Device) -> Device:
    """The device with what it had not told before."""
    missing = {name: getattr(told, name) for name in _TOLD if not getattr(known, name) and getattr(told, name)}
    return replace(known, **missing) if missing else known


def _mig_uuids(processes: Sequence[Process]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(process.mig_uuid for process in processes if process.mig_uuid))


def program(config: Config) -> Program:
    """The nvidia-smi that the settings name."""
    return Program(config.smi.path, places=PLACES)


def _opener(config: Config) -> Callable[[], SmiSource]:
    return each_opening(program(config), lambda run: _over(run, config, ended=run.close)())


def recorder(config: Config, tape: Tape) -> Callable[[], SmiSource]:
    """What opens it such that every answer is noted."""
    return each_opening(program(config), lambda run: _over(RecordingRun(run, tape), config, ended=run.close)())


def _player(config: Config, playback: Playback) -> Callable[[], SmiSource]:
    return _over(RecordedRun(playback), config, monotonic=playback.monotonic)


def _over(
    run: Run,
    config: Config,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    ended: Callable[[], None] = lambda: None,
) -> Callable[[], SmiSource]:
    processes, timeout = config.processes.enabled, config.collection.timeout
    return partial(SmiSource, run, timeout=timeout, processes=processes, monotonic=monotonic, ended=ended)


def _findings(config: Config, _root: Path) -> Iterator[Finding]:
    """What ``doctor`` looks at before the first reading: the program, and what it knows."""
    smi = program(config)
    if smi.path is None:
        yield Finding(
            "fail",
            "nvidia-smi",
            f"{config.smi.path} was not found",
            "install the NVIDIA driver, or name it by smi.path (in a container, --gpus all mounts it)",
        )
        return
    try:
        said = smi(["--version"], timeout=config.collection.timeout)
    except ProgramError as error:
        yield Finding(
            "fail", "nvidia-smi", str(error), "run nvidia-smi by hand: it must answer within collection.timeout"
        )
        return
    if said.code:
        yield Finding("warn", "nvidia-smi", f"{smi.path}: {said.complaint or f'status {said.code}'}")
    else:
        yield Finding("ok", "nvidia-smi", smi.path)


KIND: Final = SourceKind(
    source=SmiSource,
    opener=_opener,
    findings=_findings,
    tells=lambda metric: metric in COLUMNS,
    recorder=recorder,
    player=_player,
)

__all__ = ["KIND", "PLACES", "SmiSource", "program", "recorder"]
