"""gpu-exporter report over a history file: the truth, and what a Prometheus says of the same day."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from tools.lab.exporter import run
from tools.lab.prometheus import Prometheus

from gpu_exporter.report.history import Grid
from gpu_exporter.report.stored import StoredHistory
from history_story import START, Clock, Machine, recorder
from report_day import DAY, HOUR, LIMIT, SCRAPE, TOTAL, Day

CONFIGURATION = "global: {scrape_interval: 15s}\n"
WHOLE = ("a:9435", "e:9435")  # machines that were asked all day long


def documents(made: Day, instances: tuple[str, ...]) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """The day as snapshot documents, by time; each GPU is a node of its own, as they are not read at once."""
    found: dict[tuple[float, str, str], dict[str, Any]] = defaultdict(dict)
    for (name, labels), points in made.series.items():
        told = dict(labels)
        if told["instance"] in instances:
            own = {key: text for key, text in told.items()
                   if key in {"state", "owner_kind", "owner", "namespace"} and text}  # fmt: skip
            for at, value in points:
                metrics = found[at, told["instance"], told["gpu"]]
                if own:
                    metrics.setdefault(name, []).append({"labels": own, "value": value})
                else:
                    metrics[name] = value
    for (time, instance, gpu), metrics in sorted(found.items(), key=lambda item: item[0]):
        entry = {"gpu": int(gpu), "uuid": f"GPU-{instance[0]}{gpu}", "model": "NVIDIA H100", "metrics": metrics}
        exporter = {"sample_timestamp_seconds": time, "sample_age_seconds": 0.0, "interval_seconds": SCRAPE}
        yield (
            f"{instance}/{gpu}",
            time,
            {"schema": 1, "exporter": exporter, "host": {}, "gpus": [entry], "processes": []},
        )


def store(path: Path, made: Day, instances: tuple[str, ...]) -> None:
    clock = Clock(made.end - DAY)
    kept = recorder(path, clock)
    for node, at, document in documents(made, instances):
        if at >= clock.now + 300:
            clock.now = at
            kept.flush()
        kept.add(node, document, at)
    kept.close()


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Day, Path]:
    folder = tmp_path_factory.mktemp("stored")
    made = Day(1_700_006_400)
    store(folder / "history.db", made, ("a:9435", "b:9435", "c:9435", "d:9435", "e:9435"))
    return made, folder / "history.db"


def test_gpus_and_holders_are_right_within_two_percent(day: tuple[Day, Path]) -> None:
    made, path = day
    history = StoredHistory(path, Grid.of(DAY, made.end))
    checked = 0
    for usage in history.gpus.values():
        instance, _, index = usage.gpu.instance.partition("/")
        if instance in WHOLE:
            truth = made.gpus[instance, int(index)]
            states = dict(truth.states)
            assert {state: usage.states[state] for state in states} == pytest.approx(states, rel=0.02), usage.gpu
            assert usage.score / usage.scored == pytest.approx(truth.score / truth.scored, abs=0.01)
            if instance == "a:9435":  # of the others some energy was drawn while nobody looked
                assert usage.joules == pytest.approx(truth.joules, rel=0.02)
            checked += 1
    for hold in history.holds.values():
        instance, _, index = hold.gpu.instance.partition("/")
        if instance in WHOLE:
            truth = made.holders[instance, int(index), (hold.owner.kind, hold.owner.name, hold.owner.namespace)]
            states = dict(truth.states)
            assert {state: hold.states[state] for state in states} == pytest.approx(states, rel=0.02), hold.owner
            assert hold.joules == pytest.approx(truth.joules, rel=0.02), hold.owner
            assert hold.score / hold.scored == pytest.approx(truth.score / truth.scored, abs=0.01), hold.owner
            checked += 1
    assert checked > 10


def test_without_an_activity_signal_there_is_no_score_and_the_holder_is_known(day: tuple[Day, Path]) -> None:
    made, path = day
    history = StoredHistory(path, Grid.of(DAY, made.end))
    (frank,) = (hold for hold in history.holds.values() if hold.owner.name == "frank")
    assert frank.states["unknown"] == pytest.approx(4 * HOUR, rel=0.02)
    assert frank.scored == 0
    usage = next(usage for usage in history.gpus.values() if usage.gpu.instance == "d:9435/1")
    assert usage.unknown_held == pytest.approx(4 * HOUR, rel=0.02)


def test_quarter_hours_tell_the_same(day: tuple[Day, Path], tmp_path: Path) -> None:
    made, path = day
    before = StoredHistory(path, Grid.of(DAY, made.end))
    copy = tmp_path / "old.db"
    copy.write_bytes(path.read_bytes())
    clock = Clock(made.end + 40 * DAY)
    old = recorder(copy, clock)
    old.flush()
    old.close()
    after = StoredHistory(copy, Grid.of(DAY, made.end))
    for key, hold in before.holds.items():
        assert after.holds[key].states == pytest.approx(hold.states, rel=0.01)
        assert after.holds[key].joules == pytest.approx(hold.joules, rel=0.02)
        if hold.scored:
            told = after.holds[key].score / after.holds[key].scored
            assert told == pytest.approx(hold.score / hold.scored, abs=0.015)


# --- beside a Prometheus ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Day, Prometheus, Path]]:
    folder = tmp_path_factory.mktemp("beside")
    made = Day(1_700_006_400)
    made.store(folder)
    with Prometheus(folder, CONFIGURATION) as server:
        yield made, server, folder


MORNING = ("a:9435", "b:9435", "c:9435", "e:9435")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("instances", "end", "window", "by"),
    [
        pytest.param(("a:9435",), 0, "24h", "user", id="a day by user"),
        pytest.param(("a:9435",), 0, "24h", "gpu", id="a day by GPU"),
        pytest.param(MORNING, -11 * HOUR, "3h", "user", id="a morning by user"),
        pytest.param(MORNING, -11 * HOUR, "3h", "pod", id="a morning by pod"),
        pytest.param((*MORNING, "d:9435"), -HOUR, "4h", "slurm", id="an evening by job"),
        pytest.param((*MORNING, "d:9435"), -HOUR, "4h", "gpu", id="an evening by GPU"),
    ],
)
def test_the_report_is_that_of_a_prometheus_within_two_percent(
    prometheus: tuple[Day, Prometheus, Path], instances: tuple[str, ...], end: int, window: str, by: str
) -> None:
    made, server, folder = prometheus
    path = folder / f"{len(instances)}.db"
    if not path.exists():
        store(path, made, instances)
    asked = ("report", f"--end={made.end + end}", f"--window={window}", f"--by={by}", "--format=json")
    match = f'--match=instance=~"{"|".join(instances)}"'
    told = []
    for source in ((f"--prometheus.url=http://127.0.0.1:{server.port}", match), (f"--history.path={path}",)):
        done = run(*asked, *source)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    theirs, ours = told
    names = {"user": ("user",), "gpu": ("uuid",), "pod": ("namespace", "pod"), "slurm": ("user", "job")}[by]
    rows = [{tuple(row[name] for name in names): row for row in document["rows"]} for document in told]
    assert rows[0].keys() == rows[1].keys()
    for name, row in (*rows[0].items(), ("total", theirs["total"]), ("fleet", theirs["fleet"])):
        other = rows[1][name] if isinstance(name, tuple) else ours[name]
        assert other["gpus"] == row["gpus"]
        assert other["class"] == row["class"]
        for figure in ("held_hours", "used_hours", "idle_held_hours", "unknown_hours", "energy_kwh"):
            assert other[figure] == pytest.approx(row[figure], rel=0.02, abs=0.004), (name, figure)
        for figure in ("efficiency", "score"):
            assert (other[figure] is None) == (row[figure] is None)
            assert (other[figure] or 0.0) == pytest.approx(row[figure] or 0.0, abs=0.02), (name, figure)


def test_memory_and_limit_are_those_of_the_day(day: tuple[Day, Path]) -> None:
    history = StoredHistory(day[1], Grid.of(DAY, day[0].end))
    assert all(usage.model == "NVIDIA H100" for usage in history.gpus.values())
    assert (TOTAL, LIMIT) == (80e9, 700.0)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "where from? write --prometheus.url URL or --history.path FILE, one of them"),
        (("--history.path=x", "--prometheus.url=http://x"), "where from? write --prometheus.url URL or"),
        (
            ("--history.path=/nowhere/x.db",),
            "--history.path: /nowhere/x.db: cannot be opened: there is no folder /nowhere",
        ),
        (("--history.path={path}", '--match=a="b"'), "--match: narrows what a Prometheus is asked"),
        (("--history.path={path}", "--end=2001-01-01"), "--history.path: {path}: has nothing within the window"),
    ],
)
def test_what_cannot_be_reported_is_told(day: tuple[Day, Path], arguments: tuple[str, ...], told: str) -> None:
    done = run("report", *(argument.format(path=day[1]) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gpu-exporter: {told.format(path=day[1])}")
    assert done.stderr.count("\n") == 1


def test_the_first_minutes_of_a_history(tmp_path: Path) -> None:
    """Until there is a minute, how long that takes is said; the first one is reported, be it half a minute."""
    path, machine, clock = tmp_path / "history.db", Machine(), Clock(START)
    kept = recorder(path, clock)
    try:
        for _ in range(7):
            kept.add("gpu1", machine.step(owners={("user", "alice", ""): 1.0}), machine.at)
        clock.now = machine.at
        kept.flush()
        early = run("report", f"--history.path={path}", f"--end={machine.at}")
        assert (early.returncode, early.stdout) == (2, "")
        told = "has nothing yet: a minute is written 10 s after its end, so the first is there within 70 s"
        assert told in early.stderr
        clock.now = START + 70
        kept.flush()
        done = run("report", f"--history.path={path}", f"--end={clock.now}")
        assert done.returncode == 0, done.stderr
        assert "alice" in done.stdout
    finally:
        kept.close()
    late = run("report", f"--history.path={path}", f"--end={clock.now + 3 * DAY}")
    since = datetime.fromtimestamp(START, timezone.utc).strftime("%Y-%m-%d %H:%M")
    assert f"has nothing within the window, only {since} to " in late.stderr


def test_what_stands_in_the_environment_gives_way_to_what_was_written(day: tuple[Day, Path]) -> None:
    made, path = day
    done = run("report", f"--history.path={path}", f"--end={made.end}", "--fail-over=1%",
               extra={"GPU_EXPORTER_PROMETHEUS_URL": "http://127.0.0.1:1"})  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "alice" in done.stdout
