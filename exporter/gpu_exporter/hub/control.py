"""The control webhook: GPUs that are held and hardly used are told to a service of yours, which decides what to do."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import aiohttp
import msgspec

from gpu_exporter.catalog.simulated import is_simulated
from gpu_exporter.history import DeliveryEntry, HistoryError, Journal
from gpu_exporter.hub.document import shown
from gpu_exporter.hub.fetching import Access
from gpu_exporter.hub.results import Analysis, Result
from gpu_exporter.hub.settings import Control
from gpu_exporter.hub.words import moment

log = logging.getLogger(__name__)

Outcome: TypeAlias = Literal["dry_run", "delivered", "refused", "failed"]
_LOGGED: Final = 500
_REMEMBERED: Final = 20_000  # holds whose cooldown is known
_FIRST_WAIT: Final = 1.0  # seconds before the second try; each later one waits twice as long
_LONGEST_WAIT: Final = 60.0
_GIVEN_UP: Final = 3  # deliveries in a row that fail, and the others of the round wait
_READ: Final = 4096  # bytes of an answer that are looked at
Key: TypeAlias = tuple[str, ...]


class _Told(NamedTuple):
    """The last that was told of a hold; of what keeps failing, when that began."""

    at: float
    outcome: Outcome
    name: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of telling about one hold."""

    at: float
    key: str
    payload: Mapping[str, Any]
    outcome: Outcome
    tries: int
    message: str = ""


