"""Programs as a source runs them: what is closed starts nothing more, and a start that hangs holds nobody else up."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.lab.wait import patience, wait_for

from gpu_exporter.sources import program
from gpu_exporter.sources.program import Opening, Program, ProgramError, Said, SlowProgramError


def test_a_closed_opening_runs_nothing_and_the_next_one_does() -> None:
    program = Program(Path("/bin/echo"))
    first = Opening(program)
    assert first(["a"], timeout=5.0).out == "a\n"
    first.close()
    with pytest.raises(ProgramError, match="echo is not asked any more"):
        first(["b"], timeout=5.0)
    assert Opening(program)(["c"], timeout=5.0).out == "c\n"


def test_a_start_that_hangs_holds_up_nobody_and_runs_nothing_once_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that does not answer."""
    hangs, go, started = threading.Event(), threading.Event(), []
    start: Callable[..., Any] = subprocess.Popen

    def popen(command: list[str], **rest: Any) -> Any:
        if command[1] == "60":
            hangs.set()
            go.wait(patience())
        process = start(command, **rest)
        started.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", popen)
    program = Program(Path("/bin/sleep"))
    hung, refused = Opening(program), []

    def ask() -> None:
        with pytest.raises(ProgramError) as error:
            hung(["60"], timeout=60.0)
        refused.append(str(error.value))

    thread = threading.Thread(target=ask)
    thread.start()
    assert hangs.wait(patience())
    hung.close()
    assert Opening(program)(["0"], timeout=5.0).code == 0, "while the other still starts"
    assert not refused
    go.set()
    thread.join()
    assert refused == ["sleep is not asked any more"]
    wait_for(lambda: all(process.poll() is not None for process in started))


def sh(script: str, timeout: float = 60.0) -> Said:
    return Program(Path("/bin/sh"))(["-c", script], timeout=timeout)


def test_what_a_program_prints_just_before_it_ends_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints and ends between two looks of ours: one for output, and one for whether it has ended."""
    looks: list[bool] = []

    def ended(process: subprocess.Popen[bytes]) -> bool:
        waited = 0 if looks else os.WNOHANG
        looks.append(os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | waited) is not None)
        return looks[-1]

    monkeypatch.setattr(program, "_ended", ended)
    assert sh("sleep 0.3; echo late; echo too late >&2").lines == ["late", "too late"]
    assert looks[0] is False


def test_a_program_that_closes_its_pipes_and_goes_on_is_slow() -> None:
    with pytest.raises(SlowProgramError, match=r"^sh did not answer within 0\.5 s$"):
        sh("exec >&- 2>&-; sleep 3600", timeout=0.5)


def test_a_child_that_keeps_the_pipes_is_not_waited_for() -> None:
    assert sh("sleep 3600 & echo mine").lines == ["mine"]
