"""Processes as series: labels, the cut, what is added up."""

from __future__ import annotations

import pytest

from gpu_exporter.catalog import PROCESS_MEMORY, PROCESS_UTILIZATION, PROCESSES, PROCESSES_DROPPED
from gpu_exporter.catalog.owner_kinds import PROCESS_LABELS
from gpu_exporter.model import Device, Failure, Identity, Process, Reading
from gpu_exporter.sampling.processes import ProcessTable

DEVICE = Device(0, "GPU-0", "H100")
ALICE = Identity("python3", "alice", "c0ffee", {"pod": "train-0", "namespace": "ml", "slurm_job": "4711"})


def series(*processes: Process, most: int = 64, labels: tuple[str, ...] = PROCESS_LABELS) -> Reading:
    return ProcessTable(most=most, labels=labels).add_rows(Reading(DEVICE, processes=processes))


def memory(reading: Reading) -> dict[tuple[str, ...], float]:
    return {labels: value for (row, labels), value in reading.labelled.items() if row is PROCESS_MEMORY}


def test_a_process_has_all_its_labels() -> None:
    complete = series(Process(7, "compute", 5.0, 0.25, "MIG-1", ALICE))
    labels = ("7", "python3", "alice", "c0ffee", "train-0", "ml", "4711", "MIG-1")
    assert complete.labelled == {(PROCESS_MEMORY, labels): 5.0, (PROCESS_UTILIZATION, labels): 0.25}


def test_what_is_not_known_has_no_series() -> None:
    complete = series(Process(7, "compute"))
    assert complete.labelled == {}
    assert complete.values == {PROCESSES["compute"]: 1.0, PROCESSES["graphics"]: 0.0, PROCESSES_DROPPED: 0.0}


def test_processes_are_counted_by_type() -> None:
    both = series(Process(1, "compute", 1.0), Process(1, "graphics", 1.0), Process(2, "graphics", 1.0))
    assert (both.values[PROCESSES["compute"]], both.values[PROCESSES["graphics"]]) == (1.0, 2.0)
    assert len(memory(both)) == 2


def test_processes_without_a_pid_are_counted_and_add_up() -> None:
    """A driver that cannot tell pids lists 0 for each."""
    two = series(Process(0, "compute", 4.0), Process(0, "compute", 1.0), Process(7, "compute", 2.0))
    assert two.values[PROCESSES["compute"]] == 3.0
    assert {labels[0]: value for labels, value in memory(two).items()} == {"0": 5.0, "7": 2.0}


def test_the_largest_have_series() -> None:
    many = [Process(pid, "compute", float(pid % 7), 0.5) for pid in range(1, 5001)]
    complete = series(*many, most=10)
    assert list(memory(complete).values()) == [6.0] * 10
    assert complete.values[PROCESSES_DROPPED] == 4990.0
    assert complete.values[PROCESSES["compute"]] == 5000.0
    assert len(complete.labelled) == 20


def test_none_at_all_where_the_most_is_none() -> None:
    assert series(Process(1, "compute", 1.0), most=0).values[PROCESSES_DROPPED] == 1.0
    assert series(Process(1, "compute", 1.0), most=0).labelled == {}


def test_dropped_labels_add_up() -> None:
    two = [Process(1, "compute", 1.0, 0.25, identity=ALICE), Process(2, "compute", 2.0, None, identity=ALICE)]
    complete = series(*two, labels=("user",))
    assert complete.labelled == {
        (PROCESS_MEMORY, ("", "", "alice", "", "", "", "", "")): 3.0,
        (PROCESS_UTILIZATION, ("", "", "alice", "", "", "", "", "")): 0.25,
    }


@pytest.mark.parametrize(
    "reading", [Reading(DEVICE), Reading(DEVICE, failure=Failure("lost", "gone"), processes=(Process(1, "compute"),))]
)
def test_no_rows_where_it_is_not_known_what_runs(reading: Reading) -> None:
    assert ProcessTable(most=64, labels=PROCESS_LABELS).add_rows(reading) is reading
