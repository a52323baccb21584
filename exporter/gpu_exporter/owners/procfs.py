"""Who a process is, as /proc tells: executable, user, container, pod, Slurm job. docs/OWNERS.md has what it needs.

Never read: ``cmdline`` and ``environ``. Arguments and environment carry passwords and stay on their host.
"""

from __future__ import annotations

import os
import re
import time
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
_TICKS: Final = os.sysconf("SC_CLK_TCK")  # a second, in which /proc/PID/stat tells start times
_UNSEEN: Final = Identity()
_NO_PROC: Final = "/proc is not mounted: mount it, or set owners.procfs: false"
_NAMESPACE: Final = (
    "/proc shows this container's processes only; run it with hostPID: true (docker: --pid=host), or set "
    "processes.enabled: false"
)
_HIDDEN: Final = (
    "/proc hides those of other users (hidepid); put the exporter's user into the group that the mount option gid= "
    "names, or give it CAP_SYS_PTRACE"
)

_UID_LINE: Final = re.compile(rb"^Uid:\t([0-9]{1,10})\t", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A process as it was when ``stamp`` (start time and name, of /proc/PID/stat) was new.

    ``whole`` tells that every part could be read; else it is looked at again.
    """

    stamp: bytes
    uid: int | None
    cgroup: Cgroup
    identity: Identity
    whole: bool


def hides_processes(proc: Path) -> bool:
    """Whether this /proc hides what is not ours (hidepid=2, 4): every pid namespace has a process 1."""
    return not _is_there(f"{proc}/1")


class ProcfsIdentities:
    """Tells who a process is from /proc, mounted at ``root``. Belongs to one thread.

    A process is told from a later one with the same pid by its start time, which is read at every call; all else is
    read once, and again when the process's name changes (it has executed another program).

    One that cannot be seen is not one that has ended: only what was seen before and is gone from a /proc that hides
    nothing has ended.

    ``nested`` takes a /proc of a pid namespace below the machine's for the one that the driver's pids belong to; it is
    meant for machines that are containers themselves (LXC, kind), where the driver translates pids.
    """

    def __init__(self, *, root: Path = PROC, names: UserNames, nested: bool = False) -> None:
        self._root = str(root)
        self._names = names
        self._seen: dict[int, _Seen] = {}
        self._ended: set[int] = set()  # of those that the driver lists still
        self._trouble = self._blindness(nested=nested)
        self.visible: Final = not self._trouble

    @property
    def trouble(self) -> str:
        """Why processes that the driver lists cannot be seen, and what to do; one line, empty while all can."""
        return self._trouble

    def identity(self, pid: int, *, listed_at: float | None = None) -> Identity | None:
        """See ProcessIdentities.identity. Parts that may not be read are empty."""
        if not self.visible or pid <= 0:
            return _UNSEEN
        try:
            stamp = self._stamp(pid)
        except PermissionError:  # hidepid=1: it exists, and that is all we may know
            self._seen.pop(pid, None)
            self._trouble = _HIDDEN
            return _UNSEEN
        except OSError:  # it says nothing about the process (no more file descriptors, say)
            return _UNSEEN
        if stamp is None:
            return self._vanished(pid)
        if _started_after(stamp, listed_at):
            self._end(pid)
            return None
        self._ended.discard(pid)
        seen = self._seen.get(pid)
        if seen is None or seen.stamp != stamp or not seen.whole:
            seen = self._look(pid, stamp)
            if seen is None:
                self._end(pid)
                return None
            self._remember(pid, seen)
        elif seen.uid is not None and (user := self._names.name(seen.uid)) != seen.identity.user:
            seen = replace(seen, identity=replace(seen.identity, user=user))
            self._seen[pid] = seen
        return seen.identity

    def _vanished(self, pid: int) -> Identity | None:
        if hides_processes(Path(self._root)):
            self._seen.pop(pid, None)
            self._trouble = _HIDDEN
            return _UNSEEN
        if pid not in self._seen and pid not in self._ended:
            return _UNSEEN
        self._end(pid)
        return None

    def _end(self, pid: int) -> None:
        """The driver may list it for a while; it does not become one that we cannot see."""
        self._seen.pop(pid, None)
        if len(self._ended) < _MOST_PROCESSES:
            self._ended.add(pid)

    def cgroup(self, pid: int) -> Cgroup:
        """What the cgroup path of a process told, as of the latest ``identity(pid)``; empty where that was None."""
        seen = self._seen.get(pid)
        return seen.cgroup if seen is not None else Cgroup()

    def pod_uid(self, pid: int) -> str:
        """The uid of the process's pod, as of the latest ``identity(pid)``; empty where it has none."""
        return self.cgroup(pid).pod_uid

    def forget_but(self, pids: Sequence[int]) -> None:
        """Drop what is remembered of every process but those that are listed."""
        kept = set(pids)
        self._seen = {pid: seen for pid, seen in self._seen.items() if pid in kept}
        self._ended &= kept

    def close(self) -> None:
        """Ask no name service any more."""
        self._names.close()

    def _remember(self, pid: int, seen: _Seen) -> None:
        if len(self._seen) >= _MOST_PROCESSES and pid not in self._seen:
            del self._seen[next(iter(self._seen))]
        self._seen[pid] = seen

    def _look(self, pid: int, stamp: bytes) -> _Seen | None:
        """Read everything about a process; None where it is gone, or another one by then."""
        status, path = self._part(pid, "status"), self._part(pid, "cgroup")
        match = _UID_LINE.search(status or b"")
        cgroup = parse_cgroup((path or b"").decode("utf-8", "replace"))
        uid, user = self._user(int(match[1]), cgroup) if match else (None, "")
        identity = Identity(
            process=self._program(pid),
            user=user,
            container=cgroup.container[:_SHORT],
            labels={"slurm_job": cgroup.slurm_job} if cgroup.slurm_job else {},
            uid=uid,
        )
        try:
            # What was read above is one process's only if the same one is still there.
            same = _start(self._stamp(pid)) == _start(stamp)
        except OSError:
            same = False
        whole = status is not None and path is not None
        return _Seen(stamp, uid, cgroup, identity, whole) if same else None

    def _user(self, uid: int, cgroup: Cgroup) -> tuple[int | None, str]:
        """The uid and name of the user whose process it is: those of a rootless container have subordinate uids."""
        if cgroup.slurm_uid is not None:
            uid = cgroup.slurm_uid
        elif cgroup.container and cgroup.user_slice is not None:
            uid = cgroup.user_slice
        return self._names.person(uid)

    def _program(self, pid: int) -> str:
        """The executable's base name; its link wants our uid or CAP_SYS_PTRACE, comm (15 bytes) is for everybody."""
        try:
            path = os.readlink(os.fsencode(f"{self._root}/{pid}/exe"))  # noqa: PTH115 - bytes: names need not be UTF-8
        except OSError:
            return (self._part(pid, "comm") or b"").removesuffix(b"\n").decode("utf-8", "replace")
        return path.removesuffix(b" (deleted)").rpartition(b"/")[2].decode("utf-8", "replace")

    def _stamp(self, pid: int) -> bytes | None:
        """Start time and name, from /proc/PID/stat; None where there is no such process. Raises OSError."""
        try:
            text = _read(f"{self._root}/{pid}/stat", 1024)
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):  # the last: it ended after the open
            return None
        # The name may hold spaces and parentheses; the start time is field 22, the 20th after the name.
        head, _, tail = text.rpartition(b") ")
        fields = tail.split(b" ", 20)
        return fields[19] + b" " + head if len(fields) > 20 else None

    def _part(self, pid: int, name: str) -> bytes | None:
        """A file of a process; None where it may not be read or is gone."""
        try:
            return _read(f"{self._root}/{pid}/{name}", _LARGEST)
        except OSError:
            return None

    def _blindness(self, *, nested: bool) -> str:
        """Why no process can be seen at all; empty where that is not so."""
        if not _is_there(f"{self._root}/self"):
            return _NO_PROC
        try:
            namespace = os.readlink(f"{self._root}/self/ns/pid")  # noqa: PTH115 - a name, not a path
        except OSError:
            return ""  # a kernel without pid namespaces
        return "" if nested or namespace == BOOT_PID_NAMESPACE else _NAMESPACE


def _read(path: str, most: int) -> bytes:
    """A file of /proc, in one read; a third cheaper than open()."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def _is_there(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 - as the rest of this module
    except OSError:
        return False
    return True


def _start(stamp: bytes | None) -> bytes:
    return stamp.partition(b" ")[0] if stamp is not None else b""


def _started_after(stamp: bytes, listed_at: float | None) -> bool:
    """Whether a process is younger than the list that names its pid; never where its clock is not ours."""
    started = _start(stamp)
    if listed_at is None or not started.isdigit():
        return False
    return listed_at < int(started) / _TICKS <= time.clock_gettime(time.CLOCK_BOOTTIME) + 1
