"""The past: charts, results and their log, from a history file that the real recorder wrote."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tools.lab.exporter import Exporter, run
from tools.lab.hub import Hub, write_nodes
from tools.lab.web import ask

from gpu_exporter.catalog.simulated import UUID_END
from gpu_exporter.history import METRICS, Reader
from gpu_exporter.history.document import read_document
from gpu_exporter.hub.archive import Total, Totals
from gpu_exporter.hub.document import kept, whole
from gpu_exporter.hub.results import analyse, grade, results_document
from gpu_exporter.hub.settings import Thresholds
from gpu_exporter.model import Device, Hold, Owner, Reading
from machines import Told, exporter, nobody
from past import Gpu, write
from snapshots import FULL

LAB = {
    "gpu-a": [
        Gpu(0, "active", "alice", busy=0.9),
        Gpu(1, "idle_held", "bob", busy=0.02),
        Gpu(2, "idle_free"),
        Gpu(3, "active", "carol", busy=0.15),
    ],
    "gpu-b": [Gpu(0, "idle_held", "bob", busy=0.0, kind="user")],
}
HOURS = 2.0


def now_reading(gpu: Gpu) -> Reading:
    holds = (Hold(Owner(gpu.kind, gpu.owner, ""), 2.0**30),) if gpu.owner else ()
    state: Any = gpu.state if gpu.owner else "idle_free"
    return replace(FULL, device=Device(gpu.index, f"GPU-{gpu.index}", "NVIDIA H100"), state=state, holds=holds)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("past")
    history = folder / "history.db"
    write(history, LAB, start=time.time() // 60 * 60 - HOURS * 3600 - 60, hours=HOURS)
    with ExitStack() as stack:
        machines = {
            alias: stack.enter_context(exporter(Told(*map(now_reading, gpus)))).port for alias, gpus in LAB.items()
        }
        (folder / "hub.yml").write_text("interval: 1s\nwindow: 24h\nprice: 2\ncurrency: EUR\n")
        made = stack.enter_context(
            Hub(folder, write_nodes(folder / "nodes.json", machines), f"--history.path={history}")
        )
        made.wait_states(**dict.fromkeys(LAB, "online"))
        yield made


def test_a_curve(hub: Hub) -> None:
    told = hub.json("/api/v1/history?node=gpu-a&gpu=0&metric=gpu_utilization_ratio&step=10m")
    assert (told["unit"], told["step_seconds"], told["uuid"]) == ("ratio", 600.0, "GPU-0")
    assert told["simulated"] is False
    known = [value for value in told["means"] if value is not None]
    assert known
    assert all(value == pytest.approx(0.9, abs=0.02) for value in known)
    assert hub.json("/api/v1/history?gpu=GPU-3&metric=gpu_temperature_celsius")["means"].count(43.0) > 10
    long = hub.json("/api/v1/history?gpu=GPU-0&node=gpu-b&metric=gpu_power_watts&from=2020-01-01&to=2020-01-02")
    assert set(long["means"]) == {None}


def test_pages_say_each_of_several_only(hub: Hub) -> None:
    free = hub.get("/free").text
    assert "1 GPU is free" in free
    assert re.search(r"80 GiB · free for (at least )?\d", free)
    held = [line for line in free.splitlines() if "· idle" in line]
    assert len(held) == 2, "one of gpu-a, one of gpu-b"
    assert all(re.search(r"· idle for (at least )?\d", line) for line in held)
    # bob has one on each machine: only the oldest has idled for so long.
    people = hub.get("/people").text
    assert re.search(r'class="state idle">2</span><small>the longest for (at least )?\d', people)


def test_results_of_simulated_gpus_say_so() -> None:
    def asked(*uuids: str) -> dict[str, Any]:
        totals = tuple(
            Total("a", n, uuid, "H100", None, {"idle_free": 60.0}, None, 0.0) for n, uuid in enumerate(uuids)
        )
        made = analyse(Totals(0.0, 60.0, 60.0, totals), Thresholds(), made=60.0, source="a file")
        return results_document(made, made.gpus)

    mixed = asked("GPU-1", f"GPU-{UUID_END}")
    assert mixed["simulated"] is True
    assert [one.get("simulated", False) for one in sorted(mixed["results"], key=lambda one: one["gpu"])] == [
        False,
        True,
    ]
    assert asked("GPU-1")["simulated"] is False


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ("", 400, "gpu: is missing; write a UUID, or an index with node="),
        ("gpu=GPU-9", 404, "there is no such GPU"),
        ("gpu=0", 400, "gpu: '0' is an index; write node= as well, or a UUID"),
        ("gpu=9&node=gpu-a", 404, "there is no such GPU"),
        ("gpu=GPU-0&node=gpu-z", 404, "there is no such GPU"),
        ("gpu=GPU-0&metric=gpu_colour", 400, "metric: 'gpu_colour' is not kept; write one of gpu_utilization_ratio"),
        ("gpu=GPU-0&metric=" + quote("gpu_power_watts; DROP"), 400, "metric: 'gpu_power_watts; DROP' is not kept"),
        ("gpu=GPU-0&from=yesterday", 400, "from: 'yesterday' is not a time"),
        ("gpu=GPU-0&to=1e9", 400, "to: '1e9' is not a time; write 2026-11-01 or 2026-11-01T08:00:00Z, or Unix seconds"),
        ("gpu=GPU-0&to=NaN", 400, "to: 'NaN' is not a time"),
        ("gpu=GPU-0&from=0001-01-01", 400, "from: '0001-01-01' is out of range; write a time from 2000 to 2099"),
        ("gpu=GPU-0&to=9999-12-31", 400, "to: '9999-12-31' is out of range"),
        ("gpu=GPU-0&from=2026-01-02&to=2026-01-01", 400, "the window ends before it begins"),
        ("gpu=GPU-0&from=2026-01-01&to=2026-01-01", 400, "the window ends before it begins"),
        ("gpu=GPU-0&step=1s", 400, "step: '1s' is out of range; write 1m to"),
        ("gpu=GPU-0&step=-60", 400, "step: '-60' is not a duration"),
        ("gpu=GPU-0&from=2001-01-01&to=2026-01-01&step=1m", 400, "points are too many; write 1196m or longer"),
        ("x=" + "y" * 20_000, 414, "the query is longer than 16384 bytes; ask for less at once"),
    ],
)
def test_curves_that_cannot_be_had(hub: Hub, query: str, status: int, error: str) -> None:
    answered = hub.get(f"/api/v1/history?{query}")
    told = json.loads(answered.text)["error"]
    assert (answered.status, answered.headers["content-type"], error in told) == (status, "application/json", True), (
        told
    )
    assert "\n" not in told


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-01-01T08:00:00%2B01:00&to=2026-01-02",
        "from=2026-01-01T08:00:00+01:00&to=2026-01-02",  # as people write it
        "from=1767250000.25&to=1767300000",
        "from=2026-01-01&to=2026-01-02&step=900",
        "from=2026-01-01&to=2026-01-02&step=12h",
        "from=2000-01-01&to=2099-01-01",
    ],
)
def test_times_and_steps_as_they_are_written(hub: Hub, query: str) -> None:
    told = hub.json(f"/api/v1/history?gpu=GPU-0&node=gpu-a&{query}")
    assert 0 < len(told["means"]) <= 361


def test_every_metric_that_is_kept_can_be_asked_for(hub: Hub) -> None:
    for metric, column in METRICS.items():
        told = hub.json(f"/api/v1/history?gpu=GPU-0&node=gpu-a&metric={metric}&step=1h")
        assert told["unit"] == column.unit


def test_a_gpu_that_is_gone_has_its_past(tmp_path: Path) -> None:
    """Its machine is off since before this hub began: what it did until then can be asked for."""
    history = tmp_path / "history.db"
    write(history, {"gone": [Gpu(0, "active", "alice", busy=0.9)]}, start=time.time() // 60 * 60 - 1800, hours=0.4)
    nodes = write_nodes(tmp_path / "nodes.json", {"gone": nobody()})
    with Hub(tmp_path, nodes, f"--history.path={history}") as hub:
        hub.wait_states(gone="offline")
        assert hub.json("/api/v1/gpus")["gpus"] == []
        for asked in ("gpu=0&node=gone", "gpu=GPU-0"):
            told = hub.json(f"/api/v1/history?{asked}")
            assert (told["node"], told["uuid"]) == ("gone", "GPU-0")
            assert any(value is not None for value in told["means"])


def test_a_gpu_of_which_nothing_is_kept_yet_is_told(tmp_path: Path) -> None:
    with exporter(Told()) as server:
        nodes = write_nodes(tmp_path / "nodes.json", {"new": server.port})
        with Hub(tmp_path, nodes, f"--history.path={tmp_path / 'history.db'}") as hub:
            hub.wait_states(new="online")
            (gpu,) = hub.json("/api/v1/gpus")["gpus"]
            answered = hub.get(f"/api/v1/history?gpu={gpu['gpu']}&node=new")
            assert (answered.status, json.loads(answered.text)) == (
                404, {"error": "the history has nothing of this GPU yet; a minute is written 10 s after its end"},
            )  # fmt: skip
            assert "the history has nothing of this GPU yet" in hub.get(f"/machines/new/gpus/{gpu['gpu']}").text


def test_results(hub: Hub) -> None:
    told = hub.json("/api/v1/results")
    rows = {(row["node"], row["gpu"], row.get("owner")): row for row in told["results"]}
    assert {key[2] for key in rows} == {"alice", "bob", "carol", None}
    alice, bob = rows["gpu-a", 0, "alice"], rows["gpu-a", 1, "bob"]
    assert (alice["status"], bob["status"], rows["gpu-a", 3, "carol"]["status"]) == ("high", "idle", "low")
    assert alice["active_hours"] == pytest.approx(HOURS, rel=0.05)
    assert bob["idle_hours"] == pytest.approx(HOURS, rel=0.05)
    assert bob["energy_kilowatt_hours"] == pytest.approx(0.1 * HOURS, rel=0.05)
    assert rows["gpu-a", 2, None]["free_hours"] == pytest.approx(HOURS, rel=0.05)
    assert told["covered_seconds"] == pytest.approx(HOURS * 3600, rel=0.05)


def test_low_results(hub: Hub) -> None:
    low = hub.json("/api/v1/results/low")["results"]
    assert {(row["node"], row["gpu"], row["owner"]) for row in low} == {
        ("gpu-a", 1, "bob"), ("gpu-b", 0, "bob"), ("gpu-a", 3, "carol"),
    }  # fmt: skip
    hours = [row["idle_hours"] for row in low]
    assert hours == sorted(hours, reverse=True)


def test_statistics(hub: Hub) -> None:
    stats = hub.json("/api/v1/results/stats")
    assert (stats["gpus"], stats["statuses"]) == (5, {"idle": 2, "low": 1, "normal": 0, "high": 1, "unknown": 0})
    assert stats["idle_hours"] == pytest.approx(2 * HOURS, rel=0.05)
    assert stats["idle_cost"] == pytest.approx(4 * HOURS, rel=0.05)
    assert stats["currency"] == "EUR"


def test_the_same_as_the_report_on_the_same_file(hub: Hub) -> None:
    stats = hub.json("/api/v1/results/stats?window=2h")
    assert stats["score"]["max"] == pytest.approx(0.9, abs=0.02)
    assert hub.get("/api/v1/results/stats?window=1s").status == 400


def test_weights_of_one_s_own(hub: Hub) -> None:
    file = hub.config.read_text()
    usual = {row["uuid"]: row for row in hub.json("/api/v1/results")["results"] if row.get("owner") == "carol"}
    assert usual["GPU-3"]["status"] == "low"
    hub.config.write_text(f"{file}weights: {{utilization: 0, memory_io: 0, memory_used: 0, power: 1}}\n")

    def carol() -> float | None:
        rows = hub.json("/api/v1/results")["results"]
        found = next(row["score"] for row in rows if row.get("owner") == "carol")
        return found if found == pytest.approx(100 / 700, abs=0.01) else None

    assert hub.wait(carol)
    hub.config.write_text(file)
    hub.wait(lambda: hub.json("/api/v1/results/low")["results"][-1]["score"] == pytest.approx(0.15, abs=0.01))


def test_worked_out_when_asked(hub: Hub) -> None:
    before = len(hub.json("/api/v1/results/log")["log"])
    answered = ask(hub.port, "/api/v1/analyze", method="POST", body='{"window": "7d"}')
    assert (answered.status, json.loads(answered.text)["gpus"]) == (200, 5)
    log = hub.json("/api/v1/results/log")["log"]
    assert len(log) == before + 1
    assert log[0] == {**log[0], "window_seconds": 604800.0, "gpus": 5, "low": 3}
    assert ask(hub.port, "/api/v1/analyze", method="POST").status == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "error"),
    [
        ('{"window": "7"}', {}, 400, "window: '7' is not a duration"),
        ('{"windows": "7d"}', {}, 400, "windows: unknown key; write window"),
        ("[]", {}, 400, "the body is no object"),
        ("{", {}, 400, "the body is not JSON"),
        ("x" * 5000, {}, 413, "the body is too large"),
        ("{}", {"Sec-Fetch-Site": "cross-site"}, 403, "another site may not ask for that"),
    ],
)
def test_what_cannot_be_worked_out(hub: Hub, body: str, headers: dict[str, str], status: int, error: str) -> None:
    answered = ask(hub.port, "/api/v1/analyze", method="POST", body=body, headers=headers)
    assert (answered.status, error in json.loads(answered.text)["error"]) == (status, True), answered


def test_control_is_off_without_a_url(hub: Hub) -> None:
    assert hub.json("/api/v1/control") == {"enabled": False, "dry_run": True, "deliveries": []}


def test_the_page_of_waste(hub: Hub) -> None:
    text = hub.get("/waste").text
    assert text.index(">bob<") < text.index(">carol<") < text.index(">alice<")
    assert "EUR" in text
    assert "There is data for" in text
    assert hub.get("/waste?window=24h").status == 200
    assert hub.get("/waste?window=x").status == 400


def test_the_page_of_a_gpu_has_its_curves(hub: Hub) -> None:
    text = hub.get("/machines/gpu-a/gpus/0?range=day").text
    assert text.count('<path d="M') == 4
    assert "90 %, highest 90 %" in text
    assert hub.get("/machines/gpu-a/gpus/0?range=century").status == 400


def test_a_second_hub_on_one_file_is_refused(hub: Hub) -> None:
    history = hub.config.parent / "history.db"
    nodes = hub.config.parent / "nodes.json"
    done = run("hub", f"--nodes.file={nodes}", f"--history.path={history}", "--web.listen-address=127.0.0.1:0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert str(history) in done.stderr


def test_what_machines_say_is_kept(tmp_path: Path) -> None:
    history = tmp_path / "history.db"
    with Exporter(tmp_path, "--source=fake", "--fake.gpus=2", "--collection.interval=1s") as machine:
        nodes = write_nodes(tmp_path / "nodes.json", {"gpu-a": machine.port})
        with Hub(tmp_path, nodes, f"--history.path={history}") as hub:
            hub.wait_states(**{"gpu-a": "online"})
            first = hub.nodes()["gpu-a"]["last_seen_timestamp_seconds"]
            hub.wait(lambda: hub.nodes()["gpu-a"]["last_seen_timestamp_seconds"] > first + 3)
            assert hub.json("/api/v1/results/log") is not None
            hub.stop()  # the minute that has begun is written as well
    assert sorted(path.name for path in tmp_path.glob("history.db*")) == ["history.db", "history.db-lock"]
    shutil.copy(history, tmp_path / "backup.db")
    with closing(sqlite3.connect(tmp_path / "backup.db")) as file:
        assert file.execute("SELECT alias FROM node").fetchall() == [("gpu-a",)]
        assert file.execute("SELECT count(DISTINCT gpu) FROM gpu_minutes").fetchone() == (2,)


def test_a_backup_while_the_hub_runs_is_whole(hub: Hub, tmp_path: Path) -> None:
    """What docs/HISTORY.md does with sqlite3's .backup, by the same function of SQLite."""
    backup = tmp_path / "backup.db"
    with (
        closing(sqlite3.connect(hub.config.parent / "history.db")) as file,
        closing(sqlite3.connect(backup)) as copy,
    ):
        file.backup(copy)
        (rows,) = file.execute("SELECT count(*) FROM gpu_minute").fetchone()
    with closing(Reader(backup)) as reader:
        assert reader.rows("PRAGMA integrity_check") == [("ok",)]
        assert reader.rows("SELECT count(*) FROM gpu_minute")[0][0] >= rows > 0


