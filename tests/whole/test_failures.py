"""The failure table of the design, row by row: the installed daemon over the stand-in for the driver's library.

README and docs/ARCHITECTURE.md promise these rows; each test is one of them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter, pick, run
from tools.lab.nvml_stub import Stub, build
from tools.lab.wait import patience, wait_for

FAST = ("--source=nvml", "--collection.interval=500ms", "--collection.timeout=500ms")
Start = Callable[..., Exporter]


@pytest.fixture
def start(library: Path, tmp_path: Path) -> Iterator[Start]:
    """Start the daemon on a machine; its hung calls are freed and the daemon stopped at the end."""
    running: list[tuple[Exporter, Stub]] = []

    def begin(machine: Stub, *arguments: str, without: Path | None = None) -> Exporter:
        exporter = Exporter(tmp_path, *FAST, *arguments, extra=machine.env(without or library))
        running.append((exporter, machine))
        return exporter

    yield begin
    for exporter, machine in running:
        for device in range(machine.count):
            machine.recover(device)
        machine.hang_init(hang=False)
        exporter.__exit__()


def ups(exporter: Exporter) -> dict[str, float]:
    return {dict(labels)["gpu"]: value for (name, labels), value in exporter.samples().items() if name == "gpu_up"}


def wait_ups(exporter: Exporter, *expected: float) -> None:
    wanted = {str(index): value for index, value in enumerate(expected)}
    wait_for(lambda: ups(exporter) == wanted, lambda: (ups(exporter), exporter.log()))


def test_a_value_that_is_not_supported_or_whose_symbol_is_missing_is_absent(
    start: Start, stub: Callable[..., Stub], tmp_path: Path
) -> None:
    machine = stub("h100", "h100")
    machine.unsupported("nvmlDeviceGetPerformanceState", device=1)
    older = build(tmp_path, without={"nvmlDeviceGetJpgUtilization", "nvmlDeviceGetTemperatureV"})
    exporter = start(machine, without=older)
    wait_ups(exporter, 1, 1)
    assert exporter.value("gpu_performance_state", gpu=0) == 0
    assert exporter.value("gpu_performance_state", gpu=1) is None
    assert exporter.value("gpu_jpeg_utilization_ratio", gpu=0) is None
    assert exporter.value("gpu_temperature_celsius", gpu=0) == machine.get(0, "temperature"), "by the older call"


def test_a_value_that_cannot_be_is_absent_counted_and_told_once(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100")
    exporter = start(machine)
    wait_ups(exporter, 1, 1)
    counted = "gpu_exporter_implausible_values_total"
    assert exporter.value(counted) is None, "it appears with the first"
    machine.set(1, "power", 4_000_000_000)
    exporter.wait_value(None, "gpu_power_watts", gpu=1)
    wait_for(lambda: (exporter.value(counted, metric="gpu_power_watts") or 0) >= 3)
    samples = exporter.samples()
    assert pick(samples, "gpu_up", gpu=1) == 1
    assert pick(samples, "gpu_power_watts", gpu=0) == 631.95, "its sibling is unharmed"
    assert {dict(labels)["metric"] for name, labels in samples if name == counted} == {
        "gpu_power_watts",
        "gpu_power_average_watts",
    }
    told = [line for line in exporter.log().splitlines() if "metric=gpu_power_watts" in line]
    assert len(told) == 1, exporter.log()
    assert "gpu=1" in told[0]
    assert "value=4e+06" in told[0]
    assert 'accepted="0.001 to 10000"' in told[0]

    machine.set(1, "power", 500_000)
    exporter.wait_value(500, "gpu_power_watts", gpu=1)
    before = exporter.value(counted, metric="gpu_power_watts")
    machine.fail_driver(9)
    exporter.wait_value(0, "gpu_exporter_last_sample_success")
    assert exporter.value(counted, metric="gpu_power_watts") == before
    exporter.wait_value(500, "gpu_power_watts", gpu=1)
    assert exporter.value(counted, metric="gpu_power_watts") == before, "it survives a reopening"


@pytest.mark.parametrize(
    ("code", "reason"), [(15, "lost"), (16, "reset_required"), (999, "unknown"), (4, "permission")]
)
def test_one_gpu_fails(start: Start, stub: Callable[..., Stub], code: int, reason: str) -> None:
    machine = stub("h100", "h100", "h100")
    exporter = start(machine)
    wait_ups(exporter, 1, 1, 1)
    before = exporter.samples()
    machine.error(1, code)
    wait_ups(exporter, 1, 0, 1)
    samples = exporter.samples()
    sick = {name: value for (name, labels), value in samples.items() if ("gpu", "1") in labels}
    # Memory of a stand-in without processes is held by somebody without a name: an account, as its states are.
    kept = {"gpu_info", "gpu_up", "gpu_read_errors_total", "gpu_state_seconds_total", "gpu_owner_seconds_total"}
    kept |= {"gpu_owner_score_seconds_total", "gpu_owner_energy_joules_total", "gpu_events_total"}
    assert set(sick) == kept, "its other series are absent"
    errors = exporter.value("gpu_read_errors_total", gpu=1, reason=reason)
    assert errors is not None
    assert errors > 0
    assert exporter.value("gpu_read_errors_total", gpu=0, reason=reason) == 0
    uuids = {labels for (name, labels) in before if name == "gpu_up"}
    assert {labels for (name, labels) in samples if name == "gpu_up"} == uuids, "it still has its name"
    for gpu in ("0", "2"):
        kept = {name for name, labels in samples if ("gpu", gpu) in labels}
        assert kept >= {name for name, labels in before if ("gpu", gpu) in labels}, "its siblings are unharmed"
    assert exporter.status("/readyz") == 200
    assert (exporter.value("gpu_exporter_gpus", state="found"), exporter.value("gpu_exporter_gpus", state="up")) == (
        3,
        2,
    )
    machine.recover(1)
    wait_ups(exporter, 1, 1, 1)


def test_one_gpus_driver_call_hangs(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100", "h100")
    # Slower than the others here: of a busy test machine's own delays, none is as long as a tick.
    exporter = start(machine, "--collection.interval=1s", "--collection.timeout=500ms")
    wait_ups(exporter, 1, 1, 1)
    machine.hang(1)
    wait_ups(exporter, 1, 0, 1)
    assert exporter.value("gpu_read_errors_total", gpu=1, reason="timeout") == 1
    exporter.wait_value(1, "gpu_exporter_stuck_reads")
    stamp = exporter.value("gpu_exporter_last_sample_timestamp_seconds") or 0
    machine.set(0, "temperature", 66)
    exporter.wait_value(66, "gpu_temperature_celsius", gpu=0)
    wait_for(lambda: (exporter.value("gpu_exporter_last_sample_timestamp_seconds") or 0) > stamp + 5)
    overruns = exporter.value("gpu_exporter_sample_overruns_total")
    assert overruns is not None
    assert overruns <= 1, "the others keep their cadence"
    assert exporter.value("gpu_read_errors_total", gpu=1, reason="timeout") == 1, "the hung read is not repeated"
    machine.recover(1)
    wait_ups(exporter, 1, 1, 1)
    exporter.wait_value(0, "gpu_exporter_stuck_reads")


def test_every_gpu_hangs(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100", "h100")
    exporter = start(machine)
    wait_ups(exporter, 1, 1, 1)
    with machine.batch():
        for device in range(3):
            machine.hang(device)
    wait_ups(exporter, 0, 0, 0)
    exporter.wait_value(0, "gpu_exporter_last_sample_success")
    assert exporter.value("gpu_exporter_stuck_reads") == 3
    assert exporter.status("/readyz") == 503
    assert exporter.status("/livez") == 200, "a successor would hang as well"
    exporter.signal(signal.SIGTERM)
    assert exporter.process.wait(patience()) == 0, "the calls still hang: it did not wait for them"


def test_a_gpu_that_hangs_from_the_start_hides_nobody(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100", "h100")
    machine.hang(0)
    machine.hang(2)
    exporter = start(machine)
    wait_ups(exporter, 0, 1, 0)
    assert exporter.value("gpu_exporter_stuck_reads") == 2
    machine.recover(0)
    machine.recover(2)
    wait_ups(exporter, 1, 1, 1)
    assert len({dict(labels)["uuid"] for name, labels in exporter.samples() if name == "gpu_up"}) == 3


def test_a_driver_that_hangs_while_it_is_opened(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100")
    machine.hang_init()
    exporter = start(machine)
    assert exporter.status("/readyz") == 503
    assert exporter.value("gpu_exporter_last_sample_success") == 0
    machine.hang_init(hang=False)
    wait_ups(exporter, 1)


def test_a_restart_is_asked_for_only_where_it_helps(start: Start, stub: Callable[..., Stub]) -> None:
    """The five minutes themselves are tested in test_sampler with a clock of its own."""
    machine = stub("h100", "h100")
    exporter = start(machine)
    wait_ups(exporter, 1, 1)
    for device in range(2):
        machine.error(device, 999)
    wait_ups(exporter, 0, 0)
    exporter.wait_value(0, "gpu_exporter_last_sample_success")
    assert exporter.status("/readyz") == 503
    assert exporter.status("/livez") == 200


def test_pausing_lets_go_of_the_driver(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100")
    exporter = start(machine)
    wait_ups(exporter, 1, 1)
    exporter.signal(signal.SIGUSR1)
    exporter.wait_value(1, "gpu_exporter_paused")
    assert ups(exporter) == {}
    assert exporter.value("gpu_exporter_last_sample_success") == 1, "no alert storm"
    assert machine.calls()["nvmlShutdown"] == 1
    machine.count = 1
    exporter.signal(signal.SIGUSR1)
    exporter.wait_value(0, "gpu_exporter_paused")
    wait_ups(exporter, 1, 0)
    assert exporter.value("gpu_read_errors_total", gpu=1, reason="lost") != 0, "a GPU that vanished is told"
    exporter.signal(signal.SIGHUP)
    wait_ups(exporter, 1)


def test_every_signal_to_pause_counts(start: Start, stub: Callable[..., Stub]) -> None:
    exporter = start(stub("h100"))
    wait_ups(exporter, 1)

    def pause_or_resume() -> None:
        exporter.signal(signal.SIGUSR1)
        wait_for(
            lambda: not pending(exporter, signal.SIGUSR1)
        )  # another one before that would be the same to the kernel

    for _ in range(8):
        pause_or_resume()
        pause_or_resume()
    # Had one of those pairs left it paused, this would resume it.
    pause_or_resume()
    exporter.wait_value(1, "gpu_exporter_paused")
    pause_or_resume()
    exporter.wait_value(0, "gpu_exporter_paused")
    wait_ups(exporter, 1)


def pending(exporter: Exporter, number: signal.Signals) -> bool:
    """Whether the process has a signal that it has not taken yet: the kernel keeps one of a kind."""
    status = Path(f"/proc/{exporter.process.pid}/status").read_text()
    return bool(int(status.partition("ShdPnd:")[2].split()[0], 16) >> (number - 1) & 1)


@pytest.mark.parametrize(("code", "says"), [(9, "is not loaded"), (18, "library and kernel module differ")])
def test_the_driver_is_unloaded_and_upgraded_beneath_the_exporter(
    start: Start, stub: Callable[..., Stub], code: int, says: str
) -> None:
    machine = stub("h100", "h100")
    exporter = start(machine)
    wait_ups(exporter, 1, 1)
    assert exporter.value("gpu_driver_info", driver_version="590.48.01") == 1
    with machine.batch():
        machine.fail_driver(code)
        machine.fail_init(code)
    exporter.wait_value(0, "gpu_exporter_last_sample_success")
    assert ups(exporter) == {}, "no device series at all"
    assert exporter.value("gpu_driver_info") is None
    status, _, why = exporter.get("/readyz")
    assert (status, says in why) == (503, True)
    with machine.batch():
        machine.fail_init(0)
        machine.driver_version = "595.80"
    wait_ups(exporter, 1, 1)
    assert exporter.value("gpu_driver_info", driver_version="595.80") == 1, "without a restart"


def test_no_driver_at_the_start(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100")
    machine.fail_init(9)
    exporter = start(machine)
    assert exporter.status("/readyz") == 503
    assert exporter.status("/livez") == 200
    assert exporter.value("gpu_exporter_last_sample_success") == 0
    assert exporter.value("gpu_exporter_build_info") == 1, "its own metrics are served"
    wait_for(lambda: "the NVIDIA kernel driver is not loaded" in exporter.log())
    machine.fail_init(0)
    wait_ups(exporter, 1)
    assert exporter.log().count("is not loaded") == 1, "one clear line, not one a retry"


def test_requiring_a_gpu_makes_its_absence_fatal(library: Path, stub: Callable[..., Stub]) -> None:
    machine = stub("h100")
    machine.fail_init(9)
    done = run("--source=nvml", "--require-gpu", "--web.listen-address=127.0.0.1:0", extra=machine.env(library))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("gpu-exporter: require_gpu: no GPU can be read: the NVIDIA kernel")
    assert "Traceback" not in done.stderr


def test_a_missing_library_is_told_and_waited_for(tmp_path: Path) -> None:
    with Exporter(tmp_path, *FAST, extra={"LD_LIBRARY_PATH": str(tmp_path)}) as exporter:
        wait_for(lambda: "libnvidia-ml.so.1 was not found" in exporter.log())
        assert exporter.status("/readyz") == 503
        assert exporter.status("/metrics") == 200


def test_a_bad_reload_keeps_what_was_good(start: Start, stub: Callable[..., Stub], tmp_path: Path) -> None:
    config = tmp_path / "exporter.yml"
    config.write_text("collection:\n  expected_gpus: 4\n")
    exporter = start(stub("h100"), f"--config.file={config}")
    exporter.wait_value(4, "gpu_exporter_gpus", state="expected")
    config.write_text("collection:\n  expected_gpus: many\n")
    exporter.signal(signal.SIGHUP)
    exporter.wait_value(0, "gpu_exporter_config_reload_success")
    assert exporter.value("gpu_exporter_gpus", state="expected") == 4
    assert "collection.expected_gpus: 'many' is not a whole number" in exporter.log()
    config.write_text("collection:\n  expected_gpus: 8\nweb:\n  telemetry_path: /elsewhere\n")
    exporter.signal(signal.SIGHUP)
    exporter.wait_value(8, "gpu_exporter_gpus", state="expected")
    exporter.wait_value(1, "gpu_exporter_config_reload_success")
    assert "settings=web.telemetry_path" in exporter.log(), "what needs a restart is named"
    wait_ups(exporter, 1)


def test_a_changed_file_is_read_without_a_signal(start: Start, stub: Callable[..., Stub], tmp_path: Path) -> None:
    """As a ConfigMap changes: a link leads to another folder, in one step."""
    for name, count in (("first", 4), ("second", 8)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "exporter.yml").write_text(f"collection:\n  expected_gpus: {count}\n")
    link = tmp_path / "current"
    link.symlink_to("first")
    exporter = start(stub("h100"), f"--config.file={link / 'exporter.yml'}")
    exporter.wait_value(4, "gpu_exporter_gpus", state="expected")
    (tmp_path / "new").symlink_to("second")
    (tmp_path / "new").rename(link)
    exporter.wait_value(8, "gpu_exporter_gpus", state="expected")
    exporter.wait_value(1, "gpu_exporter_config_reload_success")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_exit_within_two_seconds(start: Start, stub: Callable[..., Stub], number: signal.Signals) -> None:
    machine = stub("h100")
    # The driver gets half a second of the two, which a busy machine may spend on others: then the next exit counts.
    for _ in range(5):
        exporter = start(machine)
        wait_ups(exporter, 1)
        exporter.signal(number)
        # Two seconds are for a machine that has time; only what hangs takes as long as this.
        assert exporter.process.wait(patience()) == 0
        assert "Traceback" not in exporter.log()
        if machine.calls().get("nvmlShutdown"):
            break
    assert machine.calls()["nvmlShutdown"] == 1


def test_an_xid_outlives_the_gpu_that_it_kills(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100")
    exporter = start(machine)
    wait_ups(exporter, 1, 1)
    assert exporter.value("gpu_xid_errors_total") is None, "a healthy GPU costs no series"
    began = time.time()
    machine.xid(1, 79)
    exporter.wait_value(1, "gpu_xid_errors_total", gpu=1, xid=79)
    machine.lose(1)
    wait_ups(exporter, 1, 0)
    assert exporter.value("gpu_xid_errors_total", gpu=1, xid=79) == 1
    stamp = exporter.value("gpu_xid_last_timestamp_seconds", gpu=1, xid=79)
    assert stamp is not None
    assert began - 1 < stamp <= time.time() + 1


def test_slow_calls_within_the_deadline_are_no_failure(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100", "h100")
    exporter = start(machine, "--collection.interval=2s", "--collection.timeout=1s")
    # Longer than half a second each: GPUs that are slow are read side by side, and a round takes as long as one.
    machine.slow_function("nvmlDeviceGetMemoryInfo_v2", 0.6)
    wait_for(lambda: (exporter.value("gpu_exporter_sample_duration_seconds") or 0) > 0.5)
    assert ups(exporter) == {"0": 1, "1": 1}
    assert exporter.value("gpu_exporter_stuck_reads") == 0
