"""NVML's field values: many numbers of one device in one driver call.

pynvml's own wrapper makes every structure anew at each call, through attribute hooks in Python; for eight GPUs that was
a fifth of all CPU time that the exporter used. Here they are laid out once a device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final

import pynvml

CALL: Final = "nvmlDeviceGetFieldValues"

# The member of the union that holds a value of each type, here and in nvmlDeviceGetSamples.
MEMBER: Final = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
}
# nvml.h: NVML_VALUE_NOT_AVAILABLE is -1, in whatever width the answer has.
NOT_AVAILABLE: Final = frozenset({0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})


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


class FieldBatch:
    """The fields (identifier, scope) to ask one device for, and its latest answers, which stand in the same order."""

    def __init__(self, asked: Sequence[tuple[int, int]]) -> None:
        self._array = (_FieldValue * len(asked))()
        for answer, (number, scope) in zip(self._array, asked, strict=True):
            answer.fieldId, answer.scopeId = number, scope
        # Views into the array, kept: a structure's member is otherwise wrapped anew whenever it is read.
        self._answers = [(answer, answer.value) for answer in self._array]
        self._blank = bytes(self._array)

    def ask(self, handle: Any) -> list[int]:
        """Fetch all answers anew; the driver's return code for each. Raises NVMLError where the whole call fails."""
        # What the driver leaves out must not look like the answer of the time before.
        ctypes.memmove(self._array, self._blank, len(self._blank))
        function = pynvml._nvmlGetFunctionPointer(CALL)  # noqa: SLF001 - tells a missing symbol as pynvml does
        code = function(handle, len(self._answers), self._array)
        if code != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(code)
        return [answer.nvmlReturn for answer, _ in self._answers]

    def kind(self, place: int) -> int:
        """One of NVML_VALUE_TYPE_...; it may differ between drivers."""
        return int(self._answers[place][0].valueType)

    def value(self, place: int) -> float | None:
        """The number, or None for "not available"."""
        answer, union = self._answers[place]
        value: float = getattr(union, MEMBER.get(answer.valueType, "ullVal"))
        return None if value in NOT_AVAILABLE else value
