"""What is known of each source before it is opened."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from gpu_exporter.app import build_sampler
from gpu_exporter.config import SOURCES, Config, ConfigError, load
from gpu_exporter.sources import REGISTRY, SourceKind, open_source, source_kind

NOT_FOUND = "cannot be read: No such file or directory"


RECORDING = Path(__file__).with_name("recorded") / "empty.jsonl"


def of(name: str, **settings: str) -> Config:
    given = {
        "source": f"replay:{RECORDING}" if name == "replay" else name,
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    return load(None, {key: ("flag", value) for key, value in given.items()})


def test_every_source_that_can_be_chosen_can_be_opened() -> None:
    assert set(REGISTRY) == set(SOURCES), "config/settings.py and sources/__init__.py list the same names"


@pytest.mark.parametrize("name", REGISTRY)
def test_a_source_goes_by_the_name_that_chooses_it(name: str) -> None:
    kind = source_kind(of(name))
    assert isinstance(kind, SourceKind)
    assert kind.name == name
    assert import_module(REGISTRY[name]).__name__ == f"gpu_exporter.sources.{name}", "each has a folder of its name"


@pytest.mark.parametrize(
    ("name", "simulated"),
    [("nvml", False), ("smi", False), ("dcgm", False), ("replay", True), ("fake", True), ("auto", False)],
)
def test_a_source_says_whether_it_is_simulated(name: str, *, simulated: bool) -> None:
    assert source_kind(of(name)).simulated is simulated


@pytest.mark.parametrize("name", REGISTRY)
def test_a_snapshot_knows_before_anything_was_opened(name: str) -> None:
    snapshot = build_sampler(of(name)).latest()
    assert (snapshot.source, snapshot.simulated) == (name, source_kind(of(name)).simulated)
    assert snapshot.driver is None


def test_a_fleet_outlives_the_sources_that_are_opened_on_it() -> None:
    opened = open_source(of("fake", fake__gpus="2"))
    first, second = opened(), opened()
    assert first.simulated
    assert first.devices == second.devices, "the same GPUs, with the names that their seed gives"
    assert len(first.devices) == 2


def test_a_file_that_only_one_source_reads_is_checked_for_that_source_alone(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.yaml")
    config = of("fake", fake__scenario=missing)
    with pytest.raises(ConfigError, match=f"^{missing}: {NOT_FOUND}$"):
        source_kind(config).check(config)
    other = of("nvml", fake__scenario=missing)
    source_kind(other).check(other)


def test_what_doctor_tells_of_a_source_comes_from_the_source(tmp_path: Path) -> None:
    assert list(source_kind(of("fake")).findings(of("fake"), tmp_path)) == []
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX  590.48.01  Release Build\n")
    (tmp_path / ".dockerenv").touch()
    told = {finding.what: finding for finding in source_kind(of("nvml")).findings(of("nvml"), tmp_path)}
    assert told["kernel driver"].detail == "590.48.01"
    assert (told["device nodes"].state, told["device nodes"].detail) == ("warn", "no /dev/nvidiactl")
    assert "container" in told


@pytest.mark.parametrize(
    ("nodes", "state", "detail"),
    [
        (("nvidiactl", "nvidia0", "nvidia11"), "ok", "nvidia0, nvidia11, nvidiactl"),
        (("nvidiactl", "nvidia-uvm", "nvidia-modeset"), "warn", "no /dev/nvidia0 or other GPU's node, only nvidiactl"),
        (("nvidia0", "nvidia-uvm"), "warn", "no /dev/nvidiactl, only nvidia0"),
        (("nvidia-uvm", "nvidia-caps"), "warn", "no /dev/nvidiactl"),
    ],
    ids=["all", "no GPU's", "not the driver's own", "others"],
)
def test_doctor_misses_device_nodes(tmp_path: Path, nodes: tuple[str, ...], state: str, detail: str) -> None:
    (tmp_path / "dev").mkdir()
    for name in nodes:
        (tmp_path / "dev" / name).touch()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("")
    told = {finding.what: finding for finding in source_kind(of("nvml")).findings(of("nvml"), tmp_path)}
    assert (told["device nodes"].state, told["device nodes"].detail) == (state, detail)
    assert (told["device nodes"].advice != "") == (state != "ok")
    assert told["kernel driver"].detail == "of no version"
