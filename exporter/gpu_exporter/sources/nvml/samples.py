"""The driver's own sample buffers, integrated over time.

Samples carry the time of a clock that is not ours: it is set, it slews, some drivers count since the machine was
started, and one bad stamp may stand among good ones. So no stamp is ever compared with our clocks, and none is kept as
the newest for good. A sample is new where the buffer did not have it before; it stands for the time since the one
before it; and of more than the time that passed on our monotonic clock only the newest are believed. The ledger
integrates the gauge over what is left.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import pynvml

from gpu_exporter.catalog.row import Samples, scaled
from gpu_exporter.sources.nvml.numbers import NOT_AVAILABLE

CALL: Final = "nvmlDeviceGetSamples"
# nvml.h, nvmlDeviceGetSamples: a sample stands for 1/6 to 1 s. A longer gap between two was not sampled.
_LONGEST_GAP: Final = 2_000_000  # microseconds
_LONGEST_SAMPLE: Final = 1_000_000
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
        self._seen: dict[str, _Seen] = {}

    def read(self, handle: Any, column: Samples, *, plausible: tuple[float, float]) -> Told:
        """What the buffer tells since the previous call; ``plausible`` bounds its values, in base units.

        Raises NVMLError.
        """
        seen = self._seen.setdefault(column.name, _Seen())
        passed = seen.passed(self._monotonic())
        samples = self._ask(handle, column.name)
        return seen.integrate(samples, passed, scale=column.scale, plausible=plausible)

    def _ask(self, handle: Any, name: str) -> Mapping[int, float]:
        """Everything that the buffer holds: value by stamp. The driver takes as long for some of it as for all."""
        function = pynvml._nvmlGetFunctionPointer(CALL)  # noqa: SLF001 - tells a missing symbol as pynvml does
        kind, since = ctypes.c_uint(getattr(pynvml, name)), ctypes.c_ulonglong(0)
        value_type, count = ctypes.c_uint(0), ctypes.c_uint(0)
        room = self._rooms.get(name, 0)
        while True:
            count.value = room
            buffer = ctypes.create_string_buffer(room * _SIZE) if room else None
            code = function(handle, kind, since, ctypes.byref(value_type), ctypes.byref(count), buffer)
            full = room and (code == pynvml.NVML_ERROR_INSUFFICIENT_SIZE or count.value >= room)
            if full and room != _MOST_ROOM and self._rooms.pop(name, None) is not None:
                room = 0  # it may hold more by now: ask how much, as at the first time
                continue
            if code != pynvml.NVML_SUCCESS:
                raise pynvml.NVMLError(code)
            if buffer is not None:
                break
            room = self._rooms[name] = min(count.value, _MOST_ROOM)
            if not room:
                return {}
        layout = _LAYOUT.get(value_type.value, _LAYOUT[pynvml.NVML_VALUE_TYPE_UNSIGNED_INT])
        found: dict[int, float] = {}
        for stamp, value in layout.iter_unpack(buffer.raw[: min(count.value, room) * _SIZE]):
            found.setdefault(stamp, value)
        return found


class _Seen:
    """What one buffer held when it was last looked at."""

    __slots__ = ("_at", "_newest", "_stamps")

    def __init__(self) -> None:
        self._stamps: frozenset[int] | None = None
        self._newest = 0
        self._at: float | None = None

    def passed(self, now: float) -> float:
        """Microseconds since the previous look."""
        before, self._at = self._at, now
        return 0.0 if before is None else (now - before) * 1e6

    def integrate(
        self, samples: Mapping[int, float], passed: float, *, scale: float, plausible: tuple[float, float]
    ) -> Told:
        """Value x time of the samples that are new; ``passed`` in microseconds bounds how many can be."""
        before, newest = self._stamps, self._newest
        stamps = sorted(stamp for stamp in samples if stamp)
        if not stamps:
            return Told(None)
        self._stamps, self._newest = frozenset(stamps), stamps[-1]
        if before is None:
            return Told(None)
        lengths = _lengths(stamps)
        new = _believed([stamp for stamp in stamps if stamp not in before], lengths, newest, passed)
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


def _lengths(stamps: Iterable[int]) -> dict[int, int]:
    """How long each sample stands for, in microseconds: the time since the one before; after a gap, what is usual."""
    gaps: dict[int, int] = {}
    before = None
    for stamp in stamps:
        gaps[stamp] = _LONGEST_GAP + 1 if before is None else stamp - before
        before = stamp
    short = sorted(gap for gap in gaps.values() if gap <= _LONGEST_GAP)
    usual = short[len(short) // 2] if short else _LONGEST_SAMPLE
    return {stamp: gap if gap <= _LONGEST_GAP else usual for stamp, gap in gaps.items()}


def _believed(new: list[int], lengths: Mapping[int, int], newest: int, passed: float) -> list[int]:
    """Those of the new stamps for which there was time: where all were stamped anew, most of them are not new."""
    most = passed + _LONGEST_GAP
    if sum(lengths[stamp] for stamp in new) <= most:
        return new
    later = [stamp for stamp in new if stamp > newest]
    if later and sum(lengths[stamp] for stamp in later) <= most:
        return later
    kept, length = [], 0
    for stamp in reversed(new):
        length += lengths[stamp]
        if length > most:
            break
        kept.append(stamp)
    return kept
