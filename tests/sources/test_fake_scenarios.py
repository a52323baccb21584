"""Scenarios: what each fault does through the source, reloading, and mistakes in the file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tools.lab.clock import Clock
from tools.lab.wait import patience, wait_for

from fake_story import START, Story, writer
from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.mig import MIG_INFO, MIG_MEMORY_USED, MIG_SM_ACTIVE
from gpu_exporter.model import Identity
from gpu_exporter.sources import SourceError
from gpu_exporter.sources.fake import MODELS, FakeFleet
from gpu_exporter.sources.fake.scenario import FAULTS, Fleet, load

READY = Path(__file__).parents[1] / "scenarios"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    return writer(tmp_path / "scenario.yaml")


# --- each fault -------------------------------------------------------------------------------------------------------


def test_overheat_throttles_in_software_then_hardware_then_cools() -> None:
    story = Story(READY / "overheat.yaml")
    cool = story.at(29).values(0)
    healthy = story.values(4)["temperature"]
    assert cool["temperature"] < 70
    software = hardware = None
    for second in range(30, 205, 5):
        values = story.at(second).values(0)
        if values["reason_sw_thermal_slowdown"] and software is None:
            software = second
        if values["reason_hw_thermal_slowdown"] and hardware is None:
            hardware = second
    assert software is not None
    assert hardware is not None
    assert 30 < software < hardware
    assert values["temperature"] >= values['gpu_temperature_limit_celsius{limit="slowdown"}']
    assert values["reason_hw_slowdown"] == 1
    assert values["clock_sm"] < 0.7 * values['gpu_clock_max_hertz{clock="sm"}']
    assert values["power"] < 0.4 * values["power_limit"]
    for reason in ("sw_thermal_slowdown", "hw_thermal_slowdown", "hw_slowdown"):
        assert values[f"reason_seconds_{reason}"] > cool[f"reason_seconds_{reason}"]
    assert abs(story.values(4)["temperature"] - healthy) < 15
    cooled = story.at(600).values(0)
    assert cooled["temperature"] < 75
    assert not cooled["reason_sw_thermal_slowdown"]
    assert not cooled["reason_hw_slowdown"]


BLOCKED = """\
events:
  - {at: 1s, gpu: all, fault: workload, workload: training}
  - {at: 100s, gpu: 0, fault: fan_stop, blocked: true, for: 5m}
