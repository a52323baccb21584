"""Colours, dark and light, by what the system asks for. The hub's page has the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QGuiApplication, QPalette

from gpu_exporter.desktop.severity import Severity
from gpu_exporter.hub.state import GpuState


@dataclass(frozen=True, slots=True)
class Colours:
    """Colours by name, as CSS writes them. A state has a pair: what is written, and what lies behind it."""

    text: str
    dim: str
    panel: str
    line: str
    bar: str
    fill: str
    accent: str
    states: dict[GpuState, tuple[str, str]]
    severities: dict[Severity, str]
    note: tuple[str, str]
    trouble: tuple[str, str]


LIGHT: Final = Colours(
    text="#1a2027",
    dim="#59636f",
    panel="#ffffff",
    line="#d5dae0",
    bar="#e6eaee",
    fill="#5f93d8",
    accent="#1d5fb8",
    states={
        "free": ("#12704a", "#dff4e9"),
        "held": ("#2b66bd", "#e1ecfb"),
        "idle": ("#7d5200", "#fdeec8"),
        "down": ("#ffffff", "#bb2d28"),
        "unknown": ("#59636f", "#e6eaee"),
    },
    severities={"well": "#2f9e6e", "unknown": "#8a94a0", "warning": "#d08a00", "critical": "#c5322c"},
    note=("#7d5200", "#fdeec8"),
    trouble=("#b3261e", "#fdecea"),
)
DARK: Final = Colours(
    text="#e3e8ed",
    dim="#98a3af",
    panel="#181d23",
    line="#333b45",
    bar="#2a3139",
    fill="#5b91d9",
    accent="#84b5f5",
    states={
        "free": ("#6fd6a5", "#12352a"),
        "held": ("#a5c8f8", "#1b2b42"),
        "idle": ("#f3cd72", "#3a2d10"),
        "down": ("#ffffff", "#b5312b"),
        "unknown": ("#98a3af", "#2a3139"),
    },
    severities={"well": "#35b681", "unknown": "#8a94a0", "warning": "#e0a526", "critical": "#e0524a"},
    note=("#f3cd72", "#3a2d10"),
    trouble=("#ff8f86", "#3a1a19"),
)
_HALF: Final = 128  # of 255


def colours(palette: QPalette) -> Colours:
    """Those that go with what the widgets are drawn in."""
    return DARK if _is_dark(palette) else LIGHT


def follow_scheme(application: QGuiApplication) -> None:
    """Let widgets be dark where the system says so and its own palette is not."""
    dark = application.styleHints().colorScheme() == Qt.ColorScheme.Dark
    if dark and not _is_dark(application.palette()):
        application.setPalette(dark_palette())
    elif application.property("darkened") and not dark:
        application.setPalette(QPalette())
    application.setProperty("darkened", dark)


def dark_palette() -> QPalette:
    """A dark palette for a system that has none."""
    role = QPalette.ColorRole
    palette = QPalette()
    for where, colour in {
        role.Window: "#101418",
        role.WindowText: DARK.text,
        role.Base: DARK.panel,
        role.AlternateBase: "#1d232a",
        role.Text: DARK.text,
        role.Button: "#232a32",
        role.ButtonText: DARK.text,
        role.BrightText: "#ffffff",
        role.ToolTipBase: "#232a32",
        role.ToolTipText: DARK.text,
        role.PlaceholderText: DARK.dim,
        role.Highlight: "#2c5390",
        role.HighlightedText: "#ffffff",
        role.Link: DARK.accent,
        role.Light: "#3a434e",
        role.Midlight: "#2d353e",
        role.Mid: "#242b33",
        role.Dark: "#0b0e11",
        role.Shadow: "#000000",
    }.items():
        palette.setColor(where, QColor(colour))
    for where in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, where, QColor("#6d7782"))
    return palette


def _is_dark(palette: QPalette) -> bool:
    return palette.color(QPalette.ColorRole.Window).lightness() < _HALF
