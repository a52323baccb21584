"""What happens to GPUs, by the installed daemon over the stand-in driver and a kernel log: each event once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter
from tools.lab.nvml_stub import Stub
from tools.lab.wait import wait_for

MakeStub = Callable[..., Stub]
XID = "NVRM: Xid (PCI:0000:{bus:02x}:00): {xid}, pid=4711, name=train, x"


def write(log: Path, *messages: str, priority: int = 3) -> None:
    with log.open("a") as file:
        for message in messages:
            file.write(f"{priority},1,1000000,-;{message}\n")


def daemon(folder: Path, machine: Stub, library: Path, log: Path) -> Exporter:
    options = ("--source=nvml", "--collection.interval=500ms", f"--collection.kernel-log={log}")
    return Exporter(folder, *options, extra=machine.env(library))


@pytest.fixture
def machine(stub: MakeStub) -> Stub:
    return stub("h100", "h100")


def test_an_xid_that_both_tell_is_one_and_what_only_one_tells_is_told(
    machine: Stub, library: Path, tmp_path: Path
) -> None:
    log, began = tmp_path / "kmsg", time.time()
    # Of before the start, of which nobody else can tell.
    write(log, XID.format(bus=0x11, xid=119))
    write(log, XID.format(bus=0x11, xid=79), priority=11)  # not the kernel's
    with daemon(tmp_path, machine, library, log) as exporter:
        exporter.wait_value(1, "gpu_xid_errors_total", gpu=1, xid=119)
        assert exporter.value("gpu_exporter_event_source_up", source="kernel_log") == 1
        exporter.wait_value(1, "gpu_exporter_event_source_up", source="nvml")
        assert exporter.value("gpu_events_total", gpu=0, event="mig_change") == 0
        machine.xid(0, 31)
        write(log, XID.format(bus=0x10, xid=31))
        exporter.wait_value(1, "gpu_xid_errors_total", gpu=0, xid=31)
        machine.event(0, 0x100, 0)
        machine.event(0, 0x10, 0)  # the clock is not asked for
        write(log, "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up")
        exporter.wait_value(1, "gpu_events_total", gpu=0, event="mig_change")
        heard = exporter.value("gpu_event_last_timestamp_seconds", gpu=0, event="mig_change") or 0.0
        assert began - 1 < heard < time.time() + 1
        assert exporter.value("gpu_event_last_timestamp_seconds", gpu=0, event="poison") is None
        switch: dict[str, str | int] = {"sxid": 20034, "pci_bus_id": "0000:05:00"}
        exporter.wait_value(1, "gpu_nvswitch_sxid_errors_total", **switch)
        assert (exporter.value("gpu_nvswitch_sxid_last_timestamp_seconds", **switch) or 0.0) > began - 1
        machine.xid(0, 48)
        exporter.wait_value(1, "gpu_xid_errors_total", gpu=0, xid=48)
        assert exporter.value("gpu_xid_errors_total", gpu=0, xid=31) == 1, "the second to tell it was heard by now"
        assert exporter.value("gpu_xid_errors_total", gpu=1, xid=79) is None
        line = next(line for line in exporter.log().splitlines() if "xid=119" in line)
        assert "pid=4711" in line
        assert "process_name=train" in line
        assert "before_start=yes" in line
    # An exporter that starts again knows what the log knows.
    with daemon(tmp_path, machine, library, log) as exporter:
        exporter.wait_value(1, "gpu_xid_errors_total", gpu=0, xid=31)
        assert exporter.value("gpu_xid_errors_total", gpu=1, xid=119) == 1
        # The log says of all of it that it was a second after the boot.
        boot = time.time() - time.monotonic() + 1
        assert exporter.value("gpu_nvswitch_sxid_errors_total", **switch) == 1
        for name, labels in (
            ("nvswitch_sxid", switch),
            ("xid", {"gpu": 0, "xid": 31}),
            ("xid", {"gpu": 1, "xid": 119}),
        ):
            assert exporter.value(f"gpu_{name}_last_timestamp_seconds", **labels) == pytest.approx(boot, abs=5)


def test_a_log_that_goes_away_costs_one_line_and_no_reading(machine: Stub, library: Path, tmp_path: Path) -> None:
    log = tmp_path / "none/kmsg"
    with daemon(tmp_path, machine, library, log) as exporter:
        exporter.wait_value(1, "gpu_up", gpu=0)
        assert exporter.value("gpu_exporter_event_source_up", source="kernel_log") == 0
        machine.xid(0, 62)
        exporter.wait_value(1, "gpu_xid_errors_total", gpu=0, xid=62)
        assert exporter.log().count("no kernel log") == 1


def test_a_flood_of_lines_holds_nothing_up(machine: Stub, library: Path, tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.touch()
    with daemon(tmp_path, machine, library, log) as exporter:
        exporter.wait_value(1, "gpu_exporter_event_source_up", source="kernel_log")
        write(log, *(XID.format(bus=0x10, xid=number % 300) for number in range(30_000)))
        write(log, XID.format(bus=0x11, xid=79))
        exporter.wait_value(1, "gpu_xid_errors_total", gpu=1, xid=79)
        exporter.wait_value(1, "gpu_up", gpu=0)
        wait_for(lambda: exporter.value("gpu_xid_errors_total", gpu=0, xid=13) == 100)
        assert exporter.log().count("XID event") < 3000, "twenty a reading, of thirty thousand"
