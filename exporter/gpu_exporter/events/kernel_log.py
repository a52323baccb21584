"""The kernel log, read on a thread of its own: XIDs that NVML never tells, what they struck, and faults of NVSwitches.

``/dev/kmsg`` holds all since the boot, as far as the ring reaches, so an exporter that starts again knows what was. It
needs CAP_SYSLOG (or ``kernel.dmesg_restrict=0``); systemd's journal is the second best. Lines are untrusted: bounded in
length and number, and only those of the kernel itself count (events/lines.py).
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gpu_exporter.events.lines import Line, Reader, SxidLine, XidLine, parse
from gpu_exporter.events.log_files import JOURNAL, Journal, Log, open_log
from gpu_exporter.model import OTHER_XID, Device, Told, Xid, XidDetail

log = logging.getLogger(__name__)

KMSG: Final = Path("/dev/kmsg")
_MOST_KEPT: Final = 1024  # XIDs by GPU and number, until they are fetched
_AGAIN: Final = 30.0  # seconds until a log that cannot be read is opened again
_JOIN: Final = 0.5  # seconds
_BATCH: Final = 500  # lines, after which the thread looks whether it should stop
# The kernel counts its time by another clock than we, which nobody corrects: so many seconds, and so much of its uptime
# may it be ahead. Crystals are off by 100 millionths at most; ten times that.
_AHEAD: Final = 60.0
_DRIFT: Final = 0.001
# NVIDIA's catalogue ends below; a log full of random numbers must not fill the memory.
_NUMBERS: Final = 65535


@dataclass(frozen=True, slots=True)
class Heard:
    """``count`` XIDs of one number at one PCI address, told by whom; ``timestamp`` is Unix time of the latest."""

    address: str
    xid: int
    timestamp: float
    by: str
    detail: XidDetail
    count: int = 1
    earlier: bool = False

    def of(self, device: Device) -> Xid:
        """The same, of the device that is there."""
        return Xid(device, self.xid, self.timestamp, self.count, self.by, self.detail, self.earlier)


Sxids = dict[tuple[str, int], Told]


class Sieve:
    """Lines -> what was heard; bounded in memory. Not for two threads at once."""

    def __init__(self, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._began = clock()
        self.live = False  # what was there before we looked has been read
        self._reader = Reader()
        self._heard: dict[tuple[str, int, str], Heard] = {}
        self._sxids: Sxids = {}

    def take(self, line: Line) -> None:
        """Keep what the line tells."""
        told = self._reader.read(line.message)
        if isinstance(told, XidLine):
            self._keep(told, self._when(line))
        elif isinstance(told, SxidLine) and ((told.address, told.sxid) in self._sxids or len(self._sxids) < _MOST_KEPT):
            when = self._when(line)
            once = Told(1, when, earlier=when < self._began)
            self._sxids[told.address, told.sxid] = once.after(self._sxids.get((told.address, told.sxid)))

    def now(self) -> float:
        """Unix time."""
        return self._clock()

    def empty(self) -> tuple[list[Heard], Sxids]:
        """What was kept since the previous call."""
        heard, self._heard = self._heard, {}
        sxids, self._sxids = self._sxids, {}
        return list(heard.values()), sxids

    def _when(self, line: Line) -> float:
        """Unix time. What comes while we look is of now; else what the line says, but never the future.

        What was there before we looked and tells no time, or one that this boot has not reached yet, is from before the
        boot: a start of ours makes nothing new.
        """
        now = self._clock()
        if self.live:
            return now
        if line.time is not None:
            return min(line.time, now)
        uptime = self._monotonic()
        since_boot = 0.0 if line.since_boot is None else line.since_boot
        ahead = since_boot - uptime
        if ahead > max(_AHEAD, uptime * _DRIFT):
            since_boot = 0.0
        return min(now, now - uptime + since_boot)

    def _keep(self, told: XidLine, when: float) -> None:
        xid = told.xid if told.xid <= _NUMBERS else OTHER_XID
        by = "kernel log" if told.numbered else "kernel log, in words"
        if (told.address, xid, by) not in self._heard and len(self._heard) >= _MOST_KEPT:
            return
        before = self._heard.get((told.address, xid, by))
        heard = Heard(told.address, xid, when, by, told.detail, earlier=when < self._began)
        if before is not None:
            heard = replace(heard, count=before.count + 1, timestamp=max(before.timestamp, when))
        self._heard[told.address, xid, by] = heard


class KernelLog:
    """Owns the thread that reads the log; ``close`` joins it. What was heard is fetched by ``drain``.

    ``path`` is the log: a device, a file that grows, or a pipe. None is /dev/kmsg, and the journal where that cannot be
    read. A log that fails is opened again, and told in one line.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._paths: Sequence[Path | None] = (KMSG, JOURNAL) if path is None else (path,)
        self._lock = threading.Lock()
        self._sieve = Sieve(clock=clock, monotonic=monotonic)
        self._stop = threading.Event()
        self._first = threading.Event()
        self._told = ""
        self._lost = False
        self._up = False
        self._thread = threading.Thread(target=self._run, name="kernel log", daemon=True)

    @property
    def up(self) -> bool:
        """Whether the log can be read."""
        return self._up

    @property
    def trouble(self) -> str:
        """Why it cannot be read; empty where it can, or where nobody has tried yet."""
        return self._told

    def start(self) -> None:
        """Begin to read, from the oldest line that there is."""
        self._thread.start()

    def wait_first(self, timeout: float) -> bool:
        """Wait until what was there at the start has been read, or could not be."""
        return self._first.wait(timeout)

    def drain(self) -> tuple[list[Heard], Sxids]:
        """What was heard since the previous call, those of one GPU and number as one; and faults of NVSwitches."""
        with self._lock:
            return self._sieve.empty()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN)

    def _run(self) -> None:
        after: Log | None = None
        while not self._stop.is_set():
            opened = self._open(after)
            if opened is not None:
                after = opened
                try:
                    self._read(opened)
                except OSError as error:
                    self._fails(f"{opened.name}: {error.strerror or error}", worked=True)
                finally:
                    self._up = False
                    opened.close()
            self._first.set()
            self._stop.wait(_AGAIN)

    def _open(self, after: Log | None) -> Log | None:
        """The best log that can be opened, and goes on behind what was read of it before."""
        troubles = []
        for path in self._paths:
            try:
                return open_log(path, after=after)
            except OSError as error:
                troubles.append(f"{path or 'journalctl'}: {error.strerror or error}")
        self._fails("; ".join(troubles), worked=False)
        return None

    def _fails(self, why: str, *, worked: bool) -> None:
        """Tell once, and again only where something else is wrong."""
        if why == self._told:
            return
        self._told = why
        if worked:
            log.warning("the kernel log cannot be read any more", extra={"error": why})
        else:
            log.info(
                "no kernel log: XIDs that NVML does not tell are missed (gpu-exporter doctor says what to do)",
                extra={"error": why},
            )

    def _read(self, opened: Log) -> None:
        """Read until it is to stop. Raises OSError where the log fails."""
        while not self._stop.is_set():
            try:
                lines = opened.read(_BATCH)
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                self._overrun()
                continue
            if not self._up:
                self._up, self._told, self._sieve.live = True, "", False
                log.info("reading the kernel log", extra={"path": opened.name})
            if lines:
                self._take(lines)
            else:
                self._sieve.live = not isinstance(opened, Journal)  # which may take its time to begin
                self._first.set()
                opened.wait(self._stop)

    def _overrun(self) -> None:
        """The kernel wrote over what was not read yet: what comes next is read."""
        if not self._lost:
            log.warning("the kernel log ran over: lines were lost")
        self._lost = True

    def _take(self, lines: Iterable[bytes]) -> None:
        with self._lock:
            for raw in lines:
                # One line in a million is ours: look before anything is decoded.
                if b"NVRM" in raw or b"SXid" in raw:
                    line = parse(raw, now=self._sieve.now())
                    if line is not None:
                        self._sieve.take(line)


def readable(path: Path | None) -> str:
    """Why the log cannot be read; empty where it can."""
    troubles = []
    for each in (KMSG, JOURNAL) if path is None else (path,):
        try:
            opened = open_log(each)
        except OSError as error:
            troubles.append(f"{each or 'journalctl'}: {error.strerror or error}")
            continue
        with suppress(OSError):
            opened.read(1)
        opened.close()
        return ""
    return "; ".join(troubles)


def since_boot(
    path: Path | None, *, clock: Callable[[], float], monotonic: Callable[[], float], timeout: float = 2.0
) -> tuple[list[Heard], Sxids, str]:
    """What the log holds now, once, and why it cannot be read (empty: it can)."""
    kernel_log = KernelLog(path, clock=clock, monotonic=monotonic)
    kernel_log.start()
    try:
        kernel_log.wait_first(timeout)
        heard, sxids = kernel_log.drain()
        return heard, sxids, kernel_log.trouble
    finally:
        kernel_log.close()
