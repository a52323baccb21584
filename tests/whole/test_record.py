"""gpu-exporter record as a user runs it: this machine, other machines, and those that are ill."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tools.lab import LOOPBACK
from tools.lab.exporter import Exporter, command, environment, run
from tools.lab.hung_disk import HungDisk
from tools.lab.programs import Program
from tools.lab.wait import patience, wait_for

from gpu_exporter.history import Reader, Usage, usage
from gpu_exporter.http.server import Server
from serving import LOCAL

FAST = "--collection.interval=200ms"


@contextmanager
def recording(folder: Path, *arguments: str) -> Iterator[Program]:
    """The command, with its file gpu.db in the folder; it ends well."""
    program = Program(
        [*command(), "record", f"--history.path={folder / 'gpu.db'}", FAST, *arguments],
        folder / "record.log",
        env=environment(),
    )
    with program:
        program.wait(lambda: "msg=recording" in program.log())
        yield program
    assert program.process.returncode == 0, program.log()
    assert "Traceback" not in program.log()


def told(folder: Path) -> Usage:
    with closing(Reader(folder / "gpu.db")) as reader:
        return usage(reader, start=0, end=1e11)


def recorded(program: Program, text: str, times: int = 20) -> None:
    """Wait for so many samples: at 200 ms each, seconds that are written when it ends."""
    program.wait(lambda: program.log().count(text) >= times)


def test_this_machine_is_recorded(tmp_path: Path) -> None:
    arguments = ("--source=fake", "--host.name=gpu3.lab", "--fake.gpus=2", "--log.level=debug")
    with recording(tmp_path, *arguments) as program:
        assert wait_for(lambda: "the data is simulated" in program.log())
        recorded(program, 'msg="a sample was recorded" node=gpu3.lab')
    found = told(tmp_path)
    assert {(total.gpu.node, total.gpu.number) for total in found.gpus} == {("gpu3.lab", 0), ("gpu3.lab", 1)}
    assert all(total.seconds >= 1 for total in found.gpus)
    assert {hold.owner.kind for hold in found.holds} == {"user"}
    with closing(sqlite3.connect(tmp_path / "gpu.db")) as connection:
        assert connection.execute("SELECT count(*) >= 2 FROM process").fetchone() == (1,)
    assert sorted(path.name for path in tmp_path.glob("gpu.db*")) == ["gpu.db", "gpu.db-lock"]


def test_other_machines_are_recorded_and_the_ill_cost_the_others_nothing(tmp_path: Path) -> None:
    with (
        socket.create_server((LOOPBACK, 0)) as deaf,
        Exporter(tmp_path, "--source=fake", "--fake.gpus=1", FAST) as well,
        answering(b"<html>no JSON</html>") as page,
        answering(b'{"schema": 2}') as newer,
    ):
        ports = (deaf.getsockname()[1], well.port, page, newer, 1)
        targets = [f"--target={LOOPBACK}:{port}" for port in ports]
        with recording(tmp_path, *targets, "--target=gpu.invalid", "--log.level=debug") as program:
            for words in (
                f'target={LOOPBACK}:1 why="refuses the connection',
                "target=gpu.invalid why=",
                f'target={LOOPBACK}:{page} why="answers something that is not JSON',
                f'target={LOOPBACK}:{newer} why="answers JSON that is no snapshot of schema 1',
            ):
                program.wait(lambda words=words: words in program.log())  # type: ignore[misc]
            recorded(program, f'msg="an answer was recorded" target={LOOPBACK}:{well.port}')
            assert program.log().count("refuses the connection") == 1, "once, however often it is tried"
            assert f'"a machine tells nothing" target={LOOPBACK}:{well.port}' not in program.log()
    (total,) = told(tmp_path).gpus
    assert total.gpu.node == f"{LOOPBACK}:{well.port}"
    assert total.seconds >= 1


@contextmanager
def answering(body: bytes) -> Iterator[int]:
    """A server that answers everything with this; its port."""

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [body]

    server = Server(app, addresses=[LOCAL])
    server.start()
    with closing(server):
        yield server.port


def test_a_machine_that_comes_back_is_told(tmp_path: Path) -> None:
    with Exporter(tmp_path, "--source=fake", FAST) as exporter:
        port = exporter.port
    with recording(tmp_path, f"--target={LOOPBACK}:{port}") as program:
        program.wait(lambda: "a machine tells nothing" in program.log())
        with Exporter(tmp_path, "--source=fake", FAST, f"--web.listen-address={LOOPBACK}:{port}"):
            program.wait(lambda: "a machine tells again" in program.log())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_well_also_beside_a_machine_that_hangs(tmp_path: Path, number: signal.Signals) -> None:
    with (
        socket.create_server((LOOPBACK, 0)) as deaf,
        recording(tmp_path, f"--target={LOOPBACK}:{deaf.getsockname()[1]}") as program,
    ):
        program.process.send_signal(number)
        wait_for(lambda: program.process.poll() is not None)
        assert f"signal={number.name}" in program.log()


def test_what_was_seen_is_written_while_the_driver_hangs(tmp_path: Path) -> None:
    scenario = tmp_path / "hang.yaml"
    scenario.write_text("events: [{at: 2s, gpu: all, fault: hang}]\n")
    arguments = ("--source=fake", "--fake.gpus=2", f"--fake.scenario={scenario}", "--log.level=debug")
    with recording(tmp_path, *arguments, "--host.name=gpu3.lab", "--collection.timeout=200ms") as program:
        program.wait(lambda: program.log().count('msg="GPU is down"') >= 2)
    assert sum(total.seconds for total in told(tmp_path).gpus) >= 1
    assert sorted(path.name for path in tmp_path.glob("gpu.db*")) == ["gpu.db", "gpu.db-lock"]


def test_a_signal_ends_it_while_the_disk_hangs(tmp_path: Path) -> None:
    past = tmp_path / "past"
    past.mkdir()
    disk = HungDisk(past, tmp_path)
    arguments = [*command(), "record", "--source=fake", f"--history.path={past / 'gpu.db'}"]
    with Program(arguments, tmp_path / "record.log", env=environment(disk.env())) as program:
        program.wait(lambda: "msg=recording" in program.log())
        disk.hang()
        program.process.terminate()
        wait_for(lambda: disk.waits, program.log)
        # Two seconds are for a machine that has time. What hangs here hangs for ever.
        assert program.process.wait(patience()) == 0
        assert "Traceback" not in program.log()


def test_a_second_one_is_refused(tmp_path: Path) -> None:
    with recording(tmp_path, "--source=fake"):
        done = run("record", f"--history.path={tmp_path / 'gpu.db'}", "--source=fake")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(
            f"gpu-exporter: --history.path: {tmp_path / 'gpu.db'}: is being written by another gpu-exporter (process "
        )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Missing option '--history.path'"),
        (
            ("--history.path=/nowhere/gpu.db",),
            "--history.path: /nowhere/gpu.db: cannot be opened: there is no folder /nowhere",
        ),
        (("--history.path={file}", "--source=fake"), "--history.path: {file}: is not a database; name another file"),
        (("--history.path=x", "--target=a b"), "--target: 'a b' is not a target; write HOST:PORT"),
        (("--history.path=x", "--target=gpu1:99999"), "--target: 'gpu1:99999' is not a target; write HOST:PORT"),
        (("--history.path=x", "--target=ftp://gpu1"), "--target: 'ftp://gpu1' is not a target; write HOST:PORT"),
        (("--history.path=x", "--history.retention=5"), "--history.retention: '5' is not a duration; write 5s"),
        (("--history.path=x", "--history.retention=1h"), "--history.retention: '1h' is out of range; write 24h to"),
        (
            ("--history.path=x", "--history.size-limit=1MB"),
            "--history.size-limit: '1MB' is not a size; write bytes, or 256MiB",
        ),
        (
            ("--history.path=x", "--history.size-limit=1MiB"),
            "--history.size-limit: '1MiB' is out of range; write 16MiB to",
        ),
        (("--history.path=x", "--collection.interval=x"), "--collection.interval: 'x' is not a duration"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("precious\n" * 100)
    done = run("record", *(argument.format(file=file) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gpu-exporter: {told.format(file=file)}")
    assert done.stderr.count("\n") == 1
    assert file.read_text() == "precious\n" * 100


def test_the_report_of_what_was_recorded(tmp_path: Path) -> None:
    with recording(tmp_path, "--source=fake", "--log.level=debug") as program:
        recorded(program, "a sample was recorded")
    document = json.loads(
        run("report", f"--history.path={tmp_path / 'gpu.db'}", "--window=10m", "--format=json").stdout
    )
    assert {row["user"] for row in document["rows"]} >= {"alice", "bob"}
