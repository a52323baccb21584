"""The WSGI application: /metrics, /livez, /readyz, the JSON of /api/v1, and a page for people."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Protocol

from gpu_exporter.catalog.owner_kinds import PROCESS_LABELS
from gpu_exporter.http.wsgi import PLAIN, Answer, StartResponse, pieces, status_answer
from gpu_exporter.model import Device, Host, Snapshot
from gpu_exporter.pages import openapi
from gpu_exporter.pages.documents import gpu_document, gpus_document, processes_document
from gpu_exporter.pages.exposition import OPENMETRICS, TEXT
from gpu_exporter.pages.negotiation import has_already, wants_gzip, wants_openmetrics
from gpu_exporter.pages.once import Once
from gpu_exporter.pages.snapshot_page import SnapshotPage, State

_JSON: Final = ("Content-Type", "application/json")
_HTML: Final = ("Content-Type", "text/html; charset=utf-8")
_FRESH: Final = ("Cache-Control", "no-store")
_REVALIDATED: Final = ("Cache-Control", "no-cache")
_NOSNIFF: Final = ("X-Content-Type-Options", "nosniff")
_CSP: Final = (
    "Content-Security-Policy",
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
_INDEX_DIGITS: Final = 9
_NAME: Final = 100  # characters of a scraper's own name that tell it from others
# An absolute or home path (also in quotes, also after = or :), a pointer.
_PRIVATE: Final = re.compile(r"(?<![\w.])~?/[^\s'\",;)]+|\b0x[0-9A-Fa-f]+\b")


class Provider(Protocol):
    """What the pages show. Every method answers at once, from any thread."""

    def exposition(self, *, openmetrics: bool, gzip: bool, client: str) -> bytes:
        """The bytes of /metrics; ``client`` is who scrapes, empty where nobody takes it as a reading."""

    def snapshot(self) -> Snapshot:
        """The newest snapshot; without readings where they are stale."""

    def watched(self) -> None:
        """Somebody asks for the whole machine, and may compute what happened since he did before."""

    def host(self) -> Host:
        """The machine around the GPUs; the same object until it was looked at again."""

    def trail(self, device: Device) -> Sequence[float | None]:
        """The GPU's utilization of the last hour as ratios, a mean a minute, oldest first; None is a gap."""

    def interval(self) -> float:
        """Seconds between readings."""

    def age(self, snapshot: Snapshot) -> float | None:
        """Seconds since the snapshot's sample was taken; None where there was none."""

    def live(self) -> str | None:
        """None, or the reason a restart would help."""

    def ready(self) -> str | None:
        """None, or the reason there is no fresh sample."""


