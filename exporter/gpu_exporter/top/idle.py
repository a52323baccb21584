"""Since when each process has done nothing on its GPU, as far as was seen here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from gpu_exporter.hub.client.view import View

_Key: TypeAlias = tuple[str, str, str, str]


class Since(NamedTuple):
    """When it began (Unix seconds), and whether that was seen; else it was so when we first looked."""

    at: float
    seen: bool


class IdleProcesses:
    """Fed with every view. What the driver tells no utilization of is neither idle nor at work."""

    def __init__(self) -> None:
        self._since: dict[_Key, Since | None] = {}
        self._machines: set[str] = set()

    def add(self, view: View) -> None:
        """Look at all processes; those that are gone are forgotten."""
        before, self._since = self._since, {}
        known, self._machines = self._machines, {state.node.name for state in view if state.online}
        for state in view:
            gpus = {gpu.index: gpu for gpu in state.gpus}
            for process in state.processes if state.online else ():
                gpu = gpus.get(process.get("gpu", -1))
                # Whatever runs on a GPU that does nothing does nothing.
                rests = gpu is not None and gpu.state == "idle"
                share = process.get("utilization_ratio", 0.0 if rests else None)
                if not isinstance(share, (int, float)):
                    continue
                which = _key(state.node.name, process)
                if share > 0:
                    self._since[which] = None
                elif which in before or state.node.name in known:
                    self._since[which] = before.get(which) or Since(view.taken, seen=True)
                elif rests and gpu is not None and gpu.since:
                    self._since[which] = Since(gpu.since, gpu.since_known)
                else:
                    self._since[which] = Since(view.taken, seen=False)

    def of(self, node: str, process: Mapping[str, Any]) -> Since | None:
        """Since when the process is idle; None where it is not, or that is not known."""
        return self._since.get(_key(node, process))


def _key(node: str, process: Mapping[str, Any]) -> _Key:
    gpu = str(process.get("uuid") or process.get("gpu", ""))
    return node, gpu, str(process.get("mig_uuid", "")), str(process.get("pid", ""))
