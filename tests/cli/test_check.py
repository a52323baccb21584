"""`gpu-exporter check` as Slurm, Nagios and people run it: the verdict, its words, its exit status."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.lab.exporter import run
from tools.lab.nvml_stub import Stub

FAKE = ("check", "--source=fake")


def sick(folder: Path, *events: str) -> str:
    """The flag of a scenario in which all of it has happened."""
    file = folder / "scenario.yaml"
    file.write_text("events:\n" + "".join(f"  - {{at: 0s, {event}}}\n" for event in events))
    return f"--fake.scenario={file}"


def first(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout.splitlines()[0]


@pytest.mark.parametrize("model", ["h100", "h200", "a100", "l40s", "rtx4090"])
@pytest.mark.parametrize("seed", [1, 2])
def test_healthy_gpus(model: str, seed: int) -> None:
    done = run(*FAKE, f"--fake.model={model}", f"--fake.seed={seed}")
    assert (done.returncode, first(done)) == (0, "healthy: 8 of 8 GPUs healthy"), done.stdout
    assert done.stdout.splitlines()[-1] == "simulated data: no real GPU was read"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("event", "code", "words"),
    [
        ("gpu: 3, fault: lost", 2, "critical: GPU 3: lost"),
        ("gpu: 3, fault: reset_required", 2, "critical: GPU 3: needs a reset"),
        ("gpu: 3, fault: xid, xid: 79", 2, "critical: GPU 3: XID 79"),
        ("gpu: 3, fault: xid, xid: 94", 1, "warning: GPU 3: XID 94"),
        ("gpu: 3, fault: xid, xid: 997", 1, "warning: GPU 3: XID 997, which is not in our list"),
        ("gpu: 3, fault: xid, xid: 31", 0, "healthy: 8 of 8 GPUs healthy"),
        ("gpu: 0-7, fault: nvlink, links: 2", 2, "critical: GPU 0-7: 2 NVLinks down"),
        ("gpu: [1, 2, 5], fault: pcie, width: 4", 1, "warning: GPU 1-2,5: PCIe x4 of x16"),
        ("gpu: 3, fault: ecc, remap: failure", 2, "critical: GPU 3: a memory row cannot be remapped"),
        ("gpu: 3, fault: power_brake", 1, "warning: GPU 3: slowed down by the power brake"),
        ("gpu: 3, fault: partial", 1, "warning: GPU 3: most driver calls fail"),
        ("gpu: 3, fault: drift, ecc: off", 1, "warning: GPU 3: ECC is off"),
        ("gpu: 0, fault: drift", 0, "healthy: 8 of 8 GPUs healthy"),
    ],
)
def test_one_sick_gpu(event: str, code: int, words: str, tmp_path: Path) -> None:
    done = run(*FAKE, sick(tmp_path, event))
    assert (done.returncode, first(done)) == (code, words), done.stdout


def test_what_is_slow_under_load(tmp_path: Path) -> None:
    """The worst is told first, and each GPU's worst before its other troubles."""
    loads = [f"gpu: {gpu}, fault: workload, workload: spinning" for gpu in (0, 1)]
    done = run(*FAKE, sick(tmp_path, *loads, "gpu: 0, fault: slow_pcie, generation: 2", "gpu: 1, fault: clock_stuck"))
    assert done.returncode == 1
    assert re.fullmatch(
        r"warning: GPU 0: PCIe gen 2 of 5 under load; GPU 1: SM clock stuck at 5\d\d of 1980 MHz", first(done)
    )


def test_many_troubles_fit_one_line(tmp_path: Path) -> None:
    events = [
        "gpu: 3, fault: lost",
        "gpu: 3, fault: xid, xid: 79",
        "gpu: 5, fault: ecc, severity: uncorrected",
        "gpu: 1, fault: pcie",
        "gpu: 2, fault: power_brake",
        "gpu: 4, fault: nvlink",
    ]
    done = run(*FAKE, sick(tmp_path, *events))
    assert done.returncode == 2
    line = first(done).removeprefix("critical: ")
    assert line.startswith("GPU 3: lost; GPU 4: 1 NVLinks down; ")
    assert re.search(r"; \+\d more$", line)
    assert len(line) <= 80
    assert "  critical: lost (GPULost)\n    -> it fell off the bus" in done.stdout
    assert "  critical: XID 79 (GPUXidCritical)" in done.stdout
    assert "  warning: a memory row waits for a reset (GPURowRemapPending)" in done.stdout


