"""``gpu-exporter test-mail``: a test alert through the real Alertmanager, and where it went."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import yaml

from gpu_exporter import __version__
from gpu_exporter.config.parsers import http_url, shown

NAME: Final = "GPUTestMail"
_TIMEOUT: Final = 10.0  # seconds, of one request
_LOOK: Final = 0.5  # seconds between two looks at what was sent
_LASTS: Final = 600.0  # seconds after which Alertmanager forgets the alert, should nobody be there to end it
# A mail server that is away is tried again and again; after so many tries a person wants to know.
_TRIES: Final = 3
# Tries, counted when they are over: alertmanager_notifications_total counts one that is still under way.
_SENT: Final = "alertmanager_notification_requests_total"
_FAILED: Final = "alertmanager_notification_requests_failed_total"
_SAMPLE: Final = re.compile(r'(\w+)\{[^}]*integration="(\w+)"[^}]*\} (\S+)')
# As receivers are written, and as the counters call them.
_KINDS: Final = {"wechat_configs": "wechat", "webhook_configs": "webhook", "msteamsv2_configs": "msteamsv2"}


class RehearsalError(Exception):
    """There was no rehearsal; the message is one line for the person who asked."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a receiver: the kind as Alertmanager counts it, and words for a person."""

    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where an alert goes: the receivers' names, their targets, and why it is not told, if that is so.

    ``hours`` are the time intervals of routes to these receivers; whether they hold it back, no API tells.
    """

    receivers: tuple[str, ...]
    targets: tuple[Target, ...]
    muted: str
    hours: tuple[str, ...] = ()


class Alertmanager:
    """The API of one. Every failure is a RehearsalError."""

    def __init__(self, url: str) -> None:
        self.url = _base(url)
        # None leads back to this machine; else those of the environment.
        local = (urllib.parse.urlsplit(self.url).hostname or "") in {"localhost", "127.0.0.1", "::1"}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({} if local else None))
        status = self._json("/api/v2/status")
        try:
            self.version = str(status["versionInfo"]["version"])
            tree = yaml.safe_load(status["config"]["original"])
            self._receivers = {str(one["name"]): one for one in tree["receivers"]}
            self._smarthost = str((tree.get("global") or {}).get("smtp_smarthost", ""))
            self._hours = dict(_hours(tree["route"]))
        except (KeyError, TypeError, AttributeError, yaml.YAMLError):
            self._fail("answered JSON that is not Alertmanager's; is it a Prometheus, or a Grafana?")

    def tell(self, labels: Mapping[str, str], annotations: Mapping[str, str], *, begins: float, ends: float) -> None:
        """Let the alert stand from when to when, unix seconds. Where no begin is told, Alertmanager takes the end."""
        begin, end = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)) for moment in (begins, ends))
        alert = {"labels": dict(labels), "annotations": dict(annotations), "startsAt": begin, "endsAt": end}
        self._ask("/api/v2/alerts", json.dumps([alert]).encode())

    def route(self, labels: Mapping[str, str]) -> Route:
        """Where the alert goes that was told. Raises RehearsalError where Alertmanager does not have it."""
        query = urllib.parse.urlencode([("filter", f"{name}={json.dumps(value)}") for name, value in labels.items()])
        found = self._json(f"/api/v2/alerts?{query}")
        try:
            (alert,) = found
            names = tuple(str(receiver["name"]) for receiver in alert["receivers"])
            status = alert["status"]
            muted = ""
            if status["silencedBy"]:
                muted = f"silenced by {', '.join(status['silencedBy'])}: {self.url}/#/silences"
            elif status["inhibitedBy"]:
                muted = "inhibited: another alert that stands says more (inhibit_rules)"
        except (KeyError, TypeError, ValueError):
            self._fail("took the alert and does not have it; is it one of several behind one address?")
        targets = tuple(target for name in names for target in self._targets(name))
        hours = dict.fromkeys(each for name in names for each in self._hours.get(name, ()))
        return Route(names, targets, muted, tuple(hours))

    def _targets(self, receiver: str) -> Iterable[Target]:
        for key, entries in self._receivers.get(receiver, {}).items():
            if not key.endswith("_configs"):
                continue
            kind = _KINDS.get(key, key.removesuffix("_configs"))
            for entry in entries or ():
                yield Target(kind, self._words(kind, entry))

    def _words(self, kind: str, entry: Mapping[str, Any]) -> str:
        if kind != "email":
            return kind
        to = str(entry.get("to", ""))
        address = "an address that a template makes of the alert" if "{{" in to else to
        return f"mail to {address} by {entry.get('smarthost') or self._smarthost or 'no mail server'}"

    def counts(self) -> dict[tuple[str, str], float]:
        """Counters of what was sent, by name and kind."""
        found: dict[tuple[str, str], float] = {}
        for name, kind, value in _SAMPLE.findall(self._ask("/metrics").decode("utf-8", "replace")):
            if name in {_SENT, _FAILED}:
                found[name, kind] = found.get((name, kind), 0.0) + float(value)
        if not found:
            self._fail(f"/metrics has no {_SENT}")
        return found

    def _json(self, path: str) -> Any:
        text = self._ask(path)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            self._fail("answered something that is not JSON: it is no Alertmanager, or a login page stands before it")

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"User-Agent": f"gpu-exporter/{__version__}", "Accept": "*/*"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data=body, headers=headers)  # noqa: S310 - _base lets http(s) pass
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(4096).decode("utf-8", "replace").strip().splitlines()
            if error.code == 404:
                self._fail("404: has no Alertmanager here; write the URL up to what stands before /api/v2")
            if error.code in {401, 403}:
                self._fail(f"{error.code}: wants a login; run this on its own machine, past what asks for one")
            self._fail(f"{error.code} {error.reason}" + (f": {shown(said[0])}" if said else ""))
        except urllib.error.URLError as error:
            self._fail(f"cannot be reached: {shown(str(getattr(error.reason, 'strerror', None) or error.reason))}")
        except (OSError, http.client.HTTPException) as error:
            self._fail(f"cannot be reached: {shown(str(error) or type(error).__name__)}")

    def _fail(self, what: str) -> NoReturn:
        raise RehearsalError(f"{self.url}: {what}") from None


def rehearse(url: str, *, labels: Mapping[str, str], wait: float, host: str, say: Callable[[str], None]) -> bool:
    """Let a test alert fire and say where it went; whether all of it was sent within ``wait`` seconds.

    Raises RehearsalError where nothing could be tried.
    """
    alertmanager = Alertmanager(url)
    # A machine of its own at every run: no mail of a real one is held up by it, nor it by theirs.
    moment = time.strftime("%H:%M:%S", time.localtime())
    given = {
        "alertname": NAME,
        "severity": "critical",
        "instance": f"test-mail-{moment.replace(':', '')}:9435",
        "alias": "test-mail",
        "bundle": "gpu-exporter",
        **labels,
    }
    annotations = {
        "summary": f"This is a test, sent at {moment} from {host}",
        "description": "Nothing is wrong with any GPU. Somebody tries by gpu-exporter test-mail whether mails arrive.",
    }
    before = alertmanager.counts()
    began = time.time() - 2  # whole seconds are told: so that it begins before it ends in any case
    alertmanager.tell(given, annotations, begins=began, ends=time.time() + _LASTS)
    try:
        say(f"alert: {given['alertname']}, severity {given['severity']}, told to {alertmanager.url} "
            f"(Alertmanager {alertmanager.version})")  # fmt: skip
        route = alertmanager.route(given)
        say(f"route: {', '.join(route.receivers)}")
        for target in route.targets:
            say(f"  {target.words}")
        if route.muted:
            say(f"not sent: {route.muted}")
            return False
        if not route.targets:
            say("not sent: the receiver has no address")
            return False
        return _watched(alertmanager, route, before, wait, say)
    finally:
        alertmanager.tell(given, annotations, begins=began, ends=time.time() - 1)


def _watched(
    alertmanager: Alertmanager,
    route: Route,
    before: Mapping[tuple[str, str], float],
    wait: float,
    say: Callable[[str], None],
) -> bool:
    """Wait until each kind was sent, and say what became of it.

    Alertmanager counts by kind, not by alert: what it sends of other alerts meanwhile is counted with ours.
    """
    began = time.monotonic()
    kinds = [target.kind for target in route.targets]
    pending = set(kinds)
    while True:
        now = alertmanager.counts()
        grown = {key: value - before.get(key, 0.0) for key, value in now.items()}
        passed = time.monotonic() - began
        for kind in sorted(pending):
            sent = grown.get((_SENT, kind), 0.0) - grown.get((_FAILED, kind), 0.0)
            if sent >= kinds.count(kind) and not route.hours:
                say(f"sent: {kind}, after {passed:.0f} s; when the test is over, a message may say so")
                pending.discard(kind)
        tries = {kind: grown.get((_FAILED, kind), 0.0) for kind in pending}
        if not pending:
            return True
        if passed >= wait or all(count >= _TRIES for count in tries.values()):
            if route.hours and not any(tries.values()):
                say(f"not known to be sent: outside of its hours ({', '.join(route.hours)}) it waits for them")
                return False
            for kind, count in sorted(tries.items()):
                say(
                    f"not sent: {kind}: {count:.0f} tries failed; Alertmanager's log says why"
                    if count
                    else f"not sent: {kind}: nothing within {wait:g} s; its route waits for longer (group_wait)"
                )
            return False
        time.sleep(min(_LOOK, max(wait - passed, 0.0)))


def _hours(route: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Receivers with the time intervals of a route to them, from the route on downwards."""
    if named := [*(route.get("active_time_intervals") or ()), *(route.get("mute_time_intervals") or ())]:
        yield str(route.get("receiver")), [str(name) for name in named]
    for below in route.get("routes") or ():
        yield from _hours(below)


def _base(url: str) -> str:
    parts = http_url(url)
    if parts is None:
        raise RehearsalError(f"--alertmanager.url: '{shown(url)}' is not an http(s) URL; write http://localhost:9093")
    if "@" in parts.netloc:
        raise RehearsalError("--alertmanager.url: a login in the URL is read by everybody who sees the process")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/api/v2')}"
