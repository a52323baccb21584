"""The MIG devices of one GPU: which there are, who they are, and what each does.

They come and go while the exporter runs, and a handle of one that is gone may never answer, or answer for another. So
they are looked up at every reading, and what is kept of one is kept by its UUID.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import pynvml

from gpu_exporter.catalog.mig import (
    MIG_DRAM_ACTIVE,
    MIG_INFO,
    MIG_MEMORY_TOTAL,
    MIG_MEMORY_USED,
    MIG_SM_ACTIVE,
    MIG_TENSOR_ACTIVE,
)
from gpu_exporter.catalog.row import Metric, scaled
from gpu_exporter.sources.nvml.again import SELDOM, Again
from gpu_exporter.sources.nvml.answers import NO_SUCH_CALL
from gpu_exporter.sources.nvml.errors import UNSUPPORTED, raise_if_fatal
from gpu_exporter.sources.nvml.gpm import GpmReader, Interval, supported
from gpu_exporter.sources.nvml.numbers import NOT_AVAILABLE

log = logging.getLogger(__name__)

# NVIDIA's MIG user guide: at most 7 of a GPU, whatever the board; the second number leaves room for boards to come.
_MIG_DEVICES: Final = 7
_MOST_MIG_DEVICES: Final = 64
_NOT_THERE: Final = frozenset({pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT})
_PERCENT: Final = 0.01
_MOST_PERCENT: Final = 102.0  # as of the whole GPU (catalog/profiling.py)
_GPM: Final = {
    pynvml.NVML_GPM_METRIC_SM_UTIL: MIG_SM_ACTIVE,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: MIG_TENSOR_ACTIVE,
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: MIG_DRAM_ACTIVE,
}


class Instance(NamedTuple):
    """One MIG device that is there now; its handle is good for this reading."""

    uuid: str
    handle: Any


@dataclass(slots=True)
class Seen:
    """What one look found. ``whole`` tells that the instances are all that there are; without MIG mode it is not."""

    mode: bool = False
    instances: tuple[Instance, ...] = ()
    whole: bool = False
    labelled: dict[tuple[Metric, tuple[str, ...]], float] = field(default_factory=dict)
    refused: list[tuple[Metric, float]] = field(default_factory=list)

    @property
    def uuids(self) -> tuple[str, ...]:
        """The UUIDs of the instances."""
        return tuple(instance.uuid for instance in self.instances)


@dataclass(slots=True)
class _Known:
    """What an instance has told of itself; None and empty is what it has not."""

    gpu_instance: int | None = None
    compute_instance: int | None = None
    profile: str = ""
    again: Again = field(default_factory=Again)


class MigDevices:
    """Reads one GPU's MIG devices. Belongs to whichever thread reads the GPU; ``close`` before NVML is shut down."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._mode = False
        self._mode_again = Again()
        self._most = 0  # how many there can be; 0 is not known
        self._impossible_told = False
        self._known: dict[str, _Known] = {}
        # By GPU instance and who shares it: one that was made anew under the same number has other counters.
        self._readers: dict[tuple[int, tuple[str, ...]], GpmReader] = {}
        self._gpm = False
        self._gpm_again = Again(most=SELDOM)

    def doubt(self) -> None:
        """Believe nothing that was told before: the GPU was lost, reset or partitioned since."""
        self._mode_again.at_once()
        self._gpm_again.at_once()
        self._most = 0
        self._known.clear()

    def read(self, handle: Any) -> Seen:
        """Look at them all. Raises DeviceFailedError where the GPU itself is gone."""
        seen = Seen(mode=self._ask_mode(handle))
        if not seen.mode:
            self.close()
            self._known.clear()
            return seen
        seen.instances, seen.whole = self._look_up(handle)
        self._known = {uuid: self._known.get(uuid, _Known()) for uuid in seen.uuids}
        for instance in seen.instances:
            self._identify(instance)
            _read_memory(instance, seen)
            told = self._known[instance.uuid]
            numbers = ("" if number is None else str(number) for number in (told.gpu_instance, told.compute_instance))
            seen.labelled[MIG_INFO, (instance.uuid, *numbers, told.profile)] = 1.0
        self._profile(handle, seen)
        return seen

    def close(self) -> None:
        """Free what the driver holds for us."""
        while self._readers:
            self._readers.popitem()[1].close()

    # --- which there are ----------------------------------------------------------------------------------------------

    def _ask_mode(self, handle: Any) -> bool:
        """Whether the GPU is partitioned; what was known stands where the driver does not tell for a moment."""
        name, now = "nvmlDeviceGetMigMode", self._monotonic()
        if not self._mode_again.due(now):
            return False
        try:
            mode = bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, name)
            unsupported = error.value in NO_SUCH_CALL or error.value == pynvml.NVML_ERROR_NOT_SUPPORTED
            if unsupported and not self._mode:
                self._mode_again.later(now)
            return self._mode
        self._mode_again.at_once()
        if mode != self._mode:
            self._mode, self._most = mode, 0
            self._gpm_again.at_once()
        return mode

    def _look_up(self, handle: Any) -> tuple[tuple[Instance, ...], bool]:
        """The MIG devices, and whether these are all: one that answers an error is there, and cannot be read."""
        try:
            self._most = self._most or self._possible(int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)))
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, "nvmlDeviceGetMaxMigDeviceCount")
            return (), False
        found: dict[str, Instance] = {}
        whole = self._most > 0
        for index in range(self._most):
            try:
                instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            except pynvml.NVMLError as error:
                raise_if_fatal(error.value, "nvmlDeviceGetMigDeviceHandleByIndex")
                whole = whole and error.value in _NOT_THERE
                continue
            uuid = _text(pynvml.nvmlDeviceGetUUID, instance)
            if uuid:
                found.setdefault(uuid, Instance(uuid, instance))
            else:
                whole = False
        return tuple(found.values()), whole

    def _possible(self, told: int) -> int:
        """How many there can be, where the driver tells a number that can be."""
        if 0 <= told <= _MOST_MIG_DEVICES:
            return told
        if not self._impossible_told:
            log.warning("the driver tells an impossible number", extra={"of": "MIG devices", "count": told})
            self._impossible_told = True
        return _MIG_DEVICES

    # --- who they are -------------------------------------------------------------------------------------------------

    def _identify(self, instance: Instance) -> None:
        known, now = self._known[instance.uuid], self._monotonic()
        whole = known.gpu_instance is not None and known.compute_instance is not None and known.profile
        if whole or not known.again.due(now):
            return
        known.again.later(now)
        if known.gpu_instance is None:
            known.gpu_instance = _number(pynvml.nvmlDeviceGetGpuInstanceId, instance.handle)
        if known.compute_instance is None:
            known.compute_instance = _number(pynvml.nvmlDeviceGetComputeInstanceId, instance.handle)
        known.profile = known.profile or _size_of(instance.handle)

    # --- what each does -----------------------------------------------------------------------------------------------

    def _profile(self, handle: Any, seen: Seen) -> None:
        """The profiling counters of each GPU instance, for every MIG device in it."""
        groups: dict[int, list[str]] = {}
        for uuid in seen.uuids:
            number = self._known[uuid].gpu_instance
            if number is not None:
                groups.setdefault(number, []).append(uuid)
        keys = {(number, tuple(sorted(uuids))) for number, uuids in groups.items()}
        for key in self._readers.keys() - keys:
            self._readers.pop(key).close()
        if not self._has_gpm(handle):
            return
        for key in sorted(keys):
            number, uuids = key
            if key not in self._readers:
                self._readers[key] = GpmReader(monotonic=self._monotonic, gpu_instance=number)
            interval = self._interval(self._readers[key], handle)
            for metric, mean in interval.means.items():
                row = _GPM[metric]
                if 0.0 <= mean <= _MOST_PERCENT:
                    share = scaled(min(mean, 100.0), _PERCENT)
                    seen.labelled.update(((row, (uuid,)), share) for uuid in uuids)
                else:
                    seen.refused.append((row, scaled(mean, _PERCENT)))

    def _has_gpm(self, handle: Any) -> bool:
        now = self._monotonic()
        if not self._gpm and self._gpm_again.due(now):
            self._gpm = supported(handle)
            self._gpm_again.later(now)
        return self._gpm

    @staticmethod
    def _interval(reader: GpmReader, handle: Any) -> Interval:
        try:
            return reader.read(handle, [*_GPM])
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, "nvmlGpmMigSampleGet")
            return Interval()


