"""XID events, heard on a thread of their own through an NVML event set. Needs no root and no kernel log.

The thread sleeps here and only then asks the driver, which queues events meanwhile: a wait inside the driver could not
be woken to close it.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import pynvml

from gpu_exporter.model import Device, Xid

log = logging.getLogger(__name__)

_EVERY: Final = 1.0  # seconds: so late an XID is heard at most
_WAIT: Final = 1  # milliseconds: the queue is looked at, nothing is waited for
_JOIN: Final = 0.5  # seconds; only a call that hangs in the driver takes longer
_BURST: Final = 1000  # events taken in one go: a driver that never runs out must not keep the thread from stopping
_ERRORS: Final = 3
_OVER: Final = frozenset({pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_INVALID_ARGUMENT})


class XidListener:
    """Owns the event set and the thread that waits on it; ``close`` joins the thread."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._devices: dict[int, Device] = {}
        self._heard: deque[Xid] = deque()
        self._stop = threading.Event()
        self._set: Any = None
        self._thread: threading.Thread | None = None
        try:
            self._set = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError as error:
            log.warning("no XID events: the driver has no event set", extra={"error": str(error)})

    def watch(self, device: Device, handle: Any) -> None:
        """Hear this device's XIDs from now on. Devices without events (vGPU) are left out."""
        if self._set is None:
            return
        known = address(handle) in self._devices
        self._devices[address(handle)] = device
        if known:
            return
        try:
            pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._set)
        except pynvml.NVMLError as error:
            log.info("no XID events of this GPU", extra={"gpu": device.index, "error": str(error)})
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="xid events", daemon=True)
            self._thread.start()

    def drain(self) -> list[Xid]:
        """The events since the previous call."""
        events = []
        while self._heard:
            events.append(self._heard.popleft())
        return events

    def close(self, *, free: bool = True) -> None:
        """Stop listening; without ``free``, leave the set to the driver because a call hangs in it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_JOIN if free else 0)
        if free and self._set is not None and not (self._thread and self._thread.is_alive()):
            try:
                pynvml.nvmlEventSetFree(self._set)
            except pynvml.NVMLError as error:
                log.debug("the event set was not freed", extra={"error": str(error)})
            self._set = None

    def _listen(self) -> None:
        while not self._stop.wait(_EVERY):
            if not self._take_all():
                return

    def _take_all(self) -> bool:
        """Empty the driver's queue; False where there is none any more."""
        errors = 0
        for _ in range(_BURST):
            try:
                event = pynvml.nvmlEventSetWait_v2(self._set, _WAIT)
            except pynvml.NVMLError as error:
                if error.value in _OVER:
                    return False
                # A lost GPU makes a wait fail at once; the others' events still come between the failures.
                errors += 1
                if error.value == pynvml.NVML_ERROR_TIMEOUT or errors == _ERRORS:
                    break
                continue
            device = self._devices.get(address(event.device))
            if device is not None and event.eventType == pynvml.nvmlEventTypeXidCriticalError:
                self._heard.append(Xid(device, int(event.eventData), self._clock()))
        return True


def address(handle: Any) -> int:
    """What tells handles apart. A lost GPU cannot be asked who it is, so events are matched without a call."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
