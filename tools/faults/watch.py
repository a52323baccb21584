"""What must hold whatever happens, looked at continuously."""

from __future__ import annotations

import http.client
import threading
import time
from pathlib import Path
from typing import Final

from tools.lab.exporter import Exporter, Samples, parse
from tools.lab.web import ask

_LOOK: Final = 0.1  # seconds between scrapes
_GAP: Final = 2.0  # intervals in which a healthy GPU may be missing
_SLACK: Final = 0.25  # seconds by which two clocks' readings of one moment may differ here


class Watch:
    """Scrapes until ``close``; ``broken`` has what did not hold.

    ``healthy`` are the GPUs that no fault is made for. ``disturbed`` is called with what takes the driver away from all
    of them: until ``calm`` is called, and two intervals more, they may be missing.
    """

    def __init__(self, exporter: Exporter, *, healthy: tuple[int, ...], interval: float) -> None:
        self.broken: list[str] = []
        self.scrapes = 0
        self.worst_gap = 0.0  # intervals
        self.worst_late = 0.0  # seconds
        self.replaced: dict[tuple[int, float], float] = {}  # (gpu, temperature) -> when another took its place
        self._exporter = exporter
        self._healthy = healthy
        self._interval = interval
        self._seen = dict.fromkeys(healthy, time.monotonic())
        self._counters: Samples = {}
        self._calm_at = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def disturbed(self) -> None:
        self._calm_at = float("inf")

    def calm(self) -> None:
        self._calm_at = time.monotonic()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._closing.wait(_LOOK):
            # A machine that is busy with others keeps us waiting as it does the daemon: that is no gap of the daemon's.
            late = max(0.0, time.monotonic() - began - 2 * _LOOK)
            began = time.monotonic()
            try:
                status, _, text = ask(self._exporter.port, "/metrics")
            except (OSError, http.client.HTTPException) as error:
                self._break(f"a scrape failed: {type(error).__name__}: {error}")
                continue
            took = time.monotonic() - began
            self.worst_late = max(self.worst_late, took)
            self.scrapes += 1
            if status != 200:
                self._break(f"a scrape was answered with {status}")
                continue
            self._look(parse(text), late + took)

    def _look(self, samples: Samples, late: float) -> None:
        now = time.monotonic()
        told = {
            int(dict(labels)["gpu"]): value
            for (name, labels), value in samples.items()
            if name == "gpu_temperature_celsius"
        }
        stamp = next(
            (value for (name, _), value in samples.items() if name.endswith("last_sample_timestamp_seconds")), None
        )
        for gpu in self._healthy:
            if gpu in told:
                self._seen[gpu] = now
                gone = self.replaced.get((gpu, told[gpu]))
                if gone is not None and stamp is not None and gone < stamp - _SLACK:
                    self._break(f"GPU {gpu}: a value of {stamp - gone:.2f} s before its timestamp")
                continue
            gap = (now - max(self._seen[gpu], self._calm_at) - late) / self._interval
            self.worst_gap = max(self.worst_gap, gap)
            if gap > _GAP:
                self._break(f"GPU {gpu} is missing for {gap:.1f} intervals")
                self._seen[gpu] = now
        for series, value in samples.items():
            if series[0].endswith("_total"):
                before = self._counters.get(series)
                if before is not None and value < before:
                    self._break(f"{series[0]} {dict(series[1])} fell from {before:g} to {value:g}")
                self._counters[series] = value

    def _break(self, what: str) -> None:
        if len(self.broken) < 20:
            self.broken.append(what)


def resident(pid: int) -> float:
    """RSS in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1024**2


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
