"""A small Debian that boots in namespaces of its own, with a real systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tools.lab.wait import patience, wait_for

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
# A unit with PrivateDevices gets a copy of it.
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
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
cd "$root"
# Who is in a chroot may make no user namespace, which a unit with PrivateUsers gets.
pivot_root . mnt
exec chroot . /bin/sh -ec "
    umount -l /mnt
    exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"
' boot "$root"
"""


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
def booted(root: Path) -> Iterator[Machine]:
    """The system in the folder, which is gone afterwards: its systemd is the first process of namespaces of its own."""
    (root / "etc/systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    (root / "etc/machine-id").write_text("")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")  # as an installer does
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
