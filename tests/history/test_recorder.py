"""What becomes of documents: minutes, sums that are right, gaps that stay gaps."""

from __future__ import annotations

import itertools
import math
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tools.lab.wait import wait_for

from gpu_exporter.history import METRICS, Reader, Recorder, Usage, usage
from gpu_exporter.model import Owner
from history_story import GIB, START, Clock, Machine, record, recorder

ALICE, BOB = ("user", "alice", ""), ("pod", "train-0", "ml")


def told(path: Path, start: float = START - 86400, end: float = START + 10 * 86400) -> Usage:
    with closing(Reader(path)) as reader:
        return usage(reader, start=start, end=end)


def table(path: Path, text: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(text).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def test_a_minute_is_a_row_in_base_units(path: Path) -> None:
    machine = Machine()
    record(path, machine, 36, owners={ALICE: 1.0})
    rows = table(
        path,
        "SELECT time, node, gpu, uuid, model, active_seconds, idle_held_seconds, idle_free_seconds, unknown_seconds, "
        "down_seconds, utilization_ratio, utilization_ratio_max, memory_io_utilization_ratio, memory_used_bytes, "
        "memory_used_bytes_max, temperature_celsius, temperature_celsius_max, power_watts, power_watts_max, "
        "energy_joules, score_ratio, sm_clock_hertz, processes FROM gpu_minutes",
    )
    assert [row[0] for row in rows] == [START, START + 60, START + 120]
    score = 0.5 * 0.5 + 0.2 * 0.25 + 0.2 * 40 / 80 + 0.1 * 350 / 700
    for row in rows:
        assert row[1:] == (
            "gpu1", 0, "GPU-gpu1-0", "NVIDIA H100", 60, 0, 0, 0, 0, 0.5, 0.5, 0.25, 40 * GIB, 40 * GIB, 60, 60, 350.0,
            350.0, 21000.0, pytest.approx(score), 1_500_000_000, 1,
        )  # fmt: skip
    assert table(path, "SELECT DISTINCT owner_kind, owner, namespace, active_seconds FROM gpu_minute_owners") == [
        (*ALICE, 60)
    ]


def test_means_and_maxima(path: Path) -> None:
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    made.add("gpu1", machine.step(0), machine.at)
    for number in range(12):
        high = number == 5
        life = {
            "utilization": float(high), "memory": (70 if high else 10) * GIB, "watts": 600.0 if high else 100.0,
            "celsius": 80.0 if high else 40.0,
        }  # fmt: skip
        made.add("gpu1", machine.step(**life), machine.at)
    made.close()
    (row,) = table(
        path,
        "SELECT utilization_ratio, utilization_ratio_max, memory_used_bytes, memory_used_bytes_max, "
        "temperature_celsius, temperature_celsius_max, power_watts, power_watts_max FROM gpu_minutes",
    )
    assert row == (
        pytest.approx(1 / 12, abs=0.005), 1.0, pytest.approx(15 * GIB, abs=2**20), 70 * GIB, 43, 80,
        pytest.approx(1700 / 12, abs=0.06), pytest.approx(600, abs=1),
    )  # fmt: skip


def test_rounding_adds_nothing_up(path: Path) -> None:
    """Of every minute the GPU was busy for 0.3 %, and the samples fall anywhere: the sums are right all the same."""
    machine, dice = Machine(), random.Random(1)  # noqa: S311 - the same at every run
    machine.step(0)
    clock = Clock()
    made = recorder(path, clock)
    made.add("gpu1", machine.document(), machine.at)
    for _ in range(3000):
        owners = {ALICE: 0.7, BOB: 0.3}
        made.add("gpu1", machine.step(dice.uniform(3, 7), utilization=0.003, watts=71.23, owners=owners), machine.at)
        if machine.at > clock.now + 600:
            clock.now = machine.at
            made.flush()
    made.close()
    (gpu,) = told(path).gpus
    seconds = machine.at - START
    assert gpu.states["active"] == pytest.approx(seconds, abs=1.5)
    assert gpu.joules == pytest.approx(71.23 * seconds, rel=1e-3)
    held = {hold.owner.name: sum(hold.states.values()) for hold in told(path).holds}
    assert held == {"alice": pytest.approx(0.7 * seconds, abs=2), "train-0": pytest.approx(0.3 * seconds, abs=2)}
    busy = sum(share / 100 * seen for share, seen in table(path, "SELECT utilization_pct, active_s FROM gpu_minute"))
    assert busy == pytest.approx(0.003 * seconds, abs=1)


def test_owners_that_share_and_that_follow_each_other(path: Path) -> None:
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    made.add("gpu1", machine.document(), machine.at)
    for owners, state in (
        ({ALICE: 1.0}, "active"), ({ALICE: 0.75, BOB: 0.25}, "active"), ({BOB: 1.0}, "idle_held"), ({}, "idle_free"),
        ({BOB: 1.0}, "unknown"),
    ):  # fmt: skip
        for _ in range(18):  # a minute and a half: each change falls into the middle of one
            made.add("gpu1", machine.step(owners=owners, state=state), machine.at)
            clock.now = machine.at
            made.flush()
    made.close()
    sums = {hold.owner: hold.states for hold in told(path).holds}
    assert sums[Owner(*ALICE)] == pytest.approx({"active": 90 + 67.5, "idle_held": 0, "unknown": 0}, abs=1.5)
    assert sums[Owner(*BOB)] == pytest.approx({"active": 22.5, "idle_held": 90, "unknown": 90}, abs=1.5)
    (gpu,) = told(path).gpus
    assert gpu.states == pytest.approx(
        {"active": 180, "idle_held": 90, "idle_free": 90, "unknown": 90, "down": 0}, abs=1.5
    )


def test_the_score_with_other_weights(path: Path) -> None:
    machine = Machine()
    record(
        path, machine, 120, owners={ALICE: 0.5, BOB: 0.5}, utilization=0.8, memory_io=0.3, watts=280.0, memory=20 * GIB
    )
    found = told(path)
    weights = {"utilization": 0.5, "memory_io": 0.2, "memory_used": 0.2, "power": 0.1}
    for total in (*found.gpus, *found.holds):
        assert total.weighted(weights) == pytest.approx(total.score / total.scored, abs=0.006)
        assert total.weighted({"utilization": 1.0}) == pytest.approx(0.8, abs=0.006)
        assert total.weighted({"memory_used": 0.5, "power": 0.5}) == pytest.approx((0.25 + 0.4) / 2, abs=0.006)


def test_an_exporter_that_begins_anew_loses_and_invents_nothing(path: Path) -> None:
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    made.add("gpu1", machine.document(), machine.at)
    for number in range(60):
        if number in {20, 41}:
            machine.restart()
        made.add("gpu1", machine.step(owners={ALICE: 1.0}), machine.at)
    made.close()
    (gpu,), (hold,) = told(path).gpus, told(path).holds
    assert gpu.states["active"] == hold.states["active"] == 300
    assert gpu.joules == pytest.approx(350 * 300)


@pytest.mark.parametrize("silent", [130.0, 3600.0, 40 * 86400.0])
def test_a_gap_is_a_gap(path: Path, silent: float) -> None:
    """The counters tell what happened meanwhile, but not when."""
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    for _ in range(25):
        made.add("gpu1", machine.step(), machine.at)
    machine.step(silent)
    made.add("gpu1", machine.document(), machine.at)
    for _ in range(24):
        made.add("gpu1", machine.step(), machine.at)
    made.close()
    (gpu,) = told(path, end=START + 50 * 86400).gpus
    assert gpu.states["active"] == 240
    assert gpu.joules == pytest.approx(350 * 240)


def test_a_missed_answer_is_no_gap(path: Path) -> None:
    machine = Machine()
    record(path, machine, 3, seconds=45)
    (gpu,) = told(path).gpus
    assert gpu.states["active"] == 135


def test_the_same_sample_counts_once(path: Path) -> None:
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    made.add("gpu1", machine.document(), machine.at)
    for _ in range(24):
        document = machine.step()
        for late in (0.0, 1.0, 4.0):
            document["exporter"]["sample_age_seconds"] = late
            made.add("gpu1", document, machine.at + late)
    made.close()
    (gpu,) = told(path).gpus
    assert gpu.states["active"] == 120


def test_the_same_answer_again_is_no_gap(path: Path) -> None:
    """The exporter reads its GPUs every four minutes, and says meanwhile that nothing is new."""
    machine, clock = Machine(interval=240.0), Clock()
    made = recorder(path, clock)
    assert not made.add_unchanged("gpu1", machine.at), "there is nothing that could be the same"
    made.add("gpu1", machine.document(), machine.at)
    for _ in range(5):
        for second in range(5, 240, 5):
            assert made.add_unchanged("gpu1", machine.at + second)
            clock.now = machine.at + second
            made.flush()
        made.add("gpu1", machine.step(240.0), machine.at)
    made.close()
    (gpu,) = told(path).gpus
    assert gpu.states["active"] == 1200
    assert table(path, "SELECT time, seconds, cpu_utilization_ratio FROM host_minutes ORDER BY time") == [
        (START + 60 * minute, 60, 0.25) for minute in range(20)
    ]


def test_an_exporter_that_says_the_same_for_long_is_not_forgotten(path: Path) -> None:
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    made.add("gpu1", machine.document(), machine.at)
    while clock.now < START + 1800:
        clock.now += 5
        made.add_unchanged("gpu1", clock.now)
        made.flush()
    made.close()
    assert table(path, "SELECT count(*), sum(seconds) FROM host_minutes") == [(30, 1800)]


def test_samples_are_put_where_they_were_taken(path: Path) -> None:
    """The node's clock is an hour ahead, and its samples are 8 s old when they come: the minute is right."""
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    for _ in range(25):
        document = machine.step(0) if machine.at == START else machine.document()
        document["exporter"] |= {"sample_timestamp_seconds": machine.at + 3600, "sample_age_seconds": 8.0}
        made.add("gpu1", document, machine.at + 8)
        machine.step()
    made.close()
    assert table(path, "SELECT time, active_seconds FROM gpu_minutes") == [(START, 60), (START + 60, 60)]


def test_a_clock_that_goes_back_counts_nothing_twice(path: Path) -> None:
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    made.add("gpu1", machine.document(), machine.at)
    for back in (0.0, 300.0):
        machine.at -= back
        for _ in range(120):
            made.add("gpu1", machine.step(owners={ALICE: 1.0}), machine.at)
            clock.now = machine.at
            made.flush()
    made.close()
    (gpu,) = told(path).gpus
    rows = table(path, "SELECT active_s FROM gpu_minute")
    assert all(0 < seconds <= 60 for (seconds,) in rows)
    assert gpu.states["active"] == pytest.approx(900, abs=61), "600 s, and the 300 s after those that had been there"


def test_a_minute_in_two_parts_is_one_row(path: Path) -> None:
    """The recorder was stopped in the middle of a minute, and started anew in the same; the GPU got another holder."""
    machine = Machine()
    record(path, machine, 4, owners={ALICE: 1.0}, utilization=1.0, celsius=40.0)
    machine.step()
    record(path, machine, 7, owners={BOB: 1.0}, utilization=0.0, celsius=80.0)
    ((active, utilization, high, celsius),) = table(
        path, "SELECT active_seconds, utilization_ratio, utilization_ratio_max, temperature_celsius FROM gpu_minutes"
    )
    assert (active, high) == (55, 1.0)
    assert utilization == pytest.approx(20 / 55, abs=0.01)
    assert celsius == pytest.approx((20 * 40 + 35 * 80) / 55, abs=1)
    assert {hold.owner: hold.states["active"] for hold in told(path).holds} == {Owner(*ALICE): 20, Owner(*BOB): 35}


def test_a_gpu_that_is_down_is_neither_idle_nor_gone(path: Path) -> None:
    machine = Machine()
    record(path, machine, 24, state="down")
    (gpu,) = told(path).gpus
    assert gpu.states == {"active": 0, "idle_held": 0, "idle_free": 0, "unknown": 0, "down": 120}
    assert (gpu.joules, gpu.scored) == (None, 0)
    with closing(Reader(path)) as reader:
        series = reader.series(gpu.gpu, "gpu_down_ratio", start=START, end=START + 120, step=60)
        assert series.means == [1.0, 1.0]
        assert reader.series(gpu.gpu, "gpu_utilization_ratio", start=START, end=START + 120, step=60).means == [
            None,
            None,
        ]


def test_without_counters_gauges_stand_in_and_without_those_nothing_does(path: Path) -> None:
    machine, clock = Machine(gpus=2), Clock()
    made = recorder(path, clock)
    for _ in range(25):
        document = machine.step(utilization=0.4, watts=200.0)
        for gpu in document["gpus"]:
            for name in ("gpu_busy_seconds_total", "gpu_memory_io_busy_seconds_total", "gpu_energy_joules_total"):
                del gpu["metrics"][name]
        second = document["gpus"][1]["metrics"]
        for name in ("gpu_utilization_ratio", "gpu_power_watts", "gpu_memory_used_bytes", "gpu_temperature_celsius"):
            del second[name]
        made.add("gpu1", document, machine.at)
    made.close()
    first, second = told(path).gpus
    assert first.joules == pytest.approx(200 * 120)
    assert first.scored == 120
    assert (second.joules, second.scored, second.states["active"]) == (None, 0, 120)
    assert second.weighted({"utilization": 1.0}) is None
    assert table(path, "SELECT utilization_ratio, memory_used_bytes FROM gpu_minutes WHERE gpu = 1 LIMIT 1") == [
        (None, None)
    ]


def test_a_devices_counter_that_jumps_is_not_believed(path: Path) -> None:
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    made.add("gpu1", machine.document(), machine.at)
    for number in range(24):
        machine.gpus[0].joules = {7: 1e12, 15: 0.0}.get(number, machine.gpus[0].joules)
        made.add("gpu1", machine.step(), machine.at)
    made.close()
    (gpu,) = told(path).gpus
    assert gpu.joules == pytest.approx(350 * 120, rel=0.01)


def test_a_gpu_is_the_same_by_uuid_wherever_it_is_and_another_where_it_was_replaced(path: Path) -> None:
    machine = Machine(gpus=2)
    record(path, machine, 13)
    machine.gpus.reverse()
    record(path, machine, 13)
    machine.gpus[0].uuid = "GPU-new"
    record(path, machine, 13)
    with closing(Reader(path)) as reader:
        assert sorted((gpu.uuid, gpu.number) for gpu in reader.gpus()) == [
            ("GPU-gpu1-0", 1), ("GPU-gpu1-1", 0), ("GPU-new", 0),
        ]  # fmt: skip


def test_a_gpu_without_uuid_is_known_by_its_index(path: Path) -> None:
    machine = Machine(gpus=2)
    for gpu in machine.gpus:
        gpu.uuid = ""
    for _ in range(2):
        record(path, machine, 13)
    assert [(gpu.gpu.uuid, gpu.gpu.number) for gpu in told(path).gpus] == [("", 0), ("", 1)]


def test_errors_are_events(path: Path) -> None:
    machine, clock = Machine(), Clock()
    gpu = machine.gpus[0]
    made = recorder(path, clock)
    ecc = {"lifetime": "volatile", "location": "sram", "severity": "uncorrected"}
    gpu.rare["gpu_ecc_errors_total"] = [{"labels": ecc, "value": 4}]
    made.add("gpu1", machine.step(), machine.at)
    gpu.rare["gpu_xid_errors_total"] = [{"labels": {"xid": "79"}, "value": 2}]
    gpu.rare["gpu_ecc_errors_total"] = [{"labels": ecc, "value": 5}]
    for _ in range(3):
        made.add("gpu1", machine.step(), machine.at)
    made.close()
    assert table(path, "SELECT metric, labels, count FROM event ORDER BY metric") == [
        ("gpu_ecc_errors_total", "lifetime=volatile,location=sram,severity=uncorrected", 1),
        ("gpu_xid_errors_total", "xid=79", 2),
    ]


def test_processes_are_runs(path: Path) -> None:
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    known = {"gpu": 0, "uuid": "GPU-gpu1-0", "type": "compute", "pid": 7, "process": "python3", "user": "alice",
             "slurm_job": "4711"}  # fmt: skip
    for number in range(60):
        machine.processes = [{**known, "memory_used_bytes": number * GIB}] if 10 <= number < 40 else []
        made.add("gpu1", machine.step(), machine.at)
        clock.now = machine.at
        made.flush()
    made.close()
    assert table(path, "SELECT pid, process, user, labels, first_seen, last_seen, memory_max_bytes FROM process") == [
        (7, "python3", "alice", "slurm_job=4711", START + 55, START + 200, 39 * GIB)
    ]


def test_a_process_goes_on_where_the_recorder_begins_anew(path: Path) -> None:
    machine = Machine()
    machine.processes = [{"gpu": 0, "type": "compute", "pid": 7, "user": "alice", "memory_used_bytes": 5}]
    for _ in range(3):
        record(path, machine, 13)
        machine.step()
    ((pid, first, last),) = table(path, "SELECT pid, first_seen, last_seen FROM process")
    assert (pid, first, last) == (7, START, machine.at - 5)


def test_machines_and_disks(path: Path) -> None:
    machine = Machine()
    machine.host["disks"] = [
        {"mount": "/", "device": "/dev/sda1", "filesystem": "ext4", "total_bytes": 100 * GIB, "used_bytes": 40 * GIB}
    ]
    record(path, machine, 24)
    rows = table(path, "SELECT node, seconds, cpu_utilization_ratio, memory_used_bytes, load FROM host_minutes")
    assert rows == [("gpu1", 60, 0.25, 8 * GIB, 1.5)] * 2
    assert table(path, "SELECT total_mib, used_mib FROM disk_hour") == [(102400, 40960)]
    with closing(Reader(path)) as reader:
        (node,) = reader.nodes()
        assert (node.alias, node.host, node.memory_total_bytes) == ("gpu1", "gpu1.lab", 64 * GIB)
        load = reader.host_series(node, "host_load", start=START, end=START + 180, step=60)
        assert load.means == [1.5, 1.5, None]


# --- what nodes may send ----------------------------------------------------------------------------------------------


def _spoilt(machine: Machine) -> Iterator[Any]:
    value: Any
    for value in (None, [], "x", 7, {}, {"schema": 2}, {"schema": "1"}, {"schema": True}):
        yield value
    whole = machine.document()
    for key in whole:
        for value in (None, [], {}, "text", 7, math.nan, [None], [[]], {"a": [1]}, [{"gpu": "x"}]):
            yield {**whole, key: value, "schema": 1}
    for name in whole["gpus"][0]["metrics"]:
        for value in (None, "x", math.nan, math.inf, -1, 1e300, 10**400, True, [], [1], [{"labels": 1, "value": 2}],
                      [{"labels": {"state": 1, "owner": None}, "value": 2}], [{"labels": {}}], {"a": 1}):  # fmt: skip
            spoilt = machine.document()
            spoilt["gpus"][0]["metrics"][name] = value
            yield spoilt
    for key, value in (("uuid", "\ud800"), ("uuid", "x" * 10**6), ("uuid", 7), ("model", "\0'\"; DROP TABLE gpu"),
                       ("gpu", -1), ("gpu", 2**70), ("gpu", True)):  # fmt: skip
        spoilt = machine.document()
        spoilt["gpus"][0][key] = value
        yield spoilt
    for key, value in (
        ("pid", "x"),
        ("pid", 2**70),
        ("gpu", []),
        ("gpu", 9),
        ("user", "\ud800\0"),
        ("memory_used_bytes", 2**80),
    ):
        yield {**whole, "processes": [{"gpu": 0, "pid": 1, "type": "compute", key: value}]}
    for key in ("sample_timestamp_seconds", "sample_age_seconds", "interval_seconds"):
        for value in (None, "x", -1, 1e300, math.nan):
            yield {**whole, "exporter": {**whole["exporter"], key: value}}


def test_a_node_that_sends_nonsense_spoils_nothing(path: Path) -> None:
    bad, good, clock = Machine("bad"), Machine("good"), Clock()
    made = recorder(path, clock)
    bad.step()
    for document in _spoilt(bad):
        made.add("bad", document, bad.at)
        bad.step()
        good.step()
        made.add("good", good.document(), good.at)
        clock.now = good.at
        made.flush()
        assert made.trouble is None, document
    made.close()
    seconds = {total.gpu.node: total.seconds for total in told(path).gpus}
    assert seconds["good"] == good.at - START - 5
    for metric in METRICS:
        with closing(Reader(path)) as reader:
            for gpu in reader.gpus():
                means = reader.series(gpu, metric, start=START, end=good.at, step=60).means
                assert all(value is None or math.isfinite(value) for value in means)


def test_nothing_is_kept_of_a_node_that_is_gone(path: Path) -> None:
    clock = Clock()
    made = recorder(path, clock)
    for number in range(50):
        made.add(f"node{number}", Machine(f"node{number}").document(), START)
    clock.now += 3600
    made.flush()
    assert not made._minutes._nodes
    made.close()


def test_the_recorder_writes_every_minute_by_itself(path: Path) -> None:
    # Ten seconds after a minute's end it is written: the thread asks how long to wait, and then what time it is.
    moments = itertools.cycle((START + 69.99, START + 70))
    machine, made = Machine(), Recorder(path, clock=lambda: next(moments))
    for _ in range(13):
        made.add("gpu1", machine.step(), machine.at)
    made.start()
    wait_for(lambda: table(path, "SELECT count(*) FROM gpu_minute") == [(1,)])
    made.close()
    assert table(path, "SELECT count(*) FROM gpu_minute") == [(2,)], "and what has begun at the end"
    assert not [thread for thread in threading.enumerate() if thread.name == "history"]


def test_what_cannot_be_written_keeps_nothing_from_being_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine, clock = Machine(), Clock()
    made = recorder(path, clock)
    with monkeypatch.context() as broken:
        broken.setattr("gpu_exporter.history.store.gpu_row", lambda *_: 1 // 0)
        for _ in range(15):
            made.add("gpu1", machine.step(), machine.at)
        clock.now = machine.at
        made.flush()
    assert "this is a bug in gpu-exporter" in caplog.text
    for _ in range(12):
        made.add("gpu1", machine.step(), machine.at)
    made.close()
    assert table(path, "SELECT sum(active_s) FROM gpu_minute") == [(75,)]
