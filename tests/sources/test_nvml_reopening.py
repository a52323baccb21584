"""The driver is opened again and again while something hangs in it: nothing piles up, and what hung comes back."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pynvml
import pytest
from tools.lab.nvml_stub import Stub
from tools.lab.wait import wait_for

from gpu_exporter.config import CollectionConfig
from gpu_exporter.events.nvml import LeftBehind
from gpu_exporter.model import Build, Snapshot
from gpu_exporter.sampling.sampler import Sampler
from gpu_exporter.sources.nvml import NvmlSource

TIMES = 8
MAKE, FREE = ("nvmlEventSetCreate", "nvmlGpmSampleAlloc"), ("nvmlEventSetFree", "nvmlGpmSampleFree")


class Machine:
    """Four GPUs under a sampler; ``source`` is the one that it has open."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.opened: list[NvmlSource] = []
        left = LeftBehind()

        def open_source() -> NvmlSource:
            # Its clock runs fast: whether GPUs have come or gone is looked at every 20 s.
            self.opened[:] = [NvmlSource(monotonic=lambda: 200 * time.monotonic(), left=left)]
            return self.opened[0]

        self.sampler = Sampler(
            open_source=open_source,
            source_name="nvml",
            collection=CollectionConfig(interval=0.1, timeout=1.0),
            build=Build("1", "3"),
        )
        self.sampler.start()
        self.until(lambda seen: seen.gpus_up == 4)

    def until(self, condition: Callable[[Snapshot], bool]) -> None:
        """Wait for a snapshot of which that is true."""
        wait_for(lambda: condition(self.sampler.latest()), self.sampler.latest)

    def reopened(self) -> None:
        """The driver is opened once more, and the GPUs are read."""
        before = self.opened[0]
        self.stub.list(3)
        wait_for(lambda: self.opened[0] is not before)
        self.stub.list(None)
        wait_for(lambda: len(self.opened[0].devices) == 4)
        self.until(lambda seen: seen.gpus_up >= 3)


@pytest.fixture
def machine(here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> Iterator[Machine]:
    machine = Machine(here(stub("h100", "h100", "h100", "h100")))
    yield machine
    with machine.stub.batch():
        for gpu in range(4):
            machine.stub.recover(gpu)
        machine.stub.slow_function("nvmlEventSetWait_v2", 0)
    machine.until(lambda seen: seen.gpus_up == 4)
    machine.sampler.close()
    wait_for(lambda: sessions() == 0)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the driver was asked for and has not got back, by the call that made it."""
    counts: Counter[str] = Counter()

    def counting(name: str, made: str, by: int) -> None:
        call = getattr(pynvml, name)

        @wraps(call)
        def counted(*arguments: Any) -> Any:
            answer = call(*arguments)
            counts[made] += by
            return answer

        monkeypatch.setattr(pynvml, name, counted)

    for make, free in zip(MAKE, FREE, strict=True):
        counting(make, make, 1)
        counting(free, make, -1)
    return counts


def sessions() -> int:
    return int(pynvml._nvmlLib_refcount)


def sources() -> int:
    gc.collect()
    return sum(isinstance(each, NvmlSource) for each in gc.get_objects())


def listeners() -> int:
    return sum(thread.name == "xid events" for thread in threading.enumerate())


def test_beneath_a_gpu_that_hangs(held: Counter[str], machine: Machine) -> None:
    machine.stub.hang(3)
    machine.until(lambda seen: seen.stuck == 1)
    machine.reopened()
    threads = threading.active_count()
    for _ in range(TIMES):
        machine.reopened()
    # Waited for, because it may be opened once more at this moment.
    wait_for(lambda: sessions() == 2, lambda: ("the one that the hung call is in, and the one of now", sessions()))
    wait_for(lambda: sources() <= 4, lambda: ("of the hung calls, of now, and one in hand", sources()))
    wait_for(lambda: threading.active_count() <= threads + 1, threading.enumerate)
    wait_for(lambda: held["nvmlEventSetCreate"] <= 1, held)
    wait_for(lambda: held["nvmlGpmSampleAlloc"] <= 2 * (4 + 2), held)
    machine.stub.recover(3)
    machine.until(lambda seen: seen.gpus_up == 4 and not seen.stuck)
    wait_for(lambda: sessions() == 1)
    wait_for(lambda: (held["nvmlEventSetCreate"], held["nvmlGpmSampleAlloc"]) == (1, 2 * 4), held)


def test_beneath_a_listener_that_hangs(machine: Machine) -> None:
    wait_for(lambda: machine.opened[0].hears)
    machine.stub.slow_function("nvmlEventSetWait_v2", 3600)
    wait_for(lambda: not machine.opened[0].hears, "nobody is told that XIDs are heard")
    for _ in range(3):
        machine.reopened()
    assert listeners() == 1, "one thread hangs, and none is piled upon it"
    machine.until(lambda seen: seen.event_sources["nvml"] == 0)
    machine.stub.slow_function("nvmlEventSetWait_v2", 0)
    machine.until(lambda seen: seen.event_sources["nvml"] == 1)
    since = machine.sampler.latest().monotonic
    machine.until(lambda seen: seen.monotonic > since + 0.2)  # all of them are registered by then
    machine.stub.xid(2, 79)
    machine.until(lambda seen: xids(seen) == {(2, "79")})


def xids(snapshot: Snapshot) -> set[tuple[int, str]]:
    return {
        (reading.device.index, labels[0])
        for reading in snapshot.readings
        for (metric, labels), value in reading.labelled.items()
        if metric.name == "gpu_xid_errors_total" and value
    }
