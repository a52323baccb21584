"""Sizes of the machine's file systems. Asking one can hang for ever: a dead NFS server, a dying disk."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpu_exporter.model import Disk
from gpu_exporter.owners.user_names import HOST_ETC

_MOST: Final = 64
_LARGEST: Final = 4 * 1024 * 1024  # bytes of mountinfo; a Kubernetes node has thousands of lines
_DEADLINE: Final = 2.0  # seconds for one look at all of them
_LEAST: Final = 0.05  # seconds for those that come after one that took them all
# What keeps people's files. Images (squashfs, iso9660), memory (tmpfs) and layers of containers (overlay) do not.
_LOCAL: Final = frozenset(
    {
        "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "nilfs2", "vfat", "exfat",
        "ntfs", "ntfs3", "fuseblk",
    }
)  # fmt: skip
_NETWORK: Final = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "afs", "9p", "virtiofs",
        "pvfs2", "wekafs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.beegfs", "fuse.juicefs",
        "fuse.s3fs",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo. ``point`` is where to ask, ``shown`` what the machine calls that place."""

    point: bytes
    shown: str
    device: str
    filesystem: str
    number: bytes  # major:minor of the file system, which tells several mounts of one apart from several
    root: bytes  # the folder of the file system that is mounted


class Disks:
    """Tells the sizes of file systems, each once; network file systems as well. Belongs to one thread.

    One that does not answer is left out, and not asked again before the call for it has returned: at most one parked
    thread a file system. ``root`` is where the machine's root is (a container has it mounted somewhere).
    """

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        system: Path = Path("/"),
        ask: Callable[[bytes], os.statvfs_result] = os.statvfs,
        deadline: float = _DEADLINE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = os.fsencode(root)
        self._mountinfo = system / "proc/self/mountinfo"
        self._ask = ask
        self._deadline = deadline
        self._monotonic = monotonic
        self._parked: dict[bytes, threading.Thread] = {}

    def look(self) -> tuple[Disk, ...] | None:
        """Those that answer now, by mount point; None where it is not known what is mounted."""
        try:
            with self._mountinfo.open("rb") as file:
                text = file.read(_LARGEST)
        except OSError:
            return None
        self._parked = {point: thread for point, thread in self._parked.items() if thread.is_alive()}
        waiting = [mount for mount in mounts(text, root=self._root) if mount.point not in self._parked]
        answers: list[Disk] = []
        end = self._monotonic() + self._deadline
        while waiting:
            errand = _Errand(waiting, self._ask)
            errand.thread.start()
            errand.thread.join(max(_LEAST, end - self._monotonic()))
            waiting, stuck = errand.stop()
            answers += errand.answers
            if stuck is not None:
                self._parked[stuck.point] = errand.thread
        return tuple(sorted(answers, key=lambda disk: disk.mount))


class _Errand:
    """A thread that asks one file system after the other, until it is told to stop."""

    def __init__(self, mounts: list[Mount], ask: Callable[[bytes], os.statvfs_result]) -> None:
        self.answers: list[Disk] = []
        self._left = mounts
        self._ask = ask
        self._asking: Mount | None = None
        self._stopped = False
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="disks", daemon=True)

    def stop(self) -> tuple[list[Mount], Mount | None]:
        """Those it has not come to, and the one that is being asked, if any: what that answers counts no more."""
        with self._lock:
            self._stopped = True
            return self._left, self._asking

    def _run(self) -> None:
        disk: Disk | None = None
        while True:
            with self._lock:
                if self._stopped:
                    return
                if disk is not None:
                    self.answers.append(disk)
                if not self._left:
                    self._asking = None
                    return
                self._asking, self._left = mount, _ = self._left[0], self._left[1:]
            try:
                disk = _disk(mount, self._ask(mount.point))
            except OSError:  # no permission, or gone since
                disk = None


def _disk(mount: Mount, told: os.statvfs_result) -> Disk | None:
    """As df(1) counts; None where it has no size, as what is no real file system."""
    total, size = told.f_blocks, told.f_frsize
    if total <= 0 or not 0 <= told.f_bfree <= total:
        return None
    return Disk(
        mount=mount.shown,
        device=mount.device,
        filesystem=mount.filesystem,
        total=total * size,
        used=(total - told.f_bfree) * size,
        free=max(0, told.f_bavail) * size,
    )


def mounts(mountinfo: bytes, *, root: bytes = b"/") -> list[Mount]:
    """The file systems to ask, of the text of /proc/self/mountinfo (proc_pid_mountinfo(5)): each once, at most 64.

    Those that an automounter has mounted are left out: asking them would keep them mounted for ever.
    """
    found: dict[bytes, Mount] = {}  # by mount point: a later mount covers an earlier one
    automounted: list[bytes] = []
    for line in mountinfo.split(b"\n"):
        mount = _parse(line, root)
        if mount is None:
            continue
        if mount.filesystem == "autofs":
            automounted.append(mount.point.rstrip(b"/") + b"/")
        found[mount.point] = mount
    # What is mounted into a container of the machine's files (its users' data, the driver's libraries) is no disk.
    contained = root == b"/" and b"/" in found and found[b"/"].filesystem == "overlay"
    by_number: dict[bytes, Mount] = {}
    for mount in sorted(found.values(), key=_fitness):
        if contained and mount.root != b"/" and mount.shown != "/":
            continue
        network = mount.filesystem in _NETWORK
        if (
            not network
            and mount.filesystem not in _LOCAL
            and not (mount.filesystem == "overlay" and mount.shown == "/")
        ):
            continue
        if network and any(mount.point.startswith(folder) for folder in automounted):
            continue
        by_number.setdefault(mount.number, mount)
    shown: dict[str, Mount] = {}
    for mount in by_number.values():
        shown.setdefault(mount.shown, mount)
    return list(shown.values())[:_MOST]


def _fitness(mount: Mount) -> tuple[bool, bool, int, bytes]:
    """Of several mounts of one file system, which to show: its own root, the shortest; its container's layers last."""
    return mount.filesystem == "overlay", mount.root != b"/" and mount.shown != "/", len(mount.point), mount.point


def _parse(line: bytes, root: bytes) -> Mount | None:
    left, separated, right = line.partition(b" - ")
    columns, source = left.split(b" "), right.split(b" ")
    if not separated or len(columns) < 6 or len(source) < 2:
        return None
    point = _unescaped(columns[4])
    folder = _unescaped(columns[3])
    if point == os.fsencode(HOST_ETC) and folder.endswith(b"/etc"):
        shown: bytes | None = b"/"  # the disk that the host's /etc is on
    else:
        shown = _below(point, root)
    if shown is None:
        return None
    return Mount(
        point=point,
        shown=shown.decode("utf-8", "replace"),
        device=_unescaped(source[1]).decode("utf-8", "replace"),
        filesystem=source[0].decode("ascii", "replace"),
        number=columns[2],
        root=folder,
    )


def _below(point: bytes, root: bytes) -> bytes | None:
    """The mount point as the machine calls it; None where it is not of the machine's."""
    if root == b"/":
        return point
    if point == root:
        return b"/"
    return point.removeprefix(root) if point.startswith(root + b"/") else None


def _unescaped(text: bytes) -> bytes:
    r"""Mountinfo writes space, tab, newline and backslash as \040, \011, \012, \134."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 255]), text)
