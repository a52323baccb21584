"""Numbers that are none: "not available" in any width, what is not finite, what is left of an overflow."""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pynvml
import pytest
from tools.lab.nvml_stub import MODELS, SETTINGS, Stub

from gpu_exporter.catalog import DEVICE_METRICS, by_name
from gpu_exporter.catalog.row import Call, Field, Metric
from gpu_exporter.model import Reading
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources.nvml import NvmlSource
from gpu_exporter.sources.nvml.numbers import parts

Read = Callable[..., Reading]
# -1 of every type that a field can have, numbers that are not finite, and the ends of the types' ranges.
NONE = pytest.mark.parametrize(
    "answer",
    [
        {"value": 0xFFFFFFFF, "kind": 1},
        {"value": 0xFFFFFFFFFFFFFFFF, "kind": 2},
        {"value": 0xFFFFFFFFFFFFFFFF, "kind": 3},
        {"value": 0xFFFFFFFF, "kind": 3},
        {"value": -1, "kind": 4},
        {"value": -1, "kind": 5},
        {"value": 0xFFFF, "kind": 6},
        {"value": float("nan")},
        {"value": float("inf")},
        {"value": float("-inf")},
        {"value": -1.0},
        {"value": 1e300},
        {"value": -(2**31), "kind": 5},
        {"value": -(2**63), "kind": 4},
        {"value": 2**63, "kind": 3},
        {"value": 2**63 - 1, "kind": 3},
        {"value": 2**31, "kind": 1},
        {"value": 2**31 - 1, "kind": 5},
        {"value": -7, "kind": 5},
    ],
    ids=str,
)
# One row of every unit that a field is told in.
FIELDS = pytest.mark.parametrize(
    ("number", "name", "labels"),
    [
        (82, "gpu_memory_temperature_celsius", {}),
        (83, "gpu_energy_joules_total", {}),
        (186, "gpu_power_watts", {}),
        (142, "gpu_remapped_rows", {"severity": "corrected"}),
        (144, "gpu_row_remap_pending", {}),
        (74, "gpu_clock_event_seconds_total", {"reason": "sw_power_cap"}),
        (94, "gpu_pcie_replays_total", {}),
        (230, "gpu_recovery_action", {}),
        (11, "gpu_ecc_errors_total", {"severity": "corrected", "lifetime": "volatile", "location": "dram"}),
    ],
)


@pytest.fixture
def opened(here: Callable[[Stub], Stub]) -> Iterator[Callable[[Stub], Read]]:
    """The machine's first GPU as it is published: read, and checked."""
    sources: list[NvmlSource] = []

    def open_source(machine: Stub) -> Read:
        here(machine)
        source, pipeline = NvmlSource(), Pipeline(gap=60)
        sources.append(source)

        def read(now: float = 0.0) -> Reading:
            (reading,) = pipeline.complete([source.read(source.devices[0])], now)
            assert pipeline.implausible.keys() >= {metric.name for metric, _ in reading.refused}
            return reading

        return read

    yield open_source
    for source in sources:
        source.close()


@NONE
@FIELDS
def test_a_field_that_tells_no_number_is_absent(  # noqa: PLR0917 - the fixtures, and the two tables' columns
    stub: Callable[..., Stub],
    opened: Callable[[Stub], Read],
    number: int,
    name: str,
    labels: dict[str, str],
    answer: dict[str, float],
) -> None:
    machine, row = stub("h100"), by_name(name, **labels)
    read = opened(machine)
    before = read().values[row]
    machine.field(0, number, **answer)  # type: ignore[arg-type]
    reading = read()
    assert row not in reading.values
    assert [metric for metric, _ in reading.refused] == [row]
    assert reading.failure is None
    machine.field(0, number, **_again(number, before))
    assert read().values[row] == before


def _again(number: int, value: float) -> dict[str, int]:
    thousands = {83, 186}
    return {"value": round(value * 1000) if number in thousands else round(value)}


