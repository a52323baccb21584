"""A line across the window: what is wrong, or what has to be known."""

from __future__ import annotations

from typing import Literal

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from gpu_exporter.desktop.theme import Colours, colours


def plain_label(text: str = "", parent: QWidget | None = None) -> QLabel:
    """A label whose text is never taken for markup, wraps, and can be selected."""
    label = QLabel(parent)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setText(text)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    # A long word without a place to break it must not widen the window.
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    return label


class Banner(QWidget):
    """Hidden while there is nothing to tell."""

    def __init__(self, kind: Literal["note", "trouble"], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._kind = kind
        self._label = plain_label(parent=self)
        self._label.setMargin(6)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._label)
        self.setVisible(False)
        self.retheme(colours(self.palette()))

    @property
    def text(self) -> str:
        """What it tells."""
        return self._label.text()

    def tell(self, text: str) -> None:
        """Tell this; nothing where it is empty."""
        if text != self._label.text():
            self._label.setText(text)
            self.setAccessibleName(text)
        self.setVisible(bool(text))

    def retheme(self, theme: Colours) -> None:
        """Be drawn in these colours from now on."""
        written, ground = theme.note if self._kind == "note" else theme.trouble
        self._label.setStyleSheet(f"color: {written}; background: {ground}; border-radius: 4px")
