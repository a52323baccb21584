"""The unit of systemd, as systemd's own tools see it, and what the daemon tells its service manager."""

from __future__ import annotations

import configparser
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.exporter import Exporter
from tools.lab.programs import program
from tools.lab.wait import patience, wait_for

from gpu_exporter.config import Config, load, settings
from gpu_exporter.http.notify import Notifier
from gpu_exporter.http.server import Server
from manager import Manager
from serving import LOCAL

UNIT = ROOT / "deploy/systemd/gpu-exporter.service"
ENVIRONMENT = ROOT / "deploy/systemd/environment"
PAGE = ROOT / "docs/INSTALL.md"
HANG = "events: [{at: 0s, gpu: all, fault: hang}]"


@contextmanager
def served(folder: Path, *arguments: str, watchdog: float) -> Iterator[tuple[Exporter, Manager]]:
    """An exporter under a service manager that wants to hear of it every so many seconds."""
    with Manager(str(folder / "notify")) as manager:
        extra = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(int(watchdog * 1e6))}
        with Exporter(folder, "--source=fake", "--fake.gpus=2", *arguments, extra=extra) as exporter:
            yield exporter, manager


def unit() -> configparser.RawConfigParser:
    parsed = configparser.RawConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign] # directives have capitals
    parsed.read(UNIT)
    return parsed


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit, with a program in it that this machine has."""
    text = UNIT.read_text()
    changed = text.replace("ExecStart=/usr/local/bin/gpu-exporter", "ExecStart=/bin/true")
    assert changed != text
    changed = changed.replace("/bin/kill", "/bin/true")  # of the package procps, which is not everywhere
    copy = tmp_path / UNIT.name
    copy.write_text(changed)
    return copy


def test_systemd_takes_the_unit_without_a_word(installed: Path) -> None:
    done = subprocess.run(
        [program("systemd-analyze"), "verify", str(installed)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_drop_in_lets_it_read_the_kernel_log_and_nothing_more(installed: Path) -> None:
    """systemd takes it without a word, and of what it says of the unit these four lines differ."""
    before = _exposure(installed)
    drop_in = installed.parent / f"{UNIT.name}.d/kernel-log.conf"
    drop_in.parent.mkdir()
    drop_in.write_text((UNIT.parent / drop_in.name).read_text())
    test_systemd_takes_the_unit_without_a_word(installed)
    after = _exposure(installed)
    assert {line.split()[0] for line in after - before} == {
        "AmbientCapabilities=", "CapabilityBoundingSet=~CAP_SYSLOG", "DeviceAllow=", "ProtectKernelLogs=",
    }, sorted(after - before)  # fmt: skip
    assert any("char-mem:r " in line and "char-195:rw" in line for line in after), (
        "its GPUs stay, all else is read only"
    )


def test_what_the_drop_in_has_for_the_journal_can_be_taken_into_use(installed: Path) -> None:
    drop_in = installed.parent / f"{UNIT.name}.d/kernel-log.conf"
    drop_in.parent.mkdir()
    text = (UNIT.parent / drop_in.name).read_text()
    journal = [line.removeprefix("#: ") for line in text.splitlines() if line.startswith("#: ")]
    assert journal == ["SupplementaryGroups=systemd-journal"]
    drop_in.write_text("\n".join(["[Service]", *journal]))
    test_systemd_takes_the_unit_without_a_word(installed)


def _exposure(unit: Path) -> set[str]:
    """What systemd says of each directive of the unit, those that change nothing about its safety left out."""
    done = subprocess.run(
        [program("systemd-analyze"), "security", "--offline=true", "--threshold=100", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=True,
    )
    told = [line.split() for line in done.stdout.splitlines()]  # in columns, as wide as the longest
    return {" ".join(words[1:]) for words in told if words[:1] in (["✗"], ["✓"])}


def test_the_exposure_is_low(installed: Path) -> None:
    """At most 2.0 of 10; ordinary services have more than 9. What is left is the network, /proc and the GPUs."""
    done = subprocess.run(
        [program("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(installed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_the_unit_leaves_the_gpus_and_proc_in_reach() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert service["DevicePolicy"] == "closed"
    assert re.search(r"^DeviceAllow=char-195 rw$", UNIT.read_text(), re.MULTILINE)
    for hides in ("PrivateDevices", "PrivateUsers", "ProtectProc", "ProcSubset"):
        assert hides not in service, hides
    assert "RuntimeDirectory" not in service, "it would take Slurm's files away when the unit stops"
    assert service["CapabilityBoundingSet"] == ""
    assert service["DynamicUser"] == "yes"
    assert "User" not in service


def test_the_example_environment_is_accepted() -> None:
    """Every line of the file, with its # taken away, is a setting that the exporter takes."""
    lines = re.findall(r"^#(GPU_EXPORTER_\w+)=(.*)$", ENVIRONMENT.read_text(), re.MULTILINE)
    assert len(lines) >= 3
    by_variable = {setting.variable: setting for setting in settings()}
    given = {by_variable[name].key: (name, value) for name, value in lines if name != "GPU_EXPORTER_CONFIG_FILE"}
    assert load(None, given) != Config()
    assert not re.search(r"^[^#\n]", ENVIRONMENT.read_text(), re.MULTILINE), "as it comes, it changes nothing"
    file = unit()["Service"]["EnvironmentFile"]
    assert file == "-/etc/gpu-exporter/environment"
    assert file.removeprefix("-") in ENVIRONMENT.read_text()


