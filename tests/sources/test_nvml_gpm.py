"""PCIe bytes: a counter of 32 bits wraps unseen and is not used; GPM loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pynvml
import pytest
from tools.lab.nvml_stub import Mig, Stub
from tools.lab.wait import wait_for

from gpu_exporter.catalog import by_name
from gpu_exporter.model import Reading
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources.nvml import NvmlSource
from gpu_exporter.sources.nvml.gpm import GpmReader

MIB = 1024**2
SENT, RECEIVED = by_name("gpu_pcie_transmit_bytes_total"), by_name("gpu_pcie_receive_bytes_total")
_NOT_SUPPORTED, _LOST, _UNKNOWN = 3, 15, 999
TX_RATE = 20  # NVML_GPM_METRIC_PCIE_TX_PER_SEC
RX_RATE = 21  # NVML_GPM_METRIC_PCIE_RX_PER_SEC


class Machine:
    """One GPU, its source, and a clock that moves by hand for both."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.elapsed = 1000.0
        self.source = NvmlSource(monotonic=lambda: self.elapsed)
        self.pipeline = Pipeline(gap=1e6)

    def wait(self, seconds: float) -> None:
        self.elapsed += seconds
        self.stub.now += seconds

    def send(self, count: int) -> None:
        before = self.stub.get(0, "pcie_tx_bytes")
        assert isinstance(before, int)
        self.stub.set(0, "pcie_tx_bytes", before + count)

    def read(self) -> Reading:
        (reading,) = self.pipeline.complete([self.source.read(self.source.devices[0])], self.elapsed)
        return reading

    def sent(self) -> float | None:
        return self.read().values.get(SENT)


