"""What fires: asked of an Alertmanager, shown beside the machines. The hub itself alerts nobody."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from gpu_exporter.hub.document import shown
from gpu_exporter.hub.state import NodeState

log = logging.getLogger(__name__)

_EVERY: Final = 15.0  # seconds
_TIMEOUT: Final = 5.0
_LARGEST: Final = 8 * 1024**2
_MOST: Final = 2000  # alerts that are kept
_ORDER: Final = {"critical": 0, "warning": 1, "info": 2}
# Of these labels a silence for an alert is made; the others tell which GPU it is better than it has to.
_SILENCED_BY: Final = ("alertname", "alias", "instance", "gpu")


@dataclass(frozen=True, slots=True)
class Alert:
    """One that fires, and is neither silenced nor inhibited."""

    name: str
    severity: str
    summary: str
    alias: str
    instance: str
    gpu: str
    silence: str

    def is_about(self, state: NodeState) -> bool:
        """Whether it is about that machine."""
        node = state.node
        return (bool(self.alias) and self.alias == (node.alias or node.name)) or self.instance == node.address


class Alerts:
    """Keeps what fires at the moment, as the Alertmanager at ``url`` tells it; ``trouble`` is why it is not known.

    Browsers reach it at ``links``, or not at all where that is empty.
    """

    def __init__(self, url: str, *, links: str) -> None:
        self.url = url
        self._links = links
        self.trouble = ""
        self._firing: tuple[Alert, ...] = ()

    def of(self, state: NodeState) -> list[Alert]:
        """What fires about a machine, the worst first."""
        return [alert for alert in self._firing if alert.is_about(state)]

    async def keep_asking(self) -> None:
        """Ask for as long as the hub runs."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session:
            while True:
                await self._ask(session)
                await asyncio.sleep(_EVERY)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        url = f"{self.url}/api/v2/alerts?active=true&silenced=false&inhibited=false"
        try:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
            async with session.get(url, allow_redirects=False, timeout=timeout) as answer:
                if answer.status != 200:
                    raise ValueError(f"answered {answer.status}")  # noqa: TRY301 - one way out
                body = await answer.content.read(_LARGEST + 1)
                while len(body) <= _LARGEST and (more := await answer.content.readany()):
                    body += more
                if len(body) > _LARGEST:
                    raise ValueError("answered too much")  # noqa: TRY301
            firing = sorted(self._read(json.loads(body)), key=lambda alert: _ORDER.get(alert.severity, 3))
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError, RecursionError) as error:
            why = (
                shown(str(error) or "did not answer") if isinstance(error, (ValueError, OSError)) else "did not answer"
            )
            if not self.trouble:
                log.warning("the Alertmanager cannot be asked", extra={"why": why})
            # What fired before may be over: it is not shown as now.
            self.trouble, self._firing = why, ()
        else:
            self.trouble, self._firing = "", tuple(firing[:_MOST])

    def _read(self, told: Any) -> Iterable[Alert]:
        if not isinstance(told, list):
            raise ValueError("answered something that is no list of alerts")  # noqa: TRY004 - one way out
        for entry in told:
            labels = entry.get("labels") if isinstance(entry, dict) else None
            if not isinstance(labels, dict):
                continue
            texts = {name: text for name, text in labels.items() if isinstance(text, str)}
            notes = entry.get("annotations")
            summary = notes.get("summary", "") if isinstance(notes, dict) else ""
            yield Alert(
                name=shown(texts.get("alertname", "")),
                severity=shown(texts.get("severity", "")),
                summary=shown(summary) if isinstance(summary, str) else "",
                alias=texts.get("alias", ""),
                instance=texts.get("instance", ""),
                gpu=shown(texts.get("gpu", "")),
                silence=self._silence(texts),
            )

    def _silence(self, labels: dict[str, str]) -> str:
        """Where Alertmanager's own page makes a silence for it; empty where nobody reaches that."""
        if not self._links:
            return ""
        matchers = (
            f'{name}="{labels[name]}"'
            for name in _SILENCED_BY
            if labels.get(name) and '"' not in labels[name] and "\\" not in labels[name]
        )
        return f"{self._links}/#/silences/new?filter={quote('{' + ','.join(matchers) + '}', safe='')}"


def alert_document(alert: Alert) -> dict[str, str]:
    """One alert, as the API tells it."""
    told = {
        "name": alert.name,
        "severity": alert.severity,
        "summary": alert.summary,
        "gpu": alert.gpu,
        "silence_url": alert.silence,
    }
    return {name: text for name, text in told.items() if text}
