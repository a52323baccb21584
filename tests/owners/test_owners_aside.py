"""Looks that may hang: they are made aside, one at a time, and what was found before stands."""

from __future__ import annotations

import threading

import pytest
from tools.lab.clock import Clock
from tools.lab.wait import patience, wait_for

from gpu_exporter.owners.aside import Aside


def test_a_look_that_ends_is_there_at_once() -> None:
    found = iter(range(3))
    aside = Aside(lambda: next(found), -1, what="numbers")
    assert [aside.latest(), aside.latest(), aside.latest()] == [0, 1, 2]


def test_what_was_found_before_stands_while_a_look_hangs(caplog: pytest.LogCaptureFixture) -> None:
    release, begun = threading.Event(), []

    def look() -> int:
        begun.append(1)
        if len(begun) > 1:
            release.wait(patience())
        return len(begun)

    aside = Aside(look, -1, what="numbers")
    assert aside.latest() == 1
    assert [aside.latest() for _ in range(3)] == [1, 1, 1]
    assert len(begun) == 2, "none is begun beside it"
    assert caplog.text.count("a file system does not answer") == 1
    release.set()
    wait_for(lambda: aside.latest() >= 2)


def test_what_was_found_before_does_not_stand_for_ever() -> None:
    release, begun = threading.Event(), []

    def look() -> str:
        begun.append(1)
        if len(begun) > 1:
            release.wait(patience())
        return "found"

    clock = Clock()
    aside = Aside(look, "nothing", what="numbers", keeps=60, monotonic=clock)
    assert aside.latest() == "found"
    clock.now = 60
    assert aside.latest() == "found"
    clock.now = 61
    assert aside.latest() == "nothing"
    release.set()
    wait_for(lambda: aside.latest() == "found")
