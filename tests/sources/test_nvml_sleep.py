"""GPUs that the kernel has asleep: told from a made-up sysfs, and never woken by a call to the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools.lab.nvml_stub import Stub

from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.power import SUSPENDED
from gpu_exporter.model import Device
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources import Source, SourceChangedError
from gpu_exporter.sources.nvml import NvmlSource
from gpu_exporter.sources.nvml.sleep import Rest, RuntimePower, unless_asleep


class Machine:
    """Stand-in GPUs, and what the kernel tells of each; ``now`` is monotonic seconds."""

    def __init__(self, folder: Path, stub: Stub, *, let_sleep: bool = False) -> None:
        self.root = folder
        self.stub = stub
        self.now = 1000.0
        source = NvmlSource(root=Path("/nonexistent"))
        for device in source.devices:
            source.read(device)
        self.devices = list(source.devices)
        source.close()
        power = RuntimePower(self.root)
        self.addresses = [power.address(device) for device in self.devices]
        for device, address in zip(self.devices, self.addresses, strict=True):
            folder = self.root / "sys/bus/pci/devices" / address / "power"
            folder.mkdir(parents=True)
            drivers = self.root / "sys/bus/pci/drivers/nvidia"
            drivers.mkdir(parents=True, exist_ok=True)
            (drivers / address).symlink_to(folder.parent)
            info = self.root / "proc/driver/nvidia/gpus" / address
            info.mkdir(parents=True)
            text = f"Model: \t\t {device.model}\nGPU UUID: \t {device.uuid}\nBus Location: \t {address}\n"
            (info / "information").write_text(text)
        for index in range(len(self.devices)):
            self.set(index, "active")
        (self.root / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX Module  590.48.01  Mon\n")
        self.open: Callable[[], Source] = unless_asleep(
            self._open, let_sleep=let_sleep, root=self.root, monotonic=lambda: self.now
        )
        self.sources: list[Source] = []
        stub.reset_calls()

    def _open(self, power: RuntimePower, rest: Rest | None) -> NvmlSource:
        return NvmlSource(processes=15.0, monotonic=lambda: self.now, root=self.root, power=power, rest=rest)

    def opened(self) -> Source:
        self.sources.append(self.open())
        return self.sources[-1]

    def set(self, index: int, status: str, *, control: str = "auto", memory: str = "Active") -> None:
        address = self.addresses[index]
        folder = self.root / "sys/bus/pci/devices" / address / "power"
        (folder / "runtime_status").write_text(f"{status}\n")
        (folder / "control").write_text(f"{control}\n")
        (self.root / "proc/driver/nvidia/gpus" / address / "power").write_text(
            f"Runtime D3 status:          Enabled (fine-grained)\nVideo Memory:               {memory}\n"
        )

    def idle(self) -> None:
        for index in range(len(self.devices)):
            self.stub.set(index, "utilization", 0)
            self.stub.processes(index, [])

    def pass_time(self, source: Source, seconds: int) -> None:
        """Read all GPUs every five seconds."""
        for _ in range(seconds // 5):
            self.now += 5.0
            for device in source.devices:
                source.read(device)


Make = Callable[..., Machine]


@pytest.fixture
def machine(tmp_path: Path, here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> Iterator[Make]:
    made: list[Machine] = []

    def make(*models: str, **rest: bool) -> Machine:
        made.append(Machine(tmp_path / "root", here(stub(*(models or ("rtx4090", "rtx4090")))), **rest))
        return made[-1]

    yield make
    for each in made:
        for source in each.sources:
            source.close()


def suspended(source: Source, index: int) -> float | None:
    return source.read(source.devices[index]).values.get(SUSPENDED)


def test_sleeping_gpus_are_told_without_a_call_to_the_driver(machine: Make) -> None:
    laptop = machine()
    for index in (0, 1):
        laptop.set(index, "suspended")
    source = laptop.opened()
    for device in source.devices:
        reading = source.read(device)
        assert (reading.failure, reading.values, reading.processes) == (None, {SUSPENDED: 1.0}, None)
        assert (reading.device.uuid, reading.device.model) == (device.uuid, laptop.devices[device.index].model)
        assert reading.device.key == laptop.devices[device.index].key, "its accounts go on"
    assert source.driver.driver_version == "590.48.01"
    assert source.events() == ()
    assert laptop.stub.calls() == {}


def test_a_gpu_that_wakes_up_is_read(machine: Make) -> None:
    laptop = machine()
    for index in (0, 1):
        laptop.set(index, "suspended")
    source = laptop.opened()
    laptop.set(1, "active")
    assert suspended(source, 0) == 1
    with pytest.raises(SourceChangedError, match="GPU 1 is awake"):
        source.read(source.devices[1])
    source = laptop.opened()
    assert isinstance(source, NvmlSource)
    reading = source.read(source.devices[1])
    assert reading.values[SUSPENDED] == 0
    assert reading.values[by_name("gpu_temperature_celsius")]
    assert laptop.stub.calls()["nvmlDeviceGetTemperatureV"] == 1, "calls are counted, where there are any"


def test_one_asleep_beside_one_at_work_is_left_alone(machine: Make) -> None:
    workstation = machine()
    source = workstation.opened()
    assert [suspended(source, index) for index in (0, 1)] == [0, 0]
    workstation.set(1, "suspended")
    workstation.stub.hang(1)  # a call would not come back
    assert suspended(source, 1) == 1
    assert isinstance(source, NvmlSource)
    assert source.read_buffers(source.devices[1]).increments == {}
    assert suspended(source, 0) == 0
    workstation.stub.recover(1)
    workstation.set(1, "active")
    assert suspended(source, 1) == 0


def test_when_all_have_fallen_asleep_the_driver_is_closed(machine: Make) -> None:
    laptop = machine()
    source = laptop.opened()
    assert suspended(source, 0) == 0
    for index in (0, 1):
        laptop.set(index, "suspended")
    with pytest.raises(SourceChangedError, match="every GPU is asleep"):
        source.read(source.devices[0])
    assert suspended(laptop.opened(), 0) == 1


def test_gpus_that_come_are_noticed_while_the_others_sleep(machine: Make) -> None:
    laptop = machine()
    for index in (0, 1):
        laptop.set(index, "suspended")
    source = laptop.opened()
    (laptop.root / "sys/bus/pci/drivers/nvidia/0000:f1:00.0").mkdir()
    with pytest.raises(SourceChangedError, match="come or gone"):
        source.read(source.devices[0])


def test_where_the_kernel_does_not_tell_nothing_changes(machine: Make, tmp_path: Path) -> None:
    server = machine("h100")
    for file in (tmp_path / "root").rglob("runtime_status"):
        file.write_text("unsupported\n")
    source = server.opened()
    assert isinstance(source, NvmlSource)
    assert suspended(source, 0) is None


# --- collection.let_sleep ---------------------------------------------------------------------------------------------


def test_idle_gpus_are_let_go_and_fall_asleep(machine: Make) -> None:
    laptop = machine(let_sleep=True)
    laptop.idle()
    source = laptop.opened()
    with pytest.raises(SourceChangedError, match="no GPU has worked for a minute"):
        laptop.pass_time(source, 70)
    source.close()
    laptop.stub.reset_calls()
    source = laptop.opened()
    assert [suspended(source, index) for index in (0, 1)] == [0, 0], "let alone, and not asleep yet"
    laptop.now += 20
    for index in (0, 1):
        laptop.set(index, "suspended", memory="Off")
    assert [suspended(source, index) for index in (0, 1)] == [1, 1]
    laptop.now += 3600
    assert suspended(source, 0) == 1
    assert laptop.stub.calls() == {}
    laptop.set(0, "active")
    with pytest.raises(SourceChangedError, match="GPU 0 is awake"):
        source.read(source.devices[0])
    source = laptop.opened()
    assert suspended(source, 0) == 0
    laptop.set(1, "active")
    with pytest.raises(SourceChangedError, match="no GPU has worked"):  # and at once again
        laptop.pass_time(source, 70)


def test_one_that_somebody_else_keeps_awake_is_read_again_after_a_minute(machine: Make) -> None:
    laptop = machine(let_sleep=True)
    laptop.idle()
    source = laptop.opened()
    with pytest.raises(SourceChangedError):
        laptop.pass_time(source, 70)
    source = laptop.opened()
    with pytest.raises(SourceChangedError, match="GPU 0 is awake"):
        laptop.pass_time(source, 70)
    source = laptop.opened()
    laptop.pass_time(source, 500)  # no attempt for ten minutes
    with pytest.raises(SourceChangedError, match="no GPU has worked"):
        laptop.pass_time(source, 300)


@pytest.mark.parametrize("why", ["busy", "may not", "not asked for"])
def test_gpus_that_work_or_may_not_sleep_are_read_on(why: str, machine: Make) -> None:
    laptop = machine(let_sleep=why != "not asked for")
    laptop.idle()
    if why == "busy":
        laptop.stub.set(1, "utilization", 3)
    elif why == "may not":
        laptop.set(1, "active", control="on")
    source = laptop.opened()
    laptop.pass_time(source, 600)
    assert suspended(source, 0) == 0


# --- accounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "processes"), [("Off", ()), ("Active", None)])
def test_a_sleeping_gpu_is_idle(memory: str, processes: object, machine: Make) -> None:
    """The kernel says that nothing runs: that is evidence, not silence."""
    laptop = machine("rtx4090")
    laptop.set(0, "suspended", memory=memory)
    source, pipeline = laptop.opened(), Pipeline(gap=60)
    (device,) = source.devices
    assert isinstance(device, Device)
    assert source.read(device).processes == processes
    for now in (0.0, 5.0, 10.0):
        (reading,) = pipeline.complete([source.read(device)], now)
    assert reading.state == "idle_free"
    assert reading.values[by_name("gpu_state_seconds_total", state="idle_free")] == 10
    assert reading.values[by_name("gpu_up")] == 1
