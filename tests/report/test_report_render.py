"""What the report's command line takes, and what it writes of hostile names, missing parts and odd shapes."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tools.lab.exporter import run as command

from gpu_exporter.catalog.simulated import UUID_END
from gpu_exporter.report import Options, ReportError, access, run
from gpu_exporter.report.client import Access, Series
from gpu_exporter.report.history import Grid, History
from gpu_exporter.report.render import as_csv, as_json, table
from gpu_exporter.report.waste import Report, Row, report, span

END = 1_800_000_000.0
GRID = Grid.of(86400, END)


class Answers:
    """Stands where a Client does: answers by what the query is about, from one counter's course each."""

    url = "http://prometheus"

    def __init__(self, **series: list[tuple[dict[str, str], Callable[[float], float | None]]]) -> None:
        self.warnings: list[str] = []
        self._series = series

    def range(self, expression: str, *, start: float, end: float, step: float) -> list[Series]:
        if " unless " in expression or " > " in expression:
            return []
        found = []
        for labels, course in self._series.get(expression.partition("(")[2].partition("[")[0], []):
            times = [start + number * step for number in range(round((end - start) / step) + 1)]
            points = [(at, value) for at in times if (value := course(at - END + 86400)) is not None]
            if points:
                found.append(Series(labels, points))
        return found


def gpu(number: int = 0, **more: str) -> dict[str, str]:
    return {"instance": "a", "gpu": str(number), "uuid": f"GPU-{number}", "model": "H100", **more}


def holds(owner: str, number: int = 0, *, kind: str = "user", namespace: str = "", state: str = "active") -> Any:
    labels = gpu(number, owner_kind=kind, owner=owner, namespace=namespace, state=state)
    return labels, lambda t: 1e6 + t


def made(owners: Sequence[Any], *, by: str = "user", **more: Any) -> Report:
    count = max((int(labels["gpu"]) for labels, _ in owners), default=0) + 1
    states = [(gpu(number, state="active"), lambda t: 2e6 + t) for number in range(count)]
    client: Any = Answers(gpu_state_seconds_total=states, gpu_owner_seconds_total=list(owners), **more)
    history = History(client, GRID)
    return report(history, by=by, grid=GRID, warnings=client.warnings)


def _columns(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(letter) == "W") for letter in text)


# --- what is written --------------------------------------------------------------------------------------------------


def test_long_and_wide_names_keep_the_columns() -> None:
    names = ["x" * 300, "訓練" * 60, "short"]
    lines = table(made([holds(name, number) for number, name in enumerate(names)])).splitlines()
    assert all(_columns(line) <= 100 for line in lines)
    assert {_columns(line.partition("24.0")[0]) for line in lines[1:4]} == {_columns(lines[1].partition("24.0")[0])}
    assert any("…" in line for line in lines)


def test_a_pod_keeps_both_ends_of_its_name() -> None:
    pod = "llama-70b-finetune-with-a-very-long-name-indeed-7f9c8d6b5-x2x4z"
    text = table(made([holds(pod, kind="pod", namespace="research-and-development")], by="pod"))
    assert "llama-70b" in text
    assert "x2x4z" in text


def test_names_cannot_move_the_cursor() -> None:
    text = table(made([holds("\x1b[2J\r\nroot\u202e")]))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "?[2J??root?" in text


def test_csv_quotes_what_must_be_quoted() -> None:
    (row,) = csv.DictReader(io.StringIO(as_csv(made([holds('a,"b"\nc')]))))
    assert row["user"] == 'a,"b"\nc'


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_no_name_is_a_formula(name: str) -> None:
    (row,) = csv.DictReader(io.StringIO(as_csv(made([holds(name)]))))
    assert row["user"] == f"'{name}"


REAL, FAKE = "GPU-7b8bace7-f031-48d1-9451-c1fcd4f8ad29", f"GPU-7b8bace7-f031-48d1-9451-{UUID_END}"


@pytest.mark.parametrize(
    ("uuids", "said"),
    [
        ([REAL], ""),
        ([FAKE, FAKE], "simulated data: no real GPU was read"),
        ([REAL, FAKE], "simulated data: 1 of 2 GPUs are not real"),
    ],
)
@pytest.mark.parametrize("by", ["user", "gpu"])
def test_what_is_simulated_is_told_to_be(uuids: list[str], said: str, by: str) -> None:
    states = [({**gpu(number, state="active"), "uuid": uuid}, lambda t: 2e6 + t) for number, uuid in enumerate(uuids)]
    client: Any = Answers(gpu_state_seconds_total=states, gpu_owner_seconds_total=[])
    told = report(History(client, GRID), by=by, grid=GRID, warnings=())
    text = table(told)
    assert text.splitlines()[-1] == said if said else "simulated" not in text
    assert json.loads(as_json(told))["simulated"] is bool(said)
    marked = [row["model"] for row in csv.DictReader(io.StringIO(as_csv(told))) if by == "gpu"]
    if marked:
        assert sorted(marked) == sorted("H100 (simulated)" if uuid == FAKE else "H100" for uuid in uuids)


