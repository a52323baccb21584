"""Programs as a source runs them: what is closed starts nothing more, and a start that hangs holds nobody else up."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.lab.wait import patience, wait_for

from gpu_exporter.sources.program import Opening, Program, ProgramError


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
