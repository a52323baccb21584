"""The poller: it tells of every answer, and its tasks end when they should, whatever becomes of a cancellation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tools.lab.wait import patience

from gpu_exporter.hub.fetching import Fetched, Fetcher, access
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.names import Names
from gpu_exporter.hub.nodes import Node, Nodes
from gpu_exporter.hub.poller import Poller
from gpu_exporter.hub.settings import HttpConfig
from machines import Told, exporter


class Stubborn:
    """Its answer comes together with the cancellation, which is lost: asyncio.wait_for before Python 3.12."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def fetch(self, node: Node, _etag: str = "") -> None:
        self.asked.append(node.name)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return


def polling() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("poll ")]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until the condition is true."""
    deadline = time.monotonic() + patience()
    while not condition():
        assert time.monotonic() < deadline, polling()
        await asyncio.sleep(0.001)


def play(story: Any) -> None:
    fetcher: Any = Stubborn()

    async def go() -> None:
        fleet = Fleet(interval=0.01)
        poller = Poller(fleet, fetcher)
        poller.replace(Nodes((Node("a", "a", 1), Node("b", "b", 2))))
        await until(lambda: sorted(fetcher.asked) == ["a", "b"])
        await story(poller)
        await asyncio.wait_for(poller.close(), patience())
        assert polling() == []

    asyncio.run(go())


def test_the_same_answer_again_is_heard() -> None:
    """A real exporter whose snapshot stays the same: every 304 is an answer, to the fleet and to whoever listens."""
    heard: list[Fetched | None] = []

    async def go(port: int) -> None:
        fleet = Fleet(interval=0.05)
        fetcher = Fetcher(access(HttpConfig(), scheme="http", timeout=patience(), beside=None), Names(None))
        poller = Poller(fleet, fetcher, heard=lambda _name, fetched: heard.append(fetched))
        poller.replace(Nodes((Node("a", "127.0.0.1", port),)))
        await until(lambda: len(heard) >= 4)
        state = fleet.get("a")
        assert state is not None
        assert (state.status, fleet.polls["answered"] >= 3) == ("online", True)
        await poller.close()
        await fetcher.close()

    with exporter(Told()) as server:
        asyncio.run(go(server.port))
    first, *rest = heard
    assert isinstance(first, Fetched)
    assert set(rest) == {None}


def test_it_ends_though_a_cancellation_was_lost() -> None:
    async def story(poller: Poller) -> None:
        pass

    play(story)


def test_a_machine_that_is_gone_from_the_list_is_not_asked_again() -> None:
    async def story(poller: Poller) -> None:
        poller.replace(Nodes((Node("a", "a", 1),)))
        await until(lambda: polling() == ["poll a"])

    play(story)
