"""Recordings of what a driver answered: JSON lines, written by ``sample --record``, served by ``--source replay:FILE``.

The first line says what it is; each further line is one reading, with the answers that differ from those before.
docs/RECORDINGS.md describes the format.
"""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from gpu_exporter.config import ConfigError, TooLargeError, read_file
from gpu_exporter.config.parsers import quoted
from gpu_exporter.model import Identity, Process, Reading

FORMAT: Final = "gpu-exporter"
VERSION: Final = 1
RECORDED: Final = ("nvml", "smi", "dcgm")
_MOST_BYTES: Final = 512 * 1024**2
_MOST_SECONDS: Final = 1e7
_NAMELESS: Final = Identity()


class Tape:
    """Writes one recording. ``put`` and ``event`` may come from any thread, ``end_reading`` from one at a time.

    ``names`` tells that serial numbers, and the names of users, processes and pods, are to be written as they are;
    else the former are not asked for, and the latter are numbered.
    """

    def __init__(self, file: IO[str], *, names: bool, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.names: Final = names
        self.readings = 0
        self._file = file
        self.monotonic: Final = monotonic
        self._lock = threading.Lock()
        self._began: float | None = None
        self._at: float | None = None  # of the first answer of this reading
        self._written: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        self._events: list[Any] = []
        self._aliases: dict[tuple[str, str], str] = {}

    def put(self, key: str, answer: Any) -> None:
        """Note what was answered to one question; the latest of a reading counts."""
        with self._lock:
            self._begin()
            self._new[key] = answer

    def event(self, event: Mapping[str, Any]) -> None:
        """Note what the driver told by itself."""
        with self._lock:
            self._begin()
            self._events.append(dict(event))

    def end_reading(self, source: str, readings: tuple[Reading, ...], *, interval: float, version: str) -> None:
        """Write one line: what was answered since the line before. The first one is preceded by what the file is."""
        with self._lock:
            if self._at is None or self._began is None:
                return
            answers = {key: answer for key, answer in self._new.items() if self._written.get(key, self) != answer}
            line = {"t": round(self._at - self._began, 6), "answers": answers}
            events, self._events, self._new, self._at = self._events, [], {}, None
            self._written |= answers
        if not self.readings:
            header = {"recording": FORMAT, "version": VERSION, "source": source, "interval": interval}
            self._write({**header, "names": self.names, "exporter": version})
        named = self._processes(readings)
        self._write({**line, **({"events": events} if events else {}), **({"processes": named} if named else {})})
        self.readings += 1

    def _begin(self) -> None:
        if self._at is None:
            self._at = self.monotonic()
            self._began = self._at if self._began is None else self._began

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
        self._file.flush()

    def _processes(self, readings: tuple[Reading, ...]) -> dict[str, Any]:
        """Who each process is, by its number, as far as it is known."""
        listed = (process for reading in readings for process in reading.processes or ())
        return {str(each.pid): told for each in listed if each.identity and (told := self._identity(each.identity))}

    def _identity(self, identity: Identity) -> dict[str, Any]:
        told = {name: self._named(name, getattr(identity, name)) for name in ("process", "user", "container")}
        labels = {name: self._named(name, value) for name, value in identity.labels.items() if value}
        found = {name: value for name, value in told.items() if value}
        return {**found, **({"labels": labels} if labels else {})}

    def _named(self, kind: str, name: str) -> str:
        """The name, or what stands for it: the same for the same one."""
        if self.names or not name:
            return name
        return self._aliases.setdefault((kind, name), f"{kind}-{sum(each == kind for each, _ in self._aliases) + 1}")


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file holds. Times are seconds since its first reading.

    ``answers`` has, by question, the times from which on an answer stands, and the answers.
    """

    path: Path
    source: str
    interval: float
    times: tuple[float, ...]
    answers: Mapping[str, tuple[list[float], list[Any]]]
    events: tuple[tuple[float, Any], ...]
    processes: tuple[Mapping[str, Any], ...]

    @property
    def seconds(self) -> float:
        """How long it lasts: the last reading stands for one interval."""
        return self.times[-1] + self.interval


def load(path: Path) -> Recording:
    """Read and check a recording. Raises ConfigError."""
    try:
        text = read_file(path, largest=_MOST_BYTES)
    except TooLargeError:
        raise ConfigError(f"{path}: is larger than {_MOST_BYTES // 1024**2} MiB; record fewer readings") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    lines = text.split(b"\n")
    header = _header(path, lines[0])
    reader = _Reader(path)
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            reader.take(number, line, last=number == len(lines))
    if not reader.times:
        raise ConfigError(f"{path}: holds no reading; write one with gpu-exporter sample --record FILE")
    return Recording(
        path=path,
        source=header["source"],
        interval=header["interval"],
        times=tuple(reader.times),
        answers=dict(reader.answers),
        events=tuple(reader.events),
        processes=tuple(reader.processes),
    )


def _header(path: Path, line: bytes) -> dict[str, Any]:
    told = _object(line)
    if told is None or told.get("recording") != FORMAT:
        raise ConfigError(f"{path}: line 1: is no recording; write one with gpu-exporter sample --record FILE")
    if told.get("version") != VERSION:
        version = quoted(told.get("version"))
        raise ConfigError(f"{path}: line 1: version: {version} is not known; this gpu-exporter reads {VERSION}")
    if told.get("source") not in RECORDED:
        raise ConfigError(f"{path}: line 1: source: {quoted(told.get('source'))} is none of {', '.join(RECORDED)}")
    if not _is_number(told.get("interval"), least=0.001):
        raise ConfigError(f"{path}: line 1: interval: {quoted(told.get('interval'))} is no number of seconds")
    return told


@dataclass(slots=True)
class _Reader:
    """Takes the lines of the readings."""

    path: Path
    times: list[float] = field(default_factory=list)
    answers: defaultdict[str, tuple[list[float], list[Any]]] = field(default_factory=lambda: defaultdict(_nothing))
    events: list[tuple[float, Any]] = field(default_factory=list)
    processes: list[Mapping[str, Any]] = field(default_factory=list)

    def take(self, number: int, line: bytes, *, last: bool) -> None:
        """One line. What ends without a line feed was cut while it was written, and is left out."""
        told = _object(line)
        if told is None:
            if last:
                return
            raise ConfigError(f"{self.path}: line {number}: is no JSON object")
        at: Any = told.get("t")
        if not _is_number(at, least=self.times[-1] if self.times else 0.0):
            raise ConfigError(f"{self.path}: line {number}: t: {quoted(at)} is no number of seconds that goes on")
        answers, events, processes = told.get("answers", {}), told.get("events", []), told.get("processes", {})
        for name, value, kind in (("answers", answers, dict), ("events", events, list), ("processes", processes, dict)):
            if not isinstance(value, kind):
                what = "an object" if kind is dict else "a list"
                raise ConfigError(f"{self.path}: line {number}: {name}: is not {what}")
        self.times.append(float(at))
        for key, answer in answers.items():
            times, given = self.answers[key]
            times.append(float(at))
            given.append(answer)
        self.events += [(float(at), event) for event in events]
        self.processes.append(processes)


def _nothing() -> tuple[list[float], list[Any]]:
    return [], []


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _is_number(value: Any, *, least: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= _MOST_SECONDS


class Playback:
    """A recording as it goes by, in real time. May be asked by any thread; ``monotonic`` tells seconds.

    It starts with the first question, or by ``begin``. What stands is the reading that is nearest in time, so that who
    reads as often as the recorder did gets each reading once, whatever either one's jitter.
    """

    def __init__(self, recording: Recording, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.recording: Final = recording
        self.monotonic: Final = monotonic
        self._began: float | None = None
        self._heard = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Start, or start again."""
        with self._lock:
            self._began = self.monotonic()
            self._heard = 0

    @property
    def begun(self) -> bool:
        """Whether it has been started."""
        return self._began is not None

    @property
    def ended(self) -> bool:
        """Whether all of it has gone by."""
        return self._position() >= self.recording.seconds

    def has(self, prefix: str) -> bool:
        """Whether any question that begins so was recorded."""
        return any(key.startswith(prefix) for key in self.recording.answers)

    def answer(self, key: str) -> Any:
        """What stands now; what was asked for later only stands before as well. None where it was never asked for."""
        found = self.recording.answers.get(key)
        if found is None:
            return None
        times, answers = found
        return answers[max(0, bisect_right(times, self._at()) - 1)]

    def next_event(self) -> Any:
        """The next event whose time has come; None where there is none."""
        with self._lock:
            if self._heard >= len(self.recording.events):
                return None
            at, event = self.recording.events[self._heard]
            if at > self._at():
                return None
            self._heard += 1
        return event

    def identify(self, process: Process) -> Identity:
        """Who the process was. The numbers of the recorded machine say nothing of this one's processes."""
        place = bisect_right(self.recording.times, self._at()) - 1
        told: Any = next((each[str(process.pid)] for each in self._until(place) if str(process.pid) in each), {})
        return _identity(told)

    def _until(self, place: int) -> list[Mapping[str, Any]]:
        return [self.recording.processes[each] for each in range(max(0, place), -1, -1)]

    def _position(self) -> float:
        began = self._began
        return 0.0 if began is None else self.monotonic() - began

    def _at(self) -> float:
        """The time of the reading that is nearest."""
        times, position = self.recording.times, self._position()
        after = bisect_right(times, position)
        if after == 0:
            return times[0]
        if after == len(times) or position - times[after - 1] < times[after] - position:
            return times[after - 1]
        return times[after]


def _identity(told: Any) -> Identity:
    if not isinstance(told, dict):
        return _NAMELESS
    process, user, container = (_str(told.get(name)) for name in ("process", "user", "container"))
    labels = told.get("labels")
    kept = {key: _str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}
    return Identity(process, user, container, kept)


def _str(told: Any) -> str:
    return told if isinstance(told, str) else ""
