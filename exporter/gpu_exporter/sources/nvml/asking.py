"""The driver's answers to one device's questions, each call made once a reading and its errors accounted for."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import pynvml

from gpu_exporter.catalog import DEVICE_METRICS, WHOLE, by_name, told_together
from gpu_exporter.catalog.row import Call, Fans, Field, Gpm, Limit, Links, Metric, Samples, scaled
from gpu_exporter.sources.nvml.errors import (
    NO_VALUE_NOW,
    UNSUPPORTED,
    DeviceFailedError,
    failure,
    raise_if_fatal,
)
from gpu_exporter.sources.nvml.fields import CALL as FIELD_VALUES
from gpu_exporter.sources.nvml.fields import FieldBatch
from gpu_exporter.sources.nvml.gpm import CALL as GPM
from gpu_exporter.sources.nvml.gpm import GpmReader, Interval, supported
from gpu_exporter.sources.nvml.links import LinkAnswers, LinkRows
from gpu_exporter.sources.nvml.numbers import parts
from gpu_exporter.sources.nvml.samples import CALL as SAMPLES
from gpu_exporter.sources.nvml.samples import SampleBuffers, Told

log = logging.getLogger(__name__)

_RPM: Final = "nvmlDeviceGetFanSpeedRPM"
_TEMPERATURE: Final = by_name("gpu_temperature_celsius")
_KINDS_OF_LINKS: Final = tuple(dict.fromkeys(metric.links for metric in DEVICE_METRICS if metric.links is not None))
# So many answers in a row that are neither a value nor a "not supported" condemn a device that takes its time for them;
# of one that refuses at once everything is asked: one call of fifty may answer, and then it is up.
_REFUSALS: Final = 3
_PATIENCE: Final = 0.5  # seconds
# Of links and fans of one device; NVML_NVLINK_MAX_LINKS is 36.
_MOST_PARTS: Final = 64


@dataclass(slots=True)
class Work:
    """Rows grouped by the driver call that answers them."""

    calls: dict[tuple[Any, ...], list[tuple[Metric, Call]]] = field(default_factory=dict)
    fields: list[tuple[Metric, Field | Links | Limit, tuple[int, ...]]] = field(default_factory=list)
    asked: dict[tuple[int, int], int] = field(default_factory=dict)  # field and scope, with its place in the batch
    batch: FieldBatch | None = None
    samples: list[tuple[Metric, Samples]] = field(default_factory=list)
    fans: list[tuple[Metric, Fans]] = field(default_factory=list)
    link_states: list[tuple[Metric, Links]] = field(default_factory=list)
    gpm: list[tuple[Metric, Gpm]] = field(default_factory=list)


@dataclass(slots=True)
class Answers:
    """What one reading, that began at ``began`` (monotonic seconds), has gathered so far.

    ``unsupported`` are rows whose column the device does not have, ``refused`` values that were told and are none.
    ``errors`` has the code and the call of rows that lack a value for another reason. ``partial`` tells why most of
    what the device otherwise tells is missing; empty where it is not.
    """

    began: float
    values: dict[Metric, float] = field(default_factory=dict)
    increments: dict[Metric, float] = field(default_factory=dict)
    covered: dict[Metric, float | None] = field(default_factory=dict)
    labelled: dict[tuple[Metric, tuple[str, ...]], float] = field(default_factory=dict)
    fixed: dict[Metric, float] = field(default_factory=dict)  # never to be asked for again
    unsupported: list[Metric] = field(default_factory=list)
    refused: list[tuple[Metric, float]] = field(default_factory=list)
    errors: dict[Metric, tuple[int, str]] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)  # calls that answered an error
    answering: set[str] = field(default_factory=set)  # those that did not
    answered: bool = False
    refusals: int = 0
    partial: str = ""

    def told(self) -> set[Metric]:
        """The rows that have a value."""
        return {
            *self.values,
            *(metric for metric in self.increments if metric not in self.errors),
            *(metric for metric, _ in self.labelled),
        }

    def gather(self) -> None:
        """Put parts that are told together under their row."""
        self.labelled |= told_together(self.values)
        self.refused = [(WHOLE.get(metric, metric), value) for metric, value in self.refused]

    def silent(self) -> bool:
        """Whether not one call gave a number; an empty buffer is none."""
        grown = any(self.covered.get(each, 0.0) is not None for each in self.increments if each not in self.errors)
        return not (self.values or self.labelled or self.fixed or grown)

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

    ``links`` has how many links it has of each kind that it has any of, ``fans`` how many fans, ``has_gpm`` whether it
    has GPM; ``count`` finds it out. ``monotonic`` tells seconds.
    """

    def __init__(self, handle: Any, *, monotonic: Callable[[], float]) -> None:
        self.handle = handle
        self.links: dict[str, int] = {}
        self.fans = 0
        self.has_gpm = False
        self._monotonic = monotonic
        self._impossible: set[str] = set()  # counts that were logged
        self._gpm = GpmReader(monotonic=monotonic)
        self._link_rows = LinkRows()
        self._buffers = SampleBuffers(monotonic=monotonic)

    def count(self) -> bool:
        """Count links and fans; False where the device did not tell all of it, or less than before.

        Links do not go away: one that is not there any more is one that does not answer. Raises DeviceFailedError.
        """
        links = self._count_links()
        fans = self._count_fans()
        whole = links is not None and fans is not None and self.links.keys() <= links.keys() and self.fans <= fans
        counted = {kind: max(count, self.links.get(kind, 0)) for kind, count in (links or {}).items()}
        if not counted.items() <= self.links.items():
            self._link_rows = LinkRows()
        self.links |= counted
        self.fans = self.fans if fans is None else fans
        self.has_gpm = self.has_gpm or supported(self.handle)
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
            self._ask_link_states(work.link_states, answers)
        if work.gpm:
            self._ask_gpm(work.gpm, answers)

    def links_with_errors(self, metric: Metric, column: Field) -> list[tuple[int, float]]:
        """The links that have counted anything in this row, and how much."""
        return self._link_rows.with_errors(metric, column)

    def close(self) -> None:
        """Free what the driver holds for us."""
        self._gpm.close()

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
            if answers.refusals >= _REFUSALS and self._monotonic() - answers.began >= _PATIENCE:
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
            if row.only is not None and getattr(answer, row.only[0]) != row.only[1]:
                continue
            numbers = parts(answer, row)
            bad = next((number for number, nothing in numbers if number in nothing), None)
            if bad is not None:
                answers.refused.append((metric, float(bad)))
            elif row.codes:
                told = dict(row.codes).get(numbers[0][0] >> row.shift & row.mask)
                if told is not None:
                    answers.values[metric] = told
            elif row.bit is not None:
                answers.values[metric] = float(bool(numbers[0][0] & getattr(pynvml, row.bit)))
            elif (value := scaled(sum(number for number, _ in numbers), row.scale)) not in row.absent:
                answers.values[metric] = float(value)

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
            name = f"{FIELD_VALUES}({column.state if isinstance(column, Links) else column.name})"
            if isinstance(column, Links) or (isinstance(column, Field) and column.scope == "links"):
                told = LinkAnswers(
                    [codes[place] for place in places],
                    [batch.value(place) for place in places],
                    raw=lambda link, places=places: batch.raw(places[link]),  # type: ignore[misc]
                )
                self._of_links(metric, column, name, told, answers)
                continue
            (place,) = places
            if codes[place]:
                self._refused(codes[place], name, [metric], answers)
            elif isinstance(column, Limit):
                # A distance of -1 °C is one.
                if hottest is not None:
                    _put(metric, hottest - batch.raw(place), answers.fixed, answers)
            elif (value := batch.value(place)) is None:
                answers.refused.append((metric, batch.raw(place)))
            elif column.wraps and batch.kind(place) == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT:
                answers.unsupported.append(metric)
            else:
                answers.values[metric] = scaled(value, column.scale)

    def _hottest(self, limits: list[Metric], answers: Answers) -> float | None:
        """The temperature at which the margin is used up: limits are told as distances from it."""
        margin = self._ask(
            "nvmlDeviceGetMarginTemperature",
            lambda: (pynvml.nvmlDeviceGetMarginTemperature(self.handle),),
            limits,
            answers,
        )
        temperature = answers.values.get(_TEMPERATURE)
        if margin is None or temperature is None or not _plausible(_TEMPERATURE, temperature):
            return None
        return temperature + float(margin[0])

    def _samples(self, metric: Metric, column: Samples, answers: Answers) -> None:
        told = self._ask(
            SAMPLES,
            lambda: self._buffers.read(self.handle, column, plausible=_gauge_of(metric).plausible),
            [metric],
            answers,
        )
        if metric not in answers.unsupported:
            told = told or Told(None)
            answers.increments[metric] = told.amount or 0.0
            answers.covered[metric] = None if told.amount is None else told.seconds
            answers.refused += [(metric, value) for value in told.refused]

    def _fan_speeds(self, metric: Metric, column: Fans, answers: Answers) -> None:
        if column.name == _RPM:
            self._fan_rpms(metric, answers)
            return
        for fan in range(self.fans):
            speed = self._ask(
                column.name,
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

    def _fan_rpms(self, metric: Metric, answers: Answers) -> None:
        """One that cannot be measured costs itself only. pynvml's own function asks for the first fan and no other."""
        for fan in range(self.fans):
            asked = pynvml.c_nvmlFanSpeedInfo_t(pynvml.nvmlFanSpeedInfo_v1, fan)
            # The answer of a fan that is refused says nothing of the row, unless it is the first.
            rpm = self._ask(_RPM, lambda asked=asked: _rpm(self.handle, asked), [metric][fan:], answers)  # type: ignore[misc]
            if rpm is not None:
                answers.labelled[metric, (str(fan),)] = float(rpm)
            elif fan == 0:
                return

    def _ask_link_states(self, rows: list[tuple[Metric, Links]], answers: Answers) -> None:
        name = "nvmlDeviceGetNvLinkState"
        codes, states = [], []
        for link in range(self.links[rows[0][0].links or ""]):
            try:
                states.append(float(pynvml.nvmlDeviceGetNvLinkState(self.handle, link)))
                codes.append(pynvml.NVML_SUCCESS)
            except pynvml.NVMLError as error:
                states.append(0.0)
                codes.append(error.value)
        told = LinkAnswers(codes, states, raw=states.__getitem__)
        for metric, column in rows:
            self._of_links(metric, column, name, told, answers)

    def _of_links(self, metric: Metric, column: Field | Links, name: str, told: LinkAnswers, answers: Answers) -> None:
        """One row of all links, with what each told."""
        if any(told.codes):
            for code in told.codes:
                raise_if_fatal(code, name)
            if all(told.codes):
                self._refused(told.codes[0], name, [metric], answers)
                return
        answers.answered = True
        answers.answering.add(name.partition("(")[0])
        total = self._link_rows.total(metric, column, told, answers.refused)
        if total is not None:
            answers.values[metric] = total

    def _ask_gpm(self, rows: list[tuple[Metric, Gpm]], answers: Answers) -> None:
        numbers = {metric: int(getattr(pynvml, column.name)) for metric, column in rows}
        wanted = list(dict.fromkeys(numbers.values()))
        interval = self._ask(GPM, lambda: self._gpm.read(self.handle, wanted), numbers, answers)
        if interval is None and set(numbers) <= set(answers.unsupported):
            return
        interval = interval or Interval()
        for metric, column in rows:
            number, counts = numbers[metric], metric.kind == "counter"
            mean = interval.means.get(number)
            if mean is None:
                # A counter is there from the first sample on; a share of no time at all is not.
                if counts and number not in interval.lacking:
                    answers.increments[metric] = 0.0
            elif not 0 <= mean <= column.most:
                answers.refused.append((metric, scaled(mean, column.scale)))
                if counts:
                    answers.increments[metric] = 0.0
            elif counts:
                answers.increments[metric] = scaled(min(mean, column.full) * interval.seconds, column.scale)
            else:
                answers.values[metric] = scaled(min(mean, column.full), column.scale)


def _rpm(handle: Any, asked: Any) -> int:
    function = pynvml._nvmlGetFunctionPointer(_RPM)  # noqa: SLF001 - tells a missing symbol as pynvml does
    code = function(handle, ctypes.byref(asked))
    if code != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(code)
    return int(asked.speed)


def _plausible(metric: Metric, value: float) -> bool:
    return metric.plausible[0] <= value <= metric.plausible[1]


def _put(metric: Metric, value: float, into: dict[Metric, float], answers: Answers) -> None:
    if _plausible(metric, value):
        into[metric] = value
    else:
        answers.refused.append((metric, value))


def _gauge_of(counter: Metric) -> Metric:
    """The gauge whose integral the counter is: what a sample of it can be, the gauge can."""
    return by_name(counter.integral_of or counter.name, **dict(counter.labels))
