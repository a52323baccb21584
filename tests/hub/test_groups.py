"""What stands together on the pages."""

from __future__ import annotations

from gpu_exporter.hub.groups import by_holder, by_node, oldest_idle
from gpu_exporter.hub.state import Gpu, GpuState, Holder


def gpu(node: str, index: int, *who: str, since: float = 0.0, state: GpuState = "idle", memory: float = 1.0) -> Gpu:
    holders = tuple(Holder("user", name, "", memory * (place + 1)) for place, name in enumerate(who))
    return Gpu(node, index, f"GPU-{node}-{index}", "NVIDIA H100", state, since=since, holders=holders)


def test_idle_gpus_of_one_machine_and_holder_stand_together_the_oldest_first() -> None:
    gpus = [
        gpu("a", 0, "alice", since=30), gpu("a", 1, "bob", since=20), gpu("a", 2, "alice", since=10, memory=7.0),
        gpu("b", 0, "alice", since=5), gpu("a", 3, "bob", "alice", since=40), gpu("a", 4, "alice", "bob", since=50),
    ]  # fmt: skip
    told = [[(one.node, one.index) for one in same] for same in by_holder(gpus)]
    assert told == [[("b", 0)], [("a", 0), ("a", 2)], [("a", 1)], [("a", 3), ("a", 4)]]


def test_by_machine_those_with_most_first() -> None:
    gpus = [gpu("a", 0), gpu("b", 0), gpu("b", 1)]
    assert [(node, len(there)) for node, there in by_node(gpus)] == [("b", 2), ("a", 1)]


def test_the_one_that_is_idle_for_longest() -> None:
    assert oldest_idle([gpu("a", 0, since=1, state="held")]) is None
    longest = oldest_idle([gpu("a", 0, since=9), gpu("a", 1, since=4)])
    assert longest is not None
    assert longest.index == 1
