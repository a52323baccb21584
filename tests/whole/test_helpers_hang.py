"""Whoever tells who holds a GPU may hang: /proc, users' names, Slurm's files. No GPU is told later for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter
from tools.lab.hung_disk import HungDisk
from tools.lab.nvml_stub import Process, Stub
from tools.lab.wait import patience, wait_for

FAST = ("--source=nvml", "--collection.interval=500ms", "--collection.timeout=500ms")


@pytest.mark.parametrize("what", ["slurm", "process", "passwd"])
def test_a_helper_that_hangs(library: Path, stub: Callable[..., Stub], tmp_path: Path, what: str) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "0").write_text("4711 alice\n")
    machine = stub("h100", "h100")
    machine.processes(0, [Process(os.getpid(), 2**30)])
    hung = {"slurm": jobs, "process": Path(f"/proc/{os.getpid()}/"), "passwd": Path("/etc/passwd")}[what]
    disk = HungDisk(hung, tmp_path)
    arguments = (*FAST, f"--owners.slurm-directory={jobs}", "--owners.procfs-nested")
    with Exporter(tmp_path, *arguments, extra={**machine.env(library), **disk.env()}) as exporter:

        def memory() -> dict[str, float]:
            """What the process takes, by the job that it belongs to."""
            samples = exporter.samples().items()
            return {
                dict(labels).get("slurm_job", ""): value
                for (name, labels), value in samples
                if name == "gpu_process_memory_used_bytes"
            }

        wait_for(lambda: memory() and exporter.value("gpu_up", gpu=1) == 1, exporter.log)
        before = memory()
        disk.hang()
        wait_for(lambda: disk.waits, timeout=120)
        for degrees in (61, 62, 63):
            machine.set(1, "temperature", degrees)
            exporter.wait_value(degrees, "gpu_temperature_celsius", gpu=1)
        assert exporter.value("gpu_up", gpu=0) == 1
        assert exporter.value("gpu_exporter_last_sample_success") == 1
        assert memory() == before, "the names of before stand"
        machine.processes(0, [])
        wait_for(lambda: memory() == {})
        disk.recover()
        machine.processes(0, [Process(os.getpid(), 2**30)])
        wait_for(lambda: memory() == before)
        disk.hang()
        wait_for(lambda: disk.waits, timeout=120)
        exporter.signal(signal.SIGTERM)
        assert exporter.process.wait(patience()) == 0
        disk.recover()


def test_making_an_event_set_hangs_and_hides_nobody(library: Path, stub: Callable[..., Stub], tmp_path: Path) -> None:
    machine = stub("h100", "h100", "h100")
    machine.slow_function("nvmlEventSetCreate", 3600)
    with Exporter(tmp_path, *FAST, extra=machine.env(library)) as exporter:
        wait_for(lambda: [exporter.value("gpu_up", gpu=gpu) for gpu in (1, 2)] == [1, 1], exporter.log)
        machine.slow_function("nvmlEventSetCreate", 0)
        wait_for(lambda: [exporter.value("gpu_up", gpu=gpu) for gpu in range(3)] == [1, 1, 1], exporter.log)
