"""Where readings come from: each source is a folder beside this file, and one line in ``REGISTRY``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from gpu_exporter.catalog.row import Metric
from gpu_exporter.config import Config
from gpu_exporter.model import Device, Driver, Event, Finding, GpuEvent, Reading

if TYPE_CHECKING:
    from gpu_exporter.sources.tape import Playback, Tape

# name (of ``config.SOURCES``) -> the module with its ``KIND``. It is imported only when the source is used, so that a
# simulated fleet needs no driver binding and the other way round.
REGISTRY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "nvml": "gpu_exporter.sources.nvml",
        "smi": "gpu_exporter.sources.smi",
        "dcgm": "gpu_exporter.sources.dcgm",
        "replay": "gpu_exporter.sources.replay",
        "fake": "gpu_exporter.sources.fake",
    }
)

_AUTO: Final = "gpu_exporter.sources.auto"


class SourceError(Exception):
    """The whole source cannot be used (no driver, library mismatch, …); the message says what to do.

    ``restart_may_help`` where a fresh process might be able to, should this last; ``restart_helps`` where nothing else
    will.
    """

    def __init__(self, message: str, *, restart_may_help: bool = False, restart_helps: bool = False) -> None:
        super().__init__(message)
        self.restart_may_help = restart_may_help
        self.restart_helps = restart_helps


class SourceChangedError(SourceError):
    """Not a failure: GPUs have come or gone, which shows once the source is reopened. It may be reopened at once."""


class Source(Protocol):
    """An open source. The constructor opens it and raises SourceError where that fails.

    ``simulated`` tells that no real GPU is read. ``read`` may block for as long as the driver does; calls for different
    devices may overlap, calls for one never do.
    """

    name: str
    simulated: bool
    driver: Driver

    @property
    def devices(self) -> Sequence[Device]:
        """Every device found, in index order. One that has not answered yet may have no UUID."""

    def read(self, device: Device) -> Reading:
        """Read one device. Its own failure is in the reading; SourceError means the whole source failed or has changed.

        The reading's device is the best identity known by then.
        """

    def events(self) -> Sequence[Event]:
        """XIDs and other events since the previous call; never blocks."""

    def close(self, *, hung: bool = False) -> None:
        """Let go of the driver; with ``hung``, a call still hangs inside and the driver must not be shut down."""


@runtime_checkable
class BufferedSource(Source, Protocol):
    """A source whose driver samples by itself into buffers that may be shorter than the time between two readings."""

    def read_buffers(self, device: Device) -> Reading:
        """Only the ``increments`` of one device since it was read, by this method or ``read``, under the same rules."""


@runtime_checkable
class BoundedSource(Source, Protocol):
    """A source that itself ends what does not answer: it has to know how long a reading may take."""

    def bound(self, timeout: float) -> None:
        """So many seconds, from the next reading on."""


@runtime_checkable
class LightSource(Source, Protocol):
    """A source of which part is cheap to ask."""

    def read_light(self, device: Device, *, buffers: bool) -> Reading:
        """Read what is cheap, which the reading's ``only`` tells; with ``buffers``, ``increments`` of these as well.

        It may be a full reading, whose ``only`` is None. Rules are those of ``read``.
        """


@runtime_checkable
class HearingSource(Source, Protocol):
    """A source that hears of events."""

    @property
    def hears(self) -> bool:
        """Whether it does now."""

    def could_tell(self) -> Sequence[GpuEvent]:
        """The kinds of events that it would tell of each device, with a count of 0: their counters begin there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """What there is to know of a source before it is opened.

    ``opener`` gives what opens it, again and again, should it fail. ``check`` raises ConfigError where a file that only
    this source reads cannot be used. ``findings`` are what ``doctor`` tells of it before the first reading; the path is
    the root of the machine's files.
    """

    source: type[Source]
    opener: Callable[[Config], Callable[[], Source]]
    check: Callable[[Config], None] = lambda _: None
    findings: Callable[[Config, Path], Iterable[Finding]] = lambda _, __: ()
    tells: Callable[[Metric], bool] = lambda metric: bool(metric.nvml)
    recorder: Callable[[Config, Tape], Callable[[], Source]] | None = None
    player: Callable[[Config, Playback], Callable[[], Source]] | None = None

    @property
    def name(self) -> str:
        """What it is called in the settings, and in what is published."""
        return self.source.name

    @property
    def simulated(self) -> bool:
        """Whether it reads no real GPU."""
        return self.source.simulated


def source_kind(config: Config) -> SourceKind:
    """The configured source's kind; that of ``auto`` is told by the source that it comes to."""
    return kind_of(config.source.partition(":")[0])


def kind_of(name: str) -> SourceKind:
    """The kind of the source of that name. Raises LookupError."""
    kind: SourceKind = import_module(_AUTO if name == "auto" else REGISTRY[name]).KIND
    return kind


def open_source(config: Config) -> Callable[[], Source]:
    """What opens the configured source. Raises ConfigError where a file of its own cannot be used."""
    return source_kind(config).opener(config)
