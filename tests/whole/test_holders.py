"""Who holds which GPU: the installed exporter, the stand-in for the driver, real processes, a real gRPC server."""

from __future__ import annotations

import gc
import getpass
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.exporter import Exporter, run
from tools.lab.nvml_stub import Process, Stub
from tools.lab.wait import wait_for

from gpu_exporter.config import ProcessesConfig
from gpu_exporter.model import Build, Device, Identity, Reading, Snapshot
from gpu_exporter.model import Process as Listed
from gpu_exporter.pages.exposition import Page
from gpu_exporter.sampling.pipeline import Pipeline
from podresources.api import Api, load
from podresources.kubelet import Kubelet, socket_folder

GIB = 1024**3
CONTAINER = "4f797c539e6c" + "0123456789abcdef" * 3 + "0123"
FAST = (
    "--source=nvml",
    "--collection.interval=500ms",
    "--collection.timeout=500ms",
    "--processes.interval=500ms",
    # Test machines are containers more often than not.
    "--owners.procfs-nested",
)
Start = Callable[..., Exporter]


@pytest.fixture
def start(library: Path, tmp_path: Path) -> Iterator[Start]:
    running: list[Exporter] = []

    def begin(machine: Stub, *arguments: str) -> Exporter:
        running.append(Exporter(tmp_path, *FAST, *arguments, extra=machine.env(library)))
        return running[-1]

    yield begin
    for exporter in running:
        exporter.__exit__()


