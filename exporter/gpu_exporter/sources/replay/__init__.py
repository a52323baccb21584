"""A recording as a source: what a driver answered then, read by the source that recorded it, in real time.

``replay:FILE`` ends with the recording: nothing is served after it. ``replay:FILE?loop`` begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from gpu_exporter.config import Config
from gpu_exporter.model import Device, Driver, Event, Finding, GpuEvent, Reading
from gpu_exporter.sources import (
    BufferedSource,
    HearingSource,
    Source,
    SourceChangedError,
    SourceError,
    SourceKind,
    kind_of,
)
from gpu_exporter.sources.tape import Playback, Recording, load

_LOOP: Final = "?loop"


class ReplaySource:
    """The Source that gives recorded answers. ``simulated``, as no GPU of this machine is read."""

    name = "replay"
    simulated = True

    def __init__(self, source: Source, playback: Playback, *, loop: bool) -> None:
        self._source = source
        self._playback = playback
        self._loop = loop
        self.driver: Driver = source.driver

    @property
    def devices(self) -> Sequence[Device]:
        """Those that were recorded."""
        return self._source.devices

    def read(self, device: Device) -> Reading:
        """Read one device; see Source.read. Raises SourceError at the recording's end."""
        _check_end(self._playback, loop=self._loop)
        reading = self._source.read(device)
        if not reading.processes:
            return reading
        named = tuple(replace(each, identity=self._playback.identify(each)) for each in reading.processes)
        return replace(reading, processes=named)

    def read_buffers(self, device: Device) -> Reading:
        """The recorded buffers, where the source that recorded has any."""
        if isinstance(self._source, BufferedSource) and not self._playback.ended:
            return self._source.read_buffers(device)
        return Reading(device)

    def events(self) -> Sequence[Event]:
        """The recorded XIDs whose time has come."""
        return self._source.events()

    @property
    def hears(self) -> bool:
        """Whether the recorded driver's events are played."""
        return isinstance(self._source, HearingSource) and self._source.hears

    def could_tell(self) -> Sequence[GpuEvent]:
        """See HearingSource.could_tell."""
        return self._source.could_tell() if isinstance(self._source, HearingSource) else ()

    def close(self, *, hung: bool = False) -> None:
        """See Source.close."""
        self._source.close(hung=hung)


def _check_end(playback: Playback, *, loop: bool) -> None:
    if not playback.ended:
        return
    path = playback.recording.path
    if loop:
        playback.begin()
        raise SourceChangedError(f"the recording begins again: {path}")
    raise SourceError(f"the recording has ended, after {playback.recording.seconds:g} s: {path}")


def _opener(config: Config) -> Callable[[], Source]:
    recording, loop = _recording(config)
    player = kind_of(recording.source).player
    assert player is not None  # noqa: S101 - tape.load knows what can be recorded
    playback = Playback(recording)
    opened = player(config, playback)

    def opener() -> ReplaySource:
        if not playback.begun:
            playback.begin()
        elif playback.ended and not loop:
            _check_end(playback, loop=loop)
        return ReplaySource(opened(), playback, loop=loop)

    return opener


def _recording(config: Config) -> tuple[Recording, bool]:
    file = config.source.partition(":")[2]
    return load(Path(file.removesuffix(_LOOP))), file.endswith(_LOOP)


def _findings(config: Config, _root: Path) -> Iterator[Finding]:
    recording, loop = _recording(config)
    told = f"{len(recording.times)} readings of {recording.source} in {recording.seconds:g} s"
    yield Finding("ok", "recording", f"{recording.path}: {told}{', over and over' if loop else ''}")


KIND: Final = SourceKind(
    source=ReplaySource, opener=_opener, check=lambda config: _recording(config) and None, findings=_findings
)
