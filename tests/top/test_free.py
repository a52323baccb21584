"""Which GPUs are called free, and how `gpu-exporter free` says so: words, lines, status."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter, command, environment, run
from tools.lab.hub import Hub, write_nodes
from tools.lab.nvml_stub import Stub
from tools.lab.programs import Program
from tools.lab.wait import patience, wait_for

from gpu_exporter.top.free import Wanted, find, shortage
from machines import anything, nobody
from views import GIB, REFUSED, Story, free, gpu, lost


def found(story_view: object, **wanted: object) -> list[str]:
    return [f"{each.node}:{each.index}" for each in find(story_view, Wanted(**wanted))]  # type: ignore[arg-type]


def test_only_what_is_known_to_be_free() -> None:
    view = Story("a", "b", "c").look(
        {
            "a": [
                free(0),
                gpu(1),
                gpu(2, "idle_held"),
                gpu(3, "unknown", ""),
                lost(4),
                free(5, metrics={"gpu_mig_mode_enabled": 1}),
                gpu(6, "idle_free", None),  # nobody can tell who holds it
                gpu(7, "idle_free", "somebody"),
            ],
            "b": REFUSED,
        }
    )
    assert found(view) == ["a:0"]


def test_a_machine_that_goes_away_takes_its_free_gpus_along() -> None:
    story = Story("a")
    assert found(story.look({"a": [free(0)]})) == ["a:0"]
    story.look({"a": REFUSED})
    assert found(story.look({"a": REFUSED})) == []


def test_memory_and_model() -> None:
    view = Story("a").look(
        {
            "a": [
                free(0),
                free(1, model="NVIDIA L40S", metrics={"gpu_memory_total_bytes": 45 * GIB}),
                free(2, model="NVIDIA A100-SXM4-40GB", metrics={"gpu_memory_used_bytes": 50 * GIB}),
                free(3, metrics={"gpu_memory_used_bytes": None}),
            ]
        }
    )
    assert found(view, memory=45.0 * GIB) == ["a:0", "a:1"]
    assert found(view, memory=45.0 * GIB + 1) == ["a:0"]
    assert found(view, models=("h100",)) == ["a:0", "a:3"]
    assert found(view, models=("l40s", "A100")) == ["a:1", "a:2"]
    assert found(view, models=("b200",)) == []


def test_one_machine_that_has_as_many_and_little_more() -> None:
    view = Story("a", "b", "c").look({"a": [free(0)], "b": [free(3), free(1), free(0)], "c": [free(6), free(7)]})
    assert found(view) == ["a:0", "b:0", "b:1", "b:3", "c:6", "c:7"]
    assert found(view, count=4) == ["a:0", "b:0", "b:1", "b:3"]
    assert found(view, count=7) == []
    assert found(view, same_host=True) == ["b:0", "b:1", "b:3"]
    assert found(view, count=2, same_host=True) == ["c:6", "c:7"]
    assert found(view, count=4, same_host=True) == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"models": ("b200",)}, "no GPU with 'b200' is free; of 4 GPUs: 2 free, 1 at work, 1 down; "),
        ({"memory": 90.0 * GIB}, "no GPU with 90.0 GiB is free; "),
        (
            {"memory": 9.0 * GIB, "models": ("b200", "b300")},
            "no GPU with 9.0 GiB and 'b200' or 'b300' is free; ",
        ),
        ({"count": 3}, "only 1 of 3 wanted GPUs is free; "),
        ({"count": 3, "same_host": True}, "only 1 of 3 wanted GPUs is free on one machine; "),
    ],
)
def test_why_there_are_none(wanted: dict[str, object], words: str) -> None:
    answers = {"a": [free(0), free(1, metrics={"gpu_mig_mode_enabled": 1}), gpu(2), lost(3)], "b": REFUSED}
    view = Story("a", "b").look(answers)
    line = shortage(view, Wanted(**wanted))  # type: ignore[arg-type]
    assert line.startswith(words)
    assert line.endswith("1 of the free in MIG mode, which nobody gets as a whole; without an answer: b")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """nodes.json of two simulated machines, one that never answers and one that is not there."""
    folder = tmp_path_factory.mktemp("free")
    with ExitStack() as stack:
        machines = {}
        for alias, model in (("gpu-a", "h200"), ("gpu-c", "l40s")):
            place = folder / alias
            place.mkdir()
            options = ("--source=fake", f"--fake.model={model}", "--fake.seed=1", "--collection.interval=1s")
            machines[alias] = stack.enter_context(Exporter(place, *options)).port
        machines["hung"] = stack.enter_context(anything(lambda _connection, _head: None))
        machines["nobody"] = nobody()
        nodes = write_nodes(folder / "nodes.json", machines)
        # The GPUs are undecided until their second reading.
        wait_for(lambda: len(run("free", f"--nodes.file={nodes}").stdout.splitlines()) == 2)
        yield nodes


def test_a_line_a_gpu(lab: Path) -> None:
    done = run("free", f"--nodes.file={lab}")
    assert (done.returncode, done.stderr) == (0, "gpu-exporter: simulated data: no real GPU was read\n")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["gpu-a", "7", "NVIDIA", "H200", "140", "GiB"],
        ["gpu-c", "7", "NVIDIA", "L40S", "45.0", "GiB"],
    ]


def test_json(lab: Path) -> None:
    told = json.loads(run("free", f"--nodes.file={lab}", "--format=json").stdout)
    assert told["simulated"] is True
    assert [(gpu["node"], gpu["gpu"], gpu["state"]) for gpu in told["gpus"]] == [
        ("gpu-a", 7, "free"), ("gpu-c", 7, "free")
    ]  # fmt: skip
    assert all(gpu["memory_free_bytes"] == gpu["memory_total_bytes"] for gpu in told["gpus"])


def test_none_is_status_1_and_one_line(lab: Path) -> None:
    for option in ("--count=3", "--model=b300", "--min-memory=999GiB", "--count=2 --same-host", "--count=2 --cuda"):
        done = run("free", f"--nodes.file={lab}", *option.split())
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(
            ("gpu-exporter: no GPU", "gpu-exporter: only 2 of 3", "gpu-exporter: only 1 of 2")
        )
        assert "without an answer: hung, nobody" in done.stderr


def test_for_cuda(lab: Path) -> None:
    done = run("free", f"--nodes.file={lab}", "--count=1", "--cuda", "--model=l40s")
    assert (done.returncode, done.stdout) == (0, "7\n")
    assert "gpu-exporter: these are GPUs of gpu-c\n" in done.stderr
    uuid = run("free", f"--nodes.file={lab}", "--cuda=uuid", "--model=h200").stdout
    assert uuid.startswith("GPU-")
    assert uuid.count("\n") == 1


def test_by_a_hub(lab: Path, tmp_path: Path) -> None:
    with Hub(tmp_path, lab) as hub:
        hub.wait_states(**{"gpu-a": "online", "gpu-c": "online", "hung": "offline", "nobody": "offline"})
        done = run("free", f"--hub=http://127.0.0.1:{hub.port}")
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["gpu-a", "7"], ["gpu-c", "7"]]


def test_nothing_to_look_at_is_status_2() -> None:
    done = run("free", f"--target=127.0.0.1:{nobody()}", f"--target=127.0.0.1:{nobody()}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no GPU can be looked at: 127.0.0.1:" in done.stderr
    assert "refused the connection" in done.stderr
    assert "(and 1 more machine)" in done.stderr


def test_no_driver_is_status_2(tmp_path: Path) -> None:
    done = run("free", "--source=nvml", extra={"LD_LIBRARY_PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpu-exporter: no GPU: libnvidia-ml.so.1 ")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--min-memory=much"], "--min-memory: 'much' is not a size; write bytes, or 256MiB"),
        (["--wait=soon"], "--wait: 'soon' is not a duration; write 5s, 500ms or 1m"),
        (["--interval=0s"], "--interval: '0s' is out of range; write 500ms to 10m"),
        (["--cuda=names"], "Invalid value for '--cuda': 'names' is not one of 'index', 'uuid'."),
        (["--count=0"], "Invalid value for '--count': 0 is not in the range 1<=x<=100000."),
        (["--cuda", "--format=json"], "--cuda and --format=json cannot be given together; write one of them"),
        (["--target=a:1", "--hub=b"], "--target and --hub cannot be given together; write one of them"),
    ],
)
def test_refusals(options: list[str], line: str) -> None:
    done = run("free", *options)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"gpu-exporter: {line}\n")


def idle(machine: Stub, *gpus: int) -> None:
    """Nobody uses these any more."""
    with machine.batch():
        for each in gpus:
            machine.set(each, "utilization", 0)
            machine.set(each, "memory_used", 0)


def test_this_machine_s_driver(stub: Callable[..., Stub], library: Path) -> None:
    """One GPU at work, one lost, one that hangs, one free: that one is told, and the command ends."""
    machine = stub("h100", "h100", "h100", "h100")
    idle(machine, 1, 2, 3)
    machine.lose(1)
    machine.hang(2)
    done = run("free", "--source=nvml", "--collection.timeout=1s", extra=machine.env(library))
    assert done.returncode == 0, done.stderr
    assert [line.split()[1:3] for line in done.stdout.splitlines()] == [["3", "NVIDIA"]]
    assert done.stderr == ""


def test_waiting(tmp_path: Path, stub: Callable[..., Stub], library: Path) -> None:
    machine = stub("h100")
    extra = machine.env(library)
    options = ["free", "--source=nvml", "--interval=500ms"]
    ended = run(*options, "--wait=0s", extra=extra)
    assert (ended.returncode, ended.stdout) == (1, "")
    with Program([*command(), *options, "--wait"], tmp_path / "wait.log", env=environment(extra)) as waiting:
        waiting.wait(lambda: "gpu-exporter: waiting: no GPU is free; of 1 GPUs: 1 at work" in waiting.log())
        idle(machine, 0)
        wait_for(lambda: waiting.process.poll() is not None, waiting.log)
        assert waiting.process.returncode == 0
        assert waiting.log().splitlines()[-1].split()[1] == "0"


def test_ctrl_c_ends_the_wait_while_the_driver_hangs(tmp_path: Path, stub: Callable[..., Stub], library: Path) -> None:
    """At once, like SIGTERM; an exit handler of the driver's library would wait for the call."""
    machine = stub("h100")
    machine.hang(0)
    extra = {**machine.env(library), "NVML_STUB_EXIT_HANGS": "1"}
    with Program(
        [*command(), "free", "--source=nvml", "--wait"], tmp_path / "free.log", env=environment(extra)
    ) as program:
        program.wait(lambda: "waiting: " in program.log())
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(patience()) == -signal.SIGINT
    machine.recover(0)
