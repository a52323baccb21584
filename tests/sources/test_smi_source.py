"""nvidia-smi as a source, over a stand-in that prints what real boards were recorded to print."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.lab.exporter import Exporter, run
from tools.lab.nvml_stub import Stub
from tools.lab.smi_stub import SmiStub, capture
from tools.lab.wait import wait_for

from gpu_exporter.catalog import CLOCK_EVENTS, PROCESSES, by_name
from gpu_exporter.model import Failure, Reading
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources import SourceChangedError, SourceError
from gpu_exporter.sources.program import Program, Said
from gpu_exporter.sources.smi import SmiSource
from gpu_exporter.sources.smi.failures import bus
from recorded import CAPTURES, RECORDED

H200 = capture(RECORDED / "h200-580.159.04.load.csv")[0]
TEMPERATURE = by_name("gpu_temperature_celsius")
UTILIZATION = by_name("gpu_utilization_ratio")
ECC = by_name("gpu_ecc_errors_total", severity="uncorrected", lifetime="volatile", location="dram")
LOST = "Unable to determine the device handle for GPU{address}: GPU is lost.  Reboot the system to recover this GPU"

Make = Callable[..., SmiStub]


@pytest.fixture
def smi(tmp_path: Path) -> Make:
    """A stand-in with so many H200s under load."""

    def make(gpus: int = 3, **names: str) -> SmiStub:
        return SmiStub(tmp_path / "smi", [H200] * gpus, names=names)

    return make


def opened(stub: SmiStub, *, timeout: float = 30.0, processes: bool = True, root: Path = Path("/none")) -> SmiSource:
    return SmiSource(Program(stub.path), timeout=timeout, processes=processes, root=root)


def read(source: SmiSource) -> list[Reading]:
    return [source.read(device) for device in source.devices]


def reasons(readings: list[Reading]) -> list[str | None]:
    return [reading.failure.reason if reading.failure else None for reading in readings]


def lost(stub: SmiStub, index: int) -> str:
    return LOST.format(address=stub.state["gpus"][index]["row"]["pci.bus_id"][4:])


# --- what it reads ----------------------------------------------------------------------------------------------------


def test_one_call_serves_all_gpus_of_a_round_and_the_next_round_asks_anew(smi: Make) -> None:
    stub = smi(8)
    source = opened(stub, processes=False)
    begun = len(stub.calls())
    assert [reading.values[TEMPERATURE] for reading in read(source)] == [63.0] * 8
    assert len(stub.calls()) == begun + 1
    stub.set(5, temperature_gpu="71")
    assert [reading.values[TEMPERATURE] for reading in read(source)] == [63.0] * 5 + [71.0] + [63.0] * 2
    assert len(stub.calls()) == begun + 2


def test_a_gpu_that_sat_out_a_round_is_not_given_what_was_asked_then(smi: Make) -> None:
    stub, now = smi(2), [0.0]
    source = SmiSource(Program(stub.path), timeout=30.0, processes=False, monotonic=lambda: now[0], root=Path("/none"))
    first, second = source.devices
    source.read(first)
    stub.set(1, temperature_gpu="80")
    now[0] += 5.0
    assert source.read(second).values[TEMPERATURE] == 80.0


@pytest.mark.parametrize("path", CAPTURES, ids=[path.stem for path in CAPTURES])
def test_a_recorded_board_has_what_its_columns_tell(path: Path, tmp_path: Path) -> None:
    row = capture(path)[0]
    source = opened(SmiStub(tmp_path / "smi", [row]), processes=False)
    (reading,) = Pipeline(gap=15).complete(read(source), 0.0)
    assert (reading.failure, reading.partial, reading.refused) == (None, "", ())
    assert reading.values[TEMPERATURE] == float(row["temperature.gpu"])
    assert reading.device.model == row["name"]
    assert reading.device.architecture == ("Hopper" if row["compute_cap"] == "9.0" else "Ada")
    assert source.driver.driver_version == row["driver_version"]
    assert source.driver.cuda_version == "13.0"
    fan = reading.labelled.get((by_name("gpu_fan_speed_ratio"), ("0",)))
    assert (fan is None) == (row["fan.speed"] == "[N/A]")


def test_spare_rows_by_bank_and_sram_errors_by_unit(tmp_path: Path) -> None:
    spare = {"max": "3069", "high": "0", "partial": "2", "low": "1", "none": "0"}
    units = {"l2": "0", "sm": "3", "mcu": "0", "pcie": "1", "other": "[N/A]"}
    row = H200 | {f"remapped_rows.histogram.{name}": banks for name, banks in spare.items()}
    row |= {f"ecc.errors.uncorrected.aggregate.sram.{name}": errors for name, errors in units.items()}
    stub = SmiStub(tmp_path / "smi", [row])
    (reading,) = read(opened(stub, processes=False))
    told = {labels[0]: value for (metric, labels), value in reading.labelled.items() if "bank" in metric.name}
    assert told == {name: float(banks) for name, banks in spare.items()}
    told = {labels[0]: value for (metric, labels), value in reading.labelled.items() if "sram" in metric.name}
    assert told == {"sm": 3.0, "pcie": 1.0}, "as NVML's: units without any are absent"
    assert not any(row.above_zero and not value for row, value in reading.values.items())


def test_the_real_help_is_understood(smi: Make) -> None:
    stub = smi(1)
    stub.say("--help-query-gpu", (RECORDED / "h200-580.159.04.help-query-gpu.txt").read_text("utf-8"))
    stub.say("--help-query-compute-apps", (RECORDED / "h200-580.159.04.help-query-compute-apps.txt").read_text("utf-8"))
    stub.processes(0, ("581", "20166 MiB"))
    (reading,) = read(opened(stub))
    assert reading.values[UTILIZATION] == 1.0
    assert [(each.pid, each.memory_used) for each in reading.processes or ()] == [(581, 20166 * 2**20)]
    assert not any("0" in call for call in stub.calls()), "a line of a description is no field"


def test_reasons_go_by_their_older_name_where_only_that_is_known(tmp_path: Path) -> None:
    older = {name.replace("clocks_event_reasons.", "clocks_throttle_reasons."): cell for name, cell in H200.items()}
    del older["power.draw.instant"]
    (reading,) = read(opened(SmiStub(tmp_path / "smi", [older]), processes=False))
    assert reading.values[CLOCK_EVENTS["sw_power_cap"]] == 1.0
    assert reading.values[CLOCK_EVENTS["gpu_idle"]] == 0.0
    assert reading.values[by_name("gpu_power_watts")] == 693.53


def test_fields_that_it_does_not_list_are_not_asked_for(tmp_path: Path) -> None:
    old = {name: cell for name, cell in H200.items() if not name.startswith(("fabric.", "gpu_recovery", "remapped"))}
    stub = SmiStub(tmp_path / "smi", [old])
    (reading,) = read(opened(stub, processes=False))
    assert reading.values[UTILIZATION] == 1.0
    assert by_name("gpu_fabric_state") not in reading.values
    assert not any("fabric.state" in argument for call in stub.calls() for argument in call)


def test_without_help_what_it_refuses_is_left_out_or_replaced(tmp_path: Path) -> None:
    old = {
        name.replace("event_reasons.", "throttle_reasons."): cell for name, cell in H200.items() if "fabric" not in name
    }
    stub = SmiStub(tmp_path / "smi", [old])
    stub.state["help"] = stub.state["version"] = False
    stub.write()
    source = opened(stub, processes=False)
    begun = len(stub.calls())
    (reading,) = read(source)
    assert reading.values[CLOCK_EVENTS["sw_power_cap"]] == 1.0
    assert by_name("gpu_fabric_state") not in reading.values
    assert len(stub.calls()) == begun + 1, "once it is known, nothing is refused again"


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    ["[N/A]", "N/A", "[Not Supported]", "[Function Not Found]", "[Requested functionality has been deprecated]", ""],
)
def test_what_a_gpu_does_not_have_is_absent(smi: Make, cell: str) -> None:
    stub = smi(1)
    stub.set(0, temperature_gpu=cell, ecc_errors_uncorrected_volatile_dram=cell)
    (reading,) = read(opened(stub, processes=False))
    assert (TEMPERATURE in reading.values, ECC in reading.values, reading.partial) == (False, False, "")


@pytest.mark.parametrize(
    "cell", ["[Unknown Error]", "[Insufficient Permissions]", "ERR!", "-", "0x10", "nan", "inf", "1_0", "12 GiB", "1e3"]
)
def test_a_health_field_that_cannot_be_read_is_an_error_and_never_health(smi: Make, cell: str) -> None:
    stub = smi(2)
    stub.set(0, ecc_errors_uncorrected_volatile_dram=cell)
    sick, well = read(opened(stub, processes=False))
    assert ECC not in sick.values
    assert sick.partial.endswith(cell.strip("[]")) or f"'{cell}'" in sick.partial
    assert sick.failure is None
    assert well.values[ECC] == 0.0
    assert well.partial == ""


def test_an_error_in_one_other_field_is_that_field_s_alone(smi: Make) -> None:
    stub = smi(1)
    stub.set(0, power_draw_instant="[Unknown Error]", power_draw="[Unknown Error]")
    (reading,) = read(opened(stub, processes=False))
    assert by_name("gpu_power_watts") not in reading.values
    assert (reading.partial, reading.failure) == ("", None)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [("[GPU is lost]", "lost"), ("[GPU requires reset]", "reset_required"), ("[Unknown Error]", "unknown")],
)
def test_a_gpu_all_of_whose_cells_say_so_has_failed(smi: Make, cell: str, reason: str) -> None:
    stub = smi(2)
    source = opened(stub, processes=False)
    keep = {"index", "uuid", "pci.bus_id", "name", "driver_version"}
    row = stub.state["gpus"][0]["row"]
    row.update({name: cell for name in row if name not in keep})
    stub.write()
    sick, well = read(source)
    assert sick.failure is not None
    assert (sick.failure.reason, sick.values) == (reason, {})
    assert well.values[UTILIZATION] == 1.0


def test_no_permission_for_anything_is_told_as_such(smi: Make) -> None:
    stub = smi(1)
    keep = {"index", "uuid", "pci.bus_id", "name", "driver_version"}
    row = stub.state["gpus"][0]["row"]
    row.update({name: "[Insufficient Permissions]" for name in row if name not in keep})
    stub.write()
    assert reasons(read(opened(stub, processes=False))) == ["permission"]


def test_a_recovery_action_that_is_not_known_is_not_nothing(smi: Make) -> None:
    stub = smi(1)
    stub.set(0, gpu_recovery_action="Recover Everything")
    (reading,) = read(opened(stub, processes=False))
    assert by_name("gpu_recovery_action") not in reading.values
    assert "gpu_recovery_action: 'Recover Everything'" in reading.partial


# --- one GPU is sick --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [False, True], ids=["among the others", "instead of the others"])
def test_a_lost_gpu_hides_none_of_the_others(smi: Make, *, alone: bool) -> None:
    stub = smi(3)
    source = opened(stub, processes=False)
    stub.sick(1, lost(stub, 1), alone=alone)
    readings = read(source)
    assert reasons(readings) == [None, "lost", None]
    assert readings[0].values[UTILIZATION] == readings[2].values[UTILIZATION] == 1.0
    stub.sick(1, None)
    assert reasons(read(source)) == [None, None, None], "it comes back by itself"


@pytest.mark.parametrize("alone", [False, True], ids=["among the others", "instead of the others"])
def test_a_gpu_that_is_lost_from_the_start_is_known(smi: Make, *, alone: bool) -> None:
    stub = smi(3)
    stub.sick(1, lost(stub, 1), alone=alone)
    source = opened(stub, processes=False)
    assert [device.index for device in source.devices] == [0, 1, 2]
    assert reasons(read(source)) == [None, "lost", None]
    stub.sick(1, None)
    back = source.read(source.devices[1])
    assert (back.failure, back.device.uuid) == (None, "GPU-00000000-1111-2222-3333-000000000001")


@pytest.mark.parametrize(
    ("remark", "reason"),
    [
        ("Unable to determine the device handle for GPU{address}: Unknown Error", "unknown"),
        ("Unable to determine the device handle for GPU1: {address}: GPU requires reset", "reset_required"),
        ("Unable to determine the device handle for gpu {address}: Insufficient Permissions", "permission"),
    ],
)
def test_what_is_said_of_a_gpu_is_its_reason(smi: Make, remark: str, reason: str) -> None:
    stub = smi(2)
    source = opened(stub, processes=False)
    stub.sick(1, remark.format(address=stub.state["gpus"][1]["row"]["pci.bus_id"][4:]), code=255)
    assert reasons(read(source)) == [None, reason]


def test_a_gpu_that_hangs_keeps_none_of_the_others_from_being_read(smi: Make) -> None:
    stub = smi(4)
    source = opened(stub, timeout=4.0)
    read(source)
    stub.hang(2)
    readings = read(source)
    assert reasons(readings) == [None, None, "timeout", None]
    assert all(reading.processes is None for reading in readings), "nobody knows what runs there"
    asked = stub.calls()
    assert reasons(read(source)) == [None, None, "timeout", None]
    together = [call for call in stub.calls()[len(asked) :] if "-i" not in call and "--query-gpu" in call[0]]
    assert together == [], "what does not answer for all is not tried again at once"
    stub.hang(2, hang=False)
    assert reasons(read(source)) == [None] * 4


def test_a_gpu_that_hangs_as_the_source_is_opened_is_found_by_the_kernel_s_list(
    smi: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_exporter.sources.smi.finding.OPENING", 1.0)
    stub = smi(2)
    stub.hang(1)
    for gpu in stub.state["gpus"]:
        (tmp_path / "proc/driver/nvidia/gpus" / gpu["row"]["pci.bus_id"]).mkdir(parents=True)
    source = opened(stub, timeout=4.0, processes=False, root=tmp_path)
    assert reasons(read(source)) == [None, "timeout"]
    with pytest.raises(SourceError, match="nvidia-smi did not answer within"):
        opened(stub, timeout=4.0, processes=False)


def alive(marker: str) -> list[str]:
    """Command lines of live processes that have the marker in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_the_whole_group_is_killed_and_reaped(smi: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = smi(1)
    source = opened(stub, timeout=2.0, processes=False)
    marker = f"SMI_TEST={stub.path}"
    monkeypatch.setenv("SMI_TEST", str(stub.path))
    stub.hang(0)
    assert reasons(read(source)) == ["timeout"]
    wait_for(lambda: not alive(marker), lambda: alive(marker))
    zombies = [
        folder.name
        for folder in Path("/proc").glob("[0-9]*")
        if (status := _stat(folder)) and status[0] == "Z" and status[1] == str(os.getpid())
    ]
    assert zombies == []


def _stat(folder: Path) -> list[str]:
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return []


# --- all of it fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "out", "why"),
    [
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", "is not loaded"),
        (12, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.\n", "libnvidia-ml.so.1 was not found"),
        (18, "Failed to initialize NVML: Driver/library version mismatch\n", "was upgraded"),
        (255, "Failed to initialize NVML: Unknown Error\n", "Failed to initialize NVML: Unknown Error"),
    ],
)
def test_an_exit_status_that_is_of_the_driver_is_the_source_s(smi: Make, code: int, out: str, why: str) -> None:
    stub = smi(2)
    source = opened(stub, processes=False)
    stub.say("--query-gpu", out, code=code)
    with pytest.raises(SourceError, match=why) as first:
        source.read(source.devices[0])
    asked = len(stub.calls())
    with pytest.raises(SourceError) as second:
        source.read(source.devices[1])
    assert second.value is first.value, "what one round has told is not asked again for each GPU"
    assert len(stub.calls()) == asked
    assert first.value.restart_may_help == (code == 255)
    with pytest.raises(SourceError, match=why):
        opened(stub, processes=False)


def test_a_corrupted_inforom_is_complained_of_and_every_value_is_there(
    smi: Make, caplog: pytest.LogCaptureFixture
) -> None:
    stub = smi(2)
    source = opened(stub, processes=False)
    gpus = stub.state["gpus"]
    stub.sick(1, None)
    fields = source._asking._query.fields
    table = "\n".join(", ".join(gpu["row"][name] for name in fields) for gpu in gpus)
    warning = "WARNING: infoROM is corrupted at gpu 0000:00:06.0"
    stub.say("--query-gpu", f"{', '.join(fields)}\n{table}\n{warning}\n", code=14)
    for _ in range(2):
        assert reasons(read(source)) == [None, None]
    told = [record for record in caplog.records if record.message == "nvidia-smi complains"]
    assert len(told) == 1
    assert "infoROM is corrupted" in told[0].__dict__["error"]


def test_a_gpu_behind_status_15_without_a_word_is_lost(smi: Make) -> None:
    stub = smi(1)
    source = opened(stub, processes=False)
    stub.say("--query-gpu", "", code=15)
    assert reasons(read(source)) == ["lost"]


@pytest.mark.parametrize(
    "out",
    [
        "",
        "\n\n",
        "Segmentation fault\n",
        "\x00\xff\xfe" * 50,
        "<!DOCTYPE html><html></html>\n",
        "index, uuid\n0, GPU-1\n",
    ],
)
def test_what_is_no_table_fails_every_gpu_and_invents_nothing(smi: Make, out: str) -> None:
    stub = smi(2)
    source = opened(stub, processes=False)
    stub.say("--query-gpu", out)
    readings = read(source)
    assert reasons(readings) == ["unknown", "unknown"]
    assert all("printed no table" in reading.failure.message for reading in readings if reading.failure)
    assert not any(reading.values for reading in readings)


def table_of(stub: SmiStub, source: SmiSource) -> list[str]:
    fields = source._asking._query.fields
    rows = [", ".join(gpu["row"][name] for name in fields) for gpu in stub.state["gpus"]]
    return [", ".join(fields), *rows]


def test_a_row_that_is_cut_fails_that_gpu_only(smi: Make) -> None:
    stub = smi(3)
    source = opened(stub, processes=False)
    head, *rows = table_of(stub, source)
    rows[1] = rows[1][: len(rows[1]) // 2]
    stub.say("--query-gpu", "\n".join([head, *rows]) + "\n")
    readings = read(source)
    assert reasons(readings) == [None, "unknown", None]
    assert readings[1].failure is not None
    assert "its row ends after" in readings[1].failure.message


def test_a_table_that_ends_within_its_last_number_is_cut(smi: Make) -> None:
    stub = smi(2)
    source = opened(stub, processes=False)
    stub.say("--query-gpu", "\n".join(table_of(stub, source)))
    assert reasons(read(source)) == [None, "unknown"]


def test_a_row_with_too_many_cells_is_none(smi: Make) -> None:
    stub = smi(2)
    source = opened(stub, processes=False)
    head, *rows = table_of(stub, source)
    stub.say("--query-gpu", "\n".join([head, rows[0], f"{rows[1]}, 0"]) + "\n")
    assert reasons(read(source)) == [None, "unknown"]


def test_two_rows_of_one_gpu_are_none(smi: Make) -> None:
    stub = smi(2)
    source = opened(stub, processes=False)
    head, *rows = table_of(stub, source)
    stub.say("--query-gpu", "\n".join([head, *rows, rows[1]]) + "\n")
    assert reasons(read(source)) == [None, "unknown"]


def test_lines_of_windows_are_lines(smi: Make) -> None:
    stub = smi(2)
    source = opened(stub, processes=False)
    stub.say("--query-gpu", "\r\n".join(table_of(stub, source)) + "\r\n")
    assert [reading.values[TEMPERATURE] for reading in read(source)] == [63.0, 63.0]


def test_one_that_crashes_fails_the_cycle_and_not_the_source(smi: Make) -> None:
    stub = smi(1)
    source = opened(stub, processes=False)
    stub.say("--query-gpu", "", signal=11)
    (reading,) = read(source)
    assert reading.failure == Failure("unknown", "nvidia-smi was killed by signal 11")
    stub.say_no_more("--query-gpu")
    assert reasons(read(source)) == [None]


def test_one_that_never_stops_printing_is_stopped(smi: Make) -> None:
    stub = smi(1)
    source = opened(stub, processes=False)
    stub.path.write_text("#!/bin/sh\nexec yes index\n")
    with pytest.raises(SourceError, match="printed more than 4 MiB"):
        source.read(source.devices[0])


def test_one_that_is_gone_is_named(smi: Make) -> None:
    stub = smi(1)
    source = opened(stub, processes=False)
    stub.path.unlink()
    with pytest.raises(
        SourceError, match=r"nvidia-smi was not found; install the NVIDIA driver, or name it by smi\.path"
    ):
        source.read(source.devices[0])


# --- GPUs come and go -------------------------------------------------------------------------------------------------


def test_no_gpu_at_all_is_no_failure(smi: Make) -> None:
    stub = smi(1)
    stub.say("--query-gpu", "No devices were found\n", code=6)
    assert opened(stub).devices == []


def test_a_gpu_that_appears_or_goes_has_the_source_opened_anew(smi: Make) -> None:
    stub = smi(3)
    source = opened(stub, processes=False)
    gone = stub.state["gpus"].pop()
    stub.write()
    with pytest.raises(SourceChangedError, match="lists 2 GPUs, and listed 3"):
        read(source)
    source = opened(stub, processes=False)
    assert len(source.devices) == 2
    stub.state["gpus"].append(gone)
    stub.write()
    with pytest.raises(SourceChangedError, match="lists 3 GPUs, and listed 2"):
        read(source)


def test_another_gpu_in_the_same_place_is_another(smi: Make) -> None:
    stub = smi(2)
    source = opened(stub, processes=False)
    stub.set(1, uuid="GPU-99999999-1111-2222-3333-444444444444")
    with pytest.raises(SourceChangedError, match="another GPU is number 1"):
        read(source)


# --- processes --------------------------------------------------------------------------------------------------------


def test_processes_are_of_their_gpu_and_only_those_that_compute_are_counted(smi: Make) -> None:
    stub = smi(2)
    stub.processes(0, ("581", "20166 MiB"), ("582", "[N/A]"), ("[N/A]", "5 MiB"))
    readings = read(opened(stub))
    assert [(each.pid, each.memory_used) for each in readings[0].processes or ()] == [
        (581, 20166 * 2**20),
        (582, None),
        (0, 5 * 2**20),
    ]
    assert readings[1].processes == ()
    assert readings[0].listed_at is not None
    complete = Pipeline(gap=15).complete(readings, 0.0)
    assert [reading.values.get(PROCESSES["compute"]) for reading in complete] == [3.0, 0.0]
    assert [reading.values.get(PROCESSES["graphics"]) for reading in complete] == [None, None]


def test_a_mig_device_s_processes_are_of_that_device(smi: Make) -> None:
    stub = smi(1)
    stub.processes(0, ("581", "100 MiB"))
    stub.state["apps"][0]["gpu_uuid"] = "MIG-1"
    stub.write()
    (reading,) = read(opened(stub))
    assert [each.mig_uuid for each in reading.processes or ()] == ["MIG-1"]
    assert reading.mig_uuids == ("MIG-1",)


@pytest.mark.parametrize(
    ("out", "code"),
    [
        ("", 0),
        ("gpu_bus_id, gpu_uuid, pid, used_gpu_memory [MiB]\n00000000:00:06.0, GPU-1, 58", 0),
        ("gpu_bus_id, gpu_uuid, pid, used_gpu_memory [MiB]\n00000000:00:06.0, GPU-1, python, 3 MiB\n", 0),
        ("gpu_bus_id, gpu_uuid, pid, used_gpu_memory [MiB]\n[N/A], GPU-1, 3, 3 MiB\n", 0),
        ("gpu_bus_id, gpu_uuid, pid, used_gpu_memory [MiB]\n00000000:00:06.0, GPU-1, 3, 3 GiB\n", 0),
        ("Insufficient Permissions\n", 4),
    ],
)
def test_a_list_that_cannot_be_read_is_not_nobody(smi: Make, out: str, code: int) -> None:
    stub = smi(1)
    stub.say("--query-compute-apps", out, code=code)
    (reading,) = read(opened(stub))
    assert (reading.failure, reading.processes) == (None, None)
    assert reading.values[UTILIZATION] == 1.0


# --- how it is run ----------------------------------------------------------------------------------------------------


def test_it_runs_without_a_shell_in_english_and_without_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("GPU_EXPORTER_PROMETHEUS_PASSWORD", "hunter2")
    program = tmp_path / "a program"
    program.write_text('#!/bin/sh\nenv; echo "$@"; cat\n')
    program.chmod(0o755)
    said = Program(program)(["$(id)", "; id"], timeout=30.0)
    assert said.code == 0
    assert {"LANG=C", "LC_ALL=C", "$(id) ; id"} <= set(said.out.splitlines())
    assert "hunter2" not in said.out


def test_it_is_looked_for_in_path_and_then_where_wsl_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "wsl/nvidia-smi"
    there.parent.mkdir()
    there.write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    program = Program(Path("nvidia-smi"), places=[str(tmp_path / "no"), str(there)])
    assert program.path is None, "it cannot be run"
    there.chmod(0o755)
    assert program.path == str(there)
    nearer = tmp_path / "nvidia-smi"
    nearer.write_text("#!/bin/sh\n")
    nearer.chmod(0o755)
    assert program.path == str(nearer)


def test_a_child_that_goes_on_is_not_waited_for(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nsleep 600 &\necho done\nexit 3\n")
    program.chmod(0o755)
    assert Program(program)([], timeout=60.0) == Said(3, "done\n")


@pytest.mark.parametrize("address", ["00000000:3B:00.0", "0000:3b:00.0", "000:3B:00.0", "0:3B:00.0"])
def test_an_address_is_one_whoever_writes_it(address: str) -> None:
    assert bus(address) == "0:3b:00.0"


# --- the whole program ------------------------------------------------------------------------------------------------


def sample(stub: SmiStub, *arguments: str, extra: dict[str, str] | None = None) -> dict[str, Any]:
    done = run("sample", "--format=json", f"--smi.path={stub.path}", "--collection.timeout=5s", *arguments, extra=extra)
    assert done.stderr == ""
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_sample_reads_it(smi: Make) -> None:
    stub = smi(2)
    stub.sick(1, lost(stub, 1))
    told = sample(stub, "--source=smi")
    assert [gpu["up"] for gpu in told["gpus"]] == [True, False]
    assert told["gpus"][0]["metrics"]["gpu_utilization_ratio"] == 1.0


def test_auto_is_nvidia_smi_where_the_library_is_missing_and_nvml_where_it_is_not(
    smi: Make, library: Path, stub: Callable[..., Stub], tmp_path: Path
) -> None:
    program = smi(1)
    nothing = {"LD_LIBRARY_PATH": str(tmp_path)}
    assert sample(program, extra=nothing)["gpus"][0]["metrics"]["gpu_temperature_celsius"] == 63.0
    asked = len(program.calls())
    machine = stub("h100")
    machine.set(0, "temperature", 41)
    assert sample(program, extra=machine.env(library))["gpus"][0]["metrics"]["gpu_temperature_celsius"] == 41.0
    assert len(program.calls()) == asked, "nvidia-smi is not run where NVML works"


def test_auto_is_never_simulated(tmp_path: Path) -> None:
    done = run("sample", f"--smi.path={tmp_path / 'none'}", extra={"LD_LIBRARY_PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpu-exporter: no GPU: libnvidia-ml.so.1 was not found")


def test_doctor_tells_what_is_asked_and_what_to_do(smi: Make, tmp_path: Path) -> None:
    stub = smi(1)
    done = run("doctor", "--source=smi", f"--smi.path={stub.path}", "--collection.timeout=5s")
    assert f"ok    nvidia-smi: {stub.path}" in done.stdout
    assert "ok    driver: 580.159.04, CUDA 13.0" in done.stdout
    assert "gpu_pcie_transmit_bytes_total" not in done.stdout, "what the source cannot have is not missed"
    done = run("doctor", "--source=smi", f"--smi.path={tmp_path / 'none'}")
    assert done.returncode == 1
    assert f"fail  nvidia-smi: {tmp_path / 'none'} was not found" in done.stdout
    nothing = {"LD_LIBRARY_PATH": str(tmp_path)}
    done = run("doctor", f"--smi.path={stub.path}", "--collection.timeout=5s", extra=nothing)
    assert "nvidia-smi is asked instead" in done.stdout
    assert f"ok    nvidia-smi: {stub.path}" in done.stdout


def test_the_daemon_leaves_no_process_behind(smi: Make, tmp_path: Path) -> None:
    stub = smi(1)
    marker = f"SMI_TEST={stub.path}"
    arguments = ("--source=smi", f"--smi.path={stub.path}", "--collection.interval=5s", "--collection.timeout=5s")
    with Exporter(tmp_path, *arguments, extra={"SMI_TEST": str(stub.path)}) as exporter:
        exporter.wait(lambda: exporter.value("gpu_up", gpu=0) == 1.0)
        stub.hang(0)
        exporter.wait(lambda: [line for line in alive(marker) if line.startswith("sleep")])
    wait_for(lambda: not alive(marker), lambda: alive(marker))


def test_an_nvidia_smi_of_windows_is_read_as_far_as_it_tells(tmp_path: Path) -> None:
    """As one in WSL answers (WDDM): no memory of processes, names that are refused, lines that end as in DOS."""
    row = {**H200, "fan.speed": "0 %", "driver_model.current": "WDDM", "mig.mode.current": "[N/A]"}
    row |= {name: "[N/A]" for name in H200 if name.startswith(("ecc.", "remapped", "retired", "fabric", "power.draw"))}
    stub = SmiStub(tmp_path / "smi", [row])
    stub.processes(0, ("2936", "[N/A]"), ("2964", "[Insufficient Permissions]"))
    source = opened(stub)
    stub.say("--query-gpu", "\r\n".join(table_of(stub, source)) + "\r\n")
    (reading,) = Pipeline(gap=15).complete(read(source), 0.0)
    assert (reading.failure, reading.partial) == (None, "")
    assert reading.values[UTILIZATION] == 1.0
    assert reading.labelled[by_name("gpu_fan_speed_ratio"), ("0",)] == 0.0
    assert ECC not in reading.values
    assert by_name("gpu_power_watts") not in reading.values
    assert [(each.pid, each.memory_used) for each in reading.processes or ()] == [(2936, None), (2964, None)]
    assert reading.state == "active"
