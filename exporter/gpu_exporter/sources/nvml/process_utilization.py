"""How much of a GPU each of its processes takes, as the driver has sampled it."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

import pynvml

from gpu_exporter.sources.nvml.again import SOON, Again
from gpu_exporter.sources.nvml.answers import NO_SUCH_CALL, Buffers

_CALL: Final = "nvmlDeviceGetProcessUtilization"
# nvml.h, nvmlProcessUtilizationSample_t: pid, time stamp in microseconds, percent of the multiprocessors' time; what
# follows is of the memory bus (not of memory), the encoder and the decoder.
_SAMPLE: Final = struct.Struct("@IxxxxQIIII")
_SLACK: Final = 60.0  # seconds that the driver's clock may be ahead of ours


class ProcessUtilization:
    """The latest share of the multiprocessors' time by pid. Belongs to whichever thread reads the device.

    The driver is always asked for all that it has, and a sample counts that was not in its previous answer: its time
    stamps are of a clock that may be set back or forth (driver 580 stamps wall time), and a watermark of such a clock
    makes everything vanish for as long as the step was.
    """

    def __init__(self, buffers: Buffers, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._buffers = buffers
        self._clock = clock
        self._monotonic = monotonic
        self._again = Again()
        self._before: frozenset[tuple[int, int]] = frozenset()  # pid and time stamp, of the previous answer
        self._latest: dict[int, float] = {}

    @property
    def latest(self) -> Mapping[int, float]:
        """By pid, 0 to 1, as of the latest question."""
        return self._latest

    def ask(self, handle: Any) -> None:
        """Ask the driver. Raises DeviceFailedError or SourceError."""
        if not self._again.due(self._monotonic()):
            return
        answer = self._buffers.call(_CALL, _SAMPLE.size, partial(_ask, handle))
        if answer.code in NO_SUCH_CALL or answer.code == pynvml.NVML_ERROR_NOT_SUPPORTED:
            self._again.later(self._monotonic())
        elif answer.code in {pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_FOUND}:
            self._again = Again(most=SOON)  # what has answered is missed
        samples = [_SAMPLE.unpack_from(answer.written, place * _SAMPLE.size)[:3] for place in range(answer.count)]
        # Drivers have been seen to answer with stale and with impossible samples among good ones.
        fresh = [each for each in samples if each[2] <= 100 and each[:2] not in self._before]
        latest_possible = (self._clock() + _SLACK) * 1e6
        # Where only some are of the future, they are older than the others: the clock was set back in between.
        possible = [each for each in fresh if each[1] <= latest_possible] or fresh
        self._latest = {pid: busy / 100 for pid, _, busy in sorted(possible, key=lambda each: each[1])}
        if answer.code in {pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_FOUND}:
            self._before = frozenset((pid, stamp) for pid, stamp, _ in samples)

    def keep(self, pids: Collection[int]) -> None:
        """Forget the others: a reused pid inherits nothing."""
        self._latest = {pid: ratio for pid, ratio in self._latest.items() if pid in pids}

    def begin_anew(self) -> None:
        """The device's mode has changed, and with it what is supported."""
        self._again.at_once()
        self._latest = {}


def _ask(handle: Any, function: Any, count: Any, buffer: Any) -> int:
    return int(function(handle, buffer, ctypes.byref(count), ctypes.c_ulonglong(0)))
