"""The scenario file: timed faults in YAML, checked whole before any of it holds.

``docs/SCENARIOS.md`` is the reference. Every mistake is a ``ConfigError`` of one line that names file, place, value and
what would be accepted.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn

import yaml

from gpu_exporter.catalog.owner_kinds import KIND_LABELS
from gpu_exporter.config import ConfigError
from gpu_exporter.config.parsers import duration
from gpu_exporter.sources.fake.models import GpuModel
from gpu_exporter.sources.fake.workloads import KINDS, Kind, SimulatedProcess

_LOG: Final = logging.getLogger(__name__)
_BYTES: Final = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_LONGEST_DELAY: Final = 3600.0
_OVERHEAT_ABOVE_SLOWDOWN: Final = 2.0


class _RefusedError(ValueError):
    """What a parser answers; the caller adds where the value stands. ``inside`` is a key within that value."""

    def __init__(self, message: str, *, inside: str = "") -> None:
        super().__init__(message)
        self.inside = inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the story, ``at`` seconds after it began; ``lasts`` None means until something undoes it.

    The fields below ``lasts`` belong to the faults that take them; ``place`` is where the event stands in the file.
    """

    at: float
    fault: str
    place: str
    gpus: tuple[int, ...] = ()
    lasts: float | None = None
    target: float = 0.0
    xid: int = 0
    severity: str = "corrected"
    location: str = "dram"
    count: int = 1
    remap: str = "none"
    delay: float = 0.0
    workload: Kind = "idle"
    process: SimulatedProcess | None = None
    stop: bool = False
    enabled: bool = True
    width: int = 8
    links: int = 1


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a scenario is checked against."""

    gpus: int
    model: GpuModel


@dataclass(frozen=True, slots=True)
class _Fault:
    """What a fault takes: ``gpu`` is needed, optional or refused; ``lasts`` tells whether ``for`` makes sense."""

    gpu: str = "needed"
    lasts: bool = True
    fields: tuple[str, ...] = ()
    needs: str | None = None


FAULTS: Final[Mapping[str, _Fault]] = MappingProxyType(
    {
        "overheat": _Fault(fields=("target",)),
        "fan_stop": _Fault(),
        "power_brake": _Fault(),
        "xid": _Fault(lasts=False, fields=("xid",), needs="xid"),
        "ecc": _Fault(fields=("severity", "location", "count", "remap")),
        "lost": _Fault(),
        "reset_required": _Fault(),
        "hang": _Fault(),
        "slow": _Fault(fields=("delay",), needs="delay"),
        "pcie": _Fault(fields=("width", "count")),
        "nvlink": _Fault(fields=("links", "count")),
        "process": _Fault(fields=("process",), needs="process"),
        "workload": _Fault(fields=("workload",), needs="workload"),
        "mig": _Fault(fields=("enabled",)),
        "driver_gone": _Fault(gpu="refused"),
        "recover": _Fault(gpu="optional", lasts=False),
    }
)
_COMMON: Final = ("at", "gpu", "fault", "for")
_PROCESS_FIELDS: Final = ("pid", "name", "user", *KIND_LABELS, "memory", "type", "stop")


# --- values -----------------------------------------------------------------------------------------------------------


def _refuse(value: Any, accepted: str) -> NoReturn:
    raise _RefusedError(f"{_shown(value)} is not {accepted}")


def _shown(value: Any) -> str:
    text = str(value).encode("unicode_escape").decode()
    return f"'{text[:60]}…'" if len(text) > 60 else f"'{text}'"


def _whole(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        _refuse(value, f"a whole number from {low} to {high}")
    return value


def _one_of(value: Any, names: tuple[str, ...]) -> str:
    if value not in names:
        _refuse(value, f"known; write one of {', '.join(names)}")
    return str(value)


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > 255 or not value.isprintable():
        _refuse(value, "a name; write 1 to 255 printable characters")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        _refuse(value, "a switch; write true or false")
    return value


def _memory(value: Any, fleet: Fleet) -> int:
    text = str(value) if isinstance(value, str) or type(value) is int else ""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?(B|KiB|MiB|GiB)?", text)
    size = int(float(match[1]) * _BYTES[match[2] or ""]) if match else -1
    if not 0 < size <= fleet.model.usable_bytes:
        _refuse(value, f"a size up to {fleet.model.usable_bytes // 1024**2}MiB; write 8GiB, 512MiB or bytes")
    return size


def _gpus(value: Any, fleet: Fleet) -> tuple[int, ...]:
    """Indices, from an index, a list of them, ``0-3``, ``0-3,6`` or ``all``."""
    if value == "all":
        return tuple(range(fleet.gpus))
    parts = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
    chosen: set[int] = set()
    for part in parts:
        match = re.fullmatch(r" *(\d{1,6})(?:-(\d{1,6}))? *", str(part)) if type(part) in {int, str} else None
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not first <= last < fleet.gpus:
            chosen.clear()
            break
        chosen.update(range(first, last + 1))
    if not chosen:
        last = fleet.gpus - 1
        accepted = f"0 to {last}, a list such as [0, {last}], a range such as 0-{last}" if last else "0"
        raise _RefusedError(f"{_shown(value)} is not a GPU of this fleet; write {accepted}, or all")
    return tuple(sorted(chosen))


def _process(value: Any, fleet: Fleet) -> SimulatedProcess:
    _in("stop", _flag, value.get("stop", False))
    return SimulatedProcess(
        pid=_in("pid", _whole, value.get("pid"), 1, 4_194_304),
        name=_in("name", _word, value.get("name", "python3")),
        user=_in("user", _word, value.get("user", "alice")),
        memory_used=_in("memory", _memory, value.get("memory", "1GiB"), fleet),
        type=_in("type", _one_of, value.get("type", "compute"), ("compute", "graphics")),
        labels={label: _in(label, _word, str(value[label])) for label in KIND_LABELS if label in value},
    )


def _in(name: str, parse: Callable[..., Any], *arguments: Any) -> Any:
    """Parse a value of a nested mapping; a refusal tells its key."""
    try:
        return parse(*arguments)
    except ValueError as error:
        raise _RefusedError(str(error), inside=f".{name}") from None


def _target(value: Any, fleet: Fleet) -> float:
    low, high = 40, fleet.model.shutdown - 1
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        _refuse(value, f"a temperature from {low} to {high:g} °C")
    return float(value)


def _delay(value: Any) -> float:
    seconds = duration(value)
    if seconds > _LONGEST_DELAY:
        _refuse(value, "short enough; write at most 1h")
    return seconds


def _links(value: Any, fleet: Fleet) -> int:
    return _whole(value, 1, fleet.model.nvlinks)


def _width(value: Any) -> int:
    return int(_one_of(str(value), ("1", "2", "4", "8")))


_PARSERS: Final[Mapping[str, Callable[[Any, Fleet], Any]]] = MappingProxyType(
    {
        "at": lambda value, _: duration(value),
        "for": lambda value, _: duration(value),
        "gpu": _gpus,
        "fault": lambda value, _: _one_of(value, tuple(FAULTS)),
        "target": _target,
        "xid": lambda value, _: _whole(value, 1, 999),
        "severity": lambda value, _: _one_of(value, ("corrected", "uncorrected")),
        "location": lambda value, fleet: _one_of(value, fleet.model.ecc),
        "count": lambda value, _: _whole(value, 0, 10**9),
        "remap": lambda value, _: _one_of(value, ("none", "done", "pending", "failure")),
        "delay": lambda value, _: _delay(value),
        "width": lambda value, _: _width(value),
        "links": _links,
        "process": _process,
        "workload": lambda value, _: _one_of(value, KINDS),
        "enabled": lambda value, _: _flag(value),
    }
)


# --- the file ---------------------------------------------------------------------------------------------------------


def load(path: Path, fleet: Fleet) -> tuple[Event, ...]:
    """All events of the file, in its order. Raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text; write YAML in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable"
        raise ConfigError(f"{path}: is not YAML: {where}{problem}") from None
    except (RecursionError, ValueError) as error:  # a date such as 2026-13-45, or brackets without end
        raise ConfigError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from None
    if document is None:
        return ()
    _known(document, ("events",), f"{path}", "the file")
    events = document.get("events")
    if events is None:
        return ()
    if not isinstance(events, list):
        raise ConfigError(f"{path}: events: {_shown(events)} is not a list; write '- at: 30s' and so on below it")
    return tuple(_event(entry, f"events[{number}]", path, fleet) for number, entry in enumerate(events))


