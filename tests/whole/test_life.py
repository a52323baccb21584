"""GPUs, drivers and libraries come, go and change beneath the installed daemon; none of it needs a restart."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter
from tools.lab.nvml_stub import FUNCTIONS, Mig, Stub, build
from tools.lab.wait import wait_for

FAST = ("--source=nvml", "--collection.interval=500ms", "--collection.timeout=500ms")
LIBRARY = "libnvidia-ml.so.1"
Start = Callable[..., Exporter]
MakeStub = Callable[..., Stub]


@pytest.fixture
def start(library: Path, tmp_path: Path) -> Iterator[Start]:
    running: list[tuple[Exporter, Stub]] = []

    def begin(machine: Stub, *, folder: Path | None = None) -> Exporter:
        exporter = Exporter(tmp_path, *FAST, extra=machine.env(folder or library))
        running.append((exporter, machine))
        return exporter

    yield begin
    for exporter, machine in running:
        for device in range(machine.count):
            machine.recover(device)
        exporter.__exit__()


def ups(exporter: Exporter) -> dict[tuple[str, str], float]:
    """gpu_up by index and UUID."""
    samples = ((dict(labels), value) for (name, labels), value in exporter.samples().items() if name == "gpu_up")
    return {(labels["gpu"], labels["uuid"]): value for labels, value in samples}


def wait_ups(exporter: Exporter, expected: dict[tuple[str, str], float]) -> None:
    wait_for(lambda: ups(exporter) == expected, lambda: (ups(exporter), exporter.log()))


def uuid(machine: Stub, index: int) -> str:
    return str(machine.get(index, "uuid"))


def test_mig_on_and_off(start: Start, stub: MakeStub) -> None:
    machine = stub("a100")
    exporter = start(machine)
    wait_for(lambda: exporter.value("gpu_utilization_ratio", gpu=0) is not None)
    before = {name for name, _ in exporter.samples()}
    machine.mig(0, [Mig("MIG-1", "1g.5gb", 1, 0, 2**32, 2**20)])
    exporter.wait_value(None, "gpu_utilization_ratio", gpu=0)
    with machine.batch():
        machine.mig(0, [])
        machine.set(0, "mig_mode", 0)
    wait_for(lambda: before <= {name for name, _ in exporter.samples()}, exporter.log)
    assert exporter.value("gpu_read_errors_total", gpu=0, reason="partial") == 0


def test_a_name_that_fails_once(start: Start, stub: MakeStub) -> None:
    machine = stub("h100", "h100")
    machine.fail("nvmlDeviceGetUUID", 999, device=1)
    machine.fail("nvmlDeviceGetName", 999, device=1)
    exporter = start(machine)
    wait_ups(exporter, {("0", uuid(machine, 0)): 1, ("1", ""): 1})
    machine.fail("nvmlDeviceGetUUID", 0, device=1)
    machine.fail("nvmlDeviceGetName", 0, device=1)
    wait_ups(exporter, {("0", uuid(machine, 0)): 1, ("1", uuid(machine, 1)): 1})
    assert exporter.value("gpu_up", gpu=1, model="NVIDIA H100 80GB HBM3") == 1


def test_one_uuid_twice(start: Start, stub: MakeStub) -> None:
    machine = stub("h100", "h100", "h100")
    machine.set(1, "uuid", uuid(machine, 0))
    machine.set(1, "temperature", 77)
    exporter = start(machine)
    same = uuid(machine, 0)
    wait_ups(exporter, {("0", same): 1, ("1", same): 1, ("2", uuid(machine, 2)): 1})
    assert exporter.value("gpu_temperature_celsius", gpu=1) == 77
    assert exporter.value("gpu_exporter_gpus", state="found") == 3
    machine.lose(1)
    wait_ups(exporter, {("0", same): 1, ("1", same): 0, ("2", uuid(machine, 2)): 1})
    assert exporter.log().count("GPUs with the same UUID") == 1


def test_nearly_every_call_fails(start: Start, stub: MakeStub) -> None:
    machine = stub("h100", "h100")
    exporter = start(machine)
    wait_for(lambda: exporter.value("gpu_temperature_celsius", gpu=1) is not None)
    others = [name for name in FUNCTIONS if name.startswith("nvmlDeviceGet") and "Handle" not in name]
    with machine.batch():
        for name in set(others) - {"nvmlDeviceGetUtilizationRates", "nvmlDeviceGetCount_v2"}:
            machine.fail(name, 999, device=1)
    wait_for(lambda: (exporter.value("gpu_read_errors_total", gpu=1, reason="partial") or 0) >= 3, exporter.log)
    assert exporter.value("gpu_up", gpu=1) == 1, "it answers"
    assert exporter.value("gpu_utilization_ratio", gpu=1) is not None
    assert exporter.value("gpu_read_errors_total", gpu=0, reason="partial") == 0
    with machine.batch():
        for name in others:
            machine.fail(name, 0, device=1)
    wait_for(lambda: "GPU answers as a whole again" in exporter.log())
    assert exporter.log().count("GPU answers only in part") == 1
    assert exporter.value("gpu_temperature_celsius", gpu=1) is not None


def test_gpus_are_plugged_in_where_there_were_none(start: Start, stub: MakeStub) -> None:
    machine = stub("h100", "h100")
    machine.count = 0
    exporter = start(machine)
    assert exporter.value("gpu_exporter_last_sample_success") == 0, "no GPU answered"
    status, _, why = exporter.get("/readyz")
    assert (status, "the driver lists no GPU" in why) == (503, True)
    assert exporter.status("/livez") == 200
    assert exporter.value("gpu_driver_info") == 1, "the driver is well"
    machine.count = 2
    wait_ups(exporter, {(str(index), uuid(machine, index)): 1 for index in range(2)})
    assert exporter.value("gpu_exporter_last_sample_success") == 1
    assert exporter.log().count("the driver lists no GPU") == 1, "one line, not one a try"


def test_a_gpu_is_plugged_in_and_out_beside_another(start: Start, stub: MakeStub) -> None:
    machine = stub("h100", "h100")
    machine.count = 1
    exporter = start(machine)
    wait_ups(exporter, {("0", uuid(machine, 0)): 1})
    with machine.batch():
        machine.count = 2
        machine.list(2)
    wait_ups(exporter, {(str(index), uuid(machine, index)): 1 for index in range(2)})
    with machine.batch():
        machine.count = 1
        machine.list(1)
    wait_ups(exporter, {("0", uuid(machine, 0)): 1, ("1", uuid(machine, 1)): 0})
    assert (exporter.value("gpu_read_errors_total", gpu=1, reason="lost") or 0) > 0
    wait_for(lambda: "the driver lists 1 GPUs, and listed 2" in exporter.log())
    exporter.signal(signal.SIGHUP)
    wait_ups(exporter, {("0", uuid(machine, 0)): 1})


def test_a_board_that_moves_takes_its_account_along(start: Start, stub: MakeStub) -> None:
    machine = stub("h100", "h100", "h100", "h100")
    exporter = start(machine)
    gone, moved = uuid(machine, 2), uuid(machine, 3)
    wait_ups(exporter, {(str(index), uuid(machine, index)): 1 for index in range(4)})
    machine.xid(3, 31)
    exporter.wait_value(1, "gpu_xid_errors_total", gpu=3, uuid=moved, xid=31)
    with machine.batch():
        machine.fail_driver(9)
        machine.unplug(2)
    expected = {("0", uuid(machine, 0)): 1.0, ("1", uuid(machine, 1)): 1.0, ("2", moved): 1.0, ("2", gone): 0.0}
    wait_ups(exporter, expected)
    assert exporter.value("gpu_xid_errors_total", gpu=2, uuid=moved, xid=31) == 1


@pytest.mark.parametrize("code", [1, 9, 12, 18])
def test_what_one_gpu_says_of_the_driver_hides_no_other(start: Start, stub: MakeStub, code: int) -> None:
    machine = stub("h100", "h100", "h100")
    exporter = start(machine)
    boards = [uuid(machine, index) for index in range(3)]
    wait_ups(exporter, {(str(index), board): 1 for index, board in enumerate(boards)})
    machine.error(1, code)
    wait_ups(exporter, {("0", boards[0]): 1, ("1", boards[1]): 0, ("2", boards[2]): 1})
    wait_for(lambda: (exporter.value("gpu_read_errors_total", gpu=1, reason="unknown") or 0) >= 3)
    assert exporter.value("gpu_exporter_last_sample_success") == 1
    machine.recover(1)
    wait_ups(exporter, {(str(index), board): 1 for index, board in enumerate(boards)})
    assert exporter.log().count("source opened") == 1, "it was never closed"


@pytest.mark.parametrize("function", ["nvmlSystemGetCudaDriverVersion_v2", "nvmlDeviceGetMemoryInfo_v2"])
def test_a_missing_helper_library_costs_one_value(start: Start, stub: MakeStub, function: str) -> None:
    machine = stub("h100")
    machine.fail(function, 12)
    exporter = start(machine)
    wait_for(lambda: exporter.value("gpu_temperature_celsius", gpu=0) is not None, exporter.log)


def test_a_gpu_that_answers_noise_is_one_gpus_trouble(start: Start, stub: MakeStub) -> None:
    machine = stub("h100", "h100")
    machine.set(1, "pci_bus_id", "\udcff\udcfe0000")
    machine.set(1, "uuid", "GPU-\udcff\udcfe")
    exporter = start(machine)
    wait_for(lambda: exporter.value("gpu_up", gpu=0) == 1)
    wait_for(lambda: exporter.value("gpu_up", gpu=1) == 1, exporter.log)
    assert "Traceback" not in exporter.log()


@pytest.fixture
def installed(tmp_path: Path, library: Path) -> Path:
    """Where the driver's library is installed, of version 570."""
    folder = tmp_path / "lib"
    folder.mkdir()
    shutil.copy(build(library.parent, version="570") / LIBRARY, folder)
    return folder


