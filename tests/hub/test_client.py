"""The client that terminal and window share: views of exporters, of a hub, of this machine."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tools.lab.hub import Hub as RunningHub
from tools.lab.hub import write_nodes
from tools.lab.wait import patience

from gpu_exporter.config import ConfigError
from gpu_exporter.hub.client import told
from gpu_exporter.hub.client.client import Client
from gpu_exporter.hub.client.origins import Exporters, Hub, Machines, Origin
from gpu_exporter.hub.client.trails import Trails
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.fetching import access
from gpu_exporter.hub.nodes import Node, Nodes, load
from gpu_exporter.hub.settings import HttpConfig
from machines import Told, answer, anything, exporter, nobody
from snapshots import reading
from views import REFUSED, Played, Story, free, gpu, lost

ACCESS = access(HttpConfig(), scheme="http", timeout=3.0, beside=None)


@contextmanager
def looking(origin: Origin, **rest: Any) -> Iterator[Client]:
    client = Client(origin, **rest)
    client.start()
    try:
        yield client
    finally:
        client.close()
        assert not any(thread.name == "client" for thread in threading.enumerate())


def seen(client: Client, wanted: Callable[[View], bool]) -> View:
    view = client.wait(wanted, patience())
    assert wanted(view), view
    return view


def exporters(*ports: int) -> Exporters:
    nodes = Nodes(tuple(Node(f"gpu-{number}", "127.0.0.1", port) for number, port in enumerate(ports)))
    return Exporters("machines", Machines(nodes, ACCESS), interval=0.2)


# --- views ------------------------------------------------------------------------------------------------------------


def test_a_view_that_is_blind_keeps_who_is_there_and_nothing_else() -> None:
    view = Story("a", "b").look({"a": [gpu(0), free(1)], "b": REFUSED})
    blind = view.blind("the hub is gone", 2e9)
    assert (blind.taken, blind.trouble, blind.complete) == (2e9, "the hub is gone", True)
    a, b = blind.machines
    assert (a.status, a.message, a.since) == ("offline", "the hub is gone", view.machines[0].seen)
    assert b is view.machines[1], "it was offline before, for a reason of its own"
    assert [(gpu.index, gpu.uuid, gpu.state, gpu.utilization, gpu.holders) for gpu in a.gpus] == [
        (0, "GPU-0", "unknown", None, None), (1, "GPU-1", "unknown", None, None)
    ]  # fmt: skip
    assert (a.processes, a.exporter) == ((), None)


def test_complete_and_undecided() -> None:
    story = Story("a", "b")
    assert not story.view().complete
    assert not story.look({"a": [gpu(0)]}).complete
    assert story.look({"b": REFUSED}).complete
    assert not story.view().undecided
    assert story.look({"a": [gpu(0, "unknown")]}).undecided
    assert not View("x").complete


# --- trails -----------------------------------------------------------------------------------------------------------


def test_trails_are_of_the_last_hour_and_of_gpus_that_are_there() -> None:
    story, trails = Story("a"), Trails(span=60.0)
    for _ in range(30):
        view = story.look({"a": [gpu(0), free(1)]})
        trails.add(view)
    first, second = view.machines[0].gpus
    ages = [view.taken - point.at for point in trails.of(first)]
    assert ages == sorted(ages, reverse=True)
    assert (ages[0], ages[-1], len(ages)) == (60.0, 0.0, 13)
    assert (trails.of(first)[-1].utilization, trails.of(first)[-1].memory) == (0.9, 0.5)
    trails.add(story.look({"a": [gpu(0)]}))
    assert trails.of(second) == ()


def test_a_gap_is_a_gap_and_a_clock_that_is_set_back_leaves_no_future() -> None:
    story, trails = Story("a"), Trails()
    trails.add(story.look({"a": [gpu(0)]}))
    trails.add(story.look({"a": [lost(0)]}))
    view = story.look({"a": [gpu(0)]})
    trails.add(view)
    assert [point.utilization for point in trails.of(view.machines[0].gpus[0])] == [0.9, None, 0.9]
    view = story.look({"a": [gpu(0)]}, after=-1000.0)
    trails.add(view)
    assert [point.at for point in trails.of(view.machines[0].gpus[0])] == [view.taken]


# --- the client itself ------------------------------------------------------------------------------------------------


def test_waiting_ends_with_what_was_wanted_the_timeout_or_the_end() -> None:
    origin = Played()
    with looking(origin) as client:
        assert client.wait(lambda _: False, 0.0).taken == 0.0
        view = Story("a").look({"a": [gpu(0)]})
        origin.tell(view)
        assert seen(client, lambda now: now.taken > 0) is view
        assert client.latest() is view
        waiting = threading.Thread(target=client.wait, args=(lambda _: False, None))
        waiting.start()
    waiting.join(patience())
    assert not waiting.is_alive()


def test_settled_waits_for_the_second_reading_of_what_is_undecided() -> None:
    story = Story("a", "b")
    first = story.look({"a": [gpu(0, "unknown"), free(1)], "b": REFUSED})
    second = story.look({"a": [gpu(0, "unknown"), gpu(1)]})
    origin = Played(first)
    with looking(origin) as client:
        seen(client, lambda view: view is first)
        assert client.settled(0.05) is first, "the newest, where no second comes"
        threading.Timer(0.2, origin.tell, [second]).start()
        assert client.settled(patience()) is second
    with looking(Played(story.look({"a": [gpu(0)]}))) as client:
        assert client.settled(patience()).taken > 0


def test_a_bug_is_told_not_hidden() -> None:
    class Broken(Played):
        async def follow(self, publish: Callable[[View], None]) -> None:
            publish(Story("a").look({"a": [gpu(0)]}))
            raise ValueError("oh")

    with looking(Broken()) as client:
        view = seen(client, lambda view: bool(view.trouble))
        assert view.trouble == "a bug in gpu-exporter: ValueError"
        assert view.machines[0].status == "offline"


# --- exporters --------------------------------------------------------------------------------------------------------


def test_those_that_answer_do_not_wait_for_those_that_hang() -> None:
    with exporter(Told(reading(0))) as server, anything(lambda *_: None) as hung, looking(
        exporters(server.port, hung, nobody())
    ) as client:  # fmt: skip
        view = seen(client, lambda view: len(view) == 3 and view.machines[2].status == "offline")
        assert view.machines[0].online
        view = seen(client, lambda view: view.complete)
        assert [state.reason for state in view] == ["", "timeout", "refused"]


def test_a_changed_list_is_taken_and_a_bad_one_is_told(tmp_path: Path) -> None:
    with exporter(Told(reading(0))) as one, exporter(Told(reading(1), reading(2))) as two:
        file = write_nodes(tmp_path / "nodes.json", {"a": one.port})

        def read() -> Machines:
            return Machines(load(file), ACCESS)

        origin = Exporters("nodes.json", read(), interval=0.2, read=read, files=(file,))
        with looking(origin) as client:
            seen(client, lambda view: [state.node.name for state in view] == ["a"] and view.complete)
            write_nodes(file, {"b": two.port, "a": one.port})
            view = seen(client, lambda view: len(view) == 2 and view.complete)
            assert [gpu.node for gpu in view.gpus()] == ["b", "b", "a"]
            file.write_text("[{}]")
            view = seen(client, lambda view: any("targets" in note for note in view.notes))
            assert len(view) == 2, "the last good list is kept"
            with pytest.raises(ConfigError):
                read()


# --- a hub ------------------------------------------------------------------------------------------------------------


def hub(port: int, prefix: str = "") -> Hub:
    return Hub("the hub", Node("hub", "127.0.0.1", port), ACCESS, interval=0.2, prefix=prefix)


def test_a_hub_that_dies_and_comes_back(tmp_path: Path) -> None:
    with exporter(Told(reading(0, {}, state="idle_free", holds=()))) as server:
        nodes = write_nodes(tmp_path / "nodes.json", {"a": server.port, "b": nobody()}, rack="R12")
        with RunningHub(tmp_path, nodes) as running:
            port = running.port
            running.wait_states(a="online", b="offline")
            client = Client(hub(port))
            client.start()
            try:
                view = seen(client, lambda view: len(view) == 2)
                assert [(state.node.name, state.status) for state in view] == [("a", "online"), ("b", "offline")]
                assert view.machines[0].node.labels == {"rack": "R12"}
                assert [(gpu.index, gpu.state) for gpu in view.gpus()] == [(0, "free")]
                running.stop()
                view = seen(client, lambda view: bool(view.trouble))
                assert view.trouble.startswith("the hub refused the connection")
                gone = view.machines[0]
                assert (gone.status, [gpu.state for gpu in gone.gpus]) == ("offline", ["unknown"])
                with RunningHub(tmp_path, nodes, f"--web.listen-address=127.0.0.1:{port}"):
                    view = seen(client, lambda view: not view.trouble and view.machines[0].online)
                    assert [gpu.state for gpu in view.gpus()] == ["free"]
            finally:
                client.close()


@pytest.mark.parametrize(
    ("body", "trouble"),
    [
        (b"hello", "the hub answered something that no hub would: "),
        (b'{"nodes": 3}', "the hub answered something that no hub would: "),
        (b'{"nodes": [{"name": "a", "state": "dancing"}]}', "the hub answered something that no hub would: "),
        (b"[" * 100_000, "the hub answered something that no hub would"),
    ],
)
def test_something_that_is_no_hub(body: bytes, trouble: str) -> None:
    with anything(answer(body)) as port, looking(hub(port)) as client:
        view = seen(client, lambda view: bool(view.trouble))
        assert view.trouble.startswith(trouble)
        assert len(view) == 0


def test_what_a_hub_tells_is_believed_as_far_as_it_can_be_true() -> None:
    nodes = [
        {"name": "a\x1b[2J", "state": "online", "address": "[::1]:9435", "message": "no driver"},
        {"name": "b", "state": "offline", "message": "refused"},
    ]
    gpus = [
        {
            "node": "a\x1b[2J", "gpu": 0, "state": "held", "utilization_ratio": 7.0,
            "memory_used_bytes": 2, "memory_total_bytes": 1,
            "temperature_celsius": -1, "power_watts": 1e9, "mig_mode_enabled": True,
            "holders": [{"owner": "eve\n", "memory_used_bytes": -5}],
        },
        {"node": "stranger", "gpu": 0, "state": "free"},
    ]  # fmt: skip
    processes = [{"node": "b", "gpu": 0, "pid": "1"}]
    parts = ({"nodes": nodes}, {"gpus": gpus}, {"processes": processes})
    a, b = told.machines(*(json.dumps(part).encode() for part in parts))
    assert (a.node.name, a.node.host, a.node.port) == ("a\N{REPLACEMENT CHARACTER}[2J", "::1", 9435)
    assert (a.trouble, b.message, b.processes) == ("no driver", "refused", ())
    (gpu,) = a.gpus
    assert (gpu.utilization, gpu.memory_used, gpu.temperature, gpu.power, gpu.mig) == (None, None, None, None, True)
    assert gpu.holders is not None
    assert (gpu.holders[0].name, gpu.holders[0].memory) == ("eve\N{REPLACEMENT CHARACTER}", None)


def test_curves_are_a_hub_s() -> None:
    view = Story("a").look({"a": [gpu(0)]})
    (one,) = view.gpus()
    with looking(Played(view)) as client:
        assert client.curve(one, "utilization", start=0, end=1) is None
    body = {
        "nodes": [],
        "gpus": [],
        "processes": [],
        "start_timestamp_seconds": 60,
        "step_seconds": 5,
        "means": [1, None],
    }
    with anything(answer(body)) as port, looking(hub(port)) as client:
        seen(client, lambda view: view.taken > 0)
        asked = client.curve(one, "utilization", start=0, end=1)
        assert asked is not None
        curve = asked.result(patience())
        assert (curve.start, curve.step, curve.means) == (60.0, 5.0, (1.0, None))


def test_following_ends_when_it_is_told_to() -> None:
    async def go() -> None:
        task = asyncio.create_task(exporters(nobody()).follow(lambda _: None))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=patience())
        assert task.cancelled()

    asyncio.run(go())
