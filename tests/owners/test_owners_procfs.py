"""Whose a process is: a /proc made of files, and real processes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.wait import wait_for

from gpu_exporter.model import Identity
from gpu_exporter.owners import ProcessIdentities
from gpu_exporter.owners.cgroups import Cgroup
from gpu_exporter.owners.procfs import ProcfsIdentities
from gpu_exporter.owners.user_names import UserNames
from proc_tree import ID, POD, SLICE, Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_an_owner_in_full(tree: Tree) -> None:
    tree.process(7, cgroup=f"0::/kubepods.slice/{SLICE}/cri-containerd-{ID}.scope\n")
    owners: ProcessIdentities = tree.owners()
    assert owners.identity(7) == Identity(process="python3.11", user="alice", container="4f797c539e6c")


def test_the_pod_and_the_whole_identifier_are_there_for_a_join(tree: Tree) -> None:
    tree.process(7, cgroup=f"0::/kubepods.slice/{SLICE}/cri-containerd-{ID}.scope\n")
    owners = tree.owners()
    assert owners.pod_uid(7) == "", "nothing is read but by identity()"
    owners.identity(7)
    assert owners.pod_uid(7) == POD
    assert owners.cgroup(7).container == ID
    assert owners.pod_uid(8) == ""


def test_a_slurm_job_and_its_step(tree: Tree) -> None:
    tree.process(7, cgroup="0::/system.slice/slurmstepd.scope/job_4711/step_2/user/task_0\n")
    owners = tree.owners()
    assert owners.identity(7) == Identity(process="python3.11", user="alice", labels={"slurm_job": "4711"})


def test_a_rootless_container_is_its_users(tree: Tree) -> None:
    tree.process(
        7,
        uid=100_999,
        cgroup=f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
    )
    identity = tree.owners().identity(7)
    assert identity is not None
    assert identity.user == "alice"


@pytest.mark.parametrize(
    ("exe", "comm", "process"),
    [
        ("/opt/app/train", "train", "train"),
        ("/opt/app/train (deleted)", "train", "train"),
        ("/memfd:job (deleted)", "3", "memfd:job"),
        (None, "pt_main_thread", "pt_main_thread"),
        (None, "a) S (b", "a) S (b"),
        (None, "", ""),
        (b"/opt/\xff\xfe", "x", "\ufffd\ufffd"),
        ("/opt/with\nnewline", "x", "with\nnewline"),
    ],
)
def test_the_name_of_a_process(tree: Tree, exe: str | bytes | None, comm: str, process: str) -> None:
    tree.process(7, exe=exe, comm=comm)
    identity = tree.owners().identity(7)
    assert identity is not None
    assert identity.process == process
    identity.process.encode()


def test_an_unknown_user_is_a_number(tree: Tree) -> None:
    tree.process(7, uid=4242)
    identity = tree.owners().identity(7)
    assert identity is not None
    assert identity.user == "4242"


def test_a_reused_pid_inherits_nothing(tree: Tree) -> None:
    tree.process(7, start=5000, cgroup=f"0::/system.slice/docker-{ID}.scope\n")
    owners = tree.owners()
    owners.identity(7)
    tree.process(7, start=5001, uid=0, cgroup="0::/system.slice/sshd.service\n")
    assert owners.identity(7) == Identity(process="python3.11", user="root")
    assert owners.cgroup(7) == Cgroup()


def test_another_program_in_the_same_process_is_noticed(tree: Tree) -> None:
    tree.process(7, comm="bash", exe="/usr/bin/bash")
    owners = tree.owners()
    assert owners.identity(7) == Identity(process="bash", user="alice")
    tree.process(7, comm="train", exe="/opt/train")
    assert owners.identity(7) == Identity(process="train", user="alice")


def test_what_is_known_is_not_read_again(tree: Tree) -> None:
    folder = tree.process(7)
    owners = tree.owners()
    known = owners.identity(7)
    for name in ("status", "cgroup", "comm", "exe"):
        (folder / name).unlink()
    assert owners.identity(7) == known


def test_arguments_and_environment_are_never_read(tree: Tree) -> None:
    folder = tree.process(7)
    for name in ("cmdline", "environ"):
        os.mkfifo(folder / name)  # whoever opens it hangs
    assert tree.owners().identity(7) is not None


def test_a_process_that_is_gone(tree: Tree) -> None:
    folder = tree.process(7)
    owners = tree.owners()
    assert owners.identity(7) is not None
    (folder / "stat").unlink()
    assert owners.identity(7) is None
    assert owners.pod_uid(7) == ""
    owners.forget_but([7])
    assert owners.identity(7) is None, "as long as the driver lists it"
    owners.forget_but([])
    assert owners.identity(7) == Identity(), "a driver that lists it anew means another one, which we cannot see"
    assert not owners.trouble


@pytest.mark.parametrize("pid", [0, -1, 8, 2**32 - 1])
def test_what_was_never_seen_has_not_ended(tree: Tree, pid: int) -> None:
    owners = tree.owners()
    assert owners.identity(pid) == Identity()
    assert not owners.trouble, "nothing is hidden: it may be of another pid namespace"


def test_a_proc_that_hides_processes_says_so(tree: Tree) -> None:
    """hidepid=2: what is not ours is not there, not even process 1."""
    tree.process(7)
    owners = tree.owners()
    assert owners.identity(7) != Identity()
    assert not owners.trouble
    tree.hide()
    tree.process(9)
    assert owners.identity(7) == Identity(), "not seen is not ended"
    assert owners.identity(8) == Identity()
    assert "hidepid" in owners.trouble
    assert owners.identity(9) == Identity("python3.11", "alice"), "our own are seen"
    assert owners.visible


def test_no_proc_at_all(tmp_path: Path) -> None:
    owners = ProcfsIdentities(root=tmp_path / "proc", names=UserNames(passwd=None, resolve=None))
    assert not owners.visible
    assert "not mounted" in owners.trouble
    assert owners.identity(7) == Identity()


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), OSError(5, "Input/output error")])
def test_an_error_that_says_nothing_about_the_process_ends_nobody(
    tree: Tree, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.process(7)
    owners = tree.owners()
    known = owners.identity(7)
    with monkeypatch.context() as patch:

        def fail(_path: str, _most: int) -> bytes:
            raise error

        patch.setattr("gpu_exporter.owners.procfs._read", fail)
        assert owners.identity(7) == Identity()
    assert owners.identity(7) == known


def test_a_process_that_is_younger_than_the_list_is_another_one(tree: Tree) -> None:
    """The pid was given to somebody else between the driver's list and our look."""
    tree.process(7, start=5000)  # 50 s after the boot
    owners = tree.owners()
    assert owners.identity(7, listed_at=49.9) is None
    assert owners.pod_uid(7) == ""
    assert owners.identity(7, listed_at=50.0) == Identity("python3.11", "alice")
    tree.process(8, start=2**40)
    assert owners.identity(8, listed_at=49.9) == Identity("python3.11", "alice"), "a clock that is not ours"


