"""GPU performance monitoring (GPM, Hopper and newer): means over the time between two samples of a device's counters.

A sample holds counters that only grow, so nothing between two samples is lost, however far apart they are. nvml.h,
nvmlGpmMetricsGet; on an H200 a sample takes 0.3 ms and its evaluation 1.8 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import pynvml

from gpu_exporter.sources.nvml.errors import UNSUPPORTED, raise_if_fatal

CALL: Final = "nvmlGpmMetricsGet"
_SUPPORT: Final = "nvmlGpmQueryDeviceSupport"
_SHORTEST: Final = 0.1  # seconds; nvml.h, nvmlGpmSampleGet: the driver's own counts are renewed that often


@dataclass(frozen=True, slots=True)
class Interval:
    """Means by NVML_GPM_METRIC_... over ``seconds``; ``lacking`` has the metrics that the device does not have.

    The first interval has no length and no means.
    """

    seconds: float = 0.0
    means: Mapping[int, float] = field(default_factory=dict)
    lacking: frozenset[int] = frozenset()


def supported(handle: Any) -> bool:
    """Whether driver and device have GPM at all. Raises DeviceFailedError or SourceError."""
    try:
        return bool(pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)
    except pynvml.NVMLError as error:
        raise_if_fatal(error.value, _SUPPORT)
        return False


class GpmReader:
    """Samples one device, or one ``gpu_instance`` of it (MIG).

    Belongs to whichever thread reads the device; ``close`` before NVML is shut down.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic, gpu_instance: int | None = None) -> None:
        self._monotonic = monotonic
        self._gpu_instance = gpu_instance
        self._handle: Any = None
        self._samples: list[Any] = []  # the one to compare with, and the one to fill next
        self._since: float | None = None  # when the former was taken; None while there is none
        self._failed = False
        self._lacking: frozenset[int] = frozenset()  # as of the latest evaluation

    def read(self, handle: Any, metrics: Sequence[int]) -> Interval:
        """What the metrics were since the previous call. Raises NVMLError; the time goes on to the next call then.

        So it does where too little time has passed for the driver to have new counts.

        A handle that was looked up anew begins anew: its device may have been reset.
        """
        if not self._samples:
            self._samples = [pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()]
        if handle is not self._handle:
            self._handle, self._since = handle, None
        if self._gpu_instance is None:
            pynvml.nvmlGpmSampleGet(handle, self._samples[1])
        else:
            pynvml.nvmlGpmMigSampleGet(handle, self._gpu_instance, self._samples[1])
        now = self._monotonic()
        if self._since is None:
            self._advance(now)
            return Interval(lacking=self._lacking)
        seconds = now - self._since
        if seconds < _SHORTEST:
            return Interval(lacking=self._lacking)
        try:
            means = self._evaluate(metrics)
        except pynvml.NVMLError:
            if self._failed:  # the older sample may be what is wrong
                self._advance(now)
            self._failed = not self._failed
            raise
        self._advance(now)
        return Interval(seconds, means, self._lacking)

    def close(self) -> None:
        """Free the samples."""
        while self._samples:
            with suppress(pynvml.NVMLError):  # of a driver that is gone already nothing is left to free
                pynvml.nvmlGpmSampleFree(self._samples.pop())
        self._since = None

    def _advance(self, now: float) -> None:
        self._samples.reverse()
        self._since = now
        self._failed = False

    def _evaluate(self, metrics: Sequence[int]) -> dict[int, float]:
        # Not kept: it has room for all metrics that there are, 19 KiB.
        request = pynvml.c_nvmlGpmMetricsGet_t(version=pynvml.NVML_GPM_METRICS_GET_VERSION, numMetrics=len(metrics))
        request.sample1, request.sample2 = self._samples
        for place, metric in enumerate(metrics):
            # What the driver leaves out is no 0.
            request.metrics[place].metricId, request.metrics[place].nvmlReturn = metric, pynvml.NVML_ERROR_UNKNOWN
        pynvml.nvmlGpmMetricsGet(request)
        answers = request.metrics[: len(metrics)]
        self._lacking = frozenset(answer.metricId for answer in answers if answer.nvmlReturn in UNSUPPORTED)
        return {answer.metricId: answer.value for answer in answers if answer.nvmlReturn == pynvml.NVML_SUCCESS}
