"""The hub's unit of systemd, and what it tells its service manager."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.hub import Hub, write_nodes
from tools.lab.programs import program
from tools.lab.wait import patience

from gpu_exporter.cli.group import cli
from manager import Manager

UNIT = ROOT / "deploy/systemd/gpu-exporter-hub.service"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit, with a program in it that this machine has."""
    changed = UNIT.read_text().replace("/usr/local/bin/gpu-exporter", "/bin/true").replace("/bin/kill", "/bin/true")
    assert changed != UNIT.read_text()
    copy = tmp_path / UNIT.name
    copy.write_text(changed)
    return copy


def test_systemd_takes_the_unit_without_a_word(installed: Path) -> None:
    done = subprocess.run(
        [program("systemd-analyze"), "verify", str(installed)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_exposure_is_low(installed: Path) -> None:
    command = [program("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_flags_are_the_hub_s_and_its_history_stays() -> None:
    text = UNIT.read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    _, command, *flags = shlex.split(line)
    assert command == "hub"
    known = {flag for option in cli.commands["hub"].params for flag in option.opts}
    given = dict(flag.split("=") for flag in flags)
    assert set(given) <= known
    assert given["--history.path"].startswith("/var/lib/gpu-exporter-hub/")
    assert "StateDirectory=gpu-exporter-hub\n" in text
    assert "DynamicUser=yes\n" in text


def test_what_systemd_is_told_in_a_life(tmp_path: Path) -> None:
    with Manager(str(tmp_path / "notify")) as manager:
        extra = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000"}
        with Hub(tmp_path, write_nodes(tmp_path / "nodes.json", {}), extra=extra) as hub:
            manager.wait("READY=1")
            assert any(f"STATUS=listening on 127.0.0.1:{hub.port}" in told for told in manager.told())
            manager.wait("WATCHDOG=1", times=2)
            hub.signal(signal.SIGTERM)
            manager.wait("STOPPING=1")
            assert hub.process.wait(patience()) == 0
