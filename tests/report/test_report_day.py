"""gpu-exporter report over a day whose truth is known, kept by a real Prometheus."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.exporter import run
from tools.lab.programs import Release
from tools.lab.prometheus import Prometheus

from gpu_exporter.report.client import Access, Client
from gpu_exporter.report.history import Grid, History, Hold
from report_day import ALICE, BOB, CAROL, CI, DAVE, DAY, ERIN, FRANK, GINA, HOUR, TRAINER, Day, Truth

pytestmark = pytest.mark.e2e
CONFIGURATION = "global: {scrape_interval: 15s}\n"


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Iterator[tuple[Day, Prometheus]]:
    """The day, and a Prometheus that has it."""
    folder = tmp_path_factory.mktemp("day")
    made = Day(int(time.time()) // 5 * 5)
    made.store(folder)
    with Prometheus(folder, CONFIGURATION, release) as server:
        yield made, server


@pytest.fixture(scope="module")
def history(day: tuple[Day, Prometheus]) -> History:
    made, server = day
    return History(Client(Access(f"http://127.0.0.1:{server.port}")), Grid.of(DAY, made.end))


def report(day: tuple[Day, Prometheus], *arguments: str, status: int = 0) -> str:
    made, server = day
    url = f"--prometheus.url=http://127.0.0.1:{server.port}"
    done = run("report", url, f"--end={made.end}", *arguments)
    assert done.returncode == status, done.stderr
    return done.stdout


def rows(day: tuple[Day, Prometheus], *arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(report(day, "--format=json", *arguments))
    return document


def same(told: float | None, truth: float) -> bool:
    return told is not None and abs(told - truth) <= 0.02 * truth


def the_hold(history: History, instance: str, index: int, owner: tuple[str, str, str]) -> Hold:
    found = [
        hold
        for hold in history.holds.values()
        if (hold.gpu.instance, hold.gpu.gpu) == (instance, str(index)) and hold.owner == owner
    ]
    assert len(found) == 1, (instance, index, owner, found)
    return found[0]


# --- what was held ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instance", "index", "owner"),
    [
        pytest.param("a:9435", 0, ALICE, id="held before the day begins, two restarts of the exporter"),
        pytest.param("a:9435", 1, BOB, id="born, and aged out"),
        pytest.param("a:9435", 2, CI, id="born again and again with equal values"),
        pytest.param("a:9435", 3, ALICE, id="shared: the larger part"),
        pytest.param("a:9435", 3, BOB, id="shared: the smaller part"),
        pytest.param("b:9435", 0, CAROL, id="through a gap of two hours"),
        pytest.param("b:9435", 1, DAVE, id="born within the gap"),
        pytest.param("c:9435", 0, TRAINER, id="old when first scraped, and a changed label"),
        pytest.param("d:9435", 0, ERIN, id="a new exporter: what it saw before its first scrape counts"),
        pytest.param("d:9435", 1, FRANK, id="without an activity signal"),
        pytest.param("e:9435", 0, GINA, id="three hours without the exporter"),
    ],
)
def test_what_a_holder_had_is_right_within_two_percent(
    day: tuple[Day, Prometheus], history: History, instance: str, index: int, owner: tuple[str, str, str]
) -> None:
    truth = day[0].holders[instance, index, owner]
    told = the_hold(history, instance, index, owner)
    assert {state: told.states[state] for state in truth.states} == pytest.approx(truth.states, rel=0.02)
    assert sum(told.states.values()) == pytest.approx(sum(truth.states.values()), rel=0.02)
    assert told.joules == pytest.approx(truth.joules, rel=0.02)
    assert (told.scored > 0) == (truth.scored > 0)
    if truth.scored:
        assert told.score / told.scored == pytest.approx(truth.score / truth.scored, abs=0.01)


def test_every_gpu_is_right_within_two_percent(day: tuple[Day, Prometheus], history: History) -> None:
    told = {(usage.gpu.instance, int(usage.gpu.gpu)): usage for usage in history.gpus.values()}
    assert told.keys() == day[0].gpus.keys()
    for key, truth in day[0].gpus.items():
        assert {state: told[key].states[state] for state in truth.states} == pytest.approx(truth.states, rel=0.02)
        assert told[key].joules == pytest.approx(truth.joules, rel=0.02)
        if truth.scored:
            assert told[key].score / told[key].scored == pytest.approx(truth.score / truth.scored, abs=0.01)


def test_plain_increase_would_not_have_been_right(day: tuple[Day, Prometheus]) -> None:
    made, server = day
    truth = made.holders["b:9435", 1, DAVE]
    found = server.number(f'increase(gpu_owner_seconds_total{{owner="dave",state="idle_held"}}[1d] @ {made.end})')
    assert found is not None
    assert found < 0.85 * truth.states["idle_held"], "then the report could use it, and be simpler"


@pytest.mark.parametrize("hours", [1, 5, 20])
def test_shorter_windows(day: tuple[Day, Prometheus], hours: int) -> None:
    """Of a part of the day, alice's first GPU: she held it all the time, idle in every other hour."""
    made, server = day
    grid = Grid.of(hours * HOUR, made.end)
    told = the_hold(History(Client(Access(f"http://127.0.0.1:{server.port}")), grid), "a:9435", 0, ALICE)
    assert same(sum(told.states.values()), grid.window)


