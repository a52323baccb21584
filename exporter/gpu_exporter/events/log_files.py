"""Where the kernel log is read: the device /dev/kmsg, a file that grows, a pipe, or systemd's journal."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import stat
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

JOURNAL: Final = None  # stands for it where a path would stand
_RECORD: Final = 8192  # bytes: the kernel's own limit of a record
_CHUNK: Final = 65536
_LONGEST: Final = 16384  # bytes of a line; the rest of a longer one is left out
_LOOK: Final = 1.0  # seconds between two looks at a file that has nothing new
_WAIT: Final = 0.3  # seconds to wait for a device or pipe, between two looks at whether to stop
_JOURNALCTL: Final = (
    "--dmesg", "--boot", "--follow", "--lines=all", "--no-pager", "--quiet", "--output=json",
    "--output-fields=MESSAGE,SYSLOG_FACILITY,_SOURCE_MONOTONIC_TIMESTAMP",
)  # fmt: skip


class Log(Protocol):
    """An open log."""

    name: str

    def read(self, most: int) -> list[bytes]:
        """Up to so many lines that nobody has read; none where there are none now. Raises OSError."""

    def wait(self, stop: threading.Event) -> None:
        """Wait a while, until there may be more."""

    def close(self) -> None:
        """Let go of it."""


def open_log(path: Path | None, *, after: Log | None = None) -> Log:
    """Open it at its oldest line, or behind what ``after`` has read of the same. Raises OSError."""
    if path is JOURNAL:
        return Journal(after=after if isinstance(after, Journal) else None)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISCHR(mode):
        return Device(path, descriptor, after=after if isinstance(after, Device) else None)
    return GrowingFile(path, descriptor, after=after if isinstance(after, GrowingFile) else None)


class Device:
    """/dev/kmsg: each read is one record."""

    def __init__(self, path: Path, descriptor: int, *, after: Device | None) -> None:
        self.name = str(path)
        self._descriptor = descriptor
        self.sequence: int = -1 if after is None else after.sequence

    def read(self, most: int) -> list[bytes]:
        """See Log."""
        records = []
        for _ in range(most):
            try:
                record = os.read(self._descriptor, _RECORD)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EINVAL:  # a record that is longer than the kernel's own limit
                    continue
                raise
            if not record:  # /dev/null, which is no log
                break
            number = record[:64].split(b",", 2)
            if len(number) == 3 and number[1].isdigit():
                # The ring is read from its beginning again where it had to be opened again.
                if int(number[1]) <= self.sequence:
                    continue
                self.sequence = int(number[1])
            records.append(record)
        return records

    def wait(self, stop: threading.Event) -> None:
        """See Log."""
        _await(self._descriptor, stop)

    def close(self) -> None:
        """See Log."""
        os.close(self._descriptor)


def _await(descriptor: int, stop: threading.Event) -> None:
    """Wait a while for something to read. What is always ready, with nothing to read, must not be asked without end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ready = poll.poll(_WAIT * 1000)
    if ready and not ready[0][1] & select.POLLIN:
        stop.wait(_WAIT)  # a pipe that nobody writes to
    elif ready:
        stop.wait(0.005)


