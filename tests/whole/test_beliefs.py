"""What drivers tell that is not so, from a scenario through the installed program to /metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter
from tools.lab.wait import wait_for

# The fleet of seed 1: a training job on GPU 0 to 3, an idle GPU 7.
FLEET = ("--source=fake", "--collection.interval=200ms", "--collection.timeout=200ms")
STATES = ("active", "idle_held", "idle_free", "unknown")
Play = Callable[..., Exporter]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    """Start the daemon with a story that begins at once."""
    running: list[Exporter] = []

    def begin(*events: str, arguments: tuple[str, ...] = ()) -> Exporter:
        story = tmp_path / "story.yml"
        story.write_text("events:\n" + "".join(f"  - {{at: 0s, {event}}}\n" for event in events))
        running.append(Exporter(tmp_path, *FLEET, *arguments, f"--fake.scenario={story}"))
        return running[-1]

    yield begin
    for exporter in running:
        exporter.stop()


def states(exporter: Exporter, gpu: int) -> dict[str, float]:
    samples = exporter.samples()
    return {
        dict(labels)["state"]: value
        for (name, labels), value in samples.items()
        if name == "gpu_state_seconds_total" and ("gpu", str(gpu)) in labels
    }


def wait_state(exporter: Exporter, gpu: int, state: str, seconds: float = 2.0) -> dict[str, float]:
    """Wait until so much time was charged to a state; the time in every state."""
    wait_for(lambda: states(exporter, gpu).get(state, 0) >= seconds, lambda: states(exporter, gpu))
    return states(exporter, gpu)


def test_an_empty_sample_buffer_is_not_idleness(play: Play) -> None:
    exporter = play("gpu: 0, fault: silent_sensor, metrics: gpu_busy_seconds_total")
    times = wait_state(exporter, 0, "active")
    assert times["idle_held"] == times["idle_free"] == 0
    busy = exporter.value("gpu_busy_seconds_total", gpu=0)
    assert busy is not None
    assert busy > 0.5 * times["active"], "the gauge stands for the time that the buffer does not tell of"


def test_silence_of_every_signal_is_unknown(play: Play) -> None:
    exporter = play("gpu: 0, fault: silent_sensor, metrics: [gpu_busy_seconds_total, gpu_utilization_ratio]")
    times = wait_state(exporter, 0, "unknown")
    assert times["active"] == times["idle_held"] == times["idle_free"] == 0


@pytest.mark.parametrize(
    ("metric", "value", "absent"),
    [
        ("gpu_utilization_ratio", "8.08", ("gpu_utilization_ratio",)),
        ("gpu_utilization_ratio", "-1", ("gpu_utilization_ratio",)),
        ("gpu_temperature_celsius", "0", ("gpu_temperature_celsius",)),
        ("gpu_power_watts", "4e6", ("gpu_power_watts",)),
        ("gpu_power_watts", ".nan", ("gpu_power_watts",)),
        ("gpu_memory_used_bytes", "1e12", ("gpu_memory_used_bytes", "gpu_memory_total_bytes")),
        ("gpu_energy_joules_total", ".inf", ("gpu_energy_joules_total",)),
    ],
)
def test_a_number_that_cannot_be_is_absent_and_counted(play: Play, metric: str, value: str, absent: tuple[str]) -> None:
    exporter = play(f"gpu: 1, fault: impossible_value, metrics: {metric}, value: {value}")
    wait_for(lambda: (exporter.value("gpu_exporter_implausible_values_total", metric=metric) or 0) >= 1, exporter.log)
    for name in absent:
        assert exporter.value(name, gpu=1) is None
        assert exporter.value(name, gpu=0) is not None
    assert exporter.value("gpu_up", gpu=1) == 1
    assert exporter.log().count("cannot be") <= 2 * len(absent), "told once, not once a reading"


def test_one_impossible_sample_spoils_no_counter(play: Play) -> None:
    exporter = play("gpu: 0, fault: impossible_value, metrics: gpu_busy_seconds_total, value: 42949672.95")
    times = wait_state(exporter, 0, "active")
    busy = exporter.value("gpu_busy_seconds_total", gpu=0)
    assert busy is not None
    assert 0.5 * times["active"] < busy < 2 * times["active"] + 5


@pytest.mark.parametrize("pid", [0, 4294967295])
def test_the_memory_of_a_process_that_nobody_is_is_held_by_somebody(play: Play, pid: int) -> None:
    exporter = play(f"gpu: 7, fault: dead_pid, pid: {pid}, memory: 40GiB")
    times = wait_state(exporter, 7, "idle_held")
    assert times["idle_free"] == times["active"] == 0
    assert exporter.value("gpu_memory_unaccounted_bytes", gpu=7) == 40 * 1024**3
    (held,) = (
        (dict(labels).get("owner", ""), value)
        for (name, labels), value in exporter.samples().items()
        if name == "gpu_owner_memory_used_bytes" and ("gpu", "7") in labels
    )
    assert held == ("", 40 * 1024**3)
    assert exporter.value("gpu_memory_unaccounted_bytes", gpu=6) == 0


def test_a_missing_list_of_processes_is_nobody_knows_who(play: Play) -> None:
    exporter = play("gpu: 6, fault: silent_sensor, metrics: gpu_processes")
    times = wait_state(exporter, 6, "idle_held")
    assert times["idle_free"] == 0


def test_a_gpu_most_of_whose_calls_fail_is_up_and_told(play: Play) -> None:
    exporter = play("gpu: 2, fault: partial")
    wait_for(lambda: (exporter.value("gpu_read_errors_total", gpu=2, reason="partial") or 0) >= 2, exporter.log)
    assert exporter.value("gpu_read_errors_total", gpu=3, reason="partial") == 0
    assert exporter.value("gpu_up", gpu=2) == 1
    assert exporter.value("gpu_utilization_ratio", gpu=2) is not None
    assert exporter.value("gpu_temperature_celsius", gpu=2) is None
    assert exporter.log().count("GPU answers only in part") == 1
    assert states(exporter, 2)["idle_free"] == 0


def ups(exporter: Exporter) -> dict[str, float]:
    """By UUID."""
    return {dict(labels)["uuid"]: value for (name, labels), value in exporter.samples().items() if name == "gpu_up"}


def test_gpus_come_without_a_restart(tmp_path: Path, play: Play) -> None:
    exporter = play("gpu: 0, fault: lost, for: 0s", arguments=("--fake.gpus=3",))
    wait_for(lambda: list(ups(exporter).values()) == [1, 1, 1], exporter.log)
    everyone = ups(exporter)
    (tmp_path / "story.yml").write_text("events: [{at: 0s, gpu: 1, fault: hot_plug, plugged: false}]\n")
    wait_for(lambda: sorted(ups(exporter).values()) == [0, 1, 1], exporter.log)
    gone = next(uuid for uuid, up in ups(exporter).items() if not up)
    assert exporter.value("gpu_read_errors_total", uuid=gone, reason="lost")
    assert list(everyone)[1] == gone
    (tmp_path / "story.yml").write_text("events: []\n")
    wait_for(lambda: ups(exporter) == everyone, exporter.log)


def test_a_machine_without_any_gpu_gets_some(play: Play, tmp_path: Path) -> None:
    exporter = play("gpu: all, fault: hot_plug, plugged: false", arguments=("--fake.gpus=2",))
    exporter.wait_value(0, "gpu_exporter_gpus", state="found")
    assert exporter.status("/readyz") == 503
    (tmp_path / "story.yml").write_text("events: []\n")
    wait_for(lambda: list(ups(exporter).values()) == [1, 1], exporter.log)


def test_a_clock_that_is_set_back_counts_nothing_twice(play: Play) -> None:
    began = time.time()
    exporter = play("fault: clock_step, step: -1h", "gpu: 3, fault: xid, xid: 63", "gpu: 3, fault: xid, xid: 63")
    exporter.wait_value(2, "gpu_xid_errors_total", gpu=3, xid=63)
    stamp = exporter.value("gpu_xid_last_timestamp_seconds", gpu=3, xid=63)
    assert stamp is not None
    assert began - 3600 <= stamp <= time.time() - 3600
    times = wait_state(exporter, 3, "active")
    busy = exporter.value("gpu_busy_seconds_total", gpu=3)
    assert busy is not None
    assert busy <= sum(states(exporter, 3).values()), (busy, times)
