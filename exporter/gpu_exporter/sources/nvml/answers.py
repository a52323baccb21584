"""Calls of the driver's library that pynvml's own wrappers cannot make, with room for an answer of any length."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pynvml

from gpu_exporter.sources.nvml.errors import raise_if_fatal

UNWRITTEN: Final = b"\xa5"
_ROOM: Final = 32
_MOST_ROOM: Final = 16_384
# This driver does not have the function, or not in this version.
NO_SUCH_CALL: Final = frozenset(
    {
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returned: its code, how many items, and the bytes of the buffer."""

    code: int
    count: int = 0
    written: bytes = b""


class Buffers:
    """Remembers how much room each call's answer needed."""

    def __init__(self) -> None:
        self._rooms: dict[str, int] = {}

    def call(self, name: str, size: int, ask: Callable[[Any, Any, Any], int]) -> Answer:
        """Call with room for items of ``size`` bytes, and again with more where that was too little.

        Raises DeviceFailedError or SourceError.
        """
        try:
            function = pynvml._nvmlGetFunctionPointer(name)  # noqa: SLF001 - pynvml's wrappers know one layout only
        except pynvml.NVMLError as error:
            raise_if_fatal(error.value, name)
            return Answer(error.value)
        while True:
            room = self._rooms.get(name, _ROOM)
            buffer = ctypes.create_string_buffer(UNWRITTEN * (room * size), room * size)
            count = ctypes.c_uint(room)
            code = ask(function, count, buffer)
            if code == pynvml.NVML_ERROR_INSUFFICIENT_SIZE and room < _MOST_ROOM:
                self._rooms[name] = min(max(2 * room, count.value + 8), _MOST_ROOM)  # more may start meanwhile
                continue
            raise_if_fatal(code, name)
            if code != pynvml.NVML_SUCCESS:
                return Answer(code)
            return Answer(code, min(count.value, room), buffer.raw)
