"""What the score of a GPU is made of: our choice, what of it is put to use, most of all its multiprocessors.

One number that adds up over time; each part is a share from 0 to 1, and so is the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# Seconds at work, seconds in which memory was read or written, memory in use of what there is, power of its limit.
USUAL: Final[Mapping[str, float]] = MappingProxyType(
    {"utilization": 0.5, "memory_io": 0.2, "memory_used": 0.2, "power": 0.1}
)
PARTS: Final = tuple(USUAL)


def weighted(parts: Mapping[str, float], weights: Mapping[str, float] = USUAL) -> float:
    """The score of its parts; what they are summed over (seconds) it is summed over as well.

    Raises KeyError: a part that weighs something is not there.
    """
    return sum(weight * parts[name] for name, weight in weights.items())
