"""NVML's library, recorded: one that notes every answer on its way, and one that gives recorded answers again.

Both stand where pynvml keeps the library, so that everything above it is as it always is. A question is a line of text:
the GPU, the function, what distinguishes it; an answer is the return code and what was written. Three functions answer
many questions at once, each of which is noted by itself: field values, GPM metrics and samples.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import pynvml

from gpu_exporter.sources.nvml import wire
from gpu_exporter.sources.nvml.fields import CALL as FIELD_VALUES
from gpu_exporter.sources.nvml.samples import CALL as SAMPLES
from gpu_exporter.sources.tape import Playback, Tape

log = logging.getLogger(__name__)

# What they tell is nobody's business but the owner's.
_PRIVATE: Final = frozenset(
    {
        "nvmlDeviceGetSerial",
        "nvmlDeviceGetBoardPartNumber",
        "nvmlDeviceGetPlatformInfo",
        "nvmlSystemGetProcessName",
        "nvmlUnitGetUnitInfo",
    }
)
_BY_INDEX: Final = ("nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByIndex_v2")
_MIG_BY_INDEX: Final = "nvmlDeviceGetMigDeviceHandleByIndex"
_GPM_SAMPLES: Final = ("nvmlGpmSampleGet", "nvmlGpmMigSampleGet")
_GPM_METRICS: Final = "nvmlGpmMetricsGet"
_WAITS: Final = ("nvmlEventSetWait_v2", "nvmlEventSetWait")
# A session begins and ends, and memory is freed, whatever was recorded.
_ALWAYS: Final = frozenset(
    {"nvmlInit_v2", "nvmlInitWithFlags", "nvmlShutdown", "nvmlEventSetFree", "nvmlGpmSampleFree"}
)
_NOBODY: Final = "-"
_FIRST: Final = 0x1000  # an address; nothing is ever looked up there
_SAMPLE: Final = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


class _Handles:
    """Who is behind a handle: "0" is the first GPU, "0/1" its second MIG device."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._addresses: dict[str, int] = {}

    def name(self, handle: Any) -> str:
        return self._names.get(wire.address(handle), _NOBODY)

    def learn(self, name: str, handle: Any) -> None:
        self._names[wire.address(handle)] = name

    def issue(self, name: str) -> int:
        """The address that stands for a name."""
        found = self._addresses.setdefault(name, _FIRST + 16 * len(self._addresses))
        self._names[found] = name
        return found

    def called(self, function: str, arguments: Sequence[Any]) -> str | None:
        """The name of the handle that the function asks for; None where it goes by no name of its own."""
        if function in _BY_INDEX:
            return str(_whole(arguments[0]))
        if function == _MIG_BY_INDEX:
            return f"{self.name(arguments[0])}/{_whole(arguments[1])}"
        return None


