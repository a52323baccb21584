"""Whose a process is: cgroup paths as they are seen in the wild, real processes, names that take their time."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_exporter.model import Owner
from gpu_exporter.owners import ProcessOwners
from gpu_exporter.owners.procfs import Cgroup, ProcfsOwners, UserNames, host_names, parse_cgroup
from harness import ROOT

ID = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
INNER = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
POD = "0d1f3c2a-7b64-4c1e-9a55-3e0f6b7c8d90"
SLICE = f"kubepods-burstable-pod{POD.replace('-', '_')}.slice"
HASH = "a3f5c7e9b1d2468aa3f5c7e9b1d2468a"
POD_OF = Cgroup(container=ID, pod_uid=POD)

CGROUPS = {
    # no container, no job
    "v2 session": ("0::/user.slice/user-1000.slice/session-3.scope", Cgroup(user_slice=1000)),
    "v2 user manager": (
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope",
        Cgroup(user_slice=1000),
    ),
    "v2 service": ("0::/system.slice/nvidia-persistenced.service", Cgroup()),
    "v2 root": ("0::/", Cgroup()),
    "v1 root": ("4:memory:/\n1:name=systemd:/\n0::/", Cgroup()),
    "kernel without cgroups": ("", Cgroup()),
    "hash too short": (f"0::/docker/{ID[:40]}", Cgroup()),
    "hash too long": (f"0::/docker/{ID}ab", Cgroup()),
    # Docker
    "docker v1 cgroupfs": (f"5:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}", Cgroup(container=ID)),
    "docker v1 systemd": (f"10:devices:/system.slice/docker-{ID}.scope", Cgroup(container=ID)),
    "docker v2 cgroupfs": (f"0::/docker/{ID}", Cgroup(container=ID)),
    "docker v2 systemd": (f"0::/system.slice/docker-{ID}.scope", Cgroup(container=ID)),
    "docker v2 systemd, removed": (f"0::/system.slice/docker-{ID}.scope (deleted)", Cgroup(container=ID)),
    "docker rootless": (
        f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope",
        Cgroup(container=ID, user_slice=1000),
    ),
    "docker from a private cgroup namespace": (f"0::/../docker-{ID}.scope", Cgroup(container=ID)),
    "v1 hybrid, one line only": (f"5:memory:/\n3:cpu:/docker/{ID}\n0::/", Cgroup(container=ID)),
    "v1 named hierarchy with a colon": (f"1:name=a:b:/x\n2:devices:/docker/{ID}", Cgroup(container=ID)),
    "docker in docker": (f"0::/docker/{ID}/docker/{INNER}", Cgroup(container=ID)),
    "docker in docker, systemd": (f"0::/system.slice/docker-{ID}.scope/docker/{INNER}", Cgroup(container=ID)),
    "systemd in docker": (
        f"0::/docker/{ID}/user.slice/user-1000.slice/session-1.scope",
        Cgroup(container=ID),
    ),
    "nerdctl": (f"0::/system.slice/nerdctl-{ID}.scope", Cgroup(container=ID)),
    # Podman
    "podman v1": (f"4:memory:/machine.slice/libpod-{ID}.scope", Cgroup(container=ID)),
    "podman v2": (f"0::/machine.slice/libpod-{ID}.scope/container", Cgroup(container=ID)),
    "podman cgroupfs": (f"0::/libpod_parent/libpod-{ID}", Cgroup(container=ID)),
    "podman rootless": (
        f"0::/user.slice/user-1001.slice/user@1001.service/user.slice/libpod-{ID}.scope/container",
        Cgroup(container=ID, user_slice=1001),
    ),
    # Kubernetes
    "containerd v1 cgroupfs": (f"4:memory:/kubepods/burstable/pod{POD}/{ID}", POD_OF),
    "containerd v1 cgroupfs, guaranteed": (f"4:memory:/kubepods/pod{POD}/{ID}", POD_OF),
    "containerd v1 systemd by the kubelet only": (
        f"4:memory:/system.slice/containerd.service/{SLICE}:cri-containerd:{ID}",
        POD_OF,
    ),
    "containerd v2 cgroupfs": (f"0::/kubepods/besteffort/pod{POD}/{ID}", POD_OF),
    "containerd v2 systemd": (
        f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope",
        POD_OF,
    ),
    "containerd v2 guaranteed": (
        f"0::/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{ID}.scope",
        POD_OF,
    ),
    "cri-o v1": (f"9:devices:/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-{ID}.scope", POD_OF),
    "cri-o v2": (f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-{ID}.scope/container", POD_OF),
    "dockershim": (f"4:memory:/kubepods.slice/kubepods-burstable.slice/{SLICE}/docker-{ID}.scope", POD_OF),
    "another pod, from a private cgroup namespace": (f"0::/../../{SLICE}/cri-containerd-{ID}.scope", POD_OF),
    "another pod, from a private cgroup namespace, cgroupfs": (f"0::/../../pod{POD}/{ID}", POD_OF),
    "static pod": (
        f"0::/kubepods.slice/kubepods-pod{HASH}.slice/cri-containerd-{ID}.scope",
        Cgroup(container=ID, pod_uid=HASH),
    ),
    "pod without a container": (f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}", Cgroup(pod_uid=POD)),
    "kind: a pod in a container": (
        f"0::/docker/{INNER}/kubelet.slice/kubelet-kubepods.slice/kubelet-{SLICE}/cri-containerd-{ID}.scope",
        POD_OF,
    ),
    "docker in a pod": (
        f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope/docker/{INNER}",
        POD_OF,
    ),
    # Slurm
    "slurm v1": (
        "4:memory:/slurm/uid_1000/job_123/step_0\n3:cpuset:/slurm/uid_1000/job_123/step_0/task_1\n1:name=systemd:/x",
        Cgroup(slurm_job="123", slurm_step="0"),
    ),
    "slurm v1 with a node name": (
        "9:devices:/slurm_gpu07/uid_1000/job_123/step_batch/task_0",
        Cgroup(slurm_job="123", slurm_step="batch"),
    ),
    "slurm v1, the step on a later line": (
        "9:devices:/slurm/uid_1000/job_123\n4:memory:/slurm/uid_1000/job_123/step_extern",
        Cgroup(slurm_job="123", slurm_step="extern"),
    ),
    "slurm v2": (
        "0::/system.slice/slurmstepd.scope/job_123/step_0/user/task_0",
        Cgroup(slurm_job="123", slurm_step="0"),
    ),
    "slurm v2 extern": (
        "0::/system.slice/slurmstepd.scope/job_123/step_extern/user/task_special",
        Cgroup(slurm_job="123", slurm_step="extern"),
    ),
    "slurm v2 several slurmd": (
        "0::/system.slice/gpu07_slurmstepd.scope/job_123/step_interactive/user/task_0",
        Cgroup(slurm_job="123", slurm_step="interactive"),
    ),
    "slurm v2 itself": ("0::/system.slice/slurmstepd.scope/system", Cgroup()),
    "container in a slurm job": (
        f"0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0/libpod-{ID}.scope",
        Cgroup(container=ID, slurm_job="7", slurm_step="0"),
    ),
    "a job that a user made up": (
        "0::/user.slice/user-666.slice/user@666.service/slurmstepd.scope/job_123/step_0",
        Cgroup(user_slice=666),
    ),
    "a directory that looks like a job": ("0::/system.slice/job_123/step_0", Cgroup()),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_cgroup_paths(case: str) -> None:
    text, expected = CGROUPS[case]
    assert parse_cgroup(text) == expected
    assert parse_cgroup(text + "\n") == expected


pieces = st.sampled_from(
    [
        *("/", ":", "-", "_", "\n", "0::", "..", ID, POD, SLICE, "pod", "kubepods", ".slice", ".scope", "docker"),
        *("libpod", "slurmstepd.scope", "job_", "step_", "uid_", "user-", "123", " (deleted)", "\u2028", "\x85"),
    ]
)


@given(st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=40).map("".join)))
def test_no_cgroup_text_is_too_strange(text: str) -> None:
    found = parse_cgroup(text)
    assert found.container == "" or (len(found.container) == 64 and set(found.container) <= set("0123456789abcdef"))
    assert found.pod_uid == "" or (len(found.pod_uid) in {32, 36} and "_" not in found.pod_uid)
    assert found.slurm_job == "" or found.slurm_job.isdigit()
    assert found.slurm_job or not found.slurm_step


@pytest.mark.parametrize("piece", ["a-", "/", "pod", "0", "/pod", "-pod", "job_1/", "/user-", "slurmstepd.scope/"])
def test_long_paths_cost_little(piece: str) -> None:
    started = time.process_time()
    parse_cgroup("0::/" + piece * 10_000)
    assert time.process_time() - started < 1, "not quadratic"


# --- a /proc made of files --------------------------------------------------------------------------------------------


class Tree:
    """A /proc with what a test puts there, and the /etc beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "proc"
        self.passwd = folder / "etc/passwd"
        self.passwd.parent.mkdir()
        self.passwd.write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
        (self.root / "self/ns").mkdir(parents=True)
        self.namespace(4026531836)

    def namespace(self, inode: int) -> None:
        link = self.root / "self/ns/pid"
        link.unlink(missing_ok=True)
        link.symlink_to(f"pid:[{inode}]")

    def process(
        self,
        pid: int,
        *,
        start: int = 5000,
        comm: str = "python3",
        exe: str | bytes | None = "/usr/bin/python3.11",
        uid: int = 1000,
        cgroup: str = "0::/\n",
    ) -> Path:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        fields = ["S", "1", *["0"] * 17, str(start), *["0"] * 30]
        (folder / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)}\n")
        (folder / "comm").write_text(f"{comm}\n")
        (folder / "status").write_text(f"Name:\t{comm}\nUmask:\t0022\nUid:\t{uid}\t0\t0\t0\nGid:\t0\t0\t0\t0\n")
        (folder / "cgroup").write_text(cgroup)
        (folder / "exe").unlink(missing_ok=True)
        if exe is not None:
            (folder / "exe").symlink_to(os.fsdecode(exe))
        return folder

    def owners(self, **rest: object) -> ProcfsOwners:
        return ProcfsOwners(root=self.root, names=UserNames(passwd=self.passwd, resolve=None), **rest)  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_an_owner_in_full(tree: Tree) -> None:
    tree.process(7, cgroup=f"0::/kubepods.slice/{SLICE}/cri-containerd-{ID}.scope\n")
    owners: ProcessOwners = tree.owners()
    assert owners.owner(7) == Owner(process="python3.11", user="alice", container="4f797c539e6c")