def _known(value: Any, names: tuple[str, ...], where: str, what: str) -> None:
    """Refuse what is no mapping, and keys that nobody knows."""
    if not isinstance(value, dict):
        kind = {list: "a list", str: "text", type(None): "empty"}.get(type(value), "a single value")
        raise ConfigError(f"{where}: {what} is {kind}; write keys such as {', '.join(names)}")
    for name in value:
        if name not in names:
            raise ConfigError(f"{where}: {_shown(name)} is not known here; write one of {', '.join(names)}")


def _event(entry: Any, place: str, path: Path, fleet: Fleet) -> Event:
    where = f"{path}: {place}"
    every = tuple(dict.fromkeys((*_COMMON, *(name for fault in FAULTS.values() for name in fault.fields))))
    _known(entry, every, where, "the event")
    for name in ("at", "fault"):
        if name not in entry:
            raise ConfigError(f"{where}.{name}: is missing; write {'30s' if name == 'at' else ', '.join(FAULTS)}")
    fault = _value(entry, "fault", where, fleet)
    rules = FAULTS[fault]
    names = ("at", "fault", *(("gpu",) * (rules.gpu != "refused")), *(("for",) * rules.lasts), *rules.fields)
    _known(entry, names, f"{where} ({fault})", "the event")
    _supported(fault, where, fleet.model)
    if rules.gpu == "needed" and "gpu" not in entry:
        raise ConfigError(f"{where}.gpu: is missing; write an index, a list, a range such as 0-3, or all")
    if rules.needs and rules.needs not in entry:
        raise ConfigError(f"{where}.{rules.needs}: is missing; {fault} needs it")
    if "process" in entry:
        _known(entry["process"], _PROCESS_FIELDS, f"{where}.process", "it")
    values = {name: _value(entry, name, where, fleet) for name in entry}
    at, gpus, lasts = values.pop("at"), values.pop("gpu", ()), values.pop("for", None)
    if fault == "process":
        values["stop"] = entry["process"].get("stop", False)
    if fault == "overheat":
        values.setdefault("target", fleet.model.slowdown + _OVERHEAT_ABOVE_SLOWDOWN)
    if fault == "ecc":
        values.setdefault("location", fleet.model.ecc[0])
        hard = values.get("severity") == "uncorrected" and values["location"] == "dram"
        values.setdefault("remap", "pending" if hard else "none")
        if values["remap"] != "none" and values["location"] != "dram":
            raise ConfigError(f"{where}.remap: {_shown(values['remap'])} is not for {values['location']}; write none")
    elif fault in {"pcie", "nvlink"}:
        values.setdefault("count", 0)
    return Event(at=at, place=place, gpus=gpus, lasts=lasts, **values)


