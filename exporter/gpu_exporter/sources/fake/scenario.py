"""The scenario file: timed faults in YAML, checked whole before any of it holds.

``docs/SCENARIOS.md`` is the reference. Every mistake is a ``ConfigError`` of one line that names file, place, value and
what would be accepted.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from gpu_exporter.catalog.owner_kinds import KIND_LABELS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.config import ConfigError, Section, Watch, read_yaml
from gpu_exporter.config.parsers import (
    RefusedError,
    boolean,
    duration,
    duration_between,
    integer_between,
    name,
    one_of,
    quoted,
    size,
)
from gpu_exporter.sources.fake.memory_errors import SPARES
from gpu_exporter.sources.fake.models import GpuModel
from gpu_exporter.sources.fake.partitions import MOST
from gpu_exporter.sources.fake.simulation import FABRIC_FAULTS
from gpu_exporter.sources.fake.telling import metrics
from gpu_exporter.sources.fake.workloads import KINDS, Kind, ProcessType, SimulatedProcess

_LOG: Final = logging.getLogger(__name__)
_LONGEST_DELAY: Final = 3600.0
_OVERHEAT_ABOVE_SLOWDOWN: Final = 2.0
# Linux' PID_MAX_LIMIT: a larger number is no process, whatever runs on the machine that simulates.
_LARGEST_PID: Final = 4_194_304
_LARGEST_NUMBER: Final = 2**32 - 1  # that NVML can tell as a pid


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
    word: str = ""
    unit: str = ""
    sub_code: int | None = None
    link: int | None = None
    severity: str = "corrected"
    location: str = "dram"
    count: int = 1
    remap: str = "none"
    delay: float = 0.0
    workload: Kind = "idle"
    process: SimulatedProcess | None = None
    stop: bool = False
    enabled: bool = True
    instances: int = 2
    width: int = 8
    generation: int = 1
    ratio: float = 0.3
    power_limit: float | None = None
    ecc: bool = True
    vbios: str = ""
    links: int = 1
    kind: str = ""
    spare: str = "low"
    fabric: str = "not_started"
    step: float = 0.0
    metrics: tuple[Metric, ...] = ()
    value: float = 0.0
    plugged: bool = True
    blocked: bool = False


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
        "fan_stop": _Fault(fields=("blocked",)),
        "power_brake": _Fault(),
        "xid": _Fault(lasts=False, fields=("xid", "sub_code", "word", "unit", "link"), needs="xid"),
        "ecc": _Fault(fields=("severity", "location", "count", "remap")),
        "lost": _Fault(),
        "reset_required": _Fault(),
        "hang": _Fault(),
        "slow": _Fault(fields=("delay",), needs="delay"),
        "pcie": _Fault(fields=("width", "count")),
        "slow_pcie": _Fault(fields=("generation",)),
        "clock_stuck": _Fault(fields=("ratio",)),
        "drift": _Fault(fields=("power_limit", "ecc", "vbios")),
        "nvlink": _Fault(fields=("links", "count")),
        "nvlink_link": _Fault(lasts=False, fields=("link", "kind", "count")),
        "fabric": _Fault(fields=("fabric",)),
        "remap_bank": _Fault(lasts=False, fields=("spare", "count")),
        "process": _Fault(fields=("process",), needs="process"),
        "workload": _Fault(fields=("workload",), needs="workload"),
        "mig": _Fault(fields=("enabled", "instances")),
        "silent_sensor": _Fault(fields=("metrics",), needs="metrics"),
        "impossible_value": _Fault(fields=("metrics", "value"), needs="metrics"),
        "partial": _Fault(fields=("metrics",)),
        "dead_pid": _Fault(fields=("pid", "memory")),
        "hot_plug": _Fault(fields=("plugged",)),
        "clock_step": _Fault(gpu="refused", fields=("step",), needs="step"),
        "driver_gone": _Fault(gpu="refused"),
        "recover": _Fault(gpu="optional", lasts=False),
    }
)
_KEYS: Final = dict.fromkeys(
    ("at", "gpu", "fault", "for", *(name for fault in FAULTS.values() for name in fault.fields))
)
_PROCESS_KEYS: Final = ("pid", "name", "user", *KIND_LABELS, "memory", "type", "stop")
_TYPES: Final[tuple[ProcessType, ...]] = ("compute", "graphics")


# --- values -----------------------------------------------------------------------------------------------------------


def _parsers(fleet: Fleet) -> Mapping[str, Callable[[Any], Any]]:
    """How each key of an event is read, but for the process."""
    model = fleet.model
    return {
        "at": duration,
        "for": duration,
        "gpu": partial(_gpus, gpus=fleet.gpus),
        "fault": one_of(*FAULTS),
        "target": partial(_target, high=model.shutdown - 1),
        "xid": integer_between(1, 999),
        "sub_code": integer_between(0, 63),
        "word": one_of("Fatal", "Nonfatal"),
        "unit": name,
        "link": integer_between(0, max(model.nvlinks - 1, 0) if model.nvlinks else 35),
        "severity": one_of("corrected", "uncorrected"),
        "location": one_of(*model.ecc),
        "count": integer_between(0, 10**9),
        "remap": one_of("none", "done", "pending", "failure"),
        "delay": duration_between(0, _LONGEST_DELAY),
        "width": lambda value: int(one_of("1", "2", "4", "8")(str(value))),
        "generation": integer_between(1, model.pcie - 1),
        "ratio": _clock_ratio,
        "power_limit": partial(_power_limit, low=model.power_min, high=model.power_max),
        "ecc": boolean,
        "vbios": _word,
        "links": integer_between(1, model.nvlinks),
        "kind": one_of(*model.nvlink_errors),
        "spare": one_of(*SPARES[1:]),
        "fabric": one_of(*FABRIC_FAULTS),
        "workload": one_of(*KINDS),
        "enabled": boolean,
        "instances": integer_between(0, MOST),
        "step": _step,
        "metrics": partial(metrics, board=model.name, lists=False),
        "value": _number,
        "plugged": boolean,
        "blocked": boolean,
        "pid": _nobody,
        "memory": partial(_memory, most=model.usable_bytes),
    }


def _gpus(value: Any, *, gpus: int) -> tuple[int, ...]:
    """Indices, from an index, a list of them, ``0-3``, ``0-3,6`` or ``all``."""
    if value == "all":
        return tuple(range(gpus))
    parts = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
    chosen: set[int] = set()
    for part in parts:
        match = re.fullmatch(r" *(\d{1,6})(?:-(\d{1,6}))? *", str(part)) if type(part) in {int, str} else None
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not first <= last < gpus:
            chosen.clear()
            break
        chosen.update(range(first, last + 1))
    if not chosen:
        last = gpus - 1
        accepted = f"0 to {last}, a list such as [0, {last}], a range such as 0-{last}" if last else "0"
        raise RefusedError(f"{quoted(value)} is not a GPU of this fleet; write {accepted}, or all")
    return tuple(sorted(chosen))


def _target(value: Any, *, high: float) -> float:
    low = 40
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RefusedError(f"{quoted(value)} is not a temperature from {low} to {high:g} °C")
    return float(value)


def _clock_ratio(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.05 <= value <= 0.95:
        raise RefusedError(f"{quoted(value)} is not a share of the highest clock; write 0.05 to 0.95")
    return float(value)


def _power_limit(value: Any, *, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RefusedError(f"{quoted(value)} is not a power limit of this board; write {low:g} to {high:g} (watts)")
    return float(value)


def _step(value: Any) -> float:
    """Seconds, forwards or backwards: +30s, -1h."""
    sign, text = (value[0], value[1:]) if isinstance(value, str) and value[:1] in {"+", "-"} else ("+", value)
    try:
        return duration(text) * (-1.0 if sign == "-" else 1.0)
    except RefusedError:
        raise RefusedError(f"{quoted(value)} is not a step of the clock; write +30s or -1h") from None


def _number(value: Any) -> float:
    # YAML takes 4e6 for text: it wants 4.0e+6.
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}(?:\.[0-9]{0,20})?[eE][+-]?[0-9]{1,3}", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(f"{quoted(value)} is not a number; write one such as 8.08, -1, 4e6 or .nan")
    return float(value)


def _nobody(value: Any) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not (value == 0 or _LARGEST_PID < value <= _LARGEST_NUMBER)
    ):
        accepted = f"write 0, or {_LARGEST_PID + 1} to {_LARGEST_NUMBER}"
        raise RefusedError(f"{quoted(value)} may be a process of this machine; {accepted}")
    return value


def _memory(value: Any, *, most: int) -> int:
    used = int(size(value))
    if not 0 < used <= most:
        raise RefusedError(f"{quoted(value)} is out of range; write up to {most // 1024**2}MiB")
    return used


def _word(value: Any) -> str:
    """A name, which may be a number."""
    return name(str(value) if type(value) is int else value)


# --- the file ---------------------------------------------------------------------------------------------------------


class _Story(Section):
    """What an event may have depends on its fault: of the keys of all faults, its own are named."""

    def known(self, names: Collection[str]) -> None:
        fault = self.entries.get("fault")
        rules = FAULTS.get(fault) if isinstance(fault, str) else None
        own = names if rules is None else _keys(rules)
        for key in self.entries:
            if key not in names:
                self.refuse(quoted(key)[1:-1], f"unknown key; write one of {', '.join(own)}")


def load(path: Path, fleet: Fleet) -> tuple[Event, ...]:
    """All events of the file, in its order. Raises ConfigError."""
    parse = _parsers(fleet)
    file = _Story(path, read_yaml(path), known=("events",))
    return tuple(_event(entry, fleet, parse) for entry in file.sections("events", known=_KEYS))


def _keys(rules: _Fault) -> tuple[str, ...]:
    """What an event with the fault may have."""
    return ("at", "fault", *(("gpu",) * (rules.gpu != "refused")), *(("for",) * rules.lasts), *rules.fields)


def _event(entry: Section, fleet: Fleet, parse: Mapping[str, Callable[[Any], Any]]) -> Event:
    entry.require("at", "write 30s")
    entry.require("fault", f"write one of {', '.join(FAULTS)}")
    fault = entry.value("fault", parse["fault"], "")
    rules = FAULTS[fault]
    keys = _keys(rules)
    for key in entry.entries:
        if key not in keys:
            entry.refuse(key, f"is not for {fault}; write one of {', '.join(keys)}")
    _refuse_what_the_board_lacks(entry, fault, fleet.model)
    if rules.gpu == "needed":
        entry.require("gpu", "write an index, a list, a range such as 0-3, or all")
    if rules.needs:
        entry.require(rules.needs, f"{fault} needs it")
    if fault == "silent_sensor":  # a list of processes may be missing; a wrong one is of wrong processes
        parse = {**parse, "metrics": partial(metrics, board=fleet.model.name, lists=True)}
    values: dict[str, Any] = {
        key: entry.value(key, parse[key]) for key in keys if key in parse and entry.entries.get(key) is not None
    }
    at, gpus, lasts = values.pop("at"), values.pop("gpu", ()), values.pop("for", None)
    if fault == "process":
        values |= _process(entry.section("process", known=_PROCESS_KEYS), fleet.model.usable_bytes)
    elif fault == "overheat":
        values.setdefault("target", fleet.model.slowdown + _OVERHEAT_ABOVE_SLOWDOWN)
    elif fault == "ecc":
        values.setdefault("location", fleet.model.ecc[0])
        hard = values.get("severity") == "uncorrected" and values["location"] == "dram"
        values.setdefault("remap", "pending" if hard else "none")
        if values["remap"] != "none" and values["location"] != "dram":
            entry.refuse("remap", f"{quoted(values['remap'])} is not for {values['location']}; write none")
    elif fault == "drift":
        if "ecc" in values and not fleet.model.ecc:
            entry.refuse("ecc", f"is not possible: {fleet.model.name} has none; write power_limit or vbios")
        if values.keys() <= {"fault"}:
            values["power_limit"] = fleet.model.power_min
    elif fault in {"pcie", "nvlink"}:
        values.setdefault("count", 0)
    elif fault == "impossible_value":
        entry.require("value", f"{fault} needs it")
    elif fault == "partial":
        values.setdefault("metrics", parse["metrics"]("gpu_utilization_ratio"))
    elif fault == "dead_pid":
        values["process"] = SimulatedProcess(
            pid=values.pop("pid", 0), name="", user="", memory_used=values.pop("memory", 1024**3), alive=False
        )
    return Event(at=at, place=entry.place, gpus=gpus, lasts=lasts, **values)


def _process(entry: Section, usable_bytes: int) -> dict[str, Any]:
    entry.require("pid", "write the number of the process")
    process = SimulatedProcess(
        pid=entry.value("pid", integer_between(1, _LARGEST_PID), 0),
        name=entry.value("name", name, "python3"),
        user=entry.value("user", name, "alice"),
        memory_used=entry.value("memory", partial(_memory, most=usable_bytes), 1024**3),
        type=entry.value("type", one_of(*_TYPES), "compute"),
        labels={label: text for label in KIND_LABELS if (text := entry.value(label, _word, ""))},
    )
    return {"process": process, "stop": entry.value("stop", boolean, default=False)}


def _refuse_what_the_board_lacks(entry: Section, fault: str, model: GpuModel) -> None:
    lacks = {
        "ecc": not model.ecc,
        "mig": not model.mig,
        "nvlink": not model.nvlinks,
        "nvlink_link": not model.nvlinks,
        "fabric": not model.fabric,
        "remap_bank": model.spares != "rows",
    }
    if lacks.get(fault):
        able = ", ".join(name for name in FAULTS if not lacks.get(name))
        entry.refuse("fault", f"'{fault}' is not possible: {model.name} has none; write one of {able}")


class ScenarioFile:
    """The file over time: ``changed`` tells new events once after each good edit and warns once after each bad one."""

    def __init__(self, path: Path, fleet: Fleet) -> None:
        self._path = path
        self._fleet = fleet
        self._watch = Watch(path)
        self._watch.mark()
        self.events = load(path, fleet)

    def changed(self) -> bool:
        """Look at the file; True where a good edit replaced ``events``."""
        if not self._watch.changed():
            return False
        try:
            self.events = load(self._path, self._fleet)
        except ConfigError as error:
            _LOG.warning("the edited scenario is not used, the last good one stays in force: %s", error)
            return False
        except Exception:  # noqa: BLE001 - whatever is wrong with it, the GPUs go on
            _LOG.exception("the edited scenario is not used: this is a bug in gpu-exporter")
            return False
        return True
