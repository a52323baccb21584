"""What runs on a GPU, as the driver lists it.

The driver is called without pynvml's wrappers, which know one layout of the answer. What a driver writes depends on its
release: 16 bytes a process in version 1 of the call, 24 in versions 2 and 3, and 32 in version 3 of drivers 535.43 to
535.86 (nvitop's pull request 79). The layout is measured instead, by how much of the buffer was written.
"""

from __future__ import annotations

import ctypes
import logging
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import pynvml

from gpu_exporter.model import Process
from gpu_exporter.sources.nvml.errors import raise_if_fatal

log = logging.getLogger(__name__)

_KINDS: Final[tuple[tuple[Literal["compute", "graphics"], str], ...]] = (
    ("compute", "nvmlDeviceGetComputeRunningProcesses"),
    ("graphics", "nvmlDeviceGetGraphicsRunningProcesses"),
)
_VERSIONS: Final = ("_v3", "_v2", "")
_UTILIZATION: Final = "nvmlDeviceGetProcessUtilization"
# nvml.h, nvmlProcessInfo_v1_t and _v2_t both begin with pid and used memory.
_INFO: Final = struct.Struct("@IxxxxQ")
_INFO_SIZES: Final = (16, 24, 32)
# nvml.h, nvmlProcessUtilizationSample_t: pid, time stamp in microseconds, percent of the multiprocessors' time; what
# follows is of the memory bus (not of memory), the encoder and the decoder.
_SAMPLE: Final = struct.Struct("@IxxxxQIIII")
_UNTOLD: Final = 0xFFFFFFFFFFFFFFFF  # nvml.h: NVML_VALUE_NOT_AVAILABLE
# NVIDIA's MIG user guide: at most 7 of a GPU, whatever the board; the second number leaves room for boards to come.
_MIG_DEVICES: Final = 7
_MOST_MIG_DEVICES: Final = 64
_UNWRITTEN: Final = b"\xa5"
_ROOM: Final = 32
_MOST_ROOM: Final = 16_384
_GONE: Final = frozenset(
    {
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    }
)


@dataclass(frozen=True, slots=True)
class _Answer:
    code: int
    count: int = 0
    written: bytes = b""