def test_a_thread_is_its_processes_users() -> None:
    """Drivers have listed thread identifiers; /proc has them, though it does not show them."""
    with subprocess.Popen([sys.executable, "-c", THREAD], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        thread = int(child.stdout.readline())
        real = ProcfsIdentities(names=UserNames(resolve=None), nested=True)
        assert thread != child.pid
        assert real.identity(thread) == real.identity(child.pid) != Identity()
        child.kill()


@pytest.mark.parametrize("name", ["status", "cgroup"])
def test_a_part_that_could_not_be_read_is_read_later(tree: Tree, name: str) -> None:
    folder = tree.process(7, cgroup=f"0::/system.slice/docker-{ID}.scope\n")
    (folder / name).rename(folder / "aside")
    owners = tree.owners()
    assert owners.identity(7) != Identity("python3.11", "alice", ID[:12])
    (folder / "aside").rename(folder / name)
    assert owners.identity(7) == Identity("python3.11", "alice", ID[:12])


JOB_CGROUPS = {
    "v1": f"9:devices:/slurm/uid_1000/job_4711/step_0/libpod-{ID}.scope\n",
    "v2": f"0::/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0/libpod-{ID}.scope\n",
}


@pytest.mark.parametrize("version", JOB_CGROUPS)
@pytest.mark.parametrize("ranges", ["alice:100000:65536\nbob:165536:65536\n", "1000:165536:1000\n"])
def test_a_rootless_container_in_a_job(tree: Tree, version: str, ranges: str) -> None:
    """Podman in a Slurm job has no login slice: NVIDIA/deepops#1206."""
    (tree.passwd.parent / "subuid").write_text(ranges)
    names = UserNames(passwd=tree.passwd, subuid=tree.passwd.parent / "subuid", resolve=None)
    tree.process(7, uid=166535, cgroup=JOB_CGROUPS[version])
    identity = ProcfsIdentities(root=tree.root, names=names).identity(7)
    bob = "bob:" in ranges and version == "v2"
    assert identity == Identity("python3.11", "bob" if bob else "alice", ID[:12], {"slurm_job": "4711"})
    assert identity is not None
    assert identity.uid == (None if bob else 1000), "passwd has no bob"


@pytest.mark.parametrize("stat", [b"", b"7", b"7 (x) S 1", b"\xff" * 2000])
def test_a_stat_that_is_none(tree: Tree, stat: bytes) -> None:
    (tree.process(7) / "stat").write_bytes(stat)
    assert tree.owners().identity(7) == Identity()


@pytest.mark.parametrize("later", [None, 6000])
def test_a_process_that_ends_while_it_is_looked_at(
    tree: Tree, later: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree.process(7, cgroup=f"0::/system.slice/docker-{ID}.scope\n")
    owners = tree.owners()
    program = owners._program

    def end(pid: int) -> str:
        if later is None:
            (folder / "stat").unlink()
        else:
            tree.process(7, start=later)
        return program(pid)

    monkeypatch.setattr(owners, "_program", end)
    assert owners.identity(7) is None
    assert owners.cgroup(7) == Cgroup()


def test_parts_that_may_not_be_read_are_empty(tree: Tree) -> None:
    folder = tree.process(7, exe=None)
    for name in ("status", "cgroup", "comm"):
        (folder / name).unlink()
    assert tree.owners().identity(7) == Identity()


def test_hidepid_leaves_an_owner_without_parts(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, _: int) -> bytes:
        raise PermissionError(path)

    tree.process(7)
    owners = tree.owners()
    assert owners.identity(7) != Identity()
    # Root reads everything, so that no mode of a file would refuse.
    monkeypatch.setattr("gpu_exporter.owners.procfs._read", refuse)
    assert owners.identity(7) == Identity(), "nothing is known of it, and what was known may be another's"
    assert owners.cgroup(7) == Cgroup()


def test_a_pid_namespace_of_our_own_shows_strangers(tree: Tree) -> None:
    tree.process(7)
    tree.namespace(4026532999)
    owners = tree.owners()
    assert not owners.visible
    assert "hostPID" in owners.trouble
    assert owners.identity(7) == Identity(), "the driver's process 7 need not be ours"
    nested = tree.owners(nested=True)
    assert nested.visible
    assert nested.identity(7) is not None


def test_the_machines_pid_namespace_is_known(tree: Tree) -> None:
    assert tree.owners().visible


def test_memory_stays_flat_in_a_flood_of_processes(tree: Tree) -> None:
    owners = tree.owners()
    tree.process(1)
    folder = f"{tree.root}/1"
    tracemalloc.start()
    try:
        sizes = []
        for first in range(10_000, 15_000, 500):
            pids = range(first, first + 500)
            for pid in pids:
                folder, before = f"{tree.root}/{pid}", folder
                os.rename(before, folder)  # noqa: PTH104 - pathlib interns every name
                assert owners.identity(pid) is not None
            owners.forget_but([])
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(owners._seen) == 0
    assert max(sizes[2:]) - sizes[2] < 50_000


def test_memory_is_bounded_even_where_nobody_forgets(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_exporter.owners.procfs._MOST_PROCESSES", 8)
    owners = tree.owners()
    for pid in range(1, 30):
        tree.process(pid)
        owners.identity(pid)
    assert list(owners._seen) == list(range(22, 30))


def test_forgetting_keeps_the_others(tree: Tree) -> None:
    owners = tree.owners()
    for pid in (7, 8, 9):
        tree.process(pid)
        owners.identity(pid)
    owners.forget_but([8, 10])
    assert list(owners._seen) == [8]


# --- real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def real() -> ProcfsIdentities:
    return ProcfsIdentities(names=UserNames(resolve=None), nested=True)  # tests run in containers, too


@pytest.fixture
def sleep() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sh", "-c", "exec sleep 60"]) as child:
        wait_for(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        yield child
        child.kill()


def test_a_real_process_is_ours(real: ProcfsIdentities, sleep: subprocess.Popen[bytes]) -> None:
    mine = real.identity(os.getpid())
    theirs = real.identity(sleep.pid)
    assert mine is not None
    assert theirs is not None
    assert theirs.process == Path("/proc", str(sleep.pid), "exe").resolve().name
    assert mine.process == Path(sys.executable).resolve().name
    assert theirs.user == mine.user != ""
    assert theirs.container == mine.container


def test_a_real_process_ends(real: ProcfsIdentities, sleep: subprocess.Popen[bytes]) -> None:
    assert real.identity(sleep.pid) is not None
    sleep.kill()
    sleep.wait()
    assert real.identity(sleep.pid) is None
    assert sleep.pid not in real._seen


def test_a_real_zombie_has_an_owner_still(real: ProcfsIdentities) -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        identity = real.identity(child.pid)
        assert identity is not None
        assert identity.process == "true", "its executable is gone, its name is not"
        child.wait()
    assert real.identity(child.pid) is None


def test_a_real_process_that_executes_another_program(real: ProcfsIdentities) -> None:
    with subprocess.Popen(
        ["/bin/bash", "-c", "echo; read; exec sleep 60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        before = real.identity(child.pid)
        assert before is not None
        assert before.process == "bash"
        child.stdin.write(b"\n")
        child.stdin.flush()
        wait_for(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        after = real.identity(child.pid)
        child.kill()
    assert after is not None
    assert after.process != "bash"


THREAD = """
import threading, time
threading.Thread(target=lambda: (print(threading.get_native_id(), flush=True), time.sleep(600))).start()
"""
PYTHON = {"PYTHONPATH": str(ROOT / "exporter")}
# Imports come first: the checkout need not be readable for nobody.
AS_NOBODY = """
from gpu_exporter.owners.procfs import ProcfsIdentities
from gpu_exporter.owners.user_names import UserNames
import os, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(ProcfsIdentities(names=UserNames(resolve=None), nested=True).identity(int(sys.argv[1])).process)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_a_real_process_of_somebody_else_from_an_unprivileged_exporter() -> None:
    name = "a-very-long-program-name"
    with subprocess.Popen([name, "60"], executable="/bin/sleep") as child:
        wait_for(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(child.pid)], capture_output=True, text=True, check=True, env=PYTHON
        )
        child.kill()
    assert done.stdout == "sleep\n", "comm, for the link is closed to us; never argv"
