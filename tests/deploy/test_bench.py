"""The figures' files: two commands write one of them."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from bench import results


@pytest.mark.parametrize("order", list(permutations(("exporter", "faces", "exporter again"))))
def test_each_command_leaves_the_other_s_part(tmp_path: Path, order: tuple[str, ...]) -> None:
    file = tmp_path / "RESULTS.md"
    for part in order:
        write = results.write_faces if part == "faces" else results.write_exporter
        write(f"# {part}\n\nfigures of {part}\n", file)
    exporter = [part for part in order if part != "faces"][-1]
    assert file.read_text() == (
        f"# {exporter}\n\nfigures of {exporter}\n\n{results.FACES}\n# faces\n\nfigures of faces\n"
    )


def test_the_figures_of_the_faces_are_there() -> None:
    text = results.RESULTS.read_text()
    assert text.count(results.FACES) == 1
    for gpus in (1, 8):
        for name in ("gpu-exporter top", "gpu-exporter desktop", "nvitop"):
            assert f"| {name} | {gpus} |" in text.partition(results.FACES)[2]