class Application:
    """Routes requests. It never waits, which is how it honours a scrape's timeout.

    Of its own it keeps the newest pages, each rendered once a snapshot however many ask for it.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        telemetry_path: str = "/metrics",
        process_labels: Sequence[str] = PROCESS_LABELS,
    ) -> None:
        self._provider = provider
        self._labels = process_labels
        self._telemetry_path = telemetry_path
        self._snapshots = SnapshotPage(process_labels, public=self._public)
        self._documents, self._status = Once(), Once()
        self._routes: dict[str, Callable[[Mapping[str, Any]], Answer]] = {
            "/": self._page,
            "/livez": lambda _: _health(self._public(provider.live())),
            "/readyz": lambda _: _health(self._public(provider.ready())),
            "/api/v1/gpus": self._gpus,
            "/api/v1/processes": self._processes,
            "/api/v1/snapshot": self._snapshot,
            "/api/v1/openapi.json": lambda _: ("200 OK", [_JSON, _NOSNIFF], self._openapi),
            telemetry_path: self._metrics,
        }

    def __call__(self, environ: Mapping[str, Any], start_response: StartResponse) -> list[bytes]:
        """Answer one request (PEP 3333)."""
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            status, headers, body = status_answer(
                "405 Method Not Allowed", ("Allow", "GET, HEAD"), path=path, why="only GET and HEAD are allowed"
            )
        elif route := self._routes.get(path):
            status, headers, body = route(environ)
        elif path.startswith("/api/v1/gpus/"):
            status, headers, body = self._gpu(path.removeprefix("/api/v1/gpus/"))
        else:
            status, headers, body = status_answer("404 Not Found", path=path, why="there is no such page")
        if not status.startswith("304"):
            headers = [*headers, ("Content-Length", str(sum(map(len, pieces(body)))))]
        start_response(status, headers)
        return list(pieces(body))

    def _metrics(self, environ: Mapping[str, Any]) -> Answer:
        openmetrics = wants_openmetrics(environ.get("HTTP_ACCEPT", ""))
        gzip = wants_gzip(environ.get("HTTP_ACCEPT_ENCODING", ""))
        headers = [("Content-Type", OPENMETRICS if openmetrics else TEXT), ("Vary", "Accept, Accept-Encoding"), _FRESH]
        if gzip:
            headers.append(("Content-Encoding", "gzip"))
        client = ""
        if environ["REQUEST_METHOD"] == "GET":
            client = f"{environ.get('REMOTE_ADDR', '')} {environ.get('HTTP_USER_AGENT', '')[:_NAME]}"
        return "200 OK", headers, self._provider.exposition(openmetrics=openmetrics, gzip=gzip, client=client)

    def _page(self, _environ: Mapping[str, Any]) -> Answer:
        from gpu_exporter.pages import status_page  # noqa: PLC0415 - for people, who may never come

        provider, now = self._provider, time.time()
        snapshot, host = provider.snapshot(), provider.host().name
        live, ready = self._public(provider.live()), self._public(provider.ready())

        def render() -> bytes:
            return status_page.render(
                snapshot,
                live=live,
                ready=ready,
                now=now,
                telemetry_path=self._telemetry_path,
                host=host,
                trail=provider.trail,
            ).encode()

        # It tells the sample's age, in seconds.
        body = self._status.page("", (snapshot, live, ready, host, int(now)), render)
        return "200 OK", [_HTML, _FRESH, _NOSNIFF, _CSP, ("Referrer-Policy", "no-referrer")], body

    @staticmethod
    def _public(why: str | None) -> str | None:
        """A source's own words, less what is only for the log: paths and handles."""
        return None if why is None else _PRIVATE.sub("...", why)

    def _gpus(self, _environ: Mapping[str, Any]) -> Answer:
        snapshot, host = self._provider.snapshot(), self._provider.host().name
        return _json(
            self._documents.page("gpus", (snapshot, host), lambda: _dumped(gpus_document(snapshot, host=host)))
        )

    def _processes(self, _environ: Mapping[str, Any]) -> Answer:
        snapshot, host = self._provider.snapshot(), self._provider.host().name

        def render() -> bytes:
            return _dumped(processes_document(snapshot, self._labels))

        return _json(self._documents.page("processes", (snapshot, host), render))

    def _gpu(self, wanted: str) -> Answer:
        # Not isdigit: other alphabets have digits too.
        index = int(wanted) if wanted.isascii() and wanted.isdecimal() and len(wanted) <= _INDEX_DIGITS else None
        snapshot, host = self._provider.snapshot(), self._provider.host().name
        for reading in snapshot.readings:
            if wanted == reading.device.uuid or index == reading.device.index:
                name = f"gpu {reading.device.key}"
                more = {"simulated": True} if snapshot.simulated else {}
                return _json(
                    self._documents.page(
                        name,
                        (snapshot, host),
                        lambda: _dumped({**gpu_document(reading), **more}),  # noqa: B023
                    )
                )
        return status_answer("404 Not Found", path="/api/", why="there is no such GPU, or no fresh sample")

    def _snapshot(self, environ: Mapping[str, Any]) -> Answer:
        provider = self._provider
        provider.watched()
        snapshot = provider.snapshot()
        state = State(
            snapshot=snapshot,
            host=provider.host(),
            interval=provider.interval(),
            ready=provider.ready(),
            live=provider.live(),
        )
        rendered = self._snapshots.rendered(state)
        gzip = wants_gzip(environ.get("HTTP_ACCEPT_ENCODING", ""))
        plain_tag, gzip_tag = rendered.etag, f"{rendered.etag}-gzip"
        headers = [("ETag", f'"{gzip_tag if gzip else plain_tag}"'), _REVALIDATED, ("Vary", "Accept-Encoding")]
        if has_already(environ.get("HTTP_IF_NONE_MATCH", ""), (plain_tag, gzip_tag)):
            return "304 Not Modified", headers, b""
        headers += [_JSON, _NOSNIFF]
        if gzip:
            headers.append(("Content-Encoding", "gzip"))
        return "200 OK", headers, rendered.pieces(provider.age(snapshot), gzip=gzip)

    @cached_property
    def _openapi(self) -> bytes:
        return openapi.description(telemetry_path=self._telemetry_path)


def _json(body: bytes) -> Answer:
    return "200 OK", [_JSON, _FRESH, _NOSNIFF], body


def _dumped(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _health(trouble: str | None) -> Answer:
    if trouble is None:
        return "200 OK", [PLAIN, _FRESH], b"ok\n"
    return "503 Service Unavailable", [PLAIN, _FRESH, _NOSNIFF], f"{trouble}\n".encode()
