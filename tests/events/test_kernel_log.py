"""The kernel log over time: files, pipes and devices that grow, rotate, fail and flood; and what of it counts."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import cast

import pytest
from tools.lab.wait import wait_for

from gpu_exporter.events import kernel_log, log_files
from gpu_exporter.events.kernel_log import Heard, KernelLog, since_boot
from gpu_exporter.events.log_files import Device as Kmsg
from gpu_exporter.events.log_files import GrowingFile, open_log
from gpu_exporter.events.merge import WINDOW, EventLog, Merger
from gpu_exporter.model import Device, Event, Told, Xid

NOW = 1_800_000_000.0
UPTIME = 5000.0
BUS = "0000:3b:00"
SWITCH = ("0000:05:00", 20034)
FAULT = "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30"
GPU = Device(0, "GPU-a", "H100", pci_bus_id="00000000:3B:00.0")


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is looked at a hundred times a second, not once."""
    monkeypatch.setattr(log_files, "_LOOK", 0.01)


def record(message: str, *, at: float = 4000.0, number: int = 1, priority: int = 3) -> bytes:
    return f"{priority},{number},{round(at * 1e6)},-;{message}\n".encode()


def xid(number: int, rest: str = "x", bus: str = BUS) -> str:
    return f"NVRM: Xid (PCI:{bus}): {number}, {rest}"


@contextmanager
def reading(path: Path, clock: Callable[[], float] = lambda: NOW) -> Iterator[KernelLog]:
    log = KernelLog(path, clock=clock, monotonic=lambda: UPTIME)
    log.start()
    with closing(log):
        yield log
    assert not [thread for thread in threading.enumerate() if thread.name == "kernel log"]


class Ear:
    """Collects what a log has told."""

    def __init__(self, log: KernelLog) -> None:
        self._log = log
        self.heard: list[Heard] = []
        self.sxids: dict[tuple[str, int], Told] = {}

    def count(self, number: int) -> int:
        heard, sxids = self._log.drain()
        self.heard += heard
        for key, told in sxids.items():
            self.sxids[key] = told.after(self.sxids.get(key))
        return sum(each.count for each in self.heard if each.xid == number)

    def wait(self, number: int, count: int) -> None:
        wait_for(lambda: self.count(number) == count, lambda: (self.heard, self.sxids))