class ProcessLists:
    """Reads one GPU's processes, those of its MIG devices apart. Belongs to whichever thread reads the device."""

    def __init__(self) -> None:
        self._rooms: dict[str, int] = {}
        self._newest = 0
        self._impossible_told = False
        self.doubt()

    def doubt(self) -> None:
        """Believe no earlier "not supported": the device was reset, lost or partitioned since, or it is long ago."""
        self._names = {kind: [f"{name}{version}" for version in _VERSIONS] for kind, name in _KINDS}
        self._has_utilization = True
        self._mig_devices = -1  # how many there can be; not known yet

    def read(self, handle: Any) -> tuple[tuple[Process, ...] | None, tuple[str, ...]]:
        """The processes, None where the driver does not list them, and the UUIDs of the MIG devices.

        Raises DeviceFailedError or SourceError.
        """
        instances = self._instances(handle)
        if instances:
            lists = [self._listed(each, {}, uuid) for uuid, each in instances]
        else:
            lists = [self._listed(handle, self._utilizations(handle), "")]
        known = [processes for processes in lists if processes is not None]
        return (
            tuple(process for processes in known for process in processes) if known else None,
            tuple(uuid for uuid, _ in instances),
        )

    def _listed(self, handle: Any, utilizations: dict[int, float], mig_uuid: str) -> list[Process] | None:
        found: list[Process] | None = None
        for kind, _ in _KINDS:
            answer = self._best(self._names[kind], handle)
            if answer is None:
                continue
            found = found or []
            for pid, memory in _infos(answer, first=not self._names[kind][0].endswith(_VERSIONS[:2])):
                told = None if memory == _UNTOLD else float(memory)
                found.append(Process(pid, kind, told, utilizations.get(pid), mig_uuid))
        return found

    def _best(self, names: list[str], handle: Any) -> _Answer | None:
        """The answer of the newest version that this driver has; the others are not tried again."""
        while names:
            answer = self._call(names[0], max(_INFO_SIZES), partial(_ask_list, handle))
            if answer.code == pynvml.NVML_SUCCESS:
                return answer
            if answer.code == pynvml.NVML_ERROR_NOT_SUPPORTED:
                names.clear()
            elif answer.code in _GONE:
                del names[0]
            else:
                return None
        return None

    def _utilizations(self, handle: Any) -> dict[int, float]:
        """Share of the multiprocessors' time by pid, of those that the driver has sampled since the last call."""
        if not self._has_utilization:
            return {}
        answer = self._call(_UTILIZATION, _SAMPLE.size, partial(_ask_utilization, handle, self._newest))
        if answer.code in _GONE or answer.code == pynvml.NVML_ERROR_NOT_SUPPORTED:
            self._has_utilization = False
        latest: dict[int, tuple[int, int]] = {}
        for place in range(answer.count):
            pid, stamp, busy, *_ = _SAMPLE.unpack_from(answer.written, place * _SAMPLE.size)
            # Drivers have been seen to answer with stale and with impossible samples among good ones.
            if busy <= 100 and stamp > max(self._newest, latest.get(pid, (0, 0))[0]):
                latest[pid] = (stamp, busy)
        self._newest = max([self._newest, *(stamp for stamp, _ in latest.values())])
        return {pid: busy / 100 for pid, (_, busy) in latest.items()}

    def _call(self, name: str, size: int, ask: Callable[[Any, Any, Any], int]) -> _Answer:
        """Call with room for the answer, and again with more where that was too little."""
        try:
            function = pynvml._nvmlGetFunctionPointer(name)  # noqa: SLF001 - see the module's docstring
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, name)
            return _Answer(error.value)
        while True:
            room = self._rooms.get(name, _ROOM)
            buffer = ctypes.create_string_buffer(_UNWRITTEN * (room * size), room * size)
            count = ctypes.c_uint(room)
            code = ask(function, count, buffer)
            if code == pynvml.NVML_ERROR_INSUFFICIENT_SIZE and room < _MOST_ROOM:
                self._rooms[name] = min(max(2 * room, count.value + 8), _MOST_ROOM)  # more may start meanwhile
                continue
            raise_if_fatal(code, name)
            if code != pynvml.NVML_SUCCESS:
                return _Answer(code)
            return _Answer(code, min(count.value, room), buffer.raw)

    def _possible(self, told: int) -> int:
        """How many MIG devices there can be, where the driver tells a number that can be."""
        if 0 <= told <= _MOST_MIG_DEVICES:
            return told
        if not self._impossible_told:
            log.warning("the driver tells an impossible number", extra={"of": "MIG devices", "count": told})
            self._impossible_told = True
        return _MIG_DEVICES

    def _instances(self, handle: Any) -> Sequence[tuple[str, Any]]:
        """UUID and handle of every MIG device; they come and go while the exporter runs."""
        if self._mig_devices == 0:
            return ()
        name = "nvmlDeviceGetMigMode"
        try:
            if not pynvml.nvmlDeviceGetMigMode(handle)[0]:
                return ()
            if self._mig_devices < 0:
                name = "nvmlDeviceGetMaxMigDeviceCount"
                self._mig_devices = self._possible(int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)))
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, name)
            if error.value in {*_GONE, pynvml.NVML_ERROR_NOT_SUPPORTED}:
                self._mig_devices = 0
            return ()
        found = []
        for index in range(self._mig_devices):
            try:
                instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                found.append((str(pynvml.nvmlDeviceGetUUID(instance)), instance))
            except pynvml.NVMLError as error:
                raise_if_fatal(error.value, "nvmlDeviceGetMigDeviceHandleByIndex")
        return found


def _ask_list(handle: Any, function: Any, count: Any, buffer: Any) -> int:
    return int(function(handle, ctypes.byref(count), buffer))


def _ask_utilization(handle: Any, since: int, function: Any, count: Any, buffer: Any) -> int:
    return int(function(handle, buffer, ctypes.byref(count), ctypes.c_ulonglong(since)))


def _infos(answer: _Answer, *, first: bool) -> Iterable[tuple[int, int]]:
    """Pid and memory in bytes of each item; ``first`` tells version 1, for a buffer that was filled to its end."""
    extent = len(answer.written.rstrip(_UNWRITTEN))
    for size in _INFO_SIZES:
        if size * (answer.count - 1) < extent <= size * answer.count:
            break
    else:
        size = _INFO_SIZES[0] if first else _INFO_SIZES[1]
    return [_INFO.unpack_from(answer.written, place * size) for place in range(answer.count)]
