"""A history of GPUs and their holders in one SQLite file, from snapshot documents. docs/HISTORY.md describes the file.

``Recorder`` writes it. ``Reader`` reads it, also while it is written: series for charts; ``usage`` sums
for results; ``csv_lines`` for everything else. ``Journal`` is the hub's own log.
"""

from __future__ import annotations

from gpu_exporter.history.export import TABLES, csv_lines
from gpu_exporter.history.file import HistoryError
from gpu_exporter.history.journal import AnalysisEntry, DeliveryEntry, Journal
from gpu_exporter.history.reader import HOST_METRICS, METRICS, Reader, Series, StoredGpu, StoredNode
from gpu_exporter.history.recorder import Recorder
from gpu_exporter.history.retention import Retention
from gpu_exporter.history.usage import GpuTotal, HoldTotal, Total, Usage, usage

__all__ = [
    "HOST_METRICS",
    "METRICS",
    "TABLES",
    "AnalysisEntry",
    "DeliveryEntry",
    "GpuTotal",
    "HistoryError",
    "HoldTotal",
    "Journal",
    "Reader",
    "Recorder",
    "Retention",
    "Series",
    "StoredGpu",
    "StoredNode",
    "Total",
    "Usage",
    "csv_lines",
    "usage",
]
