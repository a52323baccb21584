"""Slurm's files: what is read, what is tolerated, and the very scripts of docs/OWNERS.md run by bash."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.lab import ROOT
from tools.lab.clock import Clock
from tools.lab.wait import patience

from gpu_exporter.model import Identity
from gpu_exporter.owners import Allocations
from gpu_exporter.owners.slurm import Job, MalformedError, SlurmFiles, parse

GPU = "GPU-03aa20a1-2e97-d125-629d-fd4e5734553f"
MIG = "MIG-265a219d-a49f-578a-825d-222c72699c16"


class Site:
    """A directory of files and who reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "slurm"
        self.clock = Clock()
        self.files = SlurmFiles(
            directory=self.folder,
            user_name=lambda uid: {1000: "alice"}.get(uid, str(uid)),
            monotonic=self.clock,
        )

    def write(self, name: str, text: str | bytes) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_bytes(text.encode() if isinstance(text, str) else text)

    def now(self) -> Mapping[str, object]:
        self.clock.now += 1
        return dict(self.files.current())

    def run(self, script: str, **environment: str) -> None:
        """Run a script of the documentation as slurmd does: a bare environment, and its status counts."""
        done = subprocess.run(
            ["/bin/bash", "-c", SCRIPTS[script]],
            env={"GPU_EXPORTER_SLURM_DIR": str(self.folder), "SLURM_JOB_UID": "1000", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def content(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.folder.iterdir() if not path.name.startswith(".")}


def job(number: str, user: str) -> Identity:
    return Identity(user=user, labels={"slurm_job": number})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "jobs"),
    [
        ("4711 alice physics\n", (Job("4711", "alice"),)),
        ("45916256 262563\n", (Job("45916256", "262563"),)),
        ("4711\n", (Job("4711"),)),
        ("4711 alice", (Job("4711", "alice"),)),
        ("  4711\talice \r\n\n", (Job("4711", "alice"),)),
        ("1 alice\n2 bob\n1 alice\n", (Job("1", "alice"), Job("2", "bob"))),
        ("17_3 alice\n18+1 bob\n", (Job("17_3", "alice"), Job("18+1", "bob"))),
        ("4711 CORP\\alice\n", (Job("4711", "CORP\\alice"),)),
        ("", ()),
        ("\n \n", ()),
    ],
)
def test_lines(text: str, jobs: tuple[Job, ...]) -> None:
    assert parse(text) == jobs


@pytest.mark.parametrize(
    "text", ["alice 4711", "1 2 3 4", "-1 alice", "4711 al\x00ice", "4711 " + "x" * 300, "\u0663 alice"]
)
def test_lines_that_make_no_sense(text: str) -> None:
    with pytest.raises(MalformedError, match="line 2 is not 'job user"):
        parse(f"1 alice\n{text}\n")


@given(st.text() | st.lists(st.sampled_from(["1", "17_2", " ", "\n", "alice", "\t", "\x85", "\u2028"])).map("".join))
def test_no_text_is_too_strange(text: str) -> None:
    try:
        jobs = parse(text)
    except MalformedError:
        return
    assert all(job.job and " " not in job.job + job.user for job in jobs)


def test_owners_by_index_uuid_and_instance(site: Site) -> None:
    site.write("0", "4711 1000 physics\n")
    site.write("07", "4712 bob\n")
    site.write(GPU, "4713 4242\n")
    site.write(MIG, "1 alice\n2 bob\n")
    files: Allocations = site.files
    assert files.current() == {
        "0": (job("4711", "alice"),),
        "7": (job("4712", "bob"),),
        GPU: (job("4713", "4242"),),
        MIG: (job("1", "alice"), job("2", "bob")),
    }
    files.close()


def test_a_uid_is_its_own_name_by_default(site: Site) -> None:
    site.write("0", "4711 1000\n")
    assert SlurmFiles(directory=site.folder).current() == {"0": (job("4711", "1000"),)}


def test_a_uid_gets_its_name_when_it_is_known(site: Site) -> None:
    names = {1000: "1000"}
    site.write("0", "4711 1000\n")
    files = SlurmFiles(directory=site.folder, user_name=names.__getitem__, monotonic=site.clock)
    assert files.current()["0"][0].user == "1000"
    names[1000] = "alice"
    site.clock.now = 1.0
    assert files.current()["0"][0].user == "alice"


