"""Who a process is, as /proc tells: executable, user, container, pod, Slurm job. docs/OWNERS.md has what it needs.

Never read: ``cmdline`` and ``environ``. Arguments and environment carry passwords and stay on their host.
"""

from __future__ import annotations

import logging
import os
import pwd
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gpu_exporter.model import Identity

log = logging.getLogger(__name__)

PROC: Final = Path("/proc")
# Where a container has the host's /etc mounted; the chart and the compose file agree on it.
HOST_ETC: Final = Path("/host/etc")
# PROC_PID_INIT_INO, include/linux/proc_ns.h: the pid namespace that the machine boots with, and no other, has it.
_BOOT_NAMESPACE: Final = "pid:[4026531836]"
_SHORT: Final = 12  # characters of a container's identifier, as docker ps and crictl ps show it
_MOST_PROCESSES: Final = 16_384
_MOST_NAMES: Final = 4096
_MOST_ASKED: Final = 64  # names waiting for the name service
_ASK_AGAIN: Final = 600.0  # seconds until the name service is asked for the same uid again
_LOOK_AGAIN: Final = 10.0  # seconds between looks at /etc/passwd
_LARGEST: Final = 64 * 1024  # bytes of a file under /proc
_LARGEST_PASSWD: Final = 16 * 1024 * 1024

_UID_LINE: Final = re.compile(rb"^Uid:\t([0-9]{1,10})\t", re.MULTILINE)
_UUID: Final = "[0-9a-f]{8}([-_])[0-9a-f]{4}(?:[-_][0-9a-f]{4}){2}[-_][0-9a-f]{12}"
# /kubepods/burstable/pod<uid>/<id> · kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope · and what containerd
# makes of the systemd form on cgroup v1 with its own driver: kubepods-…-pod<uid>.slice:cri-containerd:<id>.
# Static pods have 32 hexadecimal digits (their file's hash) for a uid.
_POD: Final = re.compile(rf"(?:^|[/-])pod({_UUID}|[0-9a-f]{{32}})(?:\.slice)?(?=[/:]|$)")
# docker-<id>.scope · libpod-<id>.scope · crio-<id>.scope · cri-containerd-<id>.scope · nerdctl-<id>.scope · …/<id>
_CONTAINER: Final = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?:\.scope)?(?=/|$)")
# v1: /slurm[_node]/uid_<uid>/job_<job>[/step_<step>] · v2: …/[node_]slurmstepd.scope/job_<job>[/step_<step>]
_SLURM: Final = re.compile(r"/(?:[^/]*slurmstepd\.scope|uid_[0-9]+)/job_([0-9]{1,20})(?:/step_([^/]{1,64}))?(?=/|$)")
_USER_SLICE: Final = re.compile(r"/user-([0-9]{1,10})\.slice(?=/|$)")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """What a process's cgroup path tells. ``container`` is the whole identifier, of 64 hexadecimal digits.

    ``user_slice`` is the uid of the login session or user manager that the process lives below.
    """

    container: str = ""
    pod_uid: str = ""
    slurm_job: str = ""
    slurm_step: str = ""
    user_slice: int | None = None


def parse_cgroup(text: str) -> Cgroup:
    """Read a ``/proc/PID/cgroup``, of cgroup v1, v2 or both.

    Paths may begin with ``/..`` where our own cgroup namespace is not the host's. Of nested containers the one directly
    below the pod counts, else the outermost: that is the one which the host's own tools list.
    """
    found = Cgroup()
    for line in text.split("\n"):
        _, _, path = line.partition(":")[2].partition(":")
        if path in {"", "/"}:
            continue
        path = path.removesuffix(" (deleted)")
        pod = _POD.search(path)
        container = _CONTAINER.search(path, pod.end()) if pod else _CONTAINER.search(path)
        slurm = _SLURM.search(path)
        user = _USER_SLICE.search(path)
        if user and slurm and user.start() < slurm.start():
            slurm = None  # below their own slice users name cgroups as they like, a stranger's job included
        if user and container and user.start() > container.start():
            user = None  # a user of the container, not of the host
        if pod and not found.pod_uid:
            # The systemd driver writes underscores: a dash in a slice's name means a parent.
            container_id = container[1] if container else ""
            found = replace(found, pod_uid=pod[1].replace("_", "-"), container=container_id or found.container)
        elif container and not found.container:
            found = replace(found, container=container[1])
        if slurm and (not found.slurm_job or (found.slurm_job == slurm[1] and not found.slurm_step)):
            found = replace(found, slurm_job=slurm[1], slurm_step=slurm[2] or "")
        if user and found.user_slice is None:
            found = replace(found, user_slice=int(user[1]))
    return found


# --- names ------------------------------------------------------------------------------------------------------------