class Controller:
    """Tells about each hold at most once a cooldown. A cooldown begins with a delivery that was taken, or a dry run.

    ``host_of`` tells a machine's own name; ``sleep`` is how it waits between tries. ``journal`` keeps over a
    restart what was told when; without one, or while its disk fails, that is kept in memory.
    """

    def __init__(
        self,
        config: Control,
        access: Access,
        *,
        host_of: Callable[[str], str] = str,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Any] = asyncio.sleep,
        journal: Journal | None = None,
    ) -> None:
        self.config = config
        self.access = access
        self.log: deque[Delivery] = deque(maxlen=_LOGGED)
        self._host_of = host_of
        self._clock = clock
        self._sleep = sleep
        self._journal = journal
        self._holds: dict[Key, _Told] = {}
        self._lock = asyncio.Lock()  # the schedule and a person may want the same at once
        self._session: aiohttp.ClientSession | None = None
        self._remember()

    async def tell(self, analysis: Analysis) -> list[Delivery]:
        """Tell about every low hold whose cooldown is over; what became of each."""
        if self.config.url is None:
            return []
        made: list[Delivery] = []
        async with self._lock:
            for result in analysis.low:
                key = _key(result)
                if self._is_quiet(key):
                    continue
                if [one.outcome for one in made[-_GIVEN_UP:]] == ["failed"] * _GIVEN_UP:
                    log.warning("the control service does not answer; the others wait for the next analysis")
                    break
                made.append(await self._tell(result, key))
        return made

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()

    async def _tell(self, result: Result, key: Key) -> Delivery:
        now = self._clock()
        payload = self._payload(result, now)
        name = self._name(key, now)
        if self.config.dry_run:
            delivery = Delivery(now, name, payload, "dry_run", 0)
        else:
            delivery = await self._deliver(payload, name, now)
        self._note(key, delivery)
        if self._journal is not None:
            await asyncio.to_thread(self._write, key, delivery)
        level = logging.INFO if delivery.outcome in {"dry_run", "delivered"} else logging.WARNING
        log.log(
            level,
            "a hardly used GPU",
            extra={
                "outcome": delivery.outcome, "node": result.node, "gpu": result.index,
                "owner": result.owner.name if result.owner else "", "status": result.grade,
                **({"why": delivery.message} if delivery.message else {}),
            },
        )  # fmt: skip
        return delivery

    def _is_quiet(self, key: Key) -> bool:
        """Whether it was told within the cooldown; a dry run says nothing about what is really sent."""
        before = self._holds.get(key)
        if before is None or before.outcome == "failed" or (before.outcome == "dry_run") != self.config.dry_run:
            return False
        # A clock that was set back begins a new cooldown rather than an endless one.
        return 0 <= self._clock() - before.at < self.config.cooldown

    def _name(self, key: Key, now: float) -> str:
        """The idempotency key: of a hold within a cooldown the same, however often it is sent, by however many hubs.

        What failed may have arrived all the same, and is sent again by the name that it had.
        """
        before = self._holds.get(key)
        if before is not None and before.outcome == "failed" and 0 <= now - before.at < self.config.cooldown:
            return before.name
        period = int(now // self.config.cooldown)
        return hashlib.blake2b("\n".join([*key, str(period)]).encode(), digest_size=16).hexdigest()

    def _note(self, key: Key, delivery: Delivery) -> None:
        before = self._holds.pop(key, None)
        while len(self._holds) >= _REMEMBERED:
            del self._holds[next(iter(self._holds))]
        again = delivery.outcome == "failed" and before is not None and before.name == delivery.key
        self._holds[key] = _Told(before.at if again and before else delivery.at, delivery.outcome, delivery.key)
        self.log.append(delivery)

    def _remember(self) -> None:
        """What was told before this hub began."""
        if self._journal is None:
            return
        try:
            entries = self._journal.deliveries()
        except HistoryError as error:
            log.warning("what was told before is not known: %s", error)
            return
        for entry in entries:
            try:
                key = tuple(msgspec.json.decode(entry.hold, type=list[str]))
                payload = msgspec.json.decode(entry.payload, type=dict[str, Any])
                outcome = msgspec.convert(entry.outcome, Outcome)
            except (msgspec.DecodeError, msgspec.ValidationError):
                continue  # written by somebody else
            self._note(key, Delivery(entry.time, entry.idempotency_key, payload, outcome, entry.tries, entry.message))

    def _write(self, key: Key, delivery: Delivery) -> None:
        assert self._journal is not None  # noqa: S101 - the one caller looked
        entry = DeliveryEntry(
            delivery.at, msgspec.json.encode(key).decode(), delivery.key, delivery.outcome, delivery.tries,
            delivery.message, msgspec.json.encode(delivery.payload).decode(),
        )  # fmt: skip
        try:
            self._journal.add_delivery(entry)
        except HistoryError as error:
            log.warning("what was told is not written down: %s", error)

    async def _deliver(self, payload: Mapping[str, Any], name: str, now: float) -> Delivery:
        """POST until it is taken or refused, or the tries are used up."""
        message = ""
        tries = 0
        for attempt in range(self.config.retries + 1):
            if attempt:
                await self._sleep(min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT))
            tries += 1
            try:
                status = await self._post(payload, name)
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                message = shown(str(error) or type(error).__name__)
                continue
            if 200 <= status < 300:
                return Delivery(now, name, payload, "delivered", tries)
            message = f"answered {status}"
            # What the service does not want it will not want the next time; 408, 425 and 429 say "later".
            if 300 <= status < 500 and status not in {408, 425, 429}:
                return Delivery(now, name, payload, "refused", tries, message)
        return Delivery(now, name, payload, "failed", tries, message)

    async def _post(self, payload: Mapping[str, Any], name: str) -> int:
        how = self.access
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        headers = {**how.headers, "Content-Type": "application/json", "Idempotency-Key": name}
        async with self._session.post(
            str(self.config.url),
            data=msgspec.json.encode(payload),
            headers=headers,
            ssl=how.context,
            server_hostname=how.server_name,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=self.config.timeout),
        ) as response:
            await response.content.read(_READ)
            if not response.content.at_eof():
                response.close()
            return response.status

    def _payload(self, result: Result, now: float) -> dict[str, Any]:
        owner = result.owner
        pod = owner is not None and owner.kind == "pod"
        return {
            "gpu": result.uuid or str(result.index),
            "gpu_index": result.index,
            "model": result.model,
            **({"simulated": True} if is_simulated(result.uuid) else {}),
            "owner": owner.name if owner is not None else None,
            "owner_kind": owner.kind if owner is not None else None,
            "pod": owner.name if owner is not None and pod else None,
            "namespace": (owner.namespace or None) if owner is not None else None,
            "node": result.node,
            "host": self._host_of(result.node),
            "score": None if result.score is None else round(result.score, 4),
            "status": result.grade,
            "held_hours": round(result.held_hours, 4),
            "idle_hours": round(result.idle_hours, 4),
            "timestamp": moment(now),
        }


def delivery_document(delivery: Delivery) -> dict[str, Any]:
    """One delivery, as the API tells it."""
    return {
        "timestamp_seconds": round(delivery.at, 3),
        "idempotency_key": delivery.key,
        "outcome": delivery.outcome,
        "tries": delivery.tries,
        **({"message": delivery.message} if delivery.message else {}),
        "payload": dict(delivery.payload),
    }


def _key(result: Result) -> Key:
    return (result.node, result.uuid or str(result.index), *(result.owner or ()))