def test_a_zero_that_is_one_stays(stub: Callable[..., Stub], opened: Callable[[Stub], Read]) -> None:
    """No errors, no utilization, no time held down, a fan that stands still: all of that is 0 on a healthy GPU."""
    machine = stub("rtx4090")
    with machine.batch():
        machine.set(0, "utilization", 0)
        machine.set(0, "memory_utilization", 0)
        machine.set(0, "fan_speeds", (0, 0))
        machine.set(0, "memory_used", 0)
        machine.set(0, "bar1_used", 0)
        machine.set(0, "clock_video", 0)
        machine.set(0, "energy", 0)
    reading = opened(machine)()
    assert reading.refused == ()
    for name in (
        "gpu_utilization_ratio",
        "gpu_memory_used_bytes",
        "gpu_bar1_memory_used_bytes",
        "gpu_pcie_replays_total",
    ):
        assert reading.values[by_name(name)] == 0
    assert reading.values[by_name("gpu_clock_hertz", clock="video")] == 0
    assert reading.labelled[by_name("gpu_fan_speed_ratio"), ("1",)] == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_healthy_board_has_nothing_refused(
    stub: Callable[..., Stub], opened: Callable[[Stub], Read], model: str
) -> None:
    read = opened(stub(model))
    for now in range(3):
        assert read(now).refused == ()


# What one of the machine's settings answers, and the row that is absent then.
CASES = [
    ("temperature", 0, "gpu_temperature_celsius", {}),
    ("temperature", -1, "gpu_temperature_celsius", {}),
    ("temperature", 255, "gpu_temperature_celsius", {}),
    ("memory_temperature", 0, "gpu_memory_temperature_celsius", {}),
    ("memory_temperature", 511, "gpu_memory_temperature_celsius", {}),
    ("power", 0, "gpu_power_watts", {}),
    ("power", 0, "gpu_power_average_watts", {}),
    ("power", 4_000_000_000, "gpu_power_watts", {}),
    ("power", 5_000_000, "gpu_power_watts", {}),
    ("power_enforced_limit", 0, "gpu_power_limit_watts", {}),
    ("power_default_limit", -1, "gpu_power_default_limit_watts", {}),
    ("power_max_limit", 2**31 - 1, "gpu_power_max_limit_watts", {}),
    ("power_min_limit", 0xFFFFFFFF, "gpu_power_min_limit_watts", {}),
    ("utilization", 808, "gpu_utilization_ratio", {}),
    ("utilization", 4_294_967_294, "gpu_utilization_ratio", {}),
    ("utilization", 101, "gpu_utilization_ratio", {}),
    ("memory_utilization", 255, "gpu_memory_io_utilization_ratio", {}),
    ("encoder_utilization", 65_535, "gpu_encoder_utilization_ratio", {}),
    ("decoder_utilization", -1, "gpu_decoder_utilization_ratio", {}),
    ("jpeg_utilization", 120, "gpu_jpeg_utilization_ratio", {}),
    ("ofa_utilization", 2**31, "gpu_ofa_utilization_ratio", {}),
    ("memory_total", 0, "gpu_memory_total_bytes", {}),
    ("memory_total", 0, "gpu_memory_used_bytes", {}),
    ("memory_total", 0, "gpu_memory_free_bytes", {}),
    ("memory_total", 0, "gpu_memory_reserved_bytes", {}),
    ("memory_total", -1, "gpu_memory_total_bytes", {}),
    ("memory_used", 2**40, "gpu_memory_used_bytes", {}),
    ("memory_used", 2**40, "gpu_memory_total_bytes", {}),
    ("memory_used", -1, "gpu_memory_used_bytes", {}),
    ("bar1_total", 0, "gpu_bar1_memory_total_bytes", {}),
    ("bar1_total", 0, "gpu_bar1_memory_used_bytes", {}),
    ("bar1_used", 2**50, "gpu_bar1_memory_used_bytes", {}),
    ("clock_sm", 0, "gpu_clock_hertz", {"clock": "sm"}),
    ("clock_graphics", 0, "gpu_clock_hertz", {"clock": "graphics"}),
    ("clock_memory", 65_535, "gpu_clock_hertz", {"clock": "memory"}),
    ("clock_video", -1, "gpu_clock_hertz", {"clock": "video"}),
    ("clock_max_sm", 0, "gpu_clock_max_hertz", {"clock": "sm"}),
    ("performance_state", 99, "gpu_performance_state", {}),
    ("performance_state", -1, "gpu_performance_state", {}),
    ("recovery_action", 99, "gpu_recovery_action", {}),
    ("compute_mode", 17, "gpu_compute_mode", {}),
    ("persistence_mode", 2, "gpu_persistence_mode_enabled", {}),
    ("ecc_enabled", 255, "gpu_ecc_enabled", {}),
    ("fabric_state", 255, "gpu_fabric_state", {}),
    ("fabric_state", 9, "gpu_fabric_state", {}),
    ("pcie_width", 0, "gpu_pcie_link_width", {}),
    ("pcie_width", 255, "gpu_pcie_link_width", {}),
    ("pcie_width_max", 0, "gpu_pcie_link_width_max", {}),
    ("pcie_generation", 0, "gpu_pcie_link_generation", {}),
    ("pcie_generation_max", 255, "gpu_pcie_link_generation_max", {}),
    (
        "ecc_corrected_aggregate_dram",
        2**63,
        "gpu_ecc_errors_total",
        {"severity": "corrected", "lifetime": "aggregate", "location": "dram"},
    ),
    (
        "sram_secded_volatile",
        2**62,
        "gpu_ecc_errors_total",
        {"severity": "uncorrected", "lifetime": "volatile", "location": "sram"},
    ),
    ("energy", 2**62, "gpu_energy_joules_total", {}),
    ("reason_ns_power", 2**62 * 3, "gpu_clock_event_seconds_total", {"reason": "sw_power_cap"}),
]


