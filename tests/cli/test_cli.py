"""The command line as a user meets it: every refusal is one line, status 2, no traceback."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tools.lab.exporter import command, environment, parse, pick, run
from tools.lab.nvml_stub import Stub
from tools.lab.wait import patience

from gpu_exporter import __version__
from gpu_exporter.cli.findings import findings
from gpu_exporter.cli.group import cli
from gpu_exporter.config import SOURCES, load, settings

SERVE = ("--source=fake", "--web.listen-address=127.0.0.1:0")


def refused(*arguments: str, extra: dict[str, str] | None = None) -> str:
    """The one line with which the command line is refused."""
    done = run(*arguments, extra=extra)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu-exporter: ")
    return line.removeprefix("gpu-exporter: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "No such option '--bogus'. gpu-exporter serve --help lists what there is."),
        (["bogus"], "'bogus' is not a command; write one of serve, sample, doctor, metrics, check-config"),
        (["smaple"], "'smaple' is not a command. Did you mean sample? gpu-exporter help lists what there is."),
        (["help", "chekc"], "'chekc' is not a command. Did you mean check? gpu-exporter help lists what there is."),
        (["--source=rocm"], f"--source: 'rocm' is not known; write one of auto, {', '.join(SOURCES)}"),
        (
            ["--fake.model=h101"],
            "--fake.model: 'h101' is not known; write one of h100, h200, a100, l40s, rtx4090",
        ),
        (["--fake.gpus=0"], "--fake.gpus: '0' is not a whole number from 1 to 1024"),
        (["--collection.interval=5"], "--collection.interval: '5' is not a duration; write 5s, 500ms or 1m"),
        (["--web.allow=10.0.0.0/33"], "--web.allow: '10.0.0.0/33' is not a network in CIDR form; write 10.0.0.0/8"),
        (["--web.listen-address=nine"], "--web.listen-address: 'nine' is not an address; write :9435"),
        (["--web.telemetry-path=metrics"], "--web.telemetry-path: 'metrics' is not a URL path"),
        (["--log.level=loud"], "--log.level: 'loud' is not known; write one of debug, info, warning, error"),
        (["--config.file=/nowhere.yml"], "/nowhere.yml: cannot be read: No such file or directory"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    assert refused(*arguments).startswith(message)


def test_the_environment_is_named_where_it_is_wrong() -> None:
    line = refused(extra={"GPU_EXPORTER_COLLECTION_INTERVAL": "often"})
    assert line == "GPU_EXPORTER_COLLECTION_INTERVAL: 'often' is not a duration; write 5s, 500ms or 1m"


def test_a_flag_goes_over_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "exporter.yml"
    file.write_text("source: fake\nfake:\n  gpus: 2\n  model: a100\n  seed: 4\n")
    extra = {"GPU_EXPORTER_FAKE_GPUS": "3", "GPU_EXPORTER_FAKE_MODEL": "l40s"}
    done = run("sample", "--format=json", f"--config.file={file}", "--fake.gpus=4", extra=extra)
    gpus = json.loads(done.stdout)["gpus"]
    assert (len(gpus), gpus[0]["model"]) == (4, "NVIDIA L40S")


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused("--source=fake", f"--web.listen-address=127.0.0.1:{port}")
    assert line == f"web.listen_address: '127.0.0.1:{port}': Address already in use; write a free one"


def test_a_command_stands_in_the_module_of_its_name() -> None:
    for name, command_of_that_name in cli.commands.items():
        module = importlib.import_module(f"gpu_exporter.cli.{name.replace('-', '_')}")
        assert getattr(module, name.replace("-", "_")) is command_of_that_name


def said(*words: str, columns: int = 80) -> str:
    """What the command line writes to a terminal of that width."""
    done = CliRunner().invoke(cli, words, terminal_width=columns)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_help_is_what_the_option_tells(name: str) -> None:
    words = (name,) if name else ()
    assert said("help", *words) == said(*words, "--help") != ""


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_list_of_commands_cuts_nothing(columns: int) -> None:
    listed = " ".join(said("--help", columns=columns).split())
    for name, described in cli.commands.items():
        assert f"{name} {described.get_short_help_str(10_000)}" in listed
        assert not described.get_short_help_str(10_000).endswith("...")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("rep", "report"),
        ("Sample", "sample"),
        ("check_config", "check-config"),
        ("s", "serve or sample"),
        ("dekstop", "desktop"),
        ("version", "--version"),
        ("start", "serve"),
    ],
)
def test_a_mistyped_command_is_told_what_was_meant(word: str, meant: str) -> None:
    done = CliRunner().invoke(cli, [word])
    assert (done.exit_code, f"Did you mean {meant}? " in done.output) == (2, True), done.output


def test_the_commands_import_what_they_need_when_they_run() -> None:
    code = (
        "import sys, gpu_exporter.cli.group\n"
        "print(*sorted(name for name in sys.modules if name.startswith(('gpu_exporter.', 'prometheus_client', 'ssl'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    packages = {name.split(".")[1] for name in done.stdout.split() if name.startswith("gpu_exporter.")}
    assert packages <= {"catalog", "cli", "config", "model", "sampling"}
    assert not {"gpu_exporter.sampling.sampler", "gpu_exporter.cli.findings"} & set(done.stdout.split())
    assert "prometheus_client" not in done.stdout


def test_every_setting_is_a_flag_with_its_help() -> None:
    done = run("serve", "--help")
    assert done.returncode == 0
    for setting in settings():
        assert setting.flag in done.stdout
    assert run("--version").stdout == f"gpu-exporter {__version__}\n"


def test_a_scenario_is_checked_before_anything_listens(tmp_path: Path) -> None:
    scenario = tmp_path / "story.yml"
    scenario.write_text("events:\n  - at: 5s\n    gpu: 12\n    fault: lost\n")
    line = refused(*SERVE, f"--fake.scenario={scenario}")
    assert line.startswith(f"{scenario}: events[0].gpu: '12'")


def test_check_config(tmp_path: Path) -> None:
    file = tmp_path / "exporter.yml"
    file.write_text("collection:\n  interval: 10s\n")
    done = run("check-config", str(file))
    assert (done.returncode, done.stdout) == (0, f"{file}: ok\n")
    file.write_text("collection:\n  intervall: 10s\n")
    assert refused("check-config", str(file)) == (
        f"{file}: collection.intervall: unknown key; write one of interval, timeout, pause, expected_gpus, "
        "kernel_log, let_sleep"
    )
    scenario = tmp_path / "story.yml"
    scenario.write_text("- nonsense\n")
    file.write_text(f"source: fake\nfake:\n  scenario: {scenario}\n")
    assert refused("check-config", str(file)).startswith(f"{scenario}: ")


def test_sample_table_and_its_status(library: Path, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "rtx4090")
    done = run("sample", extra=machine.env(library))
    assert (done.returncode, done.stderr) == (0, "")
    head, first, second, last = done.stdout.splitlines()
    assert last.endswith(": driver 590.48.01, source nvml"), "the machine has a name"
    assert head.split() == ["GPU", "MODEL", "STATE", "UTIL", "MEMORY", "TEMP", "POWER", "HELD", "BY", "UUID"]
    told = "0 NVIDIA H100 80GB HBM3 up 100 % 19.4 / 79.6 GiB 59 °C 632 / 700 W unknown GPU-"
    assert " ".join(first.split()).startswith(told)
    assert second.startswith("1    NVIDIA GeForce RTX 4090")
    machine.lose(1)
    done = run("sample", extra=machine.env(library))
    assert done.returncode == 1, "some GPU is down"
    assert done.stdout.splitlines()[2].split()[:3] == ["1", "unknown", "lost"]
    machine.fail_init(9)
    done = run("sample", extra=machine.env(library))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpu-exporter: no GPU: the NVIDIA kernel driver is not loaded")


def test_sample_as_prometheus_text(library: Path, stub: Callable[..., Stub]) -> None:
    done = run("sample", "--format=prometheus", extra=stub("h100").env(library))
    assert done.returncode == 0
    samples = parse(done.stdout)
    assert pick(samples, "gpu_up", gpu=0) == 1
    assert pick(samples, "gpu_exporter_source_info", source="nvml") == 1


def test_auto_is_never_fake(tmp_path: Path) -> None:
    done = run("sample", extra={"LD_LIBRARY_PATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stdout == ""


@pytest.mark.parametrize("hidden", [False, True])
def test_doctor_tells_of_a_proc_that_hides(tmp_path: Path, *, hidden: bool) -> None:
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    if not hidden:
        (tmp_path / "proc/1").mkdir()
    config = load(None, {"source": ("--source", "fake"), "fake.gpus": ("--fake.gpus", "1")})
    told = {finding.what: finding for finding in findings(config, tmp_path)}
    assert told["PID namespace"].state == "ok"
    assert ("/proc" in told) is hidden
    if hidden:
        assert (told["/proc"].state, "hidepid" in told["/proc"].detail) == ("warn", True)


def test_doctor(library: Path, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100")
    machine.set(0, "persistence_mode", 0)
    done = run("doctor", extra=machine.env(library))
    assert done.returncode == 0, done.stdout
    assert "ok    libnvidia-ml.so.1: loads" in done.stdout
    assert "ok    driver: 590.48.01, CUDA 13.1" in done.stdout
    assert "ok    GPU 0: NVIDIA H100 80GB HBM3, GPU-" in done.stdout
    assert "warn  persistence mode: off on GPU 0" in done.stdout
    machine.lose(1)
    done = run("doctor", extra=machine.env(library))
    assert done.returncode == 1
    assert "fail  GPU 1: lost: " in done.stdout
    assert "-> it fell off the bus" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ([], "libnvidia-ml.so.1"),
        (["--source=nvml"], "libnvidia-ml.so.1"),
        (["--source=smi"], "nvidia-smi"),
        (["--source=smi", "--smi.path=/nowhere/nvidia-smi"], "/nowhere/nvidia-smi"),
        (["--source=dcgm"], "dcgmi"),
        (["--source=dcgm", "--dcgm.path=/nowhere/dcgmi"], "/nowhere/dcgmi"),
    ],
)
def test_doctor_tells_once_what_is_not_there(tmp_path: Path, options: list[str], missing: str) -> None:
    done = run("doctor", *options, extra={"LD_LIBRARY_PATH": str(tmp_path), "PATH": "/usr/bin:/bin"})
    (failed,) = [line for line in done.stdout.splitlines() if line.startswith("fail")]
    assert missing in failed
    assert failed.count("libnvidia-ml.so.1") == (missing == "libnvidia-ml.so.1")
    assert done.returncode == 1


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 140])
def test_the_table_fits_the_terminal(columns: int) -> None:
    done = run("sample", "--source=fake", "--fake.model=rtx4090", "--host.name=gpu-a", extra={"COLUMNS": str(columns)})
    lines = done.stdout.splitlines()
    assert max(map(len, lines[:-2])) <= columns
    assert ["GPU" in lines[0], "UTIL" in lines[0], "HELD" in lines[0]] == [True] * 3
    assert ("UUID" in lines[0]) == (columns >= 140)
    assert (len(lines), lines[-2]) == (1 + 8 + 2, "gpu-a: driver 590.48.01, source fake")


def test_what_does_not_fit_leaves_without_the_rest_being_cut() -> None:
    told = run("sample", "--source=fake", "--fake.gpus=1", extra={"COLUMNS": "80"}).stdout.splitlines()
    assert told[0].split() == ["GPU", "MODEL", "STATE", "UTIL", "MEMORY", "TEMP", "POWER", "HELD", "BY"]
    assert " H100 80GB HBM3  up " in told[1]
    assert json.loads(run("sample", "--source=fake", "--host.name=gpu-a", "--format=json").stdout)["host"] == {
        "name": "gpu-a"
    }


def test_watch_goes_on_until_ctrl_c() -> None:
    arguments = [*command(), "sample", "--source=fake", "--fake.gpus=1", "--watch", "--collection.interval=100ms"]
    with subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        heads = (line for line in watching.stdout if line.startswith("GPU "))
        assert [next(heads, None) is not None for _ in range(3)] == [True] * 3
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=patience())
    assert (watching.returncode, errors.strip()) == (130, "")
    assert "leave --record and --format out" in refused("sample", "--watch", "--format=json")


@pytest.mark.parametrize("arguments", [("sample", "--source=fake"), ("metrics",), ("doctor", "--source=fake")])
def test_a_full_disk_is_one_line(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*command(), *arguments], env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (2, "gpu-exporter: standard output: No space left on device\n")


@pytest.mark.parametrize(
    "when", ["name.partition('.')[0] != 'gpu_exporter'", "name == 'click'"], ids=["first", "later"]
)
def test_ctrl_c_while_modules_are_read_is_no_traceback(tmp_path: Path, when: str) -> None:
    # Whoever looks for that module interrupts as a person would.
    code = (
        f"import os, sys; interrupt = {signal.SIGINT.value}\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if {when}: os.kill(os.getpid(), interrupt)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from gpu_exporter.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "metrics"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=patience(),
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--source=fake", "sample"],
            "the command stands before its options; write: gpu-exporter sample --source=fake",
        ),
        (
            ["--config.file", "f.yml", "doctor"],
            "the command stands before its options; write: gpu-exporter doctor --config.file f.yml",
        ),
        (
            ["--history.path=x", "report", "--window=7d"],
            "the command stands before its options; write: gpu-exporter report --history.path=x --window=7d",
        ),
        (
            ["--once", "--target", "gpu-a:9435", "top"],
            "the command stands before its options; write: gpu-exporter top --once --target gpu-a:9435",
        ),
        (["--no-such", "report"], "No such option '--no-such'."),
        (["sample", "more"], "Got unexpected extra argument (more)"),
        (["--web.port=9435"], "No such option '--web.port'. Did you mean --web.listen-address :9435?"),
        (["-p", "9435"], "No such option '-p'. Did you mean --web.listen-address :9435?"),
        (["sample", "--fake.gpu=2"], "No such option '--fake.gpu'. Did you mean --fake.gpus"),
        (
            ["--web.allow=192.168.1.5/24"],
            "--web.allow: '192.168.1.5/24' is not a network in CIDR form; write 192.168.1.0/24, or 192.168.1.5 for",
        ),
    ],
)
def test_refusals_name_what_was_meant(arguments: list[str], message: str) -> None:
    assert refused(*arguments).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--fake.gpus=2"], "--fake.gpus has no effect: the source is nvml; write --source fake"),
        (["--dcgm.path=x"], "--dcgm.path has no effect: the source is nvml; write --source dcgm"),
        (["--smi.path=x"], "--smi.path has no effect: the source is nvml; write --source smi"),
    ],
)
def test_what_has_no_effect_is_told(library: Path, stub: Callable[..., Stub], arguments: list[str], line: str) -> None:
    done = run("sample", "--source=nvml", *arguments, extra=stub("h100").env(library))
    assert (done.returncode, done.stderr) == (0, f"gpu-exporter: {line}\n")


def test_the_help_of_a_command_lists_what_it_is_for() -> None:
    told = run("doctor", "--help").stdout
    assert "--owners.kubernetes" in told
    assert "--web." not in told
    assert run("doctor", "--source=fake", "--web.allow=10.0.0.0/8").returncode == 0, "it is taken all the same"


def test_output_into_a_closed_pipe_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [*command(), "metrics"], env=environment(), stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr == ""


def test_json_logs(tmp_path: Path) -> None:
    *lines, last = run(
        "--source=nvml",
        "--require-gpu",
        "--log.format=json",
        "--web.listen-address=127.0.0.1:0",
        extra={"LD_LIBRARY_PATH": str(tmp_path)},
    ).stderr.splitlines()
    assert last.startswith("gpu-exporter: require_gpu: no GPU can be read: ")
    (record,) = (told for told in map(json.loads, lines) if told["level"] == "error")
    assert record["msg"].startswith("no readings: libnvidia-ml.so.1 was not found")
    assert record["ts"].endswith("Z")