def _ask_name_service(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name


class UserNames:
    """User names by uid: ``passwd`` first, then ``resolve``, which may take as long as it likes on a thread of its own.

    ``resolve`` raises KeyError for a user that is unknown. None for either means that there is no such thing, as in a
    container, whose own files and name service know other users than the host's.
    """

    def __init__(
        self,
        *,
        passwd: Path | None = Path("/etc/passwd"),
        resolve: Callable[[int], str] | None = _ask_name_service,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._passwd = passwd
        self._resolve = resolve
        self._monotonic = monotonic
        self._local: Mapping[int, str] = MappingProxyType({})
        self._local_state: tuple[int, ...] | None = None
        self._look_at = float("-inf")
        # Everything below belongs to the condition's lock.
        self._changed = threading.Condition()
        self._answers: dict[int, tuple[str, float]] = {}  # name (empty: unknown), when to ask again
        self._questions: deque[int] = deque()
        self._asking: int | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def name(self, uid: int) -> str:
        """The name, or the uid as text while no name is known. Never waits; belongs to one thread."""
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_AGAIN
            self._read_passwd()
        if local := self._local.get(uid):
            return local
        if self._resolve is None:
            return str(uid)
        with self._changed:
            name, ask_at = self._answers.get(uid, ("", now))
            if now >= ask_at:
                self._ask(uid)
        return name or str(uid)

    def close(self) -> None:
        """Ask no more. A question that hangs in the name service is left behind on its daemon thread."""
        with self._changed:
            self._closed = True
            self._questions.clear()
            self._changed.notify_all()
            idle = self._thread if self._asking is None else None
        if idle is not None:
            idle.join(1.0)

    def _ask(self, uid: int) -> None:
        if self._closed or len(self._questions) >= _MOST_ASKED or uid == self._asking or uid in self._questions:
            return  # the next tick asks again
        self._questions.append(uid)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="user names", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        resolve = self._resolve
        while resolve is not None:
            with self._changed:
                while not self._questions and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                self._asking = uid = self._questions.popleft()
            name: str | None = None
            try:
                name = resolve(uid)
            except KeyError:
                name = ""
            except Exception as error:  # noqa: BLE001 - a name service is somebody else's plugin
                log.debug("the name service failed", extra={"uid": uid, "error": str(error)})
            with self._changed:
                self._asking = None
                before, _ = self._answers.pop(uid, ("", 0.0))
                name = before if name is None else name
                while len(self._answers) >= _MOST_NAMES:
                    del self._answers[next(iter(self._answers))]
                self._answers[uid] = (name, self._monotonic() + _ASK_AGAIN)
                self._changed.notify_all()

    def _read_passwd(self) -> None:
        if self._passwd is None:
            return
        try:
            status = self._passwd.stat()
            state = (status.st_mtime_ns, status.st_size, status.st_ino)
            if state == self._local_state:
                return
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_PASSWD:
                raise OSError("not a file of reasonable size")  # noqa: TRY301 - handled as any unreadable file
            text = self._passwd.read_bytes().decode("utf-8", "replace")
        except OSError as error:
            if self._local_state != ():
                log.warning("users cannot be named", extra={"file": str(self._passwd), "error": str(error)})
            self._local, self._local_state = MappingProxyType({}), ()
            return
        names: dict[int, str] = {}
        for line in text.split("\n"):
            name, _, rest = line.partition(":")
            uid = rest.partition(":")[2].partition(":")[0]
            if name and name[0] not in "+-#" and uid.isascii() and uid.isdigit() and len(uid) <= 10:
                names.setdefault(int(uid), name)  # of two names the first counts, as in getpwuid(3)
        self._local, self._local_state = MappingProxyType(names), state


def host_names(*, root: Path = Path("/"), monotonic: Callable[[], float] = time.monotonic) -> UserNames:
    """Names of the host's users, from inside a container as well.

    There they come from /host/etc/passwd, or from an /etc/passwd that was mounted; else uids stay numbers, because the
    image's own users are different people. The mark of a container is that its runtime mounted /etc/hosts (Docker,
    containerd, CRI-O and Podman all do, with the host's network too).
    """
    mounted = root / HOST_ETC.relative_to("/") / "passwd"
    if mounted.exists():
        return UserNames(passwd=mounted, resolve=None, monotonic=monotonic)
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    mounts = {fields[4] for fields in map(str.split, lines) if len(fields) > 4}
    passwd = root / "etc/passwd"
    if "/etc/hosts" not in mounts:
        return UserNames(passwd=passwd, monotonic=monotonic)
    return UserNames(passwd=passwd if "/etc/passwd" in mounts else None, resolve=None, monotonic=monotonic)


# --- processes --------------------------------------------------------------------------------------------------------


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
            slurm_job=cgroup.slurm_job,
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
            return os.readlink(f"{self._root}/self/ns/pid") == _BOOT_NAMESPACE  # noqa: PTH115 - a name, not a path
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
