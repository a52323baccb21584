"""The unit under a real systemd: a small Debian boots in namespaces of its own and starts it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.wait import patience, wait_for

from debian import archive, impossible

pytestmark = pytest.mark.e2e
CGROUPS = Path("/sys/fs/cgroup")
# Version 2 has one hierarchy, version 1 one a controller, and both may be there at once.
PLACES = [CGROUPS, *(CGROUPS / name for name in ("memory", "devices", "pids", "systemd", "unified"))]
# What a container's runtime does for a systemd inside. A cgroup of its own is what systemd takes for the machine's.
BOOT = """\
set -e
root=$1 cgroup=$2
for place in $(find /sys/fs/cgroup -maxdepth 2 -name "$cgroup"); do echo $$ > "$place/cgroup.procs"; done
exec unshare --pid --fork --kill-child --mount --ipc --uts --net --cgroup bash -ec '
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
for place in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$root/$place"; done
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    for controller in memory devices pids systemd; do
        mkdir "$root/sys/fs/cgroup/$controller"
        name=$controller; [ $controller != systemd ] || name=none,name=systemd
        mount -t cgroup -o $name cgroup "$root/sys/fs/cgroup/$controller"
    done
fi
exec chroot "$root" /usr/bin/env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
' boot "$root"
"""
SETTINGS = "GPU_EXPORTER_SOURCE=fake\nGPU_EXPORTER_WEB_LISTEN_ADDRESS=127.0.0.1:9435\n"
# The times are made short; what happens then is the unit's.
SHORTER = "[Service]\nWatchdogSec=8s\nRestartSec=100ms\n"
SCRAPE = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9435/metrics').read().decode())"


class Machine:
    """One that has booted. Commands run in it as root."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes]) -> None:
        self.root = root
        self._process = process
        self._init = int(wait_for(self._first_process, "systemd"))

    def _first_process(self) -> str:
        """The process id of its systemd: the child of unshare."""
        assert self._process.poll() is None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            with suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return child
        return ""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", f"--target={self._init}", "--all", "--root", "--wdns=/", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=patience(),
        )

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", "gpu-exporter").stdout.strip()

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "--unit=gpu-exporter").stdout

    def until(self, name: str, value: str) -> None:
        wait_for(lambda: self.show(name) == value, lambda: (name, self.show(name), self.journal()))

    def status(self) -> str:
        """/proc/PID/status of the exporter, as the machine sees it."""
        return self.run("cat", f"/proc/{self.show('MainPID')}/status").stdout


def remove_cgroups(name: str) -> None:
    for place in (folder / name for folder in PLACES):
        for folder in sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        if place.exists():
            place.rmdir()


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
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
    (root / "etc/systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    (root / "etc/gpu-exporter").mkdir()
    (root / "etc/gpu-exporter/environment").write_text(SETTINGS)
    unit.with_name(f"{unit.name}.d").mkdir()
    (unit.with_name(f"{unit.name}.d") / "shorter.conf").write_text(SHORTER)
    (root / "etc/machine-id").write_text("")
    cgroup = f"gpu-exporter-test-{os.getpid()}"
    for place in PLACES:
        if (place / "cgroup.procs").exists():
            (place / cgroup).mkdir()
    process = subprocess.Popen(["bash", "-c", BOOT, "boot", str(root), cgroup], stdin=subprocess.DEVNULL)
    try:
        yield Machine(root, process)
    finally:
        process.kill()
        process.wait()
        wait_for(lambda: _removed(cgroup))
        shutil.rmtree(root)


def _removed(cgroup: str) -> bool:
    try:
        remove_cgroups(cgroup)
    except OSError:  # a process of the machine is still on its way out
        return False
    return True


def test_under_a_real_systemd(tmp_path: Path) -> None:
    if reason := impossible():
        pytest.skip(reason)
    if os.environ.get("CI") is None and Path("/run/systemd/system").exists():
        pytest.skip("this machine's own systemd owns the cgroups; CI boots another one in its place")
    with booted(tmp_path) as machine:
        it_starts_and_says_so(machine)
        it_has_no_privileges_and_nothing_to_write_to(machine)
        it_reloads(machine)
        frozen_it_is_restarted(machine)
        a_drop_in_gives_it_the_kernel_log_and_nothing_else(machine)
        it_stops(machine)


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
