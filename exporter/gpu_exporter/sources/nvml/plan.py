"""How one device's rows are read: the catalogue's NVML columns, grouped into as few driver calls as possible.

A row starts with its best column and moves to the next one where the device does not support it; what is left when no
column remains is never asked for again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import pynvml

from gpu_exporter.catalog import DEVICE_METRICS, by_name
from gpu_exporter.catalog.row import Call, Fans, Field, Limit, Links, Metric, Processes, Samples, scaled
from gpu_exporter.sources.nvml.errors import (
    NO_VALUE_NOW,
    UNSUPPORTED,
    DeviceFailedError,
    failure,
    raise_if_fatal,
)
from gpu_exporter.sources.nvml.fields import CALL as FIELD_VALUES
from gpu_exporter.sources.nvml.fields import MEMBER, NOT_AVAILABLE, FieldBatch

# What a device is asked for itself; processes are read by another module.
_Column: TypeAlias = Call | Field | Samples | Limit | Links | Fans
_TEMPERATURE: Final = by_name("gpu_temperature_celsius")
_KINDS_OF_LINKS: Final = tuple(dict.fromkeys(metric.links for metric in DEVICE_METRICS if metric.links is not None))
_LINKS_UP: Final = frozenset({pynvml.NVML_NVLINK_STATE_ACTIVE, pynvml.NVML_NVLINK_STATE_SLEEP})
# nvml.h, nvmlDeviceGetSamples: a sample stands for 1/6 to 1 s. A longer gap between two was not observed.
_LONGEST_SAMPLE: Final = 2_000_000  # microseconds
# So many answers in a row that are neither a value nor a "not supported" condemn the device.
_REFUSALS: Final = 3


@dataclass(slots=True)
class _Work:
    """Rows grouped by the driver call that answers them."""

    calls: dict[tuple[Any, ...], list[tuple[Metric, Call]]] = field(default_factory=dict)
    fields: list[tuple[Metric, Field | Links | Limit, tuple[int, ...]]] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    batch: FieldBatch | None = None
    samples: list[tuple[Metric, Samples]] = field(default_factory=list)
    fans: list[tuple[Metric, Fans]] = field(default_factory=list)
    link_states: list[tuple[Metric, Links]] = field(default_factory=list)


@dataclass(slots=True)
class _Answers:
    """What one reading has gathered so far."""

    values: dict[Metric, float] = field(default_factory=dict)
    increments: dict[Metric, float] = field(default_factory=dict)
    labelled: dict[tuple[Metric, tuple[str, ...]], float] = field(default_factory=dict)
    unsupported: list[Metric] = field(default_factory=list)
    answered: bool = False
    refusals: int = 0


class Plan:
    """One device's plan. Belongs to whichever thread reads the device."""

    def __init__(self, handle: Any, *, driver_release: int) -> None:
        self.handle = handle
        self._release = driver_release
        self._links = self._count_links()
        self._fans = self._count_fans()
        self._columns: dict[Metric, tuple[_Column, ...]] = {}
        for metric in DEVICE_METRICS:
            possible = (column for column in metric.nvml if not isinstance(column, Processes))
            if columns := tuple(column for column in possible if self._possible(column, metric)):
                self._columns[metric] = columns
        self._every_tick: _Work | None = None
        self._now_and_then: _Work | None = None
        self._kept: dict[Metric, float] = {}
        self._fixed: dict[Metric, float] = {}
        self._newest_sample: dict[str, int] = {}
        self._wrapping: dict[Metric, int] = {}

    def read(
        self, *, slow: bool
    ) -> tuple[dict[Metric, float], dict[Metric, float], dict[tuple[Metric, tuple[str, ...]], float]]:
        """Values, increments and labelled values; with ``slow``, also what changes only by an administrator's hand.

        Raises DeviceFailedError or SourceError.
        """
        answers = _Answers()
        if self._every_tick is None or self._now_and_then is None:
            self._every_tick = self._group(metric for metric in self._columns if not self._is_slow(metric))
            self._now_and_then = self._group(metric for metric in self._columns if self._is_slow(metric))
        self._perform(self._every_tick, answers)
        if slow:
            before = len(answers.values)
            self._perform(self._now_and_then, answers)
            self._kept = dict(list(answers.values.items())[before:])
        while answers.unsupported:
            self._fall_back(answers)
        return {**self._fixed, **self._kept, **answers.values}, answers.increments, answers.labelled

    def _fall_back(self, answers: _Answers) -> None:
        """Move unsupported rows to their next column and read those at once."""
        rows, answers.unsupported = dict.fromkeys(answers.unsupported), []
        self._every_tick = self._now_and_then = None
        retry = []
        for metric in rows:
            remaining = self._columns.pop(metric, ())[1:]
            if remaining:
                self._columns[metric] = remaining
                retry.append(metric)
        slow = {metric for metric in retry if self._is_slow(metric)}
        self._perform(self._group(retry), answers)
        self._kept.update({metric: value for metric, value in answers.values.items() if metric in slow})

    # --- what can be asked --------------------------------------------------------------------------------------------

    def _count_links(self) -> dict[str, int]:
        """How many links the device has of each kind that it has any of."""
        kinds = [kind for kind in _KINDS_OF_LINKS if hasattr(pynvml, kind)]
        counts = FieldBatch([(getattr(pynvml, kind), 0) for kind in kinds])
        try:
            codes = counts.ask(self.handle)
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, FIELD_VALUES)
            return {}
        found = {kind: counts.value(at) for at, kind in enumerate(kinds) if not codes[at]}
        return {kind: int(count) for kind, count in found.items() if count}

    def _count_fans(self) -> int:
        try:
            return int(pynvml.nvmlDeviceGetNumFans(self.handle))
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, "nvmlDeviceGetNumFans")
            return 1 if error.value == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND else 0

    def _possible(self, column: _Column, metric: Metric) -> bool:
        """Whether this driver, binding and device can have the column at all."""
        if metric.links is not None and metric.links not in self._links:
            return False
        if isinstance(column, Field):
            return self._field_id(column) is not None
        if isinstance(column, Fans):
            return self._fans > 0
        if isinstance(column, Links):
            return hasattr(pynvml, column.state)
        return hasattr(pynvml, column.name)

    def _field_id(self, column: Field) -> int | None:
        if not column.renumbered:
            return getattr(pynvml, column.name, None)
        return next((number for release, number in column.renumbered if self._release >= release), None)

    def _is_slow(self, metric: Metric) -> bool:
        column = self._columns[metric][0]
        return (
            isinstance(column, Limit)
            or (isinstance(column, Call) and column.slow)
            or (isinstance(column, Links) and column.per_link)
        )

    def _group(self, metrics: Iterable[Metric]) -> _Work:
        work = _Work()
        for metric in metrics:
            column = self._columns[metric][0]
            if isinstance(column, Call):
                work.calls.setdefault((column.name, column.args, column.struct), []).append((metric, column))
            elif isinstance(column, Samples):
                work.samples.append((metric, column))
            elif isinstance(column, Fans):
                work.fans.append((metric, column))
            elif isinstance(column, Links) and column.per_link:
                work.link_states.append((metric, column))
            else:
                self._add_field(work, metric, column)
        work.batch = FieldBatch(work.asked) if work.asked else None
        return work

    def _add_field(self, work: _Work, metric: Metric, column: Field | Links | Limit) -> None:
        links = range(self._links.get(metric.links or "", 0))
        if isinstance(column, Links):
            asked = [(getattr(pynvml, column.state), link) for link in links]
        elif isinstance(column, Limit):
            asked = [(getattr(pynvml, column.name), 0)]
        else:
            number = self._field_id(column) or 0
            scopes = links if column.scope == "links" else (column.scope,)
            asked = [(number, scope) for scope in scopes]
        places = []
        for item in asked:
            if item not in work.asked:
                work.asked.append(item)
            places.append(work.asked.index(item))
        work.fields.append((metric, column, tuple(places)))

    # --- asking -------------------------------------------------------------------------------------------------------

    def _perform(self, work: _Work, answers: _Answers) -> None:
        for rows in work.calls.values():
            self._call(rows, answers)
        if work.batch is not None:
            self._field_values(work.batch, work.fields, answers)
        for metric, column in work.samples:
            self._samples(metric, column, answers)
        for metric, fans in work.fans:
            self._fan_speeds(metric, fans, answers)
        if work.link_states:
            self._link_states(work.link_states, answers)

    def _ask(self, name: str, ask: Callable[[], Any], metrics: Iterable[Metric], answers: _Answers) -> Any:
        """The answer of one driver call, or None with the error accounted for."""
        try:
            answer = ask()
        except pynvml.NVMLError as error:
            self._refused(error.value, name, metrics, answers)
            return None
        answers.answered = True
        return answer

    def _refused(self, code: int, name: str, metrics: Iterable[Metric], answers: _Answers) -> None:
        raise_if_fatal(code, name)
        if code in UNSUPPORTED:
            answers.unsupported.extend(metrics)
        if code in NO_VALUE_NOW or code == pynvml.NVML_ERROR_NOT_SUPPORTED:
            answers.answered = True
        elif not answers.answered and code != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            answers.refusals += 1
            if answers.refusals >= _REFUSALS:
                raise DeviceFailedError(failure(code, name))

    def _call(self, rows: list[tuple[Metric, Call]], answers: _Answers) -> None:
        column = rows[0][1]
        function = getattr(pynvml, column.name)
        arguments = [getattr(pynvml, value) if isinstance(value, str) else value for value in column.args]
        metrics = [metric for metric, _ in rows]
        if column.struct is None:
            answer = self._ask(column.name, lambda: function(self.handle, *arguments), metrics, answers)
        else:
            filled = getattr(pynvml, column.struct)()
            done = self._ask(column.name, lambda: (function(self.handle, ctypes.byref(filled)),), metrics, answers)
            answer = done and filled
        if answer is None:
            return
        for metric, row in rows:
            value = _pick(answer, row)
            if value is not None:
                answers.values[metric] = value

    def _field_values(
        self,
        batch: FieldBatch,
        fields: list[tuple[Metric, Field | Links | Limit, tuple[int, ...]]],
        answers: _Answers,
    ) -> None:
        metrics = [metric for metric, _, _ in fields]
        codes = self._ask(FIELD_VALUES, lambda: batch.ask(self.handle), metrics, answers)
        if codes is None:
            return
        limits = [metric for metric, column, _ in fields if isinstance(column, Limit)]
        hottest = self._hottest(limits, answers) if limits else None
        for metric, column, places in fields:
            bad = next((codes[place] for place in places if codes[place]), 0)
            if bad:
                self._refused(
                    bad,
                    f"{FIELD_VALUES}({column.state if isinstance(column, Links) else column.name})",
                    [metric],
                    answers,
                )
                continue
            raw = [value for place in places if (value := batch.value(place)) is not None]
            if not raw:
                continue
            if isinstance(column, Links):
                answers.values[metric] = float(sum((state in _LINKS_UP) == column.active for state in raw))
            elif isinstance(column, Limit):
                if hottest is not None:
                    self._fix(metric, hottest - raw[0])
            elif column.wraps and batch.kind(places[0]) == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT:
                before = self._wrapping.get(metric, int(raw[0]))
                self._wrapping[metric] = int(raw[0])
                answers.increments[metric] = scaled((int(raw[0]) - before) % 2**32, column.scale)
            else:
                answers.values[metric] = scaled(sum(raw), column.scale)

    def _fix(self, metric: Metric, value: float) -> None:
        """Keep a value for good. A limit computed from the moving margin would wander by a few degrees."""
        self._fixed[metric] = value
        self._columns.pop(metric, None)
        self._every_tick = self._now_and_then = None

    def _hottest(self, limits: list[Metric], answers: _Answers) -> float | None:
        """The temperature at which the margin is used up: limits are told as distances from it."""
        margin = self._ask(
            "nvmlDeviceGetMarginTemperature",
            lambda: (pynvml.nvmlDeviceGetMarginTemperature(self.handle),),
            limits,
            answers,
        )
        temperature = answers.values.get(_TEMPERATURE)
        return None if margin is None or temperature is None else temperature + margin[0]

    def _samples(self, metric: Metric, column: Samples, answers: _Answers) -> None:
        since = self._newest_sample.get(column.name, 0)
        answer = self._ask(
            "nvmlDeviceGetSamples",
            lambda: pynvml.nvmlDeviceGetSamples(self.handle, getattr(pynvml, column.name), since),
            [metric],
            answers,
        )
        if answer is None:
            if metric not in answers.unsupported:
                answers.increments[metric] = 0.0
            return
        kind, samples = answer
        member = MEMBER.get(kind, "uiVal")
        newest, growth = since, 0.0
        for at, value in sorted((int(sample.timeStamp), getattr(sample.sampleValue, member)) for sample in samples):
            if at > newest:
                if newest:
                    growth += value * min(at - newest, _LONGEST_SAMPLE)
                newest = at
        self._newest_sample[column.name] = newest
        answers.increments[metric] = scaled(growth, column.scale) / 1e6

    def _fan_speeds(self, metric: Metric, column: Fans, answers: _Answers) -> None:
        for fan in range(self._fans):
            speed = self._ask(
                "nvmlDeviceGetFanSpeed_v2",
                lambda fan=fan: (pynvml.nvmlDeviceGetFanSpeed_v2(self.handle, fan),),  # type: ignore[misc]
                (),
                answers,
            )
            if speed is None and fan == 0:
                speed = self._ask(
                    "nvmlDeviceGetFanSpeed", lambda: (pynvml.nvmlDeviceGetFanSpeed(self.handle),), [metric], answers
                )
            if speed is None:
                return
            answers.labelled[metric, (str(fan),)] = scaled(speed[0], column.scale)

    def _link_states(self, rows: list[tuple[Metric, Links]], answers: _Answers) -> None:
        states = []
        for link in range(self._links[rows[0][0].links or ""]):
            state = self._ask(
                "nvmlDeviceGetNvLinkState",
                lambda link=link: (pynvml.nvmlDeviceGetNvLinkState(self.handle, link),),  # type: ignore[misc]
                [metric for metric, _ in rows],
                answers,
            )
            if state is None:
                return
            states.append(state[0])
        for metric, column in rows:
            answers.values[metric] = float(sum((state in _LINKS_UP) == column.active for state in states))


def _pick(answer: Any, column: Call) -> float | None:
    parts = [answer]
    if column.part:
        parts = [answer[part] if isinstance(part, int) else getattr(answer, part) for part in column.part]
    if any(part in NOT_AVAILABLE for part in parts):
        return None
    if column.bit is not None:
        return float(bool(parts[0] & getattr(pynvml, column.bit)))
    value = scaled(sum(parts), column.scale)
    return None if value in column.absent else float(value)
