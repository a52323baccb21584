"""The control webhook, against a real HTTP server that fails in every way."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gpu_exporter.hub.control import Controller, Delivery
from gpu_exporter.hub.fetching import access
from gpu_exporter.hub.results import Analysis, Result
from gpu_exporter.hub.settings import BasicAuth, Control, HttpConfig
from gpu_exporter.model import Owner
from machines import anything, nobody

BOB = Owner("user", "bob", "")
POD = Owner("pod", "train-0", "research")


def result(index: int = 0, owner: Owner = BOB, grade: Any = "idle", score: float | None = 0.01) -> Result:
    return Result("gpu-a", index, f"GPU-{index}", "NVIDIA H100", owner, grade, score, 10, 0, 10, 0, 0, 0, 1.0)


def analysis(*results: Result) -> Analysis:
    return Analysis(0, 0, 1, 1, "test", results, ())


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Service:
    """Answers requests with these statuses, in turn; None closes without an answer. ``got`` are requests."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[dict[str, str], dict[str, Any]]] = []

    def __call__(self, connection: socket.socket, head: bytes) -> None:
        text, _, body = head.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in text.decode().split("\r\n")[1:])
        headers = {name.lower(): value for name, value in headers.items()}
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(65536)
        self.got.append((headers, json.loads(body)))
        status = self.statuses.pop(0) if self.statuses else 200
        if status is None:
            connection.shutdown(socket.SHUT_RDWR)
            return
        connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    with ExitStack() as stack:
        yield lambda service: f"http://127.0.0.1:{stack.enter_context(anything(service))}/low"


def tell(
    config: Control, *rounds: Analysis, clock: Clock | None = None, between: float = 0.0
) -> tuple[list[list[Delivery]], list[float]]:
    """What becomes of each round, and how long it waited between tries."""
    waited: list[float] = []
    clock = clock or Clock()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def go() -> list[list[Delivery]]:
        controller = Controller(
            config, access(config.http_config, scheme="http", timeout=5, beside=None), clock=clock, sleep=sleep,
            host_of=lambda node: f"{node}.example.org",
        )  # fmt: skip
        made = []
        for one in rounds:
            made.append(await controller.tell(one))
            clock.now += between
        await controller.close()
        return made

    return asyncio.run(go()), waited


def test_a_low_gpu_is_told(serve: Callable[[Any], str]) -> None:
    service = Service(204)
    ((delivery,),), _ = tell(Control(url=serve(service), dry_run=False), analysis(result(3, POD)))
    assert (delivery.outcome, delivery.tries) == ("delivered", 1)
    ((headers, body),) = service.got
    assert body == {
        "gpu": "GPU-3", "gpu_index": 3, "model": "NVIDIA H100", "owner": "train-0", "owner_kind": "pod",
        "pod": "train-0", "namespace": "research", "node": "gpu-a", "host": "gpu-a.example.org", "score": 0.01,
        "status": "idle", "held_hours": 10, "idle_hours": 10, "timestamp": "1970-01-12T13:46:40Z",
    }  # fmt: skip
    assert headers["content-type"] == "application/json"
    assert headers["idempotency-key"] == delivery.key
    assert len(delivery.key) == 32


def test_only_what_is_low(serve: Callable[[Any], str]) -> None:
    service = Service()
    config = Control(url=serve(service), dry_run=False)
    rounds, _ = tell(
        config,
        analysis(
            *(result(index, grade=grade) for index, grade in enumerate(("idle", "low", "normal", "high", "unknown")))
        ),
    )
    assert [delivery.payload["status"] for delivery in rounds[0]] == ["idle", "low"]
    assert len(service.got) == 2


def test_nothing_is_sent_unless_asked_for(serve: Callable[[Any], str]) -> None:
    service = Service()
    url = serve(service)
    ((delivery,),), _ = tell(Control(url=url), analysis(result()))
    assert (delivery.outcome, delivery.tries, service.got) == ("dry_run", 0, [])
    assert tell(Control(), analysis(result())) == ([[]], [])


@pytest.mark.parametrize("statuses", [(503, 200), (None, None, 200), (429, 500, 200), (408, 425, 204)])
def test_what_fails_is_tried_again_with_the_same_key(
    serve: Callable[[Any], str], statuses: tuple[int | None, ...]
) -> None:
    service = Service(*statuses)
    ((delivery,),), waited = tell(Control(url=serve(service), dry_run=False, retries=3), analysis(result()))
    assert (delivery.outcome, delivery.tries) == ("delivered", len(statuses))
    assert waited == [2.0**n for n in range(len(statuses) - 1)]
    # aiohttp may repeat a request by itself where a kept connection was gone: with the same key.
    assert {headers["idempotency-key"] for headers, _ in service.got} == {delivery.key}


@pytest.mark.parametrize("status", [301, 400, 401, 404, 410, 422])
def test_what_is_refused_is_not_tried_again(serve: Callable[[Any], str], status: int) -> None:
    service = Service(status)
    ((delivery,),), waited = tell(Control(url=serve(service), dry_run=False, retries=3), analysis(result()))
    assert (delivery.outcome, delivery.tries, delivery.message, waited) == ("refused", 1, f"answered {status}", [])


def test_a_service_that_is_not_there() -> None:
    config = Control(url=f"http://127.0.0.1:{nobody()}/", dry_run=False, retries=2)
    rounds, waited = tell(config, analysis(result()), analysis(result()))
    assert [[(one.outcome, one.tries) for one in made] for made in rounds] == 2 * [[("failed", 3)]], "no cooldown"
    assert waited == 2 * [1.0, 2.0]
    assert rounds[0][0].key == rounds[1][0].key


def test_a_service_that_never_answers(serve: Callable[[Any], str]) -> None:
    config = Control(url=serve(lambda _connection, _head: None), dry_run=False, retries=0, timeout=0.2)
    ((delivery,),), _ = tell(config, analysis(result()))
    assert (delivery.outcome, delivery.message) == ("failed", "TimeoutError")


def test_a_hold_is_told_once_a_cooldown(serve: Callable[[Any], str]) -> None:
    service = Service()
    config = Control(url=serve(service), dry_run=False, cooldown=3600)
    rounds, _ = tell(config, *[analysis(result())] * 5, between=1800)
    assert [len(made) for made in rounds] == [1, 0, 1, 0, 1]
    keys = [headers["idempotency-key"] for headers, _ in service.got]
    assert len(set(keys)) == 3


def test_holds_have_cooldowns_of_their_own(serve: Callable[[Any], str]) -> None:
    service = Service()
    config = Control(url=serve(service), dry_run=False)
    rounds, _ = tell(config, analysis(result(0)), analysis(result(0), result(1), result(0, POD)))
    assert [len(made) for made in rounds] == [1, 2]


def test_a_clock_that_steps_back_silences_nobody_for_years(serve: Callable[[Any], str]) -> None:
    clock = Clock()
    config = Control(url=serve(Service()), dry_run=False)
    rounds, _ = tell(config, analysis(result()), analysis(result()), clock=clock, between=-10_000)
    assert [len(made) for made in rounds] == [1, 1]


def test_passwords(serve: Callable[[Any], str]) -> None:
    service = Service()
    config = Control(url=serve(service), dry_run=False, http_config=HttpConfig(basic_auth=BasicAuth("hub", "secret")))
    tell(config, analysis(result()))
    assert service.got[0][0]["authorization"] == "Basic aHViOnNlY3JldA=="
