"""DCGM's command as a source, over a stand-in that prints as it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.lab.dcgmi_stub import DcgmiStub
from tools.lab.exporter import run

from gpu_exporter.catalog import CATALOG, CLOCK_EVENTS, by_name
from gpu_exporter.model import Reading
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources import SourceChangedError, SourceError
from gpu_exporter.sources.dcgm import COLUMNS, DcgmSource, table
from gpu_exporter.sources.program import Program

# What an H200 under load tells by NVML, in DCGM's units.
BUSY = {
    203: "100",
    204: "24",
    150: "63",
    140: "52",
    155: "693.530",
    157: "693.530",
    156: "2642545",
    164: "700.000",
    100: "1440",
    190: "0",
    112: "4",
    250: "143771",
    252: "20175",
    318: "0",
    319: "0",
    395: "0",
    67: "0",
    1002: "0.958",
    1004: "0.943",
}
ECC = by_name("gpu_ecc_errors_total", severity="uncorrected", lifetime="volatile", location="dram")

Make = Callable[..., DcgmiStub]


@pytest.fixture
def dcgmi(tmp_path: Path) -> Make:
    return lambda gpus=2: DcgmiStub(tmp_path / "dcgmi", [BUSY] * gpus)


def opened(stub: DcgmiStub, *, timeout: float = 30.0) -> DcgmSource:
    return DcgmSource(Program(stub.path), timeout=timeout)


def read(source: DcgmSource) -> list[Reading]:
    return [source.read(device) for device in source.devices]


def reasons(readings: list[Reading]) -> list[str | None]:
    return [reading.failure.reason if reading.failure else None for reading in readings]


def test_one_call_serves_all_gpus_of_a_round(dcgmi: Make) -> None:
    stub = dcgmi(4)
    source = opened(stub)
    begun = len(stub.calls())
    readings = Pipeline(gap=15).complete(read(source), 0.0)
    assert len(stub.calls()) == begun + 1
    assert [reading.device.model for reading in readings] == ["NVIDIA H200"] * 4
    told = readings[3].values
    expected = {
        "gpu_utilization_ratio": 1.0,
        "gpu_temperature_celsius": 63.0,
        "gpu_power_watts": 693.53,
        "gpu_power_limit_watts": 700.0,
        "gpu_energy_joules_total": 2642.545,
        "gpu_memory_total_bytes": 143771 * 2.0**20,
        "gpu_sm_active_ratio": 0.958,
        "gpu_tensor_active_ratio": 0.943,
        "gpu_performance_state": 0.0,
        "gpu_mig_mode_enabled": 0.0,
    }
    assert {name: told[by_name(name)] for name in expected} == expected
    assert told[by_name("gpu_clock_hertz", clock="sm")] == 1.44e9
    assert [told[CLOCK_EVENTS[reason]] for reason in ("gpu_idle", "sw_power_cap", "hw_slowdown")] == [0.0, 1.0, 0.0]
    assert by_name("gpu_fan_speed_ratio") not in {row for row, _ in readings[3].labelled}, "N/A"
    assert readings[3].processes is None, "it does not tell who is there"


def test_the_index_is_nvidia_smi_s_and_not_dcgm_s(dcgmi: Make) -> None:
    stub = dcgmi(2)
    stub.set(0, {52: "1", 150: "41"})
    stub.set(1, {52: "0", 150: "50"})
    source = opened(stub)
    told = {reading.device.index: reading for reading in read(source)}
    assert told[1].device.uuid.endswith("000000000000")
    assert {index: reading.values[by_name("gpu_temperature_celsius")] for index, reading in told.items()} == {
        0: 50.0,
        1: 41.0,
    }


def test_only_fields_that_it_knows_are_asked_for(dcgmi: Make) -> None:
    stub = dcgmi(1)
    stub.state["known"] = [52, 150, 155, 203]
    stub.write()
    (reading,) = read(opened(stub))
    assert {row.name for row in reading.values} == {
        "gpu_temperature_celsius",
        "gpu_power_watts",
        "gpu_power_average_watts",
        "gpu_utilization_ratio",
    }


@pytest.mark.parametrize(
    "cell",
    [
        "N/A",
        "",
        "9223372036854775792",
        "9223372036854775794",
        "2147483632",
        "2147483635",
        "140737488355328.000",
        "<<<NULL>>>",
    ],
)
def test_a_blank_is_absent_and_no_error(dcgmi: Make, cell: str) -> None:
    stub = dcgmi(2)
    stub.set(0, {319: cell[:12]} if len(cell) <= 12 else {})
    if len(cell) > 12:  # as a dcgmi with wider columns prints it
        assert table.number(cell) is None
        return
    blank, well = read(opened(stub))
    assert (ECC in blank.values, ECC in well.values) == (False, True)
    assert (blank.failure, blank.partial) == (None, "")
    assert blank.values[by_name("gpu_temperature_celsius")] == 63.0, "no cell has moved into another column"


@pytest.mark.parametrize("cell", ["1234567890123", "abc", "0x10", "nan", "1e3"])
def test_what_is_no_number_of_a_health_field_is_an_error(dcgmi: Make, cell: str) -> None:
    stub = dcgmi(2)
    stub.set(0, {319: cell})
    sick, well = read(opened(stub))
    assert ECC not in sick.values
    assert "field 319: '" in sick.partial
    assert (well.values[ECC], well.partial) == (0.0, "")


def test_a_gpu_that_tells_nothing_has_failed(dcgmi: Make) -> None:
    stub = dcgmi(2)
    source = opened(stub)
    stub.state["gpus"][0]["values"] = {}
    stub.write()
    assert reasons(read(source)) == ["unknown", None]


def test_a_gpu_that_has_gone_is_lost_and_a_new_one_reopens(dcgmi: Make) -> None:
    stub = dcgmi(3)
    source = opened(stub)
    gone = stub.state["gpus"].pop()
    stub.write()
    assert reasons(read(source)) == [None, None, "lost"]
    stub.state["gpus"] += [gone, gone]
    stub.write()
    with pytest.raises(SourceChangedError, match="tells of 4 GPUs, and listed 3"):
        read(source)


def test_rows_of_mig_devices_and_others_are_nobody_s(dcgmi: Make) -> None:
    stub = dcgmi(1)
    others = [(kind, 0, {"150": "99", "1002": "0.5"}) for kind in ("GPU-I", "GPU-CI", "vGPU", "Switch", "CPU")]
    stub.state["rows"] = others
    stub.write()
    (reading,) = read(opened(stub))
    assert reading.values[by_name("gpu_temperature_celsius")] == 63.0
    assert reading.values[by_name("gpu_sm_active_ratio")] == 0.958


def test_tables_of_older_releases_are_read() -> None:
    older = "# Entity  GRACT  TENSO  DRAMA\n      Id\n    GPU 0  0.457  N/A  0.100\n    GPU-I 0  0.534  0.2  0.3\n"
    assert table.rows(older, 3)["GPU", 0].cells == ("0.457", "N/A", "0.100")
    assert table.rows(older, 3)["GPU-I", 0].cells == ("0.534", "0.2", "0.3")


def test_a_last_line_that_is_cut_is_left_out() -> None:
    text = "#Entity         A       B\nID              C       C\nGPU 0           12      34\nGPU 1           12      3"
    assert table.rows(text, 2) == {("GPU", 0): table.Entity("GPU", 0, ("12", "34"))}


@pytest.mark.parametrize(
    ("command", "out", "code", "why"),
    [
        (
            "dmon -e",
            "Error: Unable to connect to host engine. Timeout.\n",
            255,
            r"is nvidia-dcgm \(nv-hostengine\) running",
        ),
        ("dmon -e", "", 3, "dcgmi: it ended with status 3"),
        ("dmon -e", "hello\n", 0, "dcgmi: it printed no table: 'hello'"),
        ("dmon -e", "#Entity A\nGPU 0 1\n", 0, "dcgmi: it printed 1 columns for"),
    ],
)
def test_what_is_no_table_is_the_source_s_failure(dcgmi: Make, command: str, out: str, code: int, why: str) -> None:
    stub = dcgmi(2)
    source = opened(stub)
    stub.say(command, out, code=code)
    with pytest.raises(SourceError, match=why):
        read(source)
    with pytest.raises(SourceError, match=why):
        opened(stub)


def test_a_host_engine_that_hangs_is_a_timeout_of_every_gpu(dcgmi: Make) -> None:
    stub = dcgmi(2)
    source = opened(stub, timeout=2.0)
    stub.state["hang"] = True
    stub.write()
    assert reasons(read(source)) == ["timeout", "timeout"]


def test_no_gpu_is_no_failure(dcgmi: Make) -> None:
    assert opened(dcgmi(0)).devices == []


def test_every_field_has_a_number_of_its_own() -> None:
    numbers = [(column.number, column.bit) for column in COLUMNS.values()]
    assert len(set(numbers)) == len(numbers)
    assert all(column.name.startswith(("DCGM_FI_DEV_", "DCGM_FI_PROF_")) for column in COLUMNS.values())
    shared = {row.name for row in CATALOG if row.smi} - {row.name for row in COLUMNS}
    assert shared == {"gpu_jpeg_utilization_ratio", "gpu_ofa_utilization_ratio", "gpu_fabric_state"}


def test_sample_doctor_record_and_replay(dcgmi: Make, tmp_path: Path) -> None:
    stub, path = dcgmi(2), tmp_path / "dcgm.jsonl"
    arguments = ("--source=dcgm", f"--dcgm.path={stub.path}", "--collection.timeout=5s")
    done = run("sample", "--format=json", *arguments, f"--record={path}")
    assert done.stderr == ""
    again = run("sample", "--format=json", f"--source=replay:{path}")
    told, replayed = (json.loads(each.stdout)["gpus"] for each in (done, again))
    assert told == replayed
    assert told[1]["metrics"]["gpu_sm_active_ratio"] == 0.958
    done = run("doctor", *arguments)
    assert f"ok    dcgmi: {stub.path}, 2 GPUs" in done.stdout
    done = run("doctor", "--source=dcgm", f"--dcgm.path={tmp_path / 'none'}")
    assert f"fail  dcgmi: {tmp_path / 'none'} was not found" in done.stdout
    stub.say("d", "Error: unable to establish a connection to the specified host: localhost\n", code=255)
    done = run("sample", *arguments)
    assert done.returncode == 2
    assert done.stderr.endswith("localhost; is nvidia-dcgm (nv-hostengine) running?\n")
