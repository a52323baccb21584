"""Files that are something else, of somebody else, spoilt, or in use: told in one line, and never touched."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.exporter import environment
from tools.lab.wait import patience

from gpu_exporter.history import HistoryError, Reader, Recorder, usage
from gpu_exporter.history import file as history_file
from gpu_exporter.history.schema import APPLICATION, MIGRATIONS, VERSION
from history_story import START, Clock, Machine, record, recorder, writing


def seconds(path: Path) -> float:
    with closing(Reader(path)) as reader:
        return sum(gpu.seconds for gpu in usage(reader, start=0, end=START + 86400).gpus)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A history of ten minutes."""
    path = tmp_path / "history.db"
    record(path, Machine(), 120)
    assert seconds(path) == 600
    return path


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE precious (x)")


def of_version(version: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        record(path, Machine(), 20)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")

    return make


def cut(path: Path) -> None:
    record(path, Machine(), 600)
    os.truncate(path, path.stat().st_size - 9000)


def spoilt(path: Path) -> None:
    record(path, Machine(), 600)
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xa5" * 4096 * 6)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_text("not a database, but somebody's text\n" * 20), "is not a database"),
        (lambda path: path.write_bytes(b"SQLite format 3\0"), "is not a database"),
        (lambda path: path.write_bytes(b"\0" * 8192), "is not a database"),
        (foreign, "is the database of another program"),
        (of_version(VERSION + 1), f"is of version {VERSION + 1}, and this gpu-exporter knows versions up to {VERSION}"),
        (of_version(10**6), "is of version 1000000"),
        (cut, "is cut off"),
        (spoilt, "is damaged"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.symlink_to("/nowhere/history.db"), "there is no folder|cannot be"),
    ],
)
def test_what_is_no_history_is_refused_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], object], why: str
) -> None:
    path = tmp_path / "history.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(HistoryError, match=why) as refusal:
        Recorder(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("text" * 100), foreign, of_version(VERSION + 1), lambda path: path.mkdir()]
)
def test_a_reader_refuses_as_well(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "history.db"
    make(path)
    with pytest.raises(HistoryError, match=r"history\.db: "):
        Reader(path)


def test_a_reader_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="is not there"):
        Reader(tmp_path / "history.db")
    assert [*tmp_path.iterdir()] == []


