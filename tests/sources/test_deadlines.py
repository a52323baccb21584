"""How long a program may take follows the settings while its source stays open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tools.lab.dcgmi_stub import DcgmiStub
from tools.lab.smi_stub import SmiStub, capture

from gpu_exporter.sampling.poller import Poller
from gpu_exporter.sampling.roster import Roster
from gpu_exporter.sampling.round import Round
from gpu_exporter.sources import BoundedSource, Source
from gpu_exporter.sources.dcgm import DcgmSource
from gpu_exporter.sources.program import Program, Run, Said
from gpu_exporter.sources.smi import SmiSource
from recorded import RECORDED


def smi(folder: Path) -> tuple[Path, Callable[[Run], Source]]:
    stub = SmiStub(folder / "smi", [capture(RECORDED / "h200-580.159.04.load.csv")[0]])
    return stub.path, lambda run: SmiSource(run, timeout=2.0, root=Path("/none"))


def dcgm(folder: Path) -> tuple[Path, Callable[[Run], Source]]:
    stub = DcgmiStub(folder / "dcgmi", [{203: "100"}])
    return stub.path, lambda run: DcgmSource(run, timeout=2.0)


@pytest.mark.parametrize(("make", "most"), [(smi, 0.5), (dcgm, 1.0)])
def test_a_reading_may_take_what_the_settings_say_now(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Callable[[Run], Source]]], most: float
) -> None:
    path, opened = make(tmp_path)
    program, given = Program(path), []

    def run(arguments: Sequence[str], /, *, timeout: float) -> Said:
        given.append(timeout)
        return program(arguments, timeout=30.0)

    source = opened(run)
    rounds = Round(roster=Roster(), poller=Poller(name="test"))
    assert isinstance(source, BoundedSource)
    for timeout in (40.0, 100.0, 40.0):
        given.clear()
        (reading,) = rounds.read_all(source, timeout=timeout)
        assert reading.failure is None
        assert given == pytest.approx([0.9 * timeout * most] * len(given))
        assert given