def _read_memory(instance: Instance, seen: Seen) -> None:
    """Memory of one MIG device, where what the driver tells of it can be."""
    for version in (pynvml.nvmlMemory_v2, None):
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(instance.handle, version)
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, "nvmlDeviceGetMemoryInfo")
            if error.value in UNSUPPORTED:
                continue
            return
        total, used = memory.total, memory.used
        bad = [
            (row, float(value))
            for row, value in ((MIG_MEMORY_TOTAL, total), (MIG_MEMORY_USED, used))
            if value in NOT_AVAILABLE or not row.plausible[0] <= value <= row.plausible[1]
        ]
        if not bad and used > total:
            bad = [(MIG_MEMORY_TOTAL, float(total)), (MIG_MEMORY_USED, float(used))]
        seen.refused += bad
        if not bad:
            seen.labelled[MIG_MEMORY_TOTAL, (instance.uuid,)] = float(total)
            seen.labelled[MIG_MEMORY_USED, (instance.uuid,)] = float(used)
        return


def _ask(call: Callable[..., Any], handle: Any) -> Any:
    """The answer; None where there is none. Raises DeviceFailedError."""
    try:
        return call(handle)
    except pynvml.NVMLError as error:
        raise_if_fatal(error.value, call.__name__)
    except ValueError:  # what is no UTF-8
        pass
    return None


def _number(call: Callable[..., Any], handle: Any) -> int | None:
    answer = _ask(call, handle)
    return None if answer is None or answer in NOT_AVAILABLE else int(answer)


def _text(call: Callable[..., Any], handle: Any) -> str:
    answer = _ask(call, handle)
    return (answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer or "")).strip()


def _size_of(handle: Any) -> str:
    """What NVIDIA calls this size, as 1g.10gb, 1c.3g.40gb or 1g.10gb+me: from its name, else worked out."""
    named = re.search(r"(?:^|\bMIG )((?:\d+c\.)?\d+g\.\d+gb\S*)$", _text(pynvml.nvmlDeviceGetName, handle))
    if named:
        return named[1]
    told = _ask(pynvml.nvmlDeviceGetAttributes_v2, handle)
    if told is None or not (0 < told.gpuInstanceSliceCount < 64 and 0 < told.memorySizeMB < 2**26):
        return ""
    slices, computes = told.gpuInstanceSliceCount, told.computeInstanceSliceCount
    part = f"{computes}c." if 0 < computes < slices else ""
    return f"{part}{slices}g.{-(-told.memorySizeMB // 1024)}gb"