class Lines:
    """Bytes -> whole lines, each of bounded length. One that has not ended counts once nothing follows for a while."""

    def __init__(self) -> None:
        self._begun = b""
        self._skip = False
        self._quiet = False

    def pause(self) -> list[bytes]:
        """Nothing has come: what was begun before the previous pause is a line."""
        lines = [self._begun] if self._quiet and self._begun else []
        self._begun = b"" if lines else self._begun
        self._quiet = bool(self._begun)
        return lines

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that have ended by now."""
        *whole, rest = data.split(b"\n")
        lines, self._quiet = [], False
        for line in whole:
            if not self._skip:
                lines.append((self._begun + line)[:_LONGEST])
            self._begun, self._skip = b"", False
        if not self._skip:
            self._begun += rest
            if len(self._begun) > _LONGEST:
                lines.append(self._begun[:_LONGEST])
                self._begun, self._skip = b"", True
        return lines


class GrowingFile:
    """A file to which lines are appended, or a pipe; one that was rotated or cut is read from its beginning."""

    def __init__(self, path: Path, descriptor: int, *, after: GrowingFile | None) -> None:
        self.name = str(path)
        self._path = path
        self._descriptor = descriptor
        self._lines = Lines()
        self.position = 0
        told = os.fstat(descriptor)
        self.identity = (told.st_dev, told.st_ino)
        self._regular = stat.S_ISREG(told.st_mode)
        if after is not None and self._regular and after.identity == self.identity and after.position <= told.st_size:
            self.position = os.lseek(descriptor, after.position, os.SEEK_SET)

    def read(self, most: int) -> list[bytes]:
        """See Log. A read is one piece of the file, however many lines that has."""
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return []
        if not data and self._regular:
            data = self._begin_anew()
        self.position += len(data)
        return self._lines.feed(data) if data else self._lines.pause()

    def _begin_anew(self) -> bytes:
        """Go to another file that is there by now, or to the beginning of this one where it was cut.

        What was written last to the file that was rotated.
        """
        try:
            told = self._path.stat()
        except FileNotFoundError:
            return b""  # between two steps of a rotation
        if (told.st_dev, told.st_ino) != self.identity:
            # While the new one is empty, who writes has the old one open: syslog is told of a rotation behind it.
            if not told.st_size:
                return b""
            if rest := os.read(self._descriptor, _CHUNK):  # came since we looked
                return rest
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.close(self._descriptor)
            self._descriptor, self.identity, self.position = descriptor, (told.st_dev, told.st_ino), 0
        elif told.st_size < self.position:
            self.position = os.lseek(self._descriptor, 0, os.SEEK_SET)
        return b""

    def wait(self, stop: threading.Event) -> None:
        """See Log."""
        if self._regular:
            stop.wait(_LOOK)
        else:
            _await(self._descriptor, stop)

    def close(self) -> None:
        """See Log."""
        os.close(self._descriptor)


class Journal:
    """systemd's journal of this boot, followed by journalctl. Raises OSError where it has nothing to tell."""

    name = "journalctl"

    def __init__(self, *, after: Journal | None) -> None:
        from shutil import which  # noqa: PLC0415 - it imports every compression

        program = which("journalctl")
        if program is None:
            raise FileNotFoundError(errno.ENOENT, "not found")
        arguments = [program, *_JOURNALCTL]
        if after is not None and after.cursor:
            arguments.append(f"--after-cursor={after.cursor}")
        self.cursor: str = "" if after is None else after.cursor
        self._lines = Lines()
        self._process = subprocess.Popen(  # noqa: S603 - a program of the system, the arguments are ours
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe, as it was started
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)

    def read(self, most: int) -> list[bytes]:
        """See Log."""
        try:
            data = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return []
        if not data:
            raise OSError(errno.EIO, "it ended: the journal is not readable, or there is none")
        return [line for raw in self._lines.feed(data) if (line := self._record(raw)) is not None]

    def _record(self, raw: bytes) -> bytes | None:
        """The record as /dev/kmsg would have it; None where not the kernel wrote it."""
        try:
            told = json.loads(raw)
            self.cursor = str(told["__CURSOR"])[:512]
            if str(told.get("SYSLOG_FACILITY")) != "0" or not isinstance(told.get("MESSAGE"), str):
                return None
            since = int(told.get("_SOURCE_MONOTONIC_TIMESTAMP") or told["__MONOTONIC_TIMESTAMP"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return f"6,0,{since},-;{told['MESSAGE']}".replace("\n", "\\x0a").encode("utf-8", "replace")

    def wait(self, stop: threading.Event) -> None:
        """See Log."""
        _await(self._pipe, stop)

    def close(self) -> None:
        """See Log."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdout is not None:
            self._process.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