# --- the score, and the rules -----------------------------------------------------------------------------------------


def _recorded() -> dict[str, str]:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/rules/recording.yml").read_text("utf-8"))["groups"]
    return {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


def _written_out(record: str, rules: dict[str, str]) -> str:
    """The rule's expression without other rules in it."""
    names = "|".join(re.escape(name) for name in sorted(rules, key=len, reverse=True))
    return re.sub(rf"(?<![\w:])(?:{names})(?![\w:])", lambda match: f"({_written_out(match[0], rules)})", rules[record])


@pytest.fixture(scope="module")
def morning(day: tuple[Day, Prometheus]) -> tuple[History, int]:
    """Fifteen hours and where they end. Later the rules fail for five minutes, because a label changes."""
    made, server = day
    end = made.end - 9 * HOUR
    return History(Client(Access(f"http://127.0.0.1:{server.port}")), Grid.of(15 * HOUR, end)), end


def test_the_score_of_a_gpu_is_that_of_the_recording_rule(
    day: tuple[Day, Prometheus], morning: tuple[History, int]
) -> None:
    history, end = morning
    score = _written_out("instance_gpu:gpu_score:ratio", _recorded())
    ruled = {
        (labels["instance"], labels["gpu"]): value
        for labels, value in day[1].query(f"avg_over_time(({score})[15h:1m] @ {end})")
    }
    told = {(gpu.gpu.instance, gpu.gpu.gpu): gpu.score / gpu.scored for gpu in history.gpus.values() if gpu.scored}
    assert {instance for instance, _ in ruled} == {"a:9435", "c:9435"}, "the others do not count it"
    assert {key: told[key] for key in ruled} == pytest.approx(ruled, abs=0.02)


@pytest.mark.parametrize("owner", [ALICE, BOB, TRAINER])
def test_the_score_of_an_owner_is_that_of_the_recording_rule(
    day: tuple[Day, Prometheus], morning: tuple[History, int], owner: tuple[str, str, str]
) -> None:
    history, end = morning
    rules, parts = _recorded(), []
    for record in ("owner:gpu_score:sum", "owner:gpu_scored:sum"):
        summed = f"sum by (owner) (sum_over_time(({_written_out(record, rules)})[15h:1m] @ {end}))"
        parts.append({labels["owner"]: value for labels, value in day[1].query(summed)}[owner[1]])
    mine = [hold for hold in history.holds.values() if hold.owner.name == owner[1]]
    told = sum(hold.score for hold in mine) / sum(hold.scored for hold in mine)
    assert told == pytest.approx(parts[0] / parts[1], abs=0.02)


# --- what is written --------------------------------------------------------------------------------------------------


def _truth(made: Day, name: str) -> Truth:
    total = Truth()
    for (_, _, owner), truth in made.holders.items():
        if owner[1] == name:
            for state, seconds in truth.states.items():
                total.states[state] += seconds
            total.joules += truth.joules
    return total


def test_by_user(day: tuple[Day, Prometheus]) -> None:
    document = rows(day)
    users = {row["user"]: row for row in document["rows"]}
    assert users.keys() == {"alice", "bob", "ci", "carol", "dave", "erin", "frank", "gina"}, "Slurm's users are users"
    for name, row in users.items():
        truth = _truth(day[0], name)
        assert same(row["held_hours"] * HOUR, sum(truth.states.values()))
        assert same(row["used_hours"] * HOUR, truth.states["active"])
        assert same(row["idle_held_hours"] * HOUR, truth.states["idle_held"])
        assert same(row["energy_kwh"] * 3.6e6, truth.joules)
    assert [row["user"] for row in document["rows"][:3]] == ["alice", "dave", "carol"], "most idle hours first"
    assert users["alice"]["gpus"] == 2
    assert (users["dave"]["class"], users["erin"]["class"], users["frank"]["class"]) == ("idle", "high", None)
    assert (users["frank"]["efficiency"], users["dave"]["efficiency"], users["erin"]["efficiency"]) == (None, 0, 1)
    assert document["rest"]["user"] == "(pods)"
    every = [*document["rows"], document["rest"]]
    for figure in ("held_hours", "used_hours", "idle_held_hours", "unknown_hours", "energy_kwh"):
        assert document["total"][figure] == pytest.approx(sum(row[figure] for row in every), abs=1e-4)
    held = [row["held_hours"] for row in document["rows"]]
    assert document["min"]["held_hours"] == min(held)
    assert document["max"]["held_hours"] == max(held)
    assert document["mean"]["held_hours"] == pytest.approx(sum(held) / len(held), abs=1e-5)
    assert document["classes"] == {"idle": 1, "low": 0, "normal": 3, "high": 3}
    assert document["window"]["seconds"] == DAY


def test_by_gpu(day: tuple[Day, Prometheus]) -> None:
    document = rows(day, "--by=gpu")
    gpus = {(row["host"], row["gpu"]): row for row in document["rows"]}
    assert len(gpus) == 10
    assert gpus["node-c", "0"]["cluster"] == "west", "the alias is the host's name"
    assert same(gpus["a:9435", "3"]["free_hours"], 16)
    assert gpus["a:9435", "1"]["uuid"] == "GPU-a1"
    assert same(gpus["d:9435", "1"]["held_hours"], 4), "of the time without a signal, what has a holder"
    assert same(gpus["d:9435", "1"]["unknown_hours"], 22200 / HOUR)
    assert document["rest"] is None
    assert document["total"] == document["fleet"]


def test_by_slurm_pod_and_namespace(day: tuple[Day, Prometheus]) -> None:
    jobs = rows(day, "--by=slurm")
    assert [(row["user"], row["job"]) for row in jobs["rows"]] == [("dave", "77"), ("carol", "4242")]
    pods = rows(day, "--by=pod")
    assert [(row["cluster"], row["namespace"], row["pod"]) for row in pods["rows"]] == [("west", "ml", "trainer-0")]
    namespaces = rows(day, "--by=namespace")
    assert [row["namespace"] for row in namespaces["rows"]] == ["ml"]
    assert same(namespaces["rows"][0]["held_hours"], 13)
    for document in (jobs, pods, namespaces):
        assert document["total"] == rows(day)["total"], "whatever the rows are, the total is what was held"


def test_match_narrows(day: tuple[Day, Prometheus]) -> None:
    assert {row["user"] for row in rows(day, '--match=instance="b:9435"')["rows"]} == {"carol", "dave"}
    assert rows(day, '--match={cluster="west"}')["rest"]["gpus"] == 1


def test_csv_has_one_header_and_every_row(day: tuple[Day, Prometheus]) -> None:
    table = list(csv.DictReader(io.StringIO(report(day, "--format=csv"))))
    assert list(table[0]) == [
        "cluster", "user", "gpus", "held_hours", "used_hours", "idle_held_hours", "unknown_hours", "efficiency",
        "score", "class", "energy_kwh",
    ]  # fmt: skip
    assert [row["user"] for row in table][-1] == "(pods)"
    assert len(table) == 9
    assert {row["user"]: row["score"] for row in table}["frank"] == "", "what nobody knows is empty"


@pytest.mark.parametrize("by", ["user", "pod", "namespace", "slurm", "gpu"])
def test_the_table_fits_and_is_aligned(day: tuple[Day, Prometheus], by: str) -> None:
    lines = report(day, f"--by={by}").splitlines()
    assert all(len(line) <= 100 for line in lines)
    ruled = next(number for number, line in enumerate(lines) if set(line) == {"-"})
    end = lines[0].index("HELD h") + len("HELD h")
    for line in (*lines[1:ruled], lines[ruled + 1]):
        assert re.search(r" \d+\.\d$", line[:end]), line
    assert lines[ruled + 1].startswith("total")
    assert "24 h to " in lines[-1]


@pytest.mark.parametrize("page", ["README.md", "docs/REPORT.md"])
def test_the_pages_show_all_that_is_printed(day: tuple[Day, Prometheus], page: str) -> None:
    made, server = day
    done = run("report", f"--prometheus.url=http://127.0.0.1:{server.port}", f"--end={made.end}")
    (shown,) = re.findall(
        r"^\$ gpu-exporter report [^\n]*\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
    )
    when = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC")
    numbers = re.compile(r"\d+\.\d+")
    printed, shown = (re.sub(" +", " ", when.sub("then", text)) for text in (done.stdout + done.stderr, shown))
    assert numbers.sub("0.0", shown) == numbers.sub("0.0", printed)
    # The second of the day in which the test runs moves the last digit.
    assert [*map(float, numbers.findall(shown))] == pytest.approx([*map(float, numbers.findall(printed))], abs=0.11)


def test_money(day: tuple[Day, Prometheus]) -> None:
    document = rows(day, "--price.kwh=0.30", "--price.gpu-hour=2.5")
    for row in (*document["rows"], document["rest"], document["total"], document["fleet"]):
        assert row["held_cost"] == pytest.approx(2.5 * row["held_hours"], abs=1e-4)
        assert row["idle_held_cost"] == pytest.approx(2.5 * row["idle_held_hours"], abs=1e-4)
        assert row["energy_cost"] == pytest.approx(0.3 * row["energy_kwh"], abs=1e-4)
    assert document["max"]["held_cost"] == max(row["held_cost"] for row in document["rows"])
    (alice,) = [row for row in csv.DictReader(io.StringIO(report(day, "--format=csv", "--price.kwh=1")))
                if row["user"] == "alice"]  # fmt: skip
    assert alice["energy_cost"] == alice["energy_kwh"]
    assert "held_cost" not in alice
    lines = report(day, "--price.kwh=0.30", "--price.gpu-hour=2.5", "--by=gpu").splitlines()
    assert lines[0].endswith("kWh    COST  IDLE COST  kWh COST")
    assert all(len(line) <= 100 for line in lines)


def test_fail_over(day: tuple[Day, Prometheus]) -> None:
    share = rows(day)["idle_held_share"]
    idle = sum(truth.states["idle_held"] for truth in day[0].holders.values())
    assert same(share, idle / sum(sum(truth.states.values()) for truth in day[0].holders.values()))
    report(day, f"--fail-over={share * 100 - 0.1:.1f}%", status=1)
    report(day, f"--fail-over={share * 100 + 0.1:.1f}%")


def test_partial_data_is_told(day: tuple[Day, Prometheus]) -> None:
    made, server = day
    url = f"--prometheus.url=http://127.0.0.1:{server.port}"
    done = run("report", url, f"--end={made.end}", '--match=instance="d:9435"', "--format=json")
    assert done.returncode == 0
    assert done.stderr == "gpu-exporter: data covers 6 h of 24 h\n"
    assert json.loads(done.stdout)["warnings"] == ["data covers 6 h of 24 h"]
    assert any("of 10 GPUs have data for a part" in warning for warning in rows(day)["warnings"])


def test_no_data_is_told(day: tuple[Day, Prometheus]) -> None:
    made, server = day
    url = f"http://127.0.0.1:{server.port}"
    done = run("report", f"--prometheus.url={url}", f"--end={made.end - 40 * DAY}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gpu-exporter: {url}: has no gpu_state_seconds_total within the window; "
        "is the exporter scraped, and does it keep accounts?\n"
    )


def test_what_prometheus_refuses_is_told(day: tuple[Day, Prometheus]) -> None:
    done = run("report", f"--prometheus.url=http://127.0.0.1:{day[1].port}", '--match=instance=~"("')
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "400 Bad Request: " in done.stderr
