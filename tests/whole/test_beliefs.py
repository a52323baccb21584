"""What drivers tell that is not so, from a scenario through the installed program to /metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter, Samples, pick
from tools.lab.wait import wait_for

# The fleet of seed 1: a training job on GPU 0 to 3, a notebook on GPU 6, nobody on GPU 7.
FLEET = ("--source=fake", "--collection.interval=500ms", "--collection.timeout=500ms")
# A training job pauses now and then by the time of day; this rate says that it works, whenever the test runs.
WORKS = "gpu: {}, fault: impossible_value, metrics: [gpu_utilization_ratio, gpu_sm_active_ratio], value: 0.9"
GIB = 1024.0**3
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


def page(exporter: Exporter, ready: Callable[[Samples], object]) -> Samples:
    """The first page for which the condition holds; one page, as a busy machine may withhold the next."""

    def look() -> Samples | None:
        samples = exporter.samples()
        return samples if ready(samples) else None

    return wait_for(look, exporter.log)


def states(samples: Samples, gpu: int) -> dict[str, float]:
    return {
        dict(labels)["state"]: value
        for (name, labels), value in samples.items()
        if name == "gpu_state_seconds_total" and ("gpu", str(gpu)) in labels
    }


def charged(gpu: int, state: str) -> Callable[[Samples], bool]:
    """That some time was charged to a state."""
    return lambda samples: states(samples, gpu).get(state, 0) >= 2


def busy_seconds(samples: Samples, gpu: int) -> float:
    busy = pick(samples, "gpu_busy_seconds_total", gpu=gpu)
    assert busy is not None
    return busy


def ups(samples: Samples) -> dict[str, float]:
    """By UUID."""
    return {dict(labels)["uuid"]: value for (name, labels), value in samples.items() if name == "gpu_up"}


# --- silence ---------------------------------------------------------------------------------------------------------


def test_an_empty_sample_buffer_is_not_idleness(play: Play) -> None:
    exporter = play("gpu: 0, fault: silent_sensor, metrics: gpu_busy_seconds_total", WORKS.format(0))
    samples = page(exporter, charged(0, "active"))
    times = states(samples, 0)
    assert times["idle_held"] == times["idle_free"] == 0
    assert busy_seconds(samples, 0) > 0.5 * times["active"], "the gauge stands for what the buffer does not tell of"


def test_silence_of_every_signal_is_unknown(play: Play) -> None:
    exporter = play("gpu: 0, fault: silent_sensor, metrics: [gpu_busy_seconds_total, gpu_utilization_ratio]")
    times = states(page(exporter, charged(0, "unknown")), 0)
    assert times["active"] == times["idle_held"] == times["idle_free"] == 0


def test_a_missing_list_of_processes_is_not_nobody(play: Play) -> None:
    exporter = play("gpu: 6, fault: silent_sensor, metrics: gpu_processes")
    assert states(page(exporter, charged(6, "idle_held")), 6)["idle_free"] == 0


def test_a_gpu_most_of_whose_calls_fail_is_up_and_told(play: Play) -> None:
    exporter = play("gpu: 2, fault: partial", WORKS.format(2))
    samples = page(
        exporter,
        lambda samples: (
            (pick(samples, "gpu_read_errors_total", gpu=2, reason="partial") or 0) >= 2
            and pick(samples, "gpu_up", gpu=2)
        ),
    )
    assert pick(samples, "gpu_read_errors_total", gpu=3, reason="partial") == 0
    assert pick(samples, "gpu_utilization_ratio", gpu=2) == 0.9
    assert pick(samples, "gpu_temperature_celsius", gpu=2) is None
    assert states(samples, 2)["idle_free"] == 0
    assert exporter.log().count("GPU answers only in part") == 1


# --- lies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "value", "absent"),
    [
        ("gpu_utilization_ratio", "8.08", ["gpu_utilization_ratio"]),
        ("gpu_utilization_ratio", "-1", ["gpu_utilization_ratio"]),
        ("gpu_temperature_celsius", "0", ["gpu_temperature_celsius"]),
        ("gpu_power_watts", "4e6", ["gpu_power_watts"]),
        ("gpu_power_watts", ".nan", ["gpu_power_watts"]),
        ("gpu_memory_used_bytes", "1e12", ["gpu_memory_used_bytes", "gpu_memory_total_bytes"]),
        ("gpu_energy_joules_total", ".inf", ["gpu_energy_joules_total"]),
    ],
)
def test_a_number_that_cannot_be_is_absent_and_counted(play: Play, metric: str, value: str, absent: list[str]) -> None:
    exporter = play(f"gpu: 1, fault: impossible_value, metrics: {metric}, value: {value}")
    samples = page(
        exporter,
        lambda samples: (
            (pick(samples, "gpu_exporter_implausible_values_total", metric=metric) or 0) >= 1
            and pick(samples, "gpu_up", gpu=1)
            and pick(samples, "gpu_up", gpu=0)
        ),
    )
    for name in absent:
        assert pick(samples, name, gpu=1) is None
        assert pick(samples, name, gpu=0) is not None
    assert exporter.log().count("cannot be") <= 2 * len(absent), "told once, not once a reading"


def test_one_impossible_sample_spoils_no_counter(play: Play) -> None:
    exporter = play(
        "gpu: 0, fault: impossible_value, metrics: gpu_busy_seconds_total, value: 42949672.95", WORKS.format(0)
    )
    samples = page(exporter, charged(0, "active"))
    assert 0.5 * states(samples, 0)["active"] < busy_seconds(samples, 0) < sum(states(samples, 0).values())


@pytest.mark.parametrize("pid", [0, 4294967295])
def test_the_memory_of_a_process_that_nobody_is_is_held_by_somebody(play: Play, pid: int) -> None:
    exporter = play(f"gpu: 7, fault: dead_pid, pid: {pid}, memory: 40GiB")
    samples = page(exporter, charged(7, "idle_held"))
    times = states(samples, 7)
    assert times["idle_free"] == times["active"] == 0
    assert pick(samples, "gpu_memory_unaccounted_bytes", gpu=7) == 40 * GIB
    assert pick(samples, "gpu_memory_unaccounted_bytes", gpu=6) == 0
    held = [
        (dict(labels).get("owner", ""), value)
        for (name, labels), value in samples.items()
        if name == "gpu_owner_memory_used_bytes" and ("gpu", "7") in labels
    ]
    assert held == [("", 40 * GIB)]


# --- what comes and goes, and the time -------------------------------------------------------------------------------


def test_a_gpu_goes_and_comes_without_a_restart(tmp_path: Path, play: Play) -> None:
    exporter = play("gpu: 0, fault: lost, for: 0s", arguments=("--fake.gpus=3",))
    everyone = ups(page(exporter, lambda samples: list(ups(samples).values()) == [1, 1, 1]))
    (tmp_path / "story.yml").write_text("events: [{at: 0s, gpu: 1, fault: hot_plug, plugged: false}]\n")
    gone = list(everyone)[1]
    page(
        exporter,
        lambda samples: (
            ups(samples) == {**everyone, gone: 0} and pick(samples, "gpu_read_errors_total", uuid=gone, reason="lost")
        ),
    )
    (tmp_path / "story.yml").write_text("events: []\n")
    page(exporter, lambda samples: ups(samples) == everyone)


def test_a_machine_without_any_gpu_gets_some(play: Play, tmp_path: Path) -> None:
    exporter = play("gpu: all, fault: hot_plug, plugged: false", arguments=("--fake.gpus=2",))
    exporter.wait_value(0, "gpu_exporter_gpus", state="found")
    assert exporter.status("/readyz") == 503
    (tmp_path / "story.yml").write_text("events: []\n")
    page(exporter, lambda samples: list(ups(samples).values()) == [1, 1])


@pytest.mark.parametrize(("step", "seconds"), [("-1h", -3600), ("+1h", 3600)])
def test_a_clock_that_is_set_counts_nothing_twice(play: Play, step: str, seconds: float) -> None:
    began = time.time()
    exporter = play(f"fault: clock_step, step: {step}", *["gpu: 3, fault: xid, xid: 63"] * 2)
    samples = page(
        exporter,
        lambda samples: pick(samples, "gpu_xid_errors_total", gpu=3, xid=63) and sum(states(samples, 3).values()) >= 2,
    )
    assert pick(samples, "gpu_xid_errors_total", gpu=3, xid=63) == 2
    stamp = pick(samples, "gpu_xid_last_timestamp_seconds", gpu=3, xid=63)
    assert stamp is not None
    assert began <= stamp - seconds <= time.time()
    assert busy_seconds(samples, 3) <= sum(states(samples, 3).values())


def test_one_block_that_spins_is_idleness_although_utilization_is_full(play: Play) -> None:
    samples = page(play("gpu: 0, fault: workload, workload: spinning"), charged(0, "idle_held"))
    assert states(samples, 0)["active"] == 0
    assert pick(samples, "gpu_utilization_ratio", gpu=0) == 1.0
    assert pick(samples, "gpu_sm_active_ratio", gpu=0) == pytest.approx(0.0075)


def test_where_there_is_no_profiling_the_same_block_is_work(play: Play) -> None:
    exporter = play("gpu: 0, fault: workload, workload: spinning", arguments=("--fake.model=a100",))
    times = states(page(exporter, charged(0, "active")), 0)
    assert times["idle_held"] == times["idle_free"] == 0


@pytest.mark.parametrize(
    ("workload", "instances", "state"),
    [("inference", 3, "active"), ("held", 2, "idle_held"), ("training", 0, "idle_free")],
)
def test_the_time_of_a_partitioned_gpu_is_told_by_its_mig_devices(
    play: Play, workload: str, instances: int, state: str
) -> None:
    mig = f"gpu: 0, fault: mig, instances: {instances}"
    exporter = play(mig, f"gpu: 0, fault: workload, workload: {workload}")
    samples = page(exporter, charged(0, state))
    assert states(samples, 0)["unknown"] == 0
    told = [labels for name, labels in samples if name == "gpu_mig_info" and dict(labels)["gpu"] == "0"]
    assert len(told) == instances
    assert pick(samples, "gpu_utilization_ratio", gpu=0) is None