def test_an_empty_file_becomes_a_history(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.touch()
    record(path, Machine(), 24)
    assert seconds(path) == 120


def test_a_file_of_an_older_version_is_raised_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.db"
    record(path, Machine(), 24)
    steps = (*MIGRATIONS, "ALTER TABLE gpu ADD COLUMN more TEXT;\nCREATE TABLE later (x);\n")
    monkeypatch.setattr(history_file, "MIGRATIONS", steps)
    monkeypatch.setattr(history_file, "VERSION", 2)
    with pytest.raises(HistoryError, match="is of version 1, and version 2 is read here"):
        Reader(path)
    recorder(path, Clock()).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT more FROM gpu").fetchall() == [(None,)]
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_step_that_fails_leaves_the_older_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_file, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE a (x);\nNONSENSE;\n"))
    monkeypatch.setattr(history_file, "VERSION", 2)
    with pytest.raises(HistoryError, match="cannot be used"):
        Recorder(path)
    monkeypatch.undo()
    assert seconds(path) == 600
    recorder(path, Clock()).close()


def test_the_second_writer_is_refused(path: Path) -> None:
    first = recorder(path, Clock())
    with pytest.raises(HistoryError, match=rf"is being written by another gpu-exporter \(process {os.getpid()}\)"):
        Recorder(path)
    assert seconds(path) == 600, "who reads is not in the way"
    first.close()
    recorder(path, Clock()).close()


def test_the_second_writer_is_refused_from_another_process_and_by_another_name(path: Path, tmp_path: Path) -> None:
    first = recorder(path, Clock())
    (tmp_path / "link").symlink_to(path)
    for name in (path, tmp_path / "link", Path(f"{tmp_path}/./history.db")):
        text = f"from gpu_exporter.history import Recorder; from pathlib import Path; Recorder(Path({str(name)!r}))"
        done = subprocess.run(
            [sys.executable, "-c", text],
            env=environment({"PYTHONPATH": str(ROOT / "exporter")}),
            capture_output=True,
            text=True,
            timeout=patience(),
            check=False,
        )
        assert "is being written by another gpu-exporter" in done.stderr, name
    first.close()


def test_a_writer_that_was_killed_leaves_no_lock(path: Path) -> None:
    text = (
        "import os; from gpu_exporter.history import Recorder; from pathlib import Path; "
        f"made = Recorder(Path({str(path)!r})); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=environment({"PYTHONPATH": str(ROOT / "exporter")}),
        timeout=patience(),
        check=False,
    )
    assert done.returncode == -9
    recorder(path, Clock()).close()
    assert seconds(path) == 600


@pytest.fixture
def ordinary() -> Iterator[None]:
    """Root may write everything."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


@pytest.mark.usefixtures("ordinary")
def test_a_folder_that_is_read_only_is_told() -> None:
    path = Path("/proc/history.db")
    with pytest.raises(HistoryError, match=r"^/proc/history.db: cannot be written: "):
        Recorder(path)


def test_a_file_that_is_read_only_is_told_and_can_be_read(path: Path) -> None:
    folder = path.parent
    folder.chmod(0o755)
    path.chmod(0o444)
    for beside in folder.glob("history.db-*"):
        beside.unlink()
    folder.chmod(0o555)
    try:
        if os.geteuid() == 0:
            for above in (folder, *list(folder.parents)[:3]):
                above.chmod(above.stat().st_mode | 0o055)
            os.seteuid(65534)
        try:
            with pytest.raises(HistoryError, match="cannot be written"):
                Recorder(path)
            assert seconds(path) == 600
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
    finally:
        folder.chmod(0o755)


def test_a_copy_made_meanwhile_with_its_log_can_be_gone_on_with(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    with closing(writing(path, after=3600, steps=60)):
        for file in ("history.db", "history.db-wal"):
            shutil.copy(path.parent / file, folder / file)
    assert seconds(folder / "history.db") == 900
    record(folder / "history.db", Machine(at=START + 7200), 60)
    assert seconds(folder / "history.db") == 1200


def test_a_restored_file_goes_on_from_where_it_was(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "backup.db")
    record(path, Machine(at=START + 3600), 120)
    assert seconds(path) == 1200
    shutil.copy(tmp_path / "backup.db", path)
    record(path, Machine(at=START + 7200), 60)
    assert seconds(path) == 900


def test_a_file_that_is_taken_away_is_begun_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine, clock = Machine(at=START + 3600), Clock()
    made = recorder(path, clock)
    for number in range(61):
        if number == 30:
            path.rename(path.with_name("moved.db"))
        with caplog.at_level(logging.WARNING):
            made.add("gpu1", machine.step(), machine.at)
            clock.now = machine.at
            made.flush()
    made.close()
    assert "the history file was moved or replaced" in caplog.text
    assert seconds(path) + seconds(path.with_name("moved.db")) == 600 + 300


def test_a_file_that_is_put_in_its_place_does_not_meet_the_old_ones_log(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    record(other, Machine("other"), 240)
    machine, clock = Machine(at=START + 3600), Clock()
    made = recorder(path, clock)
    for number in range(61):
        if number == 30:
            other.replace(path)
        made.add("gpu1", machine.step(), machine.at)
        clock.now = machine.at
        made.flush()
    made.close()
    with closing(Reader(path)) as reader:
        assert reader.rows("PRAGMA integrity_check") == [("ok",)]
        nodes = {gpu.gpu.node: gpu.seconds for gpu in usage(reader, start=0, end=START + 86400).gpus}
    assert nodes["other"] == 1200
    assert nodes["gpu1"] <= 300


def beside(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.glob(f"{path.name}-*"))


def test_after_the_end_the_file_alone_is_whole(path: Path, tmp_path: Path) -> None:
    """As docs/HISTORY.md has it: cp of the one file is a backup once the recorder has ended."""
    assert beside(path) == ["history.db-lock"]
    assert seconds(path) == 600
    assert beside(path) == ["history.db-lock"], "reading leaves nothing behind either"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as other:
        assert other.execute("SELECT count(*) FROM gpu_minute").fetchone() == (10,)
        record(path, Machine(at=START + 3600), 60)  # ends while another program has the file open
        shutil.copy(path, tmp_path / "backup.db")
    assert seconds(tmp_path / "backup.db") == 900


def test_a_copy_without_its_log_is_told(path: Path, tmp_path: Path) -> None:
    with closing(recorder(tmp_path / "new.db", Clock())):
        shutil.copy(tmp_path / "new.db", tmp_path / "copy.db")
        assert seconds(tmp_path / "copy.db") == 0, "what it is, it says from the beginning"
    with closing(sqlite3.connect(tmp_path / "none.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    for _ in range(2):
        with pytest.raises(HistoryError, match=r"none.db: has nothing in it; .* \.backup"):
            Reader(tmp_path / "none.db")
        assert beside(tmp_path / "none.db") == []
    assert beside(path) == ["history.db-lock"]


def test_reading_leaves_the_log_of_one_that_was_killed(path: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed.db"
    with closing(writing(path, after=3600, steps=60)):
        for ending in ("", "-wal"):
            shutil.copy(path.with_name(path.name + ending), killed.with_name(killed.name + ending))
    before = killed.with_name("killed.db-wal").read_bytes()
    assert before
    assert seconds(killed) == 900
    assert killed.with_name("killed.db-wal").read_bytes() == before


LOOKS = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM node').fetchone()"


def test_nobody_who_looks_in_takes_the_log_from_beneath_the_writer(path: Path, tmp_path: Path) -> None:
    """A hub writes and reads in one process, and somebody's sqlite3 or pandas comes and goes: the hub has its locks."""
    (tmp_path / "link.db").symlink_to(path)
    with closing(writing(path, after=3600, steps=60)), closing(Reader(path)), closing(Reader(tmp_path / "link.db")):
        log = path.with_name("history.db-wal")
        number = log.stat().st_ino
        subprocess.run([sys.executable, "-c", LOOKS, str(path)], check=True)
        assert log.stat().st_ino == number
        assert log.stat().st_size
    assert beside(path) == ["history.db-lock"]
    assert seconds(path) == 900


def test_who_closes_ends_what_is_being_asked(path: Path) -> None:
    reader, asked, refused = Reader(path), threading.Event(), []

    def endless() -> None:
        with reader.asking() as connection:
            asked.set()
            connection.execute("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n")

    def ask() -> None:
        with pytest.raises(HistoryError, match="interrupted") as error:
            endless()
        refused.append(str(error.value))

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(patience())
    reader.close()
    thread.join()
    assert refused


def test_a_reader_reads_the_file_that_is_there_now(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Reader(path)) as reader:
        assert [node.alias for node in reader.nodes()] == ["gpu1"]
        record(tmp_path / "other.db", Machine("other"), 24)
        (tmp_path / "other.db").replace(path)
        assert [node.alias for node in reader.nodes()] == ["other"]
        number = reader._identity
        path.unlink()
        for _ in range(2):
            with pytest.raises(HistoryError, match="is not there"):
                reader.nodes()
        # The file system may give the number of a file to the next one.
        monkeypatch.setattr("gpu_exporter.history.reader.identity", lambda _: number)
        record(path, Machine("third"), 24)
        assert [node.alias for node in reader.nodes()] == ["third"]


def test_a_file_says_what_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert not path.with_name("history.db-wal").exists(), "what is closed is one file"


def test_pandas_and_sqlite3_read_the_views(path: Path) -> None:
    """What pandas.read_sql does: the view's columns by name, and numbers as they are."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        for view in (
            "gpu_minutes",
            "gpu_quarters",
            "gpu_minute_owners",
            "gpu_quarter_owners",
            "host_minutes",
            "host_quarters",
        ):
            rows = connection.execute(f"SELECT * FROM {view}").fetchall()  # noqa: S608
            assert len(rows) == {"gpu_minutes": 10, "host_minutes": 10}.get(view, 0)
        assert rows == []
        first = connection.execute("SELECT * FROM gpu_minutes ORDER BY time").fetchone()
        assert (first["time"], first["node"], first["power_watts"]) == (START, "gpu1", 350.0)
