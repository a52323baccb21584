"""The client, whose views come on a thread of its own, as signals of the window's thread."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Final

from PySide6.QtCore import QObject, QTimer, Signal

from gpu_exporter.hub.client.client import Client, Curve
from gpu_exporter.hub.client.origins import Hub, Origin
from gpu_exporter.hub.client.trails import Point
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu

_LOOK: Final = 1000  # ms between looks at how old the newest view is
_OLD: Final = 3.0  # intervals, and some seconds, until a view is not of now any more
_OLD_BESIDES: Final = 10.0


def _now() -> float:
    """Seconds that go on while the machine sleeps, so that a laptop that wakes does not show yesterday as now."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Feed(QObject):
    """Follows one origin at a time. Nothing here waits: clients are ended on threads of their own."""

    viewed = Signal(object)  # View
    answered = Signal(object, str, object)  # Gpu, metric, and its Curve or None where the hub has none

    _arrived = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._client: Client | None = None
        self._clients: list[Client] = []
        self._shown: View | None = None
        self._heard = 0.0
        self._arrived.connect(self._take)
        self._clock = QTimer(self, interval=_LOOK)
        self._clock.timeout.connect(self._look_at_age)

    @property
    def follows(self) -> bool:
        """Whether anything is looked at."""
        return self._client is not None

    @property
    def has_history(self) -> bool:
        """Whether a hub is asked, which may keep more than an hour."""
        return self._client is not None and isinstance(self._client.origin, Hub)

    @property
    def hung(self) -> bool:
        """Whether a call may hang that the end of the process would wait for."""
        return any(client.hung for client in self._clients)

    def follow(self, origin: Origin) -> None:
        """Look there from now on."""
        self._end(self._client)
        client = Client(origin, changed=partial(self._heard_of, len(self._clients)))
        self._clients.append(client)
        self._client, self._shown, self._heard = client, None, _now()
        client.start()
        self._clock.start()
        self.viewed.emit(client.latest())

    def trail(self, gpu: Gpu) -> tuple[Point, ...]:
        """The last hour of a GPU, as far as it was seen."""
        return () if self._client is None else tuple(self._client.trails.of(gpu))

    def ask(self, gpu: Gpu, metric: str, *, start: float, end: float) -> None:
        """Ask a hub for what it keeps; ``answered`` tells what it has."""
        future = None if self._client is None else self._client.curve(gpu, metric, start=start, end=end)
        if future is not None:
            future.add_done_callback(partial(self._told, gpu, metric))

    def close(self) -> None:
        """Stop within two seconds."""
        self._clock.stop()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # --- on the client's thread ---------------------------------------------------------------------------------------

    def _heard_of(self, number: int, _view: View) -> None:
        with suppress(RuntimeError):  # the window has gone meanwhile
            self._arrived.emit(number)

    def _told(self, gpu: Gpu, metric: str, future: Future[Curve]) -> None:
        curve = None if future.cancelled() or future.exception() is not None else future.result()
        with suppress(RuntimeError):
            self.answered.emit(gpu, metric, curve)

    # --- on the window's ----------------------------------------------------------------------------------------------

    def _take(self, number: int) -> None:
        if self._client is None or number != len(self._clients) - 1:
            return
        self._heard = _now()
        view = self._client.latest()
        if view is not self._shown:  # several may have come while the window was busy
            self._shown = view
            self.viewed.emit(view)

    def _look_at_age(self) -> None:
        client, shown = self._client, self._shown
        if client is None or shown is None or not shown.taken:
            return
        silent = _now() - self._heard
        if silent > _OLD * client.origin.interval + _OLD_BESIDES:
            self._heard = _now()
            self._shown = client.latest().blind("nothing has been heard of the machines for a while", time.time())
            self.viewed.emit(self._shown)

    def _end(self, client: Client | None) -> None:
        if client is not None:
            threading.Thread(target=client.close, name="closing", daemon=True).start()