def blocks(language: str) -> list[str]:
    """The examples of docs/INSTALL.md in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", blocks("ini"))
def test_the_pages_changes_are_accepted(installed: Path, example: str) -> None:
    """Each drop-in of the page, with a program that this machine has."""
    added = re.sub(r"^ExecStart=/\S+", "ExecStart=/bin/true", example, flags=re.MULTILINE)
    folder = installed.with_name(f"{installed.name}.d")
    folder.mkdir()
    (folder / "override.conf").write_text(added)
    done = subprocess.run(
        [program("systemd-analyze"), "verify", str(installed)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (folder / "override.conf").write_text(f"{added}NoSuchDirective=1\n")
    done = subprocess.run(
        [program("systemd-analyze"), "verify", str(installed)], capture_output=True, text=True, check=False
    )
    assert "NoSuchDirective" in done.stderr, "the drop-in is read at all"


def test_the_page_installs_what_is_there() -> None:
    there, installing = blocks("bash")[:2]
    (line,) = re.findall(r"^scp (.*) \S+:$", there, re.MULTILINE)
    shipped = [Path(name) for name in line.split()]
    assert [path.name for path in shipped] == ["gpu-exporter.pyz", "gpu-exporter.service", "environment"]
    assert all((ROOT / path).exists() for path in shipped if path.parts[0] == "deploy")
    placed = dict(re.findall(r"^install .*?(\S+) (/\S+)$", installing, re.MULTILINE))
    service = unit()["Service"]
    assert placed == {
        "gpu-exporter.pyz": service["ExecStart"],
        "environment": service["EnvironmentFile"].removeprefix("-"),
        "gpu-exporter.service": "/etc/systemd/system/gpu-exporter.service",
    }


def test_what_systemd_is_told_in_a_life(tmp_path: Path) -> None:
    with served(tmp_path, watchdog=3) as (exporter, manager):
        manager.wait("READY=1")
        assert any(f"STATUS=listening on 127.0.0.1:{exporter.port}" in told for told in manager.told())
        manager.wait("WATCHDOG=1", times=2)
        exporter.signal(signal.SIGHUP)
        manager.wait("RELOADING=1")
        manager.wait("READY=1", times=2)
        (reload,) = [told for told in manager.told() if "RELOADING=1" in told]
        assert re.search(r"^MONOTONIC_USEC=\d+$", reload, re.MULTILINE), "what Type=notify-reload asks for"
        exporter.signal(signal.SIGTERM)
        manager.wait("STOPPING=1")
        assert exporter.process.wait(patience()) == 0


def test_a_driver_that_hangs_does_not_stop_the_signs_of_life(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(HANG)
    arguments = (
        f"--fake.scenario={tmp_path / 'scenario.yaml'}",
        "--collection.interval=500ms",
        "--collection.timeout=200ms",
    )
    with served(tmp_path, *arguments, watchdog=3) as (exporter, manager):
        exporter.wait_value(2, "gpu_exporter_stuck_reads")
        before = manager.count("WATCHDOG=1")
        manager.wait("WATCHDOG=1", times=before + 2)
        assert exporter.value("gpu_exporter_stuck_reads") == 2


def test_signs_of_life_come_from_the_loop_that_answers_scrapes() -> None:
    seen: list[str] = []
    server = Server(lambda *_: [], addresses=[LOCAL], heartbeat=lambda: seen.append(threading.current_thread().name))
    server.start()
    try:
        socket.create_connection(("127.0.0.1", server.port)).close()
        wait_for(lambda: seen)
    finally:
        server.close()
    assert set(seen) == {"http"}


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    for environment in (
        {},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"WATCHDOG_USEC": "1000000"},
        {"WATCHDOG_USEC": "9" * 400},
    ):
        notifier = Notifier(environment)
        notifier.ready("listening")
        notifier.beat()
        notifier.stopping()


def test_an_abstract_socket() -> None:
    with Manager(f"@gpu-exporter-test-{os.getpid()}") as manager:
        Notifier({"NOTIFY_SOCKET": manager.address}).ready("listening")
        assert manager.told() == ["READY=1\nSTATUS=listening"]


@pytest.mark.parametrize(
    "watchdog", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "9" * 400}]
)
def test_whose_life_nobody_waits_for(tmp_path: Path, watchdog: dict[str, str]) -> None:
    with Manager(str(tmp_path / "notify")) as manager:
        Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1", **watchdog}).beat()
        assert manager.told() == []
        Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid())}).beat()
        assert manager.told() == ["WATCHDOG=1"]


def test_beats_are_few(tmp_path: Path) -> None:
    with Manager(str(tmp_path / "notify")) as manager:
        notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3600000000"})
        for _ in range(1000):
            notifier.beat()
        assert manager.told() == ["WATCHDOG=1"]


def test_a_manager_that_is_gone_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.ready("listening")
    notifier.stopping()
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "the service manager cannot be told")
    ]


def test_a_manager_that_does_not_listen_makes_nobody_wait(tmp_path: Path) -> None:
    """Its queue is full: the message is lost, the caller goes on."""
    with Manager(str(tmp_path / "notify")) as manager:
        notifier = Notifier({"NOTIFY_SOCKET": manager.address})
        for _ in range(2000):
            notifier.stopping()
        assert 0 < len(manager.told()) < 2000


def test_children_do_not_inherit_the_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    Notifier.of_this_process()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(os.environ)
