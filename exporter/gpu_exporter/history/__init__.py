"""A history of GPUs and their holders in one SQLite file, from snapshot documents. docs/HISTORY.md describes the file.

``Recorder`` writes it, ``Reader`` reads it, also while it is written.
"""

from __future__ import annotations

from gpu_exporter.history.file import HistoryError
from gpu_exporter.history.recorder import Recorder
from gpu_exporter.history.retention import Retention

__all__ = ["HistoryError", "Recorder", "Retention"]
