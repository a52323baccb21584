"""A GPU that was lost for a while: its own counter goes on meanwhile, and nobody saw what for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import pytest

from gpu_exporter.report.client import Client, Series
from gpu_exporter.report.history import Grid, History

SCRAPE, HOUR, WATTS = 15, 3600, 70.0
GPU = {"instance": "a", "gpu": "0", "uuid": "GPU-0"}


class Server:
    """Has one GPU, lost from ``lost`` to ``back``; answers what needs no counter to fall or to begin."""

    url = "http://made-up"

    def __init__(self, lost: int, back: int) -> None:
        times = range(0, 2 * HOUR, SCRAPE)
        well = [at for at in times if not lost <= at < back]

        def spent(at: int) -> float:
            """Seconds in which it was down, as the exporter counts them: from the last good reading to the next."""
            return float(min(max(at - lost + SCRAPE, 0), back - lost + SCRAPE))

        self.samples: Mapping[tuple[str, str], list[tuple[int, float]]] = {
            ("gpu_state_seconds_total", "idle_free"): [(at, 9e3 + at - spent(at)) for at in times],
            ("gpu_state_seconds_total", "down"): [(at, spent(at)) for at in times],
            ("gpu_energy_joules_total", ""): [(at, 1e6 + WATTS * at) for at in well],
            ("gpu_power_watts", ""): [(at, WATTS) for at in well],
        }

    def range(self, expression: str, *, start: float, end: float, step: float) -> list[Series]:
        found = re.fullmatch(r"(last|avg)_over_time\((\w+)\[\d+ms\]\)", expression)
        if found is None:
            return []
        answer = []
        for (name, state), samples in self.samples.items():
            if name != found[2]:
                continue
            points = []
            for number in range_of(start, end, step):
                at = start + number * step
                inside = [value for when, value in samples if at - step < when <= at]
                if inside:
                    points.append((at, inside[-1] if found[1] == "last" else sum(inside) / len(inside)))
            answer.append(Series({**GPU, **({"state": state} if state else {})}, points))
        return answer


def range_of(start: float, end: float, step: float) -> Any:
    return range(round((end - start) / step) + 1)


@pytest.mark.parametrize("lasted", [30, 120, 600, 1500])
def test_wherever_a_chunk_ends_its_energy_is_of_the_time_in_which_it_was_seen(lasted: int) -> None:
    lost = HOUR + 900
    for shift in range(0, 240, SCRAPE):
        server = Server(lost, lost + lasted)
        history = History(cast(Client, server), Grid.of(HOUR, 2 * HOUR - SCRAPE - shift))
        (gpu,) = history.gpus.values()
        seen = gpu.states["idle_free"]
        assert gpu.states["down"] == pytest.approx(lasted + SCRAPE)
        assert gpu.joules == pytest.approx(WATTS * seen, abs=WATTS * 2 * SCRAPE), shift