def test_what_was_before_the_start_and_what_comes(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_bytes(record(xid(79), at=4000.0) + record(xid(31), at=4500.0, number=2) + record(xid(31), at=4600.0))
    with path.open("ab") as file:
        file.write(record(xid(43), at=UPTIME + 1.0))
    with reading(path) as log:
        assert log.wait_first(60)
        ear = Ear(log)
        ear.wait(31, 2)
        assert log.up
        told = {each.xid: each for each in ear.heard}
        assert (told[79].timestamp, told[79].earlier) == (NOW - 1000.0, True)
        assert told[31].timestamp == NOW - 400.0, "of the latest"
        assert told[43].timestamp == NOW, "the kernel's clock is a little ahead of ours"
        with path.open("ab") as file:
            file.write(record(xid(119), at=6000.0))
        ear.wait(119, 1)
        assert ear.heard[-1].timestamp == NOW, "what comes is of now, whatever it says"
        assert not ear.heard[-1].earlier


def of_the_year(ago: float) -> str:
    return datetime.fromtimestamp(NOW - ago).astimezone().strftime("%b %e %H:%M:%S")


@pytest.mark.parametrize(
    ("line", "ago"),
    [
        ("3,1,4000000000,-;{}", 1000.0),
        ("[ 4000.0] {}", 1000.0),
        (f"{of_the_year(86_400)} node-7 kernel: [ 12.5] {{}}", 86_400.0),
        (f"{of_the_year(60)} node-7 kernel: {{}}", 60.0),
        (f"{datetime.fromtimestamp(NOW - 7200, timezone.utc).isoformat()} node-7 kernel: {{}}", 7200.0),
        ("{}", UPTIME),  # nobody knows: from before the boot
        ("[ 9000.0] {}", UPTIME),  # of an earlier boot, that was longer
    ],
)
def test_a_start_makes_nothing_new_of_what_the_log_has(tmp_path: Path, line: str, ago: float) -> None:
    path = tmp_path / "kern.log"
    path.write_text(line.format(xid(79)) + "\n" + line.format(FAULT) + "\n")
    for _ in range(2):  # and so does a restart
        with reading(path) as log:
            assert log.wait_first(60)
            ear = Ear(log)
            ear.wait(79, 1)
            assert (ear.heard[0].timestamp, ear.heard[0].earlier) == (NOW - ago, True)
            assert ear.sxids == {SWITCH: Told(1, NOW - ago, earlier=True)}
            with path.open("a") as file:
                file.write(line.format(FAULT) + "\n")
            wait_for(lambda: (ear.count(79), ear.sxids[SWITCH])[1] == Told(2, NOW))  # noqa: B023 - called here
        path.write_text(line.format(xid(79)) + "\n" + line.format(FAULT) + "\n")


def test_a_clock_that_is_set_back_and_what_is_heard_late() -> None:
    assert Told(1, 100.0).after(Told(2, 900.0)) == Told(3, 100.0), "what came last, whatever the clock says"
    assert Told(1, 100.0, earlier=True).after(Told(2, 900.0)) == Told(3, 900.0)
    assert Told(1, 950.0, earlier=True).after(Told(2, 900.0, earlier=True)) == Told(3, 950.0, earlier=True)


def test_a_file_that_is_rotated_cut_and_gone(tmp_path: Path) -> None:
    path = tmp_path / "kern.log"
    path.write_text(f"[ 12.5] {xid(31)}\n")
    with reading(path) as log:
        ear = Ear(log)
        ear.wait(31, 1)
        path.rename(tmp_path / "kern.log.1")
        path.write_text(f"[ 13.5] {xid(43)}\n" + "[ 13.6] usb 1-1: new device\n")
        ear.wait(43, 1)
        path.write_text(f"[ 14.5] {xid(46)}\n")  # cut, as by logrotate's copytruncate, and shorter than before
        ear.wait(46, 1)
        path.unlink()
        path.write_text(f"[ 15.5] {xid(62)}")  # without an end of line
        ear.wait(62, 1)
        assert {each.xid: each.count for each in ear.heard} == {31: 1, 43: 1, 46: 1, 62: 1}


def test_what_comes_to_a_file_after_its_rotation_is_heard(tmp_path: Path) -> None:
    """logrotate renames and makes the new file; syslog writes to the old one until it is told."""
    path = tmp_path / "kern.log"
    with path.open("w", buffering=1) as syslog, reading(path) as log:
        ear = Ear(log)
        syslog.write(f"[ 12.5] {xid(31)}\n")
        ear.wait(31, 1)
        path.rename(tmp_path / "kern.log.1")
        path.touch()
        time.sleep(0.1)  # ten looks
        syslog.write(f"[ 13.5] {xid(79)}\n")
        ear.wait(79, 1)
        path.write_text(f"[ 14.5] {xid(43)}\n")
        ear.wait(43, 1)
        assert {each.xid: each.count for each in ear.heard} == {31: 1, 79: 1, 43: 1}


class RotatedMeanwhile:
    """A path whose file gets its last line, and is rotated, between a look for lines and one at the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)

    def stat(self) -> os.stat_result:
        old = self._path.with_name("kern.log.1")
        if not old.exists():
            with self._path.open("a") as file:
                file.write("the last of the old one\n")
            self._path.rename(old)
            self._path.write_text("the first of the new one\n")
        return self._path.stat()


def test_no_line_is_lost_between_two_looks_at_a_file_that_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "kern.log"
    path.write_text("one\n")
    file = GrowingFile(cast("Path", RotatedMeanwhile(path)), os.open(path, os.O_RDONLY), after=None)
    with closing(file):
        lines = [line for _ in range(5) for line in file.read(100)]
    assert lines == [b"one", b"the last of the old one", b"the first of the new one"]


def test_a_flood_and_a_line_without_end_keep_neither_memory_nor_what_matters(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with reading(pipe) as log:
        ear = Ear(log)
        with pipe.open("wb") as file:
            for number in range(20_000):
                file.write(record(f"usb 1-1: device {number}", number=number))
                if number % 100 == 0:
                    file.write(record(xid(13), number=number))
            file.write(b"NVRM: Xid (PCI:" + b"x" * 3_000_000)
            file.write(b"\n" + bytes(range(256)) * 100 + b"\n")
            for number in range(70_000):  # random numbers: more than are kept
                file.write(f"{xid(number)}\n".encode())
            file.write(record(FAULT))
            file.write(record(xid(79)))
            file.flush()
            wait_for(lambda: (ear.count(13), {key: told.count for key, told in ear.sxids.items()})[1] == {SWITCH: 1})
            assert ear.count(13) == 201
            wait_for(lambda: ear.count(79) >= 1)
        assert len(log.drain()[0]) <= 1024


def test_records_of_the_device_are_read_once_also_when_it_is_opened_again() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.setblocking(False)
        for number in (1, 2):
            ours.send(record(xid(31), number=number))
        device = Kmsg(Path("/dev/kmsg"), os.dup(theirs.fileno()), after=None)
        with closing(device):
            assert [line[:4] for line in device.read(10)] == [b"3,1,", b"3,2,"]
            assert device.read(10) == []
        for number in (1, 2, 3):
            ours.send(record(xid(31), number=number))
        again = Kmsg(Path("/dev/kmsg"), os.dup(theirs.fileno()), after=device)
        with closing(again):
            assert [line[:4] for line in again.read(2)] == []
            assert [line[:4] for line in again.read(10)] == [b"3,3,"]


def test_a_file_that_is_opened_again_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\nb\n")
    first = open_log(path)
    with closing(first):
        assert first.read(10) == [b"a", b"b"]
    with path.open("ab") as file:
        file.write(b"c\n")
    again = open_log(path, after=first)
    assert isinstance(again, GrowingFile)
    with closing(again):
        assert again.read(10) == [b"c"]
    path.write_bytes(b"d\n")
    anew = open_log(path, after=again)
    with closing(anew):
        assert anew.read(10) == [b"d"], "shorter than what was read: another log"


def test_a_log_that_is_not_there_is_one_line_and_found_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel_log, "_AGAIN", 0.02)
    caplog.set_level(logging.INFO, "gpu_exporter")
    path = tmp_path / "kmsg"
    with reading(path) as log:
        assert log.wait_first(60)
        assert (log.up, log.trouble) == (False, f"{path}: No such file or directory")
        path.write_bytes(record(xid(48)))
        Ear(log).wait(48, 1)
        assert (log.up, log.trouble) == (True, "")
    lines = [entry.getMessage() for entry in caplog.records]
    assert [line[:13] for line in lines] == ["no kernel log", "reading the k"]


def test_what_cannot_be_a_log(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file"), (tmp_path / "a/b", "No such")):
        heard, sxids, trouble = since_boot(path, clock=time.time, monotonic=time.monotonic)
        assert (heard, sxids) == ([], {})
        assert why in trouble
    assert since_boot(Path(os.devnull), clock=time.time, monotonic=time.monotonic)[0] == []


def test_the_journal_is_the_second_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(message: object, facility: str = "0", cursor: str = "c1") -> str:
        told = {"__CURSOR": cursor, "SYSLOG_FACILITY": facility, "MESSAGE": message}
        return json.dumps({**told, "_SOURCE_MONOTONIC_TIMESTAMP": "4000000000"})

    lines = [entry(xid(79)), entry(xid(31), facility="1"), "{no json", entry([1, 2]), entry(xid(119), cursor="c9")]
    program = tmp_path / "bin/journalctl"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\nexec sleep 1000\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(kernel_log, "KMSG", tmp_path / "no-kmsg")
    log = KernelLog(None, clock=lambda: NOW, monotonic=lambda: UPTIME)
    log.start()
    with closing(log):
        ear = Ear(log)
        ear.wait(119, 1)
        assert {each.xid: each.timestamp for each in ear.heard} == {79: NOW - 1000.0, 119: NOW - 1000.0}
        assert log.up


# --- counted once -----------------------------------------------------------------------------------------------------


def event(by: str, at: float, count: int = 1, number: int = 31, device: Device = GPU) -> Xid:
    return Xid(device, number, at, count, by)


def counted(*events: Xid) -> int:
    merger = Merger()
    return sum(merger.new(each) for each in events)


@pytest.mark.parametrize(
    ("events", "count"),
    [
        ([event("nvml", NOW)], 1),
        ([event("nvml", NOW), event("kernel log", NOW - 1)], 1),
        ([event("kernel log", NOW - 1), event("nvml", NOW)], 1),
        ([event("nvml", NOW), event("kernel log", NOW - 1), event("kernel log, in words", NOW - 1)], 1),
        ([event("kernel log", NOW), event("nvml", NOW + WINDOW + 1)], 2),
        ([event("nvml", NOW, 3), event("kernel log", NOW, 5)], 5),
        ([event("nvml", NOW, 5), event("kernel log", NOW, 3), event("nvml", NOW + 1)], 6),
        # The ring has two of an hour ago; the driver tells the one of now, and then the ring does.
        ([event("kernel log", NOW - 3600, 2), event("nvml", NOW), event("kernel log", NOW)], 3),
        ([event("nvml", NOW), event("kernel log", NOW - 3600, 2), event("kernel log", NOW)], 3),
        ([event("nvml", NOW), event("kernel log", NOW, number=79)], 2),
        ([event("nvml", NOW), event("kernel log", NOW, device=Device(1, "GPU-b", "H100"))], 2),
        ([event("nvml", NOW + second) for second in range(60)], 60),
        ([event(by, NOW + second) for second in range(60) for by in ("nvml", "kernel log")], 60),
    ],
)
def test_each_event_counts_once(events: list[Xid], count: int) -> None:
    assert counted(*events) == count


def test_the_merger_is_bounded() -> None:
    merger = Merger()
    for number in range(10_000):
        merger.new(event("nvml", NOW, number=number))
    assert len(merger._told) <= 4096


def taken(events: EventLog, devices: list[Device]) -> list[tuple[int, int]]:
    new: list[Event] = events.take((), devices)
    return [(each.xid, each.count) for each in new if isinstance(each, Xid)]


def test_a_gpu_that_is_not_listed_yet_gets_its_xids_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "kmsg"
    path.write_bytes(record(xid(79)) + record(xid(48, bus="0000:ff:00")))
    events = EventLog(KernelLog(path, clock=lambda: NOW, monotonic=lambda: UPTIME))
    events.start()
    with closing(events):
        assert taken(events, []) == []
        assert taken(events, []) == []
        assert taken(events, [GPU]) == [(79, 1)]
        assert taken(events, [GPU]) == []
        assert events.sources(nvml=True) == {"kernel_log": 1.0, "nvml": 1.0}
    unlisted = [entry for entry in caplog.records if "does not list" in entry.getMessage()]
    assert len(unlisted) == 2, "each once"


def test_without_a_kernel_log() -> None:
    events = EventLog()
    events.start()
    events.close()
    assert events.take([event("nvml", NOW)], [GPU]) == [event("nvml", NOW)]
    assert events.sources(nvml=False) == {"kernel_log": 0.0, "nvml": 0.0}
    assert events.sxids == {}


def test_switches_are_counted_by_number_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    fault = "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): {}, Non-fatal, Link 1 x"
    path.write_bytes(b"".join(record(fault.format(10000 + number % 400)) for number in range(800)))
    events = EventLog(KernelLog(path, clock=lambda: NOW, monotonic=lambda: UPTIME))
    events.start()
    with closing(events):
        wait_for(lambda: events.take((), []) == [] and sum(events.sxids.values()) == 800)
    assert events.sxids["10000", "0000:05:00"] == 2
    assert len(events.sxids) == 257
    assert set(events.sxids_latest) == set(events.sxids)
    assert set(events.sxids_latest.values()) == {NOW - 1000.0}
    assert events.sxids["other", ""] == 2 * (400 - 256)