"""


def test_blocked_fans_are_told_to_turn_and_do_not(write: Callable[[str], Path]) -> None:
    story = Story(write(BLOCKED), model="rtx4090", gpus=2)

    def fans(name: str, gpu: int = 0) -> list[float]:
        return [speed for (row, _), speed in story.read(gpu).labelled.items() if row.name == name]

    story.at(95)
    before = fans("gpu_fan_speed_ratio")
    assert min(before) > 0
    assert fans("gpu_fan_speed_rpm") == [round(3000 * speed) for speed in before]
    story.at(390)
    assert fans("gpu_fan_speed_rpm") == [0, 0]
    assert min(fans("gpu_fan_speed_ratio")) > max(before), "the board wants more and more air"
    assert min(fans("gpu_fan_speed_rpm", 1)) > 0
    story.at(410)
    assert min(fans("gpu_fan_speed_rpm")) > 0


@pytest.mark.parametrize("model", sorted(MODELS))
def test_overheat_reaches_the_slowdown_limit_on_every_board_even_idle(model: str) -> None:
    story = Story(READY / "overheat.yaml", model)
    story.at(209)
    values = story.values(0)
    assert (
        values['gpu_temperature_limit_celsius{limit="slowdown"}']
        <= values["temperature"]
        < values['gpu_temperature_limit_celsius{limit="shutdown"}']
    )


def test_fan_stop_heats_the_busy_and_spares_the_idle() -> None:
    story = Story(READY / "fan-stop.yaml", "rtx4090")
    assert max(story.read(0).labelled.values()) > 0
    for second in range(30, 330, 5):
        story.at(second)
        readings = [story.read(index) for index in range(8)]
    assert {speed for reading in readings for speed in reading.labelled.values()} == {0}
    values = story.values(2)
    assert values["temperature"] >= values['gpu_temperature_limit_celsius{limit="max_operating"}'] - 1
    assert values["reason_sw_thermal_slowdown"] == 1
    assert values["temperature"] < values['gpu_temperature_limit_celsius{limit="shutdown"}']
    assert story.values(7)["temperature"] < 50
    assert max(story.at(900).read(2).labelled.values()) > 0


def test_xid79_tells_the_event_and_loses_the_gpu() -> None:
    story = Story(READY / "xid79.yaml")
    assert story.at(29).source.events() == ()
    (event,) = story.at(33, step=33).source.events()
    assert (event.device.index, event.xid, event.timestamp) == (3, 79, START + 30)
    assert story.source.events() == ()
    lost = story.read(3)
    assert lost.failure is not None
    assert lost.failure.reason == "lost"
    assert lost.device.uuid == story.source.devices[3].uuid
    assert not lost.values
    assert not lost.labelled
    assert lost.processes is None
    assert story.read(2).failure is None
    assert story.at(331).read(3).failure is None


def test_reset_required(write: Callable[[str], Path]) -> None:
    story = Story(write("events: [{at: 0s, gpu: 1, fault: reset_required, for: 1m}]"))
    failure = story.read(1).failure
    assert failure is not None
    assert failure.reason == "reset_required"
    assert story.at(60).read(1).failure is None


def test_uncorrected_ecc_waits_for_a_reset(write: Callable[[str], Path]) -> None:
    text = """
    events:
      - {at: 10s, gpu: 0, fault: ecc, severity: uncorrected, count: 2}
      - {at: 20s, gpu: 0, fault: ecc, severity: corrected, location: sram, count: 7}
      - {at: 30s, gpu: 0, fault: ecc, severity: uncorrected, location: sram, count: 4}
      - {at: 40s, gpu: 0, fault: ecc, remap: failure, count: 1}
      - {at: 60s, gpu: 0, fault: recover}
    """
    story = Story(write(text))
    assert story.at(9).values(0)["ecc_uncorrected_volatile_dram"] == 0
    values = story.at(10).values(0)
    assert values["ecc_uncorrected_volatile_dram"] == values["ecc_uncorrected_aggregate_dram"] == 2
    assert values["remapped_uncorrected"] == 2
    assert values["remap_pending"] == values["recovery_action"] == 1
    values = story.at(40).values(0)
    assert values["ecc_corrected_volatile_sram"] == 7
    assert values["sram_threshold_exceeded"] == 1
    assert values["remap_failure"] == 1
    values = story.at(60).values(0)
    assert values["remap_pending"] == values["remap_failure"] == values["recovery_action"] == 0
    assert values["ecc_uncorrected_volatile_dram"] == 0
    assert values["ecc_uncorrected_aggregate_dram"] == 2


def test_ecc_before_ampere_retires_pages(write: Callable[[str], Path]) -> None:
    values = Story(write("events: [{at: 0s, gpu: 0, fault: ecc, severity: uncorrected}]"), "v100").values(0)
    assert values["retired_double_bit_ecc"] == values["retired_pending"] == 1


def test_slow_read_takes_its_time() -> None:
    story = Story(READY / "hang.yaml")
    story.at(30)
    assert story.read(1).failure is None
    assert story.waits == [0.5]
    assert story.read(0).failure is None
    assert story.waits == [0.5]


def test_hanging_read_is_released_when_the_fault_ends_and_delays_nobody() -> None:
    story = Story(READY / "hang.yaml")
    story.at(30)
    with ThreadPoolExecutor() as pool:
        hanging = pool.submit(story.read, 2)
        wait_for(lambda: bool(story.waits))
        assert story.read(0).failure is None
        assert not hanging.done()
        story.clock.now += 120
        assert hanging.result(timeout=patience()).failure is None


def test_hanging_read_is_released_by_close() -> None:
    story = Story(READY / "hang.yaml")
    story.at(30)
    with ThreadPoolExecutor() as pool:
        hanging = pool.submit(story.read, 2)
        wait_for(lambda: bool(story.waits))
        story.source.close(hung=True)
        with pytest.raises(SourceError, match="closed"):
            hanging.result(timeout=patience())


def test_hanging_read_is_released_by_recover(write: Callable[[str], Path]) -> None:
    story = Story(write("events: [{at: 0s, gpu: 0, fault: hang}, {at: 50s, gpu: 0, fault: recover}]"))
    with ThreadPoolExecutor() as pool:
        hanging = pool.submit(story.read, 0)
        wait_for(lambda: bool(story.waits))
        story.clock.now += 50
        assert hanging.result(timeout=patience()).failure is None


def test_hang_with_the_real_wait_is_released_by_close(write: Callable[[str], Path]) -> None:
    fleet = FakeFleet(gpus=1, model="h100", seed=1, scenario=write("events: [{at: 0s, gpu: 0, fault: hang}]"))
    source = fleet.open()
    with ThreadPoolExecutor() as pool:
        hanging = pool.submit(source.read, fleet.devices[0])
        source.close()
        with pytest.raises(SourceError):
            hanging.result(timeout=patience())


def test_driver_gone_fails_reading_and_opening_until_it_is_back() -> None:
    story = Story(READY / "driver-gone.yaml")
    before = story.at(29).values(0)
    story.at(30)
    with pytest.raises(SourceError, match="not loaded"):
        story.read(0)
    assert story.source.events() == ()
    with pytest.raises(SourceError, match="not loaded"):
        story.fleet.open()
    story.at(90)
    with pytest.raises(SourceError, match="anew"):
        story.read(0)
    story.source.close()
    story.source = story.fleet.open()
    after = story.values(0)
    assert after["energy"] > before["energy"]
    assert story.at(3600).read(0).failure is None, "reopening does not start the story again"


def test_driver_that_is_gone_at_the_start_cannot_be_opened(write: Callable[[str], Path]) -> None:
    path = write("events: [{at: 0s, fault: driver_gone}, {at: 5s, fault: recover}]")
    clock = Clock(START)
    fleet = FakeFleet(gpus=1, model="h100", seed=1, scenario=path, clock=clock)
    with pytest.raises(SourceError):
        fleet.open()
    clock.now += 5
    assert fleet.open().read(fleet.devices[0]).failure is None


def test_process_holds_memory_until_it_is_stopped(write: Callable[[str], Path]) -> None:
    text = """
    events:
      - {at: 10s, gpu: 7, fault: process, process: {pid: 7, name: jupyter-lab, user: mallory, memory: 20GiB}}
      - {at: 10s, gpu: 7, fault: process, process: {pid: 8, type: graphics, memory: 512MiB}, for: 10s}
      - {at: 30s, gpu: 7, fault: process, process: {pid: 7, stop: true}}
    """
    story = Story(write(text))
    assert story.values(7)["memory_used"] == 0
    assert story.at(10).values(7)["memory_used"] == 20.5 * 1024**3
    first, second = story.read(7).processes or ()
    assert first.identity == Identity("jupyter-lab", "mallory")
    assert (first.pid, first.type) == (7, "compute")
    assert (second.pid, second.type, second.memory_used) == (8, "graphics", 512 * 1024**2)
    assert story.at(20).values(7)["memory_used"] == 20 * 1024**3
    assert story.at(30).values(7)["memory_used"] == 0


def test_processes_share_what_memory_there_is(write: Callable[[str], Path]) -> None:
    events = ", ".join(f"{{at: 0s, gpu: 0, fault: process, process: {{pid: {n}, memory: 40GiB}}}}" for n in range(1, 4))
    story = Story(write(f"events: [{events}]"))
    values = story.values(0)
    assert values["memory_free"] == 0
    assert sum(process.memory_used or 0.0 for process in story.read(0).processes or ()) == values["memory_used"]


def test_workload_changes_for_a_while(write: Callable[[str], Path]) -> None:
    story = Story(write("events: [{at: 10s, gpu: 7, fault: workload, workload: training, for: 5m}]"))
    assert story.values(7)["utilization"] == 0
    assert story.at(200).values(7)["memory_used"] > 0
    assert story.at(310).values(7)["memory_used"] == 0


def test_mig_hides_utilization(write: Callable[[str], Path]) -> None:
    story = Story(write("events: [{at: 5s, gpu: 0, fault: mig}, {at: 10s, gpu: 0, fault: mig, enabled: off}]"))
    assert story.values(0)["mig_mode"] == 0
    busy = by_name("gpu_busy_seconds_total")
    assert busy in story.read(0).increments
    values = story.at(5).values(0)
    assert values["mig_mode"] == 1
    assert not {"utilization", "decoder"} & values.keys()
    assert busy not in story.read(0).increments
    assert "utilization" in story.at(10).values(0)


def test_links_and_brake(write: Callable[[str], Path]) -> None:
    text = """
    events:
      - {at: 0s, gpu: 0, fault: pcie, width: 4, count: 12, for: 1m}
      - {at: 0s, gpu: 0, fault: nvlink, links: 2, count: 3, for: 1m}
      - {at: 0s, gpu: 0, fault: power_brake, for: 1m}
    """
    story = Story(write(text))
    values = story.at(10).values(0)
    assert (values["pcie_width"], values["gpu_pcie_link_width_max"], values["pcie_replays"]) == (4, 16, 12)
    assert (values["nvlinks_active"], values["nvlinks_inactive"], values["nvlink_errors_replay"]) == (16, 2, 3)
    assert values["reason_hw_power_brake_slowdown"] == values["reason_hw_slowdown"] == 1
    assert values["power"] < 0.5 * values["power_limit"]
    values = story.at(70).values(0)
    assert (values["pcie_width"], values["nvlinks_inactive"], values["pcie_replays"]) == (16, 0, 12)
    assert not values["reason_hw_slowdown"]


TRAINING = "events:\n  - {at: 0s, gpu: all, fault: workload, workload: training}\n"


def busiest(story: Story, index: int, until: float) -> dict[str, float]:
    """What a GPU tells at its busiest until that second: training pauses now and then."""
    start = int(story.clock.now - START)
    return max((story.at(at).values(index) for at in range(start, int(until), 5)), key=lambda told: told["utilization"])


def test_a_link_that_trains_to_a_lower_generation(tmp_path: Path) -> None:
    write = writer(tmp_path / "sick.yaml")
    sick = Story(write(TRAINING + "  - {at: 10s, gpu: 0, fault: slow_pcie, generation: 2, for: 2m}"))
    well = Story(writer(tmp_path / "well.yaml")(TRAINING))
    sick.at(15)
    well.at(15)
    before = sick.values(0)["pcie_receive_bytes"], well.values(0)["pcie_receive_bytes"]
    slow, full = busiest(sick, 0, 120), busiest(well, 0, 120)
    assert (slow["pcie_generation"], slow["gpu_pcie_link_generation_max"], slow["pcie_width"]) == (2, 5, 16)
    moved = slow["pcie_receive_bytes"] - before[0], full["pcie_receive_bytes"] - before[1]
    assert moved[0] == pytest.approx(moved[1] / 8, rel=1e-3), "each generation is half as fast"
    for name in ("utilization", "clock_sm", "power", "pcie_replays"):
        assert slow[name] == full[name], "nothing else tells of it"
    assert busiest(sick.at(135), 0, 200)["pcie_generation"] == 5


def test_a_clock_that_is_stuck_without_a_reason(tmp_path: Path) -> None:
    sick = Story(writer(tmp_path / "sick.yaml")(TRAINING + "  - {at: 10s, gpu: 0, fault: clock_stuck, for: 2m}"))
    well = Story(writer(tmp_path / "well.yaml")(TRAINING))
    stuck, full = busiest(sick.at(15), 0, 120), busiest(well.at(15), 0, 120)
    highest = stuck['gpu_clock_max_hertz{clock="sm"}']
    assert full["clock_sm"] > 0.5 * highest
    assert 0.25 * highest < stuck["clock_sm"] <= 0.3 * highest
    assert stuck["utilization"] == full["utilization"] > 0.5
    assert stuck["power"] < 0.5 * full["power"]
    flags = {name: value for name, value in stuck.items() if name.startswith("reason_") and "seconds" not in name}
    assert flags
    assert set(flags.values()) == {0.0}
    assert busiest(sick.at(135), 0, 200)["clock_sm"] > 0.5 * highest


def test_settings_that_drift(write: Callable[[str], Path]) -> None:
    text = """
  - {at: 10s, gpu: 0, fault: drift, for: 2m}
  - {at: 10s, gpu: 1, fault: drift, ecc: off}
  - {at: 10s, gpu: 2, fault: drift, vbios: 96.00.74.00.0D, power_limit: 500}
