"""The host's users: their names from a passwd file, and from a name service that may take as long as it likes."""

from __future__ import annotations

import logging
import pwd
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gpu_exporter.config import Watch, read_file
from gpu_exporter.owners.aside import Aside
from gpu_exporter.owners.subordinate_uids import SubordinateUids

log = logging.getLogger(__name__)

# Where a container has the host's /etc mounted; the chart and the compose file agree on it.
HOST_ETC: Final = Path("/host/etc")
_MOST_NAMES: Final = 4096
_MOST_ASKED: Final = 64  # names waiting for the name service
_ASK_AGAIN: Final = 600.0  # seconds until the name service is asked for the same uid again
_LOOK_AGAIN: Final = 10.0  # seconds between looks at /etc/passwd
_LARGEST_PASSWD: Final = 16 * 1024 * 1024
_DEADLINE: Final = 2.0  # seconds until the other uids no longer wait for the one that is being asked for
_MOST_HANGING: Final = 4  # questions that are left to hang, each with its thread


def _ask_name_service(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name


class UserNames:
    """User names by uid: ``passwd`` first, then ``resolve``, which may take as long as it likes on a thread of its own.

    ``resolve`` raises KeyError for a user that is unknown. None for either means that there is no such thing, as in a
    container, whose own files and name service know other users than the host's. A question that takes longer than
    two seconds is left to its thread, and another thread goes on with the other uids.

    ``subuid`` is the file that gives users ranges of subordinate uids, for their rootless containers.
    """

    def __init__(
        self,
        *,
        passwd: Path | None = Path("/etc/passwd"),
        resolve: Callable[[int], str] | None = _ask_name_service,
        subuid: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._passwd = passwd
        self._subordinate = SubordinateUids(subuid, monotonic=monotonic) if subuid is not None else None
        self._watch = Watch(passwd) if passwd is not None else None
        self._resolve = resolve
        self._monotonic = monotonic
        self._local: Mapping[int, str] = MappingProxyType({})
        self._uids: Mapping[str, int] = MappingProxyType({})
        self._complained = False
        self._look_at = float("-inf")
        self._passwd_read: Aside[None] = Aside(self._read_passwd, None, what=str(passwd))
        # Everything below belongs to the condition's lock.
        self._changed = threading.Condition()
        self._answers: dict[int, tuple[str, float]] = {}  # name (empty: unknown), when to ask again
        self._questions: deque[int] = deque()
        self._asking: dict[threading.Thread, tuple[int, float]] = {}  # the uid that is asked for, and since when
        self._thread: threading.Thread | None = None  # the one that takes questions; the others hang
        self._closed = False

    def name(self, uid: int) -> str:
        """The name, or the uid as text while no name is known. Never waits; belongs to one thread."""
        now = self._look()
        if local := self._local.get(uid):
            return local
        if self._resolve is None:
            return str(uid)
        with self._changed:
            name, ask_at = self._answers.get(uid, ("", now))
            self._leave_behind(now)
            if now >= ask_at:
                self._ask(uid)
        return name or str(uid)

    def person(self, uid: int) -> tuple[int | None, str]:
        """Uid and name of the user whom a uid belongs to: itself, or the one whose subordinate uid it is.

        The uid is None where only the login name is known. Never waits; belongs to the thread of ``name``.
        """
        self._look()
        user = self._subordinate.user(uid) if self._subordinate is not None and uid not in self._local else None
        if user is None:
            return uid, self.name(uid)
        if user.isascii() and user.isdigit():
            return int(user), self.name(int(user))
        return self._uids.get(user), user

    def close(self) -> None:
        """Ask no more. A question that hangs in the name service is left behind on its daemon thread."""
        with self._changed:
            self._closed = True
            self._questions.clear()
            self._changed.notify_all()
            idle = self._thread if self._thread not in self._asking else None
        if idle is not None:
            idle.join(1.0)

    def _look(self) -> float:
        """Read the passwd file where it has changed; the time."""
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_AGAIN
            self._passwd_read.latest()
        return now

    def _leave_behind(self, now: float) -> None:
        """Let another thread go on where the name service hangs for one uid, unless too many hang already."""
        asking = self._asking.get(self._thread) if self._thread is not None else None
        if asking is not None and now - asking[1] > _DEADLINE and len(self._asking) <= _MOST_HANGING:
            log.debug("the name service does not answer", extra={"uid": asking[0]})
            self._thread = None
            if self._questions:
                self._start()

    def _ask(self, uid: int) -> None:
        asked = uid in self._questions or any(uid == asking for asking, _ in self._asking.values())
        if self._closed or asked or len(self._questions) >= _MOST_ASKED:
            return  # the next tick asks again
        self._questions.append(uid)
        if self._thread is None:
            self._start()
        self._changed.notify_all()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="user names", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        me, resolve = threading.current_thread(), self._resolve
        while resolve is not None:
            with self._changed:
                while not self._questions and not self._closed and self._thread is me:
                    self._changed.wait()
                if self._closed or self._thread is not me:
                    return
                uid = self._questions.popleft()
                self._asking[me] = (uid, self._monotonic())
            name: str | None = None
            try:
                name = resolve(uid)
            except KeyError:
                name = ""
            except Exception as error:  # noqa: BLE001 - a name service is somebody else's plugin
                log.debug("the name service failed", extra={"uid": uid, "error": str(error)})
            with self._changed:
                del self._asking[me]
                before, _ = self._answers.pop(uid, ("", 0.0))
                name = before if name is None else name
                while len(self._answers) >= _MOST_NAMES:
                    del self._answers[next(iter(self._answers))]
                self._answers[uid] = (name, self._monotonic() + _ASK_AGAIN)
                self._changed.notify_all()

    def _read_passwd(self) -> None:
        if self._passwd is None or self._watch is None or not self._watch.changed():
            return
        try:
            text = read_file(self._passwd, largest=_LARGEST_PASSWD).decode("utf-8", "replace")
        except OSError as error:
            if not self._complained:
                log.warning("users cannot be named", extra={"file": str(self._passwd), "error": str(error)})
            self._local, self._uids, self._complained = MappingProxyType({}), MappingProxyType({}), True
            self._watch.forget()
            return
        names: dict[int, str] = {}
        for line in text.split("\n"):
            name, _, rest = line.partition(":")
            uid = rest.partition(":")[2].partition(":")[0]
            if name and name[0] not in "+-#" and uid.isascii() and uid.isdigit() and len(uid) <= 10:
                names.setdefault(int(uid), name)  # of two names the first counts, as in getpwuid(3)
        self._local, self._complained = MappingProxyType(names), False
        self._uids = MappingProxyType({name: uid for uid, name in reversed(names.items())})


def host_names(*, root: Path = Path("/"), monotonic: Callable[[], float] = time.monotonic) -> UserNames:
    """Names of the host's users, from inside a container as well.

    There they come from /host/etc/passwd, or from an /etc/passwd that was mounted; else uids stay numbers, because the
    image's own users are different people. The mark of a container is that its runtime mounted /etc/hosts (Docker,
    containerd, CRI-O and Podman all do, with the host's network too).
    """
    host = root / HOST_ETC.relative_to("/")
    if (host / "passwd").exists():
        return UserNames(passwd=host / "passwd", subuid=host / "subuid", resolve=None, monotonic=monotonic)
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    mounts = {fields[4] for fields in map(str.split, lines) if len(fields) > 4}
    etc = root / "etc"
    if "/etc/hosts" not in mounts:
        return UserNames(passwd=etc / "passwd", subuid=etc / "subuid", monotonic=monotonic)
    passwd, subuid = (etc / name if f"/etc/{name}" in mounts else None for name in ("passwd", "subuid"))
    return UserNames(passwd=passwd, subuid=subuid, resolve=None, monotonic=monotonic)
