"""Asks every machine at every interval, each on its own: whoever hangs costs the others nothing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import Final

from gpu_exporter.hub.fetching import Fetched, Fetcher, FetchError
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.nodes import Node, Nodes

log = logging.getLogger(__name__)

_LATEST: Final = 0.2  # intervals within which the very first question goes out


class Poller:
    """Keeps a task a machine from ``replace`` to ``close``. ``interval`` may be changed at any time.

    ``heard`` is called with every answer, for the history; None is the same snapshot as before.
    """

    def __init__(
        self, fleet: Fleet, fetcher: Fetcher, *, heard: Callable[[str, Fetched | None], None] | None = None
    ) -> None:
        self._fleet = fleet
        self._fetcher = fetcher
        self._heard = heard
        self._tasks: dict[str, tuple[Node, asyncio.Task[None]]] = {}

    def replace(self, nodes: Nodes) -> None:
        """Ask these machines from now on; those that stay keep their beat and their connection."""
        wanted = {node.name: node for node in nodes.nodes}
        for name, (node, task) in list(self._tasks.items()):
            new = wanted.get(name)
            if new is None or (new.address, new.scheme) != (node.address, node.scheme):
                task.cancel()
                del self._tasks[name]
        self._fleet.replace(nodes)
        for name, node in wanted.items():
            if name not in self._tasks:
                self._tasks[name] = (node, asyncio.create_task(self._keep_asking(node), name=f"poll {name}"))

    async def close(self) -> None:
        """Stop asking."""
        tasks = [task for _, task in self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_asking(self, node: Node) -> None:
        loop = asyncio.get_running_loop()
        phase = _phase(node)
        # The first page should not wait for a whole interval; from then on the machines are spread over it.
        await asyncio.sleep(phase * _LATEST * self._fleet.interval)
        await self._ask(node)
        # Before Python 3.12 wait_for may swallow a cancellation that comes together with the answer.
        while self._is_wanted(node):
            interval = self._fleet.interval
            now = loop.time()
            due = (now // interval + phase) * interval
            await asyncio.sleep(due - now if due > now else due + interval - now)
            await self._ask(node)

    def _is_wanted(self, node: Node) -> bool:
        kept = self._tasks.get(node.name)
        return kept is not None and kept[1] is asyncio.current_task()

    async def _ask(self, node: Node) -> None:
        state = self._fleet.get(node.name)
        etag = state.fetched.etag if state is not None and state.fetched is not None else ""
        was_offline = state is not None and state.status == "offline"
        try:
            fetched = await self._fetcher.fetch(node, etag)
        except FetchError as error:
            self._fleet.failed(node.name, error)
            if state is not None and state.status == "offline" and not was_offline:
                log.warning(
                    "a machine is offline", extra={"node": node.name, "address": node.address, "why": str(error)}
                )
            return
        except Exception:  # one machine's answer must not end the asking
            log.exception("asking a machine failed: this is a bug in gpu-exporter", extra={"node": node.name})
            self._fleet.failed(node.name, FetchError("error", "could not be asked: see the hub's log"))
            return
        if self._heard is not None:
            self._heard(node.name, fetched)
        self._fleet.answered(node.name, fetched)
        if was_offline:
            log.info("a machine is back", extra={"node": node.name, "address": node.address})


def _phase(node: Node) -> float:
    """Where in the interval the machine is asked: its own place, and after a restart the same."""
    digest = hashlib.blake2b(f"{node.name} {node.address}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32