def upgrade(machine: Stub, folder: Path, library: Path, *, version: str) -> None:
    """Put a new library in the place of the old one, then the new kernel module, as a package manager does."""
    new = folder / "new"
    shutil.copy(build(library.parent, version=version) / LIBRARY, new)
    new.rename(folder / LIBRARY)
    with machine.batch():
        machine.load_module(version)
        machine.driver_version = f"{version}.10"
        machine.fail_driver(18)


def test_a_driver_that_is_upgraded_in_place(start: Start, stub: MakeStub, library: Path, installed: Path) -> None:
    machine = stub("h100", driver_version="570.10")
    machine.load_module("570")
    exporter = start(machine, folder=installed)
    exporter.wait_value(1, "gpu_driver_info", driver_version="570.10")
    for version in ("580", "590"):
        upgrade(machine, installed, library, version=version)
        exporter.wait_value(1, "gpu_driver_info", driver_version=f"{version}.10")
        wait_ups(exporter, {("0", uuid(machine, 0)): 1})
        assert exporter.status("/livez") == 200
    maps = Path(f"/proc/{exporter.process.pid}/maps").read_text()
    assert LIBRARY in maps
    assert "(deleted)" not in "".join(line for line in maps.splitlines() if LIBRARY in line)


def test_an_old_library_that_cannot_be_unloaded_asks_for_a_restart(
    start: Start, stub: MakeStub, library: Path, installed: Path
) -> None:
    shutil.copy(build(library.parent, version="570", removable=False) / LIBRARY, installed)
    machine = stub("h100", driver_version="570.10")
    machine.load_module("570")
    exporter = start(machine, folder=installed)
    wait_ups(exporter, {("0", uuid(machine, 0)): 1})
    upgrade(machine, installed, library, version="580")
    wait_for(lambda: exporter.status("/livez") == 503, exporter.log)
    why = exporter.get("/livez").text
    assert "its old library cannot be unloaded" in why
    assert str(installed) not in why, "no path leaves by HTTP"
    assert exporter.log().count("cannot be unloaded") == 1