@pytest.mark.parametrize(("setting", "value", "name", "labels"), CASES, ids=str)
def test_what_cannot_be_is_absent_and_counted(  # noqa: PLR0917 - the fixtures, and the table's columns
    stub: Callable[..., Stub],
    opened: Callable[[Stub], Read],
    setting: str,
    value: int,
    name: str,
    labels: dict[str, str],
) -> None:
    machine, row = stub("h100"), by_name(name, **labels)
    machine.set(0, setting, value)
    reading = opened(machine)()
    assert reading.failure is None
    assert row not in reading.values
    assert row in {metric for metric, _ in reading.refused}
    assert reading.values[by_name("gpu_up")] == 1


@pytest.mark.parametrize("threshold", ["limit_slowdown", "limit_shutdown", "limit_max_operating", "limit_memory_max"])
@pytest.mark.parametrize("value", [0, -1, 255])
def test_a_limit_that_cannot_be_is_absent(
    stub: Callable[..., Stub], opened: Callable[[Stub], Read], threshold: str, value: int
) -> None:
    machine = stub("a100")
    machine.set(0, threshold, value)
    reading = opened(machine)()
    limit = by_name("gpu_temperature_limit_celsius", limit=threshold.removeprefix("limit_"))
    assert limit not in reading.values
    assert [metric for metric, _ in reading.refused] == [limit]


@pytest.mark.parametrize(("setting", "value"), [("temperature", 0), ("temperature_margin", 2**31 - 1)])
def test_a_limit_that_is_worked_out_is_not_kept_where_it_cannot_be(
    here: Callable[[Stub], Stub], stub: Callable[..., Stub], setting: str, value: int
) -> None:
    """H100: the limit is told as a distance from the margin, worked out once."""
    now = 1000.0
    machine = here(stub("h100"))
    healthy = machine.get(0, setting)
    machine.set(0, setting, value)
    source = NvmlSource(monotonic=lambda: now)
    limit = by_name("gpu_temperature_limit_celsius", limit="slowdown")
    try:
        assert limit not in source.read(source.devices[0]).values
        machine.set(0, setting, healthy)
        now += 120
        assert source.read(source.devices[0]).values[limit] == 59 + 26 + 2
    finally:
        source.close()


def test_a_distance_of_minus_one_is_one(stub: Callable[..., Stub], opened: Callable[[Stub], Read]) -> None:
    machine = stub("h100")
    machine.set(0, "tlimit_slowdown", -1)
    reading = opened(machine)()
    assert reading.values[by_name("gpu_temperature_limit_celsius", limit="slowdown")] == 59 + 26 + 1
    assert reading.refused == ()