"""
    story = Story(write(TRAINING + text)).at(15)
    lowest = busiest(story, 0, 120)
    assert lowest["power_limit"] == lowest["gpu_power_min_limit_watts"] == 200
    assert 150 < lowest["power"] <= 200 * 1.02
    assert lowest["reason_sw_power_cap"] == 1
    assert (lowest["ecc_enabled"], story.values(1)["ecc_enabled"]) == (1, 0)
    assert story.values(1)["power_limit"] == story.values(1)["gpu_power_default_limit_watts"] == 700
    assert (story.read(2).device.vbios_version, story.values(2)["power_limit"]) == ("96.00.74.00.0D", 500)
    assert story.read(1).device.vbios_version == story.fleet.devices[2].vbios_version
    assert story.at(140).values(0)["power_limit"] == 700


def test_a_later_event_replaces_the_earlier_and_its_end(write: Callable[[str], Path]) -> None:
    text = "events: [{at: 0s, gpu: 0, fault: lost, for: 10s}, {at: 5s, gpu: 0, fault: lost, for: 10s}]"
    story = Story(write(text))
    assert story.at(12).read(0).failure is not None
    assert story.at(15).read(0).failure is None


def test_fault_of_no_length_leaves_nothing(write: Callable[[str], Path]) -> None:
    assert Story(write("events: [{at: 0s, gpu: 0, fault: lost, for: 0s}]")).read(0).failure is None


def test_faults_between_two_readings_leave_their_trace(write: Callable[[str], Path]) -> None:
    story = Story(write("events: [{at: 10s, gpu: 0, fault: overheat}, {at: 5m, gpu: 0, fault: recover}]"))
    before = story.values(0)["reason_seconds_sw_thermal_slowdown"]
    assert story.at(900, step=900).values(0)["reason_seconds_sw_thermal_slowdown"] > before + 100


def test_story_does_not_depend_on_how_often_it_is_read() -> None:
    often, seldom = Story(READY / "overheat.yaml"), Story(READY / "overheat.yaml")
    for second in range(1, 601):
        often.at(second).read(0)
    one, other = often.values(0), seldom.at(600, step=600).values(0)
    for reason in ("sw_thermal_slowdown", "hw_thermal_slowdown"):
        assert one[f"reason_seconds_{reason}"] == pytest.approx(other[f"reason_seconds_{reason}"], abs=15)


def test_mixed_runs_to_its_end_and_leaves_everything_healthy() -> None:
    story = Story(READY / "mixed.yaml")
    failed = 0
    for second in range(0, 500, 5):
        story.at(second)
        for index in range(8):
            if story.fleet.hanging(index):
                continue
            try:
                failed += story.read(index).failure is not None
            except SourceError:
                story.source.close()
                if not story.fleet.driver_gone():
                    story.source = story.fleet.open()
    assert failed > 10
    assert all(story.read(index).failure is None for index in range(8))
    assert story.values(3)["recovery_action"] == 0


def test_every_fault_stands_in_a_ready_scenario_and_in_the_reference() -> None:
    fleet = Fleet(8, MODELS["h100"])
    used = {event.fault for path in READY.glob("*.yaml") for event in load(path, fleet)}
    assert used == set(FAULTS)
    text = (READY.parents[1] / "docs/SCENARIOS.md").read_text()
    fields = {name for fault in FAULTS.values() for name in fault.fields}
    assert all(f"`{name}`" in text for name in set(FAULTS) | fields)


def test_examples_in_the_reference_are_good(write: Callable[[str], Path]) -> None:
    blocks = (READY.parents[1] / "docs/SCENARIOS.md").read_text().split("```yaml\n")[1:]
    assert len(blocks) >= 2
    for block in blocks:
        assert load(write(block.split("```")[0]), Fleet(8, MODELS["h100"]))


def test_mig_devices_of_equal_size_of_which_the_first_works(write: Callable[[str], Path]) -> None:
    text = """
    events:
      - {at: 0s, gpu: 0, fault: mig, instances: 3}
      - {at: 0s, gpu: 0, fault: process, process: {pid: 4711, memory: 2GiB}}
    """
    reading = Story(write(text)).at(5).read(0)
    assert reading.mig_whole
    first, second, third = reading.mig_uuids
    profiles = {labels[0]: labels[1:] for row, labels in reading.labelled if row is MIG_INFO}
    assert profiles == {uuid: (str(3 + place), "0", "2g.20gb") for place, uuid in enumerate((first, second, third))}
    shares = {labels[0]: value for (row, labels), value in reading.labelled.items() if row is MIG_SM_ACTIVE}
    assert shares[first] > 0.2
    assert (shares[second], shares[third]) == (0.0, 0.0)
    used = {labels[0]: value for (row, labels), value in reading.labelled.items() if row is MIG_MEMORY_USED}
    assert used[second] == 2 * 1024**3
    processes = {process.pid: process.mig_uuid for process in reading.processes or ()}
    assert processes[4711] == second
    assert set(processes.values()) == {first, second}
    assert sum(used.values()) == reading.values[by_name("gpu_memory_used_bytes")]


def test_mig_mode_without_any_mig_device_runs_nothing(write: Callable[[str], Path]) -> None:
    reading = Story(write("events: [{at: 0s, gpu: 0, fault: mig, instances: 0}]")).at(5).read(0)
    assert (reading.mig_uuids, reading.mig_whole, reading.processes) == ((), True, ())
    assert reading.values[by_name("gpu_memory_used_bytes")] == 0.0


def test_a_story_can_silence_what_mig_devices_tell(write: Callable[[str], Path]) -> None:
    silent = "{at: 0s, gpu: 0, fault: silent_sensor, metrics: gpu_mig_sm_active_ratio}"
    text = f"events: [{{at: 0s, gpu: 0, fault: mig}}, {silent}]"
    reading = Story(write(text)).at(5).read(0)
    assert len(reading.mig_uuids) == 2
    assert MIG_SM_ACTIVE not in {row for row, _ in reading.labelled}
    assert MIG_MEMORY_USED in {row for row, _ in reading.labelled}