def test_fail_on_critical_lets_warnings_pass(tmp_path: Path) -> None:
    flag = sick(tmp_path, "gpu: 1, fault: pcie, width: 8")
    assert run(*FAKE, flag).returncode == 1
    for form, words in (("text", "warning: GPU 1"), ("nagios", "GPU OK - GPU 1: PCIe x8"), ("json", "{")):
        done = run(*FAKE, flag, "--fail-on=critical", f"--format={form}")
        assert (done.returncode, first(done)[: len(words)]) == (0, words)
    flag = sick(tmp_path, "gpu: 1, fault: lost")
    assert run(*FAKE, flag, "--fail-on=critical").returncode == 2


def test_fewer_gpus_than_expected(tmp_path: Path) -> None:
    done = run(*FAKE, "--expect-gpus=9")
    assert (done.returncode, first(done)) == (2, "critical: 8 of 9 GPUs found")
    assert "critical: 8 of 9 GPUs found (GPUMissing)" in done.stdout
    assert run(*FAKE, "--collection.expected-gpus=9").returncode == 2
    assert run(*FAKE, "--collection.expected-gpus=9", "--expect-gpus=8").returncode == 0
    file = tmp_path / "exporter.yml"
    file.write_text("source: fake\ncollection:\n  expected_gpus: 16\n")
    done = run("check", f"--config.file={file}")
    assert (done.returncode, first(done)) == (2, "critical: 8 of 16 GPUs found")


def test_as_json(tmp_path: Path) -> None:
    done = run(*FAKE, "--format=json", "--expect-gpus=8", sick(tmp_path, "gpu: 6, fault: lost", "gpu: 2, fault: pcie"))
    told = json.loads(done.stdout)
    assert done.returncode == told["code"] == 2
    assert (told["status"], told["reason"]) == ("critical", "GPU 6: lost; GPU 2: PCIe x8 of x16")
    assert (told["gpus_found"], told["gpus_expected"], told["simulated"], told["source"]) == (8, 8, True, "fake")
    assert told["host"]
    assert [gpu["status"] for gpu in told["gpus"]] == [
        *["healthy"] * 2,
        "warning",
        *["healthy"] * 3,
        "critical",
        "healthy",
    ]
    (finding,) = told["gpus"][6]["findings"]
    assert (finding["status"], finding["reason"], finding["alert"]) == ("critical", "lost", "GPULost")
    assert finding["runbook_url"].endswith("/docs/runbooks/GPULost.md")
    assert finding["advice"].startswith("it fell off the bus")
    assert told["gpus"][0]["uuid"].startswith("GPU-")


def test_as_nagios(tmp_path: Path) -> None:
    done = run(*FAKE, "--format=nagios", sick(tmp_path, "gpu: 6, fault: lost"))
    line, *more = done.stdout.splitlines()
    words, _, data = line.partition(" | ")
    assert (done.returncode, words) == (2, "GPU CRITICAL - GPU 6: lost")
    assert data.startswith("gpus=8 healthy=7 warning=0 critical=1 unknown=0 gpu0_temperature=")
    assert re.fullmatch(r"gpus=8( \w+=\d+)+(;\d+;\d+)?( gpu\d_temperature=\d+;84;92)+", data)
    assert more == ["critical: GPU 6: lost"]
    assert first(run(*FAKE, "--format=nagios")).startswith("GPU OK - 8 of 8 GPUs healthy | gpus=8 healthy=8 ")


# --- what cannot be told ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json", "nagios"])
def test_no_driver_is_unknown(form: str, tmp_path: Path) -> None:
    done = run("check", f"--format={form}", extra={"LD_LIBRARY_PATH": str(tmp_path), "PATH": "/nonexistent"})
    assert done.returncode == 3
    first(done)
    told = {
        "text": "unknown: libnvidia-ml.so.1 was not",
        "json": '"status": "unknown"',
        "nagios": "GPU UNKNOWN - libnv",
    }
    assert told[form] in done.stdout