def test_the_pod_and_the_whole_identifier_are_there_for_a_join(tree: Tree) -> None:
    tree.process(7, cgroup=f"0::/kubepods.slice/{SLICE}/cri-containerd-{ID}.scope\n")
    owners = tree.owners()
    assert owners.pod_uid(7) == "", "nothing is read but by owner()"
    owners.owner(7)
    assert owners.pod_uid(7) == POD
    assert owners.cgroup(7).container == ID
    assert owners.pod_uid(8) == ""


def test_a_slurm_job_and_its_step(tree: Tree) -> None:
    tree.process(7, cgroup="0::/system.slice/slurmstepd.scope/job_4711/step_2/user/task_0\n")
    owners = tree.owners()
    assert owners.owner(7) == Owner(process="python3.11", user="alice", slurm_job="4711")
    assert owners.cgroup(7).slurm_step == "2"


def test_a_rootless_container_is_its_users(tree: Tree) -> None:
    tree.process(
        7,
        uid=100_999,
        cgroup=f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
    )
    owner = tree.owners().owner(7)
    assert owner is not None
    assert owner.user == "alice"


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
    owner = tree.owners().owner(7)
    assert owner is not None
    assert owner.process == process
    owner.process.encode()


def test_an_unknown_user_is_a_number(tree: Tree) -> None:
    tree.process(7, uid=4242)
    owner = tree.owners().owner(7)
    assert owner is not None
    assert owner.user == "4242"


