"""File systems: which are asked, and what becomes of one that never answers."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tools.lab.wait import wait_for

from gpu_exporter.host.disks import Disks, mounts

SERVER = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw
25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,discard
28 27 254:1 / /boot/efi rw - vfat /dev/sda2 rw
29 27 259:1 / /data\\040of\\134all rw shared:2 master:1 - xfs /dev/nvme0n1 rw
30 27 259:1 /home /srv/home rw - xfs /dev/nvme0n1 rw
31 27 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro
32 27 0:40 / /home rw - nfs4 filer:/home rw,addr=10.0.0.9
33 27 0:41 / /net rw - autofs /etc/auto.net rw
34 33 0:42 / /net/box rw - nfs box:/export rw
35 27 0:43 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
36 27 0:44 / /run/user/1000/gvfs rw - fuse.gvfsd-fuse gvfsd-fuse rw
"""
CONTAINER = """\
100 1 0:50 / / rw - overlay overlay rw,lowerdir=/var/lib
101 100 259:1 /var/lib/docker/containers/c/hosts /etc/hosts rw - ext4 /dev/sda1 rw
102 100 259:1 /usr/lib/libnvidia-ml.so.1 /usr/lib/libnvidia-ml.so.1 ro - ext4 /dev/sda1 rw
103 100 259:9 /srv /data rw - ext4 /dev/sdb1 rw
"""


def shown(text: str, root: str = "/") -> list[str]:
    return sorted(mount.shown for mount in mounts(text.encode(), root=root.encode()))


def test_what_keeps_files_is_asked_once_and_nothing_else() -> None:
    assert shown(SERVER) == ["/", "/boot/efi", "/data of\\all", "/home"]
    data = next(mount for mount in mounts(SERVER.encode()) if mount.device == "/dev/nvme0n1")
    assert (data.point, data.filesystem) == (b"/data of\\all", "xfs")


def test_a_container_tells_its_own_disk_or_the_one_that_the_hosts_etc_is_on() -> None:
    assert [mount.filesystem for mount in mounts(CONTAINER.encode())] == ["overlay"]
    mounted = CONTAINER + "104 100 259:1 /etc /host/etc ro - ext4 /dev/sda1 rw\n"
    (disk,) = mounts(mounted.encode())
    assert (disk.shown, disk.point, disk.device) == ("/", b"/host/etc", "/dev/sda1")


def test_a_mounted_root_of_the_machine_is_told_as_the_machine_calls_it() -> None:
    text = CONTAINER + "".join(
        f"{200 + number} 100 {line.split()[2]} {line.split()[3]} /host{line.split()[4].rstrip('/')} {tail}\n"
        for number, line in enumerate(SERVER.splitlines())
        for tail in [line.split(maxsplit=5)[5]]
    )
    assert shown(text, "/host") == shown(SERVER)
    assert shown(text, "/elsewhere") == []


def test_a_later_mount_covers_an_earlier_one_at_the_same_place() -> None:
    text = SERVER + "40 27 259:7 / /home rw - ext4 /dev/sdc1 rw\n"
    assert {mount.shown: mount.device for mount in mounts(text.encode())}["/home"] == "/dev/sdc1"


@pytest.mark.parametrize(
    "line",
    ["", "x", "1 2 3", " - ", "1 2 8:1 / /a rw -", "1 2 8:1 / /a rw - ext4", "\0 - \0", "1 2 8:1 / /\\777 rw - ext4 d"],
)
def test_a_line_that_is_none_is_left_out(line: str) -> None:
    assert "/" in shown(f"{line}\n{SERVER}")


def test_there_are_at_most_64() -> None:
    text = "".join(f"{n} 1 8:{n} / /disk{n} rw - ext4 /dev/sd{n} rw\n" for n in range(500))
    assert len(mounts(text.encode())) == 64


def test_a_size_is_what_df_tells(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    disks = Disks(system=system(tmp_path, "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"), ask=lambda _: status)
    (disk,) = disks.look() or ()
    assert (disk.mount, disk.device, disk.filesystem) == ("/", "/dev/sda1", "ext4")
    assert disk.total == status.f_blocks * status.f_frsize
    assert disk.used == disk.total - status.f_bfree * status.f_frsize
    assert disk.free == status.f_bavail * status.f_frsize


def test_the_disks_of_this_machine_can_be_asked() -> None:
    for disk in Disks().look() or ():
        assert disk.mount.startswith("/")
        assert disk.total > 0
        assert 0 <= disk.used <= disk.total
        assert 0 <= disk.free <= disk.total


def system(folder: Path, mountinfo: str) -> Path:
    """A root with this /proc/self/mountinfo."""
    (folder / "proc/self").mkdir(parents=True, exist_ok=True)
    (folder / "proc/self/mountinfo").write_text(mountinfo)
    return folder


def test_one_that_hangs_costs_the_others_nothing_and_is_asked_again_when_it_returned(tmp_path: Path) -> None:
    text = "".join(f"{n} 1 8:{n} / /d{n} rw - ext4 /dev/sd{n} rw\n" for n in range(1, 5))
    status, released = os.statvfs("/"), threading.Event()
    asked: list[bytes] = []

    def ask(point: bytes) -> os.statvfs_result:
        asked.append(point)
        if point in {b"/d2", b"/d3"} and not released.is_set():
            released.wait()
        return status

    disks = Disks(system=system(tmp_path, text), ask=ask, deadline=0.05)
    wait_for(lambda: [disk.mount for disk in disks.look() or ()] == ["/d1", "/d4"])
    for _ in range(3):
        disks.look()
    assert asked.count(b"/d2") == asked.count(b"/d3") == 1
    released.set()
    wait_for(lambda: [disk.mount for disk in disks.look() or ()] == ["/d1", "/d2", "/d3", "/d4"])
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "disks"])


def test_one_that_refuses_or_has_no_size_is_left_out(tmp_path: Path) -> None:
    text = "1 0 8:1 / /a rw - ext4 a rw\n2 0 8:2 / /b rw - ext4 b rw\n3 0 8:3 / /c rw - ext4 c rw\n"
    status = os.statvfs("/")

    def ask(point: bytes) -> os.statvfs_result:
        if point == b"/a":
            raise PermissionError(13, "no")
        return os.statvfs_result((1, 1, 0, 0, 0, 0, 0, 0, 0, 255)) if point == b"/b" else status

    assert [disk.mount for disk in Disks(system=system(tmp_path, text), ask=ask).look() or ()] == ["/c"]


def test_it_is_told_where_nothing_is_known(tmp_path: Path) -> None:
    assert Disks(system=tmp_path).look() is None