@pytest.mark.parametrize("speed", [65_535, 4_294_967_295, 4_294_967_294, 255])
def test_a_fan_that_cannot_be_is_absent_alone(
    stub: Callable[..., Stub], opened: Callable[[Stub], Read], speed: int
) -> None:
    machine, row = stub("rtx4090"), by_name("gpu_fan_speed_ratio")
    machine.set(0, "fan_speeds", (30, speed))
    reading = opened(machine)()
    assert {labels: value for (metric, labels), value in reading.labelled.items() if metric is row} == {("0",): 0.3}
    assert [metric for metric, _ in reading.refused] == [row]


@pytest.mark.parametrize(
    "metric", [row for row in DEVICE_METRICS if any(isinstance(c, Field) for c in row.nvml)], ids=repr
)
def test_no_field_is_believed_when_it_says_not_available(
    stub: Callable[..., Stub], opened: Callable[[Stub], Read], metric: Metric
) -> None:
    """Each field of the catalogue, on each board: nothing is served of what it does not tell."""
    numbers = {getattr(pynvml, column.name) for column in metric.nvml if isinstance(column, Field)}
    numbers |= {number for column in metric.nvml if isinstance(column, Field) for _, number in column.renumbered}
    for model in MODELS:
        machine = stub(model)
        for number in numbers:
            machine.field(0, number, -1)
        values = opened(machine)().values
        assert metric not in values or (math.isfinite(values[metric]) and values[metric] >= 0)
        assert metric not in values or isinstance(metric.nvml[-1], Call)


@pytest.mark.parametrize(("kind", "minus_one"), [(ctypes.c_ubyte, 0xFF), (ctypes.c_ushort, 0xFFFF), (ctypes.c_int, -1)])
def test_minus_one_in_the_width_of_a_structures_member(kind: type[Any], minus_one: int) -> None:
    class Answer(ctypes.Structure):
        _fields_ = (("whole", ctypes.c_uint), ("part", kind))

    ((number, nothing),) = parts(Answer(7, minus_one), Call("nvmlDeviceGetAnswer", part=("part",)))
    assert number in nothing
    ((number, nothing),) = parts(Answer(minus_one & 0xFFFF, 0), Call("nvmlDeviceGetAnswer", part=("whole",)))
    assert number not in nothing


# What a driver that has gone mad may answer, in any width.
MAD = (0, 1, -1, -2, 99, 255, 808, 65_535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**53, 2**63 - 1, -(2**63), 10**18)
# What the stand-in itself goes by, or what tells how many there are of something.
KEPT = {
    "architecture",
    "brand",
    "minor_number",
    "pcie_counter_bits",
    "nvlink_generation",
    "max_mig_devices",
    "mig_mode",
}
KEPT |= {"uuid", "name", "serial", "vbios_version", "supported_events", "supported_event_reasons", "pcie_throughput_ms"}
OURS = {"gpu_busy_seconds_total", "gpu_pcie_transmit_bytes_total", "gpu_state_seconds_total"}


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_driver_answers_what_is_served_can_be(
    stub: Callable[..., Stub], opened: Callable[[Stub], Read], seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test's
    model = chance.choice(list(MODELS))
    machine = stub(model)
    # Older boards tell the sum over their links themselves, and may reset it.
    ours = OURS | {"gpu_nvlink_errors_total"} if model in {"h100", "gh200"} else OURS
    healthy = {name: told for name in SETTINGS if name not in KEPT and (told := machine.get(0, name)) is not None}
    read, sums = opened(machine), dict[Metric, float]()
    for tick in range(25):
        with machine.batch():
            for name, right in healthy.items():
                mad = chance.random() < 0.15
                if isinstance(right, int):
                    machine.set(0, name, chance.choice(MAD) if mad else right)
                elif not isinstance(right, str):
                    machine.set(0, name, [chance.choice(MAD) if mad and chance.random() < 0.3 else at for at in right])
            machine.now += 1
        reading = read(float(tick))
        assert reading.failure is None
        for row, value in [*reading.values.items(), *((row, value) for (row, _), value in reading.labelled.items())]:
            assert row.plausible[0] <= value <= row.plausible[1], row
            if row.name in ours:
                assert value >= sums.get(row, 0.0), row
                sums[row] = value
    assert sums