def test_a_machine_without_gpus(tmp_path: Path) -> None:
    """CPU nodes run the same health check."""
    extra = {"LD_LIBRARY_PATH": str(tmp_path)}
    done = run("check", "--expect-gpus=0", extra=extra)
    assert (done.returncode, done.stdout) == (0, "healthy: 0 of 0 GPUs healthy\n")
    assert run("check", "--expect-gpus=1", extra=extra).returncode == 3, "without a driver nobody can count them"


def test_a_driver_that_lists_no_gpu(library: Path, stub: Callable[..., Stub]) -> None:
    machine = stub("h100")
    machine.list(0)
    done = run("check", extra=machine.env(library))
    assert (done.returncode, first(done)) == (3, "unknown: the driver lists no GPU")
    assert run("check", "--expect-gpus=1", extra=machine.env(library)).returncode == 2


def test_one_gpu_of_a_real_driver_is_lost(library: Path, stub: Callable[..., Stub]) -> None:
    machine = stub(*["h100"] * 8)
    assert first(run("check", extra=machine.env(library))) == "healthy: 8 of 8 GPUs healthy"
    machine.lose(5)
    done = run("check", "--expect-gpus=8", extra=machine.env(library))
    assert (done.returncode, first(done)) == (2, "critical: GPU 5: lost")


def test_a_driver_that_hangs_is_unknown(library: Path, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100")
    machine.hang_init()
    done = run("check", "--timeout=1s", extra=machine.env(library))
    assert (done.returncode, first(done)) == (3, "unknown: the driver has not answered within 1 s")


def test_gpus_that_hang(library: Path, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100")
    machine.hang(1)
    done = run("check", "--collection.timeout=300ms", extra=machine.env(library))
    assert (done.returncode, first(done)) == (2, "critical: GPU 1: does not answer")
    machine.hang(0)
    done = run("check", "--collection.timeout=300ms", extra=machine.env(library))
    assert (done.returncode, first(done)) == (3, "unknown: GPU 0-1: the driver hangs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=xml"], "Invalid value for '--format': 'xml' is not one of"),
        (["--fail-on=info"], "Invalid value for '--fail-on'"),
        (["--expect-gpus=-1"], "Invalid value for '--expect-gpus'"),
        (["--timeout=5"], "--timeout: '5' is not a duration; write 5s"),
        (["--expect-gpu=8"], "No such option '--expect-gpu'"),
        (["--source=rocm"], "--source: 'rocm' is not known; write one of auto"),
        (["--config.file=/nowhere.yml"], "/nowhere.yml: cannot be read"),
        (["--source=fake", "--fake.scenario=/nowhere.yml"], "/nowhere.yml: cannot be read"),
    ],
)
def test_a_mistake_is_unknown_never_critical(arguments: list[str], message: str) -> None:
    """Status 2 would drain every node of the cluster for a slip of the pen."""
    done = run("check", *arguments)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gpu-exporter: {message}")


def test_a_mistake_is_told_where_nagios_looks() -> None:
    done = run("check", "--format=nagios", "--source=rocm")
    assert done.returncode == 3
    assert first(done).startswith("GPU UNKNOWN - --source: 'rocm' is not known")


def test_the_kernel_log_says_what_happened_before(library: Path, stub: Callable[..., Stub], tmp_path: Path) -> None:
    """An XID of before `check` began, which NVML tells nobody who did not listen."""
    machine = stub("h100", "h100")
    told = json.loads(run("check", "--format=json", extra=machine.env(library)).stdout)
    assert told["status"] == "healthy"
    _, domain, bus = re.split(r"^0000([0-9A-F]{4}):", told["gpus"][1]["pci_bus_id"])
    address = f"{domain}:{bus.removesuffix('.0')}".lower()
    log = tmp_path / "kmsg"
    seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - 1.0
    for number, code, words in ((79, 2, "critical: GPU 1: XID 79"), (31, 0, "healthy: 2 of 2 GPUs healthy")):
        log.write_text(f"4,1,{seconds * 1e6:.0f},-;NVRM: Xid (PCI:{address}): {number}, pid=1, name=x, Ch 00000001\n")
        done = run("check", f"--collection.kernel-log={log}", extra=machine.env(library))
        assert (done.returncode, first(done)) == (code, words)
