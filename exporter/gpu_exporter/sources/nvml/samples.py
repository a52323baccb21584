"""The driver's own sample buffers, integrated over time.

Samples carry the time of a clock that is not ours: it is set, it slews, some drivers count since the machine was
started, and one bad stamp may stand among good ones. So no stamp is ever compared with our clocks, and none is kept as
the newest for good. A sample is new where the buffer did not have it before, and stands for the time since the one
before it. One without a neighbour is not believed, and of more than the time that passed on our monotonic clock only
the newest are. The ledger integrates the gauge over what is left.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import pynvml

from gpu_exporter.catalog.row import Samples, scaled
from gpu_exporter.sources.nvml.numbers import NOT_AVAILABLE

CALL: Final = "nvmlDeviceGetSamples"
# nvml.h, nvmlDeviceGetSamples: a sample stands for 1/6 to 1 s. A longer gap between two was not sampled.
_LONGEST_GAP: Final = 2_000_000  # microseconds
# nvml.h, nvmlSample_t: the time in microseconds, and the value in a union of eight bytes, by its type.
_LAYOUT: Final = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: struct.Struct("=Qd"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: struct.Struct("=QI4x"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: struct.Struct("=QQ"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: struct.Struct("=QQ"),
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: struct.Struct("=Qq"),
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: struct.Struct("=Qi4x"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: struct.Struct("=QH6x"),
}
_SIZE: Final = 16
_MOST_ROOM: Final = 16_384


class Told(NamedTuple):
    """What a buffer told since it was last looked at: value x seconds in base units, the seconds, what cannot be.

    ``amount`` is None where it told nothing of the time: it was empty, or all of it cannot be, or it was never looked
    at before; then the gauge stands for that time. 0.0 in 0.0 seconds says that no sample was due yet.
    """

    amount: float | None
    seconds: float = 0.0
    refused: tuple[float, ...] = ()


class SampleBuffers:
    """One device's buffers. Belongs to whichever thread reads the device; ``monotonic`` tells seconds."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._rooms: dict[str, int] = {}
        self._seen: dict[str, Seen] = {}

    def read(self, handle: Any, column: Samples, *, plausible: tuple[float, float]) -> Told:
        """What the buffer tells since the previous call; ``plausible`` bounds its values, in base units.

        Raises NVMLError.
        """
        seen = self._seen.setdefault(column.name, Seen())
        passed = seen.passed(self._monotonic())
        samples = self._ask(handle, column.name)
        return seen.integrate(samples, passed, scale=column.scale, plausible=plausible)

    def _ask(self, handle: Any, name: str) -> dict[int, float]:
        """Everything that the buffer holds: value by stamp. The driver takes as long for some of it as for all."""
        room = self._rooms.get(name, 0)
        answer = _call(handle, name, room) if room else None
        if answer is None or len(answer) >= room:  # it may hold more by now
            larger = self._rooms[name] = min(_room(handle, name), _MOST_ROOM)
            # A buffer that is full stays so. Its samples cost milliseconds, and its size next to nothing.
            if larger and (answer is None or larger > room):
                answer = _call(handle, name, larger)
        found: dict[int, float] = {}
        for stamp, value in answer or ():
            found.setdefault(stamp, value)
        return found


def _room(handle: Any, name: str) -> int:
    """How many samples the buffer can hold; asked without a place for them. Raises NVMLError."""
    count = ctypes.c_uint(0)
    _function_call(handle, name, count, None)
    return count.value


def _call(handle: Any, name: str, room: int) -> Sequence[tuple[int, float]] | None:
    """So many samples at most, None where there are more. Raises NVMLError."""
    count, buffer = ctypes.c_uint(room), ctypes.create_string_buffer(room * _SIZE)
    try:
        value_type = _function_call(handle, name, count, buffer)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
            return None
        raise
    layout = _LAYOUT.get(value_type, _LAYOUT[pynvml.NVML_VALUE_TYPE_UNSIGNED_INT])
    return list(layout.iter_unpack(buffer.raw[: min(count.value, room) * _SIZE]))


