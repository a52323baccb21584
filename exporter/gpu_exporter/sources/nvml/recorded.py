"""The source with its library recorded, and with a recording for its library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pynvml

from gpu_exporter.sources.nvml import library
from gpu_exporter.sources.nvml.errors import source_error
from gpu_exporter.sources.nvml.source import NvmlSource
from gpu_exporter.sources.nvml.taped import RecordedLibrary, RecordingLibrary
from gpu_exporter.sources.tape import Playback, Tape

# A recording says nothing of this machine's kernel.
_NOWHERE: Final = Path("/nonexistent")


def recording(tape: Tape, *, processes: float | None) -> Callable[[], NvmlSource]:
    """What opens it such that every answer is noted; ``processes`` as of NvmlSource."""

    def opened() -> NvmlSource:
        try:
            loaded = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            raise source_error(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND) from None
        library.insert(RecordingLibrary(loaded, tape))
        return NvmlSource(processes=processes, monotonic=tape.monotonic)

    return opened


def playing(playback: Playback, *, processes: float | None) -> Callable[[], NvmlSource]:
    """What opens it such that recorded answers are given again."""

    def opened() -> NvmlSource:
        library.insert(RecordedLibrary(playback))
        return NvmlSource(processes=processes, monotonic=playback.monotonic, root=_NOWHERE)

    return opened
