"""The fake source: healthy GPUs. Scenarios are in test_fake_scenarios.py."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.lab import ROOT
from tools.lab.clock import Clock

from fake_story import quantities
from gpu_exporter.catalog import ASKED, DEVICE_METRICS, by_name, mig
from gpu_exporter.catalog.row import Board, Constant, Metric
from gpu_exporter.catalog.simulated import UUID_END, is_simulated
from gpu_exporter.config import MODELS as CONFIGURED
from gpu_exporter.model import Reading
from gpu_exporter.sampling.tenancy import owner_of
from gpu_exporter.sources import Source, SourceError
from gpu_exporter.sources.fake import MODELS, FakeFleet
from gpu_exporter.sources.fake.simulation import Simulation
from gpu_exporter.sources.fake.workloads import KINDS, Workload, assign, noise

START = 1_780_000_000.0  # 2026-05-28T20:26:40Z
ALL = sorted(MODELS)
SIMULATED = {row.fake for row in ASKED if isinstance(row.fake, str)}
BUSY = by_name("gpu_busy_seconds_total")
COUNTERS = {row for row in DEVICE_METRICS if row.kind == "counter"}


def readings(source: Source) -> list[Reading]:
    return [source.read(device) for device in source.devices]


# --- what there is ----------------------------------------------------------------------------------------------------


def test_what_can_be_configured_is_what_boards_offer() -> None:
    offered = tuple(model.name for model in MODELS.values() if model.offered)
    path = "exporter/gpu_exporter/config/settings.py"
    lines = (ROOT / path).read_text("utf-8").splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.startswith("MODELS: Final"))
    assert offered == CONFIGURED, f"{path}:{number}: write MODELS: Final = {offered}"


def test_uuids_say_that_no_such_gpu_exists() -> None:
    uuids = [device.uuid for name in ALL for device in FakeFleet(model=name, gpus=16, seed=1).devices]
    assert len(set(uuids)) == 16 * len(ALL)
    assert all(re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid) for uuid in uuids)
    assert all(is_simulated(uuid) for uuid in uuids)
    real = "GPU-7b8bace7-f031-48d1-9451-c1fcd4f8ad29"
    assert not is_simulated(real)
    assert UUID_END in (ROOT / "deploy/alertmanager/templates/email.tmpl").read_text("utf-8")


def test_catalogue_and_simulation_name_the_same_quantities() -> None:
    simulated = {"fan_speeds", "fan_rpms", *(str(row.fake) for row in mig.ROWS)}  # by fan, by MIG device
    for model in MODELS.values():
        simulation = Simulation(model=model, workload=assign(1, 1)[0], start=START)
        simulated |= set(simulation.quantities())
    assert sorted(SIMULATED - simulated) == [], (
        "rows name these in fake=, and no board has them: let quantities() in exporter/gpu_exporter/sources/fake/"
        "simulation.py work them out, or write fake=Constant(…), fake=Board(…) or fake_absent= in the row"
    )
    assert sorted(simulated - SIMULATED) == [], (
        "exporter/gpu_exporter/sources/fake/simulation.py works these out, and no row has them as fake="
    )


@pytest.mark.parametrize("row", [row for row in DEVICE_METRICS if isinstance(row.fake, Board)], ids=repr)
def test_boards_have_what_rows_name(row: Metric) -> None:
    assert isinstance(row.fake, Board)
    told = [getattr(model, row.fake.attribute, "?") for model in MODELS.values()]
    assert all(isinstance(value, int | float) or value is None for value in told), (
        f"exporter/gpu_exporter/sources/fake/models.py: GpuModel has no number {row.fake.attribute}, which fake= names"
    )
    assert {*told} != {None}, f"no board has {row.fake.attribute}: write fake_absent= in the row"


@pytest.mark.parametrize("row", [row for row in DEVICE_METRICS if isinstance(row.fake, Constant)], ids=repr)
def test_constants_are_the_same_on_every_board(row: Metric) -> None:
    assert isinstance(row.fake, Constant)
    fleets = [FakeFleet(gpus=1, model=model, seed=1, clock=Clock()) for model in ALL]
    assert {fleet.open().read(fleet.devices[0]).values[row] for fleet in fleets} == {row.fake.value}


def test_source_is_a_source() -> None:
    source: Source = FakeFleet(gpus=2, model="h100", seed=1, clock=Clock(START)).open()
    assert source.name == "fake"
    assert source.driver.driver_version == "590.48.01"
    assert source.driver.cuda_version == "13.1"
    assert [device.index for device in source.devices] == [0, 1]
    assert all(a is b for a, b in zip(source.devices, source.devices, strict=True))
    assert source.events() == ()


@pytest.mark.parametrize("model", ALL)
def test_identity(model: str) -> None:
    devices = FakeFleet(gpus=20, model=model, seed=3, clock=Clock(START)).devices
    for device in devices:
        assert re.fullmatch(r"GPU-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", device.uuid)
        assert re.fullmatch(r"[0-9A-F]{8}:[0-9A-F]{2}:00\.0", device.pci_bus_id)
        assert device.architecture
        assert device.brand
        assert device.vbios_version
        assert bool(device.serial) is (model != "rtx4090")
    for name in ("uuid", "pci_bus_id"):
        assert len({getattr(device, name) for device in devices}) == 20


def test_h100_says_its_name_as_nvml_does() -> None:
    device = FakeFleet(gpus=1, model="h100", seed=1, clock=Clock(START)).devices[0]
    assert (device.model, device.architecture, device.brand) == ("NVIDIA H100 80GB HBM3", "Hopper", "NVIDIA")


ABSENT = {
    "h100": ("retired_pending", "nvlink_errors_symbol", "ecc_corrected_volatile_l1_cache"),
    "a100": ("gpu_fabric_state",),
    "l40s": (
        "mig_mode",
        "memory_temperature",
        'gpu_temperature_limit_celsius{limit="memory_max"}',
        "nvlinks_active",
        "nvlink_transmit_bytes",
    ),
    "rtx4090": ("mig_mode", "memory_temperature", "ecc_enabled", "remap_pending", "sram_threshold_exceeded"),
    "v100": ("remap_pending", "jpeg", "pcie_transmit_bytes"),
    "b200": ("nvlink_errors_crc_flit",),
}


@pytest.mark.parametrize(("model", "name"), [(model, name) for model, names in ABSENT.items() for name in names])
def test_what_a_board_lacks_is_absent(model: str, name: str) -> None:
    fleet = FakeFleet(gpus=1, model=model, seed=1, clock=Clock(START))
    assert name not in quantities(fleet.open().read(fleet.devices[0]))


@pytest.mark.parametrize("model", ALL)
def test_fans_exist_only_on_boards_that_have_them(model: str) -> None:
    fleet = FakeFleet(gpus=1, model=model, seed=1, clock=Clock(START))
    told = fleet.open().read(fleet.devices[0]).labelled
    labels = [(row.name, labels[0]) for row, labels in told if row.dynamic == ("fan",)]
    names = ("gpu_fan_speed_ratio", "gpu_fan_speed_rpm")
    assert labels == ([(name, fan) for name in names for fan in "01"] if model == "rtx4090" else [])


# --- it looks alive ---------------------------------------------------------------------------------------------------


def test_default_fleet_has_every_kind_of_work_and_a_shared_job() -> None:
    workloads = assign(8, 1)
    assert {workload.kind for workload in workloads} == set(KINDS) - {"spinning"}, "that only a story tells"
    training = [workload for workload in workloads if workload.kind == "training"]
    assert any(a.job == b.job for a, b in itertools.pairwise(training))


@pytest.mark.parametrize("gpus", [*range(1, 20), 1024])
def test_every_gpu_has_a_workload(gpus: int) -> None:
    assert len(assign(gpus, 5)) == gpus


def test_first_reading_is_warm_and_has_a_past() -> None:
    source = FakeFleet(gpus=8, model="h100", seed=1, clock=Clock(START)).open()
    busy = [values for values in map(quantities, readings(source)) if values["utilization"] > 0.5]
    assert busy
    for values in busy:
        assert values["temperature"] > 35
        assert values["energy"] > 86400 * values["power_limit"] * 0.1


def test_siblings_of_a_job_pause_together() -> None:
    workload = assign(8, 1)[0]
    sibling = assign(8, 1)[1]
    assert workload.job == sibling.job
    pauses = [
        (workload.demand(START + second).utilization < 0.1, sibling.demand(START + second).utilization < 0.1)
        for second in range(0, 6 * 3600, 10)
    ]
    assert any(first for first, _ in pauses)
    assert all(first == second for first, second in pauses)


def test_inference_follows_the_day() -> None:
    server = next(workload for workload in assign(8, 1) if workload.kind == "inference")
    midnight = START // 86400 * 86400

    def mean(hour: int) -> float:
        return sum(server.demand(midnight + hour * 3600 + 10 * tick).utilization for tick in range(360)) / 360

    assert mean(15) > mean(3) + 0.2


def test_reported_work_does_not_depend_on_how_often_it_is_read() -> None:
    often, seldom = Clock(START), Clock(START)
    first = FakeFleet(gpus=8, model="a100", seed=1, clock=often).open()
    second = FakeFleet(gpus=8, model="a100", seed=1, clock=seldom).open()
    for _ in range(60):
        often.now += 5
        readings(first)
    seldom.now += 300
    for one, other in zip(map(quantities, readings(first)), map(quantities, readings(second)), strict=True):
        assert one["utilization"] == other["utilization"]
        assert one["memory_used"] == other["memory_used"]
        assert one["temperature"] == pytest.approx(other["temperature"], abs=2)
        assert one["energy"] == pytest.approx(other["energy"], rel=1e-3)


def test_processes_hold_what_memory_used_tells() -> None:
    fleet = FakeFleet(gpus=8, model="h200", seed=1, clock=Clock(START))
    for reading in readings(fleet.open()):
        held = sum(process.memory_used or 0.0 for process in reading.processes or ())
        assert quantities(reading)["memory_used"] == held


def test_noise_covers_the_unit_interval() -> None:
    values = [noise(7, moment) for moment in range(2000)]
    assert min(values) >= 0
    assert max(values) <= 1
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.03)


def test_idle_boards_step_down_as_theirs_do() -> None:
    idle = Workload("idle", 1, 1, 1, "alice")
    hopper = Simulation(model=MODELS["h100"], workload=idle, start=START).quantities()
    geforce = Simulation(model=MODELS["rtx4090"], workload=idle, start=START).quantities()
    assert (hopper["performance_state"], hopper["pcie_generation"]) == (0, 5)  # as the recorded H100 does
    assert (geforce["performance_state"], geforce["pcie_generation"]) == (8, 1)
    assert hopper["reason_gpu_idle"] == geforce["reason_gpu_idle"] == 1


# --- determinism and invariants ---------------------------------------------------------------------------------------


def run(seed: int, model: str, ticks: list[float]) -> list[list[Reading]]:
    clock = Clock(START)
    source = FakeFleet(gpus=4, model=model, seed=seed, clock=clock).open()
    rounds = []
    for tick in ticks:
        clock.now += tick
        rounds.append(readings(source))
    return rounds


def test_same_seed_and_clock_give_the_same_and_another_seed_differs() -> None:
    ticks = [5.0, 5.0, 0.3, 61.0, 5.0]
    assert run(1, "h100", ticks) == run(1, "h100", ticks)
    for one, other in zip(run(1, "h100", ticks)[-1], run(2, "h100", ticks)[-1], strict=True):
        assert one.device.uuid != other.device.uuid
        assert one.values != other.values


def test_order_of_reading_does_not_matter() -> None:
    clock = Clock(START)
    forward = FakeFleet(gpus=4, model="h100", seed=1, clock=clock).open()
    backward = FakeFleet(gpus=4, model="h100", seed=1, clock=clock).open()
    clock.now += 7
    assert readings(forward) == [backward.read(device) for device in reversed(backward.devices)][::-1]


def check(values: dict[str, float]) -> None:
    ratios = ("utilization", "memory_io", "encoder", "decoder", "jpeg", "ofa")
    assert all(0 <= values[name] <= 1 for name in ratios if name in values)
    assert all(value >= 0 for value in values.values())
    assert (
        values["memory_used"] + values["memory_free"] + values["gpu_memory_reserved_bytes"]
        == values["gpu_memory_total_bytes"]
    )
    assert 20 <= values["temperature"] < values['gpu_temperature_limit_celsius{limit="shutdown"}']
    if "memory_temperature" in values:
        assert 20 <= values["memory_temperature"] <= values['gpu_temperature_limit_celsius{limit="memory_max"}']
    assert 0 < values["power"] <= values["power_limit"] * 1.02
    assert 0 < values["clock_sm"] <= values['gpu_clock_max_hertz{clock="sm"}']
    assert values["pcie_generation"] <= values["gpu_pcie_link_generation_max"]
    for name, value in values.items():
        if name.startswith(("ecc_corr", "ecc_uncorr", "remap", "retired", "nvlink_errors", "sram", "recovery")):
            assert value == 0, name
    if values["reason_gpu_idle"]:
        assert values["utilization"] == 0
        assert values["power"] < 0.3 * values["power_limit"]


@pytest.mark.parametrize("model", ALL)
def test_a_day_is_plausible(model: str) -> None:
    clock = Clock(START)
    source = FakeFleet(gpus=5, model=model, seed=1, clock=clock).open()
    before = readings(source)
    busy = 0.0
    for _ in range(24 * 12):
        clock.now += 300
        now = readings(source)
        for old, new in zip(before, now, strict=True):
            check(quantities(new))
            grows(old, new)
            grown = new.increments[BUSY]
            assert 0 <= grown <= 300 + 1e-6
            assert new.covered[BUSY] == 300
            busy += grown
            assert all(0 <= speed <= 1 for (row, _), speed in new.labelled.items() if row.unit == "ratio")
        before = now
    assert 0.2 < busy / (5 * 86400) < 0.9


def grows(old: Reading, new: Reading) -> None:
    assert old.values.keys() == new.values.keys()
    for row in COUNTERS & old.values.keys():
        assert new.values[row] >= old.values[row], row


@settings(max_examples=40)
@given(
    model=st.sampled_from(ALL),
    seed=st.integers(0, 2**31),
    start=st.floats(0, 4e9),
    ticks=st.lists(st.floats(-3600, 100_000) | st.floats(0, 10) | st.floats(0, 1e-9), max_size=12),
)
def test_counters_never_fall(model: str, seed: int, start: float, ticks: list[float]) -> None:
    clock = Clock(start)
    source = FakeFleet(gpus=3, model=model, seed=seed, clock=clock).open()
    before = readings(source)
    for tick in ticks:
        clock.now += tick
        now = readings(source)
        for old, new in zip(before, now, strict=True):
            check(quantities(new))
            grows(old, new)
        before = now


def test_counters_are_the_integrals_of_their_gauges() -> None:
    clock = Clock(START)
    source = FakeFleet(gpus=8, model="h100", seed=1, clock=clock).open()
    first = quantities(source.read(source.devices[4]))
    told = busy = energy = 0.0
    for _ in range(200):
        clock.now += 5
        reading = source.read(source.devices[4])
        values = quantities(reading)
        told += reading.increments[BUSY]
        busy += 5 * values["utilization"]
        energy += 5 * values["power_average"]
    assert told == pytest.approx(busy, rel=0.02)
    assert values["energy"] - first["energy"] == pytest.approx(energy, rel=1e-6)


def test_many_gpus_can_be_read() -> None:
    clock = Clock(START)
    source = FakeFleet(gpus=1024, model="h100", seed=1, clock=clock).open()
    clock.now += 5
    assert len(readings(source)) == 1024


def test_closed_source_refuses() -> None:
    fleet = FakeFleet(gpus=1, model="h100", seed=1, clock=Clock(START))
    source = fleet.open()
    source.close()
    source.close(hung=True)
    assert source.events() == ()
    with pytest.raises(SourceError, match="closed"):
        source.read(fleet.devices[0])
    assert fleet.open().read(fleet.devices[0]).failure is None


def test_rows_with_a_label_are_not_plain_values() -> None:
    rows: list[Metric] = [row for row in DEVICE_METRICS if row.dynamic]
    fleet = FakeFleet(gpus=1, model="rtx4090", seed=1, clock=Clock(START))
    assert not set(rows) & set(fleet.open().read(fleet.devices[0]).values)


@pytest.mark.parametrize(("kind", "told"), [("user", "user"), ("pod", "pod"), ("slurm", "slurm_job")])
def test_work_is_done_as_whom_was_asked_for(kind: str, told: str) -> None:
    fleet = FakeFleet(gpus=8, model="h100", seed=1, clock=Clock(START), owners=kind)
    source = fleet.open()
    owners = [process.identity for device in source.devices for process in source.read(device).processes or ()]
    assert len(owners) == 7, "one of the eight is free"
    assert all(owner and owner.all_labels()[told] for owner in owners)
    assert {owner_of(owner).kind for owner in owners if owner} == {kind}


def test_processes_can_be_left_out() -> None:
    fleet = FakeFleet(gpus=1, model="h100", seed=1, clock=Clock(START), owners=None)
    assert fleet.open().read(fleet.devices[0]).processes is None


def test_a_clock_that_is_set_stops_no_simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(100.0, ahead=START - 100.0)
    monkeypatch.setattr("gpu_exporter.sources.fake.fleet.time", SimpleNamespace(time=clock.time, monotonic=clock))
    source = FakeFleet(gpus=8, model="h100", seed=1).open()
    readings(source)
    clock.ahead -= 3600.0
    clock.now += 600.0
    assert sum(reading.increments.get(BUSY, 0.0) for reading in readings(source)) > 0.0
