"""Colours, thresholds and names of values, the same on every dashboard: red is for what somebody must act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "#6e7687"
COLD, COOL, BUSY = "#5f86b8", "light-blue", "semi-dark-green"

Steps: TypeAlias = tuple[tuple[float | None, str], ...]
PLAIN: Final[Steps] = ((None, "text"),)
NEUTRAL: Final[Steps] = ((None, BLUE),)
GOOD: Final[Steps] = ((None, GREEN),)
BAD_ABOVE_ZERO: Final[Steps] = ((None, GREEN), (1, RED))
WARN_ABOVE_ZERO: Final[Steps] = ((None, GREEN), (1, ORANGE))
# The classes of the score, recording.yml: idle below 10 %, low below 20 %, normal below 70 %, high. Being idle is no
# fault, so it is cold and not red.
USE: Final[Steps] = ((None, COLD), (0.1, COOL), (0.2, GREEN), (0.7, BUSY))
FULL: Final[Steps] = ((None, GREEN), (0.9, YELLOW), (0.98, ORANGE))  # 98 %: GPUMemoryNearlyFull
HEAT: Final[Steps] = ((None, GREEN), (80, YELLOW), (87, ORANGE), (92, RED))  # limits of H100, A100 and GeForce boards

Names: TypeAlias = Mapping[str, tuple[str, str]]  # value -> (text, colour)
UP: Final[Names] = {"0": ("down", RED), "1": ("up", GREEN)}
YES_NO: Final[Names] = {"0": ("no", GREEN), "1": ("YES", RED)}
RECOVERY: Final[Names] = {
    "0": ("none", GREEN),
    "1": ("GPU reset", RED),
    "2": ("node reboot", RED),
    "3": ("drain P2P", RED),
    "4": ("drain and reset", RED),
    "5": ("recover IMEX domain", RED),
    "6": ("bus reset", RED),
    "7": ("system reboot", RED),
}
CLASSES: Final[Names] = {
    "0": ("idle", COLD),
    "1": ("low", COOL),
    "2": ("normal", GREEN),
    "3": ("high", BUSY),
}
SEVERITY: Final[Names] = {"3": ("critical", RED), "2": ("warning", ORANGE), "1": ("info", BLUE)}
P_STATES: Final[Names] = {
    str(number): (f"P{number}", color) for number, color in enumerate([GREEN] * 3 + [COOL] * 5 + [COLD] * 8)
}
