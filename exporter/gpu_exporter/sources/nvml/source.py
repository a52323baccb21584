"""The open source: every GPU on its own, so that a sick one never hides the others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pynvml

from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.power import SUSPENDED
from gpu_exporter.catalog.prices import HOUR, MINUTE, Pace
from gpu_exporter.events.nvml import LeftBehind, XidListener
from gpu_exporter.model import Device, Driver, Event, Failure, GpuEvent, Reading
from gpu_exporter.sources import SourceChangedError, SourceError
from gpu_exporter.sources.nvml import identity, library
from gpu_exporter.sources.nvml.again import Again
from gpu_exporter.sources.nvml.asking import Answers
from gpu_exporter.sources.nvml.census import Census
from gpu_exporter.sources.nvml.errors import MISMATCH, SOURCE_CODES, DeviceFailedError, failure, source_error
from gpu_exporter.sources.nvml.identity import Nameplate
from gpu_exporter.sources.nvml.mig import MigDevices, Seen
from gpu_exporter.sources.nvml.plan import Plan
from gpu_exporter.sources.nvml.processes import Listed, ProcessLists
from gpu_exporter.sources.nvml.sleep import Rest, RuntimePower

log = logging.getLogger(__name__)

# What is asked for once a minute is not of all GPUs in one reading.
_SLOW_STEP: Final = 5.0
_SLOW_STEPS: Final = 12
# It is asked in the last full reading before it is due: where there are light ones, these are up to 15 s apart, and a
# full one for its sake alone costs as much as all others of that quarter of a minute.
_SLOW_EARLY: Final = 14.0
_UTILIZATION: Final = by_name("gpu_utilization_ratio")
_NOT_LISTED: Final = Listed(None, None)


class _Gpu:
    """One device with its handle and plan; belongs to whichever thread reads it."""

    def __init__(self, index: int, lists: ProcessLists, mig: MigDevices) -> None:
        self.index = index
        self.nameplate = Nameplate(Device(index=index, uuid="", model=""))
        self.guess: Device | None = None  # what /proc tells of one that NVML cannot name
        self.plan: Plan | None = None
        self.slow_due = 0.0  # what is asked for once a minute
        self.hourly_due = 0.0
        self.down = False
        self.code = 0  # what the driver answered where it is down
        self.lists = lists
        self.mig = mig
        self.partitioned: bool | None = None  # MIG mode, as of the latest reading
        self.utilization_due = 0.0
        self.calls = 0  # that are under way

    @property
    def device(self) -> Device:
        told = self.nameplate.device
        return told if told.uuid or self.guess is None else self.guess


class NvmlSource:
    """The Source that asks the driver. The constructor raises SourceError where NVML cannot be opened.

    ``processes`` is how often it is asked what each process takes of the GPU, in seconds; in between the latest answer
    stands. None lists no processes at all; else they are listed at every reading. GPUs that ``power`` has asleep are
    left alone; ``rest`` says when the driver is to be closed for the others to fall asleep, None is never. Without
    ``light`` every reading is a full one. ``left`` is what sources of one process have in common of events.
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
        power: RuntimePower | None = None,
        rest: Rest | None = None,
        left: LeftBehind | None = None,
        light: bool = False,
    ) -> None:
        self._light = light
        self._utilization_every = processes
        self._power = power or RuntimePower(root)
        self._rest = rest
        self._clock = clock
        self._monotonic = monotonic
        self._root = root
        self._closing = threading.Lock()
        self._closed = False
        self._open()
        self._session = True
        try:
            self.driver: Driver = identity.driver()
            self._driver_again = Again()
            self._driver_again.later(monotonic())
            self._census = Census(root, now=monotonic())
        except pynvml.NVMLError as error:
            library.shut_down()
            raise source_error(error.value) from error
        except SourceError:
            library.shut_down()
            raise
        self._xids = XidListener(clock=clock, monotonic=monotonic, left=left)
        # Handles are taken by the first reading, which has a deadline: a GPU that hangs must not hide the others.
        self._gpus = [self._begun(index) for index in range(self._census.count)]

    @property
    def devices(self) -> Sequence[Device]:
        """Every device the driver lists; it has its name from its first reading on."""
        return [gpu.device for gpu in self._gpus]

    def read(self, device: Device) -> Reading:
        """Read one device; see Source.read."""
        with self._call(device):
            return self._read_device(device, light=False)

    def read_light(self, device: Device, *, buffers: bool) -> Reading:
        """Read what is cheap of one device; see LightSource.read_light."""
        gpu = self._gpus[device.index]
        light = self._light and gpu.plan is not None and not gpu.down and not gpu.partitioned
        light = light and self._monotonic() < gpu.slow_due
        with self._call(device):
            return self._read_device(device, light=light, buffers=light and buffers)

    def _read_device(self, device: Device, *, light: bool, buffers: bool = False) -> Reading:
        now = self._monotonic()
        self._let_sleep(now)
        gpu = self._gpus[device.index]
        asleep = self._asleep(gpu)
        if asleep:
            if all(self._asleep(other) for other in self._gpus):
                raise SourceChangedError("every GPU is asleep")
            return self._suspended(gpu)
        self._census.take(now)
        self._complete_driver(now)
        try:
            gpu = self._identified(gpu, now, early=self._early(light=light))
            plan = self._plan(gpu)
            told = plan.read_light() if light else None
            only = None if told is None else plan.light
            if told is None:
                gpu.nameplate.complete(plan.handle, now)
                self._xids.watch(gpu.device, plan.handle)
                mig = self._read_mig(gpu, plan)
                told = self._read(gpu, plan, now)
            else:
                mig = Seen()
                if buffers:
                    plan.read_buffers(told)
            listed = self._list_processes(gpu, plan, mig, utilization=only is None)
        except DeviceFailedError as error:
            gpu.down, gpu.code = True, error.code
            self._blame_driver(error.code)
            return Reading(gpu.device, failure=error.failure)
        gpu.down, gpu.code = False, 0
        if self._rest is not None:
            self._rest.note(gpu.index, quiet=self._is_quiet(gpu, told, listed), now=now)
        return Reading(
            gpu.device,
            told.values if asleep is None else {**told.values, SUSPENDED: 0.0},
            told.increments,
            told.labelled | mig.labelled,
            processes=listed.processes,
            listed_at=listed.at,
            mig_uuids=mig.uuids,
            mig_whole=mig.whole,
            refused=(*told.refused, *mig.refused),
            covered=told.covered,
            partial=told.partial,
            only=only if asleep is None or only is None else only | {SUSPENDED},
        )

    def read_buffers(self, device: Device) -> Reading:
        """Read one device's sample buffers; see BufferedSource.read_buffers."""
        with self._call(device):
            return self._read_device_buffers(device)

    def _read_device_buffers(self, device: Device) -> Reading:
        gpu = self._gpus[device.index]
        if gpu.plan is None or gpu.down or self._asleep(gpu):
            return Reading(gpu.device)
        told = Answers(began=self._monotonic())
        try:
            gpu.plan.read_buffers(told)
        except DeviceFailedError as error:
            return Reading(gpu.device, failure=error.failure)
        return Reading(gpu.device, increments=told.increments, refused=tuple(told.refused), covered=told.covered)

    def events(self) -> Sequence[Event]:
        """XIDs and other events since the previous call."""
        return self._xids.drain()

    @property
    def hears(self) -> bool:
        """Whether some GPU's events are heard."""
        return self._xids.hears

    def could_tell(self) -> Sequence[GpuEvent]:
        """See HearingSource.could_tell."""
        return [
            GpuEvent(gpu.device, kind, 0)
            for gpu in self._gpus
            if gpu.plan is not None
            for kind in self._xids.kinds(gpu.plan.handle)
        ]

    def close(self, *, hung: bool = False) -> None:
        """Let go of the driver, so that it can be unloaded, reset, upgraded or re-partitioned.

        With ``hung``, the last session that is open stays, until this is called again without. What a call hangs in is
        let go of as that returns.
        """
        self._xids.close(ended=partial(self._let_go, hung=hung))

    def _let_go(self, *, hung: bool) -> None:
        with self._closing:
            self._closed = True
            idle = [gpu for gpu in self._gpus if not gpu.calls]
            ends = self._session and not (hung and library.is_last_session())
            self._session = self._session and not ends
        for gpu in idle:
            self._free(gpu)
        if ends:
            library.shut_down()

    @contextmanager
    def _call(self, device: Device) -> Iterator[None]:
        """Mark the device as one that must not be let go of; the latest call of a closed source does that."""
        with self._closing:
            self._gpus[device.index].calls += 1
        try:
            yield
        finally:
            with self._closing:
                gpu = self._gpus[device.index]  # maybe another board's than before
                gpu.calls -= 1
                over = self._closed and not gpu.calls
            if over:
                self._free(gpu)

    @staticmethod
    def _free(gpu: _Gpu) -> None:
        gpu.mig.close()
        if gpu.plan is not None:
            gpu.plan.close()
            gpu.plan = None

    # --- the driver ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            outdated = library.outdated(self._root) if error.value == MISMATCH else None
            library.unload()
            if outdated is None:
                raise source_error(error.value) from error
            raise SourceError(
                f"the driver was upgraded, but its old library cannot be unloaded ({outdated}): restart the exporter",
                restart_helps=True,
            ) from error

    def _complete_driver(self, now: float) -> None:
        """Ask again for the versions that were not told as the driver was opened."""
        driver = self.driver
        if (driver.driver_version and driver.cuda_version and driver.nvml_version) or not self._driver_again.due(now):
            return
        self._driver_again.later(now)
        told = identity.driver()
        self.driver = replace(driver, **{name: version for name, version in asdict(told).items() if version})
        if self.driver.driver_version != driver.driver_version:
            for gpu in self._gpus:
                gpu.plan = None  # which fields there are depends on the release

    def _blame_driver(self, code: int) -> None:
        """Raise SourceError where it is the driver that failed, and not one GPU of several."""
        if code not in SOURCE_CODES:
            return
        try:
            pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            if error.value in SOURCE_CODES:
                raise source_error(error.value) from error
        if len(self._gpus) > 1 and all(gpu.code in SOURCE_CODES for gpu in self._gpus):
            raise source_error(code)

    # --- sleep --------------------------------------------------------------------------------------------------------

    def _asleep(self, gpu: _Gpu) -> bool | None:
        """Whether the kernel has it asleep; None where that is not told."""
        if not gpu.device.pci_bus_id:
            self._guess(gpu)
        return self._power.asleep(self._power.address(gpu.device))

    def _suspended(self, gpu: _Gpu) -> Reading:
        if self._rest is not None:
            self._rest.note(gpu.index, quiet=True, now=self._monotonic())
        nobody = self._power.memory_off(self._power.address(gpu.device))
        return Reading(gpu.device, {SUSPENDED: 1.0}, processes=() if nobody else None)

    def _is_quiet(self, gpu: _Gpu, told: Answers, listed: Listed) -> bool:
        """Whether it could sleep: nothing computes on it, and what draws does not work. A screen's server may stay."""
        computes = any(process.type == "compute" for process in listed.processes or ())
        works = told.values.get(_UTILIZATION) != 0
        return not computes and not works and self._power.may_sleep(self._power.address(gpu.device))

    def _let_sleep(self, now: float) -> None:
        """Raise SourceChangedError where the driver is to be closed, so that the GPUs can fall asleep."""
        if self._rest is not None and self._rest.due(len(self._gpus), now):
            self._rest.begin(now)
            raise SourceChangedError("no GPU has worked for a minute: the driver is closed, so that they can sleep")

    # --- one device ---------------------------------------------------------------------------------------------------

    def _early(self, *, light: bool) -> float:
        """Seconds by which a reading asks before its time what is asked once a minute."""
        return _SLOW_EARLY if self._light and not light else 0.0

    def _read(self, gpu: _Gpu, plan: Plan, now: float) -> Answers:
        due: list[Pace] = []
        early = self._early(light=False)
        if now >= gpu.slow_due - early:
            due.append("minute")
        if now >= gpu.hourly_due - early:
            due.append("hour")
        told = plan.read(rarely=due)
        # Earlier once, never later: who answers is made sure of within a minute.
        stagger = _SLOW_STEP * (gpu.index % _SLOW_STEPS) if gpu.slow_due == 0 else 0.0
        if "minute" in due:
            gpu.slow_due = now + MINUTE - stagger
        if "hour" in due:
            gpu.hourly_due = now + HOUR - stagger
        return told

    def _read_mig(self, gpu: _Gpu, plan: Plan) -> Seen:
        """Its MIG devices; a switched mode changes what all the rest supports."""
        seen = gpu.mig.read(plan.handle)
        if gpu.partitioned is not None and seen.mode != gpu.partitioned:
            plan.doubt()
            gpu.slow_due = gpu.hourly_due = 0.0
        gpu.partitioned = seen.mode
        return seen

    def _list_processes(self, gpu: _Gpu, plan: Plan, mig: Seen, *, utilization: bool) -> Listed:
        """What runs on it now: lists are cheap, and memory and list must be of one reading.

        With ``utilization``, also what each takes of the GPU, where that is due.
        """
        if self._utilization_every is None:
            return _NOT_LISTED
        now = self._monotonic()
        utilization = utilization and now >= gpu.utilization_due
        if utilization:
            # A reading that comes a little early by the clock must not wait for the one after it.
            gpu.utilization_due = now + 0.9 * self._utilization_every
        return gpu.lists.read(plan.handle, mig, utilization=utilization)

    def _identified(self, gpu: _Gpu, now: float, *, early: float) -> _Gpu:
        """Make sure who answers; another GPU at the same index begins anew. Raises SourceChangedError on moves.

        A handle that was taken before a GPU went down may never answer. One that works is believed for a minute, less
        ``early`` seconds.
        """
        anew = gpu.plan is None or gpu.down
        if not anew and now < gpu.slow_due - early:
            return gpu
        try:
            handle = _handle(gpu.index) if gpu.plan is None or gpu.down else gpu.plan.handle
            uuid = identity.uuid_of(handle)
        except DeviceFailedError:
            self._guess(gpu)
            raise
        known = gpu.nameplate.device
        told = replace(known, uuid=uuid or known.uuid)
        if known.uuid and told.board != known.board:
            if any(other is not gpu and other.device.board == told.board for other in self._gpus):
                raise SourceChangedError(f"the board of another index answers at {gpu.index}")
            log.warning(
                "another GPU has taken this place", extra={"gpu": gpu.index, "uuid": uuid, "before": known.uuid}
            )
            self._free(gpu)
            with self._closing:
                calls = gpu.calls
                gpu = self._gpus[gpu.index] = self._begun(gpu.index)
                gpu.calls = calls
            told, anew = replace(gpu.nameplate.device, uuid=uuid), True
        gpu.nameplate.device = told
        self._guess(gpu)
        if gpu.plan is None:
            gpu.plan = Plan(handle, driver_release=_release(self.driver), monotonic=self._monotonic)
        if anew:
            gpu.plan.handle = handle
            gpu.plan.doubt()
            gpu.lists.doubt()
            gpu.mig.doubt()
            gpu.nameplate.ask_at_once()
            gpu.slow_due = gpu.hourly_due = 0.0
            self._xids.watch(gpu.device, handle, anew=True)
        return gpu

    def _begun(self, index: int) -> _Gpu:
        return _Gpu(
            index,
            ProcessLists(clock=self._clock, monotonic=self._monotonic),
            MigDevices(monotonic=self._monotonic),
        )

    def _guess(self, gpu: _Gpu) -> None:
        """What else tells who it is, while NVML does not."""
        if not gpu.nameplate.device.uuid:
            gpu.guess = identity.unanswered(gpu.index, len(self._gpus), root=self._root)

    def _plan(self, gpu: _Gpu) -> Plan:
        if gpu.plan is None:
            raise DeviceFailedError(Failure("unknown", "no handle"))
        return gpu.plan


def _handle(index: int) -> Any:
    """NVML's handle of a device. Raises DeviceFailedError."""
    try:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        raise DeviceFailedError(failure(error.value, "nvmlDeviceGetHandleByIndex"), error.value) from error


def _release(driver: Driver) -> int:
    """The driver's release, 590 of 590.48.01; 0 where it is not told."""
    number = driver.driver_version.partition(".")[0]
    return int(number) if number.isdigit() else 0
