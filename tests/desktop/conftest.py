"""One Qt a process, without a screen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from PySide6.QtWidgets import QApplication

try:
    import PySide6.QtGui  # noqa: F401
except ImportError:  # a library of the system is missing, as where tools/setup was not run by root
    if os.environ.get("CI"):
        raise
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def application() -> Iterator[QApplication]:
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    os.environ.pop("QT_SCALE_FACTOR", None)
    from PySide6.QtWidgets import QApplication  # noqa: PLC0415

    from gpu_exporter.desktop.holding_none import hold_none  # noqa: PLC0415

    hold_none()
    made = QApplication([])
    made.setQuitOnLastWindowClosed(False)
    yield made
    made.processEvents()