def test_no_directory_means_no_jobs(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    assert site.now() == {}
    assert caplog.records == []
    site.write("0", "4711 alice\n")
    assert site.now() == {"0": (job("4711", "alice"),)}


def test_the_directory_is_looked_at_once_a_second(site: Site) -> None:
    site.write("0", "1 alice\n")
    first = site.files.current()
    site.write("0", "2 alice\n")
    site.clock.now = 0.9
    assert site.files.current() is first
    site.clock.now = 1.0
    assert site.files.current() == {"0": (job("2", "alice"),)}, "same size, same second: seen anyway"
    assert first == {"0": (job("1", "alice"),)}, "what was handed out does not change"


def test_a_removed_file_is_a_free_gpu(site: Site) -> None:
    site.write("0", "1 alice\n")
    assert site.now()
    (site.folder / "0").unlink()
    assert site.now() == {}


def test_an_empty_file_is_one_that_is_being_written(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.write("0", "")
    assert site.now() == {}
    assert caplog.records == []


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    records = [(Path(vars(record)["file"]).name, vars(record)["why"]) for record in caplog.records]
    caplog.clear()
    return records


def test_a_malformed_file_is_told_once_a_content(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.write("0", "alice has it\n")
    site.write("1", "1 alice\n")
    assert site.now() == {"1": (job("1", "alice"),)}
    assert told(caplog) == [("0", "line 1 is not 'job user [account]', such as '4711 alice physics'")]
    site.now()
    assert told(caplog) == []
    site.write("0", "bob has it\n")
    site.now()
    assert len(told(caplog)) == 1
    site.write("0", "2 bob\n")
    assert site.now()["0"] == (job("2", "bob"),)
    assert told(caplog) == []
    site.write("0", "bob has it\n")
    site.now()
    assert len(told(caplog)) == 1, "it was right in between"


@pytest.mark.parametrize("name", ["gpu0", "README", "99999", "GPU-", f"{GPU}.bak", "0~"])
def test_a_name_that_is_no_gpus(site: Site, name: str, caplog: pytest.LogCaptureFixture) -> None:
    site.write(name, "1 alice\n")
    assert site.now() == {}
    site.now()
    assert told(caplog) == [(name, "the name is neither a GPU's index nor a UUID")]


def test_dot_files_are_somebody_elses(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.write(".lock", "x")
    assert site.now() == {}
    assert caplog.records == []


def test_what_is_no_file_holds_nobody_up(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.write("0", "1 alice\n")
    os.mkfifo(site.folder / "1")
    (site.folder / "2").mkdir()
    (site.folder / "3").symlink_to(site.folder / "0")
    site.write("4", b"1 alice\n" * 3000)
    site.write("5", b"\xff\xfe")
    found: list[Mapping[str, object]] = []
    reader = threading.Thread(target=lambda: found.append(site.now()), daemon=True)
    reader.start()
    reader.join(patience())
    assert found == [{"0": (job("1", "alice"),)}]
    assert [name for name, _ in told(caplog)] == ["1", "2", "3", "4", "5"]


def test_a_flood_of_files_is_bounded(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gpu_exporter.owners.slurm._MOST_FILES", 3)
    for number in range(5):
        site.write(str(number), "1 alice\n")
    assert list(site.now()) == ["0", "1", "2"]
    site.now()
    assert told(caplog) == [("slurm", "5 files; the first 3 are read")]


def test_a_directory_that_is_none(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.folder.write_text("")
    assert site.now() == {}
    site.now()
    assert told(caplog) == [("slurm", "Not a directory")]


# --- the scripts of the documentation ---------------------------------------------------------------------------------

PAGE = (ROOT / "docs/OWNERS.md").read_text()
SCRIPTS = dict(re.findall(r"`/etc/slurm/(\w+)\.d/gpu-exporter\.sh`:\n\n```bash\n(.*?)```", PAGE, re.DOTALL))

JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_USER": "alice", "SLURM_JOB_ACCOUNT": "physics", "CUDA_VISIBLE_DEVICES": "0,1"}
OTHER = {"SLURM_JOB_ID": "471", "SLURM_JOB_USER": "bob", "SLURM_JOB_ACCOUNT": "", "CUDA_VISIBLE_DEVICES": "1"}
SHARED = {"GPU_EXPORTER_SLURM_SHARED": "yes"}


def test_the_page_has_both_scripts() -> None:
    assert set(SCRIPTS) == {"prolog", "epilog"}
    assert all(script.count("\n") <= 13 for script in SCRIPTS.values()), "short enough to be read before it is run"


def test_a_job_comes_and_goes(site: Site) -> None:
    site.run("prolog", **JOB)
    assert site.content() == {"0": "4711 alice physics\n", "1": "4711 alice physics\n"}
    alice = (job("4711", "alice"),)
    assert site.now() == {"0": alice, "1": alice}
    site.run("epilog", SLURM_JOB_ID="4711")
    assert site.content() == {}
    assert site.now() == {}


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"CUDA_VISIBLE_DEVICES": f"{MIG},MIG-2", "SLURM_JOB_GPUS": "0,1"}, {MIG, "MIG-2"}),
        ({"CUDA_VISIBLE_DEVICES": GPU}, {GPU}),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_GPUS": "3"}, {"3"}),
        ({"SLURM_JOB_GPUS": "10,11"}, {"10", "11"}),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, set()),
        ({"CUDA_VISIBLE_DEVICES": "../../x,0;rm,$(id),*"}, set()),
        ({}, set()),
    ],
)
def test_what_slurm_calls_the_gpus(site: Site, environment: dict[str, str], names: set[str]) -> None:
    site.run("prolog", SLURM_JOB_ID="1", SLURM_JOB_USER="alice", **environment)
    assert set(site.content()) == names
    assert set(site.now()) == names


def test_without_a_name_the_uid_stands(site: Site) -> None:
    site.run("prolog", SLURM_JOB_ID="1", SLURM_JOB_GPUS="0")
    assert site.now() == {"0": (job("1", "alice"),)}


def test_the_next_job_replaces_what_an_epilog_left(site: Site) -> None:
    site.run("prolog", **JOB)
    site.run("prolog", **OTHER)
    assert site.content() == {"0": "4711 alice physics\n", "1": "471 bob \n"}
    site.run("epilog", SLURM_JOB_ID="4711")
    assert site.content() == {"1": "471 bob \n"}, "of job 471 the epilog of 4711 takes nothing"


def test_jobs_that_share_a_gpu(site: Site) -> None:
    site.run("prolog", **JOB, **SHARED)
    site.run("prolog", **OTHER, **SHARED)
    site.run("prolog", **JOB, **SHARED)
    assert site.now()["1"] == (
        job("471", "bob"),
        job("4711", "alice"),
    )
    site.run("epilog", SLURM_JOB_ID="471", **SHARED)
    assert site.content() == {"0": "4711 alice physics\n", "1": "4711 alice physics\n"}


def test_many_jobs_at_once_lose_no_line(site: Site) -> None:
    environment = {"GPU_EXPORTER_SLURM_DIR": str(site.folder), **SHARED, "CUDA_VISIBLE_DEVICES": "0"}
    running = [
        subprocess.Popen(["/bin/bash", "-c", SCRIPTS["prolog"]], env={**environment, "SLURM_JOB_ID": str(job)})
        for job in range(1, 13)
    ]
    assert [script.wait(patience()) for script in running] == [0] * 12
    site.clock.now += 1
    assert {who.labels["slurm_job"] for who in site.files.current()["0"]} == {str(job) for job in range(1, 13)}


@pytest.mark.parametrize("script", ["prolog", "epilog"])
def test_a_script_never_drains_the_node(tmp_path: Path, script: str) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        ["/bin/bash", "-c", SCRIPTS[script]],
        env={**JOB, "GPU_EXPORTER_SLURM_DIR": str(tmp_path / "file/in/the/way")},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0


def test_anybody_may_read_what_the_prolog_writes(site: Site) -> None:
    site.run("prolog", **JOB)
    assert site.folder.stat().st_mode & 0o777 == 0o755
    assert (site.folder / "0").stat().st_mode & 0o777 == 0o644
