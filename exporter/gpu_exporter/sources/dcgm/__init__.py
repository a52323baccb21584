"""NVIDIA DCGM as a source, by its command ``dcgmi dmon``: where its host engine runs and NVML is out of reach.

It tells of GPUs only. What runs on them and XIDs it does not tell, and of MIG devices nothing that names them: their
rows are passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from gpu_exporter.catalog import DEVICE_METRICS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.config import Config
from gpu_exporter.config.parsers import shown
from gpu_exporter.model import Device, Driver, Event, Failure, Finding, Reading
from gpu_exporter.sources import SourceChangedError, SourceError, SourceKind
from gpu_exporter.sources.dcgm import table
from gpu_exporter.sources.program import (
    MissingProgramError,
    Program,
    ProgramError,
    Run,
    Said,
    SlowProgramError,
    each_opening,
)
from gpu_exporter.sources.shared import Shared
from gpu_exporter.sources.tape import Playback, Tape
from gpu_exporter.sources.taped_program import RecordedRun, RecordingRun

COLUMNS: Final = {row: row.dcgm for row in DEVICE_METRICS if row.dcgm is not None}
# dcgm_fields.h, DCGM_FI_DEV_NVML_INDEX: nvidia-smi's number of the GPU; DCGM counts for itself.
_INDEX: Final = 52
_LIST: Final = ("dmon", "--list")
_DISCOVERY: Final = ("discovery", "--list")
_GPU: Final = "GPU"
_OPENING: Final = 30.0  # seconds
# A profiling field has a value once it was sampled twice.
_SAMPLES: Final = ("-d", "100", "-c", "3")
# Of the time that a reading may take: the process must have been killed before the poller gives the GPU up.
_SHARE: Final = 0.9
_HEALTH: Final = frozenset({"health", "memory errors"})
_NOT_THERE: Final = frozenset({"", "N/A"})
_Rows: TypeAlias = dict[tuple[str, int], table.Entity] | Failure


class SlowError(SourceError):
    """dcgmi did not answer in time."""


class DcgmSource:
    """The Source that asks dcgmi. The constructor raises SourceError where that, or its host engine, does not answer.

    ``timeout`` is how long a reading may take, in seconds; ``ended`` is called as the source is closed.
    """

    name = "dcgm"
    simulated = False

    def __init__(
        self,
        run: Run,
        *,
        timeout: float = 3.0,
        monotonic: Callable[[], float] = time.monotonic,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._ended = ended
        self._run = run
        self._timeout = _SHARE * timeout
        listed = table.fields(self._ask(_LIST, _OPENING).out)
        numbers = [number for column in COLUMNS.values() for number in column.numbers]
        self._fields = [number for number in dict.fromkeys((_INDEX, *numbers)) if not listed or number in listed]
        self.driver: Driver = Driver()
        self._devices = self._find()
        self._shared: Shared[_Rows] = Shared(self._read_all, monotonic=monotonic)

    @property
    def devices(self) -> Sequence[Device]:
        """Every GPU that the host engine lists, by nvidia-smi's number."""
        return sorted(self._devices.values(), key=lambda device: device.index)

    def read(self, device: Device) -> Reading:
        """What this round's table says of the device; see Source.read."""
        told = self._shared.take(device.index)
        if isinstance(told, Failure):
            return Reading(device, failure=told)
        number = next(number for number, each in self._devices.items() if each.index == device.index)
        row = told.get((_GPU, number))
        if row is None:
            return Reading(device, failure=Failure("lost", "the host engine tells nothing of it any more"))
        return self._reading(device, dict(zip(self._fields, row.cells, strict=True)))

    def bound(self, timeout: float) -> None:
        """See BoundedSource.bound."""
        self._timeout = _SHARE * timeout

    def events(self) -> Sequence[Event]:
        """None: a last XID without its time is no event."""
        return ()

    def close(self, *, hung: bool = False) -> None:
        """End what still runs."""
        self._ended()

    def _reading(self, device: Device, cells: dict[int, str]) -> Reading:
        values: dict[Metric, float] = {}
        wrong: dict[Metric, str] = {}
        for metric, column in COLUMNS.items():
            told = [cells[number] for number in column.numbers if number in cells]
            found = next((number for cell in told if (number := table.number(cell)) is not None), None)
            if found is not None:
                values[metric] = column.value(found)
            elif strange := [cell for cell in told if cell not in _NOT_THERE and not _blank(cell)]:
                wrong[metric] = f"field {column.number}: '{shown(strange[0], 40)}'"
        if not values:
            why = next(iter(wrong.values()), "not one of its fields has a value")
            return Reading(device, failure=Failure("unknown", f"dcgmi: {why}"))
        sick = [text for metric, text in wrong.items() if metric.group in _HEALTH]
        partial = sick or (list(wrong.values()) if len(wrong) > len(values) else [])
        return Reading(
            device,
            {metric: value for metric, value in values.items() if not metric.dynamic},
            labelled={(metric, ("0",)): value for metric, value in values.items() if metric.dynamic},
            partial=f"{len(wrong)} of its values are refused and {len(values)} told; {partial[0]}" if partial else "",
        )

    def _find(self) -> dict[int, Device]:
        """The GPUs by DCGM's number, under nvidia-smi's."""
        found = table.gpus(self._ask(_DISCOVERY, _OPENING).out)
        if not found:
            return found
        told = self._table(self._ask(self._dmon(), _OPENING))
        indices = {number: self._index(told.get((_GPU, number)), number) for number in found}
        if len(set(indices.values())) < len(found):
            indices = {number: number for number in found}
        return {number: replace(device, index=indices[number]) for number, device in found.items()}

    def _index(self, row: table.Entity | None, number: int) -> int:
        if row is None or _INDEX not in self._fields:
            return number
        told = table.number(row.cells[self._fields.index(_INDEX)])
        return number if told is None or not 0 <= told <= 4096 else int(told)

    def _read_all(self) -> _Rows:
        """One call for all GPUs: its rows, or why each of them could not be read."""
        try:
            said = self._ask(self._dmon(), self._timeout)
            told = self._table(said)
        except SlowError as error:
            return Failure("timeout", str(error))
        numbers = {number for kind, number in told if kind == _GPU}
        if numbers - self._devices.keys():
            raise SourceChangedError(f"the host engine tells of {len(numbers)} GPUs, and listed {len(self._devices)}")
        return told

    def _dmon(self) -> tuple[str, ...]:
        return ("dmon", "-e", ",".join(map(str, self._fields)), *_SAMPLES)

    def _table(self, said: Said) -> dict[tuple[str, int], table.Entity]:
        try:
            return table.rows(said.out, len(self._fields))
        except table.TableError as error:
            raise SourceError(f"dcgmi: {error}") from None

    def _ask(self, arguments: Sequence[str], timeout: float) -> Said:
        """What dcgmi says. Raises SourceError, and SlowError where it does not say it in time."""
        try:
            said = self._run(arguments, timeout=timeout)
        except SlowProgramError as error:
            raise SlowError(str(error)) from None
        except MissingProgramError as error:
            raise SourceError(f"{error}; install datacenter-gpu-manager, or name dcgmi by dcgm.path") from None
        except ProgramError as error:
            raise SourceError(str(error)) from None
        if said.code:
            raise SourceError(f"dcgmi: {said.complaint or f'it ended with status {said.code}'}{_advice(said)}")
        return said