def test_a_reused_pid_inherits_nothing(tree: Tree) -> None:
    tree.process(7, start=5000, cgroup=f"0::/system.slice/docker-{ID}.scope\n")
    owners = tree.owners()
    owners.owner(7)
    tree.process(7, start=5001, uid=0, cgroup="0::/system.slice/sshd.service\n")
    assert owners.owner(7) == Owner(process="python3.11", user="root")
    assert owners.cgroup(7) == Cgroup()


def test_another_program_in_the_same_process_is_noticed(tree: Tree) -> None:
    tree.process(7, comm="bash", exe="/usr/bin/bash")
    owners = tree.owners()
    assert owners.owner(7) == Owner(process="bash", user="alice")
    tree.process(7, comm="train", exe="/opt/train")
    assert owners.owner(7) == Owner(process="train", user="alice")


def test_what_is_known_is_not_read_again(tree: Tree) -> None:
    folder = tree.process(7)
    owners = tree.owners()
    known = owners.owner(7)
    for name in ("status", "cgroup", "comm", "exe"):
        (folder / name).unlink()
    assert owners.owner(7) == known


def test_arguments_and_environment_are_never_read(tree: Tree) -> None:
    folder = tree.process(7)
    for name in ("cmdline", "environ"):
        os.mkfifo(folder / name)  # whoever opens it hangs
    assert tree.owners().owner(7) is not None


