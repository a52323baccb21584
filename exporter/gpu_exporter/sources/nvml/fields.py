"""NVML's field values: many numbers of one device in one driver call.

pynvml's own wrapper makes every structure anew at each call, through attribute hooks in Python; for eight GPUs that was
a fifth of all CPU time that the exporter used. Here they are laid out once a device, and read where they lie: an object
of ctypes for each would take some 20 KiB a device.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import pynvml

from gpu_exporter.sources.nvml.numbers import NOT_AVAILABLE

CALL: Final = "nvmlDeviceGetFieldValues"

# nvml.h, nvmlValue_t: how a value of each type stands in the union.
_VALUES: Final = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: struct.Struct("=d"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: struct.Struct("=I"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: struct.Struct("=Q"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: struct.Struct("=Q"),
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: struct.Struct("=q"),
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: struct.Struct("=i"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: struct.Struct("=H"),
}
_ANY: Final = _VALUES[pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG]
_SHORT: Final = 0xFFFF  # -1 in 16 bits
_ENDS: Final = frozenset({0x7FFFFFFF, 0x80000000, -0x80000000})  # of a 32-bit number: what is left of an overflow
_SIGN: Final = 0x7FFFFFFFFFFFFFFF  # no counter gets so far
_NARROW: Final = frozenset({pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, pynvml.NVML_VALUE_TYPE_SIGNED_INT})


class _Value(ctypes.Union):
    """nvml.h: nvmlValue_t."""

    _fields_ = (
        ("dVal", ctypes.c_double),
        ("siVal", ctypes.c_int),
        ("uiVal", ctypes.c_uint),
        ("ulVal", ctypes.c_ulong),
        ("ullVal", ctypes.c_ulonglong),
        ("sllVal", ctypes.c_longlong),
        ("usVal", ctypes.c_ushort),
    )


class _FieldValue(ctypes.Structure):
    """nvml.h: nvmlFieldValue_t."""

    _fields_ = (
        ("fieldId", ctypes.c_uint),
        ("scopeId", ctypes.c_uint),
        ("timestamp", ctypes.c_longlong),
        ("latencyUsec", ctypes.c_longlong),
        ("valueType", ctypes.c_uint),
        ("nvmlReturn", ctypes.c_uint),
        ("value", _Value),
    )


# Of it: all return codes, and one answer's type.
_CODES: Final = struct.Struct(f"={_FieldValue.nvmlReturn.offset}xI{_FieldValue.value.size}x")
_TYPE: Final = struct.Struct("=I")
_SIZE: Final = ctypes.sizeof(_FieldValue)
_TYPE_AT: Final = _FieldValue.valueType.offset
_VALUE_AT: Final = _FieldValue.value.offset


class FieldBatch:
    """The fields (identifier, scope) to ask one device for, and its latest answers, which stand in the same order."""

    def __init__(self, asked: Sequence[tuple[int, int]]) -> None:
        self._array = (_FieldValue * len(asked))()
        for answer, (number, scope) in zip(self._array, asked, strict=True):
            answer.fieldId, answer.scopeId = number, scope
        self._blank = bytes(self._array)

    def ask(self, handle: Any) -> list[int]:
        """Fetch all answers anew; the driver's return code for each. Raises NVMLError where the whole call fails."""
        # What the driver leaves out must not look like the answer of the time before.
        ctypes.memmove(self._array, self._blank, len(self._blank))
        function = pynvml._nvmlGetFunctionPointer(CALL)  # noqa: SLF001 - tells a missing symbol as pynvml does
        code = function(handle, len(self._array), self._array)
        if code != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(code)
        return [each for (each,) in _CODES.iter_unpack(self._array)]

    def kind(self, place: int) -> int:
        """One of NVML_VALUE_TYPE_...; it may differ between drivers."""
        (kind,) = _TYPE.unpack_from(self._array, place * _SIZE + _TYPE_AT)
        return int(kind)

    def raw(self, place: int) -> float:
        """The number as it was told."""
        value: float
        (value,) = _VALUES.get(self.kind(place), _ANY).unpack_from(self._array, place * _SIZE + _VALUE_AT)
        return value

    def value(self, place: int) -> float | None:
        """The number, or None for what is none: "not available", the end of the type's range, not finite."""
        value = self.raw(place)
        if -1 < value < _SHORT:  # nearly all are
            return value
        kind = self.kind(place)
        if value in NOT_AVAILABLE or value >= _SIGN or not math.isfinite(value):
            return None
        if value == _SHORT and kind == pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT:
            return None
        return None if value in _ENDS and kind in _NARROW else value
