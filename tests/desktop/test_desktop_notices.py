"""What is told to whom, and how bad it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpu_exporter.desktop.notices import Watcher, harmless, parse_names
from gpu_exporter.desktop.severity import hot, of_machine, summary, worst
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.nodes import Node
from gpu_exporter.hub.state import Gpu, Holder, NodeState, unseen

ALICE = Holder("user", "alice", "", 1e9)
BOB = Holder("user", "bob", "", 1e9)


def a_gpu(index: int = 0, *holders: Holder, **rest: Any) -> Gpu:
    told: dict[str, Any] = {"state": "held" if holders else "free", "holders": holders, **rest}
    return Gpu("gpu-a", index, f"GPU-{index}", "NVIDIA H100", temperature_limit=89.0, **told)


def lost(gpu: Gpu) -> Gpu:
    return Gpu(gpu.node, gpu.index, gpu.uuid, gpu.model, "down", "lost: the driver cannot reach it")


def a_view(*gpus: Gpu, **rest: Any) -> View:
    state = NodeState(Node("gpu-a", "10.0.0.1", 9435), "online", gpus=gpus)
    return View("lab", 1000.0, (replace(state, **rest),))


def offline(*gpus: Gpu) -> View:
    return a_view(*(unseen(gpu, "its machine is offline", 1.0) for gpu in gpus), status="offline", message="refused")


def told(watcher: Watcher, view: View) -> list[tuple[str, str]]:
    return [(notice.kind, notice.title) for notice in watcher.look(view)]


def test_a_gpu_of_mine_that_gets_hot_is_told_once_until_it_has_cooled() -> None:
    watcher = Watcher(["alice"])
    seen = [
        told(watcher, a_view(a_gpu(0, ALICE, temperature=celsius)))
        for celsius in (60.0, 83.9, 84.0, 95.0, 82.0, 84.0, 80.9, 84.0)
    ]
    warm = [("hot", "gpu-a: GPU 0 is hot")]
    # 82 is not yet clearly cooler than 84, so that it does not come again and again about the limit.
    assert seen == [[], [], warm, [], [], [], [], warm]


def test_a_temperature_that_is_not_told_ends_nothing() -> None:
    watcher = Watcher(["alice"])
    assert told(watcher, a_view(a_gpu(0, ALICE, temperature=90.0)))
    assert told(watcher, a_view(a_gpu(0, ALICE))) == []
    assert told(watcher, a_view(a_gpu(0, ALICE, temperature=90.0))) == []


def test_somebody_else_s_gpus_are_not_told() -> None:
    watcher = Watcher(["alice"])
    assert told(watcher, a_view(a_gpu(0, BOB, temperature=60.0), a_gpu(1, temperature=60.0))) == []
    assert told(watcher, a_view(lost(a_gpu(0)), a_gpu(1, temperature=95.0))) == []


def test_gpus_of_mine_that_are_lost_are_told_together_and_once() -> None:
    watcher = Watcher(["alice"])
    gpus = [a_gpu(index, ALICE, BOB) for index in range(3)]
    assert told(watcher, a_view(*gpus)) == []
    gone = a_view(lost(gpus[0]), lost(gpus[1]), gpus[2])
    (notice,) = watcher.look(gone)
    assert (notice.kind, notice.title) == ("lost", "gpu-a: GPUs 0, 1 are lost")
    assert "GPU 1: lost: the driver cannot reach it" in notice.text
    assert told(watcher, gone) == []
    assert told(watcher, a_view(*gpus)) == []
    assert told(watcher, gone) == [("lost", "gpu-a: GPUs 0, 1 are lost")]


def test_a_machine_with_gpus_of_mine_that_goes_offline() -> None:
    watcher = Watcher(["alice"])
    gpus = [a_gpu(0, ALICE), a_gpu(1)]
    watcher.look(a_view(*gpus))
    (notice,) = watcher.look(offline(*gpus))
    assert (notice.kind, notice.title, notice.text) == ("lost", "gpu-a is offline", "refused. Yours there: GPU 0")
    assert told(watcher, offline(*gpus)) == []
    # It comes back without my work: that is news as well.
    assert told(watcher, a_view(a_gpu(0), a_gpu(1))) == [("free", "gpu-a: GPU 0 is free again")]


def test_a_gpu_of_mine_that_the_machine_does_not_list_any_more() -> None:
    watcher = Watcher(["alice"])
    watcher.look(a_view(a_gpu(0, ALICE), a_gpu(1, BOB)))
    assert told(watcher, a_view(trouble="starting")) == []
    (notice,) = watcher.look(a_view(a_gpu(1, BOB)))
    assert (notice.title, notice.text) == ("gpu-a: GPU 0 is lost", "GPU 0: the machine does not list it any more")
    assert told(watcher, a_view(a_gpu(1, BOB))) == []


@pytest.mark.parametrize(
    ("after", "news"),
    [
        (a_gpu(0), [("free", "gpu-a: GPU 0 is free again")]),
        (a_gpu(0, BOB), []),
        (a_gpu(0, Holder("user", "", "", 1e9), state="idle"), []),
        (a_gpu(0, state="unknown"), []),
        (replace(a_gpu(0), state="unknown", holders=None), []),
    ],
    ids=["nobody", "somebody else", "somebody unseen", "unknown", "not told"],
)
def test_a_gpu_comes_free_only_where_that_is_known(after: Gpu, news: list[tuple[str, str]]) -> None:
    watcher = Watcher(["alice"])
    watcher.look(a_view(a_gpu(0, ALICE)))
    assert told(watcher, a_view(after)) == news


def test_it_comes_free_after_a_time_in_which_nobody_knew() -> None:
    watcher = Watcher(["alice"])
    watcher.look(a_view(a_gpu(0, ALICE)))
    watcher.look(a_view(replace(a_gpu(0), state="unknown", holders=None)))
    assert told(watcher, a_view(a_gpu(0))) == [("free", "gpu-a: GPU 0 is free again")]


def test_what_was_so_at_the_first_look_is_no_news_unless_it_burns() -> None:
    watcher = Watcher(["alice"])
    view = a_view(lost(a_gpu(0)), a_gpu(1), a_gpu(2, ALICE, temperature=90.0))
    assert told(watcher, view) == [("hot", "gpu-a: GPU 2 is hot")]


def test_a_hub_that_cannot_be_asked_has_lost_nobody_s_gpus() -> None:
    watcher = Watcher(["alice"])
    view = a_view(a_gpu(0, ALICE))
    watcher.look(view)
    assert told(watcher, view.blind("the hub is gone", 1001.0)) == []
    assert told(watcher, a_view(a_gpu(0))) == [("free", "gpu-a: GPU 0 is free again")]


@pytest.mark.parametrize(
    "holder",
    [Holder("pod", "train-0", "team-x", 1.0), Holder("slurm", "alice", "4711", 1.0), Holder("user", "alice", "", None)],
)
def test_mine_is_what_a_name_a_job_or_a_namespace_holds(holder: Holder) -> None:
    assert Watcher(parse_names(" alice , team-x,,")).mine(a_gpu(0, holder))
    assert not Watcher([]).mine(a_gpu(0, holder))
    assert not Watcher(["", "carol"]).mine(a_gpu(0, Holder("user", "", "", None)))


def test_other_names_count_at_once() -> None:
    watcher = Watcher(["alice"])
    watcher.look(a_view(a_gpu(0, BOB)))
    watcher.rename(["bob"])
    assert told(watcher, a_view(a_gpu(0))) == [("free", "gpu-a: GPU 0 is free again")]


def test_no_notice_is_markup() -> None:
    assert not set(harmless('<b onclick="x">&amp;</b>')) & set("<>&")


# --- how bad ----------------------------------------------------------------------------------------------------------


def test_the_worst_of_it() -> None:
    well, warm, bad = a_gpu(0, temperature=60.0), a_gpu(1, temperature=84.0), lost(a_gpu(2))
    unknown = replace(a_gpu(3), state="unknown")
    assert [worst(a_view(*gpus)) for gpus in ((well,), (well, unknown), (unknown, warm), (warm, bad))] == [
        "well",
        "unknown",
        "warning",
        "critical",
    ]
    assert worst(offline(well)) == "critical"
    assert worst(a_view(well, trouble="no fresh reading")) == "warning"
    assert of_machine(NodeState(Node("gpu-a", "h", 1))) == "unknown"
    # Nothing is known of a fleet that cannot be asked: not well, and not sick either.
    assert worst(a_view(well).blind("gone", 1.0)) == worst(View("lab")) == worst(View("lab", 1.0)) == "unknown"


def test_hot_is_by_the_gpu_s_own_limit_and_needs_both() -> None:
    assert hot(a_gpu(0, temperature=84.0))
    assert not hot(a_gpu(0))
    assert not hot(replace(a_gpu(0, temperature=120.0), temperature_limit=None))


def test_the_worst_in_words() -> None:
    view = a_view(a_gpu(0, temperature=88.0), lost(a_gpu(1)), *(lost(a_gpu(index)) for index in (2, 3, 4)))
    assert summary(view) == ("gpu-a GPU 1, gpu-a GPU 2, gpu-a GPU 3 and 1 more down, gpu-a GPU 0 hot, 1 of 5 GPUs free")
    assert summary(offline(a_gpu(0))) == "gpu-a offline, 0 of 1 GPUs free"
    assert summary(view.blind("the hub is gone", 1.0)) == "nothing is known now: the hub is gone"
    assert (summary(View("lab")), summary(View("lab", 1.0))) == ("asking the machines", "there are no machines")