def test_a_hub_that_cannot_start_leaves_the_file_whole(tmp_path: Path) -> None:
    history = tmp_path / "history.db"
    write(history, LAB, start=time.time() // 60 * 60 - 3600, hours=0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"--web.listen-address=127.0.0.1:{taken.getsockname()[1]}"
        nodes = write_nodes(tmp_path / "nodes.json", {"gpu-a": nobody()})
        done = run("hub", f"--nodes.file={nodes}", f"--history.path={history}", address)
    assert "Address already in use" in done.stderr
    assert sorted(path.name for path in tmp_path.glob("history.db*")) == ["history.db", "history.db-lock"]


def test_what_was_worked_out_and_told_outlives_the_hub(tmp_path: Path) -> None:
    history = tmp_path / "history.db"
    start = time.time() // 60 * 60 - 3600
    write(history, LAB, start=start, hours=0.9)
    nodes = write_nodes(tmp_path / "nodes.json", {"gpu-a": nobody()})
    (tmp_path / "hub.yml").write_text("interval: 1s\ncontrol: {url: 'http://127.0.0.1:9/low'}\n")
    with Hub(tmp_path, nodes, f"--history.path={history}") as hub:
        assert ask(hub.port, "/api/v1/analyze", method="POST").status == 200
        told = hub.json("/api/v1/control")
        assert {one["payload"]["owner"] for one in told["deliveries"]} == {"bob", "carol"}
    with Hub(tmp_path, nodes, f"--history.path={history}") as hub:
        assert hub.json("/api/v1/control") == told
        assert len(hub.json("/api/v1/results/log")["log"]) == 1
        assert ask(hub.port, "/api/v1/analyze", method="POST").status == 200
        assert hub.json("/api/v1/control") == told, "within the cooldown nothing is told again"
        hub.wait_states(**{"gpu-a": "offline"})
        assert hub.nodes()["gpu-a"]["since_timestamp_seconds"] == pytest.approx(start + 0.9 * 3600, abs=60)
        assert "has not answered since this hub began" not in hub.get("/").text


def test_the_history_reads_the_same_of_what_the_hub_unpacks(tmp_path: Path) -> None:
    """The hub leaves out what a history does not keep: nothing else may be missing."""
    options = ("--fake.gpus=4", "--fake.model=h100", "--collection.interval=1s", "--collection.timeout=1s")
    with Exporter(tmp_path, "--source=fake", *options) as machine:
        body = machine.wait(lambda: ready(machine.get("/api/v1/snapshot").text)).encode()
    sample = read_document("x", whole(body))
    assert sample is not None
    assert sample == read_document("x", kept(body))
    again = [kept(body)["gpus"][gpu]["metrics"]["gpu_ecc_errors_total"] for gpu in (0, 1, 0)]
    assert again[0] == again[1]
    assert again[0] is again[1] is again[2], "what is the same on all GPUs is held once"
    assert all(gpu.states and gpu.energy and gpu.sm_clock and gpu.score is not None for gpu in sample.gpus)
    assert len(kept(body)["gpus"][0]["metrics"]) < len(whole(body)["gpus"][0]["metrics"]) / 2


def ready(text: str) -> str | None:
    """The snapshot, once every GPU has been counted for a while."""
    gpus = json.loads(text)["gpus"]
    counted = [gpu["metrics"].get("gpu_state_seconds_total", [{"value": 0}]) for gpu in gpus]
    return text if gpus and all(sum(one["value"] for one in states) > 0 for states in counted) else None


def test_where_nothing_is_kept_that_is_said(tmp_path: Path) -> None:
    with exporter(Told()) as server, Hub(tmp_path, write_nodes(tmp_path / "nodes.json", {"x": server.port})) as hub:
        hub.wait_states(x="online")
        answered = hub.get("/api/v1/results")
        assert answered.status == 404
        assert "--history.path FILE" in json.loads(answered.text)["error"]
        assert "--history.path FILE" in hub.get("/waste").text
        assert "--history.path FILE" in hub.get("/machines/x/gpus/3").text


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (None, "unknown"),
        (0.0, "idle"),
        (0.0999, "idle"),
        (0.1, "low"),
        (0.2, "normal"),
        (0.6999, "normal"),
        (0.7, "high"),
        (1.0, "high"),
    ],
)
def test_grades(score: float | None, expected: str) -> None:
    assert grade(score, Thresholds()) == expected
