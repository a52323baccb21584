"""CSV: opens in a spreadsheet and in pandas, and does nothing there."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest
from tools.lab.exporter import environment, run

from gpu_exporter.catalog.simulated import UUID_END
from gpu_exporter.history import TABLES, Reader, csv_lines
from history_story import GIB, START, Clock, Machine, record, recorder, writing

HEADERS = {
    "gpus": "time,resolution_seconds,node,gpu,uuid,model,active_seconds,idle_held_seconds,idle_free_seconds,"
    "unknown_seconds,down_seconds,utilization_ratio,utilization_ratio_max,memory_io_utilization_ratio,"
    "memory_used_bytes,memory_used_bytes_max,temperature_celsius,temperature_celsius_max,power_watts,power_watts_max,"
    "energy_joules,score_ratio,sm_clock_hertz,slowed_seconds,processes",
    "owners": "time,resolution_seconds,node,gpu,uuid,owner_kind,owner,namespace,active_seconds,idle_held_seconds,"
    "unknown_seconds",
    "processes": "first_seen,last_seen,node,gpu,uuid,pid,type,mig_uuid,process,user,container,labels,memory_max_bytes",
    "hosts": "time,resolution_seconds,node,seconds,cpu_utilization_ratio,cpu_utilization_ratio_max,memory_used_bytes,"
    "memory_used_bytes_max,load",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "history.db"
    machine = Machine()
    machine.processes = [{"gpu": 0, "type": "compute", "pid": 7, "user": "alice", "memory_used_bytes": 5 * GIB}]
    record(path, machine, 36, owners={("user", "alice", ""): 1.0})
    return path


def rows(path: Path, table: str, start: float = 0, end: float = START + 400 * 86400) -> list[dict[str, str]]:
    with closing(Reader(path)) as reader:
        return list(csv.DictReader(io.StringIO("".join(csv_lines(reader, table, start=start, end=end)))))


def exported(path: Path, *arguments: str) -> str:
    done = run("export", f"--history.path={path}", "--format=csv", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("table", TABLES)
def test_the_header_has_the_units_and_never_changes(path: Path, table: str) -> None:
    text = exported(path, f"--table={table}")
    assert text.splitlines()[0] == HEADERS[table]
    assert len(text.splitlines()) == {"processes": 2}.get(table, 4)
    nothing = exported(path, f"--table={table}", "--from=2001-01-01", "--to=2001-01-02")
    assert nothing == f"{HEADERS[table]}\n", "no rows is no reason for no header"


def test_simulated_gpus_are_told_to_be(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    machine = Machine(gpus=2)
    machine.gpus[1].uuid = f"GPU-df866826-9560-400e-ba46-{UUID_END}"
    record(path, machine, 36, owners={("user", "alice", ""): 1.0})
    for name in TABLES:
        done = run("export", f"--history.path={path}", f"--table={name}")
        assert (done.returncode, done.stderr) == (0, "gpu-exporter: simulated data: 1 of 2 GPUs are not real\n")
        assert done.stdout.splitlines()[0] == HEADERS[name]
    assert {(row["gpu"], row["model"].endswith(" (simulated)")) for row in rows(path, "gpus")} == {
        ("0", False), ("1", True),
    }  # fmt: skip
    day = ("--window=10m", f"--end={int(START) + 600}")
    done = run("report", f"--history.path={path}", *day)
    assert done.stdout.splitlines()[-1] == "simulated data: 1 of 2 GPUs are not real"
    done = run("report", f"--history.path={path}", *day, "--format=csv")
    assert "simulated data: 1 of 2 GPUs are not real" in done.stderr


def test_a_file_without_anything_has_headers(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    recorder(path, Clock()).close()
    for table in TABLES:
        assert exported(path, f"--table={table}") == f"{HEADERS[table]}\n"


def test_gpus(path: Path) -> None:
    first, *_ = rows(path, "gpus")
    assert first["time"] == datetime.fromtimestamp(START, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert first["resolution_seconds"] == "60"
    assert (first["node"], first["gpu"], first["active_seconds"], first["energy_joules"]) == (
        "gpu1",
        "0",
        "60",
        "21000.0",
    )
    assert first["memory_used_bytes"] == str(40 * GIB)


def test_the_window_is_cut_to_the_minute(path: Path) -> None:
    assert len(rows(path, "gpus", START + 60, START + 180)) == 2
    assert len(rows(path, "gpus", START + 61, START + 180)) == 1
    at = datetime.fromtimestamp(START + 60, timezone.utc)
    text = exported(path, f"--from={at.isoformat()}", f"--to={at.strftime('%Y-%m-%dT%H:%M:59Z')}")
    assert len(text.splitlines()) == 2


def test_older_rows_come_first_and_tell_their_resolution(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    day = START // 86400 * 86400
    record(path, Machine(at=day), 288, seconds=30)
    record(path, Machine(at=day + 86400), 20, seconds=30)
    clock = Clock(day + 31 * 86400 + 60)
    keeper = recorder(path, clock)
    keeper.flush()
    keeper.close()
    told = rows(path, "gpus")
    assert [row["resolution_seconds"] for row in told] == ["900"] * 10 + ["60"] * 10
    assert [row["time"] for row in told] == sorted(row["time"] for row in told)
    assert sum(int(row["active_seconds"]) for row in told) == 288 * 30 + 20 * 30


FORMULAS = (
    '=HYPERLINK("http://evil","x")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1",  # noqa: RUF001
    "＋1", "－1", "＠x",  # noqa: RUF001
)  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "hostile.db"
    for number, text in enumerate(FORMULAS):
        machine = Machine(text, at=START + 3600 * number)
        machine.gpus[0].uuid = f"{text}{number}"
        machine.processes = [{"gpu": 0, "pid": number, "user": text, "process": text, "type": text, "container": text}]
        record(path, machine, 12, owners={(text, text, text): 1.0})
    return path


@pytest.mark.parametrize("table", TABLES)
def test_no_cell_is_a_formula(hostile: Path, table: str) -> None:
    told = rows(hostile, table)
    assert len(told) == len(FORMULAS)
    cells = [cell for row in told for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r\n＝＋－＠"))]  # noqa: RUF001
    assert {row["node"] for row in told} == {"'" + text.replace("\r", "\n") for text in FORMULAS}


def test_text_with_commas_quotes_and_lines_comes_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    alias = 'a,"b"\nc; d\te 山'
    record(path, Machine(alias), 12)
    assert [row["node"] for row in rows(path, "gpus")] == [alias]


def test_it_reads_while_it_is_written(path: Path) -> None:
    with closing(writing(path, after=600, steps=24)):
        assert len(exported(path).splitlines()) == 6


def test_a_reader_that_has_seen_enough_is_no_error(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "gpu_exporter", "export", f"--history.path={path}"],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        program.stdout.close()
        assert program.stderr is not None
        assert program.stderr.read() == b""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Missing option '--history.path'"),
        (
            ("--history.path=/nowhere/x.db",),
            "--history.path: /nowhere/x.db: cannot be opened: there is no folder /nowhere",
        ),
        (("--history.path={missing}",), "--history.path: {missing}: is not there; gpu-exporter record"),
        (("--history.path={path}", "--from=yesterday"), "--from: 'yesterday' is not a time; write 2026-11-01"),
        (("--history.path={path}", "--from=2026-11-02", "--to=2026-11-01"), "--to: '2026-11-01' is not after --from"),
        (("--history.path={path}", "--table=gpu"), "Invalid value for '--table': 'gpu' is not one of"),
        (("--history.path={path}", "--format=xlsx"), "Invalid value for '--format': 'xlsx' is not"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(path: Path, arguments: tuple[str, ...], told: str) -> None:
    missing = path.with_name("missing.db")
    done = run("export", *(argument.format(path=path, missing=missing) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gpu-exporter: {told.format(missing=missing)}")
    assert done.stderr.count("\n") == 1
    assert not os.path.lexists(missing)
