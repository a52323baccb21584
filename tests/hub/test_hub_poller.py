"""The poller's tasks end when they should, whatever becomes of a cancellation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tools.lab.wait import patience

from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.nodes import Node, Nodes
from gpu_exporter.hub.poller import Poller


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


def test_it_ends_though_a_cancellation_was_lost() -> None:
    async def story(poller: Poller) -> None:
        pass

    play(story)


def test_a_machine_that_is_gone_from_the_list_is_not_asked_again() -> None:
    async def story(poller: Poller) -> None:
        poller.replace(Nodes((Node("a", "a", 1),)))
        await until(lambda: polling() == ["poll a"])

    play(story)
