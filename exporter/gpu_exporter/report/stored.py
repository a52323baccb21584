"""What happened within the window: time held, energy and score by GPU and holder, from a history file."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

from gpu_exporter.history import GpuTotal, HistoryError, HoldTotal, Reader, StoredGpu, usage
from gpu_exporter.history.minutes import MINUTE
from gpu_exporter.history.recorder import GRACE
from gpu_exporter.report.client import ReportError
from gpu_exporter.report.history import Gpu, GpuUsage, Grid, Hold
from gpu_exporter.report.slices import Key


class StoredHistory:
    """Reads the window from a file; otherwise as History. Raises ReportError."""

    def __init__(self, path: Path, grid: Grid) -> None:
        self.grid = grid
        self.gpus: dict[Key, GpuUsage] = {}
        self.holds: dict[Key, Hold] = {}
        try:
            with closing(Reader(path)) as reader:
                found = usage(reader, start=grid.end - grid.window, end=grid.end)
                if not found.gpus:
                    raise ReportError(f"--history.path: {path}: {_why_nothing(reader)}")
        except HistoryError as error:
            raise ReportError(f"--history.path: {error}") from None
        self.covered = min(found.covered, grid.window)
        for total in found.gpus:
            self._add_gpu(total)
        for hold in found.holds:
            self._add_hold(hold)

    def _add_gpu(self, total: GpuTotal) -> None:
        gpu = _gpu(total.gpu)
        made = GpuUsage(
            gpu, total.gpu.node, total.gpu.model, joules=total.joules, score=total.score, scored=total.scored
        )
        made.states.update(total.states)
        made.covered = total.seconds
        self.gpus[_key(gpu)] = made

    def _add_hold(self, total: HoldTotal) -> None:
        gpu = _gpu(total.gpu)
        made = Hold(gpu, total.owner, joules=total.joules, score=total.score, scored=total.scored)
        made.states.update(total.states)
        self.holds[_key(gpu) + tuple(total.owner)] = made
        self.gpus[_key(gpu)].unknown_held += total.states["unknown"]


def _why_nothing(reader: Reader) -> str:
    """Why there is nothing within the window, and what to do."""
    known = reader.gpus()
    if not known:
        return (
            f"has nothing yet: a minute is written {GRACE:.0f} s after its end, so the first is there within "
            f"{MINUTE + GRACE:.0f} s once a machine answers; ask again then"
        )
    first, last = (
        datetime.fromtimestamp(at, timezone.utc).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00")
        for at in (min(gpu.first_seen for gpu in known), max(gpu.last_seen for gpu in known))
    )
    return f"has nothing within the window, only {first} to {last} UTC; write --window and --end that reach there"


def _gpu(stored: StoredGpu) -> Gpu:
    return Gpu(cluster="", instance=stored.node, gpu=str(stored.number), uuid=stored.uuid)


def _key(gpu: Gpu) -> Key:
    return gpu.cluster, gpu.instance, gpu.gpu, gpu.uuid
