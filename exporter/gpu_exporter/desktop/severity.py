"""How bad it is: what comes first in the list, and which colour the tray has."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu, NodeState

Severity: TypeAlias = Literal["well", "unknown", "warning", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = ("well", "unknown", "warning", "critical")

NEAR: Final = 5.0  # °C below the GPU's own limit: the margin of the rule GPUTemperatureNearSlowdown
_COOL: Final = 8.0  # °C below it until a hot GPU counts as cool again


def hot(gpu: Gpu, *, before: bool = False) -> bool:
    """Whether it is near its own limit; one that was hot ``before`` stays so until it is clearly cooler."""
    if gpu.temperature is None or gpu.temperature_limit is None:
        return False
    return gpu.temperature_limit - gpu.temperature <= (_COOL if before else NEAR)


def of_gpu(gpu: Gpu) -> Severity:
    """How bad a GPU is."""
    if gpu.state == "down":
        return "critical"
    if hot(gpu):
        return "warning"
    return "unknown" if gpu.state == "unknown" else "well"


def of_machine(state: NodeState) -> Severity:
    """How bad a machine is: itself, or the worst of its GPUs."""
    if state.status == "offline":
        return "critical"
    if state.status == "starting":
        return "unknown"
    found: list[Severity] = ["warning" if state.trouble else "well", *map(of_gpu, state.gpus)]
    return max(found, key=SEVERITIES.index)


def worst(view: View) -> Severity:
    """The worst of all; nothing is known of a fleet that cannot be asked."""
    if view.trouble or not view.taken or not view.machines:
        return "unknown"
    return max(map(of_machine, view), key=SEVERITIES.index)


def summary(view: View) -> str:
    """The worst of all in words, for the tray and for whoever does not see its colour."""
    if view.trouble:
        return f"nothing is known now: {view.trouble}"
    if not view.taken:
        return "asking the machines"
    if not view.machines:
        return "there are no machines"
    offline = [state.node.name for state in view if state.status == "offline"]
    down = [gpu for gpu in view.gpus() if gpu.state == "down"]
    warm = [gpu for gpu in view.gpus() if hot(gpu)]
    told = [
        *([f"{_some(offline)} offline"] if offline else []),
        *([f"{_named(down)} down"] if down else []),
        *([f"{_named(warm)} hot"] if warm else []),
    ]
    counts = view.counts()
    return ", ".join([*told, f"{counts['free']} of {sum(counts.values())} GPUs free"])


def _named(gpus: list[Gpu]) -> str:
    return _some([f"{gpu.node} GPU {gpu.index}" for gpu in gpus])


def _some(names: list[str]) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
