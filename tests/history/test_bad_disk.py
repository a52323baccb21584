"""A history survives kill -9 at any write, and a disk that is full or ill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.lab import ROOT
from tools.lab.bad_disk import build
from tools.lab.exporter import environment
from tools.lab.programs import program
from tools.lab.wait import patience


def cases(what: str, folder: Path) -> list[dict[str, Any]]:
    """What on_a_bad_disk.py told, case by case."""
    program("gcc")
    library = build(Path(tempfile.gettempdir()) / f"gpu-exporter-bad-disk-{os.getuid()}")
    paths = os.pathsep.join(str(ROOT / part) for part in ("exporter", "tests/support", "."))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("on_a_bad_disk.py")), what, str(folder)],
        env=environment({"LD_PRELOAD": str(library), "PYTHONPATH": paths}),
        capture_output=True,
        text=True,
        timeout=patience(180),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_new_file_survives_kill_at_every_write(tmp_path: Path) -> None:
    told = cases("kill_new", tmp_path)
    assert len(told) > 100, "each write of its first minutes was tried"
    assert [case["killed"] for case in told] == [True] * (len(told) - 1) + [False]
    before = 0
    for case in told:
        assert (case["check"], case["orphans"]) == (["ok"], 0)
        assert case["seconds"] % 60 == 0, "a minute is there as a whole or not at all"
        assert case["held"] == case["seconds"]
        assert case["seconds"] >= before, "what was there one write earlier is there one write later"
        before = case["seconds"]
    assert before == 240


def test_one_file_survives_a_hundred_kills(tmp_path: Path) -> None:
    told = cases("kill_again", tmp_path)
    assert sum(case["killed"] for case in told) > 30
    for case in told:
        assert (case["check"], case["orphans"]) == (["ok"], 0)
        assert case["before"] <= case["seconds"] <= case["before"] + 240
        assert case["seconds"] % 60 == 0
        assert case["held"] == case["seconds"]
        if not case["killed"]:
            assert case["seconds"] == case["before"] + 240


def test_a_disk_that_is_full_or_ill_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    for case in cases("full", tmp_path):
        healthy, ill, again = case["troubles"][:4], case["troubles"][4:8], case["troubles"][8:]
        assert healthy == [None] * 4
        assert again == [None] * 4, case
        assert any(ill), case
        for trouble in filter(None, ill):
            assert "history.db: " in trouble
            assert "\n" not in trouble
        assert case["check"] == ["ok"]
        assert case["seconds"] == case["held"] == 720, case
