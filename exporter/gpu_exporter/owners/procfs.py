"""Who a process is, as /proc tells: executable, user, container, pod, Slurm job. docs/OWNERS.md has what it needs.

Never read: ``cmdline`` and ``environ``. Arguments and environment carry passwords and stay on their host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gpu_exporter.model import Identity
from gpu_exporter.owners.cgroups import Cgroup, parse_cgroup
from gpu_exporter.owners.user_names import UserNames

PROC: Final = Path("/proc")
# PROC_PID_INIT_INO, include/linux/proc_ns.h: the pid namespace that the machine boots with, and no other, has it.
BOOT_PID_NAMESPACE: Final = "pid:[4026531836]"
_SHORT: Final = 12  # characters of a container's identifier, as docker ps and crictl ps show it
_MOST_PROCESSES: Final = 16_384
_LARGEST: Final = 64 * 1024  # bytes of a file under /proc

_UID_LINE: Final = re.compile(rb"^Uid:\t([0-9]{1,10})\t", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A process as it was when ``stamp`` (start time and name, of /proc/PID/stat) was new."""

    stamp: bytes
    uid: int | None
    cgroup: Cgroup
    identity: Identity


class ProcfsIdentities:
    """Tells who a process is from /proc, mounted at ``root``. Belongs to one thread.

    A process is told from a later one with the same pid by its start time, which is read at every call; all else is
    read once, and again when the process's name changes (it has executed another program).

    ``nested`` takes a /proc of a pid namespace below the machine's for the one that the driver's pids belong to; it is
    meant for machines that are containers themselves (LXC, kind), where the driver translates pids.
    """

    def __init__(self, *, root: Path = PROC, names: UserNames, nested: bool = False) -> None:
        self._root = str(root)
        self._names = names
        self._seen: dict[int, _Seen] = {}
        self.visible: Final = nested or self._sees_the_machine()

    def identity(self, pid: int) -> Identity | None:
        """Who it is; None where the process is gone or not visible. Parts that may not be read are empty."""
        if not self.visible or pid <= 0:
            return None
        try:
            stamp = self._stamp(pid)
        except PermissionError:  # hidepid=1: it exists, and that is all we may know
            self._seen.pop(pid, None)
            return Identity()
        if stamp is None:
            self._seen.pop(pid, None)
            return None
        seen = self._seen.get(pid)
        if seen is None or seen.stamp != stamp:
            seen = self._look(pid, stamp)
            if seen is None:
                self._seen.pop(pid, None)
                return None
            self._remember(pid, seen)
        elif seen.uid is not None and (user := self._names.name(seen.uid)) != seen.identity.user:
            seen = replace(seen, identity=replace(seen.identity, user=user))
            self._seen[pid] = seen
        return seen.identity

    def cgroup(self, pid: int) -> Cgroup:
        """What the cgroup path of a process told, as of the latest ``identity(pid)``; empty where that was None."""
        seen = self._seen.get(pid)
        return seen.cgroup if seen is not None else Cgroup()

    def pod_uid(self, pid: int) -> str:
        """The uid of the process's pod, as of the latest ``identity(pid)``; empty where it has none."""
        return self.cgroup(pid).pod_uid

    def forget_but(self, pids: Sequence[int]) -> None:
        """Drop what is remembered of every other process."""
        kept = set(pids)
        self._seen = {pid: seen for pid, seen in self._seen.items() if pid in kept}

    def close(self) -> None:
        """Ask no name service any more."""
        self._names.close()

    def _remember(self, pid: int, seen: _Seen) -> None:
        if len(self._seen) >= _MOST_PROCESSES and pid not in self._seen:
            del self._seen[next(iter(self._seen))]
        self._seen[pid] = seen

    def _look(self, pid: int, stamp: bytes) -> _Seen | None:
        """Read everything about a process; None where it is gone, or another one by then."""
        match = _UID_LINE.search(self._part(pid, "status"))
        uid = int(match[1]) if match else None
        cgroup = parse_cgroup(self._part(pid, "cgroup").decode("utf-8", "replace"))
        if cgroup.container and cgroup.user_slice is not None:
            # A rootless container's processes have subordinate uids; whose it is stands in its slice.
            uid = cgroup.user_slice
        identity = Identity(
            process=self._program(pid),
            user=self._names.name(uid) if uid is not None else "",
            container=cgroup.container[:_SHORT],
            labels={"slurm_job": cgroup.slurm_job} if cgroup.slurm_job else {},
        )
        try:
            # What was read above is one process's only if the same one is still there.
            same = _start(self._stamp(pid)) == _start(stamp)
        except PermissionError:
            same = False
        return _Seen(stamp, uid, cgroup, identity) if same else None

    def _program(self, pid: int) -> str:
        """The executable's base name; its link wants our uid or CAP_SYS_PTRACE, comm (15 bytes) is for everybody."""
        try:
            path = os.readlink(os.fsencode(f"{self._root}/{pid}/exe"))  # noqa: PTH115 - bytes: names need not be UTF-8
        except OSError:
            return self._part(pid, "comm").removesuffix(b"\n").decode("utf-8", "replace")
        return path.removesuffix(b" (deleted)").rpartition(b"/")[2].decode("utf-8", "replace")

    def _stamp(self, pid: int) -> bytes | None:
        """Name and start time, from /proc/PID/stat; None where there is no such process. Raises PermissionError."""
        try:
            text = _read(f"{self._root}/{pid}/stat", 1024)
        except PermissionError:
            raise
        except OSError:  # ENOENT, or ESRCH where it ended between open and read
            return None
        # The name may hold spaces and parentheses; the start time is field 22, the 20th after the name.
        head, _, tail = text.rpartition(b") ")
        fields = tail.split(b" ", 20)
        return fields[19] + b" " + head if len(fields) > 20 else None

    def _part(self, pid: int, name: str) -> bytes:
        """A file of a process, or nothing where it may not be read or is gone."""
        try:
            return _read(f"{self._root}/{pid}/{name}", _LARGEST)
        except OSError:
            return b""

    def _sees_the_machine(self) -> bool:
        try:
            return os.readlink(f"{self._root}/self/ns/pid") == BOOT_PID_NAMESPACE  # noqa: PTH115 - a name, not a path
        except OSError:
            return True  # a kernel without pid namespaces


def _read(path: str, most: int) -> bytes:
    """A file of /proc, in one read; a third cheaper than open()."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def _start(stamp: bytes | None) -> bytes:
    return stamp.partition(b" ")[0] if stamp is not None else b""
