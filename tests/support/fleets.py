"""Simulated fleets for tests that run beside the clock on the wall."""

from __future__ import annotations

import itertools
import time

from gpu_exporter.sources.fake.workloads import Workload, assign


def eight_at_work(seconds: float = 180.0) -> tuple[int, tuple[Workload, ...]]:
    """A seed of eight GPUs with the work of seed 1, and that work.

    Simulated training ends, loads and saves as the clock on the wall has it. These do none of it for so long.
    """
    now = time.time()
    kinds = [workload.kind for workload in assign(8, 1)]
    for seed in itertools.count(1):
        workloads = assign(8, seed)
        training = [workload for workload in workloads if workload.kind == "training"]
        moments = [now + 5.0 * step for step in range(int(seconds / 5.0))]
        if [workload.kind for workload in workloads] == kinds and all(
            workload.demand(moment).utilization > 0.5 for workload in training for moment in moments
        ):
            return seed, workloads
    raise AssertionError("counting does not end")
