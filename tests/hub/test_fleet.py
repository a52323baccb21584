"""What is believed of machines: nothing stale is shown as now, and what is not known is not free."""

from __future__ import annotations

import gzip
from typing import Any

import msgspec
import pytest

from gpu_exporter.hub.document import decode
from gpu_exporter.hub.fetching import Fetched, FetchError
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.nodes import Node, Nodes
from gpu_exporter.hub.state import Gpu, NodeState

NODES = Nodes((Node("a", "a", 1), Node("b", "b", 2)))
REFUSED = FetchError("refused", "refused the connection")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def gpu(index: int = 0, state: str = "idle_free", holders: Any = (), **rest: Any) -> dict[str, Any]:
    told = {"gpu": index, "uuid": f"GPU-{index}", "model": "NVIDIA H100", "up": True, "state": state, **rest}
    return told if holders is None else {**told, "holders": list(holders)}


def fetched(*gpus: dict[str, Any], sampled: float = 1.0, **exporter: Any) -> Fetched:
    document = {
        "schema": 1,
        "exporter": {
            "sample_success": True, "sample_timestamp_seconds": sampled, "interval_seconds": 5.0, **exporter
        },
        "gpus": list(gpus),
    }  # fmt: skip
    body = msgspec.json.encode(document)
    return Fetched(decode(body), gzip.compress(body), '"tag"', "10.0.0.1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    made = Fleet(interval=5.0, clock=clock)
    made.replace(NODES)
    return made


def node(fleet: Fleet, name: str = "a") -> NodeState:
    state = fleet.get(name)
    assert state is not None
    return state


def only(fleet: Fleet) -> Gpu:
    (found,) = fleet.gpus()
    return found


def test_offline_since_it_last_answered(fleet: Fleet, clock: Clock) -> None:
    fleet.answered("a", fetched(gpu()))
    clock.now += 5
    fleet.failed("a", REFUSED)
    assert node(fleet).online, "one lost packet is no news"
    clock.now += 5
    fleet.failed("a", REFUSED)
    state = node(fleet)
    assert (state.status, state.since, state.reason, state.message) == (
        "offline", 1000.0, "refused", "refused the connection",
    )  # fmt: skip
    clock.now += 500
    fleet.failed("a", FetchError("timeout", "did not answer within 3 s"))
    assert (node(fleet).since, node(fleet).reason) == (1000.0, "timeout")
    assert node(fleet, "b").status == "starting"


def test_offline_from_the_start(fleet: Fleet) -> None:
    fleet.failed("a", REFUSED)
    assert (node(fleet).status, node(fleet).since, node(fleet).seen) == ("offline", 1000.0, None)


def test_offline_since_before_this_hub_began(clock: Clock) -> None:
    made = Fleet(interval=5.0, clock=clock)
    made.remember({"a": 400.0, "z": 1.0})
    made.replace(NODES)
    for name in ("a", "b"):
        made.failed(name, REFUSED)
    assert [(node(made, name).since, node(made, name).seen) for name in ("a", "b")] == [(400.0, 400.0), (1000.0, None)]
    made.answered("a", fetched(gpu()))
    assert (node(made).status, node(made).since, node(made).seen) == ("online", 1000.0, 1000.0)


def test_last_values_are_not_shown_as_now(fleet: Fleet) -> None:
    holder = {"owner_kind": "user", "owner": "alice", "memory_used_bytes": 5}
    metrics = {"gpu_utilization_ratio": 0.5, "gpu_memory_used_bytes": 1, "gpu_memory_total_bytes": 2}
    fleet.answered("a", fetched(gpu(holders=[holder], state="active", metrics=metrics)))
    assert (only(fleet).state, only(fleet).utilization) == ("held", 0.5)
    for _ in range(2):
        fleet.failed("a", REFUSED)
    gone = only(fleet)
    assert (gone.state, gone.why, gone.model) == ("unknown", "its machine is offline", "NVIDIA H100")
    assert (gone.utilization, gone.memory_used, gone.holders) == (None, None, None)
    assert fleet.people() == ()
    state = node(fleet)
    assert (state.exporter, state.host.name, state.processes, state.fetched) == (None, "", (), None)


def test_back_by_itself(fleet: Fleet, clock: Clock) -> None:
    for _ in range(2):
        fleet.failed("a", REFUSED)
    clock.now += 60
    fleet.answered("a", fetched(gpu()))
    assert (node(fleet).status, node(fleet).since, node(fleet).reason) == ("online", 1060.0, "")
    assert (only(fleet).state, only(fleet).since_known) == ("free", False)


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (gpu(state="idle_free"), "free"),
        (gpu(state="idle_free", holders=None), "unknown"),  # not seen is not nobody
        (gpu(state="idle_free", holders=[{"owner": ""}]), "idle"),
        (gpu(state="idle_held", holders=[{"owner": "alice"}]), "idle"),
        (gpu(state="active", holders=[{"owner": "alice"}]), "held"),
        (gpu(state="active", holders=None), "held"),
        (gpu(state="unknown"), "unknown"),
        (gpu(state="down"), "down"),
        (gpu(state="idle_free", up=False, failure="lost"), "down"),
        ({"gpu": 0, "up": True}, "unknown"),
    ],
)
def test_what_a_gpu_counts_as(fleet: Fleet, told: dict[str, Any], state: str) -> None:
    fleet.answered("a", fetched(told))
    assert only(fleet).state == state


