"""The scenario file: edits while it is played, and mistakes in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_story import Story, writer
from gpu_exporter.config import ConfigError
from gpu_exporter.sources.fake import MODELS, FakeFleet
from gpu_exporter.sources.fake.scenario import Fleet, load

READY = Path(__file__).parents[1] / "scenarios"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    return writer(tmp_path / "scenario.yaml")


# --- the file changes -------------------------------------------------------------------------------------------------


def test_edited_file_starts_a_new_story_and_undoes_the_old(write: Callable[[str], Path]) -> None:
    story = Story(write("events: [{at: 0s, gpu: 0, fault: lost}]"))
    assert story.read(0).failure is not None
    write("events: [{at: 10s, gpu: 1, fault: lost}]")
    assert story.at(100, step=100).read(0).failure is None
    assert story.read(1).failure is None
    assert story.at(109).read(1).failure is None
    assert story.at(110).read(1).failure is not None


def test_bad_edit_keeps_the_last_good_and_warns_once(
    write: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = write("events: [{at: 0s, gpu: 0, fault: lost}]")
    story = Story(path)
    write("events: [{at: 0s, gpu: 9, fault: lost}]")
    with caplog.at_level(logging.WARNING):
        story.at(60)
    assert story.read(0).failure is not None
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "events[0].gpu: '9' is not a GPU of this fleet; write 0 to 7" in record.getMessage()
    assert "\n" not in record.getMessage()
    caplog.clear()
    path.unlink()
    story.at(120)
    assert len(caplog.records) == 1
    assert story.read(0).failure is not None
    write("")
    assert story.at(180).read(0).failure is None


def test_in_place_edit_of_equal_size_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("events: [{at: 0s, gpu: 0, fault: lost}]")
    story = Story(path)
    path.write_text("events: [{at: 0s, gpu: 1, fault: lost}]")
    os.utime(path, ns=(1, 1))
    story.at(5)
    assert (story.read(0).failure, story.read(1).failure is not None) == (None, True)


# --- mistakes ---------------------------------------------------------------------------------------------------------

BAD = {
    "- at: 1s": "the file is a list; write keys such as events",
    "hello": "the file is text; write keys such as events",
    "17": "the file is a single value",
    "evnts: []": "evnts: unknown key; write one of events",
    "events: {at: 1s}": "events: .* is not a list",
    "events: [7]": r"events\[0\] is a single value; write keys such as at, gpu",
    "events: [null]": r"events\[0\].at: is missing; write 30s",
    "events: [{gpu: 0, fault: lost}]": r"events\[0\].at: is missing; write 30s",
    "events: [{at: 1s, gpu: 0}]": r"events\[0\].fault: is missing; write one of overheat, fan_stop",
    "events: [{at: 5, gpu: 0, fault: lost}]": r"events\[0\].at: '5' is not a duration; write 5s",
    "events: [{at: -5s, gpu: 0, fault: lost}]": r"events\[0\].at: '-5s' is not a duration",
    "events: [{at: 5s, gpu: 0, fault: lost, for: long}]": r"events\[0\].for: 'long' is not a duration",
    "events: [{at: 5s, gpu: 0, fault: explode}]": r"events\[0\].fault: 'explode' is not known; write one of overheat",
    "events: [{at: 5s, gpu: 0, fault: [lost]}]": r"events\[0\].fault: .* is not known",
    "events: [{at: 5s, gpu: 0, fault: lost, colour: red}]": r"colour: unknown key; write one of at, fault, gpu, for$",
    "events: [{at: 5s, gpu: 0, fault: overheat, temp: 94}]": r"temp: unknown key; write .* gpu, for, target$",
    "events: [{at: 5s, gpu: 0, fault: lost, xid: 79}]": r"xid: is not for lost; write one of at, fault, gpu, for$",
    "events: [{at: 5s, gpu: 0, fault: xid, xid: 79, for: 5s}]": r"events\[0\].for: is not for xid; write one of",
    "events: [{at: 5s, gpu: 0, fault: driver_gone}]": r"events\[0\].gpu: is not for driver_gone; write one of",
    "events: [{at: 5s, fault: lost}]": r"events\[0\].gpu: is missing; write an index",
    "events: [{at: 5s, gpu: 8, fault: lost}]": r"events\[0\].gpu: '8' is not a GPU of this fleet; write 0 to 7, a list",
    "events: [{at: 5s, gpu: -1, fault: lost}]": r"events\[0\].gpu: '-1' is not a GPU",
    "events: [{at: 5s, gpu: true, fault: lost}]": r"events\[0\].gpu: 'true' is not a GPU",
    "events: [{at: 5s, gpu: [], fault: lost}]": r"events\[0\].gpu: '\[\]' is not a GPU",
    "events: [{at: 5s, gpu: [0, [1]], fault: lost}]": r"events\[0\].gpu: .* is not a GPU",
    "events: [{at: 5s, gpu: 3-1, fault: lost}]": r"events\[0\].gpu: '3-1' is not a GPU",
    "events: [{at: 5s, gpu: 0, fault: xid}]": r"events\[0\].xid: is missing; xid needs it",
    "events: [{at: 5s, gpu: 0, fault: xid, xid: big}]": r"events\[0\].xid: 'big' is not a whole number from 1 to 999",
    "events: [{at: 5s, gpu: 0, fault: slow}]": r"events\[0\].delay: is missing",
    "events: [{at: 5s, gpu: 0, fault: slow, delay: 2h}]": r"events\[0\].delay: '2h' is out of range; write 0s to 1h",
    "events: [{at: 5s, gpu: 0, fault: overheat, target: 500}]": r"events\[0\].target: '500' is not a temperature",
    "events: [{at: 5s, gpu: 0, fault: overheat, target: .nan}]": r"events\[0\].target: 'nan' is not a temperature",
    "events: [{at: 5s, gpu: 0, fault: ecc, severity: bad}]": r"events\[0\].severity: 'bad' is not known",
    "events: [{at: 5s, gpu: 0, fault: ecc, location: moon}]": r"events\[0\].location: 'moon' is not known; .* sram",
    "events: [{at: 5s, gpu: 0, fault: ecc, count: -1}]": r"events\[0\].count: '-1' is not a whole number",
    "events: [{at: 5s, gpu: 0, fault: ecc, location: sram, remap: done}]": r"events\[0\].remap: 'done' is not for sram",
    "events: [{at: 5s, gpu: 0, fault: workload, workload: mining}]": r"events\[0\].workload: 'mining' is not known",
    "events: [{at: 5s, gpu: 0, fault: mig, enabled: 1}]": r"events\[0\].enabled: '1' is not a switch",
    "events: [{at: 5s, gpu: 0, fault: pcie, width: 16}]": r"events\[0\].width: '16' is not known; write one of 1",
    "events: [{at: 5s, gpu: 0, fault: slow_pcie, generation: 5}]": r"generation: '5' is not a whole number from 1 to 4",
    "events: [{at: 5s, gpu: 0, fault: clock_stuck, ratio: 30}]": r"ratio: '30' is not a share .*; write 0.05 to 0.95",
    "events: [{at: 5s, gpu: 0, fault: drift, power_limit: 50}]": r"power_limit: '50' is not a power .* 200 to 700",
    "events: [{at: 5s, gpu: 0, fault: drift, ecc: 2}]": r"events\[0\].ecc: '2' is not a switch",
    "events: [{at: 5s, gpu: 0, fault: nvlink, links: 99}]": r"events\[0\].links: '99' is not a whole number .* 18",
    "events: [{at: 5s, gpu: 0, fault: process, process: 7}]": r"\[0\].process is a single value; write keys such as",
    "events: [{at: 5s, gpu: 0, fault: process, process: {pid: 7, nice: 1}}]": r"nice: unknown key; write one of pid",
    "events: [{at: 5s, gpu: 0, fault: process, process: {name: x}}]": r"\.process\.pid: is missing; write the number",
    "events: [{at: 5s, gpu: 0, fault: process, process: {pid: 7, memory: 9TB}}]": r"\.process\.memory: '9TB' is not",
    "events: [{at: 5s, gpu: 0, fault: process, process: {pid: 7, memory: 99GiB}}]": r"memory: '99GiB' is out of range",
    "events: [{at: 5s, gpu: 0, fault: process, process: {pid: 7, type: x}}]": r"\.process\.type: 'x' is not known",
    "events: [{at: 5s, gpu: 0, fault: process, process: {pid: 7, stop: x}}]": r"\.process\.stop: 'x' is not a switch",
    "events: [{at: 5s, gpu: 0, fault: process, process: {pid: 7, name: ''}}]": r"\.process\.name: '' is not a name",
    "events: [": "is not YAML: line 1, column 10",
    "a: 2026-13-45": "is not YAML: line 1, column 4: '2026-13-45' is not a value; put text in quotes",
    "a: &a [1]\nevents: *a": "is not YAML: line 2, column 9: aliases are not taken; write the value out",
    "events: []\nevents: []": "is not YAML: line 2, column 1: 'events' is written twice",
    "[" * 3000: "is not YAML: line 1, column 17: nested too deeply",
    "#" * 300_000: "is larger than 256 KiB",
    "\tevents: []": "is not YAML",
    "events: !!python/name:os.system": "is not YAML",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_mistake(text: str, write: Callable[[str], Path]) -> None:
    path = write(text)
    with pytest.raises(ConfigError, match=BAD[text]) as caught:
        FakeFleet(gpus=8, model="h100", seed=1, scenario=path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "fault", "reason"),
    [("rtx4090", "ecc", "rtx4090 has none"), ("l40s", "mig", "l40s has none"), ("l40s", "nvlink", "l40s has none")],
)
def test_fault_of_a_part_that_the_board_lacks(
    model: str, fault: str, reason: str, write: Callable[[str], Path]
) -> None:
    with pytest.raises(ConfigError, match=rf"events\[0\].fault: '{fault}' is not possible: {reason}; write one of"):
        FakeFleet(gpus=1, model=model, seed=1, scenario=write(f"events: [{{at: 1s, gpu: 0, fault: {fault}}}]"))


@pytest.mark.parametrize("text", ["", "# nothing\n", "events:\n", "events: []\n", "{}"])
def test_empty_file_is_no_story(text: str, write: Callable[[str], Path]) -> None:
    assert load(write(text), Fleet(1, MODELS["h100"])) == ()


def test_unreadable_files(tmp_path: Path) -> None:
    fleet = Fleet(1, MODELS["h100"])
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "absent.yaml", fleet)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, fleet)
    (tmp_path / "binary").write_bytes(b"\x00\xff\xfe\x80")
    with pytest.raises(ConfigError, match="is not text; write YAML in UTF-8"):
        load(tmp_path / "binary", fleet)
    (tmp_path / "control").write_bytes(b"events: \x00")
    with pytest.raises(ConfigError, match="is not YAML"):
        load(tmp_path / "control", fleet)


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("3", (3,)),
        ("'3'", (3,)),
        ("[2, 0, 2]", (0, 2)),
        ("0-3", (0, 1, 2, 3)),
        ("'0-1, 7'", (0, 1, 7)),
        ("['0-1', 5]", (0, 1, 5)),
        ("all", tuple(range(8))),
    ],
)
def test_ways_to_name_gpus(text: str, gpus: tuple[int, ...], write: Callable[[str], Path]) -> None:
    (event,) = load(write(f"events: [{{at: 1s, gpu: {text}, fault: lost}}]"), Fleet(8, MODELS["h100"]))
    assert event.gpus == gpus