def _function_call(handle: Any, name: str, count: ctypes.c_uint, buffer: Any) -> int:
    """The type of the values. Samples are asked for from any time on: what is new, we find out ourselves."""
    function = pynvml._nvmlGetFunctionPointer(CALL)  # noqa: SLF001 - tells a missing symbol as pynvml does
    kind, value_type = ctypes.c_uint(getattr(pynvml, name)), ctypes.c_uint(0)
    code = function(handle, kind, ctypes.c_ulonglong(0), ctypes.byref(value_type), ctypes.byref(count), buffer)
    if code != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(code)
    return value_type.value


class Seen:
    """What one buffer held when it was last looked at."""

    __slots__ = ("_at", "_latest", "_stamps")

    def __init__(self) -> None:
        self._stamps: array[int] | None = None  # a set of numbers would take twenty times as much
        self._latest = 0  # of those that were new then
        self._at: float | None = None

    def passed(self, now: float) -> float:
        """Microseconds since the previous look."""
        before, self._at = self._at, now
        return 0.0 if before is None else (now - before) * 1e6

    def integrate(
        self, samples: Mapping[int, float], passed: float, *, scale: float, plausible: tuple[float, float]
    ) -> Told:
        """Value x time of the samples that are new; ``passed`` in microseconds bounds how many can be."""
        before = None if self._stamps is None else frozenset(self._stamps)
        stamps = sorted(stamp for stamp in samples if stamp)
        if not stamps:
            return Told(None)
        self._stamps = array("Q", stamps)
        if before is None:
            self._latest = stamps[-1]
            return Told(None)
        lengths = _lengths(stamps, before, self._latest)
        new = _believed(lengths, self._latest, passed)
        self._latest = next(reversed(lengths), self._latest)
        if not new:
            return Told(0.0)
        amount, covered, refused = 0.0, 0, []
        lowest, highest = plausible
        for stamp in new:
            raw = samples[stamp]
            value = scaled(raw, scale)
            if raw in NOT_AVAILABLE or not lowest <= value <= highest:
                refused.append(value)
            else:
                amount += raw * lengths[stamp]
                covered += lengths[stamp]
        return Told(scaled(amount, scale) / 1e6 if covered else None, covered / 1e6, tuple(refused))


def _lengths(stamps: Sequence[int], seen: Container[int], latest: int) -> dict[int, int]:
    """How long each new sample stands for, in microseconds: the time since the one before; after a gap, what is usual.

    ``stamps`` are sorted. One without a neighbour is left out: a stamp that is alone is as likely wrong as right. Where
    a clock was set back by less than the buffer is long, new samples stand between old ones, which are passed over;
    ``latest`` was the latest new one before.
    """
    lengths: dict[int, int] = {}
    endless, last = _LONGEST_GAP + 1, len(stamps) - 1
    for place, stamp in enumerate(stamps):
        if stamp in seen:
            continue
        before = stamp - stamps[place - 1] if place else endless
        after = stamps[place + 1] - stamp if place < last else endless
        if min(before, after) > _LONGEST_GAP:
            continue
        length = stamp - latest if 0 < stamp - latest <= _LONGEST_GAP else before
        lengths[stamp] = length if length <= _LONGEST_GAP else _usual(stamps)
        latest = stamp
    return lengths


def _usual(stamps: Sequence[int]) -> int:
    """How far apart neighbours mostly are."""
    short = sorted(gap for gap in (after - before for before, after in pairwise(stamps)) if gap <= _LONGEST_GAP)
    return short[len(short) // 2] if short else 0


def _believed(lengths: Mapping[int, int], latest: int, passed: float) -> list[int]:
    """Those new samples for which there was time: where all were stamped anew, most of them are not new."""
    most, new = passed + _LONGEST_GAP, list(lengths)
    if sum(lengths.values()) <= most:
        return new
    later = [stamp for stamp in new if stamp > latest]
    if later and sum(lengths[stamp] for stamp in later) <= most:
        return later
    kept, length = [], 0
    for stamp in reversed(new):
        length += lengths[stamp]
        if length > most:
            break
        kept.append(stamp)
    return kept
