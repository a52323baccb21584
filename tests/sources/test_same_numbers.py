"""One idle H200, told by NVML and by nvidia-smi within a minute: what differs, and why."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest
from tools.lab.dcgmi_stub import DcgmiStub
from tools.lab.exporter import run
from tools.lab.programs import program
from tools.lab.smi_stub import SmiStub, capture

import h200_run
from gpu_exporter.config import load
from gpu_exporter.model import Reading
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources import kind_of
from gpu_exporter.sources.program import Program
from gpu_exporter.sources.smi import SmiSource
from gpu_exporter.sources.tape import Playback
from gpu_exporter.sources.tape import load as load_recording
from recorded import RECORDED

_WHOLE_MIB = "nvidia-smi prints whole MiB"
_MOVED = "it moved in the seconds between the two"
# Names of rows that both tell and that differ: by how much at most, and why.
DIFFER = {
    "gpu_memory_free_bytes": (2.0**20, _WHOLE_MIB),
    "gpu_memory_reserved_bytes": (2.0**20, _WHOLE_MIB),
    "gpu_energy_joules_total": (math.inf, "nvidia-smi has no counter: it is integrated from power, and begins with 0"),
    "gpu_power_average_watts": (1.0, _MOVED),
    "gpu_power_watts": (1.0, _MOVED),
    "gpu_temperature_celsius": (1.0, _MOVED),
}
_NO_FIELD = "nvidia-smi has no such field"
# Rows that only NVML tells.
ONLY_NVML = {
    "gpu_temperature_limit_celsius": _NO_FIELD,
    "gpu_bar1_memory_total_bytes": _NO_FIELD,
    "gpu_bar1_memory_used_bytes": _NO_FIELD,
    "gpu_pcie_replays_total": _NO_FIELD,
    "gpu_pcie_transmit_bytes_total": "GPM has no field in --query-gpu",
    "gpu_pcie_receive_bytes_total": "GPM has no field in --query-gpu",
    "gpu_sm_active_seconds_total": "GPM has no field in --query-gpu",
    "gpu_tensor_active_seconds_total": "GPM has no field in --query-gpu",
    "gpu_dram_active_seconds_total": "GPM has no field in --query-gpu",
    "gpu_pcie_aer_errors_total": _NO_FIELD,
    'gpu_processes{type="graphics"}': "--query-compute-apps lists what computes, and nothing that draws only",
    'gpu_clock_event_active{reason="display_clock_setting"}': _NO_FIELD,
    'gpu_clock_max_hertz{clock="video"}': _NO_FIELD,
}
# Of the device itself.
IDENTITY = {
    "brand": "nvidia-smi does not tell it",
    "serial": "it is not in a recording that nobody asked to have names",
}


@pytest.fixture
def by_nvml(tmp_path: Path) -> Reading:
    path = tmp_path / "idle.jsonl"
    h200_run.write_idle(path)
    player = kind_of("nvml").player
    assert player is not None
    source = player(load(None), Playback(load_recording(path)))()
    try:
        return source.read(source.devices[0])
    finally:
        source.close()


@pytest.fixture
def by_smi(tmp_path: Path) -> Reading:
    stub = SmiStub(tmp_path / "smi", capture(RECORDED / "h200-580.159.04.idle.csv"))
    source = SmiSource(Program(stub.path), timeout=30.0, root=tmp_path)
    return source.read(source.devices[0])


def told(reading: Reading) -> dict[str, float]:
    (complete,) = Pipeline(gap=15).complete([reading], 0.0)
    labelled = {f"{row!r}{labels}": value for (row, labels), value in complete.labelled.items()}
    return {**{repr(row): value for row, value in complete.values.items()}, **labelled}


def explained(row: str, reasons: dict[str, str]) -> bool:
    return row in reasons or named(row) in reasons


def named(row: str) -> str:
    """The metric's name, without labels of either kind."""
    return row.partition("{")[0].partition("(")[0]


def test_every_difference_between_nvml_and_nvidia_smi_has_its_reason(by_nvml: Reading, by_smi: Reading) -> None:
    nvml, smi = told(by_nvml), told(by_smi)
    differ = {row for row in nvml.keys() & smi.keys() if nvml[row] != pytest.approx(smi[row], abs=1e-9, rel=1e-12)}
    assert {row.partition("{")[0] for row in differ} == DIFFER.keys(), {row: (nvml[row], smi[row]) for row in differ}
    for row in differ:
        most, why = DIFFER[row.partition("{")[0]]
        assert nvml[row] == pytest.approx(smi[row], abs=most), why
    assert {row for row in nvml.keys() - smi.keys() if not explained(row, ONLY_NVML)} == set()
    assert smi.keys() - nvml.keys() == set()
    assert len(nvml.keys() & smi.keys()) >= 75


def test_every_reason_is_needed(by_nvml: Reading, by_smi: Reading) -> None:
    nvml, smi = told(by_nvml), told(by_smi)
    only = nvml.keys() - smi.keys()
    idle = {row for row in ONLY_NVML if not any(row in {each, named(each)} for each in only)}
    assert idle == set()


def test_both_say_who_it_is(by_nvml: Reading, by_smi: Reading) -> None:
    one, other = by_nvml.device, by_smi.device
    names = ("uuid", "model", "architecture", "brand", "pci_bus_id", "serial", "vbios_version")
    differ = {name for name in names if getattr(one, name) != getattr(other, name)}
    assert differ == IDENTITY.keys(), (one, other)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_promtool_finds_nothing_in_the_page_of_any_source(tmp_path: Path) -> None:
    smi = SmiStub(tmp_path / "smi", capture(RECORDED / "h200-580.159.04.load.csv") * 2)
    smi.processes(0, ("1", "20166 MiB"))
    dcgmi = DcgmiStub(tmp_path / "dcgmi", [{150: "63", 203: "100", 156: "2642545", 319: "0"}] * 2)
    recording = tmp_path / "idle.jsonl"
    h200_run.write_idle(recording)
    for arguments in (
        ("--source=smi", f"--smi.path={smi.path}", "--collection.timeout=5s"),
        ("--source=dcgm", f"--dcgm.path={dcgmi.path}", "--collection.timeout=5s"),
        (f"--source=replay:{recording}",),
    ):
        done = run("sample", "--format=prometheus", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        checked = subprocess.run(
            [program("promtool"), "check", "metrics"], input=done.stdout, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", ""), arguments
