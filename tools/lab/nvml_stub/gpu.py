"""One GPU of the stand-in, as lines of the state file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from tools.lab.nvml_stub.compiler import table
from tools.lab.nvml_stub.presets import Answer, Setting

ProcessKind: TypeAlias = Literal["compute", "graphics", "mps"]

_VALUES: Final = table("values.h", "VALUES")
_LISTS: Final = table("values.h", "LISTS")
_STRINGS: Final = table("values.h", "STRINGS")
SETTINGS: Final = frozenset((*_VALUES, *_LISTS, *_STRINGS))

_ANY_INSTANCE: Final = 0xFFFFFFFF
_MAX_HISTORY: Final = 64
_SAMPLED: Final = {"power_usage": 0, "utilization": 1, "memory_utilization": 2}


class Process(NamedTuple):
    """A process on a GPU; memory None is NVML's "not available"."""

    pid: int
    memory: int | None
    gpu_instance: int = _ANY_INSTANCE
    compute_instance: int = _ANY_INSTANCE


class Usage(NamedTuple):
    """Utilization of a GPU by a process in percent; without a time, it is sampled at every beat (1/6 s)."""

    pid: int
    sm: int = 0
    memory: int = 0
    encoder: int = 0
    decoder: int = 0
    time_us: int = 0


class Mig(NamedTuple):
    """A MIG device; ``gpm`` are the profiling metrics of its GPU instance, without any those of the GPU."""

    uuid: str
    name: str
    gpu_instance: int
    compute_instance: int
    memory_total: int
    memory_used: int
    gpm: Mapping[int, float] = MappingProxyType({})


@dataclass(slots=True)
class Gpu:
    settings: dict[str, Setting]
    error: int = 0
    hang: bool = False
    lookup: bool = False
    delay_us: int = 0
    process_bytes: int = 0
    buffer_samples: int = 0
    function_errors: dict[str, int] = field(default_factory=dict)
    fields: dict[str, Answer] = field(default_factory=dict)
    processes: dict[ProcessKind, tuple[Process, ...]] = field(default_factory=dict)
    usage: tuple[Usage, ...] = ()
    history: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    samples: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    mig: tuple[Mig, ...] = ()
    gpm: dict[int, float] = field(default_factory=dict)
    gpm_of_busy: dict[int, float] = field(default_factory=dict)

    def set(self, name: str, value: Setting | None, *, at: float) -> None:
        kind = _SAMPLED.get(name)
        if value is None:
            self.settings.pop(name, None)
        else:
            self.settings[name] = value
        if kind is None:
            return
        if not isinstance(value, int):
            self.history.pop(kind, None)
            return
        changes = self.history.setdefault(kind, [])
        changes.append((microseconds(at), value))
        del changes[:-_MAX_HISTORY]

    def answer(self, number: int | tuple[int, int], answer: int | Answer) -> None:
        place = str(number) if isinstance(number, int) else ".".join(map(str, number))
        self.fields[place] = Answer(answer) if isinstance(answer, int) else answer

    def lines(self) -> Iterator[str]:
        # In the order of the C tables, which makes reading fast.
        for name in (*_VALUES, *_LISTS, *_STRINGS):
            value = self.settings.get(name)
            if value is not None:
                yield f"{name} {value if isinstance(value, int | str) else ','.join(map(str, value))}"
        for name in ("error", "hang", "lookup", "delay_us", "process_bytes", "buffer_samples"):
            if number := int(getattr(self, name)):
                yield f"{name} {number}"
        yield from (f"error.{name} {code}" for name, code in self.function_errors.items())
        # One scope before any.
        for place, answer in sorted(self.fields.items(), key=lambda told: "." not in told[0]):
            yield f"field.{place} {_tuples([answer])}"
        for kind, processes in self.processes.items():
            yield f"processes.{kind} {_tuples(processes)}"
        yield f"process_utilization {_tuples(self.usage)}"
        yield from (f"history.{number} {_tuples(changes)}" for number, changes in self.history.items())
        yield from (f"samples.{number} {_tuples(samples)}" for number, samples in self.samples.items())
        for number, mig in enumerate(self.mig):
            numbers = f"{mig.gpu_instance} {mig.compute_instance} {mig.memory_total} {mig.memory_used}"
            yield f"mig.{number} {mig.uuid} {numbers} {mig.name}"
            yield from (f"mig.{number}.gpm.{metric} {value}" for metric, value in mig.gpm.items())
        yield from (f"gpm.{number} {value}" for number, value in self.gpm.items())
        yield from (f"gpm_of_busy.{number} {value}" for number, value in self.gpm_of_busy.items())


def microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _tuples(rows: Iterable[Sequence[int | None]]) -> str:
    return ",".join(":".join("-1" if part is None else str(part) for part in row) for row in rows)