def _blank(cell: str) -> bool:
    """Whether it is a number that stands for none, or DCGM's word for no text."""
    return cell.startswith("<<<") or cell.replace(".", "", 1).isdigit()


def _advice(said: Said) -> str:
    lost = any("onnect" in line for line in said.lines)
    return "; is nvidia-dcgm (nv-hostengine) running?" if lost else ""


def _opener(config: Config) -> Callable[[], DcgmSource]:
    return each_opening(_program(config), lambda run: _over(run, config, ended=run.close)())


def _recorder(config: Config, tape: Tape) -> Callable[[], DcgmSource]:
    return each_opening(_program(config), lambda run: _over(RecordingRun(run, tape), config, ended=run.close)())


def _player(config: Config, playback: Playback) -> Callable[[], DcgmSource]:
    return _over(RecordedRun(playback), config, monotonic=playback.monotonic)


def _over(
    run: Run,
    config: Config,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    ended: Callable[[], None] = lambda: None,
) -> Callable[[], DcgmSource]:
    return partial(DcgmSource, run, timeout=config.collection.timeout, monotonic=monotonic, ended=ended)


def _program(config: Config) -> Program:
    return Program(config.dcgm.path)


def _findings(config: Config, _root: Path) -> Iterator[Finding]:
    """What ``doctor`` looks at before the first reading: the program, and its host engine."""
    program = _program(config)
    if program.path is None:
        advice = "install datacenter-gpu-manager, or name dcgmi by dcgm.path"
        yield Finding("fail", "dcgmi", f"{config.dcgm.path} was not found", advice)
        return
    try:
        said = program(_DISCOVERY, timeout=config.collection.timeout)
    except ProgramError as error:
        yield Finding("fail", "dcgmi", str(error), "systemctl status nvidia-dcgm")
        return
    if said.code:
        yield Finding("fail", "dcgmi", f"{program.path}: {said.complaint}", "systemctl start nvidia-dcgm")
    else:
        yield Finding("ok", "dcgmi", f"{program.path}, {len(table.gpus(said.out))} GPUs")


KIND: Final = SourceKind(
    source=DcgmSource,
    opener=_opener,
    findings=_findings,
    tells=lambda metric: metric in COLUMNS,
    recorder=_recorder,
    player=_player,
)