def _value(entry: Mapping[str, Any], name: str, where: str, fleet: Fleet) -> Any:
    try:
        return _PARSERS[name](entry[name], fleet)
    except ValueError as error:
        inside = error.inside if isinstance(error, _RefusedError) else ""
        raise ConfigError(f"{where}.{name}{inside}: {error}") from None


def _supported(fault: str, where: str, model: GpuModel) -> None:
    """Refuse a fault of a part that the board does not have."""
    lacks = {"ecc": not model.ecc, "mig": not model.mig, "nvlink": not model.nvlinks}
    if lacks.get(fault):
        able = ", ".join(name for name in FAULTS if not lacks.get(name))
        raise ConfigError(f"{where}.fault: '{fault}' is not possible: {model.name} has none; write one of {able}")


class ScenarioFile:
    """The file over time: ``changed`` tells new events once after each good edit and warns once after each bad one."""

    def __init__(self, path: Path, fleet: Fleet) -> None:
        self._path = path
        self._fleet = fleet
        self._seen = self._signature()
        self.events = load(path, fleet)

    def changed(self) -> bool:
        """Look at the file; True where a good edit replaced ``events``."""
        signature = self._signature()
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            self.events = load(self._path, self._fleet)
        except ConfigError as error:
            _LOG.warning("the edited scenario is not used, the last good one stays in force: %s", error)
            return False
        return True

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
