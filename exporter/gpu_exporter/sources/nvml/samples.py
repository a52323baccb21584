"""The driver's own sample buffers, integrated over time."""

from __future__ import annotations

from typing import Any, Final

import pynvml

from gpu_exporter.catalog.row import Samples, scaled
from gpu_exporter.sources.nvml.fields import MEMBER

CALL: Final = "nvmlDeviceGetSamples"

# nvml.h, nvmlDeviceGetSamples: a sample stands for 1/6 to 1 s. A longer gap between two was not observed.
_LONGEST_SAMPLE: Final = 2_000_000  # microseconds


class SampleBuffers:
    """What one device's buffers have told. Belongs to whichever thread reads the device."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}

    def ask(self, handle: Any, column: Samples) -> Any:
        """The samples that came since the previous call. Raises NVMLError."""
        return pynvml.nvmlDeviceGetSamples(handle, getattr(pynvml, column.name), self._newest.get(column.name, 0))

    def growth(self, column: Samples, answer: Any) -> float:
        """Value x seconds of what ``ask`` answered, in base units."""
        kind, samples = answer
        member = MEMBER.get(kind, "uiVal")
        since = newest = self._newest.get(column.name, 0)
        growth = 0.0
        for at, value in sorted((int(sample.timeStamp), getattr(sample.sampleValue, member)) for sample in samples):
            if at > newest:
                if newest:
                    growth += value * min(at - newest, _LONGEST_SAMPLE)
                newest = at
        self._newest[column.name] = max(since, newest)
        return scaled(growth, column.scale) / 1e6
