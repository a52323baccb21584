"""Whatever a program prints or a recording holds: a value that can be, an absence, or a failure that has a name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tools.lab.smi_stub import capture

import h200_run
from gpu_exporter.catalog.row import Smi
from gpu_exporter.config import ConfigError, load
from gpu_exporter.model import Reading
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources import Source, SourceError, kind_of
from gpu_exporter.sources.dcgm import DcgmSource
from gpu_exporter.sources.program import Said
from gpu_exporter.sources.replay import ReplaySource
from gpu_exporter.sources.smi import SmiSource
from gpu_exporter.sources.tape import Playback
from gpu_exporter.sources.tape import load as load_recording
from recorded import RECORDED

NOWHERE = Path("/nonexistent")
H200 = capture(RECORDED / "h200-580.159.04.load.csv")[0]
HELP = "".join(f'"{name}"\n' for name in H200)
REASONS = {"lost", "timeout", "reset_required", "permission", "unknown"}
fuzzed = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Text that is nearly right: pieces of what the programs print, and anything between them.
PIECES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["\n", "\r\n", ",", ", ", "index, uuid", "[N/A]", "[Unknown Error]", "[GPU is lost]", "GPU 0", "#Entity"]
    ),
    st.sampled_from(
        ["No devices were found", "GPU 0000:00:06.0: GPU is lost", "99 %", "1 MiB", "nan", "-1", "9" * 30, "\0"]
    ),
)
ANYTHING = st.one_of(
    st.lists(PIECES, max_size=30).map("".join), st.binary(max_size=300).map(lambda raw: raw.decode("utf-8", "replace"))
)


def check(readings: Sequence[Reading]) -> None:
    """Every number is one that can be, and every failure has a name."""
    for reading in Pipeline(gap=15).complete(readings, 0.0):
        if reading.failure is not None:
            assert reading.failure.reason in REASONS
            assert reading.failure.message.isprintable()
        for row, value in reading.values.items():
            assert math.isfinite(value)
            assert row.plausible[0] <= value <= row.plausible[1], row
        assert reading.partial.isprintable()


def read_all(opened: Callable[[], Source]) -> None:
    """Open and read twice; SourceError is a failure with a name as well."""
    failure, source = "", None
    try:
        source = opened()
        for _ in range(2):
            check([source.read(device) for device in source.devices])
    except SourceError as error:
        failure = str(error)
    if source is not None:
        source.close()
    assert failure.isprintable()


class Answering:
    """A program that says at once what a function makes of its arguments."""

    def __init__(self, say: Callable[[Sequence[str]], Said]) -> None:
        self.say = say

    def __call__(self, arguments: Sequence[str], /, *, timeout: float) -> Said:
        return self.say(arguments)


def smi_run(table: str, code: int = 0, apps: str = "") -> Answering:
    def run(arguments: Sequence[str]) -> Said:
        if arguments[0].startswith("--help-query-gpu"):
            return Said(0, HELP)
        if arguments[0].startswith("--query-compute-apps"):
            return Said(0, apps)
        return Said(code, table) if any("query-gpu" in argument for argument in arguments) else Said(1, "")

    return Answering(run)


@fuzzed
@given(ANYTHING, st.sampled_from([0, 0, 0, 2, 6, 9, 14, 15, 255, -9]))
def test_anything_from_nvidia_smi(text: str, code: int) -> None:
    read_all(lambda: SmiSource(smi_run(text, code, text), root=NOWHERE))


@fuzzed
@given(st.lists(st.tuples(st.sampled_from(sorted(H200)), ANYTHING), max_size=12), st.integers(0, 4000))
def test_a_table_of_nvidia_smi_with_anything_in_its_cells_and_cut_anywhere(
    cells: list[tuple[str, str]], cut: int
) -> None:
    row = {**H200, "index": "0", **dict(cells)}

    def run(arguments: Sequence[str]) -> Said:
        for argument in arguments:
            option, _, fields = argument.partition("=")
            if option == "--query-gpu":
                names = fields.split(",")
                text = f"{', '.join(names)}\n{', '.join(row[name] for name in names)}\n"
                return Said(0, text[: len(text) - cut] if cut < len(text) else text)
        return smi_run("").say(arguments)

    read_all(lambda: SmiSource(Answering(run), root=NOWHERE))


@pytest.mark.parametrize("words", [(), (("Enabled", 1.0),)])
@given(text=st.text(max_size=40))
def test_a_cell_is_a_finite_number_or_none(text: str, words: tuple[tuple[str, float], ...]) -> None:
    value = Smi("x", words=words).value(text)
    assert value is None or math.isfinite(value)


@fuzzed
@given(ANYTHING, ANYTHING, ANYTHING, st.sampled_from([0, 0, 0, 1, 255]))
def test_anything_from_dcgmi(listed: str, found: str, rows: str, code: int) -> None:
    def run(arguments: Sequence[str]) -> Said:
        if arguments[0] == "discovery":
            return Said(0, f"| GPU ID | Device Information |\n| 0      | Name: {found} |\n| 1      | Name: B |\n")
        return Said(0, listed) if arguments[1] == "--list" else Said(code, rows)

    read_all(lambda: DcgmSource(Answering(run)))


@fuzzed
@given(st.lists(st.tuples(st.sampled_from(["GPU 0", "GPU 1", "GPU-I 0"]), st.lists(ANYTHING, max_size=6)), max_size=6))
def test_a_table_of_dcgmi_with_anything_in_its_cells(rows: list[tuple[str, list[str]]]) -> None:
    def run(arguments: Sequence[str]) -> Said:
        if arguments[0] == "discovery":
            return Said(0, "| GPU ID | Device Information |\n| 0      | Name: A |\n| 1      | Name: B |\n")
        if arguments[1] == "--list":
            return Said(0, "a b 52\na b 150\na b 319\n")
        lines = ["#Entity         A       B       C", *(f"{name:<16}{' '.join(cells)}" for name, cells in rows)]
        return Said(0, "\n".join(lines) + "\n")

    read_all(lambda: DcgmSource(Answering(run)))


# --- recordings -------------------------------------------------------------------------------------------------------


def play(path: Path) -> None:
    """Load a file and read what it holds, twice."""
    refusal = ""
    try:
        recording = load_recording(path)
    except ConfigError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith(f"{path}: ")
        assert refusal.isprintable()
        return
    now = [0.0]
    playback = Playback(recording, monotonic=lambda: now[0])
    player = kind_of(recording.source).player
    assert player is not None
    playback.begin()
    read_all(lambda: ReplaySource(player(load(None), playback)(), playback, loop=False))


@fuzzed
@given(st.binary(max_size=400))
def test_any_bytes_as_a_recording(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "recording.jsonl"
    path.write_bytes(data)
    play(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    path = tmp_path_factory.mktemp("idle") / "idle.jsonl"
    h200_run.write_idle(path)
    return [json.loads(line) for line in path.read_text().splitlines()]


@fuzzed
@given(st.data())
def test_a_recording_of_nvml_with_anything_for_answers(tmp_path: Path, idle: list[Any], data: st.DataObject) -> None:
    header, line = idle
    keys = data.draw(st.lists(st.sampled_from(sorted(line["answers"])), min_size=1, max_size=12))
    told = {key: data.draw(st.one_of(JSON, st.tuples(st.just(0), JSON), st.tuples(st.integers(0, 40)))) for key in keys}
    path = tmp_path / "recording.jsonl"
    changed = {**line, "answers": {**line["answers"], **told}, "processes": data.draw(st.one_of(st.just({}), JSON))}
    path.write_text(f"{json.dumps(header)}\n{json.dumps(changed)}\n")
    play(path)


@fuzzed
@given(JSON, st.sampled_from(["smi", "dcgm"]))
def test_a_recording_of_a_program_with_anything_for_answers(tmp_path: Path, told: Any, source: str) -> None:
    header = {"recording": "gpu-exporter", "version": 1, "source": source, "interval": 1.0}
    questions = ["--help-query-gpu", "--help-query-compute-apps", "--query-gpu=index,uuid --format=csv", "dmon --list"]
    path = tmp_path / "recording.jsonl"
    line = {"t": 0, "answers": dict.fromkeys([*questions, "discovery --list"], told)}
    path.write_text(f"{json.dumps(header)}\n{json.dumps(line)}\n")
    play(path)
