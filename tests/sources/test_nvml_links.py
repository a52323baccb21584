"""Sums over links: one link that does not answer costs its own share only, and no sum falls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pynvml
import pytest
from tools.lab.nvml_stub import Stub

from gpu_exporter.catalog import by_name
from gpu_exporter.model import Reading
from gpu_exporter.sources.nvml import NvmlSource

REPLAYS = by_name("gpu_nvlink_errors_total", kind="replay")
ACTIVE, INACTIVE = (by_name("gpu_nvlink_links", state=state) for state in ("active", "inactive"))
C2C = by_name("gpu_c2c_links", state="active")
REPLAY_FIELD, STATE_FIELD, C2C_STATE_FIELD = 161, 165, 171
_NOT_AVAILABLE = 2**64 - 1
Read = Callable[[], Reading]

# How one link can fail to tell its number: the field's answer for it.
SILENT = pytest.mark.parametrize(
    "answer",
    [
        {"value": _NOT_AVAILABLE},
        {"value": -1, "kind": 5},
        {"value": -1, "kind": 4},
        {"value": 0xFFFFFFFF, "kind": 1},
        {"value": 0xFFFF, "kind": 6},
        {"value": float("nan")},
        {"value": float("inf")},
        {"value": -5.0},
        {"value": 2**63},
        {"error": 3},
        {"error": 999},
        {"error": 2},
        {"error": 6},
    ],
    ids=str,
)


@pytest.fixture
def opened(here: Callable[[Stub], Stub]) -> Iterator[Callable[[Stub], Read]]:
    sources: list[NvmlSource] = []

    def open_source(machine: Stub) -> Read:
        here(machine)
        source = NvmlSource()
        sources.append(source)
        return lambda: source.read(source.devices[0])

    yield open_source
    for source in sources:
        source.close()


@pytest.fixture
def machine(stub: Callable[..., Stub]) -> Stub:
    """18 links with 100 replays each."""
    made = stub("h100")
    made.field(0, REPLAY_FIELD, 100)
    return made


def silence(machine: Stub, field: int, link: int, answer: dict[str, float]) -> None:
    machine.field(0, (field, link), **answer)  # type: ignore[arg-type]


@SILENT
def test_a_link_that_is_silent_once_costs_nothing(
    machine: Stub, opened: Callable[[Stub], Read], answer: dict[str, float]
) -> None:
    read = opened(machine)
    assert read().values[REPLAYS] == 1800
    silence(machine, REPLAY_FIELD, 5, answer)
    machine.field(0, (REPLAY_FIELD, 6), 103)
    reading = read()
    assert reading.values[REPLAYS] == 1803, "its last count stands, the others go on"
    assert reading.failure is None
    assert [metric for metric, _ in reading.refused] == ([] if "error" in answer else [REPLAYS])
    machine.field(0, (REPLAY_FIELD, 5), 110)
    assert read().values[REPLAYS] == 1813


@SILENT
def test_a_link_that_is_silent_from_the_start_costs_its_own_share(
    machine: Stub, opened: Callable[[Stub], Read], answer: dict[str, float]
) -> None:
    silence(machine, REPLAY_FIELD, 0, answer)
    read = opened(machine)
    assert [read().values[REPLAYS] for _ in range(3)] == [1700] * 3
    machine.field(0, (REPLAY_FIELD, 0), 100)
    assert read().values[REPLAYS] == 1700, "what it counted before it was heard of did not happen now"
    machine.field(0, (REPLAY_FIELD, 0), 104)
    assert read().values[REPLAYS] == 1704


def test_a_link_that_was_reset_goes_on(machine: Stub, opened: Callable[[Stub], Read]) -> None:
    read = opened(machine)
    read()
    machine.field(0, (REPLAY_FIELD, 7), 2)
    assert read().values[REPLAYS] == 1800, "a single low answer is not believed"
    machine.field(0, (REPLAY_FIELD, 7), 3)
    assert read().values[REPLAYS] == 1803
    machine.field(0, (REPLAY_FIELD, 7), 10)
    assert read().values[REPLAYS] == 1810


def test_a_single_low_answer_is_none(machine: Stub, opened: Callable[[Stub], Read]) -> None:
    read = opened(machine)
    told = [read().values[REPLAYS]]
    for count in (0, 100, 101):
        machine.field(0, (REPLAY_FIELD, 7), count)
        told.append(read().values[REPLAYS])
    assert told == [1800, 1800, 1800, 1801]


def test_no_order_of_answers_makes_a_sum_fall(machine: Stub, opened: Callable[[Stub], Read]) -> None:
    read = opened(machine)
    told = [read().values[REPLAYS]]
    for step in range(40):
        link, kind = step * 7 % 18, step % 5
        if kind == 4:
            machine.field(0, (REPLAY_FIELD, link), error=3)
        else:
            machine.field(0, (REPLAY_FIELD, link), (_NOT_AVAILABLE, 0, 100 + step, step)[kind])
        told.append(read().values[REPLAYS])
    assert told == sorted(told)


def test_links_that_all_fall_silent_are_absent(machine: Stub, opened: Callable[[Stub], Read]) -> None:
    read = opened(machine)
    read()
    machine.field(0, REPLAY_FIELD, _NOT_AVAILABLE)
    assert REPLAYS not in read().values, "nothing stale is told as fresh"
    machine.field(0, REPLAY_FIELD, 101)
    assert read().values[REPLAYS] == 1818


@pytest.mark.parametrize(("code", "reason"), [(15, "lost"), (16, "reset_required")])
def test_a_lost_gpu_is_told_by_one_link_as_well(
    machine: Stub, opened: Callable[[Stub], Read], code: int, reason: str
) -> None:
    read = opened(machine)
    read()
    machine.field(0, (REPLAY_FIELD, 17), error=code)
    failure = read().failure
    assert failure is not None
    assert failure.reason == reason


@SILENT
def test_a_links_state_stands_for_a_while(
    machine: Stub, opened: Callable[[Stub], Read], answer: dict[str, float]
) -> None:
    machine.field(0, (STATE_FIELD, 3), 0)
    read = opened(machine)
    values = read().values
    assert (values[ACTIVE], values[INACTIVE]) == (17, 1)
    silence(machine, STATE_FIELD, 4, answer)
    values = read().values
    assert (values[ACTIVE], values[INACTIVE]) == (17, 1)
    for _ in range(20):
        values = read().values
    assert (values[ACTIVE], values[INACTIVE]) == (16, 1), "for ever, it is neither"
    machine.field(0, (STATE_FIELD, 4), 0)
    values = read().values
    assert (values[ACTIVE], values[INACTIVE]) == (16, 2)


def test_a_state_that_nvml_does_not_have_is_none(machine: Stub, opened: Callable[[Stub], Read]) -> None:
    read = opened(machine)
    read()
    machine.field(0, (STATE_FIELD, 4), 4_000)
    reading = read()
    assert (reading.values[ACTIVE], reading.values[INACTIVE]) == (18, 0)
    assert {metric for metric, _ in reading.refused} == {ACTIVE, INACTIVE}


@SILENT
def test_one_c2c_link_of_ten(
    stub: Callable[..., Stub], opened: Callable[[Stub], Read], answer: dict[str, float]
) -> None:
    machine = stub("gh200")
    silence(machine, C2C_STATE_FIELD, 0, answer)
    read = opened(machine)
    assert read().values[C2C] == 9
    machine.field(0, (C2C_STATE_FIELD, 0), 1)
    assert read().values[C2C] == 10


@pytest.mark.parametrize("code", [3, 999, 2])
def test_links_that_are_asked_one_by_one(
    stub: Callable[..., Stub], opened: Callable[[Stub], Read], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The driver of an A100 has no field for the state of its links."""
    genuine = pynvml.nvmlDeviceGetNvLinkState

    def without_the_first(handle: object, link: int) -> int:
        if link == 0:
            raise pynvml.NVMLError(code)
        return int(genuine(handle, link))

    monkeypatch.setattr(pynvml, "nvmlDeviceGetNvLinkState", without_the_first)
    read = opened(stub("a100"))
    values = read().values
    assert (values[ACTIVE], values[INACTIVE]) == (11, 0)
