"""NVIDIA's management library (NVML) as a source: every GPU on its own, so that a sick one never hides the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import pynvml

from gpu_exporter.config import Config
from gpu_exporter.events.nvml import XidListener
from gpu_exporter.model import Device, Driver, Failure, Reading, Xid
from gpu_exporter.sources import SourceError, SourceKind
from gpu_exporter.sources.nvml import identity
from gpu_exporter.sources.nvml.asking import Answers
from gpu_exporter.sources.nvml.errors import DeviceFailedError, failure, raise_if_fatal, source_error
from gpu_exporter.sources.nvml.findings import findings
from gpu_exporter.sources.nvml.plan import Plan
from gpu_exporter.sources.nvml.processes import Listed, ProcessLists

log = logging.getLogger(__name__)

# Limits and modes change by an administrator's hand only; each is asked for once a minute, not all GPUs in one tick.
_SLOW_EVERY: Final = 60.0
_SLOW_STEP: Final = 5.0
_SLOW_STEPS: Final = 12
_NOT_LISTED: Final = Listed(None, (), None)


class _Gpu:
    """One device with its handle and plan; belongs to whichever thread reads it."""

    def __init__(self, device: Device, lists: ProcessLists) -> None:
        self.device = device
        self.plan: Plan | None = None
        self.slow_due = 0.0
        self.down = False
        self.lists = lists
        self.utilization_due = 0.0


class NvmlSource:
    """The Source that asks the driver. The constructor raises SourceError where NVML cannot be opened.

    ``processes`` is how often it is asked what each process takes of the GPU, in seconds; in between the latest answer
    stands. None lists no processes at all; else they are listed at every reading.
    """

    name = "nvml"
    simulated = False

    def __init__(
        self,
        *,
        processes: float | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        root: Path = Path("/"),
    ) -> None:
        self._utilization_every = processes
        self._monotonic = monotonic
        self._root = root
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise source_error(error) from error
        try:
            self.driver: Driver = identity.driver()
            release = self.driver.driver_version.partition(".")[0]
            self._release = int(release) if release.isdigit() else 0
            self._xids = XidListener(clock=clock)
            # Handles are taken by the first reading, which has a deadline: a GPU that hangs must not hide the others.
            self._gpus = [
                _Gpu(Device(index=index, uuid="", model=""), ProcessLists(clock=clock, monotonic=monotonic))
                for index in range(pynvml.nvmlDeviceGetCount())
            ]
        except pynvml.NVMLError as error:
            self._shut_down()
            raise source_error(error) from error
        except SourceError:
            self._shut_down()
            raise

    @property
    def devices(self) -> Sequence[Device]:
        """Every device the driver lists; it has its name from its first reading on."""
        return [gpu.device for gpu in self._gpus]

    def read(self, device: Device) -> Reading:
        """Read one device; see Source.read."""
        gpu = self._gpus[device.index]
        try:
            if gpu.plan is None or gpu.down:
                self._take_handle(gpu)
            told = self._read(gpu)
            listed = self._list_processes(gpu)
        except DeviceFailedError as error:
            gpu.down = True
            return Reading(gpu.device, failure=error.failure)
        gpu.down = False
        return Reading(
            gpu.device,
            told.values,
            told.increments,
            told.labelled,
            processes=listed.processes,
            listed_at=listed.at,
            mig_uuids=listed.mig_uuids,
            refused=tuple(told.refused),
            covered=told.covered,
        )

    def read_buffers(self, device: Device) -> Reading:
        """Read one device's sample buffers; see BufferedSource.read_buffers."""
        gpu = self._gpus[device.index]
        if gpu.plan is None or gpu.down:
            return Reading(gpu.device)
        try:
            told = gpu.plan.read_buffers()
        except DeviceFailedError as error:
            return Reading(gpu.device, failure=error.failure)
        return Reading(gpu.device, increments=told.increments, refused=tuple(told.refused), covered=told.covered)

    def events(self) -> Sequence[Xid]:
        """XIDs since the previous call."""
        return self._xids.drain()

    def close(self, *, hung: bool = False) -> None:
        """Let go of the driver, so that it can be unloaded, reset or re-partitioned."""
        self._xids.close(free=not hung)
        if not hung:
            for gpu in self._gpus:
                if gpu.plan is not None:
                    gpu.plan.close()
            self._shut_down()

    def _read(self, gpu: _Gpu) -> Answers:
        now = self._monotonic()
        slow = now >= gpu.slow_due
        if gpu.plan is None:
            raise DeviceFailedError(Failure("unknown", "no handle"))
        told = gpu.plan.read(slow=slow)
        if slow:
            stagger = _SLOW_STEP * (gpu.device.index % _SLOW_STEPS) if gpu.slow_due == 0 else 0.0
            gpu.slow_due = now + _SLOW_EVERY + stagger
        return told

    def _list_processes(self, gpu: _Gpu) -> Listed:
        """What runs on it now: lists are cheap, and memory and list must be of one reading."""
        if self._utilization_every is None or gpu.plan is None:
            return _NOT_LISTED
        now = self._monotonic()
        utilization = now >= gpu.utilization_due
        if utilization:
            # A reading that comes a little early by the clock must not wait for the one after it.
            gpu.utilization_due = now + 0.9 * self._utilization_every
        return gpu.lists.read(gpu.plan.handle, utilization=utilization)

    def _take_handle(self, gpu: _Gpu) -> None:
        """Look the device up (again): a handle taken before a GPU went down may never answer."""
        index = gpu.device.index
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if gpu.plan is None:
                gpu.device = identity.device(index, handle)
        except (pynvml.NVMLError, DeviceFailedError) as error:
            if not gpu.device.uuid:
                gpu.device = identity.unanswered(index, len(self._gpus), root=self._root)
            if isinstance(error, DeviceFailedError):
                raise
            raise_if_fatal(error.value, "nvmlDeviceGetHandleByIndex")
            raise DeviceFailedError(failure(error.value, "nvmlDeviceGetHandleByIndex")) from error
        if gpu.plan is None:
            gpu.plan = Plan(handle, driver_release=self._release, monotonic=self._monotonic)
        gpu.plan.handle = handle
        self._xids.watch(gpu.device, handle)

    @staticmethod
    def _shut_down() -> None:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            log.debug("NVML did not shut down", extra={"error": str(error)})


def _opener(config: Config) -> Callable[[], NvmlSource]:
    return partial(NvmlSource, processes=config.processes.interval if config.processes.enabled else None)


KIND: Final = SourceKind(source=NvmlSource, opener=_opener, findings=findings)
