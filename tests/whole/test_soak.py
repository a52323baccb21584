"""A storm of faults leaves no thread, no memory and no GPU behind; the long run is for ``make soak``."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter
from tools.lab.nvml_stub import Stub
from tools.lab.wait import wait_for


def resident(exporter: Exporter) -> int:
    """VmRSS in KiB."""
    status = Path(f"/proc/{exporter.process.pid}/status").read_text()
    match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert match is not None
    return int(match[1])


def threads(exporter: Exporter) -> int:
    return len(list(Path(f"/proc/{exporter.process.pid}/task").iterdir()))


def all_up(exporter: Exporter, count: int) -> bool:
    values = [value for (name, _), value in exporter.samples().items() if name == "gpu_up"]
    return values == [1.0] * count


def test_a_storm_of_faults(library: Path, stub: Callable[..., Stub], tmp_path: Path) -> None:
    chance = random.Random(1)  # noqa: S311 - the same storm every time
    machine = stub(*["h100"] * 8)
    arguments = ("--source=nvml", "--collection.interval=200ms", "--collection.timeout=200ms")
    with Exporter(tmp_path, *arguments, extra=machine.env(library)) as exporter:
        wait_for(lambda: all_up(exporter, 8))
        settled = 0
        for storm in range(60):
            for device in range(8):
                fault = chance.choice([machine.lose, machine.hang, machine.recover, machine.recover])
                fault(device)
                if chance.random() < 0.1:
                    machine.xid(device, chance.choice([31, 48, 79, 94]))
            if chance.random() < 0.1:
                machine.fail_driver(9)
                machine.fail_init(9)
            for _ in range(5):
                assert exporter.status("/metrics") == 200
            assert exporter.status("/livez") == 200
            machine.fail_init(0)
            if storm == 20:
                settled = resident(exporter)
        for device in range(8):
            machine.recover(device)
        wait_for(lambda: all_up(exporter, 8), exporter.log)
        # main, sampler, poller, http, host, XIDs, kernel log
        wait_for(lambda: threads(exporter) <= 7, lambda: threads(exporter))
        assert resident(exporter) < settled + 8192, "memory stays flat"
        assert "Traceback" not in exporter.log()


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_ticks(library: Path, stub: Callable[..., Stub], tmp_path: Path) -> None:
    machine = stub(*["h100"] * 8)
    arguments = ("--source=nvml", "--collection.interval=100ms")
    with Exporter(tmp_path, *arguments, extra=machine.env(library)) as exporter:

        def ticks() -> int:
            exporter.samples()  # every tick that is looked at is rendered
            return machine.calls().get("nvmlDeviceGetMemoryInfo_v2", 0) // 8

        wait_for(lambda: ticks() >= 1_000, timeout=300)
        settled = resident(exporter)
        wait_for(lambda: ticks() >= 10_000, timeout=1500)
        assert resident(exporter) < settled + 1024, "no more than 1 MiB in 9000 ticks"
