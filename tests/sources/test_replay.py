"""What a driver answered, recorded and given again: the same numbers come out, and nothing after the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import pytest
from tools.lab.exporter import Exporter, parse, run
from tools.lab.nvml_stub import Mig, Process, Stub
from tools.lab.smi_stub import SmiStub, capture

import h200_run
from gpu_exporter.catalog import OWNER_SECONDS, PROCESS_UTILIZATION, STATE_SECONDS, by_name
from gpu_exporter.config import Config, ConfigError, load
from gpu_exporter.model import Reading, Xid
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.sampling.pipeline import Pipeline
from gpu_exporter.sources import Source, SourceChangedError, SourceError, kind_of, open_source, source_kind
from gpu_exporter.sources.replay import ReplaySource
from gpu_exporter.sources.tape import Playback, Tape
from gpu_exporter.sources.tape import load as load_recording
from recorded import RECORDED

Page = dict[tuple[str, frozenset[tuple[str, str]]], float]
BUSY = by_name("gpu_busy_seconds_total")
ENERGY = by_name("gpu_energy_joules_total")


def configured(source: str, **settings: str) -> Config:
    given = {"source": source, **{key.replace("__", "."): value for key, value in settings.items()}}
    return load(None, {key: ("flag", value) for key, value in given.items()})


def page(*arguments: str, extra: dict[str, str] | None = None) -> Page:
    """The series of ``sample --format=prometheus``, but for those that differ from call to call."""
    done = run("sample", "--format=prometheus", *arguments, extra=extra)
    assert done.stderr == ""
    moving = ("process_", "gpu_exporter_last_sample_timestamp", "gpu_exporter_sample_duration",
              "gpu_exporter_reading_seconds")  # fmt: skip
    return {key: value for key, value in parse(done.stdout).items() if not key[0].startswith(moving)}


# --- the H200's run ---------------------------------------------------------------------------------------------------


@dataclass
class Moment:
    """One reading of the run: seconds since its first, and what the pipeline made of it."""

    at: float
    reading: Reading


@pytest.fixture(scope="module")
def run_of_h200(tmp_path_factory: pytest.TempPathFactory) -> list[Moment]:
    """The whole run, read once a second by a clock that is set, from the recording to the accounts."""
    path = tmp_path_factory.mktemp("h200") / "run.jsonl"
    h200_run.write(path)
    now = [0.0]
    playback = Playback(load_recording(path), monotonic=lambda: now[0])
    player = kind_of("nvml").player
    assert player is not None
    config = configured("nvml", processes__interval="1s")
    playback.begin()
    source = ReplaySource(player(config, playback)(), playback, loop=False)
    pipeline = Pipeline(gap=15.0, resolver=Resolver())
    moments = []
    try:
        (device,) = source.devices
        for at in playback.recording.times:
            now[0] = at
            (complete,) = pipeline.complete([source.read(device)], at)
            moments.append(Moment(at, complete))
    finally:
        source.close()
    return moments


def grown(moments: list[Moment], begin: float, end: float, value: Callable[[Reading], float]) -> float:
    within = [moment for moment in moments if begin <= moment.at <= end]
    return value(within[-1].reading) - value(within[0].reading)


def test_every_reading_of_the_run_is_whole(run_of_h200: list[Moment]) -> None:
    assert len(run_of_h200) == 91
    for moment in run_of_h200:
        assert (moment.reading.failure, moment.reading.partial, moment.reading.refused) == (None, "", ())
    first = run_of_h200[0].reading.device
    assert (first.model, first.architecture, first.serial) == ("NVIDIA H200", "Hopper", "")


def test_busy_seconds_are_those_of_the_load(run_of_h200: list[Moment]) -> None:
    truth = h200_run.truth()
    began = h200_run.rows()[0]["t"]
    for segment in truth:
        begin, end = segment["t0"] - began, segment["t1"] - began
        # Samples are of 0.2 s, and the reading after the end is at most a second late: idle seconds add nothing.
        told = grown(run_of_h200, begin - 1.1, end + 1.1, lambda reading: reading.values[BUSY])
        assert told == pytest.approx(segment["busy"], abs=0.5), segment["segment"]
    whole = run_of_h200[-1].reading.values[BUSY]
    assert whole == pytest.approx(sum(segment["busy"] for segment in truth), rel=0.02)


def test_energy_is_the_driver_s(run_of_h200: list[Moment]) -> None:
    rows = h200_run.rows()
    told = [moment.reading.values[ENERGY] for moment in run_of_h200]
    assert told == [row["energy"] / 1000 for row in rows]


@pytest.mark.parametrize(
    ("segment", "name", "ratio"),
    [
        ("bf16 matmul", "gpu_sm_active_ratio", 0.958),
        ("bf16 matmul", "gpu_tensor_active_ratio", 0.943),
        ("fp32 matmul", "gpu_fp32_active_ratio", 0.76),
        ("fp32 matmul", "gpu_tensor_active_ratio", 0.0),
        ("fp64 matmul", "gpu_tensor_active_ratio", 0.972),
        ("copy", "gpu_dram_active_ratio", 0.879),
        ("spin one block", "gpu_sm_active_ratio", 0.008),
        ("spin one block", "gpu_utilization_ratio", 1.0),
        ("host to device", "gpu_graphics_active_ratio", 0.0),
        ("host to device", "gpu_utilization_ratio", 0.99),
    ],
)
def test_profiling_counters_are_those_of_the_load(
    run_of_h200: list[Moment], segment: str, name: str, ratio: float
) -> None:
    began = h200_run.rows()[0]["t"]
    (truth,) = (each for each in h200_run.truth() if each["segment"] == segment)
    middle = (truth["t0"] + truth["t1"]) / 2 - began
    nearest = min(run_of_h200, key=lambda moment: abs(moment.at - middle))
    assert nearest.reading.values[by_name(name)] == pytest.approx(ratio, abs=0.02)


def test_the_holder_has_the_time(run_of_h200: list[Moment]) -> None:
    last = run_of_h200[-1].reading
    owner = ("user", "user-1", "")
    held = {state: last.labelled.get((row, owner), 0.0) for state, row in OWNER_SECONDS.items()}
    states = {state: last.values[row] for state, row in STATE_SECONDS.items()}
    assert held["active"] == pytest.approx(states["active"], abs=1.1)
    # Five segments of 8 s, and the seconds at their edges; neither a spinning block nor a copy engine is work.
    assert states["active"] == pytest.approx(43.0, abs=3.0)
    assert sum(states.values()) == pytest.approx(run_of_h200[-1].at, abs=0.1)
    used = [
        value
        for moment in run_of_h200
        for (row, labels), value in moment.reading.labelled.items()
        if row is PROCESS_UTILIZATION and "python3" in labels
    ]
    assert max(used) == 1.0


# --- a stand-in's driver ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def master(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Stub]:
    """A recording of three readings of two stand-in GPUs, one of them held by this very process."""
    folder = tmp_path_factory.mktemp("recorded")
    machine = Stub(folder / "machine", ("h100", "rtx4090"))
    machine.processes(0, [Process(os.getpid(), 20 * 1024**3)])
    path = folder / "recording.jsonl"
    done = run(
        *("sample", "--source=nvml", f"--record={path}", "--ticks=3", "--collection.interval=1s"),
        extra=machine.env(library),
    )
    assert (done.returncode, done.stderr) == (0, "")
    return path.read_text(), machine


@pytest.fixture
def recorded(master: tuple[str, Stub], tmp_path: Path) -> tuple[Path, Stub]:
    """A copy of the recording, and the machine that it is of."""
    path = tmp_path / "recording.jsonl"
    path.write_text(master[0])
    return path, master[1]


def differing(one: Page, other: Page) -> set[str]:
    """The names of series that are not in both, with the same value."""
    return {name for (name, _), _ in one.items() ^ other.items()}


# Each series that differs between the driver itself and a recording of it, and why.
DIFFERENCES = {
    "gpu_exporter_source_info": "the source is another one",
    "gpu_info": "the serial number is not recorded unless asked for",
    "gpu_process_memory_used_bytes": "names are numbered unless asked for",
    "gpu_owner_memory_used_bytes": "names are numbered unless asked for",
    "gpu_owner_seconds_total": "names are numbered unless asked for",
    "gpu_owner_score_seconds_total": "names are numbered unless asked for",
    "gpu_owner_energy_joules_total": "names are numbered unless asked for",
}
# The kernel log is this machine's, and whether it can be read is up to who runs the tests.
OFF = {"GPU_EXPORTER_COLLECTION_KERNEL_LOG": "off"}


def test_a_recording_tells_what_the_driver_told(recorded: tuple[Path, Stub], library: Path, tmp_path: Path) -> None:
    path, machine = recorded
    here, there = page("--source=nvml", extra={**machine.env(library), **OFF}), page(f"--source=replay:{path}")
    assert differing(here, there) == DIFFERENCES.keys()
    named = tmp_path / "named.jsonl"
    run("sample", "--source=nvml", f"--record={named}", "--record-names", extra=machine.env(library))
    there = page(f"--source=replay:{named}")
    assert differing(here, there) == {"gpu_exporter_source_info"}


def test_nothing_private_is_in_a_recording_unless_it_is_asked_for(recorded: tuple[Path, Stub], library: Path) -> None:
    path, machine = recorded
    private = (machine.get(0, "serial"), Path(f"/proc/{os.getpid()}/exe").readlink().name)
    text = path.read_text()
    assert '"user":"user-1"' in text
    assert '"process":"process-1"' in text
    assert not [word for word in private if f'"{word}"' in text]
    run("sample", "--source=nvml", f"--record={path}", "--record-names", extra=machine.env(library))
    text = path.read_text()
    assert [word for word in private if f'"{word}"' in text] == list(private)


def test_only_what_changed_is_written_again(recorded: tuple[Path, Stub]) -> None:
    path, _ = recorded
    _, first, second, third = (json.loads(line) for line in path.read_text().splitlines())
    assert "0 nvmlDeviceGetUUID" in first["answers"]
    assert not any("UUID" in key or "PowerUsage" in key for key in {**second["answers"], **third["answers"]})
    assert 0.0 == first["t"] < second["t"] < third["t"]


def test_events_and_failures_are_recorded_and_come_again(
    here: Callable[[Stub], Stub], stub: Callable[..., Stub]
) -> None:
    machine = here(stub("h100", "h100"))
    path = machine.state_file.with_name("recording.jsonl")
    now = [0.0]
    with path.open("w") as file:
        tape = Tape(file, names=False, monotonic=lambda: now[0])
        recorder = kind_of("nvml").recorder
        assert recorder is not None
        source = recorder(configured("nvml"), tape)()

        def take() -> list[Reading]:
            readings = [source.read(device) for device in source.devices]
            tape.end_reading("nvml", tuple(readings), interval=1.0, version="0")
            now[0] += 1.0
            return readings

        take()
        machine.lose(1)
        take()
        machine.recover(1)
        machine.xid(0, 79)
        source._xids._take_all(source._xids._set)  # type: ignore[attr-defined]
        take()
        source.close()

    now[0] = 0.0
    playback = Playback(load_recording(path), monotonic=lambda: now[0])
    player = kind_of("nvml").player
    assert player is not None
    playback.begin()
    again = player(configured("nvml"), playback)()
    try:
        failures = []
        for at in (0.0, 1.0, 2.0):
            now[0] = at
            failures.append([reading.failure and reading.failure.reason for reading in map(again.read, again.devices)])
        assert failures == [[None, None], [None, "lost"], [None, None]]
        again._xids._take_all(again._xids._set)  # type: ignore[attr-defined]
        assert [(event.device.index, event.xid) for event in again.events() if isinstance(event, Xid)] == [(0, 79)]
    finally:
        again.close()
    assert pynvml.nvmlLib is None, "nothing of the recording is left where the driver's library goes"


def test_each_mig_device_has_its_own_counters_again(here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> None:
    machine = here(stub("h100"))
    shares = {1: 80.0, 2: 20.0}
    gib = 2**30
    machine.mig(
        0,
        [
            Mig(f"MIG-{number}", "3g.40gb", number, 0, 40 * gib, number * gib, {2: share, 5: share / 2, 10: share / 4})
            for number, share in shares.items()
        ],
    )
    path = machine.state_file.with_name("recording.jsonl")
    now = [0.0]
    with path.open("w") as file:
        tape = Tape(file, names=False, monotonic=lambda: now[0])
        recorder = kind_of("nvml").recorder
        assert recorder is not None
        source = recorder(configured("nvml"), tape)()
        for now[0] in (0.0, 1.0, 2.0):
            machine.now += 1.0
            told = source.read(source.devices[0])
            tape.end_reading("nvml", (told,), interval=1.0, version="0")
        source.close()
    active = {
        labels[0]: value for (row, labels), value in told.labelled.items() if row.name == "gpu_mig_sm_active_ratio"
    }
    assert active == {"MIG-1": 0.8, "MIG-2": 0.2}

    now[0] = 0.0
    playback = Playback(load_recording(path), monotonic=lambda: now[0])
    player = kind_of("nvml").player
    assert player is not None
    playback.begin()
    again = player(configured("nvml"), playback)()
    try:
        for now[0] in (0.0, 1.0, 2.0):
            replayed = again.read(again.devices[0])
    finally:
        again.close()
    assert replayed.labelled == told.labelled
    assert replayed.mig_uuids == told.mig_uuids == ("MIG-1", "MIG-2")


# --- its end ----------------------------------------------------------------------------------------------------------


def opened(
    path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch, *, loop: bool = False
) -> Callable[[], Source]:
    monkeypatch.setattr("gpu_exporter.sources.replay.Playback", lambda each: Playback(each, monotonic=lambda: now[0]))
    return open_source(configured(f"replay:{path}{'?loop' if loop else ''}"))


def test_after_its_end_nothing_is_served(recorded: tuple[Path, Stub], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    opener = opened(recorded[0], now, monkeypatch)
    source = opener()
    assert source.read(source.devices[0]).failure is None
    now[0] += 60.0
    with pytest.raises(SourceError, match=r"the recording has ended, after [23]"):
        source.read(source.devices[0])
    source.close()
    with pytest.raises(SourceError, match="the recording has ended"):
        opener()


def test_in_a_loop_it_begins_again(recorded: tuple[Path, Stub], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    opener = opened(recorded[0], now, monkeypatch, loop=True)
    for _ in range(3):
        source = opener()
        assert source.read(source.devices[0]).failure is None
        now[0] += 60.0
        with pytest.raises(SourceChangedError, match="begins again"):
            source.read(source.devices[0])
        source.close()


def test_the_daemon_serves_a_loop(recorded: tuple[Path, Stub], tmp_path: Path) -> None:
    arguments = (f"--source=replay:{recorded[0]}?loop", "--collection.interval=1s")
    with Exporter(tmp_path, *arguments) as exporter:
        exporter.wait(lambda: exporter.value("gpu_up", gpu=1) == 1.0)
        exporter.wait(lambda: exporter.log().count("begins again") >= 2)
        exporter.wait(lambda: exporter.value("gpu_up", gpu=1) == 1.0)
        assert exporter.value("gpu_exporter_source_info", source="replay") == 1.0
        assert "the data is simulated" in exporter.log(), "no GPU of this machine is read"


def test_a_reading_that_is_a_little_early_or_late_is_still_its_own(tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl"
    header = {"recording": "gpu-exporter", "version": 1, "source": "smi", "interval": 5.0}
    lines = [header, *({"t": 5.0 * n, "answers": {"q": n}} for n in range(4))]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    now = [0.0]
    playback = Playback(load_recording(path), monotonic=lambda: now[0])
    playback.begin()
    told = []
    for n in range(4):
        for off in (-1.0, 0.0, 1.0):
            now[0] = max(0.0, 5.0 * n + off)
            told.append(playback.answer("q"))
    assert told == [n for n in range(4) for _ in range(3)]
    now[0] = 19.9
    assert not playback.ended
    now[0] = 20.0
    assert playback.ended


# --- nvidia-smi -------------------------------------------------------------------------------------------------------


@pytest.fixture
def smi(tmp_path: Path) -> SmiStub:
    stub = SmiStub(tmp_path / "smi", capture(RECORDED / "h200-580.159.04.load.csv") * 2)
    stub.processes(0, (str(os.getpid()), "20166 MiB"))
    return stub


def test_nvidia_smi_is_recorded_and_replayed(smi: SmiStub, tmp_path: Path) -> None:
    path = tmp_path / "smi.jsonl"
    arguments = ("--source=smi", f"--smi.path={smi.path}", "--collection.timeout=5s")
    done = run("sample", *arguments, f"--record={path}", "--record-names")
    assert (done.returncode, done.stderr) == (0, "")
    here, there = page(*arguments, extra=OFF), page(f"--source=replay:{path}")
    assert differing(here, there) == {"gpu_exporter_source_info"}


def test_nvidia_smi_s_serial_numbers_are_not_asked_for(smi: SmiStub, tmp_path: Path) -> None:
    path = tmp_path / "smi.jsonl"
    arguments = ("--source=smi", f"--smi.path={smi.path}", "--collection.timeout=5s")
    run("sample", *arguments, f"--record={path}")
    assert "1234567890123" not in path.read_text()
    here, there = page(*arguments, extra=OFF), page(f"--source=replay:{path}")
    assert differing(here, there) == DIFFERENCES.keys(), "as with the driver's own library"


def test_a_recording_of_fewer_or_other_fields_still_serves(smi: SmiStub, tmp_path: Path) -> None:
    path = tmp_path / "smi.jsonl"
    run("sample", "--source=smi", f"--smi.path={smi.path}", "--collection.timeout=5s", f"--record={path}")
    text = path.read_text()
    # As another gpu-exporter wrote it, which knew one field more, and another one less.
    older = text.replace("temperature.memory", "temperature.other").replace("index,uuid,", "index,count,uuid,")
    older = older.replace("index, uuid, ", "index, count, uuid, ").replace("\\n0, GPU-", "\\n0, 2, GPU-")
    older = older.replace("\\n1, GPU-", "\\n1, 2, GPU-")
    assert older != text
    path.write_text(older)
    told = page(f"--source=replay:{path}")
    values = {name: value for (name, labels), value in told.items() if ("gpu", "1") in labels}
    assert values["gpu_temperature_celsius"] == 63.0
    assert "gpu_memory_temperature_celsius" not in values


# --- what is refused --------------------------------------------------------------------------------------------------

HEADER = '{"recording":"gpu-exporter","version":1,"source":"nvml","interval":5}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: is no recording; write one with gpu-exporter sample --record FILE"),
        ("# HELP gpu_up\ngpu_up 1\n", "line 1: is no recording; write one with gpu-exporter sample --record FILE"),
        ("\x00\x01\x02", "line 1: is no recording; write one with gpu-exporter sample --record FILE"),
        ("[" * 100_000, "line 1: is no recording; write one with gpu-exporter sample --record FILE"),
        ('{"recording":"nvtop"}\n', "line 1: is no recording; write one with gpu-exporter sample --record FILE"),
        (HEADER.replace(":1", ":2"), "line 1: version: '2' is not known; this gpu-exporter reads 1"),
        (HEADER.replace("nvml", "rocm"), "line 1: source: 'rocm' is none of nvml, smi, dcgm"),
        (HEADER.replace(":5", ":0"), "line 1: interval: '0' is no number of seconds"),
        (HEADER.replace(":5", ":true"), "line 1: interval: 'true' is no number of seconds"),
        (HEADER, "holds no reading; write one with gpu-exporter sample --record FILE"),
        (f"{HEADER}\n[]\n", "line 2: is no JSON object"),
        (f"{HEADER}\n\n{{}}\n", "line 3: t: 'None' is no number of seconds that goes on"),
        (f'{HEADER}\n{{"t":"0"}}\n', "line 2: t: '0' is no number of seconds that goes on"),
        (f'{HEADER}\n{{"t":NaN}}\n', "line 2: t: 'nan' is no number of seconds that goes on"),
        (f'{HEADER}\n{{"t":5}}\n{{"t":4}}\n', "line 3: t: '4' is no number of seconds that goes on"),
        (f'{HEADER}\n{{"t":0,"answers":[]}}\n', "line 2: answers: is not an object"),
        (f'{HEADER}\n{{"t":0,"events":{{}}}}\n', "line 2: events: is not a list"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_recording(path)
    assert str(refused.value) == f"{path}: {message}"


def test_a_recording_that_was_cut_off_serves_what_is_whole(recorded: tuple[Path, Stub]) -> None:
    path, _ = recorded
    text = path.read_text()
    path.write_text(text[:-20])
    assert len(load_recording(path).times) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--source=replay:/nowhere"], "/nowhere: cannot be read: No such file or directory"),
        (["sample", "--source=replay"], "--source: 'replay' names no recording; write replay:FILE or replay:FILE?loop"),
        (["sample", "--source=replay:?loop"], "--source: 'replay:?loop' names no recording; write replay:FILE or"),
        (["sample", "--source=fake", "--record=/nowhere/x"], "--record: 'fake' has no driver whose answers could be"),
        (["sample", "--source=smi", "--record=/nowhere/x"], "--record: /nowhere/x: cannot be written: No such file"),
        (["sample", "--ticks=2"], "--ticks and --record-names are of a recording; write --record FILE as well"),
        (["sample", "--record-names"], "--ticks and --record-names are of a recording; write --record FILE as well"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith(f"gpu-exporter: {message}")


def test_a_disk_that_is_full_ends_a_recording_in_one_line(smi: SmiStub) -> None:
    done = run("sample", "--source=smi", f"--smi.path={smi.path}", "--collection.timeout=5s", "--record=/dev/full")
    assert done.returncode == 2
    assert done.stderr == "gpu-exporter: --record: /dev/full: cannot be written: No space left on device\n"


def test_where_nothing_can_be_read_there_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl"
    done = run("sample", "--source=nvml", f"--record={path}", extra={"LD_LIBRARY_PATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.startswith("gpu-exporter: no GPU: libnvidia-ml.so.1 was not found")
    assert not path.exists()


def test_doctor_tells_what_a_recording_holds(recorded: tuple[Path, Stub]) -> None:
    done = run("doctor", f"--source=replay:{recorded[0]}")
    assert f"ok    recording: {recorded[0]}: 3 readings of nvml in " in done.stdout
    config = configured(f"replay:{recorded[0].parent / 'none'}")
    with pytest.raises(ConfigError, match="cannot be read"):
        source_kind(config).check(config)


def test_a_holder_is_never_looked_for_among_this_machine_s_processes(recorded: tuple[Path, Stub]) -> None:
    path, _ = recorded
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("processes", None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = page(f"--source=replay:{path}")
    owners: list[Any] = [dict(labels) for (name, labels) in told if name == "gpu_owner_memory_used_bytes"]
    assert {owner.get("owner", "") for owner in owners} == {""}, "the pid is this process's, the holder is not"
