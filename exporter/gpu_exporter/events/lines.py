"""Lines of the kernel log -> what they tell of GPUs and NVSwitches. Lines are untrusted text.

Every process may write to the kernel log, but not as the kernel: only records of the kernel's own facility count, and
only what stands at the beginning of the message, since process names are copied into the middle of it. The formats are
those of open-gpu-kernel-modules 595 (``NVRM: Xid (PCI:…): N, …``) and of the fabric manager's guide (SXid).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gpu_exporter.model import XidDetail

FALLEN_OFF: Final = 79
_MOST: Final = 2000  # characters of a message that are looked at; the kernel writes fewer than 1024
_ADDRESS: Final = r"(?:PCI:)?((?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-7])?"
_XID: Final = re.compile(rf"NVRM: Xid \({_ADDRESS}(?: [^()]{{0,64}})?\): ([0-9]{{1,5}}),(.*)", re.DOTALL)
_OFF_THE_BUS: Final = re.compile(
    rf"NVRM: (?:GPU (?:at )?{_ADDRESS}:? (?:GPU )?has fallen off the bus"
    rf"|The NVIDIA GPU {_ADDRESS}\b.{{0,200}}?fallen off the bus)",
    re.DOTALL,
)
# The same, where a log has it in several lines.
_OFF_THE_BUS_BEGINS: Final = re.compile(rf"NVRM: The NVIDIA GPU {_ADDRESS}\s*$")
_OFF_THE_BUS_ENDS: Final = re.compile(r"NVRM: (?:installed in this system has )?fallen off the bus\b")
_WITHIN: Final = 4  # lines
_SXID: Final = re.compile(
    rf"nvidia-nvswitch[0-9]{{1,3}}: SXid \({_ADDRESS}\): ([0-9]{{1,6}}), (?:Non-fatal|Fatal)\b", re.IGNORECASE
)
_PID: Final = re.compile(r" pid='?([0-9]{1,10})'?(?:, name=([^,]{1,64}))?")
_NVLINK: Final = re.compile(
    r" ([A-Z][A-Z_/0-9]{0,40})\s+(Nonfatal|Fatal)\s+XC[01]\s+i[0-9]{1,3}\s+Link\s+(-?[0-9]{1,3})"
    r"(?:\s+\((0x[0-9a-fA-F]{1,8}))?"
)
# A record of /dev/kmsg: priority and facility, sequence number, microseconds since boot, flags; the message.
_RECORD: Final = re.compile(r"([0-9]{1,4}),([0-9]{1,20}),([0-9]{1,18}),[^;]{0,64};(.*)", re.DOTALL)
# dmesg, with its priority or without; journalctl and syslog: a time, a host, and the kernel as who said it.
_PRINTED: Final = re.compile(
    r"(?:<([0-9]{1,4})>)?(?:\[ *([0-9]{1,10}\.[0-9]{1,9})\] ?|"
    r"(?:([A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8})|([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.,+Z-]{8,24})) \S{1,64} kernel: "
    r"(?:\[ *[0-9.]{1,20}\] ?)?)?(.*)",
    re.DOTALL,
)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY: Final = 86400.0
_ESCAPED: Final = re.compile(r"\\x([0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class Line:
    """One message of the kernel. ``since_boot`` is in seconds, ``time`` Unix time; None is what is not told."""

    message: str
    since_boot: float | None = None
    time: float | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class XidLine:
    """An XID of the GPU at a PCI address; ``numbered`` is false where the line said it in words only."""

    address: str
    xid: int
    detail: XidDetail
    numbered: bool = True


@dataclass(frozen=True, slots=True)
class SxidLine:
    """A fault of the NVSwitch at a PCI address."""

    address: str
    sxid: int


def address(text: str) -> str:
    """A PCI address, written alike whoever tells it: domain, bus and device, 0000:3b:00; "" where it is none."""
    match = re.fullmatch(_ADDRESS, text)
    if match is None:
        return ""
    parts = [int(part, 16) for part in match[1].split(":")]
    domain, bus, slot = [0, *parts] if len(parts) == 2 else parts
    return f"{domain:04x}:{bus:02x}:{slot:02x}"


def parse(raw: bytes, *, now: float) -> Line | None:
    """A record of /dev/kmsg, or a line as dmesg, journalctl and syslog print it; None where not the kernel says it.

    ``now`` is Unix time: a time of old syslogs is of the year before it.
    """
    text = raw[: 4 * _MOST].decode("utf-8", "replace")
    record = _RECORD.match(text)
    if record is not None:
        if int(record[1]) >> 3:
            return None
        # What follows on lines of its own are the record's properties.
        return Line(_unescaped(record[4].partition("\n")[0]), int(record[3]) / 1e6, None, int(record[2]))
    printed = _PRINTED.match(text)
    if printed is None or (printed[1] and int(printed[1]) >> 3):
        return None
    time = _time_of_year(printed[3], now) if printed[3] else _time(printed[4])
    return Line(printed[5][:_MOST], float(printed[2]) if printed[2] else None, time)


def _unescaped(message: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), message[:_MOST])


def _time(text: str | None) -> float | None:
    if not text:
        return None
    try:
        # Python 3.10 reads neither Z nor +0000 nor a comma.
        told = re.sub(r"([+-][0-9]{2})([0-9]{2})$", r"\1:\2", text.replace(",", ".").replace("Z", "+00:00"))
        return datetime.fromisoformat(told).timestamp()
    except ValueError:
        return None


def _time_of_year(text: str, now: float) -> float | None:
    """Unix time of "Nov 28 00:47:04" in the time zone of this machine: the latest that is not ahead of ``now``.

    A day ahead is no year ago: clocks and time zones differ.
    """
    month, day, clock = text[:3], text[4:6], text[7:]
    if month not in _MONTHS:
        return None
    year = datetime.fromtimestamp(now).astimezone().year
    for each in (year + 1, year, year - 1, year - 2, year - 3, year - 4):  # 29 February
        try:
            hour, minute, second = map(int, clock.split(":"))
            told = datetime(each, _MONTHS.index(month) + 1, int(day), hour, minute, second).astimezone().timestamp()
        except ValueError:
            continue
        if told <= now + _DAY:
            return told
    return None


class Reader:
    """Tells what messages are about; remembers the beginning of what is told in several lines."""

    def __init__(self) -> None:
        self._begun = ""
        self._lines_left = 0

    def read(self, message: str) -> XidLine | SxidLine | None:
        """What the message tells; None where it tells nothing of ours."""
        if self._lines_left:
            self._lines_left -= 1
            if _OFF_THE_BUS_ENDS.match(message):
                self._lines_left = 0
                return XidLine(self._begun, FALLEN_OFF, XidDetail(), numbered=False)
        if not message.startswith(("NVRM: ", "nvidia-nvswitch")):
            return None
        if found := _XID.match(message):
            return XidLine(address(found[1]), int(found[2]), _detail(found[3]))
        if found := _SXID.match(message):
            return SxidLine(address(found[1]), int(found[2]))
        if found := _OFF_THE_BUS.match(message):
            return XidLine(address(found[1] or found[2]), FALLEN_OFF, XidDetail(), numbered=False)
        if found := _OFF_THE_BUS_BEGINS.match(message):
            self._begun, self._lines_left = address(found[1]), _WITHIN
        return None


def _detail(rest: str) -> XidDetail:
    """What stands behind the number."""
    owner, link = _PID.match(rest), _NVLINK.search(rest)
    pid = int(owner[1]) if owner else None
    process = "".join(char for char in owner[2] if char.isprintable()) if owner and owner[2] else ""
    if link is None:
        return XidDetail(pid=pid, process=process)
    number = int(link[3])
    return XidDetail(
        word=link[2],
        unit=link[1],
        # NVIDIA's catalogue: bits 20 to 25 of the first word.
        sub_code=int(link[4], 16) >> 20 & 0x3F if link[4] else None,
        link=number if number >= 0 else None,
        pid=pid,
        process=process,
    )