def test_a_process_that_is_gone(tree: Tree) -> None:
    folder = tree.process(7)
    owners = tree.owners()
    assert owners.owner(7) is not None
    (folder / "stat").unlink()
    assert owners.owner(7) is None
    assert owners.pod_uid(7) == ""
    assert owners.owner(8) is None
    assert owners.owner(0) is None
    assert owners.owner(-1) is None


@pytest.mark.parametrize("stat", [b"", b"7", b"7 (x) S 1", b"\xff" * 2000])
def test_a_stat_that_is_none(tree: Tree, stat: bytes) -> None:
    (tree.process(7) / "stat").write_bytes(stat)
    assert tree.owners().owner(7) is None


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
    assert owners.owner(7) is None
    assert owners.cgroup(7) == Cgroup()


def test_parts_that_may_not_be_read_are_empty(tree: Tree) -> None:
    folder = tree.process(7, exe=None)
    for name in ("status", "cgroup", "comm"):
        (folder / name).unlink()
    assert tree.owners().owner(7) == Owner()


def test_hidepid_leaves_an_owner_without_parts(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, _: int) -> bytes:
        raise PermissionError(path)

    tree.process(7)
    owners = tree.owners()
    assert owners.owner(7) != Owner()
    # Root reads everything, so that no mode of a file would refuse.
    monkeypatch.setattr("gpu_exporter.owners.procfs._read", refuse)
    assert owners.owner(7) == Owner(), "nothing is known of it, and what was known may be another's"
    assert owners.cgroup(7) == Cgroup()


def test_a_pid_namespace_of_our_own_shows_strangers(tree: Tree) -> None:
    tree.process(7)
    tree.namespace(4026532999)
    owners = tree.owners()
    assert not owners.visible
    assert owners.owner(7) is None, "the driver's process 7 need not be ours"
    nested = tree.owners(nested=True)
    assert nested.visible
    assert nested.owner(7) is not None


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
                assert owners.owner(pid) is not None
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
        owners.owner(pid)
    assert list(owners._seen) == list(range(22, 30))


def test_forgetting_keeps_the_others(tree: Tree) -> None:
    owners = tree.owners()
    for pid in (7, 8, 9):
        tree.process(pid)
        owners.owner(pid)
    owners.forget_but([8, 10])
    assert list(owners._seen) == [8]


# --- real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def real() -> ProcfsOwners:
    return ProcfsOwners(names=UserNames(resolve=None), nested=True)  # tests run in containers, too


@pytest.fixture
def sleep() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sh", "-c", "exec sleep 60"]) as child:
        deadline = time.monotonic() + 5
        while Path(f"/proc/{child.pid}/comm").read_text() != "sleep\n":
            assert time.monotonic() < deadline
        yield child
        child.kill()


def test_a_real_process_is_ours(real: ProcfsOwners, sleep: subprocess.Popen[bytes]) -> None:
    mine = real.owner(os.getpid())
    theirs = real.owner(sleep.pid)
    assert mine is not None
    assert theirs is not None
    assert theirs.process == Path("/proc", str(sleep.pid), "exe").resolve().name
    assert mine.process == Path(sys.executable).resolve().name
    assert theirs.user == mine.user != ""
    assert theirs.container == mine.container


def test_a_real_process_ends(real: ProcfsOwners, sleep: subprocess.Popen[bytes]) -> None:
    assert real.owner(sleep.pid) is not None
    sleep.kill()
    sleep.wait()
    assert real.owner(sleep.pid) is None
    assert sleep.pid not in real._seen


def test_a_real_zombie_has_an_owner_still(real: ProcfsOwners) -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        owner = real.owner(child.pid)
        assert owner is not None
        assert owner.process == "true", "its executable is gone, its name is not"
        child.wait()
    assert real.owner(child.pid) is None


