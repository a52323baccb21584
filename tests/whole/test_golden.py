"""Whole expositions against what was read and found good. ``make goldens`` writes them again; read the diff."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from prometheus_client import Metric as ClientMetric
from prometheus_client.registry import Collector
from tools.lab.nvml_stub import MODELS, Process, Stub, Usage

from gpu_exporter.config import MODELS as CONFIGURED
from gpu_exporter.model import Build, Snapshot
from gpu_exporter.pages.exposition import Page
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources import Source
from gpu_exporter.sources.fake import FakeFleet
from gpu_exporter.sources.nvml import NvmlSource

GOLDEN = Path(__file__).parents[1] / "golden"
NOW = 1_790_000_000.0  # Unix time; any moment will do


class NoProcess(Collector):
    """The exporter's own process differs from run to run."""

    def collect(self) -> Iterable[ClientMetric]:
        return ()


def exposition(source: Source, *, openmetrics: bool = False) -> str:
    snapshot = Snapshot(
        build=Build("0.0.0", "3.0.0"),
        source=source.name,
        driver=source.driver,
        readings=Pipeline(gap=15).complete([source.read(device) for device in source.devices], now=0),
        ok=True,
        timestamp=NOW,
        duration=0.25,
        gpus_expected=8,
    )
    return Page(process=NoProcess()).body(snapshot, openmetrics=openmetrics, gzip=False).decode()


def compare(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, f"tests/golden/{name} differs; if that is meant: make goldens, and read the diff"


# A machine made long ago shows what it showed then: no value depends on how long the test took to read it.
@pytest.mark.parametrize("now", [None, 1_000_000_000.0], ids=["just made", "made long ago"])
@pytest.mark.parametrize("model", MODELS)
def test_stand_in(model: str, now: float | None, here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> None:
    machine = here(stub(model, model, now=now))
    machine.lose(1)
    machine.processes(0, [Process(4711, 20 * 1024**3), Process(815, None)])
    machine.processes(0, [Process(4711, 20 * 1024**3)], kind="graphics")
    machine.process_utilization(0, [Usage(4711, 42)])
    source = NvmlSource(processes=15.0)
    try:
        compare(f"nvml-{model}.prom", exposition(source))
    finally:
        source.close()


@pytest.mark.parametrize("model", CONFIGURED)
def test_fake(model: str) -> None:
    source = FakeFleet(gpus=2, model=model, seed=1, clock=lambda: NOW).open()
    compare(f"fake-{model}.prom", exposition(source))


def test_there_is_no_golden_without_a_test() -> None:
    expected = {*(f"nvml-{model}.prom" for model in MODELS), *(f"fake-{model}.prom" for model in CONFIGURED)}
    assert {path.name for path in GOLDEN.iterdir()} == {*expected, "fake-h100.openmetrics"}


def test_fake_openmetrics() -> None:
    source = FakeFleet(gpus=2, model="h100", seed=1, clock=lambda: NOW).open()
    compare("fake-h100.openmetrics", exposition(source, openmetrics=True))