@pytest.fixture
def machine(here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(model: str = "h100", **settings: Any) -> Machine:
        shown = here(stub(model))
        for name, value in settings.items():
            shown.set(0, name, value)
        made.append(Machine(shown))
        return made[-1]

    yield make
    for each in made:
        each.source.close()


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The driver's functions, as they are called."""
    names: list[str] = []
    genuine = pynvml._nvmlGetFunctionPointer

    def listed(name: str) -> object:
        names.append(name)
        return genuine(name)

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", listed)
    return names


def test_bytes_are_counted_where_the_drivers_counter_wraps(machine: Callable[..., Machine]) -> None:
    """10 GB/s read twice a second: a counter of 32 bits wraps more than once between two readings."""
    gpu = machine()
    assert gpu.sent() == 0.0, "it is there from the first reading on"
    for _ in range(8):
        gpu.wait(0.5)
        gpu.send(5_000_000_000)
        gpu.read()
    assert gpu.sent() == pytest.approx(4e10)


def test_what_is_received_is_not_what_is_sent(machine: Callable[..., Machine]) -> None:
    gpu = machine(pcie_rx_bytes=0)
    gpu.read()
    gpu.wait(5)
    gpu.stub.set(0, "pcie_rx_bytes", 7_000)
    values = gpu.read().values
    assert values[SENT] == 0.0
    assert values[RECEIVED] == pytest.approx(7_000)


def test_a_counter_of_64_bits_is_believed_as_it_is(machine: Callable[..., Machine]) -> None:
    gpu = machine(pcie_counter_bits=64, pcie_tx_bytes=2**40)
    assert gpu.sent() == 2.0**40
    gpu.stub.gpm(0, {2: 50.0, TX_RATE: 1_000.0})
    for _ in range(2):
        gpu.wait(5)
        assert gpu.sent() == 2.0**40, "whatever GPM says"


@pytest.mark.parametrize("model", ["v100", "a100", "l40s", "rtx4090"])
def test_a_gpu_without_gpm_has_no_such_series(machine: Callable[..., Machine], model: str) -> None:
    gpu = machine(model)
    for _ in range(3):
        reading = gpu.read()
        assert reading.failure is None
        assert not {SENT, RECEIVED} & reading.values.keys()
        assert reading.refused == ()
        gpu.wait(5)
        gpu.send(10**9)


@pytest.mark.parametrize("function", ["nvmlGpmSampleGet", "nvmlGpmMetricsGet"])
def test_a_call_that_fails_loses_nothing(machine: Callable[..., Machine], function: str) -> None:
    gpu = machine()
    gpu.read()
    gpu.stub.fail(function, _UNKNOWN)
    gpu.wait(5)
    gpu.send(1_000)
    assert gpu.sent() == 0.0
    gpu.stub.fail(function, 0)
    gpu.wait(5)
    gpu.send(500)
    assert gpu.sent() == pytest.approx(1_500)


def test_no_time_between_two_readings_loses_nothing(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    gpu.read()
    gpu.send(1_000)
    assert gpu.sent() == 0.0
    gpu.wait(1)
    assert gpu.sent() == pytest.approx(1_000)


def test_a_gpu_that_was_lost_begins_anew(machine: Callable[..., Machine]) -> None:
    """It may have been reset: its counters are not those of the sample before."""
    gpu = machine()
    gpu.read()
    gpu.wait(5)
    gpu.send(1_000)
    assert gpu.sent() == pytest.approx(1_000)
    gpu.stub.lose(0)
    assert gpu.read().failure is not None
    gpu.stub.set(0, "pcie_tx_bytes", 0)
    gpu.stub.recover(0)
    gpu.wait(5)
    assert gpu.sent() == pytest.approx(1_000)
    gpu.wait(5)
    gpu.send(200)
    assert gpu.sent() == pytest.approx(1_200)


def test_a_lost_gpu_is_told_by_gpm_as_well(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    gpu.read()
    gpu.stub.fail("nvmlGpmSampleGet", _LOST)
    failure = gpu.read().failure
    assert failure is not None
    assert failure.reason == "lost"


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0, 4294967295.0, 1e30])
def test_an_impossible_rate_spoils_no_counter(machine: Callable[..., Machine], rate: float) -> None:
    gpu = machine()
    gpu.read()
    gpu.wait(5)
    gpu.send(1_000)
    assert gpu.sent() == pytest.approx(1_000)
    gpu.stub.gpm(0, {2: 50.0, TX_RATE: rate})
    gpu.wait(5)
    reading = gpu.read()
    assert [metric for metric, _ in reading.refused] == [SENT]
    assert gpu.pipeline.implausible == {"gpu_pcie_transmit_bytes_total": 1}
    gpu.stub.gpm(0, {2: 50.0})
    gpu.wait(5)
    gpu.send(10)
    assert gpu.sent() == pytest.approx(1_010)


def test_a_partitioned_gpu_is_not_asked_again_and_again(machine: Callable[..., Machine], called: list[str]) -> None:
    gpu = machine()
    gpu.stub.mig(0, [Mig("MIG-1", "1g.10gb", 7, 0, 10 * 1024 * MIB, MIB)])
    gpu.stub.fail("nvmlGpmSampleGet", _NOT_SUPPORTED)
    assert SENT not in gpu.read().values
    assert 1 <= called.count("nvmlGpmSampleGet") <= 2, "by the rows of profiling, and by those of PCIe"
    called.clear()
    for _ in range(3):
        gpu.wait(1)
        assert SENT not in gpu.read().values
    assert "nvmlGpmSampleGet" not in called


def test_samples_are_freed_before_the_driver_is_let_go(machine: Callable[..., Machine], called: list[str]) -> None:
    gpu = machine()
    gpu.read()
    called.clear()
    gpu.source.close()
    assert [name for name in called if name in {"nvmlGpmSampleFree", "nvmlShutdown"}] == [
        "nvmlGpmSampleFree",
        "nvmlGpmSampleFree",
        "nvmlShutdown",
    ]
    gpu.source = NvmlSource(monotonic=lambda: gpu.elapsed)
    assert gpu.sent() == 0.0, "a driver that was opened again is sampled again"


def test_samples_beneath_a_hung_call_are_left_alone(machine: Callable[..., Machine], called: list[str]) -> None:
    """What the hung call may still use is let go of as that returns."""
    gpu = machine()
    gpu.read()
    gpu.stub.hang(0)
    called.clear()
    reading = threading.Thread(target=gpu.read)
    reading.start()
    wait_for(lambda: called)
    gpu.source.close(hung=True)
    assert "nvmlGpmSampleFree" not in called
    gpu.stub.recover(0)
    reading.join()
    assert "nvmlGpmSampleFree" in called


def test_a_metric_that_the_driver_leaves_out_is_no_zero(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = machine()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    with closing(GpmReader(monotonic=lambda: ours.elapsed)) as reader:
        reader.read(handle, [RX_RATE, TX_RATE])
        genuine = pynvml.nvmlGpmMetricsGet

        def leaves_out(request: Any) -> Any:
            request.numMetrics -= 1
            return genuine(request)

        monkeypatch.setattr(pynvml, "nvmlGpmMetricsGet", leaves_out)
        ours.wait(5)
        told = reader.read(handle, [RX_RATE, TX_RATE])
    assert (set(told.means), set(told.lacking)) == ({RX_RATE}, set())
