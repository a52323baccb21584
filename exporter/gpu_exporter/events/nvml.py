"""XIDs and other events, heard on a thread of their own through an NVML event set. Needs no root, no kernel log.

The thread sleeps here and only then asks the driver, which queues events meanwhile: a wait inside the driver could not
be woken to close it.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import operator
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pynvml

from gpu_exporter.catalog.health import EVENTS
from gpu_exporter.model import OTHER_XID, Device, Event, GpuEvent, Told, Xid

log = logging.getLogger(__name__)

_EVERY: Final = 1.0  # seconds: so late an XID is heard at most
_WAIT: Final = 1  # milliseconds: the queue is looked at, nothing is waited for
_JOIN: Final = 0.5  # seconds; only a call that hangs in the driver takes longer
_BURST: Final = 1000  # events taken in one go: a driver that never runs out must not keep the thread from stopping
_ERRORS: Final = 3
# Seconds in which all that is queued is taken, however busy the machine: a look that takes longer hangs.
_HANGS: Final = 5.0
_OVER: Final = frozenset({pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_INVALID_ARGUMENT})
_LAST_XID: Final = 255  # NVIDIA's catalogue ends below 200
_MOST_KEPT: Final = 1024  # XIDs by GPU and number, until they are fetched
# What is heard beside XIDs, by its bit. Never the clocks (0x10), which change 40 times a second, nor single ECC errors,
# power states and power sources: their counters and gauges tell them.
_KINDS: Final = {
    int(getattr(pynvml, each.bit)): kind for kind, each in EVENTS.items() if getattr(pynvml, each.bit, None) is not None
}
_XID: Final = int(pynvml.nvmlEventTypeXidCriticalError)
_WANTED: Final = functools.reduce(operator.or_, _KINDS, _XID)
_UNAVAILABLE: Final = int(getattr(pynvml, "nvmlEventTypeGpuUnavailableError", 0x4000))
# What was refused is tried again after 1 s, 2 s, 4 s, … up to a minute.
_RETRY_FIRST: Final = 1.0
_RETRY_MOST: Final = 60.0


@dataclass(slots=True)
class _Retry:
    """When to try again what the driver refused; monotonic seconds."""

    at: float = -math.inf
    wait: float = _RETRY_FIRST

    def later(self, now: float) -> None:
        self.at, self.wait = now + self.wait, min(2 * self.wait, _RETRY_MOST)


@dataclass(slots=True)
class _Watched:
    """A device by its latest handle; ``by`` is the event set that it was registered with."""

    device: Device
    handle: Any
    by: Any = None
    retry: _Retry | None = None
    told: bool = False
    kinds: tuple[str, ...] = ()


class LeftBehind:
    """Counts the listeners that were closed while their call hung, and have not returned: each keeps its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, count: int) -> None:
        """One more, or one less."""
        with self._lock:
            self._count += count


