"""Which GPUs are free: nobody holds them, and that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu
from gpu_exporter.hub.words import STATE_WORDS, size


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for. ``count`` None is all there are; ``memory`` is what must be free of each, in bytes."""

    count: int | None = None
    memory: float = 0.0
    models: tuple[str, ...] = ()
    same_host: bool = False

    def fits(self, gpu: Gpu) -> bool:
        """Whether a free GPU will do."""
        model = gpu.model.casefold()
        if self.models and not any(words.casefold() in model for words in self.models):
            return False
        return not self.memory or (memory_free(gpu) or 0.0) >= self.memory


def memory_free(gpu: Gpu) -> float | None:
    """Bytes of the GPU that nobody uses; None where that is not known."""
    if gpu.memory_total is None or gpu.memory_used is None:
        return None
    return gpu.memory_total - gpu.memory_used


def find(view: View, wanted: Wanted) -> tuple[Gpu, ...]:
    """The GPUs that are free and will do, in the machines' order; none where there are fewer than ``count``."""
    found = _fitting(view, wanted)
    if wanted.same_host:
        hosts = _by_host(found)
        enough = [gpus for gpus in hosts if len(gpus) >= (wanted.count or 1)]
        # The machine with the least to spare: the others can still serve whoever wants more.
        found = (min(enough, key=len) if wanted.count else max(enough, key=len)) if enough else []
    if wanted.count is None:
        return tuple(found)
    return tuple(found[: wanted.count]) if len(found) >= wanted.count else ()


def shortage(view: View, wanted: Wanted) -> str:
    """Why ``find`` found none, in one line."""
    fitting = _fitting(view, wanted)
    if wanted.same_host:
        fitting = max(_by_host(fitting), key=len, default=[])
    told = [_found(len(fitting), wanted)]
    counts = view.counts()
    there = ", ".join(f"{count} {STATE_WORDS[state].replace(',', '')}" for state, count in counts.items() if count)
    told.append(f"of {sum(counts.values())} GPUs: {there}")
    if partitioned := sum(gpu.mig for gpu in view.gpus() if gpu.state == "free"):
        told.append(f"{partitioned} of the free in MIG mode, which nobody gets as a whole")
    if away := [state.node.name for state in view if not state.online]:
        more = f" and {len(away) - 3} more" if len(away) > 3 else ""
        told.append(f"without an answer: {', '.join(away[:3])}{more}")
    return "; ".join(told)


def _found(count: int, wanted: Wanted) -> str:
    models = " or ".join(f"'{text}'" for text in wanted.models)
    wishes = [*([size(wanted.memory)] if wanted.memory else []), *([models] if models else [])]
    of = f" with {' and '.join(wishes)}" if wishes else ""
    if not count:
        return f"no GPU{of} is free"
    where = " on one machine" if wanted.same_host else ""
    return f"only {count} of {wanted.count} wanted GPUs{of} {'is' if count == 1 else 'are'} free{where}"


def _fitting(view: View, wanted: Wanted) -> list[Gpu]:
    return [
        gpu
        for state in view
        if state.online
        for gpu in sorted(state.gpus, key=lambda gpu: gpu.index)
        if gpu.state == "free" and not gpu.mig and wanted.fits(gpu)
    ]


def _by_host(gpus: Sequence[Gpu]) -> list[list[Gpu]]:
    hosts: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        hosts.setdefault(gpu.node, []).append(gpu)
    return list(hosts.values())