def test_a_real_process_that_executes_another_program(real: ProcfsOwners) -> None:
    with subprocess.Popen(
        ["/bin/bash", "-c", "echo; read; exec sleep 60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        before = real.owner(child.pid)
        assert before is not None
        assert before.process == "bash"
        child.stdin.write(b"\n")
        child.stdin.flush()
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        after = real.owner(child.pid)
        child.kill()
    assert after is not None
    assert after.process != "bash"


PYTHON = {"PYTHONPATH": str(ROOT / "exporter")}
# Imports come first: the checkout need not be readable for nobody.
AS_NOBODY = """
from gpu_exporter.owners.procfs import ProcfsOwners, UserNames
import os, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(ProcfsOwners(names=UserNames(resolve=None), nested=True).owner(int(sys.argv[1])).process)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_a_real_process_of_somebody_else_from_an_unprivileged_exporter() -> None:
    name = "a-very-long-program-name"
    with subprocess.Popen([name, "60"], executable="/bin/sleep") as child:
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(child.pid)], capture_output=True, text=True, check=True, env=PYTHON
        )
        child.kill()
    assert done.stdout == "sleep\n", "comm, for the link is closed to us; never argv"


# --- names ------------------------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition never came"
        time.sleep(0.002)


@pytest.fixture
def named() -> Iterator[Callable[..., UserNames]]:
    made: list[UserNames] = []

    def make(**rest: object) -> UserNames:
        made.append(UserNames(**{"passwd": None, **rest}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for names in made:
        names.close()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_passwd_is_read_as_getpwuid_reads_it(tmp_path: Path, named: Callable[..., UserNames]) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_bytes(
        b"root:x:0:0:root:/root:/bin/sh\n+@nis::::::\n# note:x:3:3\nalice:x:1000:1000::/:\ntwin:x:1000:1:::\n"
        b"bad:x:seven:1:::\nshort:x\n:x:12:1:::\nhuge:x:99999999999:1:::\n\nm\xfcller:x:1001:1:::\n"
    )
    names = named(passwd=passwd, resolve=None)
    assert [names.name(uid) for uid in (0, 1000, 1001, 12, 3, 7)] == ["root", "alice", "m\ufffdller", "12", "3", "7"]


@given(st.binary(max_size=300))
def test_no_passwd_is_too_strange(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        assert UserNames(passwd=Path(file.name), resolve=None).name(5)


def test_a_new_user_is_found_within_ten_seconds(tmp_path: Path, named: Callable[..., UserNames]) -> None:
    passwd, clock = tmp_path / "passwd", Clock()
    passwd.write_text("root:x:0:0:::\n")
    names = named(passwd=passwd, resolve=None, monotonic=clock)
    assert names.name(1000) == "1000"
    passwd.write_text("root:x:0:0:::\nalice:x:1000:1000:::\n")
    assert names.name(1000) == "1000"
    clock.now += 10
    assert names.name(1000) == "alice"


def test_a_missing_passwd_is_told_once(
    tmp_path: Path, named: Callable[..., UserNames], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    names = named(passwd=tmp_path / "passwd", resolve=None, monotonic=clock)
    for clock.now in (0.0, 10.0, 20.0):
        assert names.name(0) == "0"
    assert [record.getMessage() for record in caplog.records] == ["users cannot be named"]
    (tmp_path / "passwd").write_text("root:x:0:0:::\n")
    clock.now = 30.0
    assert names.name(0) == "root"


def test_the_name_service_is_asked_in_the_background(tree: Tree, named: Callable[..., UserNames]) -> None:
    here = threading.get_ident()
    asked: list[tuple[int, bool]] = []

    def resolve(uid: int) -> str:
        asked.append((uid, threading.get_ident() == here))
        return f"user{uid}"

    tree.process(7, uid=4242)
    owners = ProcfsOwners(root=tree.root, names=named(passwd=tree.passwd, resolve=resolve))

    def user() -> str:
        owner = owners.owner(7)
        assert owner is not None
        return owner.user

    assert user() in {"4242", "user4242"}
    wait_until(lambda: user() == "user4242")
    tree.process(8, uid=1000)
    owners.owner(8)
    assert asked == [(4242, False)], "once, elsewhere, and not for whom /etc/passwd names"


def test_a_name_service_that_hangs_holds_nobody_up(tree: Tree, named: Callable[..., UserNames]) -> None:
    release, hanging = threading.Event(), threading.Event()
    asked: list[int] = []

    def resolve(uid: int) -> str:
        asked.append(uid)
        hanging.set()
        release.wait(30)
        return f"user{uid}"

    names = named(passwd=tree.passwd, resolve=resolve)
    owners = ProcfsOwners(root=tree.root, names=names)
    pids = range(1000, 1100)
    for pid in pids:
        tree.process(pid, uid=pid + 4000)
    started = time.monotonic()
    users = {owner.user for pid in pids if (owner := owners.owner(pid))}
    assert time.monotonic() - started < 5, "the resolver would hold on for 30 s"
    assert users == {str(pid + 4000) for pid in pids}
    assert hanging.wait(5)
    assert len(names._questions) <= 64, "the queue is bounded"
    assert asked == [5000], "and one thread waits, not a hundred"
    started = time.monotonic()
    names.close()
    assert time.monotonic() - started < 0.5, "closing does not wait for it either"
    release.set()


def test_what_did_not_fit_the_queue_is_named_later(named: Callable[..., UserNames]) -> None:
    names = named(resolve=lambda uid: f"user{uid}")
    uids = range(1000, 1200)
    wait_until(lambda: [names.name(uid) for uid in uids] == [f"user{uid}" for uid in uids])


def test_an_unknown_user_is_asked_for_again_after_ten_minutes(named: Callable[..., UserNames]) -> None:
    clock, users, asked = Clock(), dict[int, str](), list[int]()

    def resolve(uid: int) -> str:
        asked.append(uid)
        return users[uid]

    names = named(resolve=resolve, monotonic=clock)
    assert names.name(7) == "7"
    wait_until(lambda: 7 in names._answers)
    users[7] = "bob"
    clock.now = 599.0
    assert names.name(7) == "7"
    clock.now = 600.0
    wait_until(lambda: names.name(7) == "bob")
    assert asked == [7, 7]


def test_a_name_outlives_a_name_service_that_fails(
    named: Callable[..., UserNames], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    clock, failed = Clock(), threading.Event()

    def resolve(_: int) -> str:
        if clock.now:
            failed.set()
            raise OSError("sssd is down")
        return "bob"

    names = named(resolve=resolve, monotonic=clock)
    wait_until(lambda: names.name(7) == "bob")
    clock.now = 600.0
    assert names.name(7) == "bob"
    assert failed.wait(5)
    wait_until(lambda: names._answers[7] == ("bob", 1200.0))
    assert names.name(7) == "bob"


def test_names_are_bounded(named: Callable[..., UserNames], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_exporter.owners.procfs._MOST_NAMES", 8)
    names = named(resolve=str)
    for uid in range(30):
        names.name(uid)
        wait_until(lambda uid=uid: uid in names._answers)  # type: ignore[misc]
    assert len(names._answers) == 8


def test_closed_names_ask_no_more(named: Callable[..., UserNames]) -> None:
    names = named(resolve=str)
    names.close()
    assert names.name(7) == "7"
    assert names._thread is None


def test_closing_joins_the_thread(named: Callable[..., UserNames]) -> None:
    names = named(resolve=str)
    names.name(7)
    wait_until(lambda: 7 in names._answers)
    names.close()
    assert names._thread is not None
    assert not names._thread.is_alive()


@pytest.mark.parametrize(
    ("files", "mounts", "name"),
    [
        ({"etc/passwd": "alice"}, ["/", "/proc"], "alice"),
        ({"etc/passwd": "ubuntu", "host/etc/passwd": "alice"}, ["/", "/etc/hosts"], "alice"),
        ({"etc/passwd": "ubuntu"}, ["/", "/etc/hosts"], "1000"),
        ({"etc/passwd": "alice"}, ["/", "/etc/hosts", "/etc/passwd"], "alice"),
    ],
    ids=["on the host", "container, host's /etc mounted", "container", "container, its passwd is the host's"],
)
def test_users_are_the_hosts(tmp_path: Path, files: dict[str, str], mounts: list[str], name: str) -> None:
    for path, user in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{user}:x:1000:1000:::\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    mountinfo = "".join(f"22 1 8:1 /x {mount} rw - ext4 /dev/sda rw\n" for mount in mounts)
    (tmp_path / "proc/self/mountinfo").write_text(mountinfo)
    names = host_names(root=tmp_path)
    assert names.name(1000) == name
    names.close()


def test_users_of_this_very_machine() -> None:
    names = host_names()
    assert names.name(0) in {"root", "0"}
    names.close()
