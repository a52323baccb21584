"""The simulated source: ``FakeFleet`` is the hardware, ``FakeFleet.open`` gives a ``FakeSource`` on it.

Imports point one way: fleet -> scenario, simulation -> workloads, models.
"""

from __future__ import annotations

from gpu_exporter.sources.fake.fleet import DRIVER, FakeFleet, FakeSource
from gpu_exporter.sources.fake.models import MODELS, GpuModel
from gpu_exporter.sources.fake.workloads import SimulatedProcess

__all__ = ["DRIVER", "MODELS", "FakeFleet", "FakeSource", "GpuModel", "SimulatedProcess"]
