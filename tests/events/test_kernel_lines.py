"""What lines of the kernel log tell, as drivers write them; and that nothing else is believed."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_exporter.events.lines import FALLEN_OFF, Line, Reader, SxidLine, XidLine, address, parse
from gpu_exporter.model import XidDetail

GPU = "0000:3b:00"
NOW = 1_796_000_000.0  # 30 November 2026


def told(message: str) -> XidLine | SxidLine | None:
    return Reader().read(message)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            XidLine(GPU, 79, XidDetail()),
        ),
        ("NVRM: Xid (0000:3b:00): 14, Channel 00000001", XidLine(GPU, 14, XidDetail())),
        (
            "NVRM: Xid (PCI:0000:3b:00): 31, pid=4711, name=python3, Ch 00000008, intr 00000000. MMU Fault: ENGINE",
            XidLine(GPU, 31, XidDetail(pid=4711, process="python3")),
        ),
        (
            "NVRM: Xid (PCI:0000:3b:00): 45, pid='12', name=a b, Ch 00000010",
            XidLine(GPU, 45, XidDetail(pid=12, process="a b")),
        ),
        (
            "NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 94, pid=7, name=train, Contained: CE User Channel (0x9).",
            XidLine(GPU, 94, XidDetail(pid=7, process="train")),
        ),
        (
            "NVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000 0x00000000)",
            XidLine("0018:01:00", 149, XidDetail("Fatal", "NETIR_LINK_EVT", 4, 8)),
        ),
        (
            "NVRM: Xid (PCI:0018:01:00): 145, pid=9, name=x, RLW_SRC_TRACK Nonfatal XC1 i0 Link -1 (0x00000862 0x1)",
            XidLine("0018:01:00", 145, XidDetail("Nonfatal", "RLW_SRC_TRACK", 0, None, 9, "x")),
        ),
        (
            "NVRM: Xid (PCI:0000:3b:00): 119, Timeout after 6s of waiting for RPC response from GPU0 GSP!",
            XidLine(GPU, 119, XidDetail()),
        ),
        ("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.", XidLine(GPU, FALLEN_OFF, XidDetail(), numbered=False)),
        ("NVRM: GPU at 0000:3b:00.0 has fallen off the bus.", XidLine(GPU, FALLEN_OFF, XidDetail(), numbered=False)),
        (
            "NVRM: The NVIDIA GPU 0000:3b:00.0\nNVRM: installed in this system has\nNVRM: fallen off the bus and",
            XidLine(GPU, FALLEN_OFF, XidDetail(), numbered=False),
        ),
        (
            "nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)",
            SxidLine("0000:05:00", 12028),
        ),
        (
            "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
            SxidLine("0000:05:00", 20034),
        ),
    ],
)
def test_what_a_message_tells(message: str, expected: XidLine | SxidLine) -> None:
    assert told(message) == expected


@pytest.mark.parametrize(
    "message",
    [
        "",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  590.48.01",
        "NVRM: GPU at PCI:0000:3b:00: GPU-5eed0000-0000-4000-8000-000000000000",
        "NVRM: Xid (PCI:0000:3b:00): 7",  # cut short: 7, or 79
        "NVRM: Xid (PCI:0000:3b:00",
        "NVRM: Xid (PCI:0000:3b:00): 999999, a number that is none",
        "NVRM: Xid (PCI:zz:3b:00): 79, GPU has fallen off the bus.",
        # Process names are copied into the middle of other messages.
        "python3[4711]: segfault at 0 ip 0 NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",
        "oom-kill: task=NVRM: Xid (PCI:0000:3b:00): 79, x",
        "x nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        # The lines that go with a fault are not faults of their own.
        "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Data {0x00000000, 0x00000000}",
        "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Severity 1 Engine instance 30 Sub-engine 00",
    ],
)
def test_what_tells_nothing(message: str) -> None:
    assert told(message) is None


def test_a_message_in_several_lines() -> None:
    reader = Reader()
    lines = (
        "NVRM: The NVIDIA GPU 0000:3b:00.0",
        "NVRM: (PCI ID: 10de:2330) installed in this system has",
        "NVRM: fallen off the bus and is not responding to commands.",
    )
    assert [reader.read(line) for line in lines] == [None, None, XidLine(GPU, FALLEN_OFF, XidDetail(), numbered=False)]
    assert reader.read(lines[2]) is None, "whose, nobody knows"
    reader.read(lines[0])
    for _ in range(5):
        reader.read("usb 1-1: new device")
    assert reader.read(lines[2]) is None, "too long ago"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"3,812,98765432,-;NVRM: Xid (a)\n SUBSYSTEM=pci\n", Line("NVRM: Xid (a)", 98.765432, None, 812)),
        (b"4,1,5,-,caller=T1;a;b\\x0ac\n", Line("a;b\nc", 5e-6, None, 1)),
        (b"<4>[ 12.500000] NVRM: x", Line("NVRM: x", 12.5)),
        (b"[   12.500000] NVRM: x", Line("NVRM: x", 12.5)),
        (b"Foo 28 00:47:04 node-7 kernel: NVRM: x", Line("NVRM: x")),
        (b"Nov 31 00:47:04 node-7 kernel: NVRM: x", Line("NVRM: x")),
        (b"2026-11-28T00:47:04+0000 node-7 kernel: NVRM: x", Line("NVRM: x", None, 1795826824.0)),
        (b"2026-11-28T00:47:04.500000+01:00 node-7 kernel: [ 12.5] NVRM: x", Line("NVRM: x", None, 1795823224.5)),
        (b"2026-11-28T00:47:04,123456Z node-7 kernel: NVRM: x", Line("NVRM: x", None, 1795826824.123456)),
        (b"NVRM: x", Line("NVRM: x")),
    ],
)
def test_forms_of_a_line(raw: bytes, expected: Line) -> None:
    assert parse(raw, now=NOW) == expected


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("Nov 28 00:47:04", (2026, 11, 28, 0, 47, 4)),
        ("Nov  8 23:59:59", (2026, 11, 8, 23, 59, 59)),
        ("Dec 24 18:00:00", (2025, 12, 24, 18, 0, 0)),  # not yet this year
        ("Feb 29 12:00:00", (2024, 2, 29, 12, 0, 0)),  # the latest that there was
    ],
)
def test_old_syslogs_tell_no_year(text: str, when: tuple[int, int, int, int, int, int]) -> None:
    line = parse(f"{text} node-7 kernel: [ 12.5] NVRM: x".encode(), now=NOW)
    assert line == Line("NVRM: x", None, datetime(*when).astimezone().timestamp())


@pytest.mark.parametrize(
    "raw",
    [
        b"12,812,98765432,-;NVRM: Xid (PCI:0000:3b:00): 79, echo > /dev/kmsg",  # facility user, as the kernel marks it
        b"30,812,98765432,-;NVRM: Xid (PCI:0000:3b:00): 79, a daemon",
        b"<12>[   12.500000] NVRM: Xid (PCI:0000:3b:00): 79, the same, by dmesg -r",
    ],
)
def test_what_not_the_kernel_wrote_is_not_believed(raw: bytes) -> None:
    assert parse(raw, now=NOW) is None


def test_a_forged_kernel_in_a_syslog_line() -> None:
    line = parse(b"Nov 28 00:47:04 node-7 evil: kernel: NVRM: Xid (PCI:0000:3b:00): 79, x", now=NOW)
    assert line is None or told(line.message) is None


def test_addresses_are_written_alike() -> None:
    assert {address(text) for text in ("00000000:3B:00.0", "PCI:0000:3b:00", "0000:3b:00.0", "3b:00")} == {GPU}
    assert address("") == address("no address") == ""


@given(st.binary(max_size=600))
def test_any_bytes(raw: bytes) -> None:
    line = parse(raw, now=NOW)
    if line is not None:
        told(line.message)


PIECES = (
    *(
        "NVRM: ",
        "Xid (",
        "PCI:0000:3b:00",
        "): ",
        "79",
        "149",
        ", ",
        "pid=",
        "name=",
        "Link ",
        "Fatal",
        "\x00",
        "é",
        "(0x",
    ),
    *("nvidia-nvswitch0: ", "SXid (", "has fallen off the bus", "The NVIDIA GPU ", "6,1,2,-;", "\\x0a"),
    *("(" * 50, "9" * 40),
)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_order_of_the_pieces(text: str) -> None:
    line = parse(text.encode(), now=NOW)
    found = None if line is None else told(line.message)
    if isinstance(found, XidLine):
        assert 0 <= found.xid <= 99999
        assert re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}", found.address)
