"""Scenarios in which the driver tells what is not so: what the source makes of it, before anybody judges it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_story import START, Story, writer
from gpu_exporter.catalog import DEVICE_METRICS, by_name
from gpu_exporter.catalog.row import Metric
from gpu_exporter.config import ConfigError
from gpu_exporter.sources import SourceChangedError, SourceError
from gpu_exporter.sources.fake import MODELS
from gpu_exporter.sources.fake.scenario import FAULTS, Fleet, load

BUSY, UTILIZATION = by_name("gpu_busy_seconds_total"), by_name("gpu_utilization_ratio")
USED, TEMPERATURE = by_name("gpu_memory_used_bytes"), by_name("gpu_temperature_celsius")
FANS = by_name("gpu_fan_speed_ratio")
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path / "scenario.yaml")


def one(write: Write, event: str, model: str = "h100") -> Story:
    return Story(write(f"events: [{{at: 10s, {event}}}]"), model)


# --- silent_sensor ---------------------------------------------------------------------------------------------------


def test_a_silent_sensor_is_absent_and_no_other(write: Write) -> None:
    story = one(write, "gpu: 0, fault: silent_sensor, metrics: [gpu_temperature_celsius, gpu_clock_hertz], for: 10s")
    told = story.at(5).read(0).values.keys()
    clocks = {row for row in DEVICE_METRICS if row.name == "gpu_clock_hertz"}
    assert len(clocks) > 1
    assert told - story.at(10).read(0).values.keys() == {TEMPERATURE, *clocks}
    assert TEMPERATURE in story.read(1).values
    assert story.at(20).read(0).values.keys() == told


def test_a_silent_sample_buffer_tells_of_no_time(write: Write) -> None:
    story = one(write, "gpu: 0, fault: silent_sensor, metrics: gpu_busy_seconds_total, for: 10s")
    story.read(0)
    good = story.at(5).read(0)
    assert good.increments[BUSY] > 0
    assert good.covered[BUSY] == 5
    silent = story.at(15).read(0)
    assert (silent.increments[BUSY], silent.covered[BUSY]) == (0.0, None), "as NVML's empty buffer"
    assert UTILIZATION in silent.values
    again = story.at(20).read(0)
    assert again.covered[BUSY] == 5, "what was sampled meanwhile is gone"


def test_a_silent_list_of_processes_is_not_an_empty_one(write: Write) -> None:
    story = one(write, "gpu: 0, fault: silent_sensor, metrics: gpu_processes")
    assert story.at(5).read(0).processes
    assert story.at(10).read(0).processes is None


def test_silent_numbers_of_processes(write: Write) -> None:
    story = one(write, "gpu: 0, fault: silent_sensor, metrics: gpu_process_memory_used_bytes")
    (process,) = story.at(10).read(0).processes or ()
    assert process.memory_used is None
    assert process.utilization


# --- impossible_value ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["8.08", "-1", "0", ".nan", ".inf", "-.inf", "4294967295", "4e6", "1.8e19", "-2E-3"])
def test_the_value_is_told_as_it_is(write: Write, value: str) -> None:
    story = one(write, f"gpu: 0, fault: impossible_value, metrics: gpu_utilization_ratio, value: {value}, for: 5s")
    told, written = story.at(10).read(0).values[UTILIZATION], float(value.replace(".nan", "nan").replace(".inf", "inf"))
    assert told == written or (math.isnan(told) and math.isnan(written))
    assert story.read(1).values[UTILIZATION] <= 1
    assert 0 <= story.at(15).read(0).values[UTILIZATION] <= 1


def test_several_metrics_lie_each_in_its_own_way(write: Write) -> None:
    text = """
    events:
      - {at: 0s, gpu: 0, fault: impossible_value, metrics: gpu_temperature_celsius, value: 0}
      - {at: 0s, gpu: 0, fault: impossible_value, metrics: gpu_memory_used_bytes, value: 1e12, for: 10s}
      - {at: 0s, gpu: 0, fault: silent_sensor, metrics: gpu_power_watts}
      - {at: 20s, gpu: 0, fault: recover}
    """
    story = Story(write(text))
    values = story.read(0).values
    assert (values[TEMPERATURE], values[USED]) == (0, 1e12)
    assert by_name("gpu_power_watts") not in values
    values = story.at(10).read(0).values
    assert values[TEMPERATURE] == 0
    assert values[USED] < 1e11
    assert story.at(20).read(0).values[TEMPERATURE] > 0


def test_an_impossible_sample_is_refused_by_the_source_as_nvml_does(write: Write) -> None:
    story = one(write, "gpu: 0, fault: impossible_value, metrics: gpu_busy_seconds_total, value: 42949672.95")
    story.at(5).read(0)
    reading = story.at(10).read(0)
    assert reading.refused == ((BUSY, 42949672.95),)
    assert (reading.increments[BUSY], reading.covered[BUSY]) == (0.0, None)


def test_a_possible_sample_is_believed(write: Write) -> None:
    story = one(write, "gpu: 0, fault: impossible_value, metrics: gpu_busy_seconds_total, value: 0.25")
    story.at(10).read(0)
    reading = story.at(14).read(0)
    assert (reading.increments[BUSY], reading.covered[BUSY], reading.refused) == (1.0, 4, ())


def test_values_of_fans_and_processes(write: Write) -> None:
    text = """
    events:
      - {at: 0s, gpu: 0, fault: impossible_value, metrics: gpu_fan_speed_ratio, value: 655.35}
      - {at: 0s, gpu: 0, fault: impossible_value, metrics: gpu_process_memory_used_bytes, value: 1.8e19}
    """
    reading = Story(write(text), "rtx4090").read(0)
    assert {value for (row, _), value in reading.labelled.items() if row is FANS} == {655.35}
    assert {process.memory_used for process in reading.processes or ()} == {1.8e19}


# --- partial ---------------------------------------------------------------------------------------------------------


def test_nearly_every_call_fails(write: Write) -> None:
    story = one(write, "gpu: 2, fault: partial, for: 10s", "rtx4090")
    story.at(5).read(2)
    reading = story.at(10).read(2)
    assert reading.failure is None
    assert reading.values.keys() == {UTILIZATION}
    assert not reading.labelled
    assert reading.processes is None
    assert reading.covered[BUSY] is None
    assert re.fullmatch(r"\d+ of its values are refused and 1 told", reading.partial)
    assert not story.read(3).partial
    assert len(story.read(3).values) > 40
    assert len(story.at(20).read(2).values) > 40
    assert not story.read(2).partial


def test_a_few_silent_sensors_make_no_gpu_partial_and_most_do(write: Write) -> None:
    names = sorted({row.name for row in Story(write("")).read(0).values})
    few, most = names[:5], names[:-5]
    assert not one(write, f"gpu: 0, fault: silent_sensor, metrics: {few}").at(10).read(0).partial
    assert one(write, f"gpu: 0, fault: silent_sensor, metrics: {most}").at(10).read(0).partial


def test_where_not_one_call_answers_the_gpu_has_failed(write: Write) -> None:
    story = Story(write("events: [{at: 0s, gpu: 0, fault: partial}, {at: 0s, gpu: 0, fault: mig}]"))
    failure = story.read(0).failure
    assert failure is not None
    assert failure.reason == "unknown"


# --- dead_pid --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pid", [0, 4_194_305, 2**32 - 1])
def test_a_process_that_nobody_is(write: Write, pid: int) -> None:
    story = one(write, f"gpu: 7, fault: dead_pid, pid: {pid}, memory: 40GiB, for: 10s")
    before = story.at(5).read(7)
    assert before.processes == ()
    reading = story.at(10).read(7)
    (process,) = reading.processes or ()
    assert (process.pid, process.identity, process.memory_used) == (pid, None, 40 * 1024**3)
    assert reading.values[USED] - before.values[USED] == 40 * 1024**3
    assert story.at(20).read(7).processes == ()


# --- hot_plug --------------------------------------------------------------------------------------------------------


def reopened(story: Story) -> list[tuple[int, str]]:
    """Index and UUID of what a source lists that is opened now; the old one must not be used any more."""
    with pytest.raises(SourceChangedError, match="GPUs have come or gone"):
        story.read(0)
    story.source.close()
    story.source = story.fleet.open()
    return [(device.index, device.uuid) for device in story.source.devices]


def test_a_gpu_that_is_plugged_in_was_not_there(write: Write) -> None:
    story = one(write, "gpu: 2, fault: hot_plug")
    uuids = [device.uuid for device in story.fleet.devices]
    others = [uuid for index, uuid in enumerate(uuids) if index != 2]
    assert [device.uuid for device in story.source.devices] == others
    assert [device.index for device in story.source.devices] == list(range(7)), "numbered without a gap"
    for device in story.source.devices:
        assert story.source.read(device).device == device
    story.at(10)
    assert reopened(story) == list(enumerate(uuids))


def test_a_gpu_goes_and_comes_back(write: Write) -> None:
    story = one(write, "gpu: 3, fault: hot_plug, plugged: false, for: 10s")
    uuids = [device.uuid for device in story.source.devices]
    assert len(uuids) == 8
    story.at(10)
    assert [uuid for _, uuid in reopened(story)] == [*uuids[:3], *uuids[4:]]
    story.at(20)
    assert [uuid for _, uuid in reopened(story)] == uuids


def test_none_is_there_at_first_and_one_leaves_again(write: Write) -> None:
    story = one(write, "gpu: all, fault: hot_plug, for: 10s")
    assert not story.source.devices
    story.at(10)
    story.source = story.fleet.open()
    assert len(story.source.devices) == 8
    story.at(20)
    assert reopened(story) == []


def test_events_go_by_the_index_of_the_day(write: Write) -> None:
    text = """
    events:
      - {at: 0s, gpu: 0, fault: hot_plug, plugged: false}
      - {at: 1s, gpu: 4, fault: xid, xid: 63}
      - {at: 2s, gpu: 0, fault: xid, xid: 79}
    """
    story = Story(write(text)).at(5)
    there, gone = story.source.events()
    assert (there.device.index, there.device.uuid) == (3, story.fleet.devices[4].uuid)
    assert gone.device == story.fleet.devices[0], "its last word"


def test_recover_plugs_in(write: Write) -> None:
    story = Story(write("events: [{at: 0s, gpu: 1, fault: hot_plug, plugged: off}, {at: 9s, fault: recover}]"))
    assert len(story.source.devices) == 7
    story.at(9)
    assert len(reopened(story)) == 8


# --- clock_step ------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_moves_the_stamps(write: Write) -> None:
    text = """
    events:
      - {at: 1s, fault: clock_step, step: -1h, for: 2s}
      - {at: 2s, fault: clock_step, step: +10s}
      - {at: 2s, gpu: 0, fault: xid, xid: 1}
      - {at: 4s, gpu: 0, fault: xid, xid: 2}
      - {at: 5s, fault: recover}
      - {at: 6s, gpu: 0, fault: xid, xid: 3}
    """
    story = Story(write(text))
    story.read(0)
    before = story.at(1, step=1).read(0)
    after = story.at(2, step=1).read(0)
    assert after.covered[BUSY] == before.covered[BUSY] == 1, "time goes on, whatever it is called"
    stamps = {event.xid: event.timestamp - START for event in story.at(7).source.events()}
    assert stamps == {1: 2 - 3600 + 10, 2: 4 + 10, 3: 6}


# --- mistakes --------------------------------------------------------------------------------------------------------

HINT = r"write one such as gpu_utilization_ratio"
BAD = {
    "gpu: 0, fault: silent_sensor": "metrics: is missing; silent_sensor needs it",
    "gpu: 0, fault: silent_sensor, metrics: []": r"metrics: '\[\]' names no metric; write one such as",
    "gpu: 0, fault: silent_sensor, metrics: 7": rf"metrics: '7' is not a metric that the driver tells of h100; {HINT}",
    "gpu: 0, fault: silent_sensor, metrics: [gpu_power_wats]": "'gpu_power_wats' is not .*did you mean gpu_power_watts",
    "gpu: 0, fault: silent_sensor, metrics: [[gpu_power_watts]]": "metrics: .* is not a metric",
    "gpu: 0, fault: silent_sensor, metrics: gpu_up": "metrics: 'gpu_up' is not a metric that the driver tells",
    "gpu: 0, fault: silent_sensor, metrics: gpu_state_seconds_total": "is not a metric that the driver tells",
    "gpu: 0, fault: silent_sensor, metrics: gpu_fan_speed_ratio": "is not a metric that the driver tells of h100",
    "gpu: 0, fault: silent_sensor, metrics: 'gpu_clock_hertz{clock=\"x\"}'": "did you mean gpu_clock_hertz{clock=",
    "gpu: 0, fault: silent_sensor, metrics: gpu_power_watts, value: 1": "value: is not for silent_sensor; write one of",
    "fault: silent_sensor, metrics: gpu_power_watts": "gpu: is missing",
    "gpu: 0, fault: impossible_value, value: 1": "metrics: is missing; impossible_value needs it",
    "gpu: 0, fault: impossible_value, metrics: gpu_power_watts": "value: is missing; impossible_value needs it",
    "gpu: 0, fault: impossible_value, metrics: gpu_processes, value: 1": "is not a metric that the driver tells",
    "gpu: 0, fault: impossible_value, metrics: gpu_power_watts, value: high": "value: 'high' is not a number; write",
    "gpu: 0, fault: impossible_value, metrics: gpu_power_watts, value: e6": "value: 'e6' is not a number",
    "gpu: 0, fault: impossible_value, metrics: gpu_power_watts, value: true": "value: 'true' is not a number",
    "gpu: 0, fault: impossible_value, metrics: gpu_power_watts, value: [1]": r"value: '\[1\]' is not a number",
    "gpu: 0, fault: partial, metrics: gpu_nothing": "metrics: 'gpu_nothing' is not a metric",
    "gpu: 0, fault: dead_pid, pid: 1": "pid: '1' may be a process of this machine; write 0, or 4194305 to 4294967295",
    "gpu: 0, fault: dead_pid, pid: -1": "pid: '-1' may be a process",
    "gpu: 0, fault: dead_pid, pid: 4294967296": "pid: '4294967296' may be a process",
    "gpu: 0, fault: dead_pid, pid: nobody": "pid: 'nobody' may be a process",
    "gpu: 0, fault: dead_pid, memory: 99GiB": "memory: '99GiB' is out of range",
    "gpu: 0, fault: hot_plug, plugged: 1": "plugged: '1' is not a switch",
    "gpu: 8, fault: hot_plug": "gpu: '8' is not a GPU of this fleet",
    "fault: hot_plug": "gpu: is missing",
    "gpu: 0, fault: clock_step, step: 1h": "gpu: is not for clock_step; write one of at, fault, for, step$",
    "fault: clock_step": "step: is missing; clock_step needs it",
    "fault: clock_step, step: 3600": "step: '3600' is not a step of the clock; write \\+30s or -1h",
    "fault: clock_step, step: --1h": "step: '--1h' is not a step of the clock",
    "fault: clock_step, step: '-'": "step: '-' is not a step of the clock",
    "gpu: 0, fault: lost, plugged: true": "plugged: is not for lost; write one of at, fault, gpu, for$",
}


@pytest.mark.parametrize("event", BAD)
def test_mistake(write: Write, event: str) -> None:
    path = write(f"events: [{{at: 1s, {event}}}]")
    with pytest.raises(ConfigError, match=BAD[event]) as caught:
        load(path, Fleet(8, MODELS["h100"]))
    assert str(caught.value).startswith(f"{path}: events[0].")
    assert "\n" not in str(caught.value)


# --- any story -------------------------------------------------------------------------------------------------------

_GPU = st.integers(0, 3)
_NAMES = st.sampled_from(["gpu_busy_seconds_total", "gpu_power_watts", "gpu_clock_hertz", "gpu_memory_used_bytes"])
_EVENTS = st.one_of(
    st.fixed_dictionaries({"fault": st.just("silent_sensor"), "gpu": _GPU, "metrics": st.lists(_NAMES, min_size=1)}),
    st.fixed_dictionaries(
        {
            "fault": st.just("impossible_value"),
            "gpu": _GPU,
            "metrics": _NAMES,
            "value": st.sampled_from([-1.0, 0.5, 1e30]),
        }
    ),
    st.fixed_dictionaries({"fault": st.just("partial"), "gpu": _GPU}),
    st.fixed_dictionaries({"fault": st.just("dead_pid"), "gpu": _GPU, "pid": st.sampled_from([0, 2**32 - 1])}),
    st.fixed_dictionaries({"fault": st.just("hot_plug"), "gpu": _GPU, "plugged": st.booleans()}),
    st.fixed_dictionaries({"fault": st.just("clock_step"), "step": st.sampled_from(["-1h", "+1h", "0s"])}),
    st.fixed_dictionaries({"fault": st.sampled_from(["lost", "mig", "overheat"]), "gpu": _GPU}),
    st.fixed_dictionaries({"fault": st.just("recover")}),
)
_STORIES = st.lists(st.tuples(st.integers(0, 60), st.none() | st.integers(0, 30), _EVENTS), max_size=12)


def honest(told: Metric) -> bool:
    return told.name not in {"gpu_busy_seconds_total", "gpu_power_watts", "gpu_clock_hertz", "gpu_memory_used_bytes"}


@settings(max_examples=60)
@given(story=_STORIES)
def test_any_story_plays_to_its_end_and_recovers(
    story: list[tuple[int, int | None, dict[str, object]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    events = []
    for at, lasts, event in story:
        timed = {"at": f"{at}s", **event}
        if lasts is not None and event["fault"] != "recover":
            timed["for"] = f"{lasts}s"
        events.append(timed)
    events.append({"at": "100s", "fault": "recover"})
    path = tmp_path_factory.mktemp("story") / "scenario.yaml"
    path.write_text(json.dumps({"events": events}))
    played = Story(path, gpus=4)
    for second in range(0, 105, 5):
        played.at(second)
        try:
            readings = [played.source.read(device) for device in played.source.devices]
        except SourceError:
            played.source.close()
            played.source = played.fleet.open()
            readings = [played.source.read(device) for device in played.source.devices]
        assert [reading.device.index for reading in readings] == list(range(len(readings)))
        for reading in readings:
            assert reading.increments.keys() == reading.covered.keys()
            assert all(growth >= 0 for growth in reading.increments.values())
            assert all(covered is None or covered >= 0 for covered in reading.covered.values())
            for row, value in reading.values.items():
                if honest(row):
                    assert row.plausible[0] <= value <= row.plausible[1], row
    assert len(readings) == 4
    assert all(reading.failure is None and not reading.refused and len(reading.values) > 40 for reading in readings)


def test_every_fault_is_told_in_the_reference_with_an_example() -> None:
    text = (Path(__file__).parents[2] / "docs/SCENARIOS.md").read_text()
    for fault in ("silent_sensor", "impossible_value", "partial", "dead_pid", "hot_plug", "clock_step"):
        assert fault in FAULTS
        assert f"fault: {fault}" in text
