"""Nothing is struck off for good: what a device did not support, tell or count once is asked for again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tools.lab.clock import Clock
from tools.lab.nvml_stub import FUNCTIONS, Mig, Stub
from tools.lab.wait import wait_for

from gpu_exporter.catalog import STATE_SECONDS, by_name
from gpu_exporter.config import CollectionConfig
from gpu_exporter.model import Build, Reading, Xid
from gpu_exporter.sampling.sampler import Sampler
from gpu_exporter.sources.nvml import NvmlSource

MakeStub = Callable[..., Stub]
Open = Callable[..., NvmlSource]
UTILIZATION = by_name("gpu_utilization_ratio")
ENERGY = by_name("gpu_energy_joules_total")
NVLINK_COUNT = 91  # NVML_FI_DEV_NVLINK_LINK_COUNT


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def opened(here: Callable[[Stub], Stub], clock: Clock) -> Iterator[Open]:
    sources: list[NvmlSource] = []

    def open_source(machine: Stub, **rest: Any) -> NvmlSource:
        here(machine)
        sources.append(NvmlSource(monotonic=clock, **rest))
        return sources[-1]

    yield open_source
    for source in sources:
        source.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The driver calls that this process has made."""
    import pynvml  # noqa: PLC0415 - only the tests that count need it

    genuine = pynvml._nvmlGetFunctionPointer
    calls: Counter[str] = Counter()

    def counted(name: str) -> object:
        calls[name] += 1
        return genuine(name)

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", counted)
    return calls


def rows(reading: Reading) -> set[object]:
    """Every series of a reading."""
    return {*reading.values, *reading.increments, *reading.labelled}


def after(source: NvmlSource, clock: Clock, seconds: float, index: int = 0) -> Reading:
    """The latest of the readings that are made every five seconds meanwhile."""
    reading = source.read(source.devices[index])
    end = clock.now + seconds
    while clock.now < end:
        clock.now += 5
        reading = source.read(source.devices[index])
    return reading


