"""deploy/check: the examples for Slurm, node-problem-detector, systemd and Nagios, run as these programs run them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.exporter import command, environment
from tools.lab.mailbox import Mailbox, part
from tools.lab.programs import program
from tools.lab.wait import patience

CHECK = ROOT / "deploy/check"
SCRIPTS = sorted(CHECK.rglob("*.sh"))
PAGE = ROOT / "docs/CHECK.md"

STORIES = {
    "healthy": "events: []",
    "warning": "events: [{at: 0s, gpu: 1, fault: pcie, width: 8}]",
    "critical": "events: [{at: 0s, gpu: 3, fault: lost}]",
    "unknown": "events: [{at: 0s, fault: driver_gone}]",
}


class Node:
    """A machine with simulated GPUs, on which scripts find `scontrol` and `logger` that note how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls_file = folder / "calls"
        self.calls_file.write_text("")
        self.state = "IDLE"
        self.program("logger", f'printf "logger %s\\n" "$*" >>{self.calls_file}')
        self.program(
            "scontrol",
            f'printf "scontrol %s\\n" "$*" >>{self.calls_file}; case "$*" in *show*) cat {folder}/node;; esac',
        )
        self.program("gpu-exporter", f'exec {shlex.join(command())} "$@"')

    def program(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def run(
        self, story: str, *arguments: str | Path, extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        scenario = self.folder / "scenario.yaml"
        scenario.write_text(STORIES[story])
        (self.folder / "node").write_text(f"NodeName=gpu7 Arch=x86_64 State={self.state} ThreadsPerCore=2\n")
        self.calls_file.write_text("")
        surroundings = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "SLURMD_NODENAME": "gpu7",
            "GPU_EXPORTER_SOURCE": "fake",
            "GPU_EXPORTER_FAKE_SCENARIO": str(scenario),
            **(extra or {}),
        }
        return subprocess.run(
            [str(argument) for argument in arguments],
            env=environment(surroundings),
            capture_output=True,
            text=True,
            timeout=patience(),
            check=False,
        )

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_scripts_can_be_run_as_they_come(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert script.read_text().startswith("#!/bin/sh\n")
    done = subprocess.run(["/bin/sh", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- Slurm ------------------------------------------------------------------------------------------------------------

HEALTH_CHECK = CHECK / "slurm/health-check.sh"
PROLOG = CHECK / "slurm/prolog.sh"
SHOW = "scontrol --oneliner show node gpu7"


@pytest.mark.parametrize(
    ("story", "calls"),
    [
        ("healthy", []),
        ("warning", ["logger -t gpu-health -- warning: GPU 1: PCIe x8 of x16"]),
        (
            "critical",
            [
                "logger -t gpu-health -- critical: GPU 3: lost",
                SHOW,
                "scontrol update nodename=gpu7 state=drain reason=gpu critical: GPU 3: lost",
            ],
        ),
        (
            "unknown",
            ["logger -t gpu-health -- unknown: the simulated driver is not loaded (scenario: driver_gone)"],
        ),
    ],
)
def test_slurm_health_check(story: str, calls: list[str], node: Node) -> None:
    done = node.run(story, HEALTH_CHECK, "--expect-gpus", "8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert node.calls() == calls


@pytest.mark.parametrize("state", ["IDLE+DRAIN", "MIXED+DRAIN", "IDLE+DRAIN+REBOOT_REQUESTED"])
def test_slurm_keeps_the_reason_of_a_node_that_is_drained_already(state: str, node: Node) -> None:
    node.state = state
    assert node.run("critical", HEALTH_CHECK).returncode == 0
    assert node.calls()[1:] == [SHOW]


def test_a_mistake_in_the_flags_drains_nothing(node: Node) -> None:
    assert node.run("healthy", HEALTH_CHECK, "--expect-gpu", "8").returncode == 0
    (call,) = node.calls()
    assert call.startswith("logger -t gpu-health -- gpu-exporter: No such option '--expect-gpu'")


@pytest.mark.parametrize(("story", "code"), [("healthy", 0), ("warning", 0), ("critical", 1), ("unknown", 1)])
def test_slurm_prolog(story: str, code: int, node: Node) -> None:
    job = {"SLURM_JOB_GPUS": "0,1", "SLURM_JOB_ID": "4711", "GPU_CHECK_FLAGS": "--expect-gpus 8"}
    assert node.run(story, PROLOG, extra=job).returncode == code
    calls = node.calls()
    assert bool(calls) is bool(code)
    assert not [call for call in calls if call.startswith("scontrol")], "a prolog must not call Slurm's commands"
    if story == "critical":
        assert calls == ["logger -t gpu-prolog -- job 4711: critical: GPU 3: lost"]


def test_jobs_without_gpus_begin_whatever_the_gpus_do(node: Node) -> None:
    assert node.run("critical", PROLOG, extra={"SLURM_JOB_ID": "4711"}).returncode == 0
    assert node.calls() == []


# --- node-problem-detector --------------------------------------------------------------------------------------------

PLUGIN = CHECK / "node-problem-detector/check-gpu.sh"


@pytest.mark.parametrize(
    ("story", "code", "message"),
    [
        ("healthy", 0, "8 of 8 GPUs healthy"),
        ("warning", 0, "GPU 1: PCIe x8 of x16"),
        ("critical", 1, "GPU 3: lost"),
        ("unknown", 2, "the simulated driver is not loaded (scenario: driver_gone)"),
    ],
)
def test_node_problem_detector(story: str, code: int, message: str, node: Node) -> None:
    done = node.run(story, PLUGIN)
    assert (done.returncode, done.stdout) == (code, f"{message}\n")


def test_the_monitor_of_node_problem_detector_is_consistent() -> None:
    """As its custom plugin monitor wants it: every rule's condition is declared, none waits longer than all may."""
    monitor = json.loads((CHECK / "node-problem-detector/gpu-exporter.json").read_text())
    assert monitor["plugin"] == "custom"
    assert monitor["pluginConfig"]["max_output_length"] >= 80
    conditions = {condition["type"] for condition in monitor["conditions"]}
    seconds = {name: int(monitor["pluginConfig"][name].removesuffix("s")) for name in ("invoke_interval", "timeout")}
    assert seconds["timeout"] <= seconds["invoke_interval"]
    for rule in monitor["rules"]:
        assert rule["type"] == "permanent"
        assert rule["condition"] in conditions
        assert rule["path"].rpartition("/")[2] == PLUGIN.name
        assert 20 < int(rule["timeout"].removesuffix("s")) <= seconds["timeout"], "longer than check itself takes"


# --- systemd ----------------------------------------------------------------------------------------------------------

MAIL = CHECK / "systemd/mail-verdict.sh"
SENDMAIL = """\
import email, smtplib, sys
mail = email.message_from_bytes(sys.stdin.buffer.read())
with smtplib.SMTP("127.0.0.1", {port}) as smtp:
    smtp.send_message(mail, from_addr="root@gpu7")
"""


def test_a_timer_mails_each_change_of_the_verdict_once(node: Node) -> None:
    with Mailbox() as mailbox:
        (node.folder / "sendmail.py").write_text(SENDMAIL.format(port=mailbox.port))
        node.program("sendmail", f"exec {sys.executable} {node.folder}/sendmail.py")
        extra = {
            "MAILTO": "gpu-team@example.com",
            "STATE_DIRECTORY": str(node.folder),
            "SENDMAIL": str(node.bin / "sendmail"),
        }
        for story in ("healthy", "critical", "critical", "warning", "healthy", "healthy"):
            done = node.run(story, MAIL, extra=extra)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        subjects = [mail["Subject"].partition("] ")[2] for mail in mailbox.mails]
        assert subjects == [
            "GPUs critical: GPU 3: lost",
            "GPUs warning: GPU 1: PCIe x8 of x16",
            "GPUs healthy: 8 of 8 GPUs healthy",
        ]
        assert mailbox.recipients == [["gpu-team@example.com"]] * 3
        assert "  critical: lost (GPULost)" in part(mailbox.mails[0], "plain")


def test_a_mail_that_could_not_be_sent_is_sent_the_next_time(node: Node) -> None:
    extra = {"MAILTO": "me@example.com", "STATE_DIRECTORY": str(node.folder), "SENDMAIL": "/bin/false"}
    assert node.run("critical", MAIL, extra=extra).returncode == 1
    node.program("sendmail", f"cat >{node.folder}/mail")
    assert node.run("critical", MAIL, extra={**extra, "SENDMAIL": str(node.bin / "sendmail")}).returncode == 0
    assert "Subject: [" in (node.folder / "mail").read_text()


def test_the_script_says_what_it_lacks(node: Node) -> None:
    done = node.run("critical", MAIL)
    assert done.returncode != 0
    assert "write MAILTO=you@example.com into /etc/gpu-exporter/check" in done.stderr


def test_systemd_takes_the_units_without_a_word(tmp_path: Path) -> None:
    for unit in ("gpu-exporter-check.service", "gpu-exporter-check.timer"):
        text = (CHECK / "systemd" / unit).read_text()
        (tmp_path / unit).write_text(text.replace("/usr/local/lib/gpu-exporter/mail-verdict.sh", "/bin/true"))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", str(tmp_path / "gpu-exporter-check.timer")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    service = configparser.RawConfigParser(strict=False)
    service.read(CHECK / "systemd/gpu-exporter-check.service")
    assert service["Service"]["Type"] == "oneshot"
    assert service["Service"]["ExecStart"].rpartition("/")[2] == MAIL.name


# --- Nagios -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("story", "code", "word"),
    [("healthy", 0, "OK"), ("warning", 1, "WARNING"), ("critical", 2, "CRITICAL"), ("unknown", 3, "UNKNOWN")],
)
def test_nagios(story: str, code: int, word: str, node: Node) -> None:
    text = (CHECK / "nagios/gpu-exporter.cfg").read_text()
    local = re.search(r"command_name\s+check_gpu_exporter\n\s+command_line\s+(.*)", text)
    remote = re.search(r"command_line\s+\$USER1\$/check_by_ssh .* -C '(.*)'", text)
    assert local
    assert remote
    assert local[1] == remote[1]
    line = local[1].replace("/usr/local/bin/", f"{node.bin}/").replace("$ARG1$", "8")
    done = node.run(story, *shlex.split(line))
    assert done.returncode == code
    assert done.stdout.startswith(f"GPU {word} - ")
    assert done.stdout.splitlines()[0].count("|") == 1


def test_the_page_names_every_example() -> None:
    text = PAGE.read_text()
    for path in CHECK.rglob("*"):
        if path.is_file():
            assert f"deploy/check/{path.relative_to(CHECK)}" in text, path.name
