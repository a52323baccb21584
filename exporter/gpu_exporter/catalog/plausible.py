"""What a number of each unit can be at all. A value outside of its row's range was not measured, and is not served.

Ranges are wide on purpose, several times what any board of NVIDIA's has or draws: only what cannot be is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

# The lowest and the highest value, in base units; both are plausible.
Range: TypeAlias = tuple[float, float]

_CENTURY: Final = 3.2e9  # seconds; 2^63 ns, a counter that answers its sign bit, are 9.2e9

# unit: the range of a gauge, that of a counter. Where 0 is what a sensor says that is not there, the range begins at
# the smallest number that NVML can tell: 1 °C, 1 mW.
BY_UNIT: Final[Mapping[str | None, tuple[Range, Range]]] = MappingProxyType(
    {
        "ratio": ((0.0, 1.0), (0.0, 1.0)),
        "celsius": ((1.0, 150.0), (1.0, 150.0)),  # silicon is destroyed below that
        "watts": ((1e-3, 10e3), (1e-3, 10e3)),  # a whole tray of Rubin Ultra draws less
        "joules": ((0.0, 1e13), (0.0, 1e13)),  # 3 kW for a century; 2^63 mJ are 9.2e15
        "bytes": ((0.0, 2.0**46), (0.0, 1e21)),  # 64 TiB; 1 TB/s for thirty years, 2^63 KiB are 9.4e21
        "hertz": ((0.0, 3e10), (0.0, 3e10)),  # GDDR7 has 16 GHz; 2^15 MHz are 3.3e10
        "seconds": ((0.0, _CENTURY), (0.0, _CENTURY)),  # Unix times as well
        None: ((0.0, 1e6), (0.0, 1e15)),  # states and counts; a counter that jumps to 2^53 is no count
    }
)
# The most that a counter of a unit can grow by in a second. A storm of errors has no bound.
FASTEST: Final[Mapping[str | None, float]] = MappingProxyType(
    {
        "joules": 10e3,  # as watts
        "seconds": 1.0,
        "bytes": 1e13,  # five times what NVLink of Blackwell carries in both directions
    }
)
FLAG: Final[Range] = (0.0, 1.0)
ALWAYS_ONE: Final[Range] = (1.0, 1.0)


def by_unit(unit: str | None, kind: Literal["gauge", "counter", "info", "histogram"]) -> Range:
    """The range of a row that does not tell one of its own."""
    if kind == "info":
        return ALWAYS_ONE
    gauge, counter = BY_UNIT[unit]
    return counter if kind == "counter" else gauge
