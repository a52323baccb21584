"""The simulated source: ``FakeFleet`` is the hardware, ``FakeFleet.open`` gives a ``FakeSource`` on it.

Imports point one way: fleet -> scenario, simulation -> workloads, models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gpu_exporter.config import Config
from gpu_exporter.sources import SourceKind
from gpu_exporter.sources.fake import scenario
from gpu_exporter.sources.fake.fleet import DRIVER, FakeFleet, FakeSource
from gpu_exporter.sources.fake.models import MODELS, GpuModel
from gpu_exporter.sources.fake.workloads import SimulatedProcess

__all__ = ["DRIVER", "KIND", "MODELS", "FakeFleet", "FakeSource", "GpuModel", "SimulatedProcess"]


def _opener(config: Config) -> Callable[[], FakeSource]:
    fake = config.fake
    fleet = FakeFleet(
        gpus=fake.gpus,
        model=fake.model,
        seed=fake.seed,
        scenario=fake.scenario,
        owners=fake.owners if config.processes.enabled else None,
    )
    return fleet.open


def _check(config: Config) -> None:
    fake = config.fake
    if fake.scenario is not None:
        scenario.load(fake.scenario, scenario.Fleet(fake.gpus, MODELS[fake.model]))


KIND: Final = SourceKind(source=FakeSource, opener=_opener, check=_check)