class RecordingLibrary:
    """Passes every call on to the library, and notes it."""

    def __init__(self, library: ctypes.CDLL, tape: Tape) -> None:
        self._library = library
        self._handle = library._handle  # noqa: SLF001 - who unloads the library asks for it
        self._tape = tape
        self._handles = _Handles()
        self._sampled: dict[int, str] = {}  # which GPU a GPM sample is of

    def __getattr__(self, name: str) -> Callable[..., int]:
        """A function of the library. Raises AttributeError where it has none of that name."""
        return partial(self._call, name, getattr(self._library, name))

    def _call(self, name: str, function: Callable[..., int], *arguments: Any) -> int:
        if name in _PRIVATE and not self._tape.names:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        targets = wire.outputs(arguments)
        before = [wire.raw(target) for target in targets]
        owner = next((self._handles.name(handle) for handle in wire.devices(arguments)), _NOBODY)
        question = f"{owner} {name} {wire.inputs(arguments)}".rstrip()
        special = name in {FIELD_VALUES, SAMPLES, _GPM_METRICS, *_WAITS}
        if not special and name not in _ALWAYS:
            self._tape.put(question, None)  # stands where the call does not return
        code = int(function(*arguments))
        try:
            if name in _GPM_SAMPLES:
                self._sampled[wire.address(arguments[-1])] = _sampled(name, owner, arguments)
            if special:
                self._note(name, code, owner, arguments)
            elif name not in _ALWAYS:
                told = [wire.encode(target, old) for target, old in zip(targets, before, strict=True)]
                self._tape.put(question, [code, *(told if code == pynvml.NVML_SUCCESS else ())])
            self._learn(name, code, arguments, targets)
        except (TypeError, ValueError, AttributeError) as error:
            log.warning("an answer cannot be recorded", extra={"call": name, "error": str(error)})
        return code

    def _learn(self, name: str, code: int, arguments: Sequence[Any], targets: Sequence[Any]) -> None:
        called = self._handles.called(name, arguments)
        if called is not None and code == pynvml.NVML_SUCCESS and targets:
            self._handles.learn(called, targets[-1])

    def _note(self, name: str, code: int, owner: str, arguments: Sequence[Any]) -> None:
        """Note each answer of a function that gives several, or none that stands."""
        if name == FIELD_VALUES:
            for answer in arguments[2] if code == pynvml.NVML_SUCCESS else ():
                told = [answer.nvmlReturn, answer.valueType, int(answer.value.ullVal)]
                self._tape.put(f"{owner} {name} {answer.fieldId}:{answer.scopeId}", told)
            self._tape.put(f"{owner} {name}", [code])
        elif name == SAMPLES:
            self._note_samples(code, owner, arguments)
        elif name == _GPM_METRICS:
            request = wire.target_of(arguments[0])
            owner = self._sampled.get(wire.address(request.sample2), _NOBODY)
            for answer in request.metrics[: request.numMetrics] if code == pynvml.NVML_SUCCESS else ():
                told = [answer.nvmlReturn, answer.value if answer.value == answer.value else "nan"]
                self._tape.put(f"{owner} {name} {answer.metricId}", told)
            self._tape.put(f"{owner} {name}", [code])
        elif code == pynvml.NVML_SUCCESS:
            event = wire.target_of(arguments[1])
            device = self._handles.name(event.device)
            self._tape.event({"gpu": device, "type": int(event.eventType), "data": int(event.eventData)})

    def _note_samples(self, code: int, owner: str, arguments: Sequence[Any]) -> None:
        _, kind, _, value_type, count, buffer = arguments
        question = f"{owner} {SAMPLES} {_whole(kind)}"
        if code != pynvml.NVML_SUCCESS:
            if code != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
                self._tape.put(question, [code])
        elif buffer is not None:
            member = _SAMPLE.get(wire.target_of(value_type).value, "ullVal")
            told = (_Samples * wire.target_of(count).value).from_buffer_copy(wire.raw(buffer))
            samples = [[each.timeStamp, getattr(each.sampleValue, member)] for each in told]
            self._tape.put(question, [code, wire.target_of(value_type).value, samples])


class _Samples(ctypes.Structure):
    """nvml.h: nvmlSample_t."""

    _fields_ = (("timeStamp", ctypes.c_ulonglong), ("sampleValue", pynvml.c_nvmlValue_t))


