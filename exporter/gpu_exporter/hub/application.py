"""Routes: the API, the pages, and what guards them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from traceback import extract_tb
from typing import Any, Final, TypeAlias

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpu_exporter.http.access import Gate
from gpu_exporter.hub import documents
from gpu_exporter.hub.alerts import Alerts, alert_document
from gpu_exporter.hub.archive import ArchiveError, NothingYetError, QuestionError
from gpu_exporter.hub.events import Events, FullError
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.measures import exposition
from gpu_exporter.hub.openapi import openapi_document
from gpu_exporter.hub.packing import Kept, as_json
from gpu_exporter.hub.pages import Pages
from gpu_exporter.hub.past import Past
from gpu_exporter.hub.past_api import NOTHING_KEPT, past_routes
from gpu_exporter.hub.selection import SelectionError, parse
from gpu_exporter.hub.state import NodeState
from gpu_exporter.pages.negotiation import wants_page

log = logging.getLogger(__name__)

_SECURITY: Final = (
    (
        "content-security-policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        ),
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
)
_TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_LONGEST_QUERY: Final = 16_384  # bytes: a hundred names of machines

_TOO_LONG: Final = f"414 the query is longer than {_LONGEST_QUERY} bytes; ask for less at once"

# What the router says of its own, and what is said instead.
_ROUTERS: Final = {
    "Not Found": "there is no such address; /docs lists those of the API",
}

_TOLD: Final[set[str]] = set()  # bugs that stand in the log

Handle: TypeAlias = Callable[[Request], Any]


class Application:
    """What the hub answers. It reads the fleet and changes nothing. ``past`` is None where nothing is kept."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        past: Past | None = None,
        alerts: Alerts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fleet = fleet
        self._alerts = alerts
        self._past = past
        self._clock = clock
        self.events = Events(lambda: documents.summary(fleet, clock()))
        self._kept = Kept()
        self._pages = Pages(fleet, past=past, alerts=alerts, clock=clock)

    def build(self, gate: Gate | None) -> ASGIApp:
        """The whole of it, behind the web configuration where there is one."""
        app = Starlette(
            routes=[
                *(Route(path, page, methods=["GET"]) for path, page in self._routes().items()),
                *(past_routes(self._past, self._fleet) if self._past is not None else _NO_PAST),
            ],
            exception_handlers={
                HTTPException: self._failed,
                SelectionError: self._because(400),
                QuestionError: self._because(400),
                NothingYetError: self._because(404),
                ArchiveError: self._because(503),
                Exception: _broken,
            },
        )
        return _Guard(app, gate)

    def _routes(self) -> Mapping[str, Handle]:
        return {
            "/": self._shared(self._pages.machines),
            "/machines/{name:path}/gpus/{gpu:int}": self._shared(self._pages.gpu),
            "/machines/{name:path}": self._shared(self._pages.machine),
            "/people": self._shared(self._pages.people),
            "/free": self._shared(self._pages.free),
            "/waste": self._shared(self._pages.waste),
            "/docs": self._shared(self._pages.docs),
            "/static/{name}": _static,
            "/api/v1/nodes": self._nodes,
            "/api/v1/nodes/{name:path}": self._node,
            "/api/v1/gpus": self._gpus,
            "/api/v1/processes": self._processes,
            "/api/v1/people": self._people,
            "/api/v1/events": self._events,
            "/api/v1/export.csv": self._export,
            "/api/v1/openapi.json": _openapi,
            "/metrics": self._metrics,
            "/livez": _livez,
            "/readyz": self._readyz,
        }

    def _shared(self, page: Handle) -> Handle:
        """The page, made once for all who ask for it within a moment."""

        async def answer(request: Request) -> Response:
            kept = self._kept.get(request)
            if kept is None:
                kept = await page(request)
                self._kept.keep(request, kept)
            return kept

        return answer

    async def _nodes(self, request: Request) -> Response:
        return as_json(
            request, documents.nodes_document(self._fleet, parse(request.query_params.multi_items()), self._clock())
        )

    async def _node(self, request: Request) -> Response:
        state = self._state(request)
        told = documents.node_document(state)
        if self._alerts is not None:
            told["alerts"] = [alert_document(alert) for alert in self._alerts.of(state)]
        return as_json(request, told)

    async def _gpus(self, request: Request) -> Response:
        return as_json(
            request, documents.gpus_document(self._fleet, parse(request.query_params.multi_items()), self._clock())
        )

    async def _processes(self, request: Request) -> Response:
        return as_json(
            request, documents.processes_document(self._fleet, parse(request.query_params.multi_items()), self._clock())
        )

    async def _people(self, request: Request) -> Response:
        return as_json(request, documents.people_document(self._fleet, self._clock()))

    async def _events(self, _request: Request) -> Response:
        try:
            stream = await self.events.join()
        except FullError:
            raise HTTPException(
                503, "as many viewers as there may be are connected; ask /api/v1/nodes instead"
            ) from None
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _export(self, request: Request) -> Response:
        states = {state.node.name: state for state in self._fleet}
        text = documents.as_csv(parse(request.query_params.multi_items()).gpus(self._fleet), states)
        headers = {"content-disposition": 'attachment; filename="gpus.csv"', "cache-control": "no-store"}
        return Response(text, media_type="text/csv; charset=utf-8; header=present", headers=headers)

    async def _metrics(self, _request: Request) -> Response:
        return Response(
            exposition(self._fleet, viewers=self.events.viewers), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def _readyz(self, _request: Request) -> Response:
        waiting = sum(1 for state in self._fleet if state.status == "starting")
        if waiting:
            return PlainTextResponse(f"{waiting} machines have not been asked yet\n", 503)
        trouble = self._past.trouble() if self._past is not None else None
        return PlainTextResponse("ok\n" + "".join(f"{note}\n" for note in (self._fleet.complaint, trouble) if note))

    async def _failed(self, request: Request, error: Exception) -> Response:
        """A refusal: a page with the ways back for people, JSON below /api/, one line for programs."""
        assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these alone
        path, status, headers = request.url.path, error.status_code, error.headers or {}
        why = _ROUTERS.get(error.detail, error.detail)
        if not _is_for_people(path):
            return _refusal(path, status, why, headers)
        page = wants_page(request.headers.get("accept", ""))
        answer = self._pages.refusal(request, status, why, headers) if page else _refusal(path, status, why, headers)
        # A proxy must not hand the one to who asked for the other.
        answer.headers.update({"vary": "Accept, Accept-Encoding", "cache-control": "no-cache"})
        return answer

    def _because(self, status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def answer(request: Request, error: Exception) -> Response:
            return await self._failed(request, HTTPException(status, str(error)))

        return answer

    def _state(self, request: Request) -> NodeState:
        state = self._fleet.get(request.path_params["name"])
        if state is None:
            raise HTTPException(404, "there is no machine of that name; /api/v1/nodes lists them")
        return state


async def _livez(_request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _openapi(request: Request) -> Response:
    return as_json(request, openapi_document())


@cache
def _asset(name: str) -> tuple[bytes, str] | None:
    """A file of static/ and its ETag."""
    for file in resources.files("gpu_exporter.hub").joinpath("static").iterdir():
        if file.name == name and name.rpartition(".")[2] in _TYPES:
            content = file.read_bytes()
            return content, f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
    return None


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    found = _asset(name)
    if found is None:
        raise HTTPException(404, "there is no such file")
    content, etag = found
    headers = {"etag": etag, "cache-control": "max-age=3600"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)


def _is_for_people(path: str) -> bool:
    return not path.startswith(("/api/", "/static/")) and path not in {"/api", "/metrics", "/livez", "/readyz"}


def _refusal(path: str, status: int, why: str, headers: Mapping[str, str]) -> Response:
    if path.startswith("/api/") or path == "/api":
        return Response(msgspec.json.encode({"error": why}), status, headers, media_type="application/json")
    return PlainTextResponse(f"{status} {why}\n", status, headers)


async def _broken(request: Request, error: Exception) -> Response:
    frame = extract_tb(error.__traceback__)[-1]
    key = f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
    # A page that is open asks every few seconds: its traceback stands in the log once.
    level = logging.DEBUG if key in _TOLD else logging.ERROR
    _TOLD.add(key)
    log.log(level, "the answer failed: this is a bug in gpu-exporter", extra={"path": request.url.path}, exc_info=error)
    # One line: what made this answer fail may make a page fail as well.
    return _refusal(request.url.path, 500, "this is a bug in gpu-exporter: see the hub's log", {})


async def _nothing_kept(_request: Request) -> Response:
    raise HTTPException(404, NOTHING_KEPT)


_NO_PAST: Final = tuple(
    Route(path, _nothing_kept, methods=["GET", "POST"])
    for path in ("/api/v1/history", "/api/v1/results{rest:path}", "/api/v1/analyze", "/api/v1/control")
)


class _Guard:
    """What every request passes: its size, the password, and the headers that every answer has."""

    def __init__(self, application: ASGIApp, gate: Gate | None) -> None:
        self._application = application
        self._gate = gate
        self._checks = ThreadPoolExecutor(8, thread_name_prefix="passwords") if gate is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            return
        headers: Sequence[tuple[str, str]] = _SECURITY
        refusal = _TOO_LONG if len(scope["query_string"]) > _LONGEST_QUERY else None
        if refusal is None and self._gate is not None:
            refusal, own = await self._judged(scope)
            replaced = {name.lower() for name in own}
            headers = [*(pair for pair in _SECURITY if pair[0] not in replaced), *own.items()]
        added = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        if refusal is None:
            await self._application(scope, receive, send_guarded)
            return
        asking = {"www-authenticate": "Basic"} if refusal.startswith("401") else {}
        answer = _refusal(scope["path"], int(refusal[:3]), refusal[4:], asking)
        await answer(scope, receive, send_guarded)

    async def _judged(self, scope: Scope) -> tuple[str | None, Mapping[str, str]]:
        gate = self._gate
        assert gate is not None  # noqa: S101 - the one caller looked
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode("latin-1")
        peer = scope["client"][0] if scope["client"] else ""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._checks, lambda: gate.judge(given, peer=peer))