class XidListener:
    """Owns the event set and the thread that waits on it; ``close`` joins the thread.

    ``watch`` may be called for different devices at once, each on the thread that reads the device. Nothing is heard
    while an earlier listener's call hangs: ``left`` is what they have in common.
    """

    def __init__(
        self, *, clock: Callable[[], float], monotonic: Callable[[], float], left: LeftBehind | None = None
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._left = LeftBehind() if left is None else left
        self._asking_since: float | None = None  # what is queued
        self._watched: dict[int, _Watched] = {}
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._heard: dict[tuple[Device, int, str], Xid] = {}
        self._events: dict[tuple[Device, str], Told] = {}
        self._stop = threading.Event()
        self._set: Any = None
        self._set_retry = _Retry()
        self._set_told = False
        self._thread: threading.Thread | None = None
        self._listening = False
        self._when_ended: Callable[[], None] | None = None

    def watch(self, device: Device, handle: Any, *, anew: bool = False) -> None:
        """Hear this device's XIDs from now on; to be called at each of its readings, ``anew`` with a new handle.

        What the driver refused is tried again; so is everything, once the event set has gone. Devices without events
        (vGPU) are left out. Raises nothing.
        """
        now = self._monotonic()
        event_set = self._event_set(now)
        watched = self._watched.get(address(handle))
        if watched is None:
            watched = self._watched[address(handle)] = _Watched(device, handle)
        if anew:
            watched.by = watched.retry = None
        watched.device, watched.handle = device, handle
        if event_set is None or watched.by is event_set or (watched.retry and now < watched.retry.at):
            return
        try:
            wanted = _wanted(handle)
            pynvml.nvmlDeviceRegisterEvents(handle, wanted, event_set)
        except pynvml.NVMLError as error:
            watched.retry = watched.retry or _Retry()
            watched.retry.later(now)
            if not watched.told:
                log.info("no XID events of this GPU", extra={"gpu": device.index, "error": str(error)})
            watched.told = True
            return
        watched.by, watched.retry, watched.told = event_set, None, False
        watched.kinds = tuple(kind for bit, kind in _KINDS.items() if wanted & bit)
        with self._lock:
            if self._thread is None and self._set is event_set:
                self._listening = True
                self._thread = threading.Thread(target=self._listen, args=(event_set,), name="xid events", daemon=True)
                self._thread.start()

    @property
    def hears(self) -> bool:
        """Whether some device's events are heard."""
        event_set, since = self._set, self._asking_since
        if event_set is None or (since is not None and self._monotonic() - since > _HANGS):
            return False
        return any(watched.by is event_set for watched in list(self._watched.values()))

    def kinds(self, handle: Any) -> tuple[str, ...]:
        """The kinds of events beside XIDs that would be heard of a device."""
        watched = self._watched.get(address(handle))
        return watched.kinds if watched is not None and watched.by is not None else ()

    def drain(self) -> list[Event]:
        """The events since the previous call; those of one GPU and number are one, with their count and latest time."""
        with self._lock:
            heard, self._heard = self._heard, {}
            events, self._events = self._events, {}
        return [
            *heard.values(),
            *(GpuEvent(device, kind, told.count, told.timestamp) for (device, kind), told in events.items()),
        ]

    def close(self, *, ended: Callable[[], None] = lambda: None) -> None:
        """Stop listening, and call ``ended`` when no call of the listener's is in the driver any more.

        Where the listener's own call hangs that is once it has returned, on the listener's thread.
        """
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(_JOIN)
        with self._lock:
            if self._listening:
                if self._when_ended is None:
                    self._left.add(1)
                self._when_ended = ended
                return
            event_set, self._set = self._set, None
        if event_set is not None:
            _free(event_set)
        ended()

    def _event_set(self, now: float) -> Any:
        """The event set, made where there is none; None where that fails, or is being tried by another thread."""
        # A lock of its own: whoever fetches events must not wait for the driver.
        waits = now < self._set_retry.at or self._left
        if self._set is not None or waits or not self._making.acquire(blocking=False):
            return self._set
        try:
            if self._set is None and not self._stop.is_set():
                self._set = pynvml.nvmlEventSetCreate()
                self._set_retry, self._set_told = _Retry(), False
        except pynvml.NVMLError as error:
            self._set_retry.later(now)
            if not self._set_told:
                log.warning("no XID events: the driver has no event set", extra={"error": str(error)})
            self._set_told = True
        finally:
            self._making.release()
        return self._set

    def _listen(self, event_set: Any) -> None:
        over = False
        while not over and not self._stop.wait(_EVERY):
            self._asking_since = self._monotonic()
            over = not self._take_all(event_set)
            self._asking_since = None
        if over:
            _free(event_set)  # the driver may have it still, though it does not listen any more
        with self._lock:
            self._listening = False
            ended, self._when_ended = self._when_ended, None
            # Over while nobody closed it: the next reading makes a set and registers everything again.
            if not self._stop.is_set():
                self._thread = None
                self._set_retry.later(self._monotonic())
            if over or ended is not None:
                self._set = None
        if ended is not None:
            if not over:
                _free(event_set)
            self._left.add(-1)
            ended()

    def _take_all(self, event_set: Any) -> bool:
        """Empty the driver's queue; False where there is none any more."""
        errors = 0
        for _ in range(_BURST):
            try:
                event = pynvml.nvmlEventSetWait_v2(event_set, _WAIT)
            except pynvml.NVMLError as error:
                if error.value in _OVER:
                    return False
                # A lost GPU makes a wait fail at once; the others' events still come between the failures.
                errors += 1
                if error.value == pynvml.NVML_ERROR_TIMEOUT or errors == _ERRORS:
                    break
                continue
            watched = self._watched.get(address(event.device))
            if watched is not None:
                self._take(watched.device, int(event.eventType), int(event.eventData))
            if self._stop.is_set():
                break
        return True

    def _take(self, device: Device, kind: int, data: int) -> None:
        with self._lock:
            if kind == _XID:
                self._keep(device, data, "nvml")
            elif kind in _KINDS:
                self._events[device, _KINDS[kind]] = Told(1, self._clock()).after(
                    self._events.get((device, _KINDS[kind]))
                )
                if kind == _UNAVAILABLE and 0 < data & 0xFFFF <= _LAST_XID:
                    # open-gpu-kernel-modules 595: its info16 is the XID by which the GPU went, 79 or 119.
                    self._keep(device, data & 0xFFFF, "nvml, unavailable")

    def _keep(self, device: Device, xid: int, by: str) -> None:
        known = (device, xid, by) in self._heard
        if not known and len(self._heard) >= _MOST_KEPT:
            xid = OTHER_XID
        before = self._heard.get((device, xid, by))
        count = 1 if before is None else before.count + 1
        self._heard[device, xid, by] = Xid(device, xid, self._clock(), count, by)


def _wanted(handle: Any) -> int:
    """What is to be heard of a device, less what it does not have: one bit too many refuses all of them.

    Raises NVMLError where it has no XIDs.
    """
    try:
        supported = int(pynvml.nvmlDeviceGetSupportedEventTypes(handle))
    except pynvml.NVMLError:
        return _XID
    return _WANTED & (supported | _XID)


def _free(event_set: Any) -> None:
    try:
        pynvml.nvmlEventSetFree(event_set)
    except pynvml.NVMLError as error:
        log.debug("the event set was not freed", extra={"error": str(error)})


def address(handle: Any) -> int:
    """What tells handles apart. A lost GPU cannot be asked who it is, so events are matched without a call."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