class RecordedLibrary:
    """Answers as the recording does at this moment. What was never asked for it does not have."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback
        self._functions = {key.split(" ")[1] for key in playback.recording.answers if key.count(" ")}
        self._handles = _Handles()
        self._sampled: dict[int, str] = {}
        self._issued = 0
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., int]:
        """A function that was recorded. Raises AttributeError for all others."""
        if name not in self._functions and name not in _ALWAYS and name not in _WAITS:
            raise AttributeError(name)
        return partial(self._call, name)

    def _call(self, name: str, *arguments: Any) -> int:
        if name in _ALWAYS:
            return int(pynvml.NVML_SUCCESS)
        owner = next((self._handles.name(handle) for handle in wire.devices(arguments)), _NOBODY)
        try:
            if name in _WAITS:
                return self._next_event(arguments)
            if name == FIELD_VALUES:
                return self._field_values(owner, arguments)
            if name == SAMPLES:
                return self._samples(owner, arguments)
            if name == _GPM_METRICS:
                return self._gpm_metrics(arguments)
            return self._again(name, owner, arguments)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, ctypes.ArgumentError):
            log.debug("a recorded answer does not fit", extra={"call": name})
            return int(pynvml.NVML_ERROR_UNKNOWN)

    def _again(self, name: str, owner: str, arguments: Sequence[Any]) -> int:
        question = f"{owner} {name} {wire.inputs(arguments)}".rstrip()
        answer = self._playback.answer(question)
        if answer is None:
            return int(pynvml.NVML_ERROR_TIMEOUT if question in self._playback.recording.answers else _unknown(name))
        code, *told = answer
        if code != pynvml.NVML_SUCCESS:
            return int(code)
        targets = wire.outputs(arguments)
        for target in targets:
            if wire.is_pointer(target):
                self._point(name, arguments, target)
        if self._too_long(told, targets):
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        for target, each in zip(targets, told, strict=False):
            wire.decode(each, target)
        if name in _GPM_SAMPLES:
            self._sampled[wire.address(arguments[-1])] = _sampled(name, owner, arguments)
        return int(code)

    def _point(self, name: str, arguments: Sequence[Any], target: Any) -> None:
        with self._lock:
            self._issued += 1
            called = self._handles.called(name, arguments) or f"{name} {self._issued}"
            wire.point(target, self._handles.issue(called))

    @staticmethod
    def _too_long(told: Sequence[Any], targets: Sequence[Any]) -> bool:
        """Whether a list has less room than was written; its count says how much there is."""
        for target, each in zip(targets, told, strict=False):
            if isinstance(target, ctypes.Array) and isinstance(each, dict) and len(each["hex"]) > 2 * len(target):
                for count, number in zip(targets, told, strict=False):
                    if isinstance(count, ctypes.c_uint):
                        count.value = int(number)
                return True
        return False

    def _field_values(self, owner: str, arguments: Sequence[Any]) -> int:
        whole = self._playback.answer(f"{owner} {FIELD_VALUES}")
        if whole is None or whole[0] != pynvml.NVML_SUCCESS:
            return int(whole[0]) if whole else int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        for field in arguments[2]:
            told = self._playback.answer(f"{owner} {FIELD_VALUES} {field.fieldId}:{field.scopeId}")
            code, kind, value = told or (pynvml.NVML_ERROR_NOT_SUPPORTED, 0, 0)
            field.nvmlReturn, field.valueType, field.value.ullVal = int(code), int(kind), int(value)
        return int(pynvml.NVML_SUCCESS)

    def _samples(self, owner: str, arguments: Sequence[Any]) -> int:
        _, kind, _, value_type, count, buffer = arguments
        told = self._playback.answer(f"{owner} {SAMPLES} {_whole(kind)}")
        if told is None or told[0] != pynvml.NVML_SUCCESS:
            return int(told[0]) if told else int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        _, number, samples = told
        room = wire.target_of(count).value
        wire.target_of(count).value, wire.target_of(value_type).value = len(samples), int(number)
        if buffer is None:
            return int(pynvml.NVML_SUCCESS)
        if len(samples) > room:
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        written = (_Samples * len(samples))()
        member = _SAMPLE.get(number, "ullVal")
        for place, (stamp, value) in zip(written, samples, strict=True):
            place.timeStamp = int(stamp)
            setattr(place.sampleValue, member, float(value) if member == "dVal" else int(value))
        ctypes.memmove(buffer, written, ctypes.sizeof(written))
        return int(pynvml.NVML_SUCCESS)

    def _gpm_metrics(self, arguments: Sequence[Any]) -> int:
        request = wire.target_of(arguments[0])
        owner = self._sampled.get(wire.address(request.sample2), _NOBODY)
        whole = self._playback.answer(f"{owner} {_GPM_METRICS}")
        if whole is None or whole[0] != pynvml.NVML_SUCCESS:
            return int(whole[0]) if whole else int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        for place in range(request.numMetrics):
            metric = request.metrics[place]
            told = self._playback.answer(f"{owner} {_GPM_METRICS} {metric.metricId}")
            code, value = told or (pynvml.NVML_ERROR_NOT_SUPPORTED, 0.0)
            metric.nvmlReturn, metric.value = int(code), float(value)
        return int(pynvml.NVML_SUCCESS)

    def _next_event(self, arguments: Sequence[Any]) -> int:
        told = self._playback.next_event()
        if told is None:
            return int(pynvml.NVML_ERROR_TIMEOUT)
        event = wire.target_of(arguments[1])
        wire.point(event.device, self._handles.issue(str(told["gpu"])))
        event.eventType, event.eventData = int(told["type"]), int(told["data"])
        return int(pynvml.NVML_SUCCESS)


def _sampled(name: str, owner: str, arguments: Sequence[Any]) -> str:
    """What a GPM sample is of: a GPU, or one of its GPU instances ("0:1")."""
    return owner if name == _GPM_SAMPLES[0] else f"{owner}:{_whole(arguments[1])}"


def _unknown(name: str) -> int:
    """What a question is answered that was never recorded: an index that is none, or a value that is none."""
    return int(pynvml.NVML_ERROR_INVALID_ARGUMENT if name in _BY_INDEX else pynvml.NVML_ERROR_NOT_SUPPORTED)


def _whole(value: Any) -> int:
    return int(getattr(value, "value", value))