@contextmanager
def shell(**rest: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, as a shell that somebody left open."""
    with subprocess.Popen(["sleep", "600"], **rest) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def in_container(pid: int) -> Iterator[None]:
    """Put the process into a control group as Docker names them."""
    tops = [Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]
    top = next((top for top in tops if (top / "cgroup.procs").exists()), None)
    if top is None:
        pytest.skip("this machine has no control groups")
    parent = top / f"gpu-exporter-test-{os.getpid()}"
    group = parent / CONTAINER
    try:
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with suppress(OSError):
            parent.rmdir()
        pytest.skip(f"control groups cannot be made here ({error.strerror}): that takes root")
    try:
        yield
    finally:
        (top / "cgroup.procs").write_text(str(pid))
        wait_for(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
        parent.rmdir()


def owned(exporter: Exporter) -> set[tuple[str, str, str, str]]:
    """gpu, kind, owner and namespace of everybody who holds a GPU."""
    return {
        (
            dict(labels)["gpu"],
            dict(labels)["owner_kind"],
            dict(labels).get("owner", ""),
            dict(labels).get("namespace", ""),
        )
        for name, labels in exporter.samples()
        if name == "gpu_owner_memory_used_bytes"
    }


def test_a_shell_that_holds_memory_is_named_and_goes_with_its_end(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100")
    for gpu in range(2):
        machine.set(gpu, "utilization", 0)
        machine.set(gpu, "memory_used", 0)
    with shell() as process:
        machine.processes(0, [Process(process.pid, 30 * GIB)])
        exporter = start(machine)
        labels = {"pid": process.pid, "process": "sleep", "user": getpass.getuser(), "gpu": 0}
        exporter.wait_value(30.0 * GIB, "gpu_process_memory_used_bytes", **labels)
        exporter.wait_value(1.0, "gpu_processes", gpu=0, type="compute")
        user = ("0", "user", getpass.getuser(), "")
        wait_for(lambda: owned(exporter) == {user}, lambda: owned(exporter))
        held = {"gpu": 0, "owner": getpass.getuser(), "state": "idle_held"}
        wait_for(lambda: (exporter.value("gpu_owner_seconds_total", **held) or 0) > 0.5)
        before = exporter.samples()
    # The driver still lists it; /proc knows better.
    exporter.wait_value(None, "gpu_process_memory_used_bytes", gpu=0, pid=process.pid)
    wait_for(lambda: owned(exporter) == set(), lambda: owned(exporter))
    after = exporter.value("gpu_owner_seconds_total", **held)
    assert after is not None, "what it was charged stays"
    assert after >= next(value for (name, at), value in before.items() if name == "gpu_owner_seconds_total" and
                         {("state", "idle_held"), ("owner", getpass.getuser())} <= at)  # fmt: skip
    seconds = [value for (name, at), value in exporter.samples().items()
               if name == "gpu_state_seconds_total" and ("gpu", "1") in at]  # fmt: skip
    assert sum(value > 0 for value in seconds) == 1, "nobody holds the other one"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start another user's process")
def test_another_users_process(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100")
    with shell(user="nobody") as process:
        machine.processes(0, [Process(process.pid, GIB)])
        start(machine).wait_value(float(GIB), "gpu_process_memory_used_bytes", user="nobody", process="sleep")


def test_a_container_is_named(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100")
    with shell() as process, in_container(process.pid):
        machine.processes(0, [Process(process.pid, GIB)])
        start(machine).wait_value(float(GIB), "gpu_process_memory_used_bytes", container="4f797c539e6c")


def test_processes_can_be_switched_off(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", live=True)
    machine.processes(0, [Process(os.getpid(), GIB)])
    exporter = start(machine, "--no-processes.enabled")
    wait_for(lambda: (exporter.value("gpu_state_seconds_total", gpu=0, state="active") or 0) > 0)
    assert not [name for name, _ in exporter.samples() if name.startswith(("gpu_process", "gpu_owner"))]
    assert not [name for name in machine.calls() if "Process" in name]


def test_a_slurm_job_holds_a_gpu_on_which_nothing_runs(start: Start, stub: Callable[..., Stub], tmp_path: Path) -> None:
    machine = stub("h100")
    machine.set(0, "utilization", 0)
    machine.set(0, "memory_used", 0)
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "0").write_text("4711 alice physics\n")
    exporter = start(machine, f"--owners.slurm-directory={folder}")
    wait_for(lambda: owned(exporter) == {("0", "slurm", "alice", "4711")}, lambda: owned(exporter))
    assert exporter.value("gpu_owner_memory_used_bytes", gpu=0) == 0.0
    wait_for(lambda: (exporter.value("gpu_owner_seconds_total", owner="alice", state="idle_held") or 0) > 0)
    (folder / "0").unlink()
    wait_for(lambda: owned(exporter) == set())


def test_a_pod_holds_the_gpu_that_it_was_given(start: Start, stub: Callable[..., Stub]) -> None:
    pytest.importorskip("h2", reason="the extra kubernetes is not installed")
    api: Api = load()
    machine = stub("h100", "h100")
    for gpu in range(2):
        machine.set(gpu, "memory_used", 0)
    uuid = str(machine.get(1, "uuid"))
    with socket_folder() as folder, Kubelet(api, folder / "kubelet.sock") as kubelet:
        kubelet.answer = api.answer(api.pod("train-0", api.container("main", gpu=[uuid]), namespace="ml"))
        exporter = start(machine, "--owners.kubernetes", f"--owners.kubernetes-socket={kubelet.path}")
        wait_for(lambda: owned(exporter) == {("1", "pod", "train-0", "ml")}, lambda: (owned(exporter), exporter.log()))
        assert exporter.value("gpu_owner_memory_used_bytes", pod="train-0", gpu=1) is None, "pod is no label of owners"


def held_idle(exporter: Exporter, **labels: str) -> float:
    return exporter.value("gpu_owner_seconds_total", gpu=0, state="idle_held", **labels) or 0.0


def state(exporter: Exporter, which: str) -> float:
    return exporter.value("gpu_state_seconds_total", gpu=0, state=which) or 0.0


UNSEEN = {
    "pid 0": {"compute": [Process(0, 40_000_000_000)]},
    "pid -1": {"compute": [Process(2**32 - 1, 40_000_000_000)]},
    "nobody is listed": {},
}


@pytest.mark.parametrize("case", UNSEEN)
def test_memory_whose_holder_cannot_be_seen_holds_the_gpu(start: Start, stub: Callable[..., Stub], case: str) -> None:
    """nv-monitor#17: 40 GB in use, and the GPU was called free."""
    machine = stub("h100")
    machine.set(0, "utilization", 0)
    machine.set(0, "memory_used", 40_000_000_000)
    for kind, processes in UNSEEN[case].items():
        machine.processes(0, processes, kind=kind)  # type: ignore[arg-type]
    exporter = start(machine)
    exporter.wait_value(40e9, "gpu_memory_unaccounted_bytes", gpu=0)
    wait_for(lambda: state(exporter, "idle_held") > 1, exporter.log)
    assert state(exporter, "idle_free") == 0
    assert owned(exporter) == {("0", "user", "", "")}
    assert held_idle(exporter, owner_kind="user") > 1
    assert exporter.log().count("a GPU is held by nobody who can be named") == 1
    with machine.batch():
        machine.set(0, "memory_used", 0)
        machine.processes(0, [])
    exporter.wait_value(0.0, "gpu_memory_unaccounted_bytes", gpu=0)
    wait_for(lambda: state(exporter, "idle_free") > 0)


def test_a_client_of_mps_holds_the_gpu(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100")
    machine.set(0, "utilization", 0)
    with shell() as process:
        machine.processes(0, [Process(process.pid, 30 * GIB)], kind="mps")
        machine.set(0, "memory_used", 30 * GIB)
        exporter = start(machine)
        who = {"pid": process.pid, "process": "sleep", "user": getpass.getuser(), "gpu": 0}
        exporter.wait_value(30.0 * GIB, "gpu_process_memory_used_bytes", **who)
        wait_for(lambda: held_idle(exporter, owner=getpass.getuser()) > 1)
        assert exporter.value("gpu_memory_unaccounted_bytes", gpu=0) == 0.0
        assert state(exporter, "idle_free") == 0


def test_a_new_holder_is_told_at_the_next_reading(start: Start, stub: Callable[..., Stub]) -> None:
    """However rarely it is asked what each process takes of the GPU."""
    machine = stub("h100")
    machine.set(0, "memory_used", 0)
    exporter = start(machine, "--processes.interval=1h")
    exporter.wait_value(0.0, "gpu_processes", gpu=0, type="compute")
    with shell() as process:
        machine.processes(0, [Process(process.pid, 30 * GIB)])
        exporter.wait_value(30.0 * GIB, "gpu_process_memory_used_bytes", pid=process.pid)


# Mounts a /proc that hides, and becomes a user of no privilege; what it needs of /root is open to whoever has it open.
HIDDEN = """
mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \
--bounding-set=-all "$@"
"""
HIDES = "import gpu_exporter.sampling.pipeline, pathlib; print(pathlib.Path('/proc/1').exists())"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a /proc that hides processes")
def test_processes_that_proc_hides_hold_the_gpu() -> None:
    """prosper#3365: with hidepid=2 a GPU was called free for 17 h while somebody held it."""
    hidden = ["unshare", "--mount", "sh", "-c", HIDDEN, "hidden", sys.executable, "-c"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "exporter")}
    tried = subprocess.run([*hidden, HIDES], capture_output=True, text=True, check=False, env=env)
    if tried.stdout != "False\n":
        pytest.skip(f"a /proc that hides processes cannot be mounted here: {tried.stderr or tried.stdout}")
    with shell() as process:
        look = [*hidden, UNDER_HIDEPID, str(process.pid)]
        done = subprocess.run(look, capture_output=True, text=True, check=False, env=env)
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == {
        "processes": "1",
        "idle_held": "5.0",
        "idle_free": "0.0",
        "owners": "['user//']",
    }, done.stderr
    assert done.stderr.count("hidepid") == 1


UNDER_HIDEPID = """
import logging, sys
from gpu_exporter.catalog import OWNER_SECONDS, PROCESSES, STATE_SECONDS, by_name
from gpu_exporter.model import Device, Process, Reading
from gpu_exporter.owners.procfs import ProcfsIdentities
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.owners.user_names import UserNames
from gpu_exporter.sampling.pipeline import Pipeline

logging.basicConfig(level=logging.WARNING)
procfs = ProcfsIdentities(names=UserNames(resolve=None), nested=True)
pipeline = Pipeline(gap=15, resolver=Resolver(processes=procfs))
values = {by_name("gpu_utilization_ratio"): 0.0, by_name("gpu_memory_used_bytes"): 40e9}
reading = Reading(Device(0, "GPU-0", "H100"), values, processes=(Process(int(sys.argv[1]), "compute", 40e9),))
for now in (0.0, 5.0):
    (last,) = pipeline.complete([reading], now)
print("processes=%d" % last.values[PROCESSES["compute"]])
print("idle_held=%s" % last.values[STATE_SECONDS["idle_held"]])
print("idle_free=%s" % last.values[STATE_SECONDS["idle_free"]])
print("owners=%s" % ["/".join(who) for metric, who in last.labelled if metric is OWNER_SECONDS["idle_held"]])
"""


def test_a_flood_of_short_lived_processes_is_bounded() -> None:
    """5 000 processes come and go, 50 at a time, each of another user; what they leave behind does not add up."""
    device = Device(0, "GPU-0", "H100")
    pipeline = Pipeline(gap=15, processes=ProcessesConfig(max=16))
    page, build = Page(), Build("1", "3")

    def flood(rounds: range) -> int:
        """Bytes that Python holds afterwards."""
        for number in rounds:
            pids = range(50 * number, 50 * (number + 1))
            processes = tuple(
                Listed(pid, "compute", 1e9 + pid, 0.5, identity=Identity("python3", f"user{pid}")) for pid in pids
            )
            readings = pipeline.complete([Reading(device, processes=processes)], now=60.0 * number)
            snapshot = Snapshot(build, "nvml", readings=readings, ok=True)
            text = page.body(snapshot, openmetrics=False, gzip=False).decode()
            assert text.count("\ngpu_process_memory_used_bytes{") == 16
            assert text.count("\ngpu_owner_memory_used_bytes{") == 50
            assert text.count("\ngpu_owner_seconds_total{") <= 2 * 256
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = flood(range(20))
        assert flood(range(20, 100)) < before + 100_000
    finally:
        tracemalloc.stop()


def test_doctor_tells_why_pods_are_not_known(stub: Callable[..., Stub], library: Path) -> None:
    pytest.importorskip("h2", reason="the extra kubernetes is not installed")
    with socket_folder() as folder:
        missing = folder / "kubelet.sock"
        asked = ("doctor", "--source=nvml", "--owners.kubernetes", f"--owners.kubernetes-socket={missing}")
        done = run(*asked, extra=stub("h100").env(library))
    assert f"warn  kubelet: {missing}" in done.stdout
