"""What runs on a GPU, as the driver lists it.

The driver is called without pynvml's wrappers, which know one layout of the answer. What a driver writes depends on its
release: 16 bytes a process in version 1 of the call, 24 in versions 2 and 3, and 32 in version 3 of drivers 535.43 to
535.86 (nvitop's pull request 79). The layout is measured instead, by how much of the buffer was written.
"""

from __future__ import annotations

import ctypes
import logging
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import pynvml

from gpu_exporter.model import Process
from gpu_exporter.sources.nvml.again import SELDOM, SOON, Again
from gpu_exporter.sources.nvml.answers import NO_SUCH_CALL, UNWRITTEN, Answer, Buffers
from gpu_exporter.sources.nvml.mig import Seen
from gpu_exporter.sources.nvml.process_utilization import ProcessUtilization

log = logging.getLogger(__name__)


class _List(NamedTuple):
    """One list of the driver's; without one that is ``needed`` it is not known what runs on the device."""

    type: Literal["compute", "graphics"]
    call: str
    needed: bool = False


_COMPUTE: Final = "nvmlDeviceGetComputeRunningProcesses"
_LISTS: Final = (
    _List("compute", _COMPUTE, needed=True),
    _List("graphics", "nvmlDeviceGetGraphicsRunningProcesses"),
    # Clients of the Multi-Process Service are in none of the others (go-nvml's issue 28).
    _List("compute", "nvmlDeviceGetMPSComputeRunningProcesses"),
)
_VERSIONS: Final = ("_v3", "_v2", "")
# nvml.h, nvmlProcessInfo_v1_t and _v2_t both begin with pid and used memory.
_INFO: Final = struct.Struct("@IxxxxQ")
_INFO_SIZES: Final = (16, 24, 32)
_NOTHING: Final = UNWRITTEN * _INFO.size
_UNTOLD: Final = 0xFFFFFFFFFFFFFFFF  # nvml.h: NVML_VALUE_NOT_AVAILABLE
# For so long a list that answered is missed, whatever the driver says of it; then it is believed not to be supported.
_BELIEVED_FOR: Final = 300.0  # seconds


class Listed(NamedTuple):
    """What one look at a device found.

    ``processes`` is None where it is not known what runs there. ``at`` is when the driver had answered, in seconds
    since the boot (CLOCK_BOOTTIME, on which /proc tells when a process started).
    """

    processes: tuple[Process, ...] | None
    at: float | None


class ProcessLists:
    """Reads one GPU's processes, those of its MIG devices apart. Belongs to whichever thread reads the device.

    What the driver does not support is asked for again every few minutes, and when MIG mode was switched.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._buffers = Buffers()
        self._utilization = ProcessUtilization(self._buffers, clock=clock, monotonic=monotonic)
        self._again: dict[str, Again] = {}  # by call: when to ask again for what is not supported
        self._had: set[str] = set()  # calls that have ever answered
        self._answered: dict[str, float] = {}  # by list: when it answered last
        self._mig = False

    def read(self, handle: Any, mig: Seen, *, utilization: bool) -> Listed:
        """List the processes; with ``utilization``, ask anew what each takes. Raises DeviceFailedError or SourceError.

        Between two such questions the latest answer stands.
        """
        if mig.mode != self._mig:
            self._mig = mig.mode
            self._again.clear()
            self._answered.clear()
            self._utilization.begin_anew()
        instances = mig.instances
        lists = [self._listed(each, uuid) for uuid, each in instances or [("", handle)]]
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        known = [processes for processes in lists if processes is not None]
        if not known:
            return Listed(None, at)
        found = [process for processes in known for process in processes]
        if utilization and not instances:
            self._utilization.ask(handle)
        self._utilization.keep({process.pid for process in found})
        if latest := self._utilization.latest:
            found = [replace(each, utilization=latest.get(each.pid)) for each in found]
        return Listed(tuple(found), at)

    def _listed(self, handle: Any, mig_uuid: str) -> list[Process] | None:
        found: list[Process] = []
        for each in _LISTS:
            version, answer = self._best(each.call, handle)
            if answer is None or answer.code != pynvml.NVML_SUCCESS:
                if each.needed or each.call in self._answered:
                    return None  # a list that is missing is not an empty one
                continue
            # Lists of one type may overlap: the first one has the process.
            before = {process.pid for process in found if process.type == each.type}
            for pid, memory in _infos(answer, first=not version):
                told = None if memory == _UNTOLD else float(memory)
                if pid not in before:
                    found.append(Process(pid, each.type, told, mig_uuid=mig_uuid))
        return found

    def _best(self, call: str, handle: Any) -> tuple[str, Answer | None]:
        """The newest version that this driver has, and its answer; None where the driver has no such list."""
        now = self._monotonic()
        if not self._due(call, now):
            return "", None
        for version in _VERSIONS:
            name = f"{call}{version}"
            if not self._due(name, now):
                continue
            answer = self._buffers.call(name, max(_INFO_SIZES), partial(_ask_list, handle))
            if answer.code in NO_SUCH_CALL:
                self._later(name, now)
                continue
            if answer.code == pynvml.NVML_SUCCESS:
                self._answered[call] = now
                self._had |= {call, name}
                self._again.pop(call, None)
            elif answer.code == pynvml.NVML_ERROR_NOT_SUPPORTED and not self._answered_lately(call, now):
                break
            return version, answer
        self._answered.pop(call, None)
        self._later(call, now)
        return "", None

    def _due(self, call: str, now: float) -> bool:
        return call not in self._again or self._again[call].due(now)

    def _later(self, call: str, now: float) -> None:
        """It is not supported: ask again soon at first, and at least once a minute where it has answered before."""
        self._again.setdefault(call, Again(most=SOON if call in self._had else SELDOM)).later(now)

    def _answered_lately(self, call: str, now: float) -> bool:
        """What answered is not struck off because the driver says "not supported" for a moment."""
        return now < self._answered.get(call, float("-inf")) + _BELIEVED_FOR

    def doubt(self) -> None:
        """Believe no earlier "not supported": the device was lost or reset since."""
        self._again.clear()


def _ask_list(handle: Any, function: Any, count: Any, buffer: Any) -> int:
    return int(function(handle, ctypes.byref(count), buffer))


def _infos(answer: Answer, *, first: bool) -> Iterable[tuple[int, int]]:
    """Pid and memory in bytes of each item; ``first`` tells version 1, for a buffer that was filled to its end."""
    extent = len(answer.written.rstrip(UNWRITTEN))
    for size in _INFO_SIZES:
        if size * (answer.count - 1) < extent <= size * answer.count:
            break
    else:
        size = _INFO_SIZES[0] if first else _INFO_SIZES[1]
    # A driver that tells of more than it wrote: what it left alone is no process.
    places = [place * size for place in range(answer.count) if not answer.written.startswith(_NOTHING, place * size)]
    return [_INFO.unpack_from(answer.written, place) for place in places]
