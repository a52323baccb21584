"""NVIDIA's management library (NVML) as a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gpu_exporter.config import Config
from gpu_exporter.events.nvml import LeftBehind
from gpu_exporter.sources import Source, SourceKind
from gpu_exporter.sources.nvml.findings import findings
from gpu_exporter.sources.nvml.sleep import Rest, RuntimePower, unless_asleep
from gpu_exporter.sources.nvml.source import NvmlSource

if TYPE_CHECKING:
    from gpu_exporter.sources.tape import Playback, Tape


def opener(config: Config, root: Path = Path("/")) -> Callable[[], Source]:
    """What opens it, or what stands for it while every GPU sleeps; ``root`` is where /sys and /proc are."""
    left = LeftBehind()

    def open_driver(power: RuntimePower, rest: Rest | None) -> NvmlSource:
        return NvmlSource(processes=process_interval(config), root=root, power=power, rest=rest, left=left, light=True)

    return unless_asleep(open_driver, let_sleep=config.collection.let_sleep, root=root)


def process_interval(config: Config) -> float | None:
    """Seconds between two looks at what processes use; None where they are not looked at."""
    return config.processes.interval if config.processes.enabled else None


def recorder(config: Config, tape: Tape) -> Callable[[], NvmlSource]:
    """What opens it such that every answer is noted."""
    from gpu_exporter.sources.nvml.recorded import recording  # noqa: PLC0415 - a daemon has no use for it

    return recording(tape, processes=process_interval(config))


def _player(config: Config, playback: Playback) -> Callable[[], NvmlSource]:
    from gpu_exporter.sources.nvml.recorded import playing  # noqa: PLC0415 - a daemon has no use for it

    return playing(playback, processes=process_interval(config))


KIND: Final = SourceKind(source=NvmlSource, opener=opener, findings=findings, recorder=recorder, player=_player)

__all__ = ["KIND", "NvmlSource", "opener", "recorder"]
