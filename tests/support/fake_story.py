"""A simulated fleet with a scenario, and a clock that the test moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from tools.lab.clock import Clock

from gpu_exporter.model import Reading
from gpu_exporter.sources.fake import FakeFleet, FakeSource

START = 1_780_000_000.0


class Story:
    """A fleet, its open source, and a clock that the test moves."""

    def __init__(self, path: Path, model: str = "h100", gpus: int = 8) -> None:
        self.clock = Clock(START)
        self.waits: list[float] = []
        self.fleet = FakeFleet(gpus=gpus, model=model, seed=1, scenario=path, clock=self.clock, wait=self.wait)
        self.source: FakeSource = self.fleet.open()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        return event.wait(min(seconds, 0.005))

    def at(self, second: float, *, step: float = 5.0) -> Story:
        """Let time pass until ``second``, reading as the sampler would."""
        while self.clock.now < START + second:
            self.clock.now = min(self.clock.now + step, START + second)
            self.fleet.advance()
        return self

    def read(self, index: int) -> Reading:
        return self.source.read(self.fleet.devices[index])

    def values(self, index: int) -> dict[str, float]:
        reading = self.read(index)
        assert reading.failure is None
        return quantities(reading)


def quantities(reading: Reading) -> dict[str, float]:
    """What was simulated, by the names of the catalogue's ``fake`` columns; what the board is, by the row."""
    return {row.fake if isinstance(row.fake, str) else repr(row): value for row, value in reading.values.items()}


def writer(path: Path) -> Callable[[str], Path]:
    """Put a text into the file, in one step, as a careful editor does; the file's path."""

    def write(text: str) -> Path:
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(path)
        return path

    return write
