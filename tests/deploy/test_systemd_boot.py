"""The unit under a real systemd: a small Debian boots in namespaces of its own and starts it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tools.dist import deb
from tools.dist.moment import moment
from tools.lab import ROOT
from tools.lab.debian import archive, impossible
from tools.lab.wait import wait_for

from boot import Machine, booted

pytestmark = pytest.mark.e2e
SETTINGS = "GPU_EXPORTER_SOURCE=fake\nGPU_EXPORTER_WEB_LISTEN_ADDRESS=127.0.0.1:9435\n"
# The times are made short; what happens then is the unit's.
SHORTER = "[Service]\nWatchdogSec=8s\nRestartSec=100ms\n"
SCRAPE = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9435/metrics').read().decode())"


def prepared(folder: Path) -> Path:
    """A system with the exporter installed by hand, as docs/INSTALL.md tells, that is not booted yet."""
    root = folder / "root"
    root.mkdir()
    subprocess.run(["tar", "-xf", str(archive("systemd", "python3", "procps")), "-C", str(root)], check=True)
    archived = root / "usr/local/bin/gpu-exporter"
    subprocess.run([sys.executable, "tools/pyz.py", str(archived)], cwd=ROOT, check=True, capture_output=True)
    archived.chmod(0o755)
    unit = root / "etc/systemd/system/gpu-exporter.service"
    shutil.copy(ROOT / "deploy/systemd/gpu-exporter.service", unit)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / unit.name).symlink_to(f"/etc/systemd/system/{unit.name}")
    (root / "etc/gpu-exporter").mkdir()
    (root / "etc/gpu-exporter/environment").write_text(SETTINGS)
    unit.with_name(f"{unit.name}.d").mkdir()
    (unit.with_name(f"{unit.name}.d") / "shorter.conf").write_text(SHORTER)
    return root


def test_under_a_real_systemd(tmp_path: Path) -> None:
    if reason := impossible():
        pytest.skip(reason)
    if os.environ.get("CI") is None and Path("/run/systemd/system").exists():
        pytest.skip("this machine's own systemd owns the cgroups; CI boots another one in its place")
    with booted(prepared(tmp_path)) as machine:
        it_starts_and_says_so(machine)
        it_has_no_privileges_and_nothing_to_write_to(machine)
        it_reloads(machine)
        frozen_it_is_restarted(machine)
        a_drop_in_gives_it_the_kernel_log_and_nothing_else(machine)
        it_stops(machine)


@pytest.mark.slow
def test_the_page_and_the_package_under_a_real_systemd(tmp_path: Path) -> None:
    """By hand as docs/INSTALL.md has it, word for word, and then by the package. Slow: make dist-test."""
    if reason := impossible():
        pytest.skip(reason)
    if os.environ.get("CI") is None and Path("/run/systemd/system").exists():
        pytest.skip("this machine's own systemd owns the cgroups; CI boots another one in its place")
    root = tmp_path / "root"
    root.mkdir()
    made = archive("systemd", "python3", "procps", "curl")
    subprocess.run(["tar", "-xf", str(made), "-C", str(root)], check=True)
    with booted(root) as machine:
        the_page_installs_it_by_hand(machine)
        it_stops(machine)
        the_package_installs_starts_and_leaves(machine, tmp_path)


def the_page_installs_it_by_hand(machine: Machine) -> None:
    page = (ROOT / "docs/INSTALL.md").read_text().partition("\n## systemd\n")[2]
    making, installing = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[:2]
    sent = re.search(r"^scp (.*) \S+:$", making, re.MULTILINE)
    assert sent is not None
    pyz, *files = sent[1].split()
    assert "make pyz\n" in making
    home = machine.root / "root"
    subprocess.run([sys.executable, "tools/pyz.py", str(home / Path(pyz).name)], cwd=ROOT, check=True)
    for file in files:
        shutil.copy(ROOT / file, home)
    # It has no GPUs; all else is the page's.
    with (home / "environment").open("a") as file_:
        file_.write(SETTINGS)
    wait_for(lambda: machine.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"})
    done = machine.run("bash", "-ec", f"set -o pipefail; cd /root; export GPU_EXPORTER_SOURCE=fake\n{installing}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.show("ActiveState") == "active", "it is told as started when it listens"
    assert re.search(r"^gpu_up\{.*\} 1\.0$", done.stdout, re.MULTILINE), "and then it has read"


def it_starts_and_says_so(machine: Machine) -> None:
    machine.until("ActiveState", "active")
    assert machine.show("StatusText") == "listening on 127.0.0.1:9435"
    page = machine.run("python3", "-c", SCRAPE).stdout
    assert len(re.findall(r"^gpu_up\{", page, re.MULTILINE)) == 8, machine.journal()
    assert machine.show("WatchdogTimestampMonotonic") != "0", "signs of life arrive"


def it_has_no_privileges_and_nothing_to_write_to(machine: Machine) -> None:
    status = machine.status()
    (uid,) = re.findall(r"^Uid:\t(\d+)\t\1\t\1\t\1$", status, re.MULTILINE)
    assert 61184 <= int(uid) <= 65519, "of the range for dynamic users"
    for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert f"\n{name}:\t0000000000000000\n" in status, name
    assert "\nNoNewPrivs:\t1\n" in status
    assert "\nSeccomp:\t2\n" in status
    mounts = machine.run("cat", f"/proc/{machine.show('MainPID')}/mounts").stdout
    (options,) = re.findall(r"^\S+ / \S+ (\S+) ", mounts, re.MULTILINE)[-1:]
    assert "ro" in options.split(","), "its root is read-only"


def it_reloads(machine: Machine) -> None:
    done = machine.run("systemctl", "reload", "gpu-exporter")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: 'msg="configuration reloaded"' in machine.journal(), machine.journal)
    assert machine.show("ActiveState") == "active"


def frozen_it_is_restarted(machine: Machine) -> None:
    before = machine.show("MainPID")
    assert machine.run("kill", f"-{signal.SIGSTOP.value}", before).returncode == 0
    machine.until("NRestarts", "1")
    machine.until("ActiveState", "active")
    assert machine.show("MainPID") != before
    assert "Watchdog timeout" in machine.run("journalctl", "--no-pager").stdout


def a_drop_in_gives_it_the_kernel_log_and_nothing_else(machine: Machine) -> None:
    drop_in = machine.root / "etc/systemd/system/gpu-exporter.service.d/kernel-log.conf"
    shutil.copy(ROOT / "deploy/systemd/kernel-log.conf", drop_in)
    assert machine.run("systemctl", "daemon-reload").returncode == 0
    done = machine.run("systemctl", "restart", "gpu-exporter")
    assert done.returncode == 0, (done.stderr, machine.journal())
    machine.until("ActiveState", "active")
    status = machine.status()
    for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert f"\n{name}:\t{1 << 34:016x}\n" in status, (name, "CAP_SYSLOG is capability 34")
    assert "\nNoNewPrivs:\t1\n" in status


def it_stops(machine: Machine) -> None:
    assert machine.run("systemctl", "stop", "gpu-exporter").returncode == 0
    assert machine.show("Result") == "success"
    assert "msg=stopping signal=SIGTERM" in machine.journal()


def the_package_installs_starts_and_leaves(machine: Machine, folder: Path) -> None:
    """The .deb, on the same machine, once what was installed by hand is gone."""
    for path in ("etc/systemd/system/multi-user.target.wants/gpu-exporter.service", "usr/local/bin/gpu-exporter"):
        (machine.root / path).unlink()
    (machine.root / "etc/systemd/system/gpu-exporter.service").unlink()
    (machine.root / "etc/gpu-exporter/environment").unlink()
    # How it was made without the documents of all packages; of ours nothing may be missing.
    (machine.root / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink()
    package = deb.package(folder, moment()).path
    shutil.copy(package, machine.root / "root/gpu-exporter.deb")
    done = machine.run("dpkg", "--install", "/root/gpu-exporter.deb")
    assert done.returncode == 0, done.stdout + done.stderr
    machine.until("ActiveState", "active")
    assert machine.run("systemctl", "is-enabled", "gpu-exporter").stdout == "enabled\n", "it starts at boot as well"
    assert machine.show("StatusText") == "listening on [::]:9435"
    assert (machine.root / "usr/lib/gpu-exporter/gpu_exporter/__pycache__").is_dir(), "nobody could write it later"

    (machine.root / "etc/gpu-exporter/environment").write_text(SETTINGS)
    before = machine.show("MainPID")
    done = machine.run("dpkg", "--install", "--force-confold", "/root/gpu-exporter.deb")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: machine.show("MainPID") not in {before, "0"}, machine.journal)
    machine.until("ActiveState", "active")
    assert (machine.root / "etc/gpu-exporter/environment").read_text() == SETTINGS, "an upgrade keeps what was set"
    page = machine.run("python3", "-c", SCRAPE).stdout
    assert len(re.findall(r"^gpu_up\{", page, re.MULTILINE)) == 8, machine.journal()

    assert machine.run("dpkg", "--verify", "gpu-exporter").stdout.split() == [
        "??5??????",
        "c",
        "/etc/gpu-exporter/environment",
    ]
    done = machine.run("dpkg", "--purge", "gpu-exporter")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not empty" not in done.stdout + done.stderr
    assert machine.show("ActiveState") == "inactive"
    left = ("usr/lib/gpu-exporter", "etc/gpu-exporter", "usr/share/gpu-exporter")
    assert [path for path in left if (machine.root / path).exists()] == []