@pytest.mark.parametrize("code", [2, 3, 12, 13, 25, 26])
@pytest.mark.parametrize(
    "function",
    ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetFieldValues", "nvmlDeviceGetSamples"],
)
def test_a_call_that_is_not_supported_for_a_moment_comes_back(
    opened: Open, stub: MakeStub, clock: Clock, *, function: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    machine = stub("h100")
    source = opened(machine)
    before = rows(after(source, clock, 5))
    machine.fail(function, code, device=0)
    clock.now += 1
    assert rows(source.read(source.devices[0])) < before
    machine.fail(function, 0, device=0)
    caplog.set_level(logging.DEBUG, "gpu_exporter")
    caplog.clear()
    assert rows(after(source, clock, 60)) == before
    assert caplog.messages == [], "nothing is logged"


@pytest.mark.parametrize("field", [83, 82, NVLINK_COUNT, 138, 139])
def test_a_field_that_is_not_supported_for_a_moment_comes_back(
    opened: Open, stub: MakeStub, clock: Clock, field: int
) -> None:
    machine, healthy = stub("h100"), stub("h100")
    source = opened(machine)
    before = rows(after(source, clock, 5))
    machine.field(0, field, error=3)
    after(source, clock, 300)
    machine._gpus[0].fields = dict(healthy._gpus[0].fields)
    machine.set(0, "temperature", 50)
    assert rows(after(source, clock, 60)) == before


def test_what_a_device_never_had_is_asked_every_few_minutes(
    opened: Open, stub: MakeStub, clock: Clock, asked: Counter[str]
) -> None:
    machine = stub("h100")
    machine.unsupported("nvmlDeviceGetJpgUtilization")
    source = opened(machine)
    jpeg = by_name("gpu_jpeg_utilization_ratio")
    assert jpeg not in after(source, clock, 1800).values
    asked.clear()
    after(source, clock, 3600)
    assert 10 <= asked["nvmlDeviceGetJpgUtilization"] <= 15, "every five minutes"
    machine.fail("nvmlDeviceGetJpgUtilization", 0)
    assert jpeg in after(source, clock, 300).values


def test_a_row_returns_to_its_best_column(opened: Open, stub: MakeStub, clock: Clock, asked: Counter[str]) -> None:
    machine = stub("h100")
    source = opened(machine)
    used = by_name("gpu_memory_used_bytes")
    exact = source.read(source.devices[0]).values[used]
    machine.unsupported("nvmlDeviceGetMemoryInfo_v2")
    clock.now += 5
    assert source.read(source.devices[0]).values[used] > exact, "version 1 counts what the driver reserves"
    machine.fail("nvmlDeviceGetMemoryInfo_v2", 0)
    assert after(source, clock, 60).values[used] == exact
    asked.clear()
    clock.now += 5
    source.read(source.devices[0])
    assert asked["nvmlDeviceGetMemoryInfo"] == 0, "one column is in use"


def test_a_better_column_that_answers_an_error_is_not_taken(opened: Open, stub: MakeStub, clock: Clock) -> None:
    machine = stub("h100")
    machine.unsupported("nvmlDeviceGetMemoryInfo_v2")
    source = opened(machine)
    used = by_name("gpu_memory_used_bytes")
    rough = source.read(source.devices[0]).values[used]
    machine.fail("nvmlDeviceGetMemoryInfo_v2", 999)
    for _ in range(200):
        clock.now += 5
        assert source.read(source.devices[0]).values[used] == rough, "at every reading"


def test_a_counter_of_the_drivers_own_is_not_continued_by_a_sum_of_ours(
    opened: Open, stub: MakeStub, clock: Clock
) -> None:
    machine = stub("h100")
    source = opened(machine)
    own = source.read(source.devices[0]).values[ENERGY]
    machine.field(0, 83, error=3)
    machine.unsupported("nvmlDeviceGetTotalEnergyConsumption")
    reading = after(source, clock, 60)
    assert ENERGY not in rows(reading), "absent: a sum that begins at 0 would look like a reset"
    machine.fail("nvmlDeviceGetTotalEnergyConsumption", 0)
    assert after(source, clock, 60).values[ENERGY] == pytest.approx(own)


def test_a_sum_of_ours_is_not_continued_by_the_drivers_own_counter(opened: Open, stub: MakeStub, clock: Clock) -> None:
    machine = stub("h100")
    machine.field(0, 83, error=3)
    machine.unsupported("nvmlDeviceGetTotalEnergyConsumption")
    source = opened(machine)
    assert ENERGY in source.read(source.devices[0]).increments
    machine.fail("nvmlDeviceGetTotalEnergyConsumption", 0)
    reading = after(source, clock, 400)
    assert ENERGY in reading.increments
    assert ENERGY not in reading.values, "a counter must not jump by all that was before"


def test_a_limit_computed_from_a_margin_gives_way_to_the_threshold(opened: Open, stub: MakeStub, clock: Clock) -> None:
    machine = stub("a100")
    with machine.batch():
        machine.set(0, "limit_slowdown", 89)
        machine.set(0, "tlimit_slowdown", -2)
        machine.set(0, "temperature", 41)
        machine.set(0, "temperature_margin", 40)
        machine.unsupported("nvmlDeviceGetTemperatureThreshold")
    source = opened(machine)
    limit = by_name("gpu_temperature_limit_celsius", limit="slowdown")
    assert source.read(source.devices[0]).values[limit] == 41 + 40 + 2
    machine.set(0, "temperature_margin", 20)
    assert after(source, clock, 600).values[limit] == 83, "known for good while there is nothing better"
    machine.fail("nvmlDeviceGetTemperatureThreshold", 0)
    assert after(source, clock, 400).values[limit] == 89


def test_mig_on_and_off(opened: Open, stub: MakeStub, clock: Clock) -> None:
    machine = stub("a100")
    source = opened(machine)
    before = rows(after(source, clock, 5))
    machine.mig(0, [Mig("MIG-1", "1g.5gb", 1, 0, 2**32, 2**20)])
    on = after(source, clock, 900)
    assert UTILIZATION not in on.values
    assert on.partial == "", "a partitioned GPU is not sick"
    with machine.batch():
        machine.mig(0, [])
        machine.set(0, "mig_mode", 0)
    assert rows(after(source, clock, 65)) == before


def test_mig_that_was_on_from_the_start_and_goes_off(opened: Open, stub: MakeStub, clock: Clock) -> None:
    machine = stub("a100")
    machine.mig(0, [])
    source = opened(machine)
    assert UTILIZATION not in after(source, clock, 1000).values
    machine.set(0, "mig_mode", 0)
    assert UTILIZATION in after(source, clock, 70).values, "a changed mode changes what is supported"


@pytest.mark.parametrize("code", [1, 2, 3, 4, 9, 10, 12, 13, 14, 15, 16, 18, 28, 999])
@pytest.mark.parametrize("looked_up", [False, True])
def test_a_gpu_that_is_sick_at_the_start_is_complete_when_it_is_well(
    opened: Open, stub: MakeStub, clock: Clock, code: int, looked_up: bool
) -> None:
    machine = stub("rtx4090", "h100")
    healthy = opened(machine)
    wanted = [(rows(told), told.device) for told in (after(healthy, clock, 5, index) for index in range(2))]
    healthy.close()
    for index in range(2):
        machine.error(index, code, lookup=looked_up)
    # One more, so that not every GPU says so: that would be the driver.
    machine.add("l40s")
    source = opened(machine)
    for device in source.devices[:2]:
        assert source.read(device).failure is not None
    clock.now += 5
    for index in range(2):
        machine.recover(index)
    for index, known in enumerate(wanted):
        reading = after(source, clock, 5, index)
        assert (reading.failure, rows(reading), reading.device) == (None, *known)
    for index in range(2):
        machine.xid(index, 79)
    heard: list[int] = []

    def both_heard() -> bool:
        heard.extend(event.device.index for event in source.events())
        return set(heard) == {0, 1}

    wait_for(both_heard)


@pytest.mark.parametrize("function", ["nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetSerial"])
@pytest.mark.parametrize("code", [2, 3, 12, 13, 14, 999])
def test_a_name_that_fails_once_is_asked_for_again(
    opened: Open, stub: MakeStub, clock: Clock, asked: Counter[str], *, function: str, code: int
) -> None:
    machine = stub("h100")
    machine.set(0, "serial", "1321021036987")
    source = opened(machine)
    named = source.read(source.devices[0]).device
    assert "" not in (named.uuid, named.model, named.serial)
    machine.fail(function, code)
    source = opened(machine)
    reading = source.read(source.devices[0])
    assert reading.failure is None
    assert "" in (reading.device.uuid, reading.device.model, reading.device.serial)
    after(source, clock, 60)
    machine.fail(function, 0)
    assert after(source, clock, 65).device == named
    asked.clear()
    after(source, clock, 50)
    assert asked["nvmlDeviceGetName"] == 0, "what is known is not asked for again"


def test_links_and_fans_that_were_not_counted_are_counted_again(opened: Open, stub: MakeStub, clock: Clock) -> None:
    machine, healthy = stub("h100", "rtx4090"), stub("h100")
    source = opened(machine)
    before = [rows(after(source, clock, 5, index)) for index in range(2)]
    machine.field(0, NVLINK_COUNT, error=999)
    machine.fail("nvmlDeviceGetNumFans", 999)
    source = opened(machine)
    assert all(rows(source.read(device)) < known for device, known in zip(source.devices, before, strict=True))
    machine._gpus[0].fields = dict(healthy._gpus[0].fields)
    machine.fail("nvmlDeviceGetNumFans", 0)
    assert [rows(after(source, clock, 60, index)) for index in range(2)] == before


@pytest.mark.parametrize("told", [129, 200_000, 2**31 - 1])
def test_a_number_of_links_or_fans_that_cannot_be_is_refused(
    opened: Open, stub: MakeStub, clock: Clock, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    machine = stub("h100", "rtx4090")
    machine.field(0, NVLINK_COUNT, told, kind=1)
    machine.set(1, "fan_count", told)
    source = opened(machine)
    first, second = map(source.read, source.devices)
    assert first.failure is second.failure is None
    assert by_name("gpu_nvlink_links", state="active") not in first.values
    assert second.labelled == {}
    for index in range(2):
        after(source, clock, 1000, index)
    # 2^31-1 from a field is no number at all.
    lines = 1 if told == 2**31 - 1 else 2
    assert caplog.messages.count("the driver tells an impossible number") == lines, "one line each"


def test_a_number_that_becomes_impossible_leaves_the_one_of_before(opened: Open, stub: MakeStub, clock: Clock) -> None:
    machine = stub("h100")
    source = opened(machine)
    links = by_name("gpu_nvlink_links", state="active")
    assert source.read(source.devices[0]).values[links] == 18
    machine.field(0, NVLINK_COUNT, 2**31 - 1, kind=1)
    assert after(source, clock, 1000).values[links] == 18


def test_a_number_of_mig_devices_that_cannot_be_is_refused(
    opened: Open, stub: MakeStub, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    machine = stub("a100")
    machine.mig(0, [Mig("MIG-1", "1g.5gb", 1, 0, 2**32, 2**20)])
    machine.set(0, "max_mig_devices", 2**31 - 1)
    source = opened(machine, processes=1.0)
    assert source.read(source.devices[0]).mig_uuids == ("MIG-1",)
    after(source, clock, 1000)
    assert caplog.messages.count("the driver tells an impossible number") == 1


@pytest.mark.parametrize("function", ["nvmlDeviceRegisterEvents", "nvmlEventSetCreate"])
@pytest.mark.parametrize("code", [2, 3, 999])
def test_what_events_need_is_tried_again(
    opened: Open, stub: MakeStub, clock: Clock, *, function: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    machine = stub("h100")
    machine.fail(function, code)
    source = opened(machine)
    after(source, clock, 200)
    assert sum("no XID events" in message for message in caplog.messages) == 1, "one line, not one a try"
    machine.fail(function, 0)
    after(source, clock, 60)
    machine.xid(0, 31)
    wait_for(lambda: [event.xid for event in source.events() if isinstance(event, Xid)] == [31])


@pytest.mark.parametrize("code", [1, 2])
def test_an_event_thread_that_ended_is_replaced(opened: Open, stub: MakeStub, clock: Clock, code: int) -> None:
    machine = stub("h100", "h100")
    source = opened(machine)
    for device in source.devices:
        source.read(device)
    listener = source._xids
    first = listener._thread
    assert first is not None
    machine.fail("nvmlEventSetWait_v2", code)
    wait_for(lambda: not first.is_alive())
    machine.fail("nvmlEventSetWait_v2", 0)
    clock.now += 5
    for device in source.devices:
        source.read(device)
    for index in range(2):
        machine.xid(index, 79)
    heard: list[int] = []

    def both_heard() -> bool:
        heard.extend(event.device.index for event in source.events())
        return sorted(heard) == [0, 1]

    wait_for(both_heard)


def test_a_new_handle_is_registered_again(opened: Open, stub: MakeStub, clock: Clock, asked: Counter[str]) -> None:
    machine = stub("h100")
    source = opened(machine)
    after(source, clock, 300)
    assert asked["nvmlDeviceRegisterEvents"] == 1
    machine.lose(0)
    after(source, clock, 5)
    machine.recover(0)
    after(source, clock, 300)
    assert asked["nvmlDeviceRegisterEvents"] == 2


def test_versions_that_were_not_told_are_asked_for_again(opened: Open, stub: MakeStub, clock: Clock) -> None:
    machine = stub("h100")
    machine.fail("nvmlSystemGetDriverVersion", 999)
    source = opened(machine)
    assert source.read(source.devices[0]).failure is None
    assert source.driver.driver_version == ""
    machine.fail("nvmlSystemGetDriverVersion", 0)
    reading = after(source, clock, 5)
    assert source.driver.driver_version == "590.48.01"
    seconds = by_name("gpu_clock_event_seconds_total", reason="hw_thermal_slowdown")
    assert seconds in reading.values, "a field whose number follows the release"


def test_a_healthy_gpu_costs_no_call_more(opened: Open, stub: MakeStub, clock: Clock, asked: Counter[str]) -> None:
    machine = stub("h100")
    source = opened(machine)
    after(source, clock, 1800)
    asked.clear()
    after(source, clock, 600)
    calls = asked.total()
    assert calls <= 121 * 26, "of 26 calls a reading that the budget allows, two of them for profiling"


# --- one call of all that answers, and who it is ----------------------------------------------------------------------


@pytest.mark.parametrize("code", [999, 4, 9])
@pytest.mark.parametrize(
    "answers",
    [
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetPersistenceMode",
        "nvmlDeviceGetSamples",
        "nvmlGpmMetricsGet",
    ],
)
def test_a_gpu_is_up_whichever_one_call_answers(
    opened: Open, stub: MakeStub, clock: Clock, answers: str, code: int
) -> None:
    machine = stub("h100", "h100")
    source = opened(machine)
    for device in source.devices:
        assert source.read(device).failure is None
    spared = {answers, "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlGpmSampleGet"}
    with machine.batch():
        for name in FUNCTIONS:
            if name.startswith(("nvmlDevice", "nvmlGpm")) and name not in spared:
                machine.fail(name, code, device=1)
    clock.now += 60
    machine.now += 60
    reading = source.read(source.devices[1])
    assert reading.failure is None
    assert reading.partial
    assert rows(reading)


def test_a_gpu_that_takes_its_time_to_refuse_is_not_asked_for_everything(
    here: Callable[[Stub], Stub], stub: MakeStub, asked: Counter[str]
) -> None:
    machine = here(stub("h100"))

    class Passing(Clock):
        def __call__(self) -> float:
            self.now += 0.3 * bool(asked)
            return self.now

    source = NvmlSource(monotonic=Passing(1000.0))
    try:
        source.read(source.devices[0])
        machine.error(0, 999, lookup=True)
        asked.clear()
        failure = source.read(source.devices[0]).failure
        assert failure is not None
        assert failure.reason == "unknown"
        assert asked.total() < 12
    finally:
        source.close()


def test_boards_that_change_places_are_noticed_within_a_minute_and_at_once(
    here: Callable[[Stub], Stub], stub: MakeStub, clock: Clock
) -> None:
    machine = here(stub(*["h100"] * 12))
    sampler = Sampler(
        open_source=lambda: NvmlSource(monotonic=clock),
        source_name="nvml",
        collection=CollectionConfig(timeout=60.0),
        build=Build("1", "3"),
        monotonic=clock,
    )

    def told() -> dict[str, float]:
        """When each board was last seen, and for how long it has been observed."""
        clock.now += 5
        sampler._cycle()
        readings = sampler.latest().readings
        assert [reading.failure for reading in readings] == [None] * 12, "nobody is gone"
        return {reading.device.uuid: sum(reading.values[row] for row in STATE_SECONDS.values()) for reading in readings}

    try:
        told()
        before = told()
        with machine.batch():
            for index, uuid in enumerate(reversed(before)):
                machine.set(index, "uuid", uuid)
        seen = [told() for _ in range(13)]
    finally:
        sampler.close()
    assert list(seen[-1]) == list(before)[::-1]
    assert all(list(each) in (list(before), list(before)[::-1]) for each in seen), "all at once"
    assert all(seen[-1][uuid] > before[uuid] for uuid in before), "accounts go along"
