"""The driver's answers to one device's questions, each call made once a reading and its errors accounted for."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import pynvml

from gpu_exporter.catalog import DEVICE_METRICS, by_name
from gpu_exporter.catalog.row import Call, Fans, Field, Limit, Links, Metric, Samples, scaled
from gpu_exporter.sources.nvml.errors import (
    NO_VALUE_NOW,
    UNSUPPORTED,
    DeviceFailedError,
    failure,
    raise_if_fatal,
)
from gpu_exporter.sources.nvml.fields import CALL as FIELD_VALUES
from gpu_exporter.sources.nvml.fields import MEMBER, NOT_AVAILABLE, FieldBatch

log = logging.getLogger(__name__)

_TEMPERATURE: Final = by_name("gpu_temperature_celsius")
_KINDS_OF_LINKS: Final = tuple(dict.fromkeys(metric.links for metric in DEVICE_METRICS if metric.links is not None))
_LINKS_UP: Final = frozenset({pynvml.NVML_NVLINK_STATE_ACTIVE, pynvml.NVML_NVLINK_STATE_SLEEP})
# nvml.h, nvmlDeviceGetSamples: a sample stands for 1/6 to 1 s. A longer gap between two was not observed.
_LONGEST_SAMPLE: Final = 2_000_000  # microseconds
# So many answers in a row that are neither a value nor a "not supported" condemn the device.
_REFUSALS: Final = 3
# Of links and fans of one device; NVML_NVLINK_MAX_LINKS is 36.
_MOST_PARTS: Final = 128


@dataclass(slots=True)
class Work:
    """Rows grouped by the driver call that answers them."""

    calls: dict[tuple[Any, ...], list[tuple[Metric, Call]]] = field(default_factory=dict)
    fields: list[tuple[Metric, Field | Links | Limit, tuple[int, ...]]] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    batch: FieldBatch | None = None
    samples: list[tuple[Metric, Samples]] = field(default_factory=list)
    fans: list[tuple[Metric, Fans]] = field(default_factory=list)
    link_states: list[tuple[Metric, Links]] = field(default_factory=list)


@dataclass(slots=True)
class Answers:
    """What one reading has gathered so far; ``unsupported`` are rows whose column the device does not have."""

    values: dict[Metric, float] = field(default_factory=dict)
    increments: dict[Metric, float] = field(default_factory=dict)
    labelled: dict[tuple[Metric, tuple[str, ...]], float] = field(default_factory=dict)
    fixed: dict[Metric, float] = field(default_factory=dict)  # never to be asked for again
    unsupported: list[Metric] = field(default_factory=list)
    # Rows without a value for another reason, by the code and what answered it; calls that failed so, and that did not.
    errors: dict[Metric, tuple[int, str]] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    answering: set[str] = field(default_factory=set)
    answered: bool = False
    refusals: int = 0

    def told(self) -> set[Metric]:
        """The rows that have a value."""
        return {
            *self.values,
            *(metric for metric in self.increments if metric not in self.errors),
            *(metric for metric, _ in self.labelled),
        }

    def has(self, metric: Metric) -> bool:
        """Whether the row has a value, be it one to be kept for good."""
        return (
            metric in self.values
            or metric in self.fixed
            or (metric in self.increments and metric not in self.errors)
            or (bool(metric.dynamic) and any(other is metric for other, _ in self.labelled))
        )


class Asker:
    """Asks the driver about one device. Belongs to whichever thread reads the device.

    ``links`` has how many links it has of each kind that it has any of, ``fans`` how many fans; ``count`` counts them.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.links: dict[str, int] = {}
        self.fans = 0
        self._newest_sample: dict[str, int] = {}
        self._wrapping: dict[Metric, int] = {}
        self._impossible: set[str] = set()  # counts that were logged

    def count(self) -> bool:
        """Count links and fans; False where the device did not tell all of it, or less than before."""
        links = self._count_links()
        fans = self._count_fans()
        whole = links is not None and fans is not None and self.links.keys() <= links.keys() and self.fans <= fans
        self.links = {**self.links, **(links or {})}
        self.fans = self.fans if fans is None else fans
        return whole

    def _count_links(self) -> dict[str, int] | None:
        kinds = [kind for kind in _KINDS_OF_LINKS if hasattr(pynvml, kind)]
        counts = FieldBatch([(getattr(pynvml, kind), 0) for kind in kinds])
        try:
            codes = counts.ask(self.handle)
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, FIELD_VALUES)
            return {} if error.value in UNSUPPORTED else None
        found = {kind: counts.value(at) for at, kind in enumerate(kinds) if not codes[at]}
        links = {kind: int(count) for kind, count in found.items() if count and self._possible(kind, count)}
        return links if all(code in {pynvml.NVML_SUCCESS, *UNSUPPORTED} for code in codes) else None

    def _count_fans(self) -> int | None:
        try:
            fans = int(pynvml.nvmlDeviceGetNumFans(self.handle))
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, "nvmlDeviceGetNumFans")
            if error.value == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                return 1
            return self.fans if error.value in UNSUPPORTED else None
        return fans if self._possible("fans", fans) else self.fans

    def _possible(self, what: str, count: float) -> bool:
        """Whether there can be so many: each would cost memory and calls."""
        possible = 0 <= count <= _MOST_PARTS
        if not possible and what not in self._impossible:
            log.warning("the driver tells an impossible number", extra={"of": what, "count": int(count)})
        (self._impossible.discard if possible else self._impossible.add)(what)
        return possible

    def perform(self, work: Work, answers: Answers) -> None:
        """Make the work's calls. Raises DeviceFailedError or SourceError."""
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

    def _ask(self, name: str, ask: Callable[[], Any], metrics: Iterable[Metric], answers: Answers) -> Any:
        """The answer of one driver call, or None with the error accounted for."""
        try:
            answer = ask()
        except pynvml.NVMLError as error:
            self._refused(error.value, name, metrics, answers)
            return None
        answers.answered = True
        answers.answering.add(name)
        return answer

    def _refused(self, code: int, name: str, metrics: Iterable[Metric], answers: Answers) -> None:
        raise_if_fatal(code, name)
        if code in UNSUPPORTED:
            answers.unsupported.extend(metrics)
        elif code not in NO_VALUE_NOW:
            answers.failing.add(name.partition("(")[0])
            answers.errors.update(dict.fromkeys(metrics, (code, name)))
        if code in NO_VALUE_NOW or code == pynvml.NVML_ERROR_NOT_SUPPORTED:
            answers.answered = True
        elif not answers.answered and code != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            answers.refusals += 1
            if answers.refusals >= _REFUSALS:
                raise DeviceFailedError(failure(code, name), code)

    def _call(self, rows: list[tuple[Metric, Call]], answers: Answers) -> None:
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
        answers: Answers,
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
                    answers.fixed[metric] = hottest - raw[0]
            elif column.wraps and batch.kind(places[0]) == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT:
                before = self._wrapping.get(metric, int(raw[0]))
                self._wrapping[metric] = int(raw[0])
                answers.increments[metric] = scaled((int(raw[0]) - before) % 2**32, column.scale)
            else:
                answers.values[metric] = scaled(sum(raw), column.scale)

    def _hottest(self, limits: list[Metric], answers: Answers) -> float | None:
        """The temperature at which the margin is used up: limits are told as distances from it."""
        margin = self._ask(
            "nvmlDeviceGetMarginTemperature",
            lambda: (pynvml.nvmlDeviceGetMarginTemperature(self.handle),),
            limits,
            answers,
        )
        temperature = answers.values.get(_TEMPERATURE)
        return None if margin is None or temperature is None else temperature + margin[0]

    def _samples(self, metric: Metric, column: Samples, answers: Answers) -> None:
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

    def _fan_speeds(self, metric: Metric, column: Fans, answers: Answers) -> None:
        for fan in range(self.fans):
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

    def _link_states(self, rows: list[tuple[Metric, Links]], answers: Answers) -> None:
        states = []
        for link in range(self.links[rows[0][0].links or ""]):
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
