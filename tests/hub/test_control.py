"""The control webhook, against a real HTTP server that fails in every way."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gpu_exporter.history import Journal
from gpu_exporter.hub.control import Controller, Delivery
from gpu_exporter.hub.fetching import access
from gpu_exporter.hub.results import Analysis, Result
from gpu_exporter.hub.settings import BasicAuth, Control, HttpConfig
from gpu_exporter.model import Owner
from history_story import Machine, record
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
    config: Control,
    *rounds: Analysis,
    clock: Clock | None = None,
    between: float = 0.0,
    journal: Journal | None = None,
) -> tuple[list[list[Delivery]], list[float]]:
    """What becomes of each round, and how long it waited between tries."""
    waited: list[float] = []
    clock = clock or Clock()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def go() -> list[list[Delivery]]:
        controller = Controller(
            config, access(config.http_config, scheme="http", timeout=5, beside=None), clock=clock, sleep=sleep,
            host_of=lambda node: f"{node}.example.org", journal=journal,
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


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    record(tmp_path / "history.db", Machine(), 1)
    return Journal(tmp_path / "history.db")


def test_a_cooldown_outlives_the_hub(serve: Callable[[Any], str], journal: Journal) -> None:
    service, clock = Service(), Clock()
    config = Control(url=serve(service), dry_run=False, cooldown=3600)
    tell(config, analysis(result(0), result(1, POD)), clock=clock, between=1800, journal=journal)
    ((again,),) = tell(config, analysis(result(0), result(2)), clock=clock, between=1801, journal=journal)[0]
    assert again.payload["gpu"] == "GPU-2", "the first was told half an hour ago, by the hub before"
    ((over,),) = tell(config, analysis(result(0)), clock=clock, journal=journal)[0]
    assert over.payload["gpu"] == "GPU-0"
    assert [body["gpu"] for _, body in service.got] == ["GPU-0", "GPU-1", "GPU-2", "GPU-0"]


def test_the_log_outlives_the_hub(serve: Callable[[Any], str], journal: Journal) -> None:
    config = Control(url=serve(Service(422)), dry_run=False)
    tell(config, analysis(result(0, POD)), journal=journal)
    (kept,) = Controller(config, access(config.http_config, scheme="http", timeout=5, beside=None), journal=journal).log
    assert (kept.outcome, kept.tries, kept.message, kept.payload["pod"]) == ("refused", 1, "answered 422", "train-0")


def test_what_failed_keeps_its_key_over_restarts_and_periods(serve: Callable[[Any], str], journal: Journal) -> None:
    """The service may have taken it all the same: it must know it again, also where another period has begun."""
    service, clock = Service(503, 503, 200), Clock()
    clock.now = 3600 * 300 - 1.0
    config = Control(url=serve(service), dry_run=False, cooldown=3600, retries=0)
    for outcome in ("failed", "failed", "delivered"):
        ((made,),) = tell(config, analysis(result()), clock=clock, between=900, journal=journal)[0]
        assert made.outcome == outcome
    assert len({headers["idempotency-key"] for headers, _ in service.got}) == 1


def test_a_dry_run_keeps_nothing_from_being_sent(serve: Callable[[Any], str], journal: Journal) -> None:
    service = Service()
    url = serve(service)
    tell(Control(url=url), analysis(result()), journal=journal)
    ((made,),) = tell(Control(url=url, dry_run=False), analysis(result()), journal=journal)[0]
    assert (made.outcome, len(service.got)) == ("delivered", 1)


def test_a_service_that_is_down_is_not_asked_for_every_gpu() -> None:
    config = Control(url=f"http://127.0.0.1:{nobody()}/", dry_run=False, retries=0)
    ((made,), _) = tell(config, analysis(*map(result, range(50))))
    assert [one.outcome for one in made] == ["failed"] * 3


def test_two_who_ask_at_once_tell_once(serve: Callable[[Any], str]) -> None:
    service = Service()
    config = Control(url=serve(service), dry_run=False)

    async def go() -> list[list[Delivery]]:
        controller = Controller(config, access(config.http_config, scheme="http", timeout=5, beside=None))
        made = await asyncio.gather(controller.tell(analysis(result())), controller.tell(analysis(result())))
        await controller.close()
        return [*made]

    assert sorted(map(len, asyncio.run(go()))) == [0, 1]
    assert len(service.got) == 1


def test_a_journal_whose_disk_fails_is_told_and_the_service_all_the_same(
    serve: Callable[[Any], str], journal: Journal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    for file in tmp_path.glob("history.db*"):
        file.unlink()
    ((made,),) = tell(Control(url=serve(service), dry_run=False), analysis(result()), journal=journal)[0]
    assert (made.outcome, len(service.got)) == ("delivered", 1)
    assert "what was told is not written down: " in caplog.text


class Ill:
    """A service that is ill in one way, and well from the second request on."""

    def __init__(self, illness: Callable[[socket.socket], object]) -> None:
        self.illness = illness
        self.asked = 0

    def __call__(self, connection: socket.socket, _head: bytes) -> None:
        self.asked += 1
        if self.asked == 1:
            self.illness(connection)
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 2",
        b"HTTP/1.1 999999 What\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01\0\2\2F",
    ],
)
def test_a_service_that_answers_nonsense_is_tried_again(serve: Callable[[Any], str], said: bytes) -> None:
    service = Ill(lambda connection: connection.sendall(said))
    ((made,),) = tell(Control(url=serve(service), dry_run=False, retries=2), analysis(result()))[0]
    assert made.outcome == "delivered"


def test_passwords(serve: Callable[[Any], str]) -> None:
    service = Service()
    config = Control(
        url=serve(service),
        dry_run=False,
        http_config=HttpConfig(basic_auth=BasicAuth("hub", None, "secret")),
    )
    tell(config, analysis(result()))
    assert service.got[0][0]["authorization"] == "Basic aHViOnNlY3JldA=="