def test_nobody_held_anything() -> None:
    document = json.loads(as_json(made([])))
    assert document["rows"] == []
    assert document["total"]["held_hours"] == 0
    assert document["idle_held_share"] == 0
    assert document["mean"]["score"] is None
    assert as_csv(made([])).count("\n") == 0
    assert table(made([])).splitlines()[0].startswith("USER")
    assert document["warnings"] == ["of 24.0 held GPU-hours only 0.0 have a holder in gpu_owner_seconds_total"]


def test_an_owner_without_a_name() -> None:
    assert [row.keys["user"] for row in made([holds("")]).rows] == ["(unknown)"]


def test_a_user_and_the_same_user_of_slurm_are_one() -> None:
    (row,) = made([holds("alice", 0), holds("alice", 1, kind="slurm", namespace="7")]).rows
    assert (row.gpus, round(row.held_hours)) == (2, 48)


def test_the_same_name_in_two_clusters_is_two() -> None:
    labels, course = holds("alice", 0)
    west = ({**labels, "cluster": "west"}, course)
    states = [(gpu(0, state="active"), course), (gpu(0, state="active", cluster="west"), course)]
    client: Any = Answers(gpu_state_seconds_total=states, gpu_owner_seconds_total=[(labels, course), west])
    rows = report(History(client, GRID), by="user", grid=GRID, warnings=()).rows
    assert sorted(row.keys["cluster"] for row in rows) == ["", "west"]


# --- the score --------------------------------------------------------------------------------------------------------


def test_gauges_stand_in_for_counters() -> None:
    parts: dict[str, Any] = {
        "gpu_utilization_ratio": [(gpu(), lambda _: 0.8)],
        "gpu_memory_io_utilization_ratio": [(gpu(), lambda _: 0.5)],
        "gpu_power_watts": [(gpu(), lambda _: 350.0)],
        "gpu_power_limit_watts": [(gpu(), lambda _: 700.0)],
    }
    client: Any = Answers(gpu_state_seconds_total=[(gpu(state="active"), lambda t: t)], **parts)
    client.range = _with_memory(client.range, 0.25)
    (usage,) = History(client, GRID).gpus.values()
    assert usage.score / usage.scored == pytest.approx(0.5 * 0.8 + 0.2 * 0.5 + 0.2 * 0.25 + 0.1 * 0.5)
    assert usage.joules == pytest.approx(350 * 86400)


def _with_memory(ask: Callable[..., list[Series]], share: float) -> Callable[..., list[Series]]:
    def answer(expression: str, **grid: float) -> list[Series]:
        if " / " in expression:
            return [
                Series(one.labels, [(at, share) for at, _ in one.points]) for one in ask("f(gpu_power_watts[", **grid)
            ]
        return ask(expression, **grid)

    return answer


def test_without_memory_or_power_the_score_is_the_utilization() -> None:
    busy = [(gpu(), lambda t: 0.3 * t)]
    (usage,) = made([holds("alice")], gpu_busy_seconds_total=busy).rows
    assert usage.score == pytest.approx(0.3)
    assert usage.energy_kwh is None


def _lived(began: float, ended: float) -> Callable[[float], float | None]:
    """The accounts of an exporter that ran between these seconds before the window's end."""
    first, last = 86400 - began, 86400 - ended
    return lambda t: min(t, last) - first if first < t < last + GRID.step else None


@pytest.mark.parametrize(
    ("lives", "told"),
    [
        ([(90000, 0)], []),
        ([(86390, 0)], []),
        ([(600, 0)], ["data covers 10 min of 24 h"]),
        ([(610, 0)], ["data covers 10.2 min of 24 h"]),
        ([(1000, 250)], ["data covers 12.5 min of 24 h"]),
        (
            [(1000, 700), (700, 400)],
            ["data covers 10 min of 24 h", "2 of 2 GPUs have data for a part of that only, the least for 5 min"],
        ),
        ([(90000, 85800)], ["data covers 10 min of 24 h"]),
        ([(610, 0), (600, 0), (595, 0)], ["data covers 10.2 min of 24 h"]),
        (
            [(700, 0), (200, 0)],
            [
                "data covers 11.7 min of 24 h",
                "1 of 2 GPUs have data for a part of that only, the least for 3.33 min",
            ],
        ),
    ],
)
def test_what_is_covered_is_told_to_the_second(lives: list[tuple[float, float]], told: list[str]) -> None:
    states = [(gpu(number, state="idle_free"), _lived(*life)) for number, life in enumerate(lives)]
    client: Any = Answers(gpu_state_seconds_total=states)
    history = History(client, GRID)
    assert report(history, by="gpu", grid=GRID, warnings=[]).warnings == told