@pytest.mark.parametrize(
    ("metrics", "field"),
    [
        ({"gpu_utilization_ratio": 1.2}, "utilization"),
        ({"gpu_utilization_ratio": -0.1}, "utilization"),
        ({"gpu_temperature_celsius": 0}, "temperature"),
        ({"gpu_temperature_celsius": 4095}, "temperature"),
        ({"gpu_power_watts": -1}, "power"),
        ({"gpu_power_watts": 1e9}, "power"),
        ({"gpu_memory_used_bytes": 3, "gpu_memory_total_bytes": 2}, "memory_used"),
        ({"gpu_memory_used_bytes": -1}, "memory_used"),
        ({"gpu_memory_total_bytes": 1e300}, "memory_total"),
    ],
)
def test_what_cannot_be_true_is_not_known(fleet: Fleet, metrics: dict[str, float], field: str) -> None:
    fleet.answered("a", fetched(gpu(metrics=metrics)))
    assert getattr(only(fleet), field) is None


def test_since_when(fleet: Fleet, clock: Clock) -> None:
    fleet.answered("a", fetched(gpu(), sampled=1))
    assert (only(fleet).since, only(fleet).since_known) == (1000.0, False)
    clock.now += 5
    fleet.answered("a", fetched(gpu(state="idle_held", holders=[{"owner": "alice"}]), sampled=2))
    assert (only(fleet).since, only(fleet).since_known) == (1005.0, True)
    clock.now += 5
    fleet.answered(
        "a", fetched(gpu(state="idle_held", holders=[{"owner": "alice", "memory_used_bytes": 9}]), sampled=3)
    )
    assert only(fleet).since == 1005.0
    clock.now += 5
    fleet.answered("a", fetched(gpu(state="idle_held", holders=[{"owner": "bob"}]), sampled=4))
    assert only(fleet).since == 1015.0


def test_the_same_again_is_an_answer(fleet: Fleet, clock: Clock) -> None:
    fleet.answered("a", fetched(gpu()))
    clock.now += 5
    fleet.answered("a", None)
    assert (node(fleet).seen, only(fleet).state) == (1005.0, "free")


def test_readings_that_never_change_are_old(fleet: Fleet, clock: Clock) -> None:
    """An exporter, or a proxy before it, that serves yesterday's snapshot."""
    for _ in range(12):
        fleet.answered("a", fetched(gpu()))
        clock.now += 5
    assert node(fleet).online
    assert node(fleet).trouble == "its readings do not change any more"
    assert only(fleet).state == "unknown"
    fleet.answered("a", fetched(gpu(), sampled=2))
    assert (node(fleet).trouble, only(fleet).state) == ("", "free")


def test_an_exporter_that_reads_nothing_now(fleet: Fleet) -> None:
    fleet.answered("a", fetched(gpu(), sample_success=False, ready="the driver was unloaded"))
    assert node(fleet).trouble == "the driver was unloaded"
    assert (only(fleet).state, only(fleet).why) == ("unknown", "the driver was unloaded")


def test_people(fleet: Fleet) -> None:
    alice, bob = {"owner": "alice", "memory_used_bytes": 2}, {"owner": "bob", "owner_kind": "slurm", "namespace": "7"}
    fleet.answered("a", fetched(gpu(0, "active", [alice]), gpu(1, "idle_held", [alice, bob])))
    fleet.answered("b", fetched(gpu(0, "active", [alice])))
    first, second = fleet.people()
    assert (first.key, len(first.gpus), len(first.idle), first.memory) == (("user", "alice", ""), 3, 1, 6.0)
    assert (second.key, [gpu.node for gpu in second.gpus]) == (("slurm", "bob", "7"), ["a"])


def test_another_list_of_machines(fleet: Fleet) -> None:
    fleet.answered("a", fetched(gpu()))
    fleet.replace(Nodes((Node("c", "c", 3), Node("a", "a", 1, labels={"rack": "R1"}))))
    assert [state.node.name for state in fleet] == ["c", "a"]
    assert (node(fleet).online, dict(node(fleet).node.labels)) == (True, {"rack": "R1"})
    fleet.replace(Nodes((Node("a", "elsewhere", 1),)))
    assert node(fleet).status == "starting", "what another machine said is not of this one"
    fleet.answered("gone", fetched(gpu()))
    fleet.failed("gone", REFUSED)
    assert fleet.get("gone") is None


def test_names_that_would_spoil_a_page(fleet: Fleet) -> None:
    fleet.answered("a", fetched(gpu(holders=[{"owner": "al\u202eice\x00" + "x" * 5000}], state="active")))
    (holder,) = only(fleet).holders or ()
    assert holder.name.startswith("al\ufffdice\ufffdx")
    assert len(holder.name) == 200
