"""Follows an origin on a thread of its own, and has its newest view."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from gpu_exporter.hub.client.origins import Hub, Origin
from gpu_exporter.hub.client.trails import Trails
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu, NodeState

log = logging.getLogger(__name__)

_END: Final = 2.0  # seconds until a thread that does not end is left behind


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric of a GPU over time: a mean each ``step`` seconds from ``start`` (Unix seconds); None is a gap."""

    start: float
    step: float
    means: tuple[float | None, ...]


class Client:
    """Has the newest view of an origin from ``start`` to ``close``, and the trails of the last hour.

    ``changed`` is called with every view, on the client's thread. Nothing of it waits for the network but ``wait``.
    """

    def __init__(self, origin: Origin, *, changed: Callable[[View], None] | None = None) -> None:
        self.trails = Trails()
        self._origin = origin
        self._changed = changed
        self._view = View(origin.name)
        self._news = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)

    @property
    def origin(self) -> Origin:
        """Where the machines are looked up."""
        return self._origin

    @property
    def hung(self) -> bool:
        """Whether a call may hang that the end of the process would wait for: end it by ``ending.quit_now``."""
        return self._origin.hung

    def follow(self, changed: Callable[[View], None]) -> None:
        """Call this with every view from now on, on the client's thread; for who is made after the client."""
        self._changed = changed

    def latest(self) -> View:
        """The newest view."""
        return self._view

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop within two seconds."""
        self._closing.set()
        with self._news:
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join(_END)

    def wait(self, wanted: Callable[[View], bool], timeout: float | None) -> View:
        """The first view from the newest on that is ``wanted``; the newest after ``timeout`` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._news:
            while not wanted(self._view) and not self._closing.is_set():
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    break
                # In pieces, so that Ctrl-C is heard on every Python.
                self._news.wait(0.5 if left is None else min(left, 0.5))
            return self._view

    def settled(self, timeout: float) -> View:
        """The first view in which every machine has answered, or failed to, and what its GPUs do is decided.

        What a GPU does takes two readings; one that tells no more at the second is unknown. After ``timeout`` seconds
        it is the newest view.
        """
        first: dict[str, float | None] = {}

        def decided(state: NodeState) -> bool:
            sampled = state.sampled[0]
            before = first.setdefault(state.node.name, sampled)
            # A hub does not tell when a machine was read; it has looked for longer than we do.
            return sampled is None or sampled != before or all(gpu.state != "unknown" for gpu in state.gpus)

        def told(view: View) -> bool:
            found = [decided(state) for state in view if state.online]
            return view.complete and all(found)

        return self.wait(told, timeout)

    def curve(self, gpu: Gpu, metric: str, *, start: float, end: float) -> Future[Curve] | None:
        """What a hub keeps of the GPU's past (Unix seconds); None where there is no hub.

        The future raises FetchError or ToldError.
        """
        origin, loop = self._origin, self._loop
        if loop is None or not isinstance(origin, Hub):
            return None
        return asyncio.run_coroutine_threadsafe(_curve(origin, gpu, metric, start, end), loop)

    def _run(self) -> None:
        try:
            asyncio.run(self._follow())
        except asyncio.CancelledError:
            pass
        except Exception as error:  # the thread's end must be seen
            log.exception("following the machines failed: this is a bug in gpu-exporter")
            self._publish(self._view.blind(f"a bug in gpu-exporter: {type(error).__name__}", time.time()))

    async def _follow(self) -> None:
        with self._news:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            if not self._closing.is_set():
                await self._origin.follow(self._publish)
        finally:
            with self._news:
                self._loop = self._task = None

    def _publish(self, view: View) -> None:
        self.trails.add(view)
        with self._news:
            self._view = view
            self._news.notify_all()
        if self._changed is not None:
            self._changed(view)


async def _curve(hub: Hub, gpu: Gpu, metric: str, start: float, end: float) -> Curve:
    query = {"gpu": gpu.uuid or str(gpu.index), "node": gpu.node, "metric": metric}
    answer = await hub.curve({**query, "from": f"{start:.0f}", "to": f"{end:.0f}"})
    means = tuple(None if value is None else float(value) for value in answer.get("means", ()))
    return Curve(float(answer.get("start_timestamp_seconds", start)), float(answer.get("step_seconds", 60.0)), means)