@pytest.mark.parametrize(
    ("score", "grade"),
    [(None, None), (0.0, "idle"), (0.0999, "idle"), (0.1, "low"), (0.2, "normal"), (0.6999, "normal"), (0.7, "high")],
)
def test_classes(score: float | None, grade: str | None) -> None:
    assert Row({}, score=score).grade == grade


@pytest.mark.parametrize(
    ("seconds", "text"), [(600, "10 min"), (5400, "90 min"), (10800, "3 h"), (86400, "24 h"), (604800, "7 d")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


# --- what is taken ----------------------------------------------------------------------------------------------------

URL = "--prometheus.url=http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "where from? write --prometheus.url URL or --history.path FILE, one of them"),
        (
            ["--prometheus.url=prometheus:9090"],
            "--prometheus.url: 'prometheus:9090' is not an http(s) URL; write http:",
        ),
        (["--prometheus.url=http://me:secret@h"], "--prometheus.url: a login in the URL is read by everybody who sees"),
        (["--prometheus.url=file:///etc/passwd"], "--prometheus.url: 'file:///etc/passwd' is not an http(s) URL"),
        ([URL, "--window=often"], "--window: 'often' cannot be used; write 24h, 7d or 90m"),
        ([URL, "--window=9m"], "--window: '9m' is out of range; write 10m to 400d"),
        ([URL, "--end=tomorrow"], "--end: 'tomorrow' cannot be used; write 2026-11-01 or 2026-11-01T08:00:00Z"),
        ([URL, "--fail-over=0.2"], "--fail-over: '0.2' cannot be used; write 20%"),
        ([URL, "--fail-over=120%"], "--fail-over: '120%' cannot be used; write 20%"),
        ([URL, "--price.kwh=-1"], "--price.kwh: '-1' cannot be used; write 0.30"),
        ([URL, "--price.gpu-hour=2,50"], "--price.gpu-hour: '2,50' cannot be used; write 0.30"),
        ([URL, "--match=up} or {x"], "--match: 'up} or {x' cannot be used; write"),
        ([URL, "--by=team"], "Invalid value for '--by': 'team' is not one of"),
        ([URL, "--prometheus.header=nonsense"], "--prometheus.header: what was written is not a header; write"),
        ([URL, "--prometheus.header=A: b\r\nC: d"], "--prometheus.header: what was written is not a header; write"),
        ([URL, "--prometheus.header=Authorization: Bearer x"], "--prometheus.header: Authorization is not taken here"),
        ([URL, "--prometheus.header=Host: x"], "--prometheus.header: Host is not yours to set"),
        ([URL, "--prometheus.timeout=0s"], "--prometheus.timeout: '0s' cannot be used; write 60s"),
        ([URL, "--prometheus.ca-file=/nowhere"], "--prometheus.ca-file: /nowhere cannot be read: No such file"),
        ([URL, "--prometheus.ca-file=/dev/null"], "--prometheus.ca-file: /dev/null holds no PEM certificate"),
        ([URL, "--prometheus.bearer-token-file=/nowhere"], "--prometheus.bearer-token-file: /nowhere: cannot be read"),
        ([URL, "--prometheus.password-file=/dev/null"], "--prometheus.password-file: /dev/null: holds no password"),
        ([URL, "--prometheus.username=me"], "--prometheus.username: wants a password; give --prometheus.password-file"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    done = command("report", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gpu-exporter: {message}")
    assert "secret" not in line


@pytest.mark.parametrize("both", [{"username": "me"}, {"username": "me", "password": ("word", None)}])
def test_a_token_and_a_user_exclude_each_other(both: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match="exclude each other"):
        run(Options(access("http://127.0.0.1:9", token=("token", None), **both)))


@pytest.mark.parametrize("end", ["2026-11-01", "2026-11-01T00:00:00Z", "2026-11-01T01:00:00+01:00", "1793491200"])
def test_ends(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Grid] = []

    def look(_: object, grid: Grid, *, match: str) -> None:
        seen.append(grid)
        raise ReportError(match)

    monkeypatch.setattr("gpu_exporter.report.History", look)
    with pytest.raises(ReportError, match=r'^cluster="a"$'):
        run(Options(Access("http://127.0.0.1:9"), window="1d12h", end=end, match='{ cluster="a" }'))
    assert seen[0].end == 1793491200
    assert seen[0].window == pytest.approx(36 * 3600)
