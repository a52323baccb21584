"""What is written of a verdict: whatever a driver may say, it is one short line that scripts can take."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gpu_exporter.model import Device
from gpu_exporter.verdict import render
from gpu_exporter.verdict.judge import Complaint, GpuVerdict, Status, Verdict, spans, unknown

_STATUSES = st.sampled_from(("warning", "critical", "unknown"))


def _verdict(statuses: list[tuple[int, Status, str]], machine: list[str]) -> Verdict:
    gpus = tuple(
        GpuVerdict(Device(index, f"GPU-{index}", "a | \x1b[31m model"), (Complaint(status, words),))
        for index, status, words in statuses
    )
    return Verdict(gpus=gpus, complaints=tuple(Complaint("unknown", words) for words in machine))


@given(
    st.lists(st.tuples(st.integers(0, 63), _STATUSES, st.text(max_size=200)), max_size=20),
    st.lists(st.text(max_size=300), max_size=3),
)
def test_reasons_are_short_and_harmless(statuses: list[tuple[int, Status, str]], machine: list[str]) -> None:
    verdict = _verdict(statuses, machine)
    line = render.reason(verdict)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= render.REASON_LENGTH
    assert not set(line) & set('"`$\\')
    first = render.nagios(verdict, None, "warning").splitlines()[0]
    assert first.count("|") == 1
    assert all(char.isprintable() or char == "\n" for char in render.text(verdict))
    assert json.loads(render.document(verdict, host="n1", fail_on="warning"))["reason"] == line


@given(st.sets(st.integers(0, 40)))
def test_spans_are_read_back(indices: set[int]) -> None:
    read: set[int] = set()
    for part in filter(None, spans(indices).split(",")):
        begin, _, end = part.partition("-")
        read.update(range(int(begin), int(end or begin) + 1))
    assert read == indices


def test_what_is_unknown_never_hides_behind_a_warning() -> None:
    verdict = _verdict([(0, "warning", "slow"), (1, "unknown", "no permission to read it")], [])
    assert (verdict.status, render.exit_code(verdict, "warning"), render.exit_code(verdict, "critical")) == (
        "unknown",
        3,
        3,
    )
    assert render.reason(verdict) == "GPU 1: no permission to read it; GPU 0: slow"
    verdict = _verdict([(0, "critical", "lost"), (1, "unknown", "no permission to read it")], [])
    assert render.exit_code(verdict, "critical") == 2


def test_a_reason_that_is_too_long_ends_in_dots() -> None:
    line = render.reason(unknown("word " * 40))
    assert line.endswith("...")
    assert len(line) <= render.REASON_LENGTH
