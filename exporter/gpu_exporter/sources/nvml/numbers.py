"""Which of the numbers that NVML answers are none. nvml.h: NVML_VALUE_NOT_AVAILABLE is -1, in whatever width."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, Final

from gpu_exporter.catalog.row import Call

# Drivers have been seen to widen one of 32 bits without its sign.
NOT_AVAILABLE: Final = frozenset({-1, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})


def parts(answer: Any, column: Call) -> list[tuple[Any, frozenset[int]]]:
    """The numbers of a call's answer that the column is about, each with those that would be "not available"."""
    if not column.part:
        return [(answer, NOT_AVAILABLE)]
    return [
        (answer[part], NOT_AVAILABLE)
        if isinstance(part, int)
        else (getattr(answer, part), _not_available(answer.__class__, part))
        for part in column.part
    ]


@lru_cache(maxsize=256)
def _not_available(structure: Any, member: str) -> frozenset[int]:
    """-1 in the width of a structure's member, signed or not."""
    kinds: dict[str, Any] = {name: kind for name, kind, *_ in structure._fields_}
    return NOT_AVAILABLE | {2 ** (8 * ctypes.sizeof(kinds[member])) - 1}
